"""What a holder says and hears on its socket, and a blocking client for it.

The frames are described in ``docs/holder-protocol.md``. This module needs the standard library
only and knows nothing of terminals: `claudedo.cli.attach` puts a person's terminal behind a
`HolderClient`, `claudedo_worker.holder_link` speaks the same frames with asyncio.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from claudedo.errors import ClaudedoError

PROTOCOL = 1
HEADER = struct.Struct(">cI")
MAX_PAYLOAD = 16 << 20
INPUT_CHUNK = 64 << 10


class HolderError(ClaudedoError):
    """The holder cannot be reached, or does not speak our protocol."""


class HolderGoneError(HolderError):
    """The holder closed the connection."""

    code = "unavailable"


class HolderRefusedError(HolderError):
    """The holder did not carry out an order; the text is its own.

    ``order`` is the kind of the refused frame; None if the holder is too old to say.
    """

    code = "conflict"

    def __init__(self, message: str | None = None, *, order: Kind | None = None) -> None:
        super().__init__(message)
        self.order = order


class Kind(bytes, Enum):
    """The type byte of a frame."""

    HELLO = b"H"  #: holder: its status, on connection and after a respawn
    OUTPUT = b"O"  #: holder: what the child wrote
    EXITED = b"X"  #: holder: the child ended and all its output was sent
    ERROR = b"E"  #: holder: an order was refused
    ATTACH = b"A"  #: client: send the scrollback, then everything as it comes
    PERSON_INPUT = b"I"  #: client: a person typed this
    WORKER_INPUT = b"T"  #: client: the worker typed this
    RESIZE = b"R"  #: client: the window has another size
    SIGNAL = b"S"  #: client: signal the child; answered with a status
    STATUS = b"Q"  #: both: ask for and give the status
    SNAPSHOT = b"P"  #: both: ask for and give the scrollback
    RESPAWN = b"N"  #: client: run a command again in the same environment; answered with H
    LEAVE = b"D"  #: client: the child has ended, go
    FINISH_INPUT = b"F"  #: client: no more input for a one-shot run; answered with a status


#: Frames of a client that have no answer, but may be refused.
UNANSWERED = frozenset({Kind.PERSON_INPUT, Kind.WORKER_INPUT, Kind.RESIZE})


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How the child ended: an exit code or the number of the signal, and when (Unix time)."""

    code: int | None
    signal: int | None
    at: float

    @property
    def shell_code(self) -> int:
        """The code a shell would show: 128 and the signal's number for a signal."""
        return self.code if self.code is not None else 128 + (self.signal or 0)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a holder knows of its child. Times are Unix times in seconds.

    ``last_input_at`` is when a person last typed through an attached terminal;
    ``watchers`` counts the attached connections, read-only ones included. ``input_open`` says
    whether input is still taken. ``files`` are where a one-shot run writes its ``output`` and
    ``errors``; it has no terminal, and no rows and cols (0). None for a terminal.
    """

    protocol: int
    holder_pid: int
    pid: int
    started_at: float
    rows: int
    cols: int
    exited: Exit | None
    last_input_at: float | None
    watchers: int
    input_open: bool
    files: Mapping[str, str] | None


#: What a holder means that was started before it could say so.
LATER_FIELDS = {"input_open": True, "files": None}


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame. The payload may have up to MAX_PAYLOAD bytes."""
    if len(payload) > MAX_PAYLOAD:
        sentence = f"a frame cannot carry {len(payload)} bytes"
        raise HolderError(sentence)
    return HEADER.pack(kind.value, len(payload)) + payload


def encode_json(kind: Kind, **fields: object) -> bytes:
    return encode(kind, json.dumps(fields).encode())


def encode_input(kind: Kind, data: bytes) -> bytes:
    """Input of any length, as as many frames as it takes."""
    pieces = range(0, len(data), INPUT_CHUNK)
    return b"".join(encode(kind, data[start : start + INPUT_CHUNK]) for start in pieces)


def decode_status(payload: bytes) -> Status:
    """The payload of an H or Q frame. Fields a newer holder adds are ignored."""
    fields = json.loads(payload)
    if fields["protocol"] != PROTOCOL:
        sentence = f"the holder speaks protocol {fields['protocol']}, we speak {PROTOCOL}"
        raise HolderError(sentence)
    exited = fields["exited"]
    fields = LATER_FIELDS | fields
    known = {name: fields[name] for name in Status.__dataclass_fields__ if name != "exited"}
    return Status(**known, exited=decode_exit(exited) if exited else None)


def decode_exit(fields: dict[str, Any] | bytes) -> Exit:
    """The payload of an X frame, the content of an exit file, or either already parsed."""
    if isinstance(fields, bytes):
        fields = json.loads(fields)
    assert isinstance(fields, dict)
    return Exit(code=fields["code"], signal=fields["signal"], at=fields["at"])


def decode_error(payload: bytes) -> HolderRefusedError:
    """The payload of an E frame."""
    fields = json.loads(payload)
    order = fields.get("to")
    return HolderRefusedError(
        str(fields["error"]), order=read_kind(order.encode()) if order else None
    )


class FrameReader:
    """Turns bytes as they arrive into frames."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Take in bytes and yield the frames that are complete. Raises HolderError."""
        self._waiting += data
        while len(self._waiting) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._waiting)
            if length > MAX_PAYLOAD:
                sentence = f"the holder announced a frame of {length} bytes"
                raise HolderError(sentence)
            end = HEADER.size + length
            if len(self._waiting) < end:
                return
            payload = bytes(self._waiting[HEADER.size : end])
            del self._waiting[:end]
            yield read_kind(kind), payload


def read_kind(byte: bytes) -> Kind:
    try:
        return Kind(byte)
    except ValueError as error:
        sentence = f"the holder sent an unknown frame {byte!r}"
        raise HolderError(sentence) from error


class HolderClient:
    """A blocking connection to a holder: for the CLI and for tests.

    ``hello`` is the holder's status at connection. Every method raises HolderGoneError when
    the connection is lost and TimeoutError after ``timeout`` seconds without progress.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader()
        self._frames: list[tuple[Kind, bytes]] = []
        kind, payload = self.receive()
        if kind is not Kind.HELLO:
            sentence = f"the holder began with {kind.name}"
            raise HolderError(sentence)
        self.hello = decode_status(payload)

    @classmethod
    def connect(cls, socket_path: Path | str, *, timeout: float | None = 10.0) -> Self:
        """Connect and read the hello. Raises HolderError when no holder listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(socket_path))
            return cls(connection)
        except OSError as error:
            connection.close()
            sentence = f"no holder answers on {socket_path}: {error}"
            raise HolderGoneError(sentence) from error
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def fileno(self) -> int:
        return self.connection.fileno()

    @property
    def has_frames(self) -> bool:
        """Whether frames have arrived that a selector can no longer see."""
        return bool(self._frames)

    def receive(self) -> tuple[Kind, bytes]:
        """The next frame, whatever it is."""
        while not self._frames:
            try:
                data = self.connection.recv(INPUT_CHUNK)
            except ConnectionError as error:
                raise HolderGoneError() from error
            if not data:
                raise HolderGoneError()
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def take(self) -> list[tuple[Kind, bytes]]:
        """The frames that are here or come with one read; for use with a selector."""
        first = self.receive()
        rest, self._frames = self._frames, []
        return [first, *rest]

    def send(self, data: bytes) -> None:
        """Send encoded frames."""
        try:
            self.connection.sendall(data)
        except ConnectionError as error:
            raise HolderGoneError() from error

    def attach(self, rows: int, cols: int, *, read_only: bool = False) -> Status:
        """Ask for the scrollback and all later output, as OUTPUT frames of `receive`."""
        order = encode_json(Kind.ATTACH, rows=rows, cols=cols, read_only=read_only)
        return decode_status(self._order(order, Kind.STATUS))

    def send_input(self, data: bytes) -> None:
        """Type for a person."""
        self.send(encode_input(Kind.PERSON_INPUT, data))

    def resize(self, rows: int, cols: int) -> None:
        self.send(encode_json(Kind.RESIZE, rows=rows, cols=cols))

    def status(self) -> Status:
        """The present status. Not to be mixed with an attached `receive`: it drops output."""
        return decode_status(self._order(encode(Kind.STATUS), Kind.STATUS))

    def snapshot(self) -> bytes:
        """The scrollback, ready to be shown on a terminal."""
        return self._order(encode(Kind.SNAPSHOT), Kind.SNAPSHOT)

    def signal(self, name: str) -> None:
        """Signal the child, by name without SIG. Raises HolderRefusedError when it has ended."""
        self._order(encode_json(Kind.SIGNAL, signal=name), Kind.STATUS)

    def leave(self) -> None:
        """Have the holder of an ended child go. Raises HolderRefusedError while the child lives."""
        self.send(encode(Kind.LEAVE))
        while True:
            try:
                kind, payload = self.receive()
            except HolderGoneError:
                return
            if kind is Kind.ERROR:
                raise decode_error(payload)

    def _order(self, order: bytes, answer: Kind) -> bytes:
        self.send(order)
        while True:
            kind, payload = self.receive()
            if kind is Kind.ERROR:
                raise decode_error(payload)
            if kind is answer:
                return payload
