"""The frame of every command: help, version, errors, exit statuses, what is imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from claudedo.cli import app as app_module
from claudedo.cli import exits, task
from claudedo.cli.exits import Exit
from claudedo.client import WorkerClient
from claudedo.errors import KINDS
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, problem_of
from tests.unit.cli.fake_worker import task as a_task

COMMANDS = [
    "start", "ls", "show", "attach", "send", "thread", "logs", "stop", "restart", "rm", "link",
    "unlink", "path", "open", "demo", "doctor", "uninstall", "worker run", "worker start",
    "worker stop", "worker status", "asks", "allow", "deny", "answer", "next",
]  # fmt: skip

STATUSES = {
    "failed": 1,
    "usage": 2,
    "too_large": 2,
    "timeout": 3,
    "not_found": 4,
    "ambiguous": 4,
    "refused": 5,
    "untrusted": 5,
    "conflict": 5,
    "busy": 5,
    "unauthorized": 5,
    "forbidden": 5,
    "version": 1,
    "unavailable": 1,
    "storage": 1,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(run: Run, command: str) -> None:
    answer = run(*command.split(), "--help")

    assert answer.exit_code == 0
    assert "Example: " in answer.stdout
    assert f"claudedo {command}" in " ".join(answer.stdout.split())


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    answer = run()

    assert answer.exit_code == 0
    assert "claudedo start backend frontend" in answer.stdout


def test_the_version_is_printed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2.3 of {name}")

    answer = run("--version")

    assert (answer.exit_code, answer.stdout) == (0, "claudedo 1.2.3 of claudedo\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["ls", "--bogus"], "No such option: --bogus"),
        (["send"], "Name a task: see `claudedo send --help`."),
        (["allow"], "Name an ask or a task: see `claudedo allow --help`."),
        (["link", "backend"], "Name two tasks: see `claudedo link --help`."),
        (["thread", "a", "b"], "unexpected extra argument"),
        (["send", "a", "b", "--wait", "seen"], "--wait"),
        (["send", "a", "b", "--timeout", "soon"], "--timeout"),
        (["worker"], "Say what to do (run, start, stop, status): see `claudedo worker --help`."),
        (["status", "a"], "Say how far it is (notstarted, ongoing, blocked, completed, rejected)"),
        (["status", "a", "done"], "Invalid value for 'STATUS': 'done' is not one of"),
        (["workspace", "rename"], "Name a workspace: see `claudedo workspace rename --help`."),
        (["workspace", "rename", "a"], "Say what it is to be called: see"),
        (["token", "revoke"], "Name a token: see `claudedo token revoke --help`."),
        (["attachment"], "Name a file by its id: see"),
        (["search"], "Say what to look for: see"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    run: Run, arguments: list[str], sentence: str
) -> None:
    answer = run(*arguments)

    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("claudedo: ")
    assert answer.stderr.count("\n") == 1
    assert sentence in answer.stderr
    assert "--help" in answer.stderr


def test_every_kind_of_error_has_its_status() -> None:
    assert {code: int(exits.status_of(kind("x"))) for code, kind in KINDS.items()} == STATUSES


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_an_error_of_the_worker_is_one_line_with_its_status(
    run: Run, worker: FakeWorker, code: str, status: int
) -> None:
    worker.failures["GET /api/tasks"] = problem_of(code, "Because of \x1b[31mthis.", 500)

    answer = run("ls")

    assert answer.exit_code == status
    assert answer.stderr == "claudedo: Because of \\x1b[31mthis.\n"


def test_failures_that_agree_share_their_status() -> None:
    assert exits.common([]) is Exit.DONE
    assert exits.common([Exit.DONE, Exit.REFUSED, Exit.REFUSED]) is Exit.REFUSED
    assert exits.common([Exit.NOT_FOUND, Exit.REFUSED]) is Exit.FAILED


def _break(*_: object) -> None:
    raise KeyError("x\x1b")


def test_an_unexpected_error_is_one_line_that_names_the_log(
    run: Run, worker: FakeWorker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "_rows", _break)
    worker.add(a_task("backend"))

    answer = run("ls")

    assert answer.exit_code == 1
    assert answer.stderr.startswith("claudedo: this should not happen: KeyError")
    assert answer.stderr.count("\n") == 1
    assert str(home / "worker.log") in answer.stderr


def test_an_unexpected_error_shows_its_traceback_on_request(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "_rows", _break)
    monkeypatch.setenv("CLAUDEDO_DEBUG", "1")
    worker.add(a_task("backend"))

    answer = run("ls")

    assert "Traceback (most recent call last)" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("claudedo: ")


def test_ctrl_c_ends_with_130(worker: FakeWorker, home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "claudedo.cli.app", "ls", "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline()) == []

            following.send_signal(signal.SIGINT)

            assert following.communicate(timeout=30) == (b"", b"")
            assert following.returncode == 130
        finally:
            following.kill()  # one that did not end would start a real worker in place of this one


def test_a_reader_that_leaves_early_is_no_error_worth_a_traceback(worker: FakeWorker) -> None:
    worker.add(*(a_task(f"t{number}", worktree="x" * 4000) for number in range(50)))

    done = subprocess.run(
        f"{sys.executable} -m claudedo.cli.app ls --json | head -1",
        shell=True,
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert done.stdout == b"[\n"
    assert done.stderr == b""


@pytest.mark.parametrize(("arguments", "kept"), [([], False), (["--keep"], True)])
def test_demo_hands_over_and_ends_as_the_demonstration_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kept: bool
) -> None:
    asked: list[bool] = []

    def demonstrate(*, keep: bool) -> int:
        asked.append(keep)
        return 7

    monkeypatch.setattr("claudedo.demo.run.run", demonstrate)

    assert run("demo", *arguments).exit_code == 7
    assert asked == [kept]


def test_a_broken_configuration_is_named(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("prot = 1")

    answer = run("ls")

    assert answer.exit_code == 2
    assert "unknown key 'prot'" in answer.stderr


def imported(*arguments: str) -> set[str]:
    """The modules in memory after `claudedo ARGUMENTS...` ended."""
    script = "import sys, atexit\n"
    script += "atexit.register(lambda: print('|', *sorted(sys.modules), file=sys.stderr))\n"
    script += "from claudedo.cli.app import app; app(prog_name='claudedo')"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        timeout=60,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return set(done.stderr.rpartition("|")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        "ls",
        "ls --json",
        "asks",
        "send backend hi",
        "thread backend",
        "path backend",
        "worker status",
    ],
)
def test_a_command_imports_nothing_heavy(worker: FakeWorker, arguments: str) -> None:
    """All but pydantic, which typer itself needs to run a command."""
    worker.add(a_task("backend"))

    heavy = {
        "aiohttp", "aiosqlite", "anyio", "asyncio", "git", "mcp", "pexpect", "psutil", "pyte",
        "rich", "socketio", "sqlite3", "starlette", "uvicorn", "webbrowser",
        "claudedo.demo", "claudedo_worker",
    }  # fmt: skip

    assert imported(*arguments.split()) & heavy == set()


def test_a_list_that_has_to_wait_for_its_worker_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr("claudedo.cli.board.show", lambda _: 0)
    monkeypatch.setattr(WorkerClient, "connect", lambda *_: told.append(capsys.readouterr().err))

    for listens in (False, True):
        monkeypatch.setattr(WorkerClient, "listening", lambda _, answer=listens: answer)
        app_module._live_list()

    assert told == ["Starting the worker …\n", ""]
