"""A person answers at the terminal while another decision comes from afar: one of them counts.

Each race is one prompt of a real session. Its delays and answers are drawn by lot, seeded, so that
either side wins about half of them. `make test` runs a few, `make chaos` a hundred each version.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claudedo.client import WorkerClient
from claudedo.demo.model import Answer, ModelRequest, Text, ToolUse
from claudedo.errors import ConflictError
from claudedo.holding import HolderClient, Kind, encode_input
from claudedo.settings import load
from tests.support.world import World

pytestmark = pytest.mark.acceptance

FEW, MANY = 8, 100
SPREAD = 0.15  # seconds by which either side may come late
YES, CLEAR = "1", "\x15"
NO_REASON = "NO-FROM-AFAR"
REJECTED = "The user doesn't want to proceed with this tool use"


@dataclass
class Race:
    """One prompt, what was said to it from two sides, and what came of it."""

    number: int
    at_terminal: bool  # allow
    from_afar: bool
    key_delay: float
    call_delay: float
    ask: str = ""
    status: str = ""  # what the decision from afar was answered
    answered: dict[str, Any] | None = None

    @property
    def file(self) -> str:
        return f"race-{self.number}"


class Prompts:
    """The model: every request of the main conversation is answered by the next race's call."""

    def __init__(self, count: int) -> None:
        self._numbers = iter(range(count))
        self.told: dict[int, str] = {}  # race -> what the model was told next
        self._asked: int | None = None

    def __call__(self, request: ModelRequest) -> Answer:
        if self._asked is not None:
            self.told[self._asked] = request.latest
        self._asked = next(self._numbers, None)
        if self._asked is None:
            return Text("all races are run")
        return ToolUse("Bash", {"command": f"touch race-{self._asked}", "description": "a race"})


@pytest.mark.one_claude
def test_of_two_answers_at_once_one_counts_and_everything_says_which(world: World) -> None:
    run_races(world, FEW, seed=1)


@pytest.mark.chaos
def test_of_two_answers_at_once_one_counts_a_hundred_times(world: World) -> None:
    run_races(world, MANY, seed=int(os.environ.get("CLAUDEDO_CHAOS_SEED", "7")))


def run_races(world: World, count: int, seed: int) -> None:
    """Run the races in one session, then judge them all."""
    prompts = Prompts(count)
    world.model.otherwise(prompts)
    world.start("backend", claude_args=("--allowedTools", "Agent"), mode="default")
    world.send("backend", "begin")
    worker = WorkerClient(load(world.environment)).connect(start=False)
    with world.terminal("backend") as terminal:
        races = [run(world, worker, terminal, race) for race in drawn(random.Random(seed), count)]
    world.wait_for(lambda: len(prompts.told) == count, "not every result was told")
    wrong = [f"{race}: {why}" for race in races for why in judged(world, worker, prompts, race)]
    winners = Counter(str(worker.ask(race.ask)["decided_by"]) for race in races)
    sys.stdout.write(f"seed {seed}: {dict(winners)}\n")
    assert not wrong, "\n".join(wrong)
    if count >= MANY:
        assert min(winners["user"], winners["terminal"]) >= count // 10, "no races, then"


def drawn(lots: random.Random, count: int) -> Iterator[Race]:
    for number in range(count):
        yield Race(
            number,
            at_terminal=lots.random() < 0.5,
            from_afar=lots.random() < 0.5,
            key_delay=lots.uniform(0, SPREAD),
            call_delay=lots.uniform(0, SPREAD),
        )


def run(world: World, worker: WorkerClient, terminal: HolderClient, race: Race) -> Race:
    """Open the prompt, answer it from both sides, wait until it is over."""
    race.ask = opened(world, worker, race)
    task = world.id("backend")
    world.wait_for(lambda: state(worker, task) == "waiting", "the dialog is not open")
    sides = [
        threading.Thread(target=press, args=(world, terminal, race)),
        threading.Thread(target=decide, args=(world, race)),
    ]
    for side in sides:
        side.start()
    for side in sides:
        side.join()
    world.wait_for(lambda: worker.ask(race.ask)["closed_at"], f"{race} is not closed")
    return race


def opened(world: World, worker: WorkerClient, race: Race) -> str:
    """The ask of the race. A refusal at the terminal ended the turn before: it is told to go on."""

    def find() -> str | None:
        for ask in worker.asks():
            if ask["input"].get("command") == f"touch {race.file}":
                return str(ask["id"])
        return None

    def found_or_idle() -> str | None:
        return find() or ("idle" if state(worker, world.id("backend")) == "idle" else None)

    if world.wait_for(found_or_idle, f"{race} never began") == "idle":
        world.send("backend", f"go on with {race.file}")
    return world.wait_for(find, f"{race} never began")


def state(worker: WorkerClient, task: str) -> str:
    return str(worker.task(task)["session"]["state"])


def press(world: World, terminal: HolderClient, race: Race) -> None:
    """Choose yes or no by its number; typed too late it is a draft, which is deleted."""
    refuse = "3" if "2.1.197" in str(world.claude) else "4"
    time.sleep(race.key_delay)
    for keys in (YES if race.at_terminal else refuse, CLEAR):
        terminal.send(encode_input(Kind.WORKER_INPUT, keys.encode()))
        terminal.status()


def decide(world: World, race: Race) -> None:
    worker = WorkerClient(load(world.environment)).connect(start=False)
    said = {"decision": "allow"} if race.from_afar else {"decision": "deny", "reason": NO_REASON}
    time.sleep(race.call_delay)
    try:
        race.answered = worker.decide(race.ask, said)
        race.status = "200"
    except ConflictError as error:
        race.status = str(error)


def judged(world: World, worker: WorkerClient, prompts: Prompts, race: Race) -> Iterator[str]:
    """What does not agree: the record, the file, the model's next request, the command's answer."""
    ask = worker.ask(race.ask)
    allowed = ask["outcome"] == "allowed"
    if Path(world.worktree("backend") / race.file).exists() != allowed:
        yield f"{ask['outcome']}, but the tool {'did not run' if allowed else 'ran'}"
    told = prompts.told[race.number]
    by_user = ask["decided_by"] == "user"
    expected = "completed with no output" if allowed else NO_REASON if by_user else REJECTED
    if expected not in told:
        yield f"{ask['outcome']} by {ask['decided_by']}, but the model was told {told[:200]!r}"
    if by_user and allowed != race.from_afar:
        yield "decided by the user as the user did not"
    if ask["decided_by"] == "terminal" and allowed != race.at_terminal:
        yield "decided at the terminal as nobody did there"
    if race.status == "200":
        if race.answered is None or (race.answered["outcome"] == "allowed") != race.from_afar:
            yield f"the command was answered {race.answered}"
        if allowed != race.from_afar:
            yield f"the command was told yes, and it was {ask['outcome']}"
    elif by_user or "in its terminal" not in race.status:
        yield f"decided by {ask['decided_by']}, but the command was told {race.status!r}"
