"""The script for build servers, as one runs it: no worker, a fresh clone, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

from claudedo.demo.answer import Brain
from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.repository import git
from tests.support.world import COMMAND, PATIENCE, World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "ci" / "run.sh"
SCHEMA = ROOT / "tests" / "data" / "junit-10.xsd"

TASKS = """
[tasks.build]
prompt = "As follows.\\nBUILD-IT"
check = "test -f built.txt"

[tasks.ship]
prompt = "As follows.\\nSHIP-IT"
needs = ["build"]
check = "test -f built.txt"

[tasks.polish]
prompt = "As follows.\\nPOLISH-IT"
check = "test -f polished.txt"
"""

WAITING = """
[tasks.wait]
prompt = "WAIT-FOR-IT"
"""


class Job:
    """A build server's job: programs in PATH, a temporary folder of its own, a clone."""

    def __init__(self, world: World) -> None:
        self.world = world
        bin_ = world.root / "bin"
        bin_.mkdir()
        (bin_ / "claudedo").symlink_to(COMMAND)
        (bin_ / "claude").symlink_to(world.claude)
        self.scratch = world.root / "scratch"
        self.scratch.mkdir()
        self.clone = world.root / "clone"
        self.origin = world.root / "origin.git"
        git(world.root, "clone", "-q", "--bare", str(world.repository), str(self.origin))
        git(world.root, "clone", "-q", str(self.origin), str(self.clone))
        (self.clone / "tasks.toml").write_text(TASKS)
        git(self.clone, "add", ".")
        git(self.clone, "commit", "-q", "-m", "add tasks")
        kept = {k: v for k, v in world.environment.items() if not k.startswith("CLAUDEDO_")}
        self.environment = {
            **kept,
            "PATH": f"{bin_}{os.pathsep}{kept['PATH']}",
            "TMPDIR": str(self.scratch),
            "ALLOWED_TOOLS": "Bash",
        }

    def begin(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the script."""
        return subprocess.Popen(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.clone,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The script to its end."""
        running = self.begin(*arguments, **variables)
        out, err = running.communicate(timeout=180)
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def verdict(self, task: str) -> dict[str, Any]:
        """That of a task, from its artifacts."""
        file = self.clone / "claudedo-report" / "tasks" / task / "verdict.json"
        told: dict[str, Any] = json.loads(file.read_text())
        return told

    def left(self) -> dict[str, Any]:
        """What is there that was not there before the script, but for the reports."""
        trees = self.clone.with_name("clone.worktrees")
        return {
            "state": sorted(p.name for p in self.scratch.iterdir() if "claudedo" in p.name),
            "worktrees": sorted(p.name for p in trees.iterdir()) if trees.exists() else [],
            "branches": git(self.clone, "branch", "--list", "claudedo/*"),
            "checkouts": git(self.clone, "worktree", "list", "--porcelain").count("worktree "),
            "changes": git(self.clone, "status", "--porcelain", "--", ".", *IN_THE_OPEN),
            "processes": [p.cmdline() for p in self.world.processes()],
        }


IN_THE_OPEN = (":!tasks.toml", ":!claudedo-report")
NOTHING = {
    "state": [],
    "worktrees": [],
    "branches": "",
    "checkouts": 1,
    "changes": "",
    "processes": [],
}


@pytest.fixture
def job(world: World) -> Job:
    make = ToolUse("Bash", {"command": "echo built > built.txt"})
    says(world, "BUILD-IT", Sequence([make, Text("I built it.")]))
    says(world, "SHIP-IT", Sequence([Text("I shipped it.")]))
    says(world, "POLISH-IT", Sequence([Text("I polished <it> & left.")]))
    return Job(world)


def says(world: World, prompt: str, brain: Brain) -> None:
    """Script the session whose prompt has this, not in its first line: that is in git's log."""
    world.model.script(prompt, brain)


def test_the_script_runs_a_file_of_tasks_and_leaves_only_its_reports(job: Job) -> None:
    done = job.run("tasks.toml", "--push")

    assert done.returncode == 10, done.stderr
    reports = job.clone / "claudedo-report"
    xmlschema.XMLSchema10(SCHEMA).validate(reports / "junit.xml")
    cases = {
        case.get("name"): next(child.tag for child in case)
        for case in ElementTree.parse(reports / "junit.xml").iter("testcase")
    }
    assert cases == {"build": "system-out", "ship": "system-out", "polish": "failure"}
    assert "2 completed, 1 rejected" in (reports / "summary.md").read_text()
    exits = {task: job.verdict(task)["exit"] for task in ("build", "ship", "polish")}
    assert exits == {"build": 0, "ship": 0, "polish": 10}
    for task in exits:
        folder = reports / "tasks" / task
        assert job.verdict(task)["missing"] == []
        assert {"prompt.md", "result.md", "log.md", "transcript.jsonl", "check.log"} <= {
            file.name for file in folder.iterdir()
        }
    applies(job, reports / "tasks" / "build" / "changes.patch")
    heads = git(job.clone, "ls-remote", "--heads", "origin")
    assert "refs/heads/claudedo/ship" in heads
    assert "refs/heads/claudedo/polish" not in heads
    leaves_nothing(job)


def leaves_nothing(job: Job) -> None:
    """Wait for the worker, which lets go of everything before it is gone."""
    until = time.monotonic() + PATIENCE
    while job.left() != NOTHING and time.monotonic() < until:
        time.sleep(0.1)
    assert job.left() == NOTHING


def applies(job: Job, patch: Path) -> None:
    """What the patch holds is what the task did."""
    fresh = job.world.root / "fresh"
    git(job.world.root, "clone", "-q", str(job.clone), str(fresh))
    git(fresh, "apply", str(patch))
    assert (fresh / "built.txt").read_text() == "built\n"


def test_a_job_that_is_cancelled_ends_its_sessions_and_still_reports(job: Job) -> None:
    (job.clone / "tasks.toml").write_text(WAITING)
    wait = ToolUse("Bash", {"command": "touch waiting; sleep 120"})
    says(job.world, "WAIT-FOR-IT", Sequence([wait]))

    running = job.begin()
    waiting = job.clone.with_name("clone.worktrees") / "wait" / "waiting"
    job.world.wait_for(waiting.exists, "nothing runs")
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=120)

    assert running.returncode == 130, (out, err)
    assert (job.clone / "claudedo-report" / "junit.xml").exists()
    leaves_nothing(job)


def test_a_file_that_is_wrong_is_refused_before_anything_runs(job: Job) -> None:
    (job.clone / "tasks.toml").write_text('[tasks.build]\nprompt = "BUILD-IT"\nchek = "true"\n')

    done = job.run()

    assert done.returncode == 2
    assert "chek" in done.stderr
    assert not [request for request in job.world.model.requests if request.is_main]
    leaves_nothing(job)


def test_what_is_kept_for_a_look_is_said(job: Job) -> None:
    done = job.run("tasks.toml", "build", KEEP="1")

    assert done.returncode == 0, done.stderr
    [kept] = [line for line in done.stderr.splitlines() if line.startswith("Kept: ")]
    home = kept.partition("CLAUDEDO_HOME=")[2]
    environment = {**job.environment, "CLAUDEDO_HOME": home}
    listed = subprocess.run(
        [COMMAND, "queue", "ls", "--json"],
        cwd=job.clone,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    statuses = {one["name"]: one["status"] for one in json.loads(listed.stdout)}
    assert statuses == {"build": "completed", "ship": "queued", "polish": "queued"}
    assert git(job.clone, "branch", "--list", "claudedo/*").split()[-1] == "claudedo/build"
    shutil.rmtree(home)
