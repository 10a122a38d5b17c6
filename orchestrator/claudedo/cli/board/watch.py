"""Follows the worker from a thread of its own, and goes on when the worker is gone or replaced.

Keeps only the newest of what it learnt, however long nobody takes it: a person may look into a
session for hours. Knows nothing of how it is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from claudedo.cli import options
from claudedo.cli.board.picture import Situation
from claudedo.cli.task import latest
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError, UnavailableError

Json = dict[str, Any]

LOOK_SECONDS = 5.0
"""What tells nothing when it changes, sessions that are not ours, is looked at this often."""

BURST_SECONDS = 0.15
"""Events that come this close together are looked at together."""

AWAY_SECONDS = 2.0
"""How long a worker may be away before another is started: it may be on purpose."""

_PAUSE_SECONDS = 0.3
_AGAIN_SECONDS = 3.0


@dataclass(frozen=True)
class News:
    """What changed since the last time: the situation, how far messages came, and trouble."""

    situation: Situation | None = None
    receipts: dict[str, Json] = field(default_factory=dict)  # message id -> its receipts
    trouble: str | None = None  # why nothing new is known; None: all is well


class Watch:
    """One follower. `tell` is called from its thread, at most once until `take` is."""

    def __init__(self, client: WorkerClient, tell: Callable[[], None]) -> None:
        self._client = client
        # Waiting with a client that starts no worker is how one that is gone is noticed.
        self._eyes = WorkerClient(client.settings)
        self._tell = tell
        self._lock = threading.Lock()
        self._told = False
        self._situation: Situation | None = None
        self._receipts: dict[str, Json] = {}
        self._trouble: str | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Follow from now on. The thread ends with the process, or after `stop`."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing more."""
        self._ended.set()

    def take(self) -> News:
        """What came since the last call."""
        with self._lock:
            news = News(self._situation, self._receipts, self._trouble)
            self._situation, self._receipts, self._told = None, {}, False
        return news

    def look(self) -> None:
        """Ask the worker now; raises what `WorkerClient` raises."""
        self._learn(self._client)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
            except UnavailableError:
                self._publish(trouble="The worker is away …")
                self._recover()
            except ClaudedoError as error:
                self._publish(trouble=str(error))
                self._recover()
            except Exception as error:  # told, because nobody sees a thread end
                self._publish(trouble=f"The list stands still: {type(error).__name__}: {error}")
                raise

    def _follow(self) -> None:
        self._eyes.connect(start=False)
        seen = latest(self._eyes)
        while not self._ended.is_set():
            self._learn(self._eyes)
            page = self._eyes.events(seen, LOOK_SECONDS)
            seen = page["next"]
            self._note_receipts(page["events"])
            if page["events"]:
                self._ended.wait(BURST_SECONDS)

    def _learn(self, client: WorkerClient) -> None:
        situation = Situation(tuple(options.everything(client)), tuple(client.asks()))
        self._publish(situation=situation)

    def _note_receipts(self, events: list[Json]) -> None:
        told = [event.get("payload") or {} for event in events]
        with self._lock:
            self._receipts |= {p["message_id"]: p["receipts"] for p in told if "receipts" in p}

    def _recover(self) -> None:
        """Get a worker back: the one that somebody else starts, or else a new one."""
        deadline = time.monotonic() + AWAY_SECONDS
        while not self._ended.wait(_PAUSE_SECONDS) and time.monotonic() < deadline:
            if self._eyes.ready():
                return
        if self._ended.is_set():
            return
        if not self._client.settings.home.is_dir():
            self._publish(trouble="claudedo's folder is gone: it was uninstalled. q leaves.")
            self._ended.wait(_AGAIN_SECONDS)
            return
        if not self._eyes.listening():
            self._publish(trouble="The worker is gone; starting it again …")
        try:
            self._client.connect()
        except ClaudedoError as error:
            self._publish(trouble=str(error))
            self._ended.wait(_AGAIN_SECONDS)

    def _publish(self, situation: Situation | None = None, trouble: str | None = None) -> None:
        with self._lock:
            if situation is not None:
                self._situation = situation
            self._trouble = trouble
            told, self._told = self._told, True
        if not told and not self._ended.is_set():
            self._tell()
