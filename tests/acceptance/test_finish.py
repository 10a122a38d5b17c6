"""From start to merged and removed: what a person does with the work of a session."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]


def test_work_of_a_session_is_looked_at_tried_merged_and_removed(world: World) -> None:
    work = (
        "echo 42 > answer.txt && git add answer.txt && git commit -q -m 'Find the answer'; "
        f"echo more > notes.txt; {world.command} merge backend --commit -m x 2>&1; echo ended=$?"
    )
    world.model.script("PROMPT-1", Sequence([ToolUse("Bash", {"command": work}), Text("done")]))
    (world.repository / "README.md").write_text("in work\n")
    world.start("backend=PROMPT-1")
    told = world.model.wait_for(lambda r: r.is_main and "ended=" in r.latest)
    assert "ended=5" in told.latest  # merging is a person's decision
    assert "a session cannot take it" in told.latest
    pid = world.await_state("backend", "idle")["pid"]
    tree = world.worktree("backend")

    patch = world.run("diff", "backend").stdout
    assert "+42" in patch
    assert "+more" in patch
    assert "in work" not in patch
    assert "2 files changed" in world.run("diff", "backend", "--stat").stdout
    tried = world.run("exec", "backend", "--", "sh", "-c", "cat answer.txt; echo $CLAUDEDO_TASK")
    assert tried.stdout == f"42\n{world.id('backend')}\n"

    refused = world.run("merge", "backend", "--rm", check=False)
    assert refused.returncode == 5
    assert "'notes.txt'" in refused.stderr
    assert "--commit" in refused.stderr
    said = world.run("merge", "backend", "--commit", "-m", "Take notes", "--rm").stdout
    assert "Merged 2 commits of backend into main" in said

    assert git(world, "log", "--format=%s", "-2", "main") == "Take notes\nFind the answer"
    assert (world.repository / "answer.txt").read_text() == "42\n"
    assert (world.repository / "README.md").read_text() == "in work\n"
    assert git(world, "status", "--porcelain") == "M README.md"
    assert git(world, "branch", "--format=%(refname:short)") == "main"
    assert not tree.exists()
    assert not psutil.pid_exists(pid)
    assert world.json("ls") == []


def git(world: World, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=world.repository, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
