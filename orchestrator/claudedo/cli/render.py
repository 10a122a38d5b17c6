"""Everything the commands print, made safe and readable.

Results go to standard output, notes and questions to standard error. Text that came from messages,
tools, repositories or sessions passes through `neutral` or `line` here, so that it cannot drive the
terminal. Plain and unwrapped where standard output is not a terminal; rich is imported only where
it is one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from claudedo.model import QueueStatus, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

# C0 but tab and newline, DEL, C1, line separators, everything that turns the reading direction,
# and half characters that no terminal can be sent.
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

WAITING_FOR_YOU = "waiting for you"

STATE_STYLES = {
    WAITING_FOR_YOU: "bold magenta",
    "starting": "cyan",
    "idle": "green",
    "busy": "yellow",
    "waiting": "bold magenta",
    "stopped": "dim",
    "interrupted": "red",
    "failed": "bold red",
    "completed": "green",
    "rejected": "bold red",
    "skipped": "red",
    "cancelled": "red",
}

DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
"""How a line of a diff looks, by its first character."""

RUNGS = ("stored", "offered", "delivered", "read", "answered")

_GAP = 2  # columns of the terminal between two of a table
_NARROWEST = 12  # that a text which may be cut keeps at least


@dataclass(frozen=True)
class Cell:
    """One field of a table: its text, and how it looks on a terminal."""

    text: str
    style: str = ""


def neutral(text: str) -> str:
    """Return `text` with every character that could drive a terminal made visible instead.

    Newline and tab stay. `\\r\\n` counts as a newline.
    """
    return _DANGEROUS.sub(_visible, text.replace("\r\n", "\n"))


def line(text: str) -> str:
    """Return `text` neutralised and on one line."""
    return " ".join(neutral(text).split())


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


# Where it goes


def prepare() -> None:
    """Let no text fail for want of a character in the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def out_is_terminal() -> bool:
    """True if a person reads the results."""
    return sys.stdout.isatty()


def notes_are_seen() -> bool:
    """True if a person reads the notes as they come."""
    return sys.stderr.isatty()


def can_show_screens() -> bool:
    """True if a person is at a terminal that can place text anywhere, and nothing is piped."""
    placeable = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return placeable and all(one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr))


def can_ask() -> bool:
    """True if there is a person to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def show(text: str, style: str = "") -> None:
    """Print a result, neutralised."""
    safe = neutral(text)
    if style and out_is_terminal():
        console().print(_text(safe, style), soft_wrap=True)
    else:
        print(safe, flush=True)


def raw(text: str) -> None:
    """Print a result that a program reads, unchanged; neutralised if a person reads it."""
    print(neutral(text) if out_is_terminal() else text, flush=True)


def note(text: str) -> None:
    """Print a remark on standard error, neutralised."""
    print(neutral(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    """Print why a command failed."""
    note(f"claudedo: {text}")


def as_json(value: Any) -> None:
    """Print `value` as JSON, in ASCII, which no terminal can misread."""
    print(json.dumps(value, indent=2), flush=True)


def as_json_line(value: Any) -> None:
    """Print `value` as JSON on one line, for those who follow."""
    print(json.dumps(value), flush=True)


def ask(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; only y and yes mean yes."""
    print(f"{neutral(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def prompt(question: str) -> str | None:
    """A line that the person types below `question`; None at the end of the input (Ctrl-D)."""
    with contextlib.suppress(ImportError):  # a Python may be built without it
        import readline  # noqa: F401  # so that the line can be edited
    note(question)
    try:
        return input("> ")
    except EOFError:
        return None


# Tables


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], cut: Sequence[int] = ()) -> None:
    """Print a table: coloured and fitted on a terminal, plain columns otherwise.

    `cut`: the columns of which a terminal that is too narrow shows the beginning only.
    """
    if out_is_terminal():
        console().print(rich_table(heads, shortened(heads, rows, cut)))
    else:
        for text in _columns(heads, rows):
            print(text, flush=True)


def rich_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """The table as rich draws it."""
    from rich.table import Table

    drawn = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="dim",
        show_header=any(heads),
    )
    for head in heads:
        drawn.add_column(head, overflow="fold")
    for row in rows:
        drawn.add_row(*(_text(line(cell.text), cell.style) for cell in row))
    return drawn


def shortened(
    heads: Sequence[str], rows: Sequence[Sequence[Cell]], columns: Sequence[int]
) -> list[list[Cell]]:
    """The rows with `columns` so short that each row is one line of this terminal, if it can be.

    The widest one gives first. None becomes narrower than its head, and none narrower than a
    few words as long as another can give.
    """
    from rich.cells import cell_len, set_cell_size

    lines = [[line(cell.text) for cell in row] for row in rows]
    widths = [max(map(cell_len, texts)) for texts in zip(heads, *lines, strict=True)]
    excess = sum(widths) + _GAP * len(widths) - console().width
    for narrowest in (_NARROWEST, 0):
        least = [max(len(head), narrowest) for head in heads]
        while excess > 0 and (wide := [one for one in columns if widths[one] > least[one]]):
            widths[max(wide, key=lambda one: widths[one])] -= 1
            excess -= 1
    return [
        [
            Cell(set_cell_size(text, width - 1).rstrip() + "…", cell.style)
            if cell_len(text) > width
            else cell
            for cell, text, width in zip(row, texts, widths, strict=True)
        ]
        for row, texts in zip(rows, lines, strict=True)
    ]


def _columns(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    lines = [list(heads), *([line(cell.text) or "-" for cell in row] for row in rows)]
    widths = [max(len(texts[column]) for texts in lines) for column in range(len(heads))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
        for texts in lines
    ]


@contextmanager
def live(
    on_terminal: bool, *, notes: bool = False, stays: bool = True
) -> Iterator[Callable[[Any], None] | None]:
    """Give a function that redraws one place of the terminal, or None where there is none.

    `stays`: whether what was drawn last is still there afterwards.
    """
    if not on_terminal:
        yield None
        return
    from rich.live import Live

    with Live(console=console(notes=notes), auto_refresh=False, transient=not stays) as area:
        yield lambda drawn: area.update(drawn, refresh=True)


def console(*, notes: bool = False) -> Console:
    """The terminal, as rich sees it; honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=notes, highlight=False, markup=False, emoji=False)


def _text(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(text, style=style)


# Words for facts


def in_queue(task: Mapping[str, Any]) -> tuple[str, str] | None:
    """How a one-shot stands that no session works on, and why; None for every other task."""
    queue, session = task.get("queue"), task["session"]
    if not queue or (session and SessionState(session["state"]).live):
        return None
    if queue["status"] == QueueStatus.QUEUED:
        return str(queue["status"]), "claudedo queue run starts it"
    return str(queue["status"]), "" if queue["exit"] == 0 else str(queue["reason"] or "")


def age(since: str, now: float | None = None) -> str:
    """How long ago the stored moment `since` was: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0, int((time.time() if now is None else now) - moment(since).timestamp()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment(text: str) -> datetime:
    """The stored moment `text` (ISO 8601) as a point in time."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def size(count: int) -> str:
    """A number of bytes as a person reads it: `812 B`, `12.3 kB`, `4.0 MB`."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def file(carried: Mapping[str, Any]) -> str:
    """A file that a message carries, in one line: `  + plan.pdf  12.3 kB  application/pdf  f_…`."""
    name, kind = line(carried["filename"]), line(carried["mimeType"])
    return f"  + {name}  {size(carried['size'])}  {kind}  {carried['id']}"


def clock(text: str) -> str:
    """The stored moment `text` as a person here reads it."""
    return moment(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ladder(receipts: dict[str, str | None], via: str | None) -> str:
    """How far a message came: `stored ✓ offered ✓ delivered ✓ read - answered - (by hook)`."""
    rungs = [f"{rung} {'✓' if receipts.get(f'{rung}_at') else '-'}" for rung in RUNGS]
    return " ".join(rungs) + (f" (by {line(via)})" if via else "")


def rung_reached(receipts: dict[str, str | None]) -> str:
    """The highest rung that the message reached."""
    return next(rung for rung in reversed(RUNGS) if receipts.get(f"{rung}_at") or rung == "stored")
