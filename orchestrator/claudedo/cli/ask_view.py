"""How one ask looks: its title, its head, its body, and what "always" would hold.

Takes an element of `asks --json` and gives lines of text with a style each; every line is
neutralised, and what a session wrote stands behind a gutter, so that it cannot pass for a line of
ours. `drawn` makes them what rich and textual draw, `plain` makes them text. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claudedo.cli import render
from claudedo.cli.render import Cell
from claudedo.model import AskKind

if TYPE_CHECKING:
    from rich.text import Text

Ask = Mapping[str, Any]

GUTTER = "  │ "
FOLDED = "  ┆ "
"""Stands before the rest of a line that was too long: no line break of the session's."""

KIND_STYLES = {
    AskKind.TASK: "bold cyan",
    AskKind.PERMISSION: "bold yellow",
    AskKind.QUESTION: "bold magenta",
    AskKind.PLAN: "bold blue",
}

_EDITS = frozenset({"Edit", "MultiEdit", "NotebookEdit", "Write"})
_SAID_LINES = 3
_EDITING = "edits of files"


@dataclass(frozen=True)
class Question:
    """One question of an ask: its choices as (label, description), in order."""

    text: str
    header: str
    choices: tuple[tuple[str, str], ...]
    several: bool  # more than one choice may be taken

    @property
    def labels(self) -> list[str]:
        return [label for label, _ in self.choices]


# The lines


def name(ask: Ask) -> str:
    """The task that asks, as a person names it: with its workspace where there are several."""
    return str(ask.get("name") or ask["task_name"])


def session_of(ask: Ask) -> str | None:
    """The task in whose session it is asked; None where none of ours asks."""
    if ask["kind"] != AskKind.TASK:
        return str(ask["task"])
    kind, _, maker = str(ask.get("creator") or "").partition(":")
    return maker if kind == "task" else None


def title(ask: Ask) -> Cell:
    """The ask in one line."""
    return Cell(render.line(ask["title"]), "bold")


def heading(ask: Ask) -> list[Cell]:
    """What stands above the body: the title, or as much of it as the body does not repeat."""
    if questions(ask):
        return []
    first = render.line(ask["body"].split("\n", 1)[0])
    tool = render.line(ask.get("tool") or "")
    return [Cell(tool, "bold") if title(ask).text == f"{tool}: {first}" else title(ask)]


def head(ask: Ask, place: str = "") -> list[Cell]:
    """Where it stands (`place`, such as `2 of 5`), who asks, what kind it is, and its age."""
    asker = render.line(ask.get("asker") or "")
    parts = [
        Cell(place, "dim"),
        Cell(render.line(name(ask)), "bold"),
        Cell(f"{asker} asks" if asker else "", "dim"),
        Cell(f"agent {render.line(ask['agent'])}" if ask.get("agent") else "", "dim"),
        Cell(str(ask["kind"]), KIND_STYLES.get(ask["kind"], "bold")),
        Cell(render.age(ask["opened_at"]), "dim"),
    ]
    return [part for part in parts if part.text]


def said(ask: Ask) -> list[Cell]:
    """The end of what the session said last; nothing if that is not known."""
    lines = _lines(ask.get("said") or "")
    shown = [text for text in lines if text.strip()][-_SAID_LINES:]
    return [Cell(f"{GUTTER}{text}", "dim italic") for text in shown]


def body(ask: Ask) -> list[Cell]:
    """Everything there is to see of the ask: the command, the diff, the plan, the choices."""
    if asked := questions(ask):
        return [line for question in asked for line in _question(question, len(asked) > 1)]
    lines = _lines(ask["body"] or ask["title"])
    looks = render.DIFF_STYLES if ask.get("tool") in _EDITS else {}
    named = len(looks) and lines[0].startswith("--- ")  # a diff's first two lines name the file
    return [
        *(
            Cell(f"{GUTTER}{text}", "dim" if named and number < 2 else looks.get(text[:1], ""))
            for number, text in enumerate(lines)
        ),
        *(Cell(render.file(file)) for file in ask.get("files") or ()),
    ]


def choices(question: Question) -> list[Cell]:
    """The choices of one question, numbered from 1."""
    lines = []
    for number, (label, description) in enumerate(question.choices, 1):
        lines.append(Cell(f"{number:>4}  {render.line(label)}", "bold"))
        if description:
            lines.append(Cell(f"      {render.line(description)}", "dim"))
    return lines


def rule(ask: Ask) -> str | None:
    """What `always` would allow from then on, in words; None if there is nothing to allow."""
    if ask["kind"] == AskKind.PLAN:
        return _EDITING
    held = [part for suggestion in ask["suggestions"] for part in _held(suggestion)]
    return ", ".join(dict.fromkeys(held)) or None


def outcome(ask: Ask) -> str:
    """How a closed ask ended, in words: `was allowed in its terminal`."""
    where = {"user": "through claudedo", "terminal": "in its terminal"}.get(ask["decided_by"])
    if ask["outcome"] == "gone" or where is None:
        return "is gone: the session went on or ended without an answer"
    return f"was {ask['outcome']} {where}"


# As something that can be shown


def drawn(lines: Sequence[Cell]) -> Text:
    """The lines as one text for rich and textual."""
    from rich.text import Text

    return Text("\n", end="").join(Text(line.text, style=line.style) for line in lines)


def folded(lines: Iterable[Cell], width: int) -> list[Cell]:
    """The lines, each of at most `width` columns; the rest of a longer one stands behind a mark."""
    from rich.cells import chop_cells

    fitting = []
    for line in lines:
        start = GUTTER if line.text.startswith(GUTTER) else ""
        text = line.text.removeprefix(start).expandtabs()
        first = next(iter(chop_cells(text, max(1, width - len(start)))), "")
        rest = chop_cells(text.removeprefix(first), max(1, width - len(FOLDED)))
        fitting.append(Cell(start + first, line.style))
        fitting += [Cell(FOLDED + piece, line.style) for piece in rest if piece]
    return fitting


def row(parts: Sequence[Cell], gap: str = " · ") -> Text:
    """The parts of a head beside each other, for rich and textual."""
    from rich.text import Text

    return Text(gap, style="dim").join(Text(part.text, style=part.style) for part in parts)


def plain(lines: Iterable[Cell]) -> list[str]:
    """The lines without their looks."""
    return [line.text for line in lines]


# Questions


def questions(ask: Ask) -> list[Question]:
    """The questions with choices that the ask consists of; none if it is of another kind.

    Their form is that of AskUserQuestion's input (docs/claude-cli.md 13.9).
    """
    if ask["kind"] != AskKind.QUESTION:
        return []
    return [_read(one) for one in _objects(ask["input"].get("questions")) if one.get("question")]


def _read(given: Mapping[str, Any]) -> Question:
    options = _objects(given.get("options"))
    return Question(
        text=str(given["question"]),
        header=str(given.get("header") or ""),
        choices=tuple(
            (str(one.get("label")), str(one.get("description") or "")) for one in options
        ),
        several=bool(given.get("multiSelect")),
    )


def _objects(given: Any) -> list[Mapping[str, Any]]:
    """The objects of a list that a model wrote, and may have written wrongly."""
    return [one for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []


def _question(question: Question, of_several: bool) -> Iterator[Cell]:
    header = f"{render.line(question.header)}: " if of_several and question.header else ""
    for number, text in enumerate(_lines(question.text)):
        yield Cell(f"{GUTTER}{'' if number else header}{text}", "bold")
    yield from choices(question)


# Words


def _lines(text: str) -> list[str]:
    return render.neutral(text).strip("\n").split("\n")


def _held(suggestion: Mapping[str, Any]) -> Iterator[str]:
    """What one suggested permission update (docs/claude-cli.md 13.3) would allow.

    Nothing for what the worker leaves out of an `always`: refusals, and modes that ask nothing.
    """
    match suggestion:
        case {"type": "addRules", "behavior": "allow"}:
            for one in _objects(suggestion.get("rules")):
                tool, content = one.get("toolName"), one.get("ruleContent")
                yield render.line(f"{tool}({content})" if content else f"every {tool} call")
        case {"type": "setMode", "mode": "acceptEdits"}:
            yield _EDITING
        case {"type": "addDirectories", "directories": [*folders]}:
            for folder in folders:
                yield f"work in {render.line(str(folder))}"
