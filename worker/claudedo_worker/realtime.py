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
from claudedo.model import Event, Priority
from claudedo_worker.access import KEY, Access, Kind
from claudedo_worker.api import event_json
from claudedo_worker.bus import Bus
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store

log = logging.getLogger(__name__)

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
        self.server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])
        self.server.on("connect", self._connect)
        for name, (handler, _) in EVENTS.items():
            self.server.on(name, self._listener(handler))
        self._reader: asyncio.Task[None] | None = None
        self._emitted = 0

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
        if isinstance(after, int):
            await self._catch_up(sid, after)
        await self.server.enter_room(sid, LISTENERS)

    async def _catch_up(self, sid: str, after: int) -> None:
        while after < self._emitted:
            events = await self._store.events_after(after)
            for event in events:
                if event.seq <= self._emitted:
                    await self._tell(event, sid)
            after = events[-1].seq if events else self._emitted

    async def _read(self) -> None:
        while True:
            for event in await self._store.events_after(self._emitted):
                await self._tell(event, LISTENERS)
                self._emitted = event.seq
            await self._bus.wait(1.0)

    async def _tell(self, event: Event, to: str) -> None:
        if badge := BADGES.get(event.type):
            await self.server.emit(badge, (event.task_id, event.payload["pending"]), to=to)
        await self.server.emit("event", event_json(event), to=to)

    def _listener(self, handler: Handler) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def answer(sid: str, *given: Any) -> dict[str, Any]:
            try:
                return await handler(self, sid, list(given))
            except ClaudedoError as error:
                return {"error": {"code": error.code, "detail": str(error)}}

        return answer

    async def send_task_message(self, sid: str, given: list[Any]) -> dict[str, Any]:
        """`SendTaskMessage(taskId, body, options?)`: store it; answered with its receipts."""
        if not 2 <= len(given) <= 3 or not all(isinstance(value, str) for value in given[:2]):
            raise UsageError("SendTaskMessage takes a task's id, a text, and options.")
        options = given[2] if len(given) == 3 and isinstance(given[2], dict) else {}
        priority = options.get("priority") or "normal"
        if priority not in set(Priority):
            raise UsageError(f"{priority!r} is no priority; there are {', '.join(Priority)}.")
        message = await self._mailbox.send(
            await self._store.task(given[0]),
            given[1],
            sender=None,
            key=_text(options, "key"),
            priority=Priority(priority),
            reply_to=_text(options, "reply_to"),
        )
        return protocol.sent_json(message)


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
