"""What a working day does to a machine: it sleeps, stands still, and its person logs out.

Sessions are stand-ins for `claude`: what counts here is what the worker and the holders make of it.
A reboot is in test_deaths.py, a sleeping clock in tests/unit/worker/test_clock.py.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import pexpect
import psutil
import pytest

from tests.support.fake_world import fake_world
from tests.support.world import COMMAND, PATIENCE, World

pytestmark = pytest.mark.acceptance

PAUSE = 6.0  # seconds: longer than anything that is waited for before a session is seen to
TASKS = ("ada", "bob")


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with fake_world(tmp_path_factory.mktemp("w")) as made:
        yield made


def mail(world: World, task: str) -> tuple[str, str]:
    """Send a message that can be told from others; returns its id and its mark."""
    mark = f"mail-{secrets.token_hex(8)}"
    return world.send(task, mark), mark


def told(world: World, task: str, mark: str) -> int:
    """How often the session's model was told of it."""
    lines = (world.root / "truth" / f"{task}.jsonl").read_text().splitlines()
    facts: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return sum(fact["bodies"].count(mark) for fact in facts if fact["event"] == "request")


def trees(world: World) -> dict[str, list[psutil.Process]]:
    """Of each task, the holder and all that runs below it."""
    found = {}
    for task in TASKS:
        holder = psutil.Process(world.session(task)["pid"]).parent()
        assert holder is not None
        found[task] = [holder, *holder.children(recursive=True)]
    return found


def signal_all(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        if process.is_running():  # a waiter may end at any time
            process.send_signal(number)


def unharmed(world: World, pids: dict[str, int]) -> None:
    """The same processes, none of which was thought to be lost or to have crashed."""
    for task, pid in pids.items():
        session = world.await_state(task, "idle")
        assert (session["pid"], session["crashes"], session["reason"]) == (pid, 0, None)


def test_nothing_is_lost_doubled_or_given_up_when_processes_stand_still(world: World) -> None:
    world.start(*TASKS)
    pids = {task: world.session(task)["pid"] for task in TASKS}
    worker, below = psutil.Process(world.worker_pid), trees(world)

    # Everything at once, as in a container that is paused; the worker is the first to go on.
    sent = {task: mail(world, task) for task in TASKS}
    everything = [worker, *below["ada"], *below["bob"]]
    signal_all(everything, signal.SIGSTOP)
    time.sleep(PAUSE)
    signal_all([worker], signal.SIGCONT)
    time.sleep(0.5)
    signal_all(everything, signal.SIGCONT)
    for task, (message, mark) in sent.items():
        world.await_rung(task, message, "read")
        assert told(world, task, mark) == 1
    unharmed(world, pids)

    # A holder and a session's processes, under a worker that goes on looking.
    holder, session = below["ada"][0], trees(world)["bob"][1:]
    signal_all([holder, *session], signal.SIGSTOP)
    sent = {task: mail(world, task) for task in TASKS}
    time.sleep(PAUSE)
    assert {one["session"]["pid"] for one in world.json("ls")} == set(pids.values())
    signal_all([holder, *session], signal.SIGCONT)
    for task, (message, mark) in sent.items():
        world.await_rung(task, message, "read")
        assert told(world, task, mark) == 1
    unharmed(world, pids)
    assert world.worker_pid == worker.pid


def test_a_worker_and_its_sessions_outlive_the_terminal_that_started_them(world: World) -> None:
    shell: Any = pexpect.spawn(
        "/bin/sh",
        ["-i"],
        cwd=str(world.repository),
        env=world.environment,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    shell.sendline(f"{COMMAND} start ada bob --permission-mode acceptEdits; echo ended-$?")
    shell.expect("ended-0")
    shell.sendline(f"{COMMAND} ls --watch")  # in the foreground: it is hung up
    shell.expect("STATE")
    login = os.getsid(shell.pid)
    [watching] = [p for p in psutil.Process(shell.pid).children() if "ls" in p.cmdline()]
    pids = {task: world.session(task)["pid"] for task in TASKS}
    ours = [psutil.Process(world.worker_pid), *(p for tree in trees(world).values() for p in tree)]
    assert all(os.getsid(process.pid) != login for process in ours)
    shell.close(force=True)  # the terminal is gone, and with it what was in its foreground
    world.wait_for(lambda: not watching.is_running(), "`ls` still watches")
    for task in TASKS:
        message, _ = mail(world, task)
        world.await_rung(task, message, "read")
    unharmed(world, pids)
    assert world.worker_pid == ours[0].pid
