"""Whatever is killed, whenever: no message is lost or doubled, and nothing is left running."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from claudedo.demo.model import (
    Answer,
    Error,
    Held,
    ModelRequest,
    Sequence,
    Text,
    ToolUse,
    ToolUses,
)
from tests.support.tap import Tap
from tests.support.world import COMMAND, PATIENCE, World, words_of

pytestmark = pytest.mark.acceptance


def bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command})


def kill(*processes: psutil.Process) -> None:
    """SIGKILL, all at once, as the kernel or a reboot would."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it went with another
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=PATIENCE)


def claude_of(world: World, task: str) -> psutil.Process:
    return psutil.Process(world.session(task)["pid"])


def holder_of(world: World, task: str) -> psutil.Process:
    holder = claude_of(world, task).parent()
    assert holder is not None and "holder.py" in " ".join(holder.cmdline())
    return holder


def bridge_of(world: World, task: str) -> psutil.Process:
    children = claude_of(world, task).children()
    return next(child for child in children if "bridge.py" in " ".join(child.cmdline()))


def resumed(world: World, task: str, killed: psutil.Process) -> None:
    """Wait until another process than the killed one is past its start."""
    world.wait_for(
        lambda: (s := world.session(task))["pid"] != killed.pid and s["state"] in ("idle", "busy"),
        f"{task} is not resumed",
    )


def ours(world: World) -> list[str]:
    """Everything that runs for the world's sessions: all but the worker."""
    lines = [" ".join(words_of(process)) for process in world.processes()]
    return [line for line in lines if line and "claudedo_worker" not in line]


def claudes(world: World) -> list[str]:
    """The sessions' own `claude`s, not one that is only asked for its version."""
    mine = [line for line in ours(world) if line.startswith(str(world.claude))]
    return [line for line in mine if "--permission-mode" in line]


def test_a_worker_that_dies_during_a_turn_or_a_send_neither_loses_nor_doubles_mail(
    world: World,
) -> None:
    sent = threading.Event()
    turn: list[Answer] = [Held(bash("echo tool-1"), sent), bash("echo tool-2"), Text("over")]
    world.model.script("FIRST", Sequence(turn))
    world.start("backend=FIRST")
    world.model.wait_for(lambda r: r.is_main and "FIRST" in r.latest)
    mail = world.send("backend", "MAIL-AWAY")
    port = world.json("worker", "status")["port"]
    world.kill_worker()
    sent.set()
    last = world.model.wait_for(lambda r: r.is_main and "tool-2" in r.latest)
    assert "MAIL-AWAY" not in last.text
    world.run("worker", "start")
    assert world.json("worker", "status")["port"] == port
    world.await_rung("backend", mail, "read")
    assert len(world.requests_with("MAIL-AWAY")) == 1

    # Now a worker that dies after it stored a message and before it could say so.
    worker = psutil.Process(world.worker_pid)
    with Tap(world.state / "run" / "worker.sock", b'"stored_at"', lambda: kill(worker)) as tap:
        repeated = world.send("backend", "MAIL-REPEATED")
        assert tap.struck.is_set()
    assert world.worker_pid != worker.pid
    world.await_rung("backend", repeated, "read")
    assert len(world.requests_with("MAIL-REPEATED")) == 1
    bodies = [message["body"] for message in world.json("thread", "backend")]
    assert bodies == ["FIRST", "MAIL-AWAY", "MAIL-REPEATED"]


@pytest.mark.one_claude
def test_check_inbox_that_lost_its_answer_with_the_worker_is_answered_by_the_next_one(
    world: World,
) -> None:
    sent = threading.Event()
    look = ToolUse("mcp__claudedo__check_inbox", {})
    world.model.script("FIRST", Sequence([Held(look, sent), Text("seen")]))
    world.run("worker", "start")
    worker = psutil.Process(world.worker_pid)
    with Tap(world.state / "run" / "session.sock", b"MAIL-LENT", lambda: kill(worker)) as tap:
        world.start("backend=FIRST")
        world.model.wait_for(lambda r: r.is_main and "FIRST" in r.latest)
        mail = world.send("backend", "MAIL-LENT")
        sent.set()
        assert tap.struck.wait(PATIENCE)
        world.run("worker", "start")
        answered = world.model.wait_for(lambda r: r.is_main and "MAIL-LENT" in r.latest)
    assert [result.is_error for result in answered.tool_results.values()] == [False]
    assert world.await_rung("backend", mail, "read")["via"] == "check_inbox"
    assert len(world.requests_with("MAIL-LENT")) == 1


def test_mail_handed_to_a_claude_that_is_killed_at_once_is_in_the_resumed_context_once(
    world: World,
) -> None:
    sent = threading.Event()
    world.model.script("FIRST", Sequence([Held(bash("echo one"), sent), Text("over")]))
    world.run("worker", "start")
    claudes: list[psutil.Process] = []
    session_sock = world.state / "run" / "session.sock"
    with Tap(session_sock, b"MAIL-HANDED", lambda: kill(*claudes), late=True) as tap:
        world.start("backend=FIRST")
        world.model.wait_for(lambda r: r.is_main and "FIRST" in r.latest)
        claudes.append(claude_of(world, "backend"))
        conversation = world.session("backend")["session_id"]
        mail = world.send("backend", "MAIL-HANDED")
        sent.set()
        assert tap.struck.wait(PATIENCE)
        resumed(world, "backend", claudes[0])
        world.await_rung("backend", mail, "delivered")
        last = world.send("backend", "MAIL-AFTER")
        world.await_rung("backend", last, "read")
    asked = world.requests_with("MAIL-AFTER")
    assert [request.text.count("MAIL-HANDED") for request in asked] == [1]
    world.await_rung("backend", mail, "read")
    assert world.session("backend")["session_id"] == conversation


def test_a_claude_that_crashes_is_resumed_with_its_mail_and_its_bridge_can_die_too(
    world: World,
) -> None:
    world.start("backend")
    conversation = world.session("backend")["session_id"]
    first = claude_of(world, "backend")
    kill(first)  # before its first prompt there is no transcript to resume
    mail = world.send("backend", "MAIL-EARLY")
    resumed(world, "backend", first)
    world.await_rung("backend", mail, "read")

    second = claude_of(world, "backend")
    kill(second)
    mail = world.send("backend", "MAIL-LATE")
    world.await_rung("backend", mail, "read")
    assert claude_of(world, "backend") != second
    assert world.session("backend")["session_id"] == conversation
    [request] = world.requests_with("MAIL-LATE")
    assert request.text.count("MAIL-EARLY") == 1

    kill(bridge_of(world, "backend"))
    mail = world.send("backend", "MAIL-BRIDGED")
    world.await_rung("backend", mail, "read")
    assert len(world.requests_with("MAIL-BRIDGED")) == 1
    assert bridge_of(world, "backend").is_running()


@pytest.mark.one_claude
def test_a_killed_holder_leaves_nothing_running_and_restart_resumes_the_conversation(
    world: World,
) -> None:
    command = "setsid nohup python3 -c 'import time; time.sleep(300)' & echo begun; wait"
    world.model.script("FIRST", Sequence([bash(command), Text("over")]))
    world.start("backend=FIRST")
    world.wait_for(lambda: any("time.sleep" in line for line in ours(world)), "nothing runs")
    conversation = world.session("backend")["session_id"]
    kill(holder_of(world, "backend"))
    session = world.await_state("backend", "interrupted")
    assert "claudedo restart" in session["reason"]
    assert ours(world) == []
    mail = world.send("backend", "MAIL-KEPT")
    world.run("restart", "backend")
    world.await_rung("backend", mail, "read")
    assert world.session("backend")["session_id"] == conversation
    [request] = world.requests_with("MAIL-KEPT")
    assert "FIRST" in request.text


@pytest.mark.one_claude
def test_after_a_reboot_restart_all_brings_every_session_back(world: World) -> None:
    world.start("backend=MAIL-1", "frontend=MAIL-2")
    names = ("backend", "frontend")
    for name in names:
        mail = world.json("thread", name)[0]["id"]
        world.await_rung(name, mail, "read")
    conversations = {name: world.session(name)["session_id"] for name in names}
    everything = [holder_of(world, name) for name in names]
    everything += [child for holder in everything for child in holder.children(recursive=True)]
    kill(psutil.Process(world.worker_pid), *everything)
    mails = {name: world.send(name, f"MAIL-AGAIN-{name}") for name in names}
    for name in names:
        world.await_state(name, "interrupted")
    world.run("restart", "--all")
    for name in names:
        world.await_rung(name, mails[name], "read")
        [request] = world.requests_with(f"MAIL-AGAIN-{name}")
        assert request.session_id == conversations[name]


@pytest.mark.one_claude
def test_a_worker_killed_while_it_starts_a_session_leaves_it_to_the_next(
    world: World, tmp_path: Path
) -> None:
    slow = world.repository / ".git" / "hooks" / "post-checkout"
    begun = tmp_path / "begun"
    slow.write_text(f"#!/bin/sh\ntouch {begun}; sleep 2\n")
    slow.chmod(0o755)
    world.run("worker", "start")
    worker = psutil.Process(world.worker_pid)
    start = [COMMAND, "start", "backend", "--permission-mode", "acceptEdits"]
    with subprocess.Popen(start, cwd=world.repository, env=world.environment) as starting:
        world.wait_for(begun.exists, "no worktree is made")
        kill(worker)
        starting.wait(PATIENCE)
    session = world.await_state("backend", "interrupted")
    assert "killed while starting" in session["reason"]
    slow.unlink()

    worker = psutil.Process(world.worker_pid)
    restart = [COMMAND, "restart", "backend"]
    with subprocess.Popen(restart, cwd=world.repository, env=world.environment) as starting:
        # A development channel's dialog opens some tenths of a second after this.
        world.wait_for(lambda: claudes(world), "no claude")
        kill(worker)
        starting.wait(PATIENCE)
    world.run("worker", "start")
    world.await_state("backend", "idle")
    assert len(claudes(world)) == 1
    mail = world.send("backend", "MAIL-AT-LAST")
    world.await_rung("backend", mail, "read")
    assert (Path(world.json("show", "backend")["worktree"]) / "README.md").exists()


@pytest.mark.one_claude
def test_mail_in_a_request_that_the_api_refuses_counts_as_read_only_after_the_next(
    world: World,
) -> None:
    sent, mended = threading.Event(), threading.Event()
    batch = ToolUses([bash("echo one"), bash("echo two"), bash("sleep 1; echo three")])
    refusal = Error(403, "permission_error", "scripted refusal")  # not asked again (16.6)
    first: Iterator[Answer] = iter([Held(batch, sent)])

    def answer(_: ModelRequest) -> Answer:
        return next(first, Text("better") if mended.is_set() else refusal)

    world.model.script("FIRST", answer)
    world.start("backend=FIRST")
    world.model.wait_for(lambda r: r.is_main and "FIRST" in r.latest)
    mail = world.send("backend", "MAIL-REFUSED")
    sent.set()
    world.await_rung("backend", mail, "delivered")
    world.await_state("backend", "idle")
    assert world.message("backend", mail)["receipts"]["read_at"] is None
    mended.set()
    last = world.send("backend", "MAIL-CONTINUE")
    world.await_rung("backend", last, "read")
    world.await_rung("backend", mail, "read")
    [request] = world.requests_with("MAIL-CONTINUE")
    assert request.text.count("MAIL-REFUSED") == 1
