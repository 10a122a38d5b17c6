"""Who listens to the events of a workspace: each reads the store from its own number on.

Nobody waits for a slow listener, and nothing is kept for one but what the connection itself
buffers: it gets every event in order, however late. What was pruned meanwhile it is told
(`events.lost`). A listener with a token is cut off when the token opens nothing any more. Knows
nothing of HTTP but the stream that it writes into.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from datetime import datetime

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
"""So many streams one token may have open at once."""

WAIT, PAUSE = 60.0, 1.0


class Listeners:
    """All open streams of events of one worker."""

    def __init__(self, store: Store, bus: Bus, tokens: Tokens) -> None:
        self._store = store
        self._bus = bus
        self._tokens = tokens
        self._streams: dict[EventStream, str | None] = {}  # and the token's id
        self._token_news = asyncio.Event()

    def notice(self, event: Event) -> None:
        """Something was stored: it may be the end of a token."""
        if event.type in ("token.updated", "workspace.removed"):
            self._token_news.set()
            self._token_news = asyncio.Event()

    def stop(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.cut()

    def open(
        self, workspace: Workspace, after: int, token: Token | None = None, shown: str = ""
    ) -> EventStream:
        """A stream of what was told of a workspace after number `after`, and of what will be.

        `shown` is the digest of the text of `token`, for as long as which it lives. Raises
        `RefusedError` if the token has `MOST` already.
        """
        who = token.id if token else None
        if who and list(self._streams.values()).count(who) >= MOST:
            raise RefusedError(f"This token listens {MOST} times already; end one of them first.")

        async def serve(stream: EventStream) -> None:
            self._streams[stream] = who
            watch = self._watch(stream, token, shown) if token else None
            watching = asyncio.create_task(watch) if watch else None
            try:
                await self._tell(stream, workspace.id, after)
            finally:
                del self._streams[stream]
                if watching:
                    watching.cancel()

        return EventStream(serve, patience=None)

    async def _tell(self, stream: EventStream, workspace_id: str, after: int) -> None:
        """Write event after event until the stream, or the workspace, is over."""
        await stream.mark(after)
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
                await _write(stream, _lost(workspace_id, after + 1, oldest - 1))
                after = oldest - 1
            for event in events:
                after = event.seq
                if event.workspace_id != workspace_id:
                    continue
                if not await _write(stream, event) or event.type == "workspace.removed":
                    return
            if events and events[-1].workspace_id != workspace_id:
                await stream.mark(after)  # or what it has would be pruned while others are busy
            await self._bus.wait(WAIT, since=after)

    async def _watch(self, stream: EventStream, token: Token, shown: str) -> None:
        """Cut the stream when its token ends."""
        while True:
            news = self._token_news  # before the look, so that nothing falls between the two
            if not await self._opens(shown):
                break
            left = datetime.fromisoformat(token.expires_at).timestamp() - time.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, left + 0.01)):
                    await news.wait()
        stream.cut()

    async def _opens(self, shown: str) -> bool:
        try:
            return await self._tokens.still_opens(shown)
        except ClaudedoError:
            # Better cut than left open: who may come back will be let in again.
            log.exception("a token cannot be checked", extra={"action": "check_failed"})
            return False


async def _write(stream: EventStream, event: Event) -> bool:
    return await stream.write(event.type, json.dumps(protocol.event_json(event)), event.seq)


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
