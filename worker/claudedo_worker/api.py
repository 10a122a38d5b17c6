"""HTTP: decode, call the service, encode. One table says which routes there are and who may ask.

Every rule of the domain lives below; every error is translated here, once, to problem+json.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import claudedo_webui
from claudedo import protocol
from claudedo.errors import (
    ClaudedoError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    UsageError,
    VersionError,
)
from claudedo.model import Priority, Rung, Session, Task, check_body
from claudedo_worker import checkout, journal
from claudedo_worker.access import KEY, LINK_SECONDS, Access, Door, Kind
from claudedo_worker.bus import Bus
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Supervisor
from claudedo_worker.tasks import StartRequest, Tasks, Wanted

LONGEST_WAIT = 30.0  # seconds that one request may wait for news
BODY_LIMIT = 4 * 1024 * 1024
LARGEST_NUMBER = 2**63 - 1  # what the database can count to

STATUS = {
    "usage": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "ambiguous": 409,
    "refused": 409,
    "untrusted": 409,
    "conflict": 409,
    "version": 409,
    "timeout": 504,
    "storage": 507,
}

PEOPLE = frozenset({Kind.PERSON, Kind.PAGE})
OURS = PEOPLE | {Kind.SESSION}
ANYBODY = OURS | {Kind.NOBODY}
TERMINAL = frozenset({Kind.PERSON})


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the handlers work with."""

    store: Store
    bus: Bus
    tasks: Tasks
    mailbox: Mailbox
    supervisor: Supervisor
    version: str
    stop: Callable[[], None]
    url: str = ""
    door: Door | None = None


Handler = Callable[["Api", Request], Awaitable[Response]]


@dataclass(frozen=True)
class Rule:
    """One route: what it is, who may ask."""

    method: str
    path: str
    handler: Handler
    who: frozenset[Kind]


class Api:
    """The handlers. Each reads like its line in docs/architecture.md."""

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def door(self) -> Door:
        """Where page credentials are made."""
        assert self.context.door is not None
        return self.context.door

    # The worker

    async def health(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"ok": True})

    async def worker(self, request: Request) -> Response:
        """Who serves here."""
        sessions = await self.context.store.live_sessions()
        return JSONResponse(
            {
                "pid": os.getpid(),
                "port": int(self.context.url.rsplit(":", 1)[1]),
                "url": self.context.url,
                "version": self.context.version,
                "protocol": protocol.PROTOCOL_VERSION,
                "sessions": len(sessions),
            }
        )

    async def check(self, request: Request) -> Response:
        """The database's own verdict."""
        return JSONResponse({"database": await self.context.store.check()})

    async def stop_worker(self, request: Request) -> Response:
        """Stop this process; the sessions go on."""
        self.context.stop()
        return JSONResponse({"stopping": True})

    # The page

    async def new_link(self, request: Request) -> Response:
        """A one-time link to the page."""
        url = f"{self.context.url}/open/{self.door.new_link()}"
        return JSONResponse({"url": url, "seconds": LINK_SECONDS})

    async def open_page(self, request: Request) -> Response:
        """Trade the link for a cookie, and go to a clean address."""
        cookie = self.door.redeem(request.path_params["token"])
        if cookie is None:
            raise UnauthorizedError("This link was used or is too old; run `claudedo open` again.")
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            self.door.cookie_name, cookie, max_age=30 * 86_400, httponly=True, samesite="strict"
        )
        return response

    async def page(self, request: Request) -> Response:
        """The page itself; it holds nothing secret and says what to do without a credential."""
        return _page_file("index.html")

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        return _page_file(request.path_params["path"])

    # Tasks

    async def workspaces(self, request: Request) -> Response:
        """All projects."""
        counts: dict[str, int] = {}
        for task in await self.context.store.tasks():
            counts[task.workspace_id] = counts.get(task.workspace_id, 0) + 1
        listed = [
            {"id": w.id, "name": w.name, "root": w.root, "counts": {"tasks": counts.get(w.id, 0)}}
            for w in await self.context.store.workspaces()
        ]
        return JSONResponse(listed)

    async def resolve(self, request: Request) -> Response:
        """The task that a person means."""
        query = dict(request.query_params)
        task = await self.context.tasks.resolve(
            _line(query, "target"),
            cwd=_optional(query, "cwd"),
            workspace=_optional(query, "workspace"),
        )
        return JSONResponse(await self._show(task))

    async def list_tasks(self, request: Request) -> Response:
        """What there is."""
        wanted = request.query_params.get("workspace")
        tasks = {task.id: task for task in await self.context.store.tasks()}
        sessions = await self.context.store.latest_sessions()
        pending = await self.context.store.pending_by_task()
        peers: dict[str, list[str]] = {task_id: [] for task_id in tasks}
        for one, other in await self.context.store.links():
            if one in tasks and other in tasks:  # not one that came or went meanwhile
                peers[one].append(tasks[other].name)
                peers[other].append(tasks[one].name)
        listed = [
            protocol.task_json(
                task,
                sessions.get(task.id),
                pending=pending.get(task.id, 0),
                peers=sorted(peers[task.id]),
            )
            for task in tasks.values()
            if wanted is None or wanted in (task.workspace, task.workspace_id)
        ]
        return JSONResponse(listed)

    async def show_task(self, request: Request) -> Response:
        """One task with all that is known of it."""
        return JSONResponse(await self._show(await self._task(request)))

    async def start(self, request: Request) -> Response:
        """Create, link and launch."""
        drafts = await self.context.tasks.start(_start_request(_json(request)))
        listed = [{"id": d.task.id, "name": d.task.name, "created": not d.exists} for d in drafts]
        return JSONResponse({"tasks": listed})

    async def stop_task(self, request: Request) -> Response:
        """End a session."""
        task = await self._task(request)
        return JSONResponse({"stopped": await self.context.tasks.stop(task)})

    async def restart_task(self, request: Request) -> Response:
        """Go on with the same conversation in a new process."""
        data = _json(request)
        await self.context.tasks.restart(await self._task(request), _environment(data))
        return JSONResponse({"restarted": True})

    async def remove_task(self, request: Request) -> Response:
        """Remove a task with its worktree and branch."""
        force = request.query_params.get("force") == "true"
        summary = await self.context.tasks.remove(await self._task(request), force=force)
        return JSONResponse({"summary": summary})

    async def link(self, request: Request) -> Response:
        """Make two tasks peers."""
        data = _json(request)
        one, other = [await self.context.store.task(_line(data, key)) for key in ("a", "b")]
        await self.context.tasks.link(one, other)
        return JSONResponse({"linked": True})

    async def unlink(self, request: Request) -> Response:
        """They are peers no more."""
        query = request.query_params
        one, other = [await self.context.store.task(query.get(key, "")) for key in ("a", "b")]
        await self.context.tasks.unlink(one, other)
        return JSONResponse({"linked": False})

    async def terminal(self, request: Request) -> Response:
        """Where the terminal of a session is reached."""
        task = await self._task(request)
        live = self.context.supervisor.of_task(task.id)
        if live is None:
            raise ConflictError(
                f"{task.name} has no running session; `claudedo restart {task.name}` starts it."
            )
        return JSONResponse({"socket": live.session.holder_socket})

    async def task_log(self, request: Request) -> Response:
        """A session's conversation, readable."""
        task = await self._task(request)
        session = await self.context.store.latest_session(task.id)
        after = _number(request, "after")
        entries: list[journal.Entry] = []
        if session and session.transcript:
            path = Path(session.transcript)
            entries, after = await asyncio.to_thread(journal.read, path, after)
        lines = [asdict(entry) for entry in entries]
        ended = session is None or not session.state.live
        return JSONResponse({"lines": lines, "next": after, "ended": ended})

    # Messages

    async def send_message(self, request: Request) -> Response:
        """Store a message for a task."""
        data = _json(request)
        task, sender = await self._task(request), await self._sender(request)
        if sender:
            await self.context.mailbox.check_reach(sender, task)
        message = await self.context.mailbox.send(
            task,
            _text(data, "body"),
            sender=sender,
            key=_optional(data, "key"),
            priority=_priority(data),
            reply_to=_optional(data, "reply_to"),
        )
        return JSONResponse(protocol.sent_json(message))

    async def thread(self, request: Request) -> Response:
        """What was said to a task and by it."""
        task = await self._task(request)
        messages = await self.context.store.thread(task.id)
        return JSONResponse([protocol.message_json(message) for message in messages])

    async def message(self, request: Request) -> Response:
        """How far a message came; waits for a rung if asked to."""
        message_id = request.path_params["message"]
        rung = request.query_params.get("rung")
        if rung and rung not in set(Rung):
            raise UsageError(f"{rung!r} is no rung; there are {', '.join(Rung)}.")
        until = time.monotonic() + _wait(request)
        while True:
            newest = self.context.bus.last
            message = await self.context.store.message(message_id)
            left = until - time.monotonic()
            if not rung or message.receipts.reached(Rung(rung)) or left <= 0:
                return JSONResponse(protocol.sent_json(message))
            await self.context.bus.wait(left, since=newest)

    async def events(self, request: Request) -> Response:
        """The facts after a number; waits for the first one if asked to."""
        after = min(_number(request, "after"), await self.context.store.last_event())
        until = time.monotonic() + _wait(request)
        while True:
            newest = self.context.bus.last
            events = await self.context.store.events_after(after)
            left = until - time.monotonic()
            if events or left <= 0:
                break
            await self.context.bus.wait(left, since=newest)
        told = [protocol.event_json(event) for event in events]
        return JSONResponse({"events": told, "next": events[-1].seq if events else after})

    # Pieces

    async def _task(self, request: Request) -> Task:
        return await self.context.store.task(request.path_params["task"])

    async def _sender(self, request: Request) -> Task | None:
        access: Access = request.scope[KEY]
        if access.kind is not Kind.SESSION:
            return None
        session = await self.context.store.session(str(access.session_id))
        return await self.context.store.task(session.task_id)

    async def _show(self, task: Task) -> dict[str, Any]:
        session = await self.context.store.latest_session(task.id)
        peers = [peer.name for peer in await self.context.store.peers(task.id)]
        pending = await self.context.store.pending(task.id)
        data = protocol.task_json(task, session, pending=pending, peers=peers)
        data |= {"body": task.body, "repo": task.repo, "base": task.base}
        state = await checkout.look(task.worktree, task.base)
        data["work"] = asdict(state) if state else None
        if session:
            data["session"] |= self._details(session)
        return data

    def _details(self, session: Session) -> dict[str, Any]:
        live = self.context.supervisor.find(session.id)
        return {
            "version": session.cli_version,
            "channel": session.channel,
            "transports": live.transports() if live else [],
            "crashes": session.crashes,
            "started_at": session.started_at,
            "ended_at": session.ended_at,
            "transcript": session.transcript,
        }


ROUTES = (
    Rule("GET", "/healthz", Api.health, ANYBODY),
    Rule("GET", "/readyz", Api.health, ANYBODY),
    Rule("GET", "/", Api.page, ANYBODY),
    Rule("GET", "/static/{path:path}", Api.static, ANYBODY),
    Rule("GET", "/open/{token}", Api.open_page, ANYBODY),
    Rule("GET", "/api/worker", Api.worker, OURS),
    Rule("GET", "/api/worker/check", Api.check, PEOPLE),
    Rule("POST", "/api/worker/stop", Api.stop_worker, TERMINAL),
    Rule("POST", "/api/links", Api.new_link, TERMINAL),
    Rule("GET", "/api/workspaces", Api.workspaces, OURS),
    Rule("GET", "/api/resolve", Api.resolve, OURS),
    Rule("GET", "/api/tasks", Api.list_tasks, OURS),
    Rule("GET", "/api/tasks/{task}", Api.show_task, OURS),
    Rule("POST", "/api/start", Api.start, TERMINAL),
    Rule("POST", "/api/tasks/{task}/stop", Api.stop_task, PEOPLE),
    Rule("POST", "/api/tasks/{task}/restart", Api.restart_task, TERMINAL),
    Rule("DELETE", "/api/tasks/{task}", Api.remove_task, PEOPLE),
    Rule("POST", "/api/peers", Api.link, PEOPLE),
    Rule("DELETE", "/api/peers", Api.unlink, PEOPLE),
    Rule("GET", "/api/tasks/{task}/terminal", Api.terminal, TERMINAL),
    Rule("GET", "/api/tasks/{task}/log", Api.task_log, PEOPLE),
    Rule("POST", "/api/tasks/{task}/messages", Api.send_message, OURS),
    Rule("GET", "/api/tasks/{task}/messages", Api.thread, PEOPLE),
    Rule("GET", "/api/messages/{message}", Api.message, OURS),
    Rule("GET", "/api/events", Api.events, PEOPLE),
)
"""Every route and who may ask. A route that is not here does not exist."""


def build(context: Context) -> Starlette:
    """The application without its door."""
    api = Api(context)
    routes = [
        Route(rule.path, _guarded(api, rule), methods=[rule.method], name=rule.handler.__name__)
        for rule in ROUTES
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            ClaudedoError: _problem,  # type: ignore[dict-item]  # called with its own class
            HTTPException: _http_problem,  # type: ignore[dict-item]  # the same
            Exception: _unexpected,
        },
    )


def _guarded(api: Api, rule: Rule) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        # To the end, whoever asks and whatever for: a client whose body is still on its way when
        # the answer closes the connection would see a broken pipe instead of the answer.
        request.state.body = await _body(request)
        access: Access = request.scope[KEY]
        if access.kind not in rule.who:
            raise _denial(access)
        spoken = request.headers.get(protocol.PROTOCOL_HEADER)
        versioned = rule.path.startswith("/api/") and rule.handler is not Api.stop_worker
        if versioned and spoken and spoken != str(protocol.PROTOCOL_VERSION):
            raise VersionError(
                f"The running worker is claudedo {api.context.version} (protocol "
                f"{protocol.PROTOCOL_VERSION}), this command speaks protocol {spoken}. Run "
                "`claudedo worker stop`; the sessions go on, and the next command starts a new one."
            )
        return await rule.handler(api, request)

    return endpoint


def _denial(access: Access) -> ClaudedoError:
    if access.kind is Kind.NOBODY:
        return UnauthorizedError("No valid credential: `claudedo open` opens the page anew.")
    if access.kind is Kind.SESSION:
        return ForbiddenError("This is a person's decision; a session cannot take it.")
    return ForbiddenError("This can only be done from a terminal.")


def problem(error: ClaudedoError) -> dict[str, Any]:
    """An error as problem+json."""
    status = STATUS.get(error.code, 500)
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": str(error),
        "code": error.code,
    }


async def _problem(request: Request, error: ClaudedoError) -> Response:
    body = problem(error)
    return JSONResponse(body, body["status"], media_type="application/problem+json")


async def _http_problem(request: Request, error: HTTPException) -> Response:
    kind = NotFoundError if error.status_code == HTTPStatus.NOT_FOUND else UsageError
    body = problem(kind(f"{request.method} {request.url.path}: {error.detail}."))
    body |= {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code}
    media_type = "application/problem+json"
    return JSONResponse(body, error.status_code, error.headers, media_type=media_type)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours. Starlette raises it again after this answer, for the server to log."""
    words = "The worker failed at this; its log says where. Nothing else is affected."
    return await _problem(request, ClaudedoError(words))


def _json(request: Request) -> dict[str, Any]:
    """The JSON object in the request. Raises `UsageError` for anything else.

    Texts are Unicode, but for those of `env`: an environment holds bytes.
    """
    try:
        value = json.loads(request.state.body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError("The request must be a JSON object.")
    texts = {key: given for key, given in value.items() if key != "env"}
    try:
        json.dumps(texts, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "The request holds text that is not Unicode (a lone surrogate)."
        ) from error
    return value


async def _body(request: Request) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > BODY_LIMIT:
                raise UsageError(f"The request is larger than {BODY_LIMIT // 2**20} MiB.")
    except ClientDisconnect as error:
        raise UsageError("The request broke off.") from error
    return bytes(data)


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise UsageError(f"`{key}` must be a text.")
    return value


def _line(data: Mapping[str, Any], key: str) -> str:
    """A text that can be a name, a path or an argument."""
    value = _text(data, key)
    if "\0" in value:
        raise UsageError(f"`{key}` must not hold a NUL character.")
    return value


def _optional(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _line(data, key)


def _lines(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = data.get(key)
    if not isinstance(values, list | None):
        raise UsageError(f"`{key}` must be a list of texts.")
    return tuple(_line({key: value}, key) for value in values or ())


def _flag(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key)
    if not isinstance(value, bool | None):
        raise UsageError(f"`{key}` must be true or false.")
    return bool(value)


def _check_keys(data: Mapping[str, Any], known: type[StartRequest | Wanted]) -> None:
    if unknown := set(data) - {field.name for field in fields(known)}:
        raise UsageError(f"Unknown key {min(unknown)!r}.")


def _priority(data: Mapping[str, Any]) -> Priority:
    value = _optional(data, "priority") or Priority.NORMAL
    if value not in set(Priority):
        raise UsageError(f"{value!r} is no priority; there are {', '.join(Priority)}.")
    return Priority(value)


def _number(request: Request, key: str) -> int:
    value = request.query_params.get(key, "0")
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(LARGEST_NUMBER))):
        raise UsageError(f"`{key}` must be a number.")
    return min(int(value), LARGEST_NUMBER)


def _wait(request: Request) -> float:
    """The seconds that a request is ready to wait for news."""
    try:
        seconds = float(request.query_params.get("wait", "0"))
    except ValueError as error:
        raise UsageError("`wait` must be a number of seconds.") from error
    return min(seconds, LONGEST_WAIT) if seconds > 0 else 0.0


def _environment(data: Mapping[str, Any]) -> dict[str, str]:
    env = data.get("env")
    if not isinstance(env, dict) or not all(map(_is_variable, env.items())):
        raise UsageError("`env` must be the environment of the shell, texts by name.")
    return env


def _is_variable(pair: tuple[str, Any]) -> bool:
    name, value = pair
    return bool(name) and "=" not in name and isinstance(value, str) and "\0" not in name + value


def _start_request(data: Mapping[str, Any]) -> StartRequest:
    _check_keys(data, StartRequest)
    texts = ("base", "branch", "worktree", "permission_mode", "model", "workspace")
    cwd = _line(data, "cwd")
    if not Path(cwd).is_absolute():
        raise UsageError("`cwd` must be an absolute path.")
    return StartRequest(
        cwd=cwd,
        tasks=_wanted(data.get("tasks")),
        env=_environment(data),
        here=_flag(data, "here"),
        no_link=_flag(data, "no_link"),
        trust=_flag(data, "trust"),
        links=_lines(data, "links"),
        claude_args=_lines(data, "claude_args"),
        **{key: _optional(data, key) for key in texts},
    )


def _wanted(tasks: Any) -> tuple[Wanted, ...]:
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UsageError("`tasks` must be a list of objects.")
    for task in tasks:
        _check_keys(task, Wanted)
    return tuple(
        Wanted(name=_line(task, "name"), dir=_optional(task, "dir"), prompt=_prompt(task))
        for task in tasks
    )


def _prompt(task: Mapping[str, Any]) -> str | None:
    return None if task.get("prompt") is None else check_body(_text(task, "prompt"))


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
