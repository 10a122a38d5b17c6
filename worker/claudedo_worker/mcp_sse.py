"""An HTTP response of server-sent events that somebody else writes into, and may cut.

Tells who writes whether the event was handed to the system, and ends when the client hangs up,
stops reading, or is cut off. Knows nothing of what the events mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response

from claudedo_worker.access import HANG_UP, Receive, Scope, Send

log = logging.getLogger(__name__)

HEARTBEAT = 15.0
"""Seconds between comments that keep the connection, and proxies, awake."""

PATIENCE = 20.0
"""Seconds that a client may leave an event unread before it is hung up on."""

LAST = 0.5
"""Seconds for the end of a stream to go out; then the connection is dropped as it is."""

Serve = Callable[["EventStream"], Awaitable[None]]


class EventStream(Response):
    """One open stream. It lives as long as `serve`, the client, and nobody cuts it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        serve: Serve,
        headers: Mapping[str, str] | None = None,
        retry: float | None = None,
        patience: float | None = PATIENCE,
    ) -> None:
        """`serve` is run while the stream is open; it is cancelled when the stream ends.

        `retry`: the seconds that the client is to wait before it opens a lost stream again.
        `patience` None: a client may leave events unread as long as it stays connected.
        """
        kept = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(headers={**kept, **(headers or {})})
        del self.headers["content-length"]
        self._serve = serve
        self._retry = retry
        self._patience = patience
        self._cut = asyncio.Event()
        self._writing = asyncio.Lock()
        self._send: Send | None = None

    def cut(self) -> None:
        """End the stream now."""
        self._cut.set()

    async def write(self, event: str, data: str, number: int | None = None) -> bool:
        """Send one event; False if the stream is over. A client that does not read is cut off.

        `number` is the event's id: what the client names when it comes back.
        """
        identity = "" if number is None else f"id: {number}\n"
        lines = "".join(f"data: {line}\n" for line in data.split("\n"))
        return await self._write(f"{identity}event: {event}\n{lines}\n")

    async def mark(self, number: int) -> bool:
        """Have the client name `number` when it comes back, without an event."""
        return await self._write(f"id: {number}\n\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: open the stream, keep it, end it."""
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        self._send = send
        advice = "" if self._retry is None else f"retry: {self._retry * 1000:.0f}\n"
        await self._write(f"{advice}: open\n\n")  # the headers go out with it
        serving = asyncio.create_task(self._serve_stream())
        others = [
            asyncio.create_task(work) for work in (_left(receive), self._beat(), self._cut.wait())
        ]
        try:
            await asyncio.wait([serving, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._send = None
            for task in (serving, *others):
                task.cancel()
            await asyncio.gather(serving, *others, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            # What is unread would keep the connection, and a worker that ends, waiting for ever.
            scope[HANG_UP]()
            await _left(receive)  # or the server would take the response for forgotten, and say so

    async def _serve_stream(self) -> None:
        try:
            await self._serve(self)
        except Exception:
            log.exception("a stream failed", extra={"action": "stream_failed"})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            if not await self._write(": still here\n\n"):
                return

    async def _write(self, text: str) -> bool:
        try:
            async with asyncio.timeout(self._patience), self._writing:
                if self._send is None or self._cut.is_set():
                    return False
                body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
                await self._send(body)
                return True
        except TimeoutError:
            log.info("a client does not read its stream", extra={"action": "stalled"})
            self.cut()
            return False


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
