"""Runs the queue: begins what is ready, waits for news, until nothing that was chosen is left.

The worker owns the sessions and judges them; this is the place that holds the environment which
they need, and the person who may interrupt. Killed, it loses nothing: what runs goes on, and the
next `queue run` takes part in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from claudedo.cli import render
from claudedo.cli.interrupts import Interrupts
from claudedo.cli.queue_progress import Silent
from claudedo.cli.task import BURST_SECONDS, latest
from claudedo.errors import ClaudedoError, RefusedError, UntrustedError
from claudedo.model import QueueStatus

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

Json = dict[str, Any]

EVENT_SECONDS = 20.0
"""The longest wait for news, after which is looked all the same."""

TICK_SECONDS = 1.0  # how often a terminal shows how the time goes by


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How it is to run: what `POST /api/queue/next` takes beside the tasks."""

    rules: Mapping[str, Any]
    jobs: int = 2
    trust: bool = False

    def order(self, tasks: Sequence[str]) -> Json:
        """The request for one turn."""
        return {
            "tasks": list(tasks),
            "jobs": self.jobs,
            "env": dict(os.environ),
            "trust": self.trust,
            "rules": dict(self.rules),
        }


@dataclass
class Chosen:
    """The one-shots that this run is about: those that are named, or all of a workspace.

    Of a workspace: what is queued or running, also what joins it meanwhile.
    """

    client: WorkerClient
    named: frozenset[str] | None = None
    workspace: str | None = None
    cwd: str | None = None
    _before: set[str] | None = field(default=None, init=False)

    def look(self) -> list[Json]:
        """All of them as they are now, in the order in which they were added."""
        if self.named is not None:
            return [one for one in self.client.one_shots() if one["task"] in self.named]
        near = self.client.one_shots(self.workspace, self.cwd)
        over = {one["task"] for one in near if QueueStatus(one["status"]).over}
        self._before = over if self._before is None else self._before & over
        return [one for one in near if one["task"] not in self._before]


@dataclass
class Run:
    """One run, from the first look to the last verdict."""

    client: WorkerClient
    chosen: Chosen
    wishes: Wishes
    interrupts: Interrupts
    ended: Callable[[Json, Sequence[Json]], None]  # is told once of each that ended, and of all
    tasks: list[Json] = field(default_factory=list, init=False)  # as they were last seen
    stranded: list[Json] = field(default_factory=list, init=False)  # nothing begins these
    _seen: int = field(default=0, init=False)
    _asks: dict[str, str] = field(default_factory=dict, init=False)
    _asked: dict[str, str] = field(default_factory=dict, init=False)  # ask -> task
    _told: set[str] = field(default_factory=set, init=False)

    def begin(self) -> None:
        """Look, and begin what is ready; asks the person once for trust that is wanting.

        Raises what keeps all of them from being begun.
        """
        self._seen = latest(self.client)
        self.tasks = self.chosen.look()
        if not self._queued():
            return
        try:
            self._turn()
        except UntrustedError as error:
            if not render.can_ask():
                raise
            with self.interrupts.may_come():
                trusted = render.ask(f"{error} Trust it?")
            if not trusted:
                raise RefusedError("Nothing was begun; --trust says yes beforehand.") from None
            self.wishes = Wishes(rules=self.wishes.rules, jobs=self.wishes.jobs, trust=True)
            self._turn()

    def follow(self, progress: Silent, tick: bool) -> None:
        """Go on until none of them is queued or running, or nothing would begin what is left.

        `tick`: somebody watches the time go by. Raises `KeyboardInterrupt`.
        """
        while True:
            self._show(progress)
            if not any(map(_alive, self.tasks)):
                return
            if not any(map(_runs, self.tasks)) and not self._waits_for_others():
                self._turn()  # what it needs may have come to its end just now
                self.stranded = [] if any(map(_runs, self.tasks)) else self._queued()
                if self.stranded:
                    return
                continue
            turn = self._wait(progress, tick)
            self.tasks = self.chosen.look()
            if turn and self._queued():
                self._turn()

    def put_back(self) -> None:
        """End what runs, cleanly; it waits for its turn again and goes on where it was."""
        running = [one["task"] for one in self.chosen.look() if _runs(one)]
        if running:
            self.client.cancel_one_shots(running, requeue=True)
        self.tasks = self.chosen.look()

    def _turn(self) -> None:
        while True:
            answer = self.client.begin_one_shots(self.wishes.order(self._ids()))
            self.tasks = answer["tasks"]
            if not answer["begun"] or any(map(_runs, self.tasks)):
                return  # else all that began ended at once, and left room for others

    def _ids(self) -> list[str]:
        return [one["task"] for one in self.tasks]

    def _queued(self) -> list[Json]:
        return [one for one in self.tasks if one["status"] == QueueStatus.QUEUED]

    def _show(self, progress: Silent) -> None:
        progress.show(self.tasks, self._asks)
        for one in self.tasks:
            over = QueueStatus(one["status"]).over
            if over and one["task"] not in self._told:
                self._told.add(one["task"])
                self.ended(one, self.tasks)
            elif not over:
                self._told.discard(one["task"])

    def _waits_for_others(self) -> bool:
        """True while something that was not chosen runs and one of them needs it."""
        running = {(one["workspace"], one["name"]) for one in self.client.one_shots() if _runs(one)}
        needs = {(one["workspace"], need) for one in self._queued() for need in one["needs"]}
        return not running.isdisjoint(needs)

    def _wait(self, progress: Silent, tick: bool) -> bool:
        """Wait for news of these tasks; True if more of them may be ready to begin."""
        until = time.monotonic() + EVENT_SECONDS
        while (left := until - time.monotonic()) > 0:
            with self.interrupts.may_come():
                page = self.client.events(self._seen, min(left, TICK_SECONDS if tick else left))
            self._seen = page["next"]
            kinds = {self._heard(event) for event in page["events"]}
            if "queue" in kinds:
                return True
            if tick and "" in kinds:  # what each of them does is shown
                time.sleep(BURST_SECONDS)
                return False
            if tick or "" in kinds:
                self._show(progress)
        return True

    def _heard(self, event: Json) -> str | None:
        """What kind of news it is: `queue`, some other of these tasks (empty), or None."""
        told, ids = event["payload"], {one["task"] for one in self.tasks}
        if event["type"] == "task.updated" and "queue" in told:
            return "queue"
        if told.get("task_id") not in ids:
            return None
        if event["type"] == "ask.opened":
            self._asked[told["ask_id"]] = told["task_id"]
            self._asks[told["task_id"]] = told["title"]
        elif event["type"] == "ask.closed":
            self._asked.pop(told["ask_id"], None)
            if told["task_id"] not in self._asked.values():
                self._asks.pop(told["task_id"], None)
        return ""


def _alive(one: Json) -> bool:
    return not QueueStatus(one["status"]).over


def _runs(one: Json) -> bool:
    return bool(one["status"] == QueueStatus.RUNNING)


def put_back(run: Run) -> None:
    """The same after Ctrl-C, with a word about it; a worker that is gone keeps all as it is."""
    running = [one["name"] for one in run.tasks if _runs(one)]
    if running:
        render.note(f"Ending {', '.join(running)} … (once more leaves at once)")
    try:
        run.put_back()
    except ClaudedoError as error:
        render.error(str(error))
