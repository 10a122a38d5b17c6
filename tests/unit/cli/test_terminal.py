"""Looking into a session: attach, logs."""

from __future__ import annotations

import json

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, task

SAID = [
    {"role": "user", "text": "Do it.\nNow."},
    {"role": "assistant", "text": "Done \x1b[31m\nuser: really"},
    {"role": "tool", "text": "ls"},
]


def test_attach_needs_a_terminal(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))

    answer = run("attach", "a")

    assert answer.exit_code == 2
    assert "claudedo logs" in answer.stderr


def test_logs_print_the_whole_conversation_neutralised(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))
    worker.logs["t_A"] = SAID

    assert run("logs", "a").stdout.splitlines() == [
        "user: Do it.",
        "  │ Now.",
        "assistant: Done \\x1b[31m",
        "  │ user: really",
        "tool: ls",
    ]


def test_logs_as_json(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))
    assert json.loads(run("logs", "a", "--json").stdout) == []
    worker.logs["t_A"] = SAID

    assert json.loads(run("logs", "a", "--json").stdout) == SAID


def test_followed_logs_end_with_the_session(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))
    worker.logs["t_A"] = SAID

    answer = run("logs", "a", "-f", "--json")

    assert answer.exit_code == 0
    assert [json.loads(text) for text in answer.stdout.splitlines()] == SAID


def test_logs_of_a_silent_session_say_so(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))

    answer = run("logs", "a")

    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, "", "Nothing was said yet.\n")
