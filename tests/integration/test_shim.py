"""The shim as `claude` runs it for its command hooks, against a worker that the test plays."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.integration.test_bridge import (
    BOUND,
    HURRY,
    PYTHON,
    Connection,
    FakeWorker,
    Json,
    write_session,
)

SHIM = Path(__file__).parents[2] / "hooks" / "claudedo_hooks" / "shim.py"

PAYLOAD: Json = {"hook_event_name": "Stop", "session_id": "u-1", "cwd": "/tmp/käse"}

PARENT = """
import json, subprocess, sys
shim = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
shim.stdin.write(sys.stdin.buffer.readline())
shim.stdin.close()
print(shim.pid, flush=True)
shim.wait()
"""
"""A stand-in for `claude`: starts the shim with its own input, and waits for it."""


class Stage:
    """One session's folder, its worker, and the shims started in it."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.folder = folder
        self.cleanup = cleanup
        self.worker = FakeWorker(folder)
        cleanup.callback(self.worker.stop)
        write_session(folder, self.worker)

    def command(self, form: str) -> list[str]:
        """What `claude` runs for one form of the shim."""
        return [PYTHON, "-I", "-S", str(SHIM), str(self.folder), form]

    def shim(self, form: str, payload: bytes | None = None) -> subprocess.Popen[bytes]:
        """A running shim that has been given its input."""
        process = self._popen(self.command(form))
        stdin = pipe(process.stdin)
        stdin.write(json.dumps(PAYLOAD).encode() if payload is None else payload)
        stdin.close()
        process.stdin = None  # else communicate() would flush it
        return process

    def child_of_another(self) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        """A process that stands for `claude`, and the waiter that is its child."""
        parent = self._popen([PYTHON, "-I", "-S", "-c", PARENT, *self.command("wait")])
        stdin = pipe(parent.stdin)
        stdin.write(json.dumps(PAYLOAD).encode() + b"\n")
        stdin.flush()
        waiter = psutil.Process(int(pipe(parent.stdout).readline()))
        self.cleanup.callback(end, waiter)
        return parent, waiter

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.cleanup.enter_context(process)
        self.cleanup.callback(process.kill)
        return process

    def waiting(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """A waiter that its worker has welcomed."""
        self.worker.start()
        waiter = self.shim("wait")
        return waiter, self.worker.welcome()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as cleanup:
        # Not tmp_path: a unix socket's path has about a hundred bytes.
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cd-"))
        yield Stage(Path(folder), cleanup)


def pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None
    return end


def end(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def wait_until_gone(process: psutil.Process, bound: float) -> None:
    """Fails unless `process` ends within `bound` seconds; nobody here can reap it."""
    deadline = time.monotonic() + bound
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"still there after {bound} seconds"
        time.sleep(0.05)


def outcome(process: subprocess.Popen[bytes], bound: float = BOUND) -> tuple[int, str, str]:
    """The exit status, standard output and standard error of a shim that ends in time."""
    stdout, stderr = process.communicate(timeout=bound)
    return process.returncode, stdout.decode(), stderr.decode()


SILENT = (0, "", "")


# Both forms


@pytest.mark.parametrize(("form", "kind"), [("start", "hook"), ("wait", "waiter")])
def test_hello_carries_the_credential_and_the_hooks_input(
    stage: Stage, form: str, kind: str
) -> None:
    stage.worker.start()
    process = stage.shim(form)

    hello = stage.worker.accept().read()

    assert hello == {
        "hello": {
            "kind": kind,
            "protocol": 1,
            "session": "s_1",
            "credential": "secret",
            "pid": process.pid,
            "parent": os.getpid(),
            "payload": PAYLOAD,
        }
    }


@pytest.mark.parametrize("form", ["start", "wait"])
def test_a_refusal_is_silent(stage: Stage, form: str) -> None:
    stage.worker.start()
    process = stage.shim(form)
    worker = stage.worker.accept()
    worker.read()

    worker.send({"error": {"code": "unauthorized", "detail": "No such session."}})

    assert outcome(process) == SILENT


@pytest.mark.parametrize("form", ["start", "wait"])
def test_a_worker_that_talks_nonsense_is_silent(stage: Stage, form: str) -> None:
    stage.worker.start()
    process = stage.shim(form)

    stage.worker.welcome().socket.sendall(b"HTTP/1.1 400 Bad Request\r\n")

    assert outcome(process) == SILENT


@pytest.mark.parametrize("form", ["start", "wait", "nonsense"])
@pytest.mark.parametrize("payload", [b"", b"{", b"\xff"], ids=["empty", "cut off", "not UTF-8"])
def test_an_input_that_is_not_json_is_silent(stage: Stage, form: str, payload: bytes) -> None:
    assert outcome(stage.shim(form, payload)) == SILENT


@pytest.mark.parametrize("form", ["start", "wait"])
def test_a_folder_without_a_session_is_silent(stage: Stage, form: str) -> None:
    (stage.folder / "session.json").unlink()

    assert outcome(stage.shim(form)) == SILENT


# start


def test_start_prints_what_the_worker_has_to_say(stage: Stage) -> None:
    stage.worker.start()
    process = stage.shim("start")
    context = {"hookEventName": "SessionStart", "additionalContext": "Grüße 🧀\n" * 20_000}

    stage.worker.welcome().send({"output": {"hookSpecificOutput": context}})

    status, stdout, stderr = outcome(process)
    assert (status, json.loads(stdout), stderr) == (0, {"hookSpecificOutput": context}, "")


def test_start_prints_nothing_when_the_worker_has_nothing_to_say(stage: Stage) -> None:
    stage.worker.start()
    process = stage.shim("start")

    stage.worker.welcome().send({"output": {}})

    assert outcome(process) == SILENT


def test_start_is_over_at_once_while_the_worker_is_away(stage: Stage) -> None:
    assert outcome(stage.shim("start"), HURRY) == SILENT


def test_start_is_over_at_once_when_the_worker_dies_meanwhile(stage: Stage) -> None:
    stage.worker.start()
    process = stage.shim("start")
    stage.worker.welcome()

    stage.worker.stop()

    assert outcome(process, HURRY) == SILENT


@pytest.mark.parametrize("welcome", [True, False], ids=["welcome", "not even welcome"])
def test_start_gives_up_on_a_silent_worker_after_three_seconds(stage: Stage, welcome: bool) -> None:
    stage.worker.start()
    started = time.monotonic()
    process = stage.shim("start")
    _ = stage.worker.welcome() if welcome else stage.worker.accept()

    assert outcome(process) == SILENT
    assert 2.9 < time.monotonic() - started < 6


def test_start_survives_a_client_that_reads_no_answer(stage: Stage) -> None:
    stage.worker.start()
    process = stage.shim("start")
    pipe(process.stdout).close()

    stage.worker.welcome().send({"output": {"text": "x" * 1_000_000}})

    assert process.wait(BOUND) == 0
    assert pipe(process.stderr).read() == b""


# wait


def test_a_wake_is_printed_for_the_model_and_exits_with_two(stage: Stage) -> None:
    waiter, worker = stage.waiting()
    text = "[claudedo message m_1] Grüße 🧀\nzweite Zeile " + "x" * 200_000

    worker.send({"wake": text})

    assert outcome(waiter) == (2, "", text)


def test_a_wake_that_follows_its_welcome_in_one_write_is_heard(stage: Stage) -> None:
    stage.worker.start()
    waiter = stage.shim("wait")
    worker = stage.worker.accept()
    worker.read()

    worker.socket.sendall(b'{"welcome":{"protocol":1}}\n{"wake":"now"}\n')

    assert outcome(waiter) == (2, "", "now")


def test_a_waiter_that_is_not_needed_leaves_in_silence(stage: Stage) -> None:
    waiter, worker = stage.waiting()

    worker.send({"leave": True})

    assert outcome(waiter) == SILENT


def test_a_waiter_waits_longer_than_it_looks_at_its_parent(stage: Stage) -> None:
    waiter, worker = stage.waiting()

    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(3.5)  # also longer than the start of a session may take

    worker.send({"wake": "late"})
    assert outcome(waiter) == (2, "", "late")


def test_a_waiter_outlives_its_workers_and_shows_each_the_same_hello(stage: Stage) -> None:
    stage.worker.start()
    waiter = stage.shim("wait")
    hello = stage.worker.accept().read()

    for _ in range(3):
        stage.worker.stop()
        stage.worker.start()
        worker = stage.worker.accept()
        assert worker.read() == hello
    worker.send({"welcome": {"protocol": 1}})
    worker.send({"wake": "after three restarts"})

    assert outcome(waiter) == (2, "", "after three restarts")


def test_a_waiter_started_while_the_worker_is_away_finds_it_within_two_seconds(
    stage: Stage,
) -> None:
    waiter = stage.shim("wait")
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(3.5)  # long enough for the back-off to have grown to its end

    stage.worker.start()
    started = time.monotonic()
    worker = stage.worker.welcome()

    assert time.monotonic() - started < 2
    worker.send({"leave": True})
    assert outcome(waiter) == SILENT


def test_a_waiter_ends_when_its_claude_is_killed(stage: Stage) -> None:
    stage.worker.start()
    claude, waiter = stage.child_of_another()
    worker = stage.worker.welcome()

    claude.kill()
    claude.wait(BOUND)

    with pytest.raises(EOFError):
        worker.read()
    wait_until_gone(waiter, 5)


def test_a_waiter_ends_when_its_claude_is_killed_while_the_worker_is_away(stage: Stage) -> None:
    stage.worker.start()
    claude, waiter = stage.child_of_another()
    stage.worker.welcome()
    stage.worker.stop()

    claude.kill()
    claude.wait(BOUND)

    wait_until_gone(waiter, 5)


def test_a_waiter_stays_below_fifteen_megabytes(stage: Stage) -> None:
    waiter, _ = stage.waiting()

    assert psutil.Process(waiter.pid).memory_info().rss < 15_000_000
