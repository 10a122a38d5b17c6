"""Single keys from this terminal, as they are typed, and the terminal as it was afterwards.

The terminal is given back on every way out: at the end, on Ctrl-C, while the process is stopped
(Ctrl-Z), on SIGTERM and SIGHUP, and for what runs on it meanwhile (`released`).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from claudedo.errors import UsageError

NOTHING = ""
"""No key came in time."""

RESIZED = "resized"
"""The window has another size."""

RESUMED = "resumed"
"""The process goes on after a stop: something else was on the terminal meanwhile."""

OTHER = "other"
"""An arrow, a function key, or several characters at once: a paste decides nothing."""

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_WATCHED = (*_ENDING, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP)


class Keyboard:
    """The keys of standard input while the `with` block lasts.

    Everything raises `EOFError` once the terminal is gone.
    """

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()

    def __enter__(self) -> Self:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("This needs a terminal on standard input and output.")
        self._saved = termios.tcgetattr(self._input)
        self._take()
        return self

    def __exit__(self, *ending: object) -> None:
        self._give_back()

    def key(self, seconds: float) -> str:
        """The next key, or `NOTHING` after `seconds`; see the names above.

        Raises `SystemExit` when the process is to end.
        """
        ready, _, _ = select.select([self._alarm, self._input], [], [], seconds)
        if self._alarm in ready:
            return self._heed(set(self._alarm.recv(4096)))
        if not ready:
            return NOTHING
        try:
            typed = os.read(self._input, 4096)
        except OSError as error:  # how a terminal that was hung up reads
            raise EOFError from error
        if not typed:
            raise EOFError
        text = typed.decode(errors="replace")
        return text if len(text) == 1 and text != "\x1b" else OTHER

    def forget(self) -> None:
        """Drop what was typed before now: it was not meant for what is shown next."""
        with _terminal_may_be_gone():
            termios.tcflush(self._input, termios.TCIFLUSH)

    @contextmanager
    def released(self) -> Iterator[None]:
        """The terminal as it was, for something else that runs on it."""
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def _take(self) -> None:
        self._alarm, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._descriptor = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._handlers: dict[int, Any] = {
            number: signal.signal(number, _noticed) for number in _WATCHED
        }
        with _terminal_may_be_gone():
            tty.setcbreak(self._input)

    def _give_back(self) -> None:
        try:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the window is gone, and nothing is left to restore
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._descriptor)
            self._alarm.close()
            self._sender.close()

    def _heed(self, numbers: set[int]) -> str:
        for number in _ENDING:
            if number in numbers:
                raise SystemExit(128 + number)
        if signal.SIGTSTP in numbers:
            with self.released():
                os.kill(os.getpid(), signal.SIGTSTP)  # stops here until SIGCONT
        elif signal.SIGCONT in numbers:
            tty.setcbreak(self._input)  # stopped from outside: the shell has put its own back
        elif signal.SIGWINCH in numbers:
            return RESIZED
        else:
            return NOTHING
        return RESUMED


@contextmanager
def _terminal_may_be_gone() -> Iterator[None]:
    try:
        yield
    except termios.error as error:
        raise EOFError from error


def _noticed(_number: int, _where: FrameType | None) -> None:
    """The wake-up byte is what counts; a handler must exist for it to be written."""
