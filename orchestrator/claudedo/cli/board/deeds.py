"""What a person does with a session: attach, send, stop, restart, read its log or its diff."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from uuid import uuid4

import typer
from rich.text import Text

from claudedo.cli import ask_view, render, terminal
from claudedo.cli.board.desk import Desk
from claudedo.cli.board.dialogs import Choose, Write
from claudedo.cli.board.picture import Json
from claudedo.cli.board.reading import Reading
from claudedo.cli.render import Cell
from claudedo.errors import TimedOutError
from claudedo.model import Priority, check_body

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Characters of a command's output that are shown."""

_COMMAND_SECONDS = 120


class Deeds:
    """What the person at one desk does with tasks."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._drafts: dict[str, str] = {}  # task -> what was written and not sent

    def attach(self, task_id: str, name: str) -> None:
        """Show the session's real terminal until Ctrl-] or its end."""
        with self._desk.terminal_given_away():
            render.note(f"{name}: Ctrl-] comes back to the list.")
            try:
                terminal.show_terminal(self._desk.client, task_id)
            except typer.Exit as end:
                self._desk.call_later(
                    self._desk.say, f"{name} ended (exit {end.exit_code}).", wrong=True
                )
        self._desk.look()

    def send(self, task: Json) -> None:
        """Let the person write to the task, then say how far it comes."""
        name, task_id = render.line(task["name"]), task["id"]

        def written(text: str | None) -> None:
            if text is None:
                return
            self._drafts[task_id] = text  # until it is stored
            self._desk.work(lambda: self._store(task_id, text), stored)

        def stored(sent: Json) -> None:
            self._drafts.pop(task_id, None)
            self._desk.follow(sent, name)
            self._desk.look()

        def keep(draft: str) -> None:
            self._drafts[task_id] = draft

        lines = [Text(f"To {name}:", "bold")]
        draft = self._drafts.get(task_id, "")
        self._desk.push_screen(Write(lines, draft, keep=keep), written)

    def _store(self, task_id: str, text: str) -> Json:
        key = uuid4().hex  # the same for every try, so that a worker's death never doubles it
        return self._desk.client.send(
            task_id, check_body(text), priority=Priority.NORMAL, reply_to=None, key=key
        )

    def stop(self, task: Json) -> None:
        """End the session, once the person says that they mean it."""
        name = render.line(task["name"])

        def chosen(key: str | None) -> None:
            if key:
                self._desk.say(f"Stopping {name} …")
                self._desk.work(lambda: self._desk.client.stop(task["id"]), stopped)

        def stopped(ran: bool) -> None:
            self._desk.say(f"{name} {'stopped' if ran else 'was not running'}.")
            self._desk.look()

        lines = [Text(f"Stop {name}? Its worktree, branch and messages stay.", "bold")]
        self._desk.push_screen(Choose(lines, {"y": "stop it"}), chosen)

    def restart(self, task: Json) -> None:
        """Resume the conversation in a new process, with the environment of this shell."""
        name, env = render.line(task["name"]), dict(os.environ)

        def restarted(_: None) -> None:
            self._desk.say(f"{name} goes on.")
            self._desk.look()

        self._desk.say(f"Restarting {name} …")
        self._desk.work(lambda: self._desk.client.restart(task["id"], env), restarted)

    def logs(self, task: Json) -> None:
        """Show the conversation, and what is added to it."""
        screen = Log(self._desk, task)
        self._desk.push_screen(screen)

    def diff(self, task: Json) -> None:
        """Show what `claudedo diff` tells."""
        screen = Reading(f"{task['name']}: diff", [Cell("…", "dim")])
        self._show_output(screen, ["diff", task["id"]], _coloured_diff)

    def open_page(self) -> None:
        """Open the page, or show the link where no browser can be opened."""
        screen = Reading("The page", [Cell("…", "dim")])
        self._show_output(screen, ["open"], lambda text: [Cell(one) for one in text.split("\n")])

    def _show_output(
        self, screen: Reading, arguments: list[str], drawn: Callable[[str], list[Cell]]
    ) -> None:
        """Run a command of ours and show what it prints."""

        def filled(text: str) -> None:
            if screen.is_attached:
                screen.fill(drawn(text))

        self._desk.push_screen(screen)
        self._desk.work(lambda: _output(arguments), filled)


class Log(Reading):
    """A conversation, to which lines are added as they come."""

    def __init__(self, desk: Desk, task: Json) -> None:
        super().__init__(
            f"{task['name']}: log", [Cell("Nothing was said yet.", "dim")], at_end=True
        )
        self._client = desk.client
        self._task_id = task["id"]
        self._next = 0
        self._looking = False

    def draw(self) -> None:
        self._look()
        super().draw()

    def _look(self) -> None:
        """Ask for what is new, one question at a time."""
        if self._looking:
            return
        self._looking = True
        after = self._next
        self.desk.work(lambda: self._page(after), self._add)

    def _page(self, after: int) -> Json | None:
        try:
            return self._client.log(self._task_id, after)
        finally:
            self._looking = False

    def _add(self, page: Json | None) -> None:
        if page is None or page["next"] == self._next:
            return
        if self._next == 0:
            self._cells = []
        self._next = page["next"]
        said = [cell for one in page["lines"] for cell in _entry(one)]
        self._cells = [*self._cells, *said]
        if self.is_attached:
            self.draw()


def _entry(said: Json) -> list[Cell]:
    """One thing that was said; the gutter keeps a text from looking like somebody else's."""
    lines = render.neutral(said["text"]).rstrip("\n").split("\n")
    return [
        Cell(f"{render.line(said['role'])}:", "bold"),
        *(Cell(f"{ask_view.GUTTER}{line}") for line in lines),
    ]


def _coloured_diff(text: str) -> list[Cell]:
    return [Cell(line, render.DIFF_STYLES.get(line[:1], "")) for line in text.split("\n")]


def _output(arguments: list[str]) -> str:
    """What a command of ours prints, notes included, neutralised."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "claudedo.cli.app", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOutError(
            f"claudedo {arguments[0]} took too long here; run it by itself."
        ) from error
    text = render.neutral(done.stdout.decode(errors="replace")).strip("\n")
    return text[:OUTPUT_LIMIT] or "Nothing."
