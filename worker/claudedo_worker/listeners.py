"""Who listens to the events of a workspace: each reads the store from its own number on.

Nobody waits for a slow listener, and nothing is kept for one but what the connection itself
buffers: it gets every event in order, however late. What was pruned meanwhile it is told
(`events.lost`). A listener with a token is cut off when the token opens nothing any more. Knows
nothing of HTTP but the stream that it writes into, and nothing of Socket.IO; see `realtime`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from claudedo import protocol
from claudedo.errors import ClaudedoError, RefusedError
from claudedo.model import Event, Token, Workspace, now
from claudedo_worker.bus import Bus
from claudedo_worker.mcp_sse import EventStream
from claudedo_worker.store import Store
from claudedo_worker.tokens import Tokens

log = logging.getLogger(__name__)

LOST = "events.lost"
"""What a listener is told instead of events that are not kept any more."""

LOOK = 20.0
"""Seconds after which a token is looked at again though nothing was said of it."""

MOST = 32
"""So many connections one token may listen on at once."""

WAIT, PAUSE = 60.0, 1.0


class Listener(Protocol):
    """Who is told, at its own pace."""

    async def tell(self, event: Event) -> bool:
        """Take one event; returns when there is room for another. False: nobody listens."""
        ...

    async def mark(self, number: int) -> bool:
        """Know that there is nothing more to be told up to this number."""
        ...

    def cut(self) -> None:
        """Hear nothing more, from now on."""
        ...


class _Stream(EventStream):
    """Server-sent events: the number of an event is its id."""

    async def tell(self, event: Event) -> bool:
        return await self.write(event.type, json.dumps(protocol.event_json(event)), event.seq)


class Listeners:
    """All who listen to one worker."""

    def __init__(self, store: Store, bus: Bus, tokens: Tokens) -> None:
        self._store = store
        self._bus = bus
        self._tokens = tokens
        self._listening: dict[Listener, str | None] = {}  # and the token's id
        self._token_news = asyncio.Event()

    def notice(self, event: Event) -> None:
        """Something was stored: it may be the end of a token."""
        if event.type in ("token.updated", "workspace.removed"):
            self._token_news.set()
            self._token_news = asyncio.Event()

    def stop(self) -> None:
        """Cut everybody off."""
        for listener in list(self._listening):
            listener.cut()

    def check_room(self, token: Token | None) -> None:
        """Raise `RefusedError` if who shows `token` listens on `MOST` connections already."""
        if token and list(self._listening.values()).count(token.id) >= MOST:
            raise RefusedError(f"This token listens {MOST} times already; end one of them first.")

    def open(
        self, workspace: Workspace, after: int, token: Token | None = None, shown: str = ""
    ) -> EventStream:
        """A stream of what was told of a workspace after number `after`, and of what will be.

        `shown` is the digest of the text of `token`, for as long as which it lives. Raises
        `RefusedError` if the token has `MOST` already.
        """
        self.check_room(token)

        async def serve(_: EventStream) -> None:
            await self.serve(stream, workspace.id, after, token, shown)

        stream = _Stream(serve, patience=None)
        return stream

    async def serve(
        self,
        listener: Listener,
        workspace_id: str | None,
        after: int,
        token: Token | None = None,
        shown: str = "",
    ) -> None:
        """Tell what came after number `after`, and what comes, in a workspace; None: in all.

        Returns when nobody listens any more, or the workspace is removed. `token`, `shown`: see
        `open`.
        """
        self._listening[listener] = token.id if token else None
        watching = asyncio.create_task(self._watch(listener, token, shown)) if token else None
        try:
            await self._tell(listener, workspace_id, after)
        finally:
            del self._listening[listener]
            if watching:
                watching.cancel()

    async def _tell(self, listener: Listener, workspace_id: str | None, after: int) -> None:
        """Tell event after event until nobody listens, or the workspace is over."""
        await listener.mark(after)
        while True:
            try:
                last = await self._store.last_event()
                events = await self._store.events_after(after)
            except ClaudedoError:
                log.exception("events cannot be read", extra={"action": "read_failed"})
                await asyncio.sleep(PAUSE)  # they can be told later
                continue
            oldest = events[0].seq if events else last + 1
            if oldest > after + 1:
                await listener.tell(_lost(workspace_id or "", after + 1, oldest - 1))
                after = oldest - 1
            for event in events:
                after = event.seq
                if workspace_id not in (None, event.workspace_id):
                    continue
                over = workspace_id is not None and event.type == "workspace.removed"
                if not await listener.tell(event) or over:
                    return
            if events and workspace_id not in (None, events[-1].workspace_id):
                await listener.mark(after)  # or what it has would be pruned while others are busy
            await self._bus.wait(WAIT, since=after)

    async def _watch(self, listener: Listener, token: Token, shown: str) -> None:
        """Cut the listener off when its token ends."""
        while True:
            news = self._token_news  # before the look, so that nothing falls between the two
            if not await self._opens(shown):
                break
            left = datetime.fromisoformat(token.expires_at).timestamp() - time.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, left + 0.01)):
                    await news.wait()
        listener.cut()

    async def _opens(self, shown: str) -> bool:
        try:
            return await self._tokens.still_opens(shown)
        except ClaudedoError:
            # Better cut than left open: who may come back will be let in again.
            log.exception("a token cannot be checked", extra={"action": "check_failed"})
            return False


def _lost(workspace_id: str, first: int, last: int) -> Event:
    """Not stored: it tells one listener what it missed for good."""
    return Event(
        seq=last,
        type=LOST,
        workspace_id=workspace_id,
        task_id=None,
        payload={"from": first, "to": last},
        at=now(),
    )
