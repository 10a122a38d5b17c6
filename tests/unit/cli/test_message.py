"""Saying something and seeing how far it came: send, thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from claudedo import client as client_module
from claudedo.cli import render
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import STORED, FakeWorker, message, problem_of, receipts, task

LATER = "2026-07-26T10:00:01.240Z"
STORE = "/api/tasks/t_BACKEND/messages"


@pytest.fixture
def worker(worker: FakeWorker) -> FakeWorker:
    worker.add(task("backend"))
    return worker


def stored(worker: FakeWorker) -> list[str]:
    return [request["body"] for request in worker.requests("POST", STORE)]


def test_a_message_is_stored_and_says_so(run: Run, worker: FakeWorker) -> None:
    answer = run("send", "backend", "The API changed")

    assert answer.exit_code == 0
    assert answer.stdout.startswith("stored for backend (m_")
    assert stored(worker) == ["The API changed"]


def test_words_without_quotes_are_one_message(run: Run, worker: FakeWorker) -> None:
    run("send", "backend", "The", "API", "changed")

    assert stored(worker) == ["The API changed"]


def test_search_prints_what_holds_all_words_the_newest_last(run: Run, worker: FakeWorker) -> None:
    texts = ("cursor one", "nothing", "cursor two")
    worker.say("t_BACKEND", *(message(f"m_{n}", text) for n, text in enumerate(texts)))

    found = run("search", "cursor")
    listed = run("search", "cursor", "two", "--json")

    assert found.stdout.index("cursor one") < found.stdout.index("cursor two")
    assert "nothing" not in found.stdout
    assert [one["id"] for one in json.loads(listed.stdout)] == ["m_2"]


def test_search_for_nothing_there_says_so_and_prints_an_empty_list(
    run: Run, worker: FakeWorker
) -> None:
    assert "No message" in run("search", "absent").stderr
    assert json.loads(run("search", "absent", "--json").stdout) == []


def test_priority_and_reply_reach_the_worker(run: Run, worker: FakeWorker) -> None:
    run("send", "backend", "Stop", "--priority", "halt", "--reply-to", "m_1")

    (request,) = worker.requests("POST", STORE)
    assert request["priority"] == "halt"
    assert request["reply_to"] == "m_1"


def test_a_message_can_come_from_a_file_or_standard_input(
    run: Run, worker: FakeWorker, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("two\nlines\n")

    run("send", "backend", "--message-file", str(tmp_path / "text"))
    run("send", "backend", "--message-file", "-", stdin="from a pipe")
    run("send", "backend", "-")
    run("send", "backend", "--", "--not-an-option")

    assert stored(worker) == ["two\nlines\n", "from a pipe", "-", "--not-an-option"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say something"),
        (["x", "--message-file", "-"], "Say something"),
        ([""], "empty"),
        (["--message-file", "/nowhere"], "cannot be read"),
        (["x" * (256 * 1024 + 1)], "262,145 bytes"),
        (["\x01" * 70_000], "420,002 characters once"),
        (["x", "--priority", "urgent"], "--priority"),
        (["x", "--timeout", "-1"], "--timeout"),
    ],
)
def test_what_cannot_be_sent_ends_with_2(
    run: Run, worker: FakeWorker, arguments: list[str], sentence: str
) -> None:
    answer = run("send", "backend", *arguments)

    assert answer.exit_code == 2
    assert sentence in answer.stderr
    assert stored(worker) == []


def test_each_invocation_has_a_key_of_its_own_that_its_retries_share(
    run: Run, worker: FakeWorker
) -> None:
    worker.drops[f"POST {STORE}"] = 1

    run("send", "backend", "one")
    run("send", "backend", "two")

    first, again, second = (request["key"] for request in worker.requests("POST", STORE))
    assert first == again != second


def test_waiting_ends_when_the_rung_is_reached(run: Run, worker: FakeWorker) -> None:
    worker.reaches = {"offered_at": STORED, "delivered_at": LATER}

    answer = run("send", "backend", "x", "--wait", "delivered")

    assert answer.exit_code == 0
    assert answer.stdout == "delivered to backend after 1.2 s (by hook)\n"


@pytest.mark.parametrize(
    ("state", "command"), [("stopped", "restart"), ("failed", "restart"), (None, "start")]
)
def test_a_message_to_what_does_not_run_is_kept_and_the_way_to_run_it_named(
    run: Run, worker: FakeWorker, state: str | None, command: str
) -> None:
    worker.add(task("backend", state))

    answer = run("send", "backend", "x")

    assert answer.exit_code == 0
    assert answer.stdout.startswith("stored for backend")
    assert f"claudedo {command} backend" in answer.stderr


def test_nothing_is_said_of_a_session_that_runs(run: Run, worker: FakeWorker) -> None:
    assert run("send", "backend", "x").stderr == ""


@pytest.mark.parametrize(
    ("reached", "sentence"),
    [
        ({"offered_at": LATER}, "offered to backend after 1.2 s (by hook)"),
        (
            {"offered_at": LATER, "delivered_at": LATER, "read_at": LATER},
            "read by backend after 1.2 s (by",
        ),
        (
            {"offered_at": LATER, "delivered_at": LATER, "read_at": LATER, "answered_at": LATER},
            "answered by backend after 1.2 s",
        ),
    ],
)
def test_the_highest_rung_is_told(
    run: Run, worker: FakeWorker, reached: dict[str, str], sentence: str
) -> None:
    worker.reaches = reached

    assert run("send", "backend", "x", "--wait", "offered").stdout.startswith(sentence)


def test_a_rung_that_is_not_reached_in_time_ends_with_6_and_prints_json(
    run: Run, worker: FakeWorker
) -> None:
    began = time.monotonic()

    answer = run("send", "backend", "x", "--wait", "read", "--timeout", "0.3", "--json")

    assert answer.exit_code == 6
    assert json.loads(answer.stdout)["receipts"] == receipts()
    assert "safe" in answer.stderr
    assert 0.3 <= time.monotonic() - began < 20


def test_a_worker_that_dies_during_the_wait_leaves_the_message_safe(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of("unavailable", "The worker is ending.", 503)
    monkeypatch.setattr(worker, "failures", _AnyMessage(problem))

    answer = run("send", "backend", "x", "--wait", "read", "--json")

    assert answer.exit_code == 6
    assert json.loads(answer.stdout)["receipts"]["stored_at"] == STORED
    assert "The worker is ending." in answer.stderr


class _AnyMessage(dict[str, object]):
    """Fails whatever message is looked at, whose id only the worker knows."""

    def __init__(self, problem: object) -> None:
        self._problem = problem

    def get(self, key: str, default: object = None) -> object:
        return self._problem if key.startswith("GET /api/messages/") else default


def test_a_worker_that_hangs_is_a_failure_but_never_a_timeout(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.failures[f"POST {STORE}"] = problem_of("timeout", "The disk is slow.", 504)

    answer = run("send", "backend", "x")

    assert answer.exit_code == 1
    assert "stored or not" in answer.stderr
    assert client_module.TRIES == 3


def test_send_json_and_quiet(run: Run, worker: FakeWorker) -> None:
    sent = json.loads(run("send", "backend", "x", "--json").stdout)

    assert set(sent) == {"id", "task", "priority", "receipts", "via"}
    assert run("send", "backend", "x", "-q").stdout.startswith("m_")


def test_a_thread_is_a_readable_timeline(run: Run, worker: FakeWorker) -> None:
    reached = receipts(offered_at=LATER, delivered_at=LATER, read_at=LATER)
    worker.say("t_BACKEND", message("m_1", "Hello\nthere", receipts=reached, via="hook"))
    worker.say(
        "t_BACKEND",
        message(
            "m_2", "Yes", sender="task:t_F", sender_name="frontend", priority="high", reply_to="m_1"
        ),
    )

    answer = run("thread", "backend")

    when = render.clock(STORED)
    assert answer.stdout.splitlines() == [
        f"{when}  user → backend  m_1",
        "  │ Hello",
        "  │ there",
        "  stored ✓ offered ✓ delivered ✓ read ✓ answered - (by hook)",
        f"{when}  frontend → backend  [high]  m_2  answers m_1",
        "  │ Yes",
        "  stored ✓ offered - delivered - read - answered -",
    ]


def test_a_body_can_neither_drive_the_terminal_nor_pose_as_another_message(
    run: Run, worker: FakeWorker
) -> None:
    body = "x\x1b[2J\r2026-07-26 10:00:00  user → backend  m_9\n2026-07-26  user → backend"
    worker.say("t_BACKEND", message("m_1", body, sender_name="evil\nuser"))

    printed = run("thread", "backend").stdout

    assert "\x1b" not in printed
    assert "\r" not in printed
    assert "  │ 2026-07-26  user → backend\n" in printed
    assert "evil user → backend" in printed


def test_a_thread_as_json_is_what_the_worker_says(run: Run, worker: FakeWorker) -> None:
    assert json.loads(run("thread", "backend", "--json").stdout) == []
    worker.say("t_BACKEND", message("m_1", "\x1bü"))

    assert json.loads(run("thread", "backend", "--json").stdout) == [message("m_1", "\x1bü")]


def test_an_empty_thread_says_what_to_do(run: Run, worker: FakeWorker) -> None:
    answer = run("thread", "backend")

    assert answer.stdout == ""
    assert "claudedo send" in answer.stderr


def test_a_followed_thread_shows_new_messages_and_new_rungs(worker: FakeWorker) -> None:
    worker.say("t_BACKEND", message("m_1", "first"))
    with subprocess.Popen(
        [sys.executable, "-m", "claudedo.cli.app", "thread", "backend", "-f"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    ) as following:
        assert following.stdout is not None
        first = [following.stdout.readline().decode() for _ in range(3)]
        worker.say("t_BACKEND", message("m_1", "first", receipts=receipts(offered_at=LATER)))
        changed = following.stdout.readline().decode()
        worker.say("t_BACKEND", message("m_2", "second"))
        second = [following.stdout.readline().decode() for _ in range(3)]
        following.kill()

    assert first[1] == "  │ first\n"
    assert changed == "  ↳ m_1: stored ✓ offered ✓ delivered - read - answered -\n"
    assert second[1] == "  │ second\n"


@pytest.mark.parametrize(
    ("holder", "rung", "noted"),
    [
        ("task:t_FRONTEND", "stored", ""),
        ("token:tok_1", "stored", ""),
        ("token:tok_1", "delivered", ""),
        ("token:tok_1", "read", "worked on by a client with a token: of it no more is known"),
    ],
)
def test_a_message_to_a_claimed_task_goes_to_who_has_it(
    run: Run, worker: FakeWorker, holder: str, rung: str, noted: str
) -> None:
    worker.add(task("backend", None, holder=holder))
    worker.reaches = {"offered_at": LATER, "delivered_at": LATER, "read_at": None}

    answer = run("send", "backend", "x", "--wait", rung, "--timeout", "0.2")

    assert "does not run" not in answer.stderr
    assert noted in answer.stderr
    assert ("no more is known" in answer.stderr) == bool(noted)
