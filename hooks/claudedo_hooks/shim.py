"""The two command hooks of a session: `shim.py SESSION_DIR start` and `shim.py SESSION_DIR wait`.

`start` (SessionStart) asks the worker what to tell the session and prints it. `wait` (Stop and
SessionStart, `asyncRewake`) sits beside an idle session until the worker has something for it.
Every other hook goes through the bridge (docs/architecture.md "session.sock"). Neither form ever
disturbs the session: whatever goes wrong, it is silent and exits 0.

One standard-library file, run by path with `python3 -I -S`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import closing

TYPE_CHECKING = False  # the real one costs the import of `typing`
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one line, and of the hook's input."""

CHUNK = 64 * 1024
PATIENCE = 3.0
"""Seconds that the start of a session may wait for the worker, and a waiter for its own input."""
PARENT_CHECK = 1.0
"""Seconds between two looks at the parent: some `claude` leave their waiters behind (15.5)."""
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 1.0

STDIN, STDOUT, STDERR = 0, 1, 2
QUIET, WAKE = 0, 2
"""Exit statuses: nothing to say; a new turn with what is on standard error (6.12)."""


class Worker:
    """One connection to the worker, introduced as `kind` with the hook's `payload`.

    OSError, here and in `receive`: it cannot be reached within `patience` seconds, or is gone.
    """

    def __init__(self, session: Message, kind: str, payload: Message, patience: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = bytearray()
        self._socket.settimeout(patience)
        self._socket.connect(session["socket"])
        hello = {
            "kind": kind,
            "protocol": session["protocol"],
            "session": session["session"],
            "credential": session["credential"],
            "pid": os.getpid(),
            "parent": os.getppid(),
            "payload": payload,
        }
        self._socket.sendall(json.dumps({"hello": hello}).encode() + b"\n")

    def receive(self, patience: float) -> list[Message]:
        """The messages that have come after at most `patience` seconds, perhaps none.

        ValueError: what came is no line of JSON.
        """
        if not readable(self._socket.fileno(), patience):
            return []
        data = self._socket.recv(CHUNK)
        if not data:
            message = "the worker closed the connection"
            raise ConnectionResetError(message)
        self._rest += data
        if b"\n" not in data:
            check_length(self._rest)
            return []
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line.decode()) for line in lines]

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()


def start(session: Message) -> int:
    """Prints the worker's `output` as the hook's answer, if one comes within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    payload = read_payload(deadline)
    with closing(Worker(session, "hook", payload, seconds_to(deadline))) as worker:
        while (patience := seconds_to(deadline)) > 0:
            for message in worker.receive(patience):
                if "welcome" not in message:
                    if message.get("output"):
                        write(STDOUT, json.dumps(message["output"]))
                    return QUIET
    return QUIET


def wait(session: Message) -> int:
    """Blocks until the worker wakes the session or sends this waiter away, or the session ends."""
    parent = os.getppid()
    payload = read_payload(time.monotonic() + PATIENCE)
    delay = BACKOFF_FIRST
    while os.getppid() == parent:
        try:
            with closing(Worker(session, "waiter", payload, PATIENCE)) as worker:
                return listen(worker, parent)
        except OSError:  # no worker, or not any more: the next one will want this waiter
            time.sleep(delay)
        delay = min(delay * 2, BACKOFF_LAST)
    return QUIET


def listen(worker: Worker, parent: int) -> int:
    """The exit status that one worker decides on. OSError when that worker is gone."""
    while os.getppid() == parent:
        for message in worker.receive(PARENT_CHECK):
            if "wake" in message:
                write(STDERR, str(message["wake"]))
                return WAKE
            if "welcome" not in message:
                return QUIET
    return QUIET


def write(fd: int, text: str) -> None:
    """Writes all of `text`; OSError when nobody reads it any more."""
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode(errors="replace"))


def read_payload(deadline: float) -> Message:
    """The hook's input, complete or as far as it has come by `deadline`. ValueError: not JSON."""
    data = bytearray()
    while readable(STDIN, max(0.0, seconds_to(deadline))):
        chunk = os.read(STDIN, CHUNK)
        if not chunk:
            break
        data += chunk
        check_length(data)
    payload: Message = json.loads(data.decode())
    return payload


def readable(fd: int, patience: float) -> bool:
    """Whether `fd` has something to read, or its end, within `patience` seconds."""
    return bool(select.select([fd], [], [], patience)[0])


def check_length(line: bytearray) -> None:
    """ValueError above `LINE_LIMIT`."""
    if len(line) > LINE_LIMIT:
        message = "above 16 MiB"
        raise ValueError(message)


def seconds_to(moment: float) -> float:
    """Seconds from now to `moment`, negative afterwards."""
    return moment - time.monotonic()


COMMANDS = {"start": start, "wait": wait}


def main(arguments: list[str]) -> int:
    """Runs one form for the session whose folder is named, and returns the exit status."""
    try:
        folder, command = arguments
        # pathlib would be a tenth of this program's memory.
        with open(f"{folder}/session.json", encoding="utf-8") as file:  # noqa: PTH123
            session = json.load(file)
        return COMMANDS[command](session)
    except (Exception, KeyboardInterrupt):  # a hook that fails would show in the person's session
        return QUIET


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
