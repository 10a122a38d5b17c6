"""`rm` removes all that claudedo made, and never work that exists nowhere else unless forced."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]


def test_rm_refuses_each_kind_of_work_by_name_and_leaves_task_and_session_alone(
    world: World,
) -> None:
    world.start("keeper")
    tree = Path(world.run("path", "keeper").stdout.strip())
    pid = world.await_state("keeper", "idle")["pid"]

    (tree / "notes.txt").write_text("thoughts\n")
    _refused(world, "1 untracked file ('notes.txt')", pid)
    (tree / "README.md").write_text("changed\n")
    _refused(world, "1 uncommitted file ('README.md')", pid)
    _git(tree, "stash", "--include-untracked")
    _refused(world, "1 stash", pid)
    _git(tree, "stash", "pop")
    _git(tree, "add", ".")
    _git(tree, "commit", "-q", "-m", "Think")
    _refused(world, "1 unmerged commit", pid)
    _git(tree, "checkout", "-q", "--detach")
    _git(tree, "commit", "-q", "--allow-empty", "-m", "Think more")
    _git(tree, "branch", "-f", "claudedo/keeper", "HEAD~2")
    _refused(world, "2 unmerged commits", pid)
    lost = _git(tree, "rev-parse", "HEAD")

    said = world.run("rm", "keeper", "--force").stdout
    assert f"git branch NAME {lost}" in said
    _gone(world, "keeper", tree, pid)
    # What it said holds: the work can be brought back.
    _git(world.repository, "branch", "found-again", lost)
    assert "thoughts" in _git(world.repository, "show", "found-again:notes.txt")


def test_rm_of_merged_work_and_then_of_the_workspace_removes_all_that_was_made(
    world: World,
) -> None:
    world.start("done", "other")
    connected = [one for one in _events(world) if one["type"] == "agent.connected"]
    assert sorted(one["payload"]["name"] for one in connected) == ["done", "other"]
    tree, pid = Path(world.run("path", "done").stdout.strip()), world.session("done")["pid"]
    (tree / "result.txt").write_text("42\n")
    _git(tree, "add", ".")
    _git(tree, "commit", "-q", "-m", "Answer")
    _git(world.repository, "merge", "-q", "claudedo/done")
    (tree / "build.log").write_text("ignored")
    (world.repository / ".git/info/exclude").write_text("*.log\n")
    assert len(_session_folders(world)) == 2

    world.run("rm", "done")
    _gone(world, "done", tree, pid)
    assert [task["name"] for task in world.json("ls")] == ["other"]
    assert world.session("other")["state"] == "idle"
    assert len(_session_folders(world)) == 1
    assert world.run("rm", "done", check=False).returncode == 4

    [workspace] = world.json("workspace", "ls")
    assert workspace["counts"] == {"tasks": 1, "sessions": 1}
    tree, pid = world.worktree("other"), world.session("other")["pid"]
    refused = world.run("workspace", "rm", workspace["name"], "--yes", check=False)
    assert (refused.returncode, psutil.pid_exists(pid)) == (5, True)
    command = f"stop --all -w {workspace['name']}"
    assert f"`claudedo {command}`" in refused.stderr
    world.run(*command.split())
    world.run("workspace", "rm", workspace["name"], "--yes")
    assert (world.json("workspace", "ls"), world.json("ls")) == ([], [])
    assert not tree.exists() and not psutil.pid_exists(pid)
    assert _session_folders(world) == []


def test_uninstall_removes_all_that_is_ours_and_names_what_stays(world: World) -> None:
    world.start("done", "in-progress")
    folders = {task["name"]: Path(task["worktree"]) for task in world.json("ls")}
    kept = folders["in-progress"]
    (kept / "draft.txt").write_text("half a thought\n")
    (world.state / "config.toml").write_text("continue_after_crash = 1\n")

    assert world.run("uninstall", check=False).returncode == 5  # nobody is there to be asked
    assert world.session("done")["state"] == "idle"
    said = world.run("uninstall", "--yes").stdout
    stays = said.partition("This stays:")[2]
    assert "1 untracked file ('draft.txt')" in stays
    assert str(world.state / "config.toml") in stays
    world.wait_for(lambda: not world.processes(), "something goes on running")
    assert [path.name for path in world.state.iterdir()] == ["config.toml"]
    assert not folders["done"].exists()
    assert (kept / "draft.txt").read_text() == "half a thought\n"
    assert _git(kept, "branch", "--show-current") == "claudedo/in-progress"
    assert "claudedo/done" not in _git(world.repository, "branch")
    assert _git(world.repository, "status", "--porcelain") == ""


def _refused(world: World, work: str, pid: int) -> None:
    done = world.run("rm", "keeper", check=False)
    assert done.returncode == 5, done.stderr
    assert work in done.stderr
    assert "--force" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    session = world.session("keeper")
    assert (session["pid"], session["state"]) == (pid, "idle")
    assert psutil.pid_exists(pid)


def _gone(world: World, name: str, tree: Path, pid: int) -> None:
    assert name not in {task["name"] for task in world.json("ls")}
    assert not tree.exists()
    assert str(tree) not in _git(world.repository, "worktree", "list")
    assert f"claudedo/{name}" not in _git(world.repository, "branch")
    assert not psutil.pid_exists(pid)
    left = [p for p in world.processes() if _works_for(p, name)]
    assert left == []


def _works_for(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("CLAUDEDO_TASK_NAME") == name
    except psutil.Error:
        return False


def _events(world: World) -> list[dict[str, Any]]:
    return list(world.ask(lambda worker: worker.events(0, 0))["events"])


def _session_folders(world: World) -> list[Path]:
    return list((world.state / "sessions").iterdir())


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
