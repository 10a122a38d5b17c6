"""What `claudedo run` costs over a bare `claude -p`: the same turn, side by side.

Both ask the same scripted model for the same steps in the same repository, in turn, so that what
else the machine does meets both. A worker is running, as on a developer's machine. Loopback only.

    CLAUDEDO_TEST_CLAUDES=... python -m tests.bench.one_shot [--runs N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from claudedo.demo.model import Answer, ModelRequest, Slow, Text, ToolUse
from tests.support.claude_home import claude_params
from tests.support.repository import git
from tests.support.world import World

LIMIT = 180.0  # seconds for one run
WARM_UP = 1  # runs of each that are not counted
FLAGS = ("--permission-mode", "acceptEdits")
TOOLS = ("--allowedTools", "Bash")
_ASKED: Mapping[str, Any] = {"capture_output": True, "text": True, "timeout": LIMIT, "check": True}


@dataclass(frozen=True)
class Case:
    """A turn of so many requests, each of which the model answers in so many seconds."""

    name: str
    requests: int
    seconds: float

    @property
    def prompt(self) -> str:
        """What no text of the CLI's own contains: the model tells cases apart by it."""
        return f"BENCH-{self.name}"


CASES = (
    Case("quick", 1, 0.0),
    Case("steps", 5, 0.0),
    Case("work", 5, 1.0),
    Case("long", 10, 2.0),
)


def brain(case: Case) -> Callable[[ModelRequest], Answer]:
    """Calls a tool until the last request of the turn."""

    def answer(request: ModelRequest) -> Answer:
        done = sum(
            block.get("type") == "tool_result"
            for message in request.body["messages"]
            for block in message["content"]
            if isinstance(block, dict)
        )
        step = ToolUse("Bash", {"command": "true"}) if done + 1 < case.requests else Text("done")
        return Slow(step, case.seconds) if case.seconds else step

    return answer


# One run of each kind, as the moments at which things happened


def bare(world: World, case: Case) -> dict[str, float]:
    """`claude -p`, where somebody stands."""
    command = [str(world.claude), "-p", case.prompt, *FLAGS, *TOOLS]
    before, began = len(world.model.requests), time.time()
    ended = _run(command, world)
    return {"command": began, "claude": began, **_asked(world, before, case), "exit": ended}


def one_shot(world: World, case: Case) -> dict[str, float]:
    """`claudedo run`, a worktree and a verdict included."""
    name = f"{case.name}-{time.monotonic_ns()}"
    command = [world.command, "run", case.prompt, "--name", name, "--trust", "--json", *FLAGS]
    before, began = len(world.model.requests), time.time()
    ended = _run([*command, "--", *TOOLS], world)
    told = world.ask(lambda worker: worker.report(world.id(name)))
    assert told["exit"] == 0, told
    output = (Path(told["folder"]) / "output.jsonl").read_text().split("\n")
    lines = [json.loads(line) for line in output if line]
    ours = {line["event"]: float(line["at"]) for line in lines if line.get("type") == "claudedo"}
    world.run("rm", name, "--force")
    return {
        "command": began,
        "begun": _moment(told["started_at"]),
        "claude": ours["began"],
        **_asked(world, before, case),
        "claude's end": ours["ended"],
        "verdict": _moment(told["ended_at"]),
        "exit": ended,
    }


def worktree(world: World, case: Case) -> dict[str, float]:
    """What git alone takes to make the worktree that a one-shot gets."""
    place = world.root / "by-hand"
    began = time.time()
    git(world.repository, "worktree", "add", "-q", "-b", "by-hand", str(place))
    ended = time.time()
    git(world.repository, "worktree", "remove", "--force", str(place))
    git(world.repository, "branch", "-q", "-D", "by-hand")
    return {"command": began, "exit": ended}


def _run(command: Sequence[str], world: World) -> float:
    done = subprocess.run(
        command,
        cwd=world.repository,
        env=world.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"{command} -> {done.returncode}\n{done.stdout}{done.stderr}")
    return ended


def _asked(world: World, before: int, case: Case) -> dict[str, float]:
    asked = [
        request.time.timestamp() for request in world.model.requests[before:] if request.is_main
    ]
    assert len(asked) == case.requests, f"{len(asked)} requests instead of {case.requests}"
    return {"first request": asked[0], "last request": asked[-1]}


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# What they show


def measure(world: World, case: Case, runs: int) -> dict[str, list[dict[str, float]]]:
    """Runs of each kind, in turn and in changing order."""
    world.model.script(lambda request: case.prompt in request.text, brain(case))
    kinds = [bare, one_shot, worktree]
    taken: dict[str, list[dict[str, float]]] = {kind.__name__: [] for kind in kinds}
    for turn in range(runs + WARM_UP):
        for kind in kinds if turn % 2 else reversed(kinds):
            moments = kind(world, case)
            if turn >= WARM_UP:
                taken[kind.__name__].append(moments)
    return taken


def shown(case: Case, taken: Mapping[str, list[dict[str, float]]]) -> Iterator[str]:
    """What each takes, what the neighbouring runs differ by, and where the time went.

    Medians; in brackets the best of all runs.
    """
    alone, ours, trees = (_spans(taken[kind]) for kind in ("bare", "one_shot", "worktree"))
    wholes = list(zip(alone["whole"], ours["whole"], trees["whole"], strict=True))
    more = [run - plain - tree for plain, run, tree in wholes]
    shares = [(run - plain - tree) / plain for plain, run, tree in wholes]
    best = min(ours["whole"]) - min(alone["whole"]) - min(trees["whole"])
    yield (
        f"{case.name}: {case.requests} requests of {case.seconds:g} s, {len(wholes)} runs each: "
        f"beyond the worktree {statistics.median(more):.3f} s ({best:.3f}), "
        f"{statistics.median(shares):.1%} ({best / min(alone['whole']):.1%})"
    )
    yield f"  git worktree add: {statistics.median(trees['whole']):.3f} ({min(trees['whole']):.3f})"
    for title, spans in (("claude -p", alone), ("claudedo run", ours)):
        steps = (
            f"{step} {statistics.median(values):.3f} ({min(values):.3f})"
            for step, values in spans.items()
        )
        yield f"  {title}: {' | '.join(steps)}"


def _spans(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The seconds from each moment to the next, for each run."""
    names = list(runs[0])
    pairs = itertools.pairwise(names)
    spans = {f"… {after}": [run[after] - run[before] for run in runs] for before, after in pairs}
    return {"whole": [run["exit"] - run["command"] for run in runs], **spans}


@contextmanager
def a_world(claude: Path) -> Iterator[World]:
    """One in which a worker runs, as it does where somebody works."""
    with (
        tempfile.TemporaryDirectory(prefix="claudedo-bench-") as folder,
        World(claude, Path(folder)) as world,
    ):
        world.run("worker", "start")
        yield world


def main() -> None:
    """Measure all cases on all versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, metavar="N")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--json", type=Path, metavar="FILE", help="all moments of all runs")
    chosen = parser.parse_args()
    claudes = [Path(name) for name in claude_params() if name]
    if not claudes:
        raise SystemExit("CLAUDEDO_TEST_CLAUDES names no claude.")
    everything: dict[str, Any] = {}
    for claude in claudes:
        with a_world(claude) as world:
            told = subprocess.run([claude, "--version"], env=world.environment, **_ASKED)
            version = str(told.stdout).split()[0]
            for case in CASES:
                if chosen.case and case.name not in chosen.case:
                    continue
                taken = measure(world, case, chosen.runs)
                everything[f"{version} {case.name}"] = taken
                for line in [f"claude {version}", *shown(case, taken), f"load {os.getloadavg()}"]:
                    sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
    if chosen.json:
        chosen.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
