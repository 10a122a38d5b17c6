"""What there is, and what is done with it: ls, show, path, stop, restart, rm, link, unlink."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from claudedo.cli import render
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import STORED, FakeWorker, problem_of, task


def waiting(name: str, what: str, **changes: Any) -> Any:
    one = task(name, "waiting", **changes)
    one["session"]["waiting_for"] = what
    return one


def test_ls_json_is_what_the_worker_says(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b", None))

    answer = run("ls", "--json")

    assert json.loads(answer.stdout) == [task("a"), task("b", None)]
    assert answer.stderr == ""


def test_ls_json_of_nothing_is_an_empty_list(run: Run, worker: FakeWorker) -> None:
    assert json.loads(run("ls", "--json").stdout) == []


def test_ls_of_nothing_says_what_to_do(run: Run, worker: FakeWorker) -> None:
    answer = run("ls")

    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "claudedo start" in answer.stderr
    worker.workspaces.append({"id": "w_2", "name": "mill"})
    assert run("ls", "-w", "mill").stderr == "No tasks in the workspace mill.\n"


def test_ls_without_a_terminal_is_a_plain_table(run: Run, worker: FakeWorker) -> None:
    worker.add(
        waiting("a", "permission prompt", pending=3, peers=["b", "c"], branch="x" * 150),
        task("b", None, branch=None),
    )

    heads, first, second = run("ls").stdout.splitlines()

    assert heads.split() == [
        "NAME",
        "STATE",
        "WAITING",
        "FOR",
        "SINCE",
        "UNREAD",
        "PEERS",
        "BRANCH",
    ]
    assert first.split()[:4] == ["a", "waiting", "permission", "prompt"]
    assert first.endswith("  3       b, c   " + "x" * 150)
    assert second.split() == ["b", "not", "started", "-", "-", "-", "-", "-"]


def test_ls_names_workspaces_when_there_are_several(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b", workspace="mill", supervised=False))

    answer = run("ls")

    assert "shop/a" in answer.stdout
    assert "mill/b (not ours)" in answer.stdout
    assert "mill" not in run("ls", "-w", "shop").stdout


def test_ls_neutralises_what_a_session_waits_for(run: Run, worker: FakeWorker) -> None:
    worker.add(waiting("a", "allow \x1b[2J?\nreally"))

    assert "allow \\x1b[2J? really" in run("ls").stdout


def test_ls_says_why_a_session_failed(run: Run, worker: FakeWorker) -> None:
    failed = {**task("a", "failed")["session"], "reason": "its setup ended with status 3"}
    worker.add(task("a", session=failed), waiting("b", "permission prompt"))

    assert "failed   its setup ended with status 3  " in run("ls").stdout


def test_a_one_shot_says_how_it_stands_in_the_queue(run: Run, worker: FakeWorker) -> None:
    queue = {"status": "failed", "exit": 16, "reason": "it had been denied Bash"}
    worker.add(task("a", "stopped", queue=queue), task("b", "busy", queue={"status": "running"}))

    _, over, runs = run("ls").stdout.splitlines()
    assert re.match(r"a +failed +it had been denied Bash ", over)
    assert re.match(r"b +busy ", runs)
    told = dict(re.split("  +", line, maxsplit=1) for line in run("show", "a").stdout.splitlines())
    assert (told["queue status"], told["queue exit"]) == ("failed", "16")


def test_ls_quiet_prints_the_ids(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b"))

    assert run("ls", "-q").stdout == "t_A\nt_B\n"


def test_ls_watch_prints_the_list_again_when_it_changed(worker: FakeWorker) -> None:
    worker.add(task("a"))
    with subprocess.Popen(
        [sys.executable, "-m", "claudedo.cli.app", "ls", "--watch", "--json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        worker.add(task("b"))
        worker.say("t_B")
        second = json.loads(watching.stdout.readline())
        watching.kill()

    assert [[one["name"] for one in tasks] for tasks in (first, second)] == [["a"], ["a", "b"]]


def test_show_tells_all_that_is_known(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", peers=["b", "c"]))

    told = dict(re.split("  +", line, maxsplit=1) for line in run("show", "a").stdout.splitlines())

    assert told["peers"] == "b, c"
    assert told["session state"] == "idle"
    assert told["session id"] == "11111111-2222-3333-4444-555555555555"
    assert told["body"] == "what is wanted"


def test_show_is_aligned_and_in_words(run: Run, worker: FakeWorker) -> None:
    usage = {"requests": 3, "cache_creation_tokens": 70, "cost_usd": None, "output_tokens": 0}
    session = {**task("a")["session"], "channel": True, "usage": usage, "ended_at": None}
    work = {"dirty": False, "unmerged": 2}
    worker.add(task("a", session=session, base="0123456789ab" * 3, base_branch="main", work=work))

    lines = run("show", "a").stdout.splitlines()
    told = dict(re.split("  +", line, maxsplit=1) for line in lines)

    assert {line.rindex(told[label]) for label, line in zip(told, lines, strict=True)} == {
        len("usage cache creation tokens") + 2
    }
    assert told["usage cache creation tokens"] == "70"
    assert told["base"] == "main at 0123456789ab"
    assert (told["session channel"], told["work dirty"]) == ("yes", "no")
    assert told["session since"] == render.clock(STORED)
    assert not told.keys() & {"base branch", "pending", "usage output tokens", "supervised"}


def test_show_json_is_what_the_worker_says(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))
    move = {"at": STORED, "before": "notstarted", "after": "ongoing", "name": "user"}
    worker.history.append(move)

    shown = json.loads(run("show", "a", "--json").stdout)
    words = {"body": "what is wanted", "repo": "/src/shop"}

    assert shown == {**task("a"), **words, "history": [move]}
    assert "notstarted → ongoing by user" in run("show", "a").stdout


def test_a_task_without_a_session_says_how_far_it_is(run: Run, worker: FakeWorker) -> None:
    worker.add(
        task("may-i", None, assignee="human", status="notstarted"),
        task("decided", None, assignee="human", status="rejected"),
        task("claimed", None, status="ongoing", holder="token:k_1"),
        task("made", None, status="notstarted"),
    )

    rows = [line.split("  ") for line in run("ls").stdout.splitlines()[1:]]
    states = {row[0]: next(cell for cell in row[1:] if cell).strip() for row in rows}

    assert states == {
        "may-i": "waiting for you",
        "decided": "rejected",
        "claimed": "ongoing",
        "made": "not started",
    }


def test_a_status_is_moved_and_told(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))

    assert run("status", "a", "completed", "-m", "thanks").stdout == "a: ongoing → completed\n"
    [sent] = worker.requests("POST", "/api/tasks/t_A/status")
    assert sent == {"status": "completed", "words": "thanks"}
    assert run("status", "a", "paused").exit_code == 2


def test_path_prints_the_folder_and_nothing_else(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", worktree="/src/with space"))

    assert run("path", "a").stdout == "/src/with space\n"


def test_path_of_a_task_without_a_folder_ends_with_4(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", worktree=None))

    answer = run("path", "a")

    assert (answer.exit_code, answer.stdout) == (4, "")


@pytest.mark.parametrize(
    "command", ["show", "path", "stop", "restart", "rm", "send x", "thread", "logs"]
)
def test_a_name_that_fits_nothing_ends_with_4(run: Run, worker: FakeWorker, command: str) -> None:
    verb, *rest = command.split()

    answer = run(verb, "nobody", *rest)

    assert answer.exit_code == 4
    assert answer.stderr == "claudedo: There is no task 'nobody'.\n"


def test_a_name_that_fits_two_ends_with_4_and_lists_them(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("a", id="t_A2", workspace="mill"))

    answer = run("path", "a")

    assert answer.exit_code == 4
    assert "shop/a, mill/a" in answer.stderr
    assert run("path", "a", "-w", "mill").exit_code == 0
    assert run("path", "mill/a").exit_code == 0


def test_names_are_looked_up_from_the_present_directory(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    worker.add(task("a"))
    monkeypatch.chdir(tmp_path)

    run("path", "a")

    assert worker.requests("GET", "/api/resolve") == [{"target": "a", "cwd": str(tmp_path)}]


def test_stop_ends_the_named_sessions_once_each(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b"), task("c"))

    answer = run("stop", "a", "b", "shop/a")

    assert answer.stdout == "a stopped\nb stopped\n"
    assert [one["session"]["state"] for one in worker.tasks.values()] == [
        "stopped",
        "stopped",
        "idle",
    ]


def test_stop_of_what_does_not_run_says_so(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", "failed"))

    assert run("stop", "a").stdout == "a was not running\n"


def test_stop_all_ends_what_runs_and_is_ours(run: Run, worker: FakeWorker) -> None:
    worker.add(
        task("a"),
        task("b", "failed"),
        task("c", None),
        task("d", "waiting"),
        task("e", supervised=False),
        task("f", workspace="mill"),
    )

    assert run("stop", "--all", "-w", "shop").stdout == "a stopped\nd stopped\n"
    assert run("stop", "--all").stdout == "f stopped\n"
    assert run("stop", "--all").stderr == "No session runs.\n"


@pytest.mark.parametrize("command", ["stop", "restart"])
@pytest.mark.parametrize("arguments", [[], ["a", "--all"]], ids=["neither", "both"])
def test_names_or_all_but_not_both(
    run: Run, worker: FakeWorker, command: str, arguments: list[str]
) -> None:
    answer = run(command, *arguments)

    assert answer.exit_code == 2
    assert "--all" in answer.stderr


def test_a_name_that_fits_nothing_stops_before_anything_is_done(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("a"))

    assert run("rm", "a", "nobody").exit_code == 4
    assert list(worker.tasks) == ["t_A"]


def test_one_refusal_does_not_keep_the_others_from_being_done(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b"))
    worker.failures["DELETE /api/tasks/t_A"] = problem_of("conflict", "Uncommitted work.", 409)

    answer = run("rm", "a", "b")

    assert answer.exit_code == 5
    assert answer.stderr == "claudedo: a: Uncommitted work.\n"
    assert answer.stdout == "Removed b.\n"


def test_rm_never_forces_unless_told(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b"))

    run("rm", "a")
    run("rm", "b", "--force")

    (plain,), (forced,) = (worker.requests("DELETE", f"/api/tasks/t_{x}") for x in "AB")
    assert plain.keys() == {"env"}  # a teardown runs with it
    assert forced.keys() == {"env", "force"}


def test_restart_gives_the_environment_of_this_shell(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_REGION", "mars")
    worker.add(task("a", "stopped"))

    answer = run("restart", "a")

    assert (answer.exit_code, answer.stdout) == (0, "a is idle\n")
    assert worker.requests("POST", "/api/tasks/t_A/restart") == [{"env": dict(os.environ)}]


def test_restart_all_is_for_sessions_that_do_not_run(run: Run, worker: FakeWorker) -> None:
    worker.add(
        task("a"), task("b", "interrupted"), task("c", "failed"), task("d", None),
        task("e", "stopped"),
    )  # fmt: skip

    answer = run("restart", "--all")

    assert answer.stdout == "b is idle\nc is idle\ne is idle\n"


def test_restart_ends_with_1_when_a_session_fails(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a", "stopped"))
    failed = {**task("a", "failed")["session"], "reason": "no such conversation"}
    worker.progress["t_A"] = [failed]

    answer = run("restart", "a")

    assert answer.exit_code == 1
    assert "no such conversation" in answer.stderr


def test_link_and_unlink_name_both(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"), task("b"))

    assert run("link", "a", "b").exit_code == 0
    assert run("unlink", "b", "a").exit_code == 0
    assert worker.requests("POST", "/api/peers") == [{"a": "t_A", "b": "t_B"}]
    assert worker.requests("DELETE", "/api/peers") == [{"a": "t_B", "b": "t_A"}]


def test_a_task_is_not_its_own_peer(run: Run, worker: FakeWorker) -> None:
    worker.add(task("a"))

    assert run("link", "a", "shop/a").exit_code == 2


@pytest.mark.parametrize("command", ["show", "allow", "send"])
def test_a_slip_of_a_name_is_answered_with_the_one_that_was_meant(
    run: Run, worker: FakeWorker, command: str
) -> None:
    worker.add(task("backend"), task("frontend"))

    answer = run(command, "backnd", *(["hello"] if command == "send" else []))

    assert answer.exit_code == 4
    assert "Did you mean backend?" in answer.stderr
    assert "Did you mean" not in run(command, "zzz", *(["x"] if command == "send" else [])).stderr


@pytest.mark.parametrize(
    ("task_", "words"),
    [
        (task("a", None, worktree=None, assignee="human"), "is a task for you, without a session"),
        (task("a", None, worktree=None, holder="token:tok_1"), "it was claimed by who works on it"),
        (task("a", None, worktree=None, status="notstarted"), "`claudedo start a` makes its"),
    ],
    ids=["for the person", "claimed", "not started"],
)
@pytest.mark.parametrize("command", ["path", "logs", "diff", "exec", "merge"])
def test_what_needs_a_session_or_its_folder_says_why_a_task_has_none(
    run: Run, worker: FakeWorker, command: str, task_: dict[str, Any], words: str
) -> None:
    worker.add(task_)

    answer = run(command, "a", *(["--", "true"] if command == "exec" else []))

    assert (answer.exit_code, answer.stdout) == (4, "")
    assert words in answer.stderr


def test_ls_says_what_is_claimed_and_what_is_no_longer_worked_on(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(
        task("a", None, status="notstarted", holder="task:t_B", worktree=None),
        task("b", status="blocked"),
        task("c", status="ongoing"),
    )

    first, second, third = run("ls").stdout.splitlines()[1:]

    assert first.split()[:3] == ["a", "claimed", "-"]
    assert "its task is blocked" in second
    assert "its task" not in third


def test_show_names_who_made_a_task_and_who_has_it(run: Run, worker: FakeWorker) -> None:
    worker.tokens.append({"id": "tok_1", "name": "laptop", "workspace": "shop"})
    worker.add(task("a", None, creator="task:t_B", holder="token:tok_1"), task("b"))
    worker.add(task("c", creator="user"), task("d", creator="task:t_GONE", holder="token:tok_9"))

    a, c, d = (run("show", name).stdout.splitlines() for name in "acd")

    said = [line.split(maxsplit=1) for line in (*a, *c, *d)]
    assert [text for label, text in said if label == "creator"] == [
        "b",
        "user",
        "a task that is removed",
    ]
    assert [text for label, text in said if label == "holder"] == [
        "the client laptop",
        "a client whose token is removed",
    ]
    assert json.loads(run("show", "a", "--json").stdout)["creator"] == "task:t_B"
