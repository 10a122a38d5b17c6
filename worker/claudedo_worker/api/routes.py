"""One table says which routes there are and who may ask; here a request meets its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from claudedo import protocol
from claudedo.errors import (
    ClaudedoError,
    ForbiddenError,
    TooLargeError,
    UnauthorizedError,
    UsageError,
    VersionError,
)
from claudedo_worker.access import KEY, Access, Kind
from claudedo_worker.api import (
    asks,
    clients,
    finish,
    foreign,
    messages,
    openapi,
    queue,
    service,
    stream,
    tasks,
    telemetry,
    threads,
    tokens,
    workspaces,
)
from claudedo_worker.api.context import Context, Handler
from claudedo_worker.api.decode import announced
from claudedo_worker.api.problems import http_problem, problem_response, unexpected

BODY_LIMIT = 4 * 1024 * 1024
FILES_BODY_LIMIT = 40 * 1024 * 1024  # an attachment of 25 MiB in base64, and what is around it

PEOPLE = frozenset({Kind.PERSON, Kind.PAGE})
OURS = PEOPLE | {Kind.SESSION}
ANYBODY = OURS | {Kind.TOKEN, Kind.NOBODY}
TERMINAL = frozenset({Kind.PERSON})
CLIENTS = frozenset({Kind.TOKEN})
LISTENERS = PEOPLE | CLIENTS
KNOWN = OURS | CLIENTS


@dataclass(frozen=True)
class Rule:
    """One route: what it is, who may ask."""

    method: str
    path: str
    handler: Handler
    who: frozenset[Kind]
    limit: int = BODY_LIMIT  # bytes of a request's body, for those who may ask
    streams: bool = False  # the handler reads the body itself, as it comes


async def description(context: Context, request: Request) -> Response:
    """This description, as OpenAPI 3.1."""
    cookie = context.gate.cookie_name
    return JSONResponse(await asyncio.to_thread(openapi.document, ROUTES, context.version, cookie))


ROUTES = (
    Rule("GET", "/healthz", service.health, ANYBODY),
    Rule("GET", "/readyz", service.health, ANYBODY),
    Rule("GET", "/", service.page, ANYBODY),
    Rule("GET", "/static/{path:path}", service.static, ANYBODY),
    Rule("GET", "/open/{token}", service.open_page, ANYBODY),
    Rule("POST", "/telemetry/{session}/{secret}/v1/logs", telemetry.take_logs, ANYBODY),
    Rule("GET", "/api/openapi.json", description, KNOWN),
    Rule("GET", "/api/worker", service.worker, OURS),
    Rule("GET", "/api/worker/check", service.check, PEOPLE),
    Rule("POST", "/api/worker/stop", service.stop_worker, TERMINAL),
    Rule("POST", "/api/links", service.new_link, TERMINAL),
    Rule("GET", "/api/workspaces", workspaces.list_workspaces, OURS),
    Rule("PATCH", "/api/workspaces/{workspace}", workspaces.rename_workspace, PEOPLE),
    Rule("DELETE", "/api/workspaces/{workspace}", workspaces.remove_workspace, PEOPLE),
    Rule("GET", "/api/workspaces/{workspace}/events", stream.workspace_events, LISTENERS),
    Rule("GET", "/api/resolve", tasks.resolve, OURS),
    Rule("GET", "/api/tasks", tasks.list_tasks, OURS),
    Rule("POST", "/api/tasks", threads.create_task, PEOPLE, FILES_BODY_LIMIT),
    Rule("GET", "/api/tasks/{task}", tasks.show_task, OURS),
    Rule("POST", "/api/tasks/{task}/status", threads.move_task, PEOPLE),
    Rule("GET", "/api/tasks/{task}/history", threads.history, PEOPLE),
    Rule("POST", "/api/tasks/{task}/attachments", threads.upload, OURS, streams=True),
    Rule("GET", "/api/attachments/{attachment}", threads.download, OURS),
    Rule("POST", "/api/start", tasks.start, TERMINAL),
    Rule("GET", "/api/queue", queue.list_queue, PEOPLE),
    Rule("POST", "/api/queue", queue.add_one_shots, TERMINAL),
    Rule("POST", "/api/queue/next", queue.next_in_queue, TERMINAL),
    Rule("POST", "/api/queue/cancel", queue.cancel_in_queue, PEOPLE),
    Rule("POST", "/api/queue/again", queue.again_in_queue, TERMINAL),
    Rule("GET", "/api/queue/{task}/report", queue.report, PEOPLE),
    Rule("GET", "/api/foreign", foreign.list_foreign, OURS),
    Rule("POST", "/api/adopt", foreign.adopt, TERMINAL),
    Rule("POST", "/api/tasks/{task}/stop", tasks.stop_task, PEOPLE),
    Rule("POST", "/api/tasks/{task}/restart", tasks.restart_task, TERMINAL),
    Rule("DELETE", "/api/tasks/{task}", tasks.remove_task, PEOPLE),
    Rule("POST", "/api/peers", tasks.link, PEOPLE),
    Rule("DELETE", "/api/peers", tasks.unlink, PEOPLE),
    Rule("GET", "/api/tasks/{task}/terminal", tasks.terminal, TERMINAL),
    Rule("GET", "/api/tasks/{task}/log", tasks.task_log, PEOPLE),
    Rule("GET", "/api/tasks/{task}/variables", finish.variables, TERMINAL),
    Rule("GET", "/api/tasks/{task}/changes", finish.changes, PEOPLE),
    Rule("POST", "/api/tasks/{task}/merge", finish.merge_task, TERMINAL),
    Rule("POST", "/api/tasks/{task}/proposal", finish.propose, TERMINAL),
    Rule("POST", "/api/tasks/{task}/messages", messages.send_message, OURS),
    Rule("GET", "/api/tasks/{task}/messages", messages.thread, PEOPLE),
    Rule("GET", "/api/messages", messages.search, PEOPLE),
    Rule("GET", "/api/messages/{message}", messages.message, OURS),
    Rule("GET", "/api/asks", asks.list_asks, PEOPLE),
    Rule("GET", "/api/asks/{ask}", asks.show_ask, PEOPLE),
    Rule("POST", "/api/asks/{ask}/decision", asks.decide, PEOPLE),
    Rule("GET", "/api/events", messages.events, PEOPLE),
    Rule("POST", "/api/tokens", tokens.create_token, TERMINAL),
    Rule("GET", "/api/tokens", tokens.list_tokens, PEOPLE),
    Rule("POST", "/api/tokens/{token}/rotate", tokens.rotate_token, TERMINAL),
    Rule("DELETE", "/api/tokens/{token}", tokens.revoke_token, PEOPLE),
    Rule("POST", "/mcp/{workspace}", clients.mcp_post, CLIENTS, FILES_BODY_LIMIT),
    Rule("GET", "/mcp/{workspace}", clients.mcp_get, CLIENTS),
    Rule("DELETE", "/mcp/{workspace}", clients.mcp_delete, CLIENTS),
)
"""Every route and who may ask. A route that is not here does not exist."""


def build(context: Context) -> Starlette:
    """The application without its door."""
    routes = [
        Route(rule.path, _guarded(context, rule), methods=[rule.method], name=rule.handler.__name__)
        for rule in ROUTES
    ]
    application = Starlette(
        routes=routes,
        exception_handlers={
            ClaudedoError: problem_response,  # type: ignore[dict-item]  # called with its own class
            HTTPException: http_problem,  # type: ignore[dict-item]  # the same
            Exception: unexpected,
        },
    )
    application.router.redirect_slashes = False
    return application


def _guarded(context: Context, rule: Rule) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        # To the end, whoever asks and whatever for: a client whose body is still on its way when
        # the answer closes the connection would see a broken pipe instead of the answer.
        access: Access = request.scope[KEY]
        allowed = access.kind in rule.who
        if not (allowed and rule.streams):
            request.state.body = await _body(request, rule.limit if allowed else BODY_LIMIT)
        if not allowed:
            raise _denial(access, rule)
        spoken = request.headers.get(protocol.PROTOCOL_HEADER)
        versioned = rule.path.startswith("/api/") and rule.handler is not service.stop_worker
        if versioned and spoken and spoken != str(protocol.PROTOCOL_VERSION):
            raise VersionError(
                f"The running worker is claudedo {context.version} (protocol "
                f"{protocol.PROTOCOL_VERSION}), this command speaks protocol {spoken}. Run "
                "`claudedo worker stop`; the sessions go on, and the next command starts a new one."
            )
        try:
            return await rule.handler(context, request)
        except ClaudedoError:
            if rule.streams:
                request.state.cut = not await _drained(request)
            raise

    return endpoint


def _denial(access: Access, rule: Rule) -> ClaudedoError:
    if access.refusal:
        return UnauthorizedError(access.refusal)
    if rule.who == CLIENTS:
        words = "This is for MCP clients with a token: `claudedo token create --mcp-json`."
        return UnauthorizedError(words) if access.kind is Kind.NOBODY else ForbiddenError(words)
    if access.kind is Kind.TOKEN:
        return ForbiddenError(
            "A token opens `/mcp` and the events of its workspace, and nothing of a person's."
        )
    if access.kind is Kind.NOBODY:
        return UnauthorizedError("No valid credential: `claudedo open` opens the page anew.")
    if access.kind is Kind.SESSION:
        return ForbiddenError("This is a person's decision; a session cannot take it.")
    return ForbiddenError("This can only be done from a terminal.")


async def _drained(request: Request) -> bool:
    """Read the rest of a body that is refused; False if it is too long, and the rest is cut off."""
    if announced(request) > BODY_LIMIT:
        return False
    try:
        await _body(request, BODY_LIMIT)
    except UsageError:
        return False
    return True


async def _body(request: Request, limit: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise TooLargeError(f"The request is larger than {limit // 2**20} MiB.")
    except ClientDisconnect as error:
        raise UsageError("The request broke off.") from error
    return bytes(data)
