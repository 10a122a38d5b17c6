"""The live list itself: the screen that bare `claudedo` shows, and its keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from claudedo.cli import ask_view, render
from claudedo.cli.board import picture
from claudedo.cli.board.decisions import Decisions
from claudedo.cli.board.deeds import Deeds
from claudedo.cli.board.desk import Desk
from claudedo.cli.board.dialogs import key_line
from claudedo.cli.board.lines import Choices, Lines
from claudedo.cli.board.picture import Json, Row
from claudedo.cli.board.reading import SEEN_FIRST, AskReading, Reading, ask_keys, said_line
from claudedo.cli.board.sheet import Sheet
from claudedo.cli.exits import Exit
from claudedo.cli.render import Cell
from claudedo.client import WorkerClient

SETTLE_SECONDS = 1.0
"""After the cursor was moved by what went away, keys that decide or open count only then."""

ROOMY_HEIGHT = 16
"""Terminals lower than this have no lines to spare for details."""

_TASK_KEYS = {
    "Enter": "attach",
    "s": "send",
    "d": "diff",
    "l": "log",
    "x": "stop",
    "R": "restart",
    "o": "page",
}
_ENDS = {"?": "help", "q": "quit"}

HELP = """\
What asks for you stands on top, oldest first; then every task and its session.

 up down j k   choose; g G: first, last; PgUp PgDn: by ten
 Enter         an ask: read it in full; a session: attach
 a             attach to the real terminal; Ctrl-] comes back to the list
 s             send a message; the line above the keys says how far it came

On an ask
 y             allow, approve, a task is done; what is unseen is opened first
 Y (or A)      allow, and keep the rule that the CLI suggests, for this session
 n             deny or reject, with a reason if you like
 e             edit the command or input in $EDITOR, then allow it
 w             answer, by number or in own words; say what a plan lacks;
               answer a task, which completes it (s only says something)

On a session
 d  l          its diff; its conversation
 x  R          stop it (asks first); restart: the same conversation goes on
 o             open the page; over SSH: its link, and how to reach it
 r             look again now

q and Ctrl-C leave; sessions, asks and the worker go on. Ctrl-Z suspends.
(name) is a session that claudedo does not run; `claudedo adopt` brings it in."""


class Board(Desk):
    """The application with its first screen."""

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.deeds = Deeds(self)
        self.decisions = Decisions(self)

    def get_default_screen(self) -> Sheet:
        return Listing(self.deeds, self.decisions)


class Listing(Sheet):
    """The list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("home,g", "move(-100000)", show=False),
        Binding("end,G", "move(100000)", show=False),
        Binding("enter", "open", show=False),
        Binding("a", "attach", show=False),
        Binding("s", "send", show=False),
        Binding("y", "decide('allow')", show=False),
        Binding("Y,A", "decide('allow_always')", show=False),
        Binding("n", "decide('deny')", show=False),
        Binding("e", "decide('edit')", show=False),
        Binding("w", "decide('answer')", show=False),
        Binding("x", "stop", show=False),
        Binding("R", "restart", show=False),
        Binding("d", "diff", show=False),
        Binding("l", "logs", show=False),
        Binding("o", "page", show=False),
        Binding("r", "look", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q", "leave", show=False),
    ]

    def __init__(self, deeds: Deeds, decisions: Decisions) -> None:
        super().__init__()
        self._deeds = deeds
        self._decisions = decisions
        self._slipped_at = float("-inf")

    def main(self) -> Sequence[Widget]:
        return [Choices(id="main"), Lines(id="details")]

    # Drawing

    def draw(self) -> None:
        """Show what is known now, in the present width."""
        width = self.size.width
        if not width or not self.query(Lines):  # not there yet, or not any more
            return
        situation = self.desk.situation
        main = self.query_one("#main", Choices)
        if situation is None:
            top = picture.asking(width)
        else:
            if main.show_rows(picture.rows(situation, width, time.time())):
                self._slipped_at = time.monotonic()
            top = picture.summary(situation, width)
        self.query_one("#top", Lines).show_lines([top])
        self.query_one("#details").display = self.size.height >= ROOMY_HEIGHT
        self.query_one("#details", Lines).show_lines(picture.details(main.row, width))
        self.query_one("#said", Lines).show_lines([said_line(self.desk)])
        self.query_one("#keys", Lines).show_lines([key_line(self._keys(main.row), width)])

    def _keys(self, row: Row | None) -> dict[str, str]:
        if row is not None and row.ask is not None:
            keys = {"Enter": "read", **ask_keys(row.ask), "a": "attach", "s": "send"}
        else:
            keys = _TASK_KEYS if row is not None else {"o": "page"}
        return keys | _ENDS

    # What keys do

    def action_move(self, count: int) -> None:
        self.query_one("#main", Choices).move(count)
        self._slipped_at = float("-inf")
        self.draw()

    def action_open(self) -> None:
        row = self._row()
        if self._has_slipped():
            return
        if row is not None and row.ask is not None:
            self._read(row.ask)
        else:
            self.action_attach()

    def action_decide(self, verb: str) -> None:
        row = self._row()
        if row is None or row.ask is None:
            self.desk.say("That is for an ask: choose one on top.", wrong=True)
        elif self._has_slipped():
            return
        elif verb in SEEN_FIRST and not row.whole:
            self._read(row.ask)
        else:
            self._decisions.decide(verb, row.ask)

    def _has_slipped(self) -> bool:
        """True, and said, if the cursor was moved by what went away only a moment ago."""
        slipped = time.monotonic() < self._slipped_at + SETTLE_SECONDS
        if slipped:
            self.desk.say("The list has just moved: look, then press it again.", wrong=True)
        return slipped

    def _read(self, ask: Json) -> None:
        self.desk.push_screen(AskReading(ask, self._decisions, self._attach_to))

    def action_attach(self) -> None:
        row = self._row()
        if row is not None and row.ask is not None:
            self._attach_to(row.ask)
        else:
            self._with_task(lambda task: self._deeds.attach(task["id"], render.line(task["name"])))

    def _attach_to(self, ask: Json) -> None:
        session = ask_view.session_of(ask)
        if session is None:
            self.desk.say("Who asks this is no session of ours.", wrong=True)
        else:
            self._deeds.attach(session, render.line(str(ask["task_name"])))

    def action_send(self) -> None:
        self._with_task(self._deeds.send)

    def action_stop(self) -> None:
        self._with_task(self._deeds.stop)

    def action_restart(self) -> None:
        self._with_task(self._deeds.restart)

    def action_diff(self) -> None:
        self._with_task(self._deeds.diff)

    def action_logs(self) -> None:
        self._with_task(self._deeds.logs)

    def action_page(self) -> None:
        self._deeds.open_page()

    def action_look(self) -> None:
        self.desk.say("")
        self.desk.look()

    def action_help(self) -> None:
        self.desk.push_screen(Reading("Keys", [Cell(line) for line in HELP.split("\n")]))

    def action_leave(self) -> None:
        self.desk.leave(Exit.DONE)

    def _row(self) -> Row | None:
        return self.query_one("#main", Choices).row

    def _with_task(self, do: Callable[[Json], None]) -> None:
        """Do something with the task under the cursor, if claudedo runs it."""
        row = self._row()
        task = row.task if row is not None else None
        if task is None:
            self.desk.say("Choose a session first.", wrong=True)
        elif not task["supervised"] or task["id"] is None:
            pid = (task["session"] or {}).get("pid") or "PID"
            self.desk.say(f"Not ours yet: `claudedo adopt {pid}` brings it in.", wrong=True)
        else:
            do(task)


def show(client: WorkerClient) -> int:
    """Show the live list on this terminal until the person leaves; returns the exit status."""
    return Board(client).run_on_terminal()
