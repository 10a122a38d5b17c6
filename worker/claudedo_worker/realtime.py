"""Socket.IO: sends what its clients say, and tells each of them what was stored.

A client is the page, with its cookie, or any other program with a workspace's token. What it hears
comes from `listeners`: everything in order, beginning with what it missed, as fast as it reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import socketio

from claudedo import protocol
from claudedo.errors import ClaudedoError, ForbiddenError, UnauthorizedError, UsageError
from claudedo.model import MAX_BODY_BYTES, Event, Priority, Token
from claudedo_worker.access import HANG_UP, KEY, Access, App, Kind, Receive, Scope, Send, refuse
from claudedo_worker.clients import party_of
from claudedo_worker.listeners import Listeners
from claudedo_worker.store import Store
from claudedo_worker.threads import PERSON, Party, Threads, lease_end
from claudedo_worker.tokens import Tokens

log = logging.getLogger(__name__)

PATH = "/socket.io/"
BADGES = {"message.queued": "TaskMessageQueued", "message.delivered": "TaskMessageDelivered"}
"""Events that are also told under the names of the first design, with (taskId, pendingCount)."""

ROOM = 12
"""Packets that may wait for one client before the next event is read for it. With what the
libraries add they are no more than a client of theirs takes at once (16)."""

GRACE = 10.0
"""Seconds that who opened a connection without a credential has to show a token."""

STRANGERS = 64
"""So many connections may be open at once that did not show anything yet."""

LAST = 0.5
"""Seconds for a connection to close; then it is dropped as it is."""

DEADLINE = "claudedo.deadline"

Handler = Callable[["Realtime", "Line", list[Any]], Awaitable[dict[str, Any]]]


@dataclass(eq=False)
class Line:
    """One client that was let in: it listens (see `listeners.Listener`), and speaks as `party`."""

    realtime: Realtime
    sid: str
    wire: Any  # engine.io's side of the connection
    party: Party
    token: Token | None
    shown: str  # the digest of the token's text
    telling: asyncio.Task[None] | None = field(default=None)

    async def tell(self, event: Event) -> bool:
        """Send one event, once those before it are on their way; False if it is hung up."""
        if self.wire.queue.qsize() >= ROOM:
            await self.wire.queue.join()
        if self.wire.closed:
            return False
        emit = self.realtime.server.emit
        if badge := BADGES.get(event.type):
            await emit(badge, (event.task_id, event.payload["pending"]), to=self.sid)
        await emit("event", protocol.event_json(event), to=self.sid)
        return True

    async def mark(self, number: int) -> bool:
        """Nothing: a client comes back with the number of its last event."""
        return True

    def cut(self) -> None:
        """Hang up, with what waits."""
        self.realtime.hang_up(self.wire.sid)


class Realtime:
    """The Socket.IO side of one worker."""

    def __init__(
        self, store: Store, threads: Threads, tokens: Tokens, listeners: Listeners
    ) -> None:
        self._store = store
        self._threads = threads
        self._tokens = tokens
        self._listeners = listeners
        self._lines: dict[str, Line] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self.server = socketio.AsyncServer(
            async_mode="asgi",
            cors_allowed_origins=[],  # the door has looked at the origin
            max_http_buffer_size=8 * MAX_BODY_BYTES,  # a body may need six times its bytes in JSON
        )
        self._take_in = self.server.eio.handlers["connect"]
        self.server.eio.on("connect", self._opened)
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._left)
        for name, (handler, _) in EVENTS.items():
            self.server.on(name, self._listener(handler))

    async def stop(self) -> None:
        """End what the library does beside. Who listens was cut off before, with all listeners."""
        if self._endings:
            await asyncio.wait(self._endings)
        await self.server.shutdown()

    # Connections

    def wrap(self, app: App) -> App:
        """Serve Socket.IO on its path to those who may connect, and `app` on every other."""
        inner = socketio.ASGIApp(self.server, app)

        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket") and scope["path"].startswith(PATH):
                opener = self.server.environ.get(_sid(scope))
                try:
                    _check(scope[KEY], opener and opener["asgi.scope"][KEY])
                except (ForbiddenError, UnauthorizedError) as error:
                    status = 401 if isinstance(error, UnauthorizedError) else 403
                    await refuse(scope, receive, send, status, error.code, str(error))
                    return
                if opener and scope["type"] == "websocket":
                    opener[HANG_UP] = scope[HANG_UP]
            await inner(scope, receive, send)

        return gate

    async def _opened(self, wire: str, environ: dict[str, Any]) -> str | None:
        """A connection was opened; who it is may be said later. Returns why it is refused."""
        scope = environ["asgi.scope"]
        if scope["type"] == "websocket":
            environ[HANG_UP] = scope[HANG_UP]
        if scope[KEY].kind is Kind.NOBODY:
            strangers = [other for other in self.server.environ.values() if DEADLINE in other]
            if len(strangers) >= STRANGERS:
                return "Too many connect at once; try again later."
            loop = asyncio.get_running_loop()
            environ[DEADLINE] = loop.call_later(GRACE, self.hang_up, wire)
        await self._take_in(wire, environ)
        return None

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        try:
            await self._let_in(sid, environ, auth)
        except ClaudedoError as error:
            raise _refused(error.code, str(error)) from error
        except Exception as error:
            log.exception("a client could not connect", extra={"action": "connect_failed"})
            words = "The worker failed at this; its log says where."
            raise _refused(ClaudedoError.code, words) from error
        if deadline := environ.pop(DEADLINE, None):
            deadline.cancel()

    async def _let_in(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        """Raises what `_credential`, `_workspace` and `Listeners.check_room` do."""
        given = _given(auth)
        token, shown = await self._credential(environ["asgi.scope"][KEY], given.get("token"))
        workspace_id = await self._workspace(token, given.get("workspace"))
        self._listeners.check_room(token)
        newest = await self._store.last_event()
        after = min(given.get("after", newest), newest)
        wire = self.server.eio.sockets.get(self.server.manager.eio_sid_from_sid(sid, "/"))
        if wire is None or wire.closed:
            raise UnauthorizedError("It hung up before it was let in.")
        line = Line(self, sid, wire, party_of(token) if token else PERSON, token, shown)
        line.telling = asyncio.create_task(self._tell(line, workspace_id, after))
        self._lines[sid] = line

    async def _credential(self, access: Access, text: str | None) -> tuple[Token | None, str]:
        """The token that somebody connects with, and its digest; None for the person.

        A token that is given counts more than a cookie. Raises `UnauthorizedError`.
        """
        if text is not None:
            return await self._tokens.check(text)
        if access.kind not in CONNECT:
            raise UnauthorizedError(
                "This needs the page's cookie (`claudedo open`), or `auth: {token}` with a token "
                "of a workspace (`claudedo token create`)."
            )
        if access.token:
            await self._check_token(access.shown)
        return access.token, access.shown

    async def _check_token(self, shown: str) -> None:
        if not await self._tokens.still_opens(shown):
            raise UnauthorizedError("This token ended: it was revoked or rotated, or it expired.")

    async def _workspace(self, token: Token | None, named: str | None) -> str | None:
        """What is listened to; None for everything.

        Raises `NotFoundError`, and `ForbiddenError` for one that is not the token's.
        """
        if named is None:
            return token.workspace_id if token else None
        workspace = await self._store.find_workspace(named)
        if token and token.workspace_id != workspace.id:
            raise ForbiddenError("This token is another workspace's.")
        return workspace.id

    async def _tell(self, line: Line, workspace_id: str | None, after: int) -> None:
        try:
            await self._listeners.serve(line, workspace_id, after, line.token, line.shown)
        except Exception:
            log.exception("a stream failed", extra={"action": "stream_failed"})
        line.cut()

    async def _left(self, sid: str, reason: str) -> None:
        line = self._lines.pop(sid, None)
        if line and line.telling:
            line.telling.cancel()
            line.cut()  # who connects again opens another connection

    def hang_up(self, wire: str) -> None:
        """Close one connection, whoever it is; what was not sent yet is dropped."""
        ending = asyncio.create_task(self._end(wire))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _end(self, wire: str) -> None:
        connection = self.server.eio.sockets.get(wire)
        if connection is None:
            return
        drop = self.server.environ.get(wire, {}).get(HANG_UP)
        while not connection.queue.empty():
            connection.queue.get_nowait()
            connection.queue.task_done()
        await connection.close(wait=False, abort=True)
        await connection.queue.put(None)  # lets go of a poll, and closes a WebSocket
        if drop:
            asyncio.get_running_loop().call_later(LAST, drop)  # whom nobody reads stays open

    # What clients say

    def _listener(self, handler: Handler) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def answer(sid: str, *given: Any) -> dict[str, Any]:
            try:
                return await handler(self, await self._line(sid), list(given))
            except ClaudedoError as error:
                return {"error": {"code": error.code, "detail": str(error)}}
            except Exception:
                log.exception("an event of a client failed", extra={"action": "page_event_failed"})
                words = "The worker failed at this; its log says where."
                return {"error": {"code": ClaudedoError.code, "detail": words}}

        return answer

    async def _line(self, sid: str) -> Line:
        """Who speaks. Raises `UnauthorizedError` if they may not any more."""
        line = self._lines.get(sid)
        if line is None:
            raise UnauthorizedError("This connection is over; connect again.")
        if line.token:
            await self._check_token(line.shown)
        return line

    async def send_task_message(self, line: Line, given: list[Any]) -> dict[str, Any]:
        """`SendTaskMessage(taskId, body, options?)`: store it; answered with its receipts."""
        if not 2 <= len(given) <= 3 or not all(isinstance(value, str) for value in given[:2]):
            raise UsageError("SendTaskMessage takes a task's id, a text, and options.")
        options = given[2] if len(given) == 3 and given[2] is not None else {}
        if not isinstance(options, dict) or options.keys() - OPTIONS:
            raise UsageError("The options are `key`, `priority`, `reply_to` and `attachments`.")
        priority = _text(options, "priority") or "normal"
        if priority not in set(Priority):
            raise UsageError(f"{priority!r} is no priority; there are {', '.join(Priority)}.")
        if line.token:
            await self._store.extend_claims(line.party.id, lease_end())  # a sign of life
        message = await self._threads.say(
            line.party,
            await self._threads.find(line.party, given[0]),
            given[1],
            given=_texts(options, "attachments"),
            reply_to=_text(options, "reply_to"),
            priority=Priority(priority),
            key=_text(options, "key"),
        )
        return protocol.sent_json(message)


OPTIONS = frozenset({"key", "priority", "reply_to", "attachments"})

CONNECT = frozenset({Kind.PAGE, Kind.PERSON, Kind.TOKEN})
"""Who may connect; a token may be shown when the connection is open."""

EVENTS: dict[str, tuple[Handler, frozenset[Kind]]] = {
    "SendTaskMessage": (Realtime.send_task_message, CONNECT),
}
"""Every event that a client may send, and who may. One that is not here is not listened to."""

AUTH: dict[str, type] = {"token": str, "workspace": str, "after": int}
"""What a client may say when it connects."""


def _sid(scope: Scope) -> str | None:
    """Which open connection a request belongs to; None if it opens one."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return next(iter(query.get("sid", [])), None)


def _check(access: Access, opener: Access | None) -> None:
    """Raise `ForbiddenError` or `UnauthorizedError` for a request that is answered to nobody."""
    if access.kind is Kind.SESSION:
        raise ForbiddenError("This is for people and clients; a session has its own tools.")
    if access.refusal:
        raise UnauthorizedError(access.refusal)
    if opener and opener.kind is not access.kind:
        raise UnauthorizedError("This connection was opened with another credential.")


def _given(auth: Any) -> dict[str, Any]:
    """What a client says when it connects. Raises `UsageError`."""
    given: Any = {} if auth is None else auth
    if not isinstance(given, dict) or given.keys() - AUTH.keys():
        raise UsageError("`auth` takes `token`, `workspace` and `after`.")
    said: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for key, value in said.items():
        if type(value) is not AUTH[key]:
            what = "the number of an event" if key == "after" else "a text"
            raise UsageError(f"`{key}` must be {what}.")
    if said.get("after", 0) < 0:
        raise UsageError("`after` must be the number of an event.")
    return said


def _refused(code: str, detail: str) -> socketio.exceptions.ConnectionRefusedError:
    return socketio.exceptions.ConnectionRefusedError(detail, {"code": code, "detail": detail})


def _text(options: dict[str, Any], key: str) -> str | None:
    value = options.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"`{key}` must be a text.")
    return value


def _texts(options: dict[str, Any], key: str) -> list[str]:
    values = options.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UsageError(f"`{key}` must be a list of texts.")
    return values
