"""Reads a session's screen while it starts, and answers the dialogs that may be answered.

Options are found by their labels, reached with arrow keys, and Enter is pressed only when the
screen shows the wanted one selected: their order and numbering differ between versions, and a
blind Enter can mean "No, exit" (docs/claude-cli.md 3.3, 19.1-19.6).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum

from claudedo_worker.terminal import Screen, Terminal, screen

ROWS, COLS = 50, 120
SETTLE = 0.4
"""Seconds between a dialog's drawing and the first key: newer versions drop earlier ones (19.4)."""

CLOSING = 5.0
"""Seconds for an answered dialog to go; pressing Enter again sooner could answer the next one."""

START_UP = "start-up dialog"
"""How `waiting_for` begins while a dialog at the start is left to the person."""

DOWN, UP, ENTER, CLEAR = b"\x1b[B", b"\x1b[A", b"\r", b"\x15"

_MARK = "\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"
_OPTION = re.compile(rf"^\s*[│|]?\s*({_MARK})?\s*(?:\d+\.\s*)?(\S.*?)\s*[│|]?\s*$")
_NO_CHANNEL = re.compile(r"channels ignored|Channels are not currently available", re.IGNORECASE)


class Kind(StrEnum):
    """The start-up dialogs that are known by their text (19.2)."""

    TRUST = "folder trust"
    SERVER = "a project MCP server"
    BYPASS = "the bypass-permissions warning"
    CHANNEL = "the development channel warning"
    API_KEY = "an API key in the environment"
    DIRECTORY = "a directory to add"
    SET_UP = "the first set-up of Claude Code"
    OTHER = "a question"


_SIGNS = {
    Kind.TRUST: "Quick safety check",
    Kind.SERVER: "New MCP server found",
    Kind.BYPASS: "Bypass Permissions mode",
    Kind.CHANNEL: "Loading development channels",
    Kind.API_KEY: "Detected a custom API key",
    Kind.DIRECTORY: "Adding a new directory",
}

# The steps of the first set-up (3.1) do not say "Enter to confirm".
_SET_UP = ("Choose the text style that looks best", "Select login method")

LABELS = {
    Kind.TRUST: "Yes, I trust this folder",
    Kind.BYPASS: "Yes, I accept",
    Kind.CHANNEL: "I am using this for local development",
    Kind.DIRECTORY: "Yes, add it",
}


WAIT_FOR_LIMIT = "Stop and wait for limit to reset"
"""The option that closes the question of what to do about a subscription's limit (29.5)."""

# What keeps a `claude` from starting, by what its screen says last (3.1), and what to do about it.
_ADVICE = {
    "Unable to connect to Anthropic": "run `claude` once in a terminal to finish its set-up",
    "Select login method": "run `claude` once in a terminal to log in",
    "Please run /login": "run `claude` once in a terminal to log in",
    "No conversation found": "its conversation is gone; `claudedo rm` and `start` begin a new one",
}


@dataclass(frozen=True)
class Dialog:
    """A question on the screen: its options in order, and which one is selected."""

    kind: Kind
    options: tuple[str, ...]
    selected: int


def find(shown: Screen) -> Dialog | None:
    """The dialog on the screen, if one is there (19.2)."""
    flat = " ".join(shown.text.split())
    if any(sign in flat for sign in _SET_UP):
        return Dialog(Kind.SET_UP, (), 0)
    if "Enter to confirm" not in flat:
        return None
    lines = list(shown.lines)
    marked = next((i for i, line in reversed(list(enumerate(lines))) if _selected(line)), None)
    if marked is None:
        return None
    kind = next((kind for kind, sign in _SIGNS.items() if sign in flat), Kind.OTHER)
    first, last = _block(lines, marked)
    options = tuple(_label(line) for line in lines[first : last + 1])
    return Dialog(kind, options, marked - first)


def at_start(waiting_for: str | None) -> bool:
    """True if a session waits in a dialog of its start."""
    return (waiting_for or "").startswith(START_UP)


def last_words(shown: Screen) -> str:
    """The last lines of a screen in one sentence, and what to do about it where that is known."""
    lines = [line.strip() for line in shown.lines if line.strip(" ─│╭╮╰╯")]
    said = " / ".join(lines[-4:]) or "it showed nothing"
    flat = " ".join(shown.text.split())
    advice = [advice for sign, advice in _ADVICE.items() if sign in flat]
    return "; ".join([said, *advice[:1]])


def says_no_channel(shown: Screen) -> bool:
    """True if the start-up notice says that channels are not available (4.2)."""
    return _NO_CHANNEL.search(" ".join(shown.text.split())) is not None


async def look(terminal: Terminal) -> Screen:
    """The screen as a person would see it now."""
    status = await terminal.status()
    # Drawing a long scrollback takes seconds.
    return await asyncio.to_thread(screen, await terminal.snapshot(), status.rows, status.cols)


async def choose(terminal: Terminal, label: str) -> bool:
    """Select the option with this label and confirm it; False if it could not be selected.

    The screen is read again after each key; at most a dozen keys are sent. Returns when the dialog
    is gone, or after `CLOSING` seconds.
    """
    await asyncio.sleep(SETTLE)
    for _ in range(12):
        dialog = find(await look(terminal))
        if dialog is None:
            return False
        wanted = next((i for i, text in enumerate(dialog.options) if label in text), None)
        if wanted is None:
            return False
        if wanted == dialog.selected:
            await terminal.write(ENTER)
            await _gone(terminal, dialog)
            return True
        await terminal.write(DOWN if wanted > dialog.selected else UP)
        await asyncio.sleep(0.15)
    return False


async def _gone(terminal: Terminal, dialog: Dialog) -> None:
    try:
        async with asyncio.timeout(CLOSING):
            while find(await look(terminal)) == dialog:  # noqa: ASYNC110 - a screen tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        # The key was dropped (19.4); the caller sees the dialog again and answers it again.
        return


def input_box(shown: Screen) -> str | None:
    """What stands in the input box: "" if it is empty, None if there is no box.

    A suggestion drawn dim is no draft.
    """
    for row in range(len(shown.cells) - 1, 0, -1):
        cells = shown.cells[row]
        if "".join(cell.char for cell in cells[:3]).strip().startswith((_MARK, ">")):
            above = "".join(cell.char for cell in shown.cells[row - 1])
            if "────" in above:
                return _draft(shown, row)
    return None


def _draft(shown: Screen, first: int) -> str:
    rows = []
    for number in range(first, len(shown.cells)):
        cells = list(shown.cells[number])
        if "────" in "".join(cell.char for cell in cells):
            break
        body = cells[1:] if number == first else cells
        # The cursor is a reversed cell: it stands on a suggestion's first letter, or on nothing.
        kept = [
            cell.char
            for cell, following in zip(body, [*body[1:], body[-1]], strict=True)
            if not cell.dim and not (cell.reverse and following.dim)
        ]
        rows.append("".join(kept).strip())
    return "\n".join(rows).strip()


def _selected(line: str) -> bool:
    found = _OPTION.match(line)
    return found is not None and found.group(1) is not None


def _label(line: str) -> str:
    found = _OPTION.match(line)
    return found.group(2) if found else ""


def _block(lines: list[str], marked: int) -> tuple[int, int]:
    """The first and last line of the list of options around the selected one."""
    first = last = marked
    while first > 0 and lines[first - 1].strip():
        first -= 1
    while last + 1 < len(lines) and lines[last + 1].strip() and "Enter to" not in lines[last + 1]:
        last += 1
    return first, last
