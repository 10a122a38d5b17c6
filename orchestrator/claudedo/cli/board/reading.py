"""Screens to read from: help, logs, a diff, and one ask in full with the keys to decide it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import chop_cells
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from claudedo.cli import ask_view, render
from claudedo.cli.board.dialogs import key_line
from claudedo.cli.board.lines import Lines
from claudedo.cli.board.picture import Json
from claudedo.cli.render import Cell

if TYPE_CHECKING:
    from claudedo.cli.board.decisions import Decisions
    from claudedo.cli.board.desk import Desk

_TAB = 8


class Reading(Screen[None]):
    """A text that can be scrolled, under a title, above a line of keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("pagedown,space,ctrl+f", "page(1)", show=False),
        Binding("pageup,b,ctrl+b", "page(-1)", show=False),
        Binding("home,g", "edge(0)", show=False),
        Binding("end,G", "edge(-1)", show=False),
        Binding("q,escape", "back", show=False),
    ]
    KEYS: ClassVar[dict[str, str]] = {"j k space b": "scroll", "g G": "ends", "q": "back"}

    def __init__(self, title: str, lines: Sequence[Cell] = (), *, at_end: bool = False) -> None:
        super().__init__()
        self._title = render.line(title)
        self._cells: list[Cell] = list(lines)  # replaced, never changed
        self._folded: tuple[int, list[Cell], list[Text]] = (0, [], [])
        self._at_end = at_end  # new lines keep the last one in sight

    @property
    def desk(self) -> Desk:
        """The application."""
        return cast("Desk", self.app)

    def compose(self) -> ComposeResult:
        top, keys, said = Lines(id="top"), Lines(id="keys"), Lines(id="said")
        for bar in (top, keys, said):
            bar.add_class("bar")
        yield top
        yield Lines(id="main")
        yield said
        yield keys

    def on_mount(self) -> None:
        self.draw()

    def on_resize(self, _event: events.Resize) -> None:
        self.call_after_refresh(self.draw)

    def check_action(self, _action: str, _parameters: tuple[object, ...]) -> bool | None:
        """No key does anything once another screen is above: it was typed for that one."""
        return self.is_current and bool(self.query(Lines))

    def fill(self, lines: Sequence[Cell]) -> None:
        """Show these lines instead."""
        self._cells = list(lines)
        self.draw()

    def draw(self) -> None:
        """Show what there is, in the present width."""
        width = self.size.width
        if not width or not self.query(Lines):  # not there yet, or not any more
            return
        main = self.query_one("#main", Lines)
        at_end = self._at_end and not main.below
        main.show_lines(self._lines(width))
        if at_end:
            main.scroll_to_line(-1)
        more = f"  ({main.below} more below)" if main.below else ""
        self.query_one("#top", Lines).show_lines([self.title_line(width, more)])
        self.query_one("#said", Lines).show_lines([said_line(self.desk)])
        self.query_one("#keys", Lines).show_lines([key_line(self.keys(), width)])

    def _lines(self, width: int) -> list[Text]:
        """The text in lines of this width; made once, because it may be long."""
        made_for, cells, lines = self._folded
        if made_for != width or cells is not self._cells:
            lines = [line for cell in self._cells for line in folded(cell, width)]
            self._folded = (width, self._cells, lines)
        return lines

    def title_line(self, width: int, more: str) -> Text:
        """The first line of the screen."""
        text = Text(self._title, style="bold", end="", no_wrap=True)
        text.truncate(max(1, width - len(more)), overflow="ellipsis")
        return text.append(more, "dim")

    def keys(self) -> dict[str, str]:
        """The keys that are shown at the bottom."""
        return self.KEYS

    def action_scroll(self, count: int) -> None:
        self.query_one("#main", Lines).scroll_lines(count)
        self.draw_ends()

    def action_page(self, way: int) -> None:
        main = self.query_one("#main", Lines)
        main.scroll_lines(way * max(1, main.size.height - 1))
        self.draw_ends()

    def action_edge(self, index: int) -> None:
        self.query_one("#main", Lines).scroll_to_line(index)
        self.draw_ends()

    def draw_ends(self) -> None:
        """Say anew how much there is below."""
        below = self.query_one("#main", Lines).below
        more = f"  ({below} more below)" if below else ""
        self.query_one("#top", Lines).show_lines([self.title_line(self.size.width, more)])

    def action_back(self) -> None:
        self.dismiss(None)


class AskReading(Reading):
    """One ask in full. Leaves by itself when the ask was decided, here or elsewhere."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide('allow')", show=False),
        Binding("Y,A", "decide('allow_always')", show=False),
        Binding("n", "decide('deny')", show=False),
        Binding("e", "decide('edit')", show=False),
        Binding("w", "decide('answer')", show=False),
        Binding("a", "attach", show=False),
    ]

    def __init__(self, ask: Json, decisions: Decisions, attach: Callable[[Json], None]) -> None:
        super().__init__("")
        self.ask = ask
        self._decisions = decisions
        self._attach_to = attach
        self._more: Json = ask  # with the session's last sentence, once it is there
        self._body = ask_view.body(ask)

    def on_mount(self) -> None:
        self.draw()
        self.desk.work(lambda: self.desk.client.ask(self.ask["id"]), self._know_more)

    def _know_more(self, ask: Json) -> None:
        self._more = ask
        self.draw()

    def draw(self) -> None:
        situation = self.desk.situation
        if situation is not None and situation.ask(self.ask["id"]) is None:
            self._gone()
            return
        cells = self._drawn()
        if cells != self._cells:
            self._cells = cells
        super().draw()

    def _drawn(self) -> list[Cell]:
        lines = [*ask_view.said(self._more), Cell("")] if self._more.get("said") else []
        lines += [ask_view.title(self.ask), Cell(""), *self._body]
        if held := ask_view.rule(self.ask):
            lines += [Cell(""), Cell(f"Y also allows from now on, in this session: {held}", "dim")]
        if others := self._decisions.others(self.ask):
            names = ", ".join(others)
            lines += [Cell(""), Cell(f"The very same waits in {names}.", "dim")]
        return lines

    def title_line(self, width: int, more: str) -> Text:
        text = ask_view.row(ask_view.head(self.ask))
        text.no_wrap, text.end = True, ""
        text.truncate(max(1, width - len(more)), overflow="ellipsis")
        return text.append(more, "dim")

    def keys(self) -> dict[str, str]:
        return ask_keys(self.ask) | {"a": "attach", "j k": "scroll", "q": "back"}

    def action_decide(self, verb: str) -> None:
        self._decisions.decide(verb, self.ask)

    def on_key(self, event: events.Key) -> None:
        """The number of a choice begins the answer; Enter then gives it."""
        typed = event.character if self.is_current else None
        if typed and typed.isdecimal() and ask_view.questions(self.ask):
            event.stop()
            self._decisions.answer(self.ask, typed)

    def action_attach(self) -> None:
        self._attach_to(self.ask)

    def _gone(self) -> None:
        if self.is_current:
            self._decisions.tell_outcome(self.ask)
            self.dismiss(None)


def ask_keys(ask: Json) -> dict[str, str]:
    """The keys that decide an ask of this kind, and what each does."""
    if ask["kind"] == "question":
        return {"w": "answer", "n": "deny"}
    if ask["kind"] == "plan":
        return {"y": "approve", "Y": "and edits", "n": "refuse", "w": "what it lacks"}
    if ask["kind"] == "task":
        return {"y": "done", "n": "reject", "w": "reply"}
    return {"y": "allow", "Y": "always", "n": "deny", "e": "edit"}


def said_line(desk: Desk) -> Text:
    """What was said last."""
    style = "bold red" if desk.wrong else "cyan"
    mark = "! " if desk.wrong else ""
    return Text(mark + desk.said, style=style, end="", no_wrap=True)


def folded(cell: Cell, width: int) -> list[Text]:
    """A line in as many lines as it needs; the gutter stands before each."""
    text = cell.text.expandtabs(_TAB)
    gutter = ask_view.GUTTER if text.startswith(ask_view.GUTTER) else ""
    room = max(1, width - len(gutter))
    parts = chop_cells(text[len(gutter) :], room) or [""]
    return [Text(gutter + part, style=cell.style, end="", no_wrap=True) for part in parts]
