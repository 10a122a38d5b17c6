"""Stands between the worker and who comes to one of its sockets, to strike at an exact moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Strike = Callable[[], None]
"""What to do at the moment; afterwards the connection it came from is cut."""


class Tap:
    """Takes the place of a listening unix socket and passes everything on, both ways.

    When a chunk that the worker sends holds `moment`, `strike` is called: before the chunk is
    passed on, so that its receiver never gets it, or after (`late`). It strikes once; a tap that
    is not late then stops listening, as the worker it has killed does.
    """

    def __init__(self, path: Path, moment: bytes, strike: Strike, *, late: bool = False) -> None:
        self._path = path
        self._real = path.with_suffix(".real")
        self._moment = moment
        self._strike = strike
        self._late = late
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: list[socket.socket] = []
        self.struck = threading.Event()

    def __enter__(self) -> Self:
        self._path.rename(self._real)
        self._listener.bind(str(self._path))
        self._listener.listen(32)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_listener()
        for connection in self._open:
            connection.close()
        self._real.unlink(missing_ok=True)

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the `accept` of the other thread
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # the tap is closed
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                far.connect(str(self._real))
            except OSError:
                near.close()  # no worker any more
                far.close()
                continue
            self._open += [near, far]
            threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        with contextlib.suppress(OSError):  # either side is gone: so is the other, below
            while data := source.recv(1 << 20):
                now = watched and self._moment in data and not self.struck.is_set()
                if not now or self._late:
                    target.sendall(data)
                if now:
                    self._strike()
                    if not self._late:
                        self._close_listener()
                    self.struck.set()
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):  # the other direction did it
                end.shutdown(socket.SHUT_RDWR)
