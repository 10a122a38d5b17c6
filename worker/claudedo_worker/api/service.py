"""The worker itself, and the way to its page."""

from __future__ import annotations

import os

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

import claudedo_webui
from claudedo import protocol
from claudedo.errors import NotFoundError, UnauthorizedError
from claudedo_worker.access import LINK_SECONDS
from claudedo_worker.api.context import Context


async def health(context: Context, request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"ok": True})


async def worker(context: Context, request: Request) -> Response:
    """Who serves here."""
    sessions = await context.store.live_sessions()
    return JSONResponse(
        {
            "pid": os.getpid(),
            "port": int(context.url.rsplit(":", 1)[1]),
            "url": context.url,
            "version": context.version,
            "protocol": protocol.PROTOCOL_VERSION,
            "sessions": len(sessions),
            "attachment_limit": context.attachments.limit,
        }
    )


async def check(context: Context, request: Request) -> Response:
    """The database's own verdict."""
    return JSONResponse({"database": await context.store.check()})


async def stop_worker(context: Context, request: Request) -> Response:
    """Stop this process; the sessions go on."""
    context.stop()
    return JSONResponse({"stopping": True})


# The page


async def new_link(context: Context, request: Request) -> Response:
    """A one-time link to the page."""
    url = f"{context.url}/open/{context.gate.new_link()}"
    return JSONResponse({"url": url, "seconds": LINK_SECONDS})


async def open_page(context: Context, request: Request) -> Response:
    """Trade the link for a cookie, and go to a clean address."""
    cookie = context.gate.redeem(request.path_params["token"])
    if cookie is None:
        raise UnauthorizedError("This link was used or is too old; run `claudedo open` again.")
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        context.gate.cookie_name, cookie, max_age=30 * 86_400, httponly=True, samesite="strict"
    )
    return response


async def page(context: Context, request: Request) -> Response:
    """The page itself; it holds nothing secret and says what to do without a credential."""
    return _page_file("index.html")


async def static(context: Context, request: Request) -> Response:
    """A file of the page."""
    return _page_file(request.path_params["path"])


def _page_file(name: str) -> Response:
    folder = claudedo_webui.static_dir().resolve()
    path = (folder / name.replace("\0", "")).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise NotFoundError(f"The page has no file {name!r}.")
    headers = {
        "Content-Security-Policy": claudedo_webui.csp(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return FileResponse(path, headers=headers)
