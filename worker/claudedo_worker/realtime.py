"""Socket.IO: sends what a page says to the mailbox, and tells every page what was stored.

One reader goes through the events in order and emits each; a page that missed some names the last
one it has and is caught up first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import socketio

from claudedo import protocol
from claudedo.errors import ClaudedoError, UsageError
from claudedo.model import MAX_BODY_BYTES, Event, Priority
from claudedo_worker.access import KEY, Access, App, Kind, Receive, Scope, Send, refuse
from claudedo_worker.bus import Bus
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store

log = logging.getLogger(__name__)

PATH = "/socket.io/"
LISTENERS = "listeners"
BADGES = {"message.queued": "TaskMessageQueued", "message.delivered": "TaskMessageDelivered"}
"""Events that are also told under the names of the first design, with (taskId, pendingCount)."""

Handler = Callable[["Realtime", str, list[Any]], Awaitable[dict[str, Any]]]


class Realtime:
    """The Socket.IO side of one worker."""

    def __init__(self, store: Store, bus: Bus, mailbox: Mailbox) -> None:
        self._store = store
        self._bus = bus
        self._mailbox = mailbox
        self.server = socketio.AsyncServer(
            async_mode="asgi",
            cors_allowed_origins=[],  # the door has looked at the origin
            max_http_buffer_size=8 * MAX_BODY_BYTES,  # a body may need six times its bytes in JSON
        )
        self.server.on("connect", self._connect)
        for name, (handler, _) in EVENTS.items():
            self.server.on(name, self._listener(handler))
        self._reader: asyncio.Task[None] | None = None
        self._emitted = 0
        self._telling = asyncio.Lock()  # nobody joins while an event goes round

    def wrap(self, app: App) -> App:
        """Serve Socket.IO on its path to those who may connect, and `app` on every other."""
        inner = socketio.ASGIApp(self.server, app)

        async def gate(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] in ("http", "websocket") and scope["path"].startswith(PATH):
                kind = scope[KEY].kind
                if kind not in CONNECT:
                    status, code = (
                        (401, "unauthorized") if kind is Kind.NOBODY else (403, "forbidden")
                    )
                    await refuse(
                        scope, receive, send, status, code, "This needs the page's cookie."
                    )
                    return
            await inner(scope, receive, send)

        return gate

    async def start(self) -> None:
        """Begin to tell what is stored from now on."""
        self._emitted = await self._store.last_event()
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Tell nothing more and hang up."""
        if self._reader:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self.server.shutdown()

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        access: Access = environ["asgi.scope"][KEY]
        if access.kind not in CONNECT:
            raise socketio.exceptions.ConnectionRefusedError("unauthorized")
        after = auth.get("after") if isinstance(auth, dict) else None
        reached = max(after, 0) if type(after) is int else self._emitted
        reached = await self._catch_up(sid, reached)
        async with self._telling:
            await self._catch_up(sid, reached)
            await self.server.enter_room(sid, LISTENERS)

    async def _catch_up(self, sid: str, after: int) -> int:
        """Tell one client what all others were told after `after`; returns how far that went."""
        while after < self._emitted:
            events = await self._store.events_after(after)
            for event in events:
                if event.seq <= self._emitted:
                    await self._tell(event, sid)
            after = min(events[-1].seq, self._emitted) if events else self._emitted
        return after

    async def _read(self) -> None:
        while True:
            try:
                for event in await self._store.events_after(self._emitted):
                    async with self._telling:
                        await self._tell(event, LISTENERS)
                        self._emitted = event.seq
            except ClaudedoError:
                # What cannot be read now is told later; nobody joins the listeners meanwhile.
                log.exception("events cannot be read", extra={"action": "read_failed"})
                await asyncio.sleep(1.0)
                continue
            await self._bus.wait(60.0, since=self._emitted)

    async def _tell(self, event: Event, to: str) -> None:
        if badge := BADGES.get(event.type):
            await self.server.emit(badge, (event.task_id, event.payload["pending"]), to=to)
        await self.server.emit("event", protocol.event_json(event), to=to)

    def _listener(self, handler: Handler) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def answer(sid: str, *given: Any) -> dict[str, Any]:
            try:
                return await handler(self, sid, list(given))
            except ClaudedoError as error:
                return {"error": {"code": error.code, "detail": str(error)}}
            except Exception:
                log.exception("an event of a page failed", extra={"action": "page_event_failed"})
                words = "The worker failed at this; its log says where."
                return {"error": {"code": ClaudedoError.code, "detail": words}}

        return answer

    async def send_task_message(self, sid: str, given: list[Any]) -> dict[str, Any]:
        """`SendTaskMessage(taskId, body, options?)`: store it; answered with its receipts."""
        if not 2 <= len(given) <= 3 or not all(isinstance(value, str) for value in given[:2]):
            raise UsageError("SendTaskMessage takes a task's id, a text, and options.")
        options = given[2] if len(given) == 3 and given[2] is not None else {}
        if not isinstance(options, dict) or options.keys() - OPTIONS:
            raise UsageError("The options are `key`, `priority`, `reply_to` and `attachments`.")
        priority = _text(options, "priority") or "normal"
        if priority not in set(Priority):
            raise UsageError(f"{priority!r} is no priority; there are {', '.join(Priority)}.")
        message = await self._mailbox.send(
            await self._store.task(given[0]),
            given[1],
            sender=None,
            key=_text(options, "key"),
            priority=Priority(priority),
            reply_to=_text(options, "reply_to"),
            attachments=_texts(options, "attachments"),
        )
        return protocol.sent_json(message)


OPTIONS = frozenset({"key", "priority", "reply_to", "attachments"})

CONNECT = frozenset({Kind.PAGE, Kind.PERSON})
"""Who may connect."""

EVENTS: dict[str, tuple[Handler, frozenset[Kind]]] = {
    "SendTaskMessage": (Realtime.send_task_message, CONNECT),
}
"""Every event that a client may send, and who may. One that is not here is not listened to."""


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
