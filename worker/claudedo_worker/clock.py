"""The time during which this process could work: what is measured by it can prove something.

"The client answered two seconds ago, and the line is still not there" says nothing if everything
stood still in between: a paused container or virtual machine, a stopped process. The system's
monotonic clock leaves out a laptop's sleep by itself, but not such pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_STEP = 3.0
"""Seconds between two readings that count; whoever watches a session reads ten times a second."""


class Clock:
    """A monotonic clock, in seconds, that stood still during long pauses between two readings."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._read_at = monotonic()
        self._time = 0.0

    def __call__(self) -> float:
        """The time now; to be read more often than `LONGEST_STEP`, or it stands still."""
        at = self._monotonic()
        step, self._read_at = at - self._read_at, at
        self._time += step if step <= LONGEST_STEP else 0.0
        return self._time


working_time = Clock()
"""The one of this process. Kept going by the supervisor's watch over each live session."""
