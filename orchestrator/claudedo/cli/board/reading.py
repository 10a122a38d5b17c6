"""Screens to read from: help, logs, a diff, and what is agreed to only once its end was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType

from claudedo.cli import ask_view, render
from claudedo.cli.ask import whole
from claudedo.cli.board.dialogs import key_line
from claudedo.cli.board.lines import Lines
from claudedo.cli.board.picture import Json
from claudedo.cli.board.sheet import Sheet
from claudedo.cli.render import Cell

if TYPE_CHECKING:
    from claudedo.cli.board.decisions import Decisions
    from claudedo.cli.board.desk import Desk

SEEN_FIRST = ("allow", "allow_always")
"""What is decided only about an ask that was seen in full."""


class Reading(Sheet):
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
        self._opened_at = time.monotonic()

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
        self.draw_ends()
        self.query_one("#keys", Lines).show_lines([key_line(self.keys(), width)])

    def _lines(self, width: int) -> list[Text]:
        """The text in lines of this width; made once, because it may be long."""
        made_for, cells, lines = self._folded
        if made_for != width or cells is not self._cells:
            lines = [
                Text(cell.text, style=cell.style, end="", no_wrap=True)
                for cell in ask_view.folded(self._cells, width)
            ]
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
        """Say anew how much there is below, and what was said since this was opened."""
        below = self.query_one("#main", Lines).below
        more = f"  ({below} more below)" if below else ""
        self.query_one("#top", Lines).show_lines([self.title_line(self.size.width, more)])
        said = said_line(self.desk) if self.desk.said_at >= self._opened_at else Text()
        self.query_one("#said", Lines).show_lines([said if said.plain else self.hint(below)])

    def hint(self, below: int) -> Text:
        """What stands above the keys while nothing was said; `below` lines are not in sight."""
        return Text()

    def action_back(self) -> None:
        self.dismiss(None)


class Consent(Reading):
    """What the person may agree to with `y`, once its last line was in sight."""

    def __init__(self, title: str, lines: Sequence[Cell] = ()) -> None:
        super().__init__(title, lines)
        self._seen: list[Cell] | None = None  # the lines of which the last one was in sight
        self._hasty = False  # wanted to agree before that

    def draw_ends(self) -> None:
        if not self.query_one("#main", Lines).below:
            self._seen, self._hasty = self._cells, False
        super().draw_ends()

    def hint(self, below: int) -> Text:
        if not self.agreeing:
            return Text()
        if self._hasty:
            return Text(f"! {below} more below are unseen: space goes on.", "bold red")
        if self._seen is not self._cells:
            return Text(f"{below} more below: space; y {self.agreeing} at the end.", "cyan")
        return Text("" if below else f"This is all of it; y {self.agreeing}.", "cyan")

    @property
    def agreeing(self) -> str:
        """What `y` does; nothing if there is nothing to agree to."""
        return "allows"

    def has_seen(self) -> bool:
        """True if the end of all of it was in sight; otherwise says so."""
        self._hasty = self._seen is not self._cells
        if self._hasty:
            self.desk.say("")  # draws
        return not self._hasty


class EditReading(Consent):
    """What a person changed in a tool's input, to be allowed like that."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "allow", show=False)]
    KEYS: ClassVar[dict[str, str]] = {"y": "allow it changed", "j k": "scroll", "q": "back"}

    def __init__(self, lines: Sequence[Cell], allow: Callable[[], None]) -> None:
        super().__init__("Allow it changed like this?", lines)
        self._allow = allow

    def action_allow(self) -> None:
        if self.has_seen():
            self.dismiss(None)
            self._allow()


class AskReading(Consent):
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
        self.desk.work(lambda: whole(self.desk.client, self.ask), self._know_more)

    def _know_more(self, ask: Json) -> None:
        self._more, self._body = ask, ask_view.body(ask)
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
        text = ask_view.row(ask_view.head(self._more))
        text.no_wrap, text.end = True, ""
        text.truncate(max(1, width - len(more)), overflow="ellipsis")
        return text.append(more, "dim")

    def keys(self) -> dict[str, str]:
        return ask_keys(self.ask) | {"a": "attach", "j k": "scroll", "q": "back"}

    @property
    def agreeing(self) -> str:
        return _AGREEING.get(self.ask["kind"], "")

    def action_decide(self, verb: str) -> None:
        if verb not in SEEN_FIRST or not self.agreeing or self.has_seen():
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


_AGREEING = {"permission": "allows", "plan": "approves", "task": "marks it done"}


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
