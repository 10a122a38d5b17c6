"""How a run of one-shots looks while it goes on: a live table, lines, or groups of a build log.

Draws what it is shown and decides nothing. Everything here goes to standard error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from claudedo.cli import github, render
from claudedo.model import QueueStatus

Json = Mapping[str, Any]

HEADS = ("NAME", "STATUS", "EXIT", "TRIES", "COST", "SECONDS", "REASON")
REASON = 6
"""The column of the reason, which may be cut."""

_STYLES = {
    QueueStatus.QUEUED: "dim",
    QueueStatus.RUNNING: "yellow",
    QueueStatus.COMPLETED: "green",
    QueueStatus.REJECTED: "bold red",
    QueueStatus.FAILED: "bold red",
    QueueStatus.SKIPPED: "red",
    QueueStatus.CANCELLED: "red",
}
_ORDER = (QueueStatus.RUNNING, QueueStatus.QUEUED)
_AROUND = 3  # lines of the terminal that are not a task's


class Silent:
    """Shows nothing."""

    def show(self, tasks: Sequence[Json], asks: Mapping[str, str]) -> None:
        """`tasks` as they are now; `asks`: what waits for a person, by the task's id."""


class Lines(Silent):
    """A line for everything that happens to a task."""

    def __init__(self) -> None:
        self._known: dict[str, Json] = {}
        self._asked: dict[str, str] = {}

    def show(self, tasks: Sequence[Json], asks: Mapping[str, str]) -> None:
        for task in tasks:
            before = self._known.get(task["task"])
            self._known[task["task"]] = task
            self._tell(task, before)
            title = asks.get(task["task"], "")
            if title and title != self._asked.get(task["task"]):
                note(f"{task['name']}: asks {title} (`claudedo next` answers)")
            self._asked[task["task"]] = title

    def _tell(self, task: Json, before: Json | None) -> None:
        status = QueueStatus(task["status"])
        if status.over:
            if before is None or before["status"] != status:
                self._end(task)
        elif before is None or before["status"] != status:
            if before is not None or status is QueueStatus.RUNNING:
                note(f"{task['name']}: {status}")
        elif 0 < before["attempts"] < task["attempts"]:
            note(f"{task['name']}: attempt {task['attempts']}")

    def _end(self, task: Json) -> None:
        note(outcome(task))


class Groups(Lines):
    """Lines, with a group for each task that ended, as GitHub Actions folds them."""

    def _end(self, task: Json) -> None:
        text = "\n".join([*(f"{key}: {told}" for key, told in _facts(task)), task["result"] or ""])
        for line in github.group(render.line(outcome(task)), render.neutral(text).rstrip("\n")):
            render.note(line)
        if task["exit"]:
            about = f"{task['reason']} (exit {task['exit']})"
            render.note(github.error(render.line(task["name"]), render.line(about)))


class Table(Silent):
    """One place of the terminal in which all of them stand."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._since: dict[str, tuple[Any, float]] = {}  # when the present process was first seen

    def show(self, tasks: Sequence[Json], asks: Mapping[str, str]) -> None:
        rows = [self._row(task, asks.get(task["task"])) for task in tasks]
        room = max(1, render.console(notes=True).height - _AROUND)
        if len(rows) > room:
            kept = sorted(range(len(rows)), key=lambda at: _place(tasks[at]))[:room]
            more = render.Cell(f"and {len(rows) - room} more", "dim")
            rows = [rows[at] for at in sorted(kept)]
            rows.append([more, *[render.Cell("")] * (len(_LIVE) - 1)])
        self._draw(render.rich_table(_LIVE, render.shortened(_LIVE, rows, (1,))))

    def _row(self, task: Json, ask: str | None) -> list[render.Cell]:
        status = QueueStatus(task["status"])
        tries = str(task["attempts"]) if task["attempts"] > 1 else ""
        doing = f"asks (claudedo next): {ask}" if ask else task["doing"]
        now = doing if status is QueueStatus.RUNNING and doing else str(status)
        if status.over and task["exit"]:
            now = f"{status} ({task['exit']}): {task['reason']}"
        style = "bold magenta" if ask else _STYLES[status]
        return [
            render.Cell(task["name"], "bold"),
            render.Cell(now, style),
            render.Cell(f"{self._seconds(task):.0f}" if task["started_at"] else ""),
            render.Cell(_cost(task) if task["seconds"] else ""),  # of processes that ended
            render.Cell(tries),
        ]

    def _seconds(self, task: Json) -> float:
        """What it took until now, the process that runs included."""
        seconds = float(task["seconds"])
        if task["status"] != QueueStatus.RUNNING:
            self._since.pop(task["task"], None)
            return seconds
        mark, now = (task["attempts"], seconds), time.monotonic()
        known, since = self._since.get(task["task"], (None, now))
        if known != mark:
            since = now
            self._since[task["task"]] = (mark, now)
        return seconds + now - since


_LIVE = ("NAME", "NOW", "SECONDS", "COST", "TRIES")


def _place(task: Json) -> int:
    """What is looked at first where there is no room for all."""
    status = QueueStatus(task["status"])
    return _ORDER.index(status) if status in _ORDER else len(_ORDER)


@contextmanager
def progress(quiet: bool) -> Iterator[Silent]:
    """What shows a run here: on a terminal the table, on GitHub Actions groups, else lines."""
    if quiet:
        yield Silent()
    elif github.is_here():
        yield Groups()
    else:
        with render.live(render.notes_are_seen(), notes=True, stays=False) as draw:
            yield Table(draw) if draw else Lines()


def note(text: str) -> None:
    """A line of progress, in which GitHub Actions finds no command."""
    render.note(github.harmless(render.line(text)))


def outcome(task: Json) -> str:
    """How it ended, in a line: `build: completed in 12.3 s, $0.02`."""
    cost = f", {_cost(task)}" if task["cost_usd"] is not None else ""
    if not task["attempts"]:
        return f"{task['name']}: {task['status']}"
    return f"{task['name']}: {task['status']} in {task['seconds']:.1f} s{cost}"


def row(task: Json, several: bool) -> list[render.Cell]:
    """A row under `HEADS`; `several`: of more than one workspace."""
    name = f"{task['workspace']}/{task['name']}" if several else task["name"]
    exit_ = "" if task["exit"] is None else str(task["exit"])
    return [
        render.Cell(name, "bold"),
        render.Cell(str(task["status"]), _STYLES[QueueStatus(task["status"])]),
        render.Cell(exit_),
        render.Cell(str(task["attempts"] or "")),
        render.Cell(_cost(task)),
        render.Cell(f"{task['seconds']:.1f}" if task["started_at"] else ""),
        render.Cell(github.harmless(_about(task))),
    ]


def table(tasks: Sequence[Json]) -> None:
    """All of them, on standard output."""
    several = len({task["workspace"] for task in tasks}) > 1
    render.table(HEADS, [row(task, several) for task in tasks], cut=(REASON,))


def _about(task: Json) -> str:
    """Why it is as it is."""
    if task["status"] == QueueStatus.QUEUED and task["needs"]:
        return f"needs {', '.join(task['needs'])}"
    if task["status"] == QueueStatus.RUNNING:
        return str(task["doing"] or "")
    return "" if task["exit"] == 0 else str(task["reason"] or "")


def _facts(task: Json) -> Iterator[tuple[str, str]]:
    reason = task["reason"] if task["exit"] else None
    told = {"reason": reason, "branch": task["branch"], "session": task["session_id"]}
    yield from ((key, str(value)) for key, value in told.items() if value)
    yield from (("denied", denial) for denial in task["denials"])
    yield from (("not read", message) for message in task["unread"])


def _cost(task: Json) -> str:
    return "" if task["cost_usd"] is None else f"${task['cost_usd']:.2f}"
