"""Runs `claudedo` commands in copies of one Python that has imported the command already.

To import it is nearly all the processor time of a short command, and tests run hundreds of them.
Each command still is a process with its own environment, folder, streams and exit status; only
that it began as a fork, not with the start of an interpreter.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stderr, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any


class PreparedCommand:
    """The Python that the commands of this process are copied from; it ends with this process."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        self._one_at_a_time = Lock()
        # Nothing of this environment: a worker must not take the commands for a session's own.
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        with theirs:
            subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=kept,
                pass_fds=[theirs.fileno()],
            ).returncode = 0  # it ends by itself, when nobody can give it orders

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        input: str = "",
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` with captured text."""
        ours, theirs = socket.socketpair()
        with (
            closing(ours),
            TemporaryFile() as given,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            given.write(input.encode())
            given.seek(0)
            with theirs, self._one_at_a_time:
                files = [file.fileno() for file in (theirs, given, out, err)]
                socket.send_fds(self._orders, [b"."], files)
            ours.settimeout(timeout)
            order = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
            with ours.makefile("rw") as talk:
                print(json.dumps(order), file=talk, flush=True)
                pid = int(talk.readline())
                try:
                    status = int(talk.readline())
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(["claudedo", *arguments], timeout) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(["claudedo", *arguments], status, *texts)


@cache
def prepared_command() -> PreparedCommand:
    """The one of this process."""
    return PreparedCommand()


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Copy this process for each order; returns the order, in the copy that is to obey it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who watches a command
    while True:
        word, files, _, _ = socket.recv_fds(orders, 1, 4)
        if not word:
            os._exit(0)
        if os.fork() == 0:
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _watched(*files)
        for file in files:
            os.close(file)


def _watched(talk: int, *streams: int) -> dict[str, Any]:
    with closing(socket.socket(fileno=talk)) as connection:
        order: dict[str, Any] = json.loads(connection.makefile().readline())
        if command := os.fork():
            connection.sendall(f"{command}\n".encode())
            _, status = os.waitpid(command, 0)
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return order


def _main() -> None:
    from claudedo.cli.app import main

    orders = socket.socket(fileno=int(sys.argv[1]))
    # The parser imports the rest for its first command. This one is refused before anything else.
    sys.argv = ["claudedo", "send", "nobody", ""]
    with redirect_stderr(StringIO()), suppress(SystemExit):
        main()
    gc.freeze()  # what every copy shares none has to look through
    order = _serve(orders)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["claudedo", *order["arguments"]]
    main()


if __name__ == "__main__":
    _main()
