"""The worker's side of one session's terminal: the connection to its holder, and what is on screen.

`Terminal` carries orders and answers in the frames of ``docs/holder-protocol.md``; `screen` draws a
snapshot, so that start-up dialogs and the input box can be read. What a dialog means and when to
type is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyte

from claudedo.holding import (
    Exit,
    FrameReader,
    HolderError,
    HolderGoneError,
    Kind,
    Status,
    decode_error,
    decode_exit,
    decode_status,
    encode,
    encode_input,
    encode_json,
)

READ_SIZE = 64 << 10
ANSWER_PATIENCE = 10.0  # seconds for a holder to say what it is
OUTPUT_QUEUE = 64  # frames an attached Terminal holds before its holder has to


class LaunchError(HolderError):
    """The holder could not start the command; the text says why."""


class TerminalLostError(HolderGoneError):
    """The connection to the session's holder is lost."""


class Terminal:
    """An asyncio connection to one holder.

    Make one with `launch` or `connect` and `close` it; closing ends nothing but the connection.
    Every method raises TerminalLostError once the connection is gone, and HolderRefusedError
    when the holder declines.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._answers: deque[tuple[Kind, asyncio.Future[bytes]]] = deque()
        self._output: asyncio.Queue[bytes | None] = asyncio.Queue(OUTPUT_QUEUE)
        self._attached = False
        self._settled = asyncio.Event()  # the child has ended, or the connection is lost
        self._lost: Exception | None = None
        self._exited: Exit | None = None
        self._hello: Status | None = None
        self._listener: asyncio.Task[None] | None = None

    # -- making one

    @classmethod
    async def launch(
        cls, python: Path | str, holder_path: Path | str, spec: Mapping[str, Any]
    ) -> Self:
        """Start a holder with the specification of docs/holder-protocol.md and connect to it.

        Raises LaunchError with the holder's own sentence when the command cannot be run.
        """
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-I",
            "-S",
            str(holder_path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaint = await process.communicate(json.dumps(spec).encode())
        if not output:
            reason = complaint.decode(errors="replace").strip() or f"exit {process.returncode}"
            sentence = f"the holder did not start: {reason}"
            raise LaunchError(sentence)
        answer = json.loads(output)
        if "error" in answer:
            raise LaunchError(answer["error"])
        return await cls.connect(spec["socket"])

    @classmethod
    async def connect(cls, socket_path: Path | str) -> Self:
        """Connect to a living holder.

        Raises TerminalLostError if there is none, HolderError if it may live but cannot be reached,
        does not answer in time, or speaks another protocol.
        """
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                reader, writer = await asyncio.open_unix_connection(str(socket_path))
                terminal = cls(reader, writer)
                try:
                    await terminal._greet()
                except BaseException:
                    writer.close()
                    raise
        except (ConnectionError, FileNotFoundError) as error:
            sentence = f"no holder answers on {socket_path}: {error}"
            raise TerminalLostError(sentence) from error
        except TimeoutError as error:
            sentence = f"the holder on {socket_path} did not answer in {ANSWER_PATIENCE:.0f} s"
            raise HolderError(sentence) from error
        except OSError as error:
            sentence = f"the holder on {socket_path} cannot be reached: {error}"
            raise HolderError(sentence) from error
        return terminal

    async def _greet(self) -> None:
        early: list[tuple[Kind, bytes]] = []
        while not early:
            data = await self._reader.read(READ_SIZE)
            if not data:
                raise TerminalLostError
            early += self._frames.feed(data)
        for kind, payload in early:
            if self._hello is None:
                if kind is not Kind.HELLO:
                    sentence = f"the holder began with {kind.name}"
                    raise HolderError(sentence)
                self._greeted(payload)
            else:
                await self._take(kind, payload)
        self._listener = asyncio.create_task(self._listen())

    def _greeted(self, payload: bytes) -> None:
        self._hello = decode_status(payload)
        self._exited = self._hello.exited
        if self._exited is None:
            self._settled.clear()
        else:
            self._settled.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up the connection. The session goes on."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        self._lose(TerminalLostError("the connection was closed here"))
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    # -- what is known without asking

    @property
    def hello(self) -> Status:
        """The holder's status at connection, or at the last respawn through this connection."""
        assert self._hello is not None
        return self._hello

    @property
    def exited(self) -> Exit | None:
        """How the child ended; None while it lives."""
        return self._exited

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost is not None

    # -- orders

    async def write(self, data: bytes) -> None:
        """Type for the worker: it does not count as a person's input. Any length, order kept."""
        await self._send(encode_input(Kind.WORKER_INPUT, data))

    async def resize(self, rows: int, cols: int) -> None:
        """Set the window size."""
        await self._send(encode_json(Kind.RESIZE, rows=rows, cols=cols))

    async def signal(self, name: str) -> None:
        """Signal the child, by name without SIG ("TERM")."""
        await self._order(encode_json(Kind.SIGNAL, signal=name), Kind.STATUS)

    async def status(self) -> Status:
        """The present status."""
        return decode_status(await self._order(encode(Kind.STATUS), Kind.STATUS))

    async def snapshot(self) -> bytes:
        """The scrollback as a terminal would need it to show the same; see `screen`."""
        return await self._order(encode(Kind.SNAPSHOT), Kind.SNAPSHOT)

    async def respawn(
        self, argv: Sequence[str], cwd: Path | str, env: Mapping[str, str | None]
    ) -> Status:
        """Run a command after the child has ended, in the same environment and holder.

        ``env`` holds changes for this command only; None removes a variable. The scrollback
        starts empty. Returns the new status.
        """
        order = encode_json(Kind.RESPAWN, argv=list(argv), cwd=str(cwd), env=dict(env))
        await self._order(order, Kind.HELLO)
        return self.hello

    async def leave(self) -> None:
        """Have the holder of an ended child go; the connection is over afterwards."""
        await self._order(encode(Kind.LEAVE), Kind.LEAVE)

    async def wait_exit(self) -> Exit:
        """Wait until the child has ended and all its output was taken in by the holder."""
        await self._settled.wait()
        if self._exited is None:
            raise self._lost or TerminalLostError()
        return self._exited

    async def attach(self, rows: int, cols: int, *, read_only: bool = True) -> None:
        """Have `output` give the scrollback and what follows. Best on a connection of its own:
        answers queue up behind output that nobody takes."""
        order = encode_json(Kind.ATTACH, rows=rows, cols=cols, read_only=read_only)
        await self._order(order, Kind.ATTACH)

    async def output(self) -> AsyncIterator[bytes]:
        """After `attach`: the output until the child ends or the connection is lost."""
        while True:
            data = await self._output.get()
            if data is None:
                return
            yield data

    # -- frames

    async def _send(self, frames: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        self._writer.write(frames)
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise TerminalLostError from error

    async def _order(self, order: bytes, answer: Kind) -> bytes:
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers.append((answer, future))  # with the write below: nothing can come between
        self._writer.write(order)
        return await future

    async def _listen(self) -> None:
        loss: Exception = TerminalLostError()
        try:
            while data := await self._reader.read(READ_SIZE):
                for kind, payload in self._frames.feed(data):
                    await self._take(kind, payload)
        except ConnectionError as error:
            loss.__cause__ = error
        except (HolderError, ValueError, KeyError) as error:
            loss = HolderError(f"the holder does not make sense: {error}")
        self._lose(loss)
        self._writer.close()
        await self._end_output()

    async def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.OUTPUT:
            await self._output.put(payload)
        elif kind is Kind.EXITED:
            self._exited = decode_exit(payload)
            self._settled.set()
            await self._end_output()
        else:
            self._answer(kind, payload)

    async def _end_output(self) -> None:
        if self._attached:  # else nobody takes it
            await self._output.put(None)

    def _answer(self, kind: Kind, payload: bytes) -> None:
        """Hand an answer to the oldest order: the holder answers in order."""
        if not self._answers:
            sentence = f"an unasked {kind.name}"
            raise HolderError(sentence)
        expected, future = self._answers.popleft()
        if kind is Kind.HELLO:
            self._greeted(payload)
        if expected is Kind.ATTACH and kind is Kind.STATUS:
            self._attached, kind = True, Kind.ATTACH  # an end told before this ends no output
        if future.done():
            return  # who asked was cancelled meanwhile
        if kind is Kind.ERROR:
            future.set_exception(decode_error(payload))
        elif kind is expected:
            future.set_result(payload)
        else:
            sentence = f"{kind.name} instead of {expected.name}"
            raise HolderError(sentence)

    def _lose(self, loss: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = loss
        for expected, future in self._answers:
            if future.done():
                continue
            if expected is Kind.LEAVE:
                future.set_result(b"")
            else:
                future.set_exception(loss)
        self._answers.clear()
        self._settled.set()


# ---------------------------------------------------------------- what is on the screen


class Cell(NamedTuple):
    """One place on the screen. Colours are names ("red"), six hex digits, or "default".

    ``char`` is empty right of a wide character.
    """

    char: str
    fg: str
    bg: str
    bold: bool
    dim: bool
    italic: bool
    underline: bool
    reverse: bool


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A drawn screen: ``cells[row][col]``, both counted from 0, and the cursor's (row, col)."""

    cells: tuple[tuple[Cell, ...], ...]
    cursor: tuple[int, int]
    cursor_visible: bool

    @property
    def lines(self) -> list[str]:
        """The text of every row, without trailing spaces."""
        return ["".join(cell.char for cell in row).rstrip() for row in self.cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def screen(snapshot: bytes, rows: int, cols: int) -> Screen:
    """Draw a snapshot on a terminal of the given size.

    Costs about 2 s per MB of what follows the last clearing of the screen: call it in a thread
    for a session that has been running for long.
    """
    canvas = _Canvas(cols, rows)
    text = snapshot.decode("utf-8", "replace")
    clearings = [match.start() for match in CLEARING.finditer(text)]
    if clearings:
        text = text[clearings[-1] :]
    _Stream(canvas).feed(OTHER_STRING.sub("", CONTROL.sub(_supported, text)))
    cells = tuple(
        tuple(_cell(canvas.buffer[row][col]) for col in range(cols)) for row in range(rows)
    )
    return Screen(
        cells=cells,
        cursor=(canvas.cursor.y, min(canvas.cursor.x, cols - 1)),
        cursor_visible=not canvas.cursor.hidden,
    )


def _cell(char: Any) -> Cell:
    return Cell(
        char=char.data,
        fg=char.fg,
        bg=char.bg,
        bold=char.bold,
        dim=char.blink,  # see _attributes
        italic=char.italics,
        underline=char.underscore,
        reverse=char.reverse,
    )


CLEARING = re.compile(r"\x1b\[H\x1b\[2J|\x1b\[2J(?:\x1b\[3J)?\x1b\[H")
CONTROL = re.compile(r"\x1b\[([<=>?]?)([0-9;:]*)([ -/]*)([@-~])")
# Titles, links, queries: nothing of it is on the screen. One may be cut off at the end.
OTHER_STRING = re.compile(r"\x1b[\]P_^X][^\x07\x1b]*(?:\x07|\x1b\\|\Z)")
# The control sequences passed on to pyte, and how many parameters it takes.
PARAMETERS = dict.fromkeys("@ABCDEFGJKLMPXade`gST", 1) | dict.fromkeys("Hfr", 2)
PRIVATE_MODES = {"6", "7", "25"}  # origin, wrapping, cursor: what changes the picture
ALTERNATE_SCREENS = {"47", "1047", "1049"}


def _supported(control: re.Match[str]) -> str:
    """A control sequence in the form pyte understands, or nothing.

    pyte raises on some sequences that Claude Code and others use, and misreads others (it takes
    `CSI > 4 m`, a keyboard setting, for "underline").
    """
    private, parameters, between, final = control.groups()
    if between or private in {"<", "=", ">"}:
        return ""
    if private and final not in "JK":
        return _modes(parameters, final)
    if final == "m":
        attributes = _attributes(parameters)
        return f"\x1b[{attributes}m" if attributes else ""
    if final in "su":
        return "\x1b7" if final == "s" else "\x1b8"
    if final not in PARAMETERS:
        return ""
    parameters = ";".join(re.split("[:;]", parameters)[: PARAMETERS[final]])
    if final == "J" and parameters == "3":
        return ""  # clears what has scrolled away; pyte would clear the screen
    return f"\x1b[{parameters}{final}"


def _modes(parameters: str, final: str) -> str:
    if final not in "hl":
        return ""
    modes = set(parameters.split(";"))
    cleared = "\x1b[2J\x1b[H" if modes & ALTERNATE_SCREENS else ""
    return cleared + "".join(f"\x1b[?{mode}{final}" for mode in sorted(modes & PRIVATE_MODES))


def _attributes(parameters: str) -> str:
    """SGR parameters for pyte, which knows no dim: it is kept as "blink", which nobody uses.

    Claude Code draws the placeholder of an empty input box dim, so it has to be told apart.
    """
    todo = deque(_flat(parameters))
    done: list[str] = []
    while todo:
        code = todo.popleft() or "0"
        if code in {"38", "48", "58"}:
            depth = {"5": 2, "2": 4}.get(todo[0] if todo else "", 0)
            colour = [todo.popleft() for _ in range(min(depth, len(todo)))]
            done += [code, *colour] if code != "58" and len(colour) == depth else []
        else:
            done += ATTRIBUTES.get(code, [code])
    return ";".join(done)


ATTRIBUTES: dict[str, list[str]] = {
    "2": ["5"],
    "5": [],
    "6": [],
    "21": ["4"],
    "22": ["22", "25"],
    "25": [],
    "59": [],
}


def _flat(parameters: str) -> list[str]:
    """Parameters with colons (`4:3`, `38:2::1:2:3`) in the older form without."""
    flat: list[str] = []
    for part in parameters.split(";"):
        code, *rest = part.split(":")
        if code == "4" and rest:
            flat.append("24" if rest[0] == "0" else "4")
        elif rest and rest[0] == "2":
            flat += [code, "2", *rest[-3:]]
        else:
            flat += [code, *rest]
    return flat


class _Canvas(pyte.Screen):
    """A pyte screen that can scroll on demand."""

    def scroll_up(self, count: int = 1) -> None:
        self._scroll(self.delete_lines, count)

    def scroll_down(self, count: int = 1) -> None:
        self._scroll(self.insert_lines, count)

    def _scroll(self, shift: Callable[[int], None], count: int) -> None:
        x, y = self.cursor.x, self.cursor.y
        self.cursor.y = self.margins.top if self.margins else 0
        shift(count)
        self.cursor.x, self.cursor.y = x, y


class _Stream(pyte.Stream):
    csi = pyte.Stream.csi | {"S": "scroll_up", "T": "scroll_down"}
