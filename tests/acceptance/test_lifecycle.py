"""A session's life as a person drives it: start, stop, restart, rm, and what is refused."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from claudedo.demo.home import API_KEY
from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import COMMAND, PATIENCE, World, words_of

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

LINGERING = "import time; time.sleep(301)"


def lingering(world: World) -> list[psutil.Process]:
    return [process for process in world.processes() if LINGERING in words_of(process)]


def test_stop_leaves_nothing_of_the_tree_and_restart_goes_on_with_the_conversation(
    world: World,
) -> None:
    script = f'python3 -c "{LINGERING}"'
    command = f"setsid nohup {script} >/dev/null 2>&1 & ({script} &) ; echo begun; {script}"
    world.model.script("FIRST", Sequence([ToolUse("Bash", {"command": command}), Text("over")]))
    world.environment["SECRET_OF_THE_SHELL"] = "hunter2-of-the-shell"
    world.environment["CLAUDEDO_SESSION"] = "s_of_another_claudedo"  # a session's shell starts us
    world.start("backend=FIRST")
    world.wait_for(lambda: len(lingering(world)) == 3, "the commands do not run")
    before = world.session("backend")
    claude = psutil.Process(before["pid"])
    assert claude.environ()["SECRET_OF_THE_SHELL"] == "hunter2-of-the-shell"
    assert claude.environ()["CLAUDEDO_TASK_NAME"] == "backend"
    holder = claude.parent()
    assert holder is not None and "CLAUDEDO_SESSION" not in holder.environ()
    for path in (path for path in world.state.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"hunter2" not in content and API_KEY.encode() not in content, path

    with ThreadPoolExecutor() as pool:  # twice at once
        answers = list(pool.map(lambda _: world.run("stop", "backend").stdout, range(2)))
    assert "backend stopped\n" in answers
    left = [
        p for p in world.processes() if (words := words_of(p)) and "claudedo_worker" not in words
    ]
    assert left == []
    assert world.session("backend")["state"] == "stopped"
    assert list((world.state / "sessions").iterdir()) == []
    assert not list((world.state / "run").glob("s_*"))

    world.environment["SECRET_OF_THE_SHELL"] = "another"
    mail = world.send("backend", "MAIL-WHILE-STOPPED")
    world.run("restart", "backend")
    world.await_rung("backend", mail, "read")
    after = world.session("backend")
    assert after["session_id"] == before["session_id"]
    assert psutil.Process(after["pid"]).environ()["SECRET_OF_THE_SHELL"] == "another"
    [request] = world.requests_with("MAIL-WHILE-STOPPED")
    assert "FIRST" in request.text

    world.run("restart", "backend")  # of one that runs
    again = world.session("backend")
    assert (again["session_id"], again["state"]) == (before["session_id"], "idle")
    assert again["pid"] != after["pid"] and not psutil.pid_exists(after["pid"])

    worktree = Path(world.json("show", "backend")["worktree"])
    (worktree / "unsaved").write_text("work")
    assert world.run("rm", "backend", check=False).returncode == 5
    assert world.session("backend")["state"] == "idle"  # refused before anything was ended
    world.run("rm", "backend", "--force")
    assert not worktree.exists() and not psutil.pid_exists(again["pid"])
    assert world.json("ls") == []


@contextmanager
def resumed_by_hand(world: World, conversation: str, folder: str) -> Iterator[int]:
    """Another `claude` that has the conversation open, in a terminal of its own."""
    master, slave = pty.openpty()
    command = [str(world.claude), "--resume", conversation, "--permission-mode", "default"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=world.environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        entry = world.home / ".claude" / "sessions" / f"{process.pid}.json"
        world.wait_for(lambda: entry.exists() and conversation in entry.read_text(), "not resumed")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        os.close(master)


def test_a_conversation_that_another_process_has_open_is_not_resumed(world: World) -> None:
    world.start("backend=FIRST")
    first = world.json("thread", "backend")[0]["id"]
    world.await_rung("backend", first, "read")
    world.run("stop", "backend")
    conversation = world.session("backend")["session_id"]
    worktree = world.json("show", "backend")["worktree"]
    with resumed_by_hand(world, conversation, worktree) as pid:
        refused = world.run("restart", "backend", check=False)
        assert refused.returncode == 1
        assert f"open in another process ({pid})" in refused.stderr
        assert world.session("backend")["state"] == "failed"
    # A file left by a process of that number that did not end cleanly refuses nothing.
    stale = world.home / ".claude" / "sessions" / f"{os.getpid()}.json"
    stale.write_text(f'{{"sessionId": "{conversation}", "status": "idle"}}')
    os.utime(stale, (0, 0))
    world.run("restart", "backend")
    assert world.session("backend")["session_id"] == conversation


def test_a_session_that_cannot_start_says_why_and_what_to_do(world: World) -> None:
    world.run("start", "typo", "--", "--no-such-flag", check=False)
    session = world.await_state("typo", "failed")
    assert "no-such-flag" in session["reason"]

    configuration = world.home / ".claude.json"
    configuration.write_text(configuration.read_text().replace("hasCompletedOnboarding", "other"))
    world.environment["https_proxy"] = "http://127.0.0.1:9"  # nobody answers there
    started = world.run("start", "first-time", check=False)
    session = world.session("first-time")
    assert (session["state"], started.returncode) == ("waiting", 5)
    assert "the first set-up of Claude Code" in session["waiting_for"]
    assert "claudedo attach first-time" in started.stderr


def test_stop_ends_a_session_that_is_still_starting_or_about_to_be_resumed(world: World) -> None:
    slow = world.repository / ".git" / "hooks" / "post-checkout"
    slow.write_text("#!/bin/sh\nsleep 20\n")
    slow.chmod(0o755)
    start = [COMMAND, "start", "backend"]
    with subprocess.Popen(start, cwd=world.repository, env=world.environment) as starting:
        world.wait_for(lambda: any(t["name"] == "backend" for t in world.json("ls")), "no task")
        world.wait_for(
            lambda: world.session("backend").get("waiting_for") == "making the worktree", "late"
        )
        world.run("stop", "backend")
        starting.wait(PATIENCE)
    assert world.session("backend")["state"] == "stopped"
    slow.unlink()
    world.run("restart", "backend")
    assert world.session("backend")["state"] == "idle"

    for _ in range(2):  # the second pause is 5 s long
        claude = psutil.Process(world.session("backend")["pid"])
        claude.kill()
        claude.wait(PATIENCE)
        world.wait_for(
            lambda: "crash" in (world.session("backend")["waiting_for"] or ""), "no crash seen"
        )
        if world.session("backend")["waiting_for"].endswith("5 s"):
            break
        world.wait_for(lambda: world.session("backend")["state"] == "idle", "not resumed")
    world.run("stop", "backend")
    assert world.session("backend")["state"] == "stopped"
    assert [
        p for p in world.processes() if (words := words_of(p)) and "claudedo_worker" not in words
    ] == []
