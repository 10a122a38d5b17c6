"""The worker's side of one session's terminal: what is typed, and what is on screen.

`Terminal` adds a terminal's orders to a `HolderLink`; `screen` draws a snapshot, so that start-up
dialogs and the input box can be read. What a dialog means and when to type is not known here.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyte

from claudedo.holding import HolderError, Kind, Status, encode, encode_input, encode_json
from claudedo_worker.holder_link import HolderLink

OUTPUT_QUEUE = 64  # frames an attached Terminal holds before its holder has to


class Terminal(HolderLink):
    """A connection to a holder with a terminal; `HolderLink` says what holds for every method."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._output: asyncio.Queue[bytes | None] = asyncio.Queue(OUTPUT_QUEUE)
        self._attached = False

    async def write(self, data: bytes) -> None:
        """Type for the worker: it does not count as a person's input. Any length, order kept."""
        await self._send(encode_input(Kind.WORKER_INPUT, data))

    async def resize(self, rows: int, cols: int) -> None:
        """Set the window size."""
        await self._send(encode_json(Kind.RESIZE, rows=rows, cols=cols))

    async def snapshot(self) -> bytes:
        """The scrollback as a terminal would need it to show the same; see `screen`.

        It starts empty with every respawn.
        """
        return await self._order(encode(Kind.SNAPSHOT), Kind.SNAPSHOT)

    async def attach(self, rows: int, cols: int, *, read_only: bool = True) -> None:
        """Have `output` give the scrollback and what follows. Best on a connection of its own:
        answers queue up behind output that nobody takes."""
        order = encode_json(Kind.ATTACH, rows=rows, cols=cols, read_only=read_only)
        await self._order(order, Kind.STATUS, self._begin_output)

    async def output(self) -> AsyncIterator[bytes]:
        """After `attach`: the output until the child ends or the connection is lost."""
        while True:
            data = await self._output.get()
            if data is None:
                return
            yield data

    def _check(self, hello: Status) -> None:
        if hello.files is not None:
            raise HolderError("the holder has a one-shot run, not a terminal")

    def _begin_output(self, _status: bytes) -> None:
        self._attached = True  # an end told before this ends no output

    async def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.OUTPUT:
            await self._output.put(payload)
        else:
            await super()._take(kind, payload)

    async def _over(self) -> None:
        if self._attached:  # else nobody takes it
            await self._output.put(None)


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
