"""`claudedo adopt`, and the sessions of `ls` that are not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, problem_of, task


def foreign(name: str, state: str = "idle", **changes: Any) -> Any:
    one = task(name, state, supervised=False, id="22222222-0000-4000-8000-000000000000", **changes)
    one["session"] |= {"pid": 815, "session_id": one["id"]}
    return one


def test_ls_lists_the_sessions_that_are_not_ours_behind_the_tasks(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/conf")
    worker.add(task("a"))
    worker.foreign = [foreign("sub-6f", workspace="shop")]
    listed = json.loads(run("ls", "--json").stdout)
    assert [(one["name"], one["supervised"]) for one in listed] == [("a", True), ("sub-6f", False)]
    assert listed[1]["session"]["pid"] == 815
    assert worker.requests("GET", "/api/foreign") == [{"config_dir": "/conf"}]
    assert "sub-6f (not ours)" in run("ls").stdout
    worker.workspaces.append({"id": "w_2", "name": "mill"})
    assert run("ls", "-w", "mill").stderr == "No tasks in the workspace mill.\n"


def test_what_runs_is_listed_where_there_is_no_task(run: Run, worker: FakeWorker) -> None:
    worker.foreign = [foreign("sub-6f")]
    assert "sub-6f (not ours)" in run("ls").stdout


def test_scripts_that_stop_what_ls_names_never_see_what_is_not_ours(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("a"))
    worker.foreign = [foreign("sub-6f")]
    assert run("ls", "-q").stdout == "t_A\n"
    assert run("stop", "--all").stdout == "a stopped\n"


def test_adopt_hands_over_what_was_said_and_says_what_was_done(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER", "mine")
    worker.foreign = [foreign("sub-6f")]
    answer = run("adopt", "815", "--name", "backend", "--here", "--model", "m", "--", "--verbose")
    assert (answer.exit_code, answer.stdout) == (0, "backend is idle in /src/shop\n")
    assert "Process 815 has ended; its conversation goes on as backend." in answer.stderr
    assert "What it had started runs on: process 816." in answer.stderr
    [order] = worker.requests("POST", "/api/adopt")
    assert order.pop("env")["PROVIDER"] == "mine"
    assert order.pop("cwd").startswith("/")
    assert order == {
        "target": "815",
        "name": "backend",
        "worktree": False,
        "fork": False,
        "now": False,
        "trust": False,
        "permission_mode": None,
        "model": "m",
        "claude_args": ["--verbose"],
        "workspace": None,
    }


def test_adopt_leaves_the_place_to_what_fits_unless_it_is_said(
    run: Run, worker: FakeWorker
) -> None:
    for flags in ((), ("--worktree",), ("--here",)):
        run("adopt", "815", "--fork", *flags)
    orders = worker.requests("POST", "/api/adopt")
    assert [order["worktree"] for order in orders] == [None, True, False]
    assert all(order["fork"] for order in orders)


def test_adopt_prints_one_value_or_json(run: Run, worker: FakeWorker) -> None:
    assert run("adopt", "815", "-q").stdout == "t_ADOPTED\n"
    assert json.loads(run("adopt", "815", "--json").stdout)["name"] == "adopted"


def test_adopt_does_not_cut_work_short_unless_it_is_said(run: Run, worker: FakeWorker) -> None:
    worker.foreign = [foreign("sub-6f", "busy")]
    answer = run("adopt", "815")
    assert (answer.exit_code, answer.stdout) == (5, "")
    assert "--now" in answer.stderr
    assert run("adopt", "815", "--now").exit_code == 0
    assert [order["now"] for order in worker.requests("POST", "/api/adopt")] == [False, True]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--here", "--worktree"), "exclude each other"),
        (("--name", "Two Words"), "cannot be a name"),
        (("--attach",), "needs a terminal"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    run: Run, worker: FakeWorker, flags: tuple[str, ...], words: str
) -> None:
    answer = run("adopt", "815", *flags)
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert worker.requests("POST", "/api/adopt") == []


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [("not_found", 404, 4), ("ambiguous", 409, 4), ("timeout", 504, 3), ("untrusted", 409, 5)],
)
def test_what_the_worker_refuses_ends_with_its_sentence_and_status(
    run: Run, worker: FakeWorker, code: str, status: int, exit_code: int
) -> None:
    worker.failures["POST /api/adopt"] = problem_of(code, "It is as it is.", status)
    answer = run("adopt", "815")
    assert (answer.exit_code, answer.stderr) == (exit_code, "claudedo: It is as it is.\n")
