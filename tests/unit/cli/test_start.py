"""`claudedo start` without a terminal: what it asks for, what it waits for, how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from claudedo.cli import progress
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, problem_of, task


def session(state: str, waiting_for: str | None = None, reason: str | None = None) -> Any:
    return {**task("x", state)["session"], "waiting_for": waiting_for, "reason": reason}


def order(worker: FakeWorker) -> Any:
    """The one order that the worker was given."""
    (given,) = worker.requests("POST", "/api/start")
    return given


def test_names_folders_and_prompts_reach_the_worker(
    run: Run, worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    answer = run("start", "a", "b@sub", "c=Do x=y @once", "d@/src/d=Go")

    assert answer.exit_code == 0, answer.stderr
    assert order(worker)["cwd"] == str(tmp_path)
    assert order(worker)["tasks"] == [
        {"name": "a", "dir": None, "prompt": None},
        {"name": "b", "dir": str(tmp_path / "sub"), "prompt": None},
        {"name": "c", "dir": None, "prompt": "Do x=y @once"},
        {"name": "d", "dir": "/src/d", "prompt": "Go"},
    ]


@pytest.mark.parametrize("words", ["a@~nobody.here/x", "a --worktree ~nobody.here/x",
                                   "a --prompt-file ~nobody.here/x"])  # fmt: skip
def test_the_home_of_nobody_is_a_wrong_command_line(
    run: Run, worker: FakeWorker, words: str
) -> None:
    answer = run("start", *words.split())

    assert answer.exit_code == 2
    assert answer.stderr == "claudedo: '~nobody.here/x' leads nowhere: there is no such user.\n"
    assert worker.requests("POST", "/api/start") == []


def test_every_option_reaches_the_worker(run: Run, worker: FakeWorker) -> None:
    run(
        "start", "a", "--base", "main", "--branch", "b1", "--worktree", "/wt", "--link", "x",
        "--link", "y", "--no-link", "--trust", "--permission-mode", "plan", "--model", "opus",
        "-w", "shop", "--", "--verbose", "--add-dir", "/x", "/y",
    )  # fmt: skip

    given = order(worker)
    del given["env"], given["cwd"], given["tasks"]
    assert given == {
        "base": "main",
        "branch": "b1",
        "here": False,
        "worktree": "/wt",
        "links": ["x", "y"],
        "no_link": True,
        "trust": True,
        "permission_mode": "plan",
        "model": "opus",
        "claude_args": ["--verbose", "--add-dir", "/x", "/y"],
        "workspace": "shop",
    }


def test_without_options_nothing_is_decided_for_the_worker(run: Run, worker: FakeWorker) -> None:
    run("start", "a", "--here")

    given = order(worker)
    assert given["here"] is True
    assert given["permission_mode"] is None
    assert given["trust"] is False
    assert given["claude_args"] == given["links"] == []


def test_the_environment_of_this_shell_goes_along(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_REGION", "mars")

    run("start", "a")

    assert order(worker)["env"] == dict(os.environ)
    assert order(worker)["env"]["PROVIDER_REGION"] == "mars"


def test_a_prompt_file_is_for_every_task_without_a_prompt(
    run: Run, worker: FakeWorker, tmp_path: Path
) -> None:
    (tmp_path / "prompt").write_text("From the file.\n")

    run("start", "a", "b=Own", "--prompt-file", str(tmp_path / "prompt"))

    assert [one["prompt"] for one in order(worker)["tasks"]] == ["From the file.\n", "Own"]


def test_a_prompt_can_come_from_standard_input(run: Run, worker: FakeWorker) -> None:
    run("start", "a", "--prompt-file", "-", stdin="Grüße")

    assert order(worker)["tasks"][0]["prompt"] == "Grüße"


WRONG = {
    "a capital": (["Backend"], "cannot be a name"),
    "a path as a name": (["../x"], "cannot be a name"),
    "an empty name": (["=x"], "cannot be a name"),
    "a name of 64 characters": (["a" * 64], "cannot be a name"),
    "an empty prompt": (["a="], "empty"),
    "an empty folder": (["a@"], "folder must follow"),
    "a name twice": (["a", "a=x"], "named twice"),
    "here and worktree": (["a", "--here", "--worktree", "/x"], "--here"),
    "here and branch": (["a", "--here", "--branch", "x"], "--here"),
    "one worktree for two": (["a", "b", "--worktree", "/x"], "one task at a time"),
    "one branch for two": (["a", "b", "--branch", "x"], "one task at a time"),
    "a missing prompt file": (["a", "--prompt-file", "/nowhere"], "cannot be read"),
    "a prompt file for nobody": (["a=x", "--prompt-file", "-"], "leave out --prompt-file"),
    "attach without a terminal": (["a", "--attach"], "needs a terminal"),
    "no names": ([], "Give the task a name"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_order_is_refused_before_anything_is_started(
    run: Run, worker: FakeWorker, arguments: list[str], sentence: str
) -> None:
    answer = run("start", *arguments)

    assert answer.exit_code == 2
    assert answer.stderr.startswith("claudedo: ")
    assert sentence in answer.stderr
    assert worker.asked == []


@pytest.mark.parametrize(
    ("argument", "name"), [("--resume=x", "--resume"), ("-wx", "-w"), ("--bg", "--bg")]
)
def test_an_argument_that_claudedo_must_decide_is_refused_by_name(
    run: Run, worker: FakeWorker, argument: str, name: str
) -> None:
    answer = run("start", "a", "--", "--verbose", argument)

    assert answer.exit_code == 2
    assert f"{name} cannot be given to claude: " in answer.stderr
    assert worker.asked == []


def test_a_prompt_that_is_not_text_is_refused(run: Run, worker: FakeWorker) -> None:
    answer = run("start", "a", "--prompt-file", "-", stdin=b"\xff\xfe")

    assert answer.exit_code == 2
    assert "not UTF-8" in answer.stderr


def test_it_returns_when_every_session_is_past_its_start_up(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", None), task("b", None))
    worker.progress["t_A"] = [
        session("starting", "making the worktree"),
        session("starting", "starting claude"),
        session("idle"),
    ]
    worker.progress["t_B"] = [session("starting", "starting claude"), session("busy")]

    answer = run("start", "a", "b")

    assert answer.exit_code == 0
    assert answer.stderr.splitlines() == [
        "a exists already.",
        "b exists already.",
        "a: making the worktree",
        "b: starting claude",
        "a: starting claude",
        "b: busy",
        "a: idle",
    ]
    assert answer.stdout.splitlines() == [
        "a is idle in /src/shop.worktrees/a",
        "b is busy in /src/shop.worktrees/b",
    ]


def test_a_prompt_for_what_exists_and_one_that_is_on_its_way_are_said(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("a"), task("b", pending=1))

    answer = run("start", "a=Go on", "b=Begin", "c")

    assert "a exists already: your prompt was sent to it as a message.\n" in answer.stderr
    assert "c exists" not in answer.stderr
    assert answer.stdout.splitlines() == [
        "a is idle in /src/shop.worktrees/a",
        "b is up in /src/shop.worktrees/b; its prompt is on its way",
        "c is idle in /src/shop.worktrees/c",
    ]


def test_what_failed_is_told_once(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", None), task("b", "stopped"))
    worker.progress["t_A"] = [session("failed", None, "no luck")]
    worker.progress["t_B"] = [session("idle"), session("failed", None, "no luck")]

    assert run("start", "a").stdout == ""
    assert run("restart", "b").stdout == ""


def test_a_session_that_asks_for_a_permission_is_past_its_start_up(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("a", "waiting"))
    worker.progress["t_A"] = [session("waiting", "permission prompt")]

    assert run("start", "a").exit_code == 0


def test_a_dialog_that_needs_a_person_names_attach_and_ends_with_5(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("a"), task("b"))
    worker.progress["t_A"] = [session("waiting", "start-up dialog: Choose a theme")]

    answer = run("start", "a", "b")

    assert answer.exit_code == 5
    assert "claudedo attach a" in answer.stderr
    assert "Choose a theme" in answer.stderr


def test_a_session_that_fails_says_why_and_ends_with_1(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", None), task("b"))
    worker.progress["t_A"] = [session("failed", None, "setup failed:\x1b exit 3")]

    answer = run("start", "a", "b", "--json")

    assert answer.exit_code == 1
    assert "claudedo: a failed: setup failed:\\x1b exit 3\n" in answer.stderr
    assert [one["name"] for one in json.loads(answer.stdout)] == ["a", "b"]


def test_json_is_the_list_of_what_was_started_as_ls_prints_it(run: Run, worker: FakeWorker) -> None:
    worker.add(task("other"))

    answer = run("start", "b", "a", "--json")

    assert json.loads(answer.stdout) == [task("b"), task("a")]


def test_quiet_prints_the_ids(run: Run, worker: FakeWorker) -> None:
    assert run("start", "b", "a", "-q").stdout == "t_B\nt_A\n"


def test_an_untrusted_repository_is_refused_without_a_terminal(
    run: Run, worker: FakeWorker
) -> None:
    worker.trusted = False

    answer = run("start", "a")

    assert answer.exit_code == 5
    assert answer.stderr == "claudedo: The repository /src/shop was never trusted; say --trust.\n"
    assert len(worker.requests("POST", "/api/start")) == 1


def test_trust_given_on_the_command_line_is_not_asked_for(run: Run, worker: FakeWorker) -> None:
    worker.trusted = False

    assert run("start", "a", "--trust").exit_code == 0


def test_a_refusal_of_the_worker_ends_with_5(run: Run, worker: FakeWorker) -> None:
    worker.failures["POST /api/start"] = problem_of("conflict", "The branch is in use.", 409)

    answer = run("start", "a")

    assert (answer.exit_code, answer.stderr) == (5, "claudedo: The branch is in use.\n")


def test_a_start_that_does_not_get_on_is_left_alone_after_a_while(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.5)
    worker.add(task("a", "starting"))

    answer = run("start", "a")

    assert answer.exit_code == 3
    assert "claudedo ls" in answer.stderr
