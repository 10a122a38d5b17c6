"""Follows sessions until they are past their start-up, and says what they are doing meanwhile.

Only looks; what the sessions do is decided by the worker. Everything shown here goes to standard
error, because the result of `start` and `restart` is what they print in the end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claudedo.cli import render
from claudedo.cli.exits import Exit
from claudedo.errors import TimedOutError

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

QUIET_SECONDS = 600.0
"""How long nothing may change at all before the command stops looking."""

_LOOK_SECONDS = 0.2
_DIALOG = "start-up dialog"  # how `waiting_for` begins when only a person can answer


@dataclass(frozen=True)
class Sight:
    """What one session was doing when it was last looked at."""

    id: str
    name: str
    state: str
    waiting_for: str

    @property
    def needs_person(self) -> bool:
        """True while a start-up dialog is open that claudedo may not answer."""
        return self.state == "waiting" and self.waiting_for.startswith(_DIALOG)

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "stopped", "interrupted")

    @property
    def settled(self) -> bool:
        """True when looking longer will not help: it works, failed, or waits for a person."""
        return self.state not in ("none", "starting")

    @property
    def has_own_limit(self) -> bool:
        """True while a setup runs: the worker ends one that takes longer than is configured."""
        return self.waiting_for == "running setup"

    @property
    def sentence(self) -> str:
        if self.state == "starting":
            return f"{self.name}: {self.waiting_for or self.state}"
        return f"{self.name}: {self.state}" + (f", {self.waiting_for}" if self.waiting_for else "")


def follow(client: WorkerClient, ids: list[str]) -> tuple[list[dict[str, Any]], Exit]:
    """Show progress until every session of the tasks `ids` settled.

    Returns the tasks as `ls --json` lists them, in the order of `ids`, and the exit status that
    fits: `FAILED` when a session failed, `REFUSED` when one waits for a person and there is no
    terminal to be one. Raises `TimedOutError` when nothing changes for `QUIET_SECONDS`.
    """
    with render.live(render.notes_are_seen(), notes=True, stays=False) as draw:
        shown: list[Sight] = []
        changed_at = time.monotonic()
        while True:
            tasks = _tasks(client, ids)
            seen = [sight(task) for task in tasks]
            if seen != shown or any(one.has_own_limit for one in seen):
                changed_at = time.monotonic()
            if seen != shown:
                _show(seen, shown, draw)
                shown = seen
            if all(one.settled for one in seen):
                break
            if time.monotonic() > changed_at + QUIET_SECONDS:
                raise TimedOutError(
                    f"Nothing changed for {QUIET_SECONDS / 60:.0f} minutes; the sessions go on "
                    "without this command: look with `claudedo ls`."
                )
            time.sleep(_LOOK_SECONDS)
    return tasks, _verdict(client, shown)


def sight(task: dict[str, Any]) -> Sight:
    """What one element of `ls --json` says about its session."""
    session = task["session"] or {"state": "none", "waiting_for": "waiting for its turn"}
    waiting_for = render.line(session["waiting_for"] or "")
    return Sight(task["id"], task["name"], session["state"], waiting_for)


def _tasks(client: WorkerClient, ids: list[str]) -> list[dict[str, Any]]:
    known = {task["id"]: task for task in client.tasks()}
    return [known[task] if task in known else client.task(task) for task in ids]


def _show(seen: list[Sight], shown: list[Sight], draw: Any) -> None:
    if draw is None:
        for one in seen:
            if one not in shown:
                render.note(one.sentence)
        return
    rows = [
        (
            render.Cell(one.name, "bold"),
            render.Cell(one.state, render.STATE_STYLES.get(one.state, "")),
            render.Cell(one.waiting_for),
        )
        for one in seen
    ]
    draw(render.rich_table(("", "", ""), rows))


def _verdict(client: WorkerClient, seen: list[Sight]) -> Exit:
    """Say what is left to do, and how the command ends."""
    status = Exit.DONE
    for one in seen:
        if one.needs_person:
            render.note(
                f"{one.name} waits in a {one.waiting_for}, which only you can answer: "
                f"claudedo attach {one.name}"
            )
            if not render.can_ask():
                status = Exit.REFUSED
    for one in seen:
        if one.failed:
            reason = _reason(client, one.id) or "no reason is known"
            render.error(f"{one.name} {_ENDED[one.state]}: {reason}")
            status = Exit.FAILED
    return status


_ENDED = {"failed": "failed", "stopped": "was stopped", "interrupted": "lost its terminal"}


def _reason(client: WorkerClient, task: str) -> str:
    session = client.task(task)["session"] or {}
    return render.line(session.get("reason") or "")
