"""Ctrl-C, SIGTERM and SIGHUP as one thing, which comes only where it may.

A request that begins sessions must not be cut off in the middle: nobody would know what runs. So
the first signal waits for the next place where the command waits anyway; the second does not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While it is entered, each of the signals becomes a `KeyboardInterrupt` in its place."""

    def __init__(self) -> None:
        self._count = 0
        self._open = False
        self._before: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> Self:
        outputs = (sys.stdout, sys.stderr)
        self._terminals = [stream.fileno() for stream in outputs if stream.isatty()]
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
                self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if number == signal.SIGHUP:
            _let_go_of(self._terminals)
        if self._open or self._count > 1:
            raise KeyboardInterrupt

    @contextmanager
    def may_come(self) -> Iterator[None]:
        """The place where the first one is raised, also one that came before."""
        self._open = True
        try:
            if self._count:
                raise KeyboardInterrupt
            yield
        finally:
            self._open = False


def _let_go_of(terminals: list[int]) -> None:
    """The terminal is gone; what is still written to it would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
