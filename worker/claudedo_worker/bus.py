"""Tells the parts of this process that something was stored. Publishers never wait.

An event means "this changed, look again": whoever missed one reads the store from its own number
on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from claudedo.model import Event

Listener = Callable[[Event], None]


class Bus:
    """Publish and subscribe on one event loop."""

    def __init__(self) -> None:
        self.last = 0
        self._listeners: list[Listener] = []
        self._news = asyncio.Event()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called for each event; it must return at once."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell of a fact that is stored."""
        self.last = max(self.last, event.seq)
        for listener in self._listeners:
            listener(event)
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self, seconds: float, *, since: int) -> bool:
        """Wait for an event after number `since`; False if none came in time.

        Take `last` before looking at the store and give it here, so that what comes between the
        look and the wait is not missed.
        """
        if self.last > since:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True
