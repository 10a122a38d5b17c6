"""The live list on a real terminal: what it leaves behind, colours, signals, and its price."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pexpect
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, ask, problem_of, task

SECONDS = 30

ON = ("\x1b[?1049h", "\x1b[?25l")
OFF = ("\x1b[?1049l", "\x1b[?25h")
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|[34]8;[25])\b[0-9;]*m")

Terminal = Callable[..., Any]


@pytest.fixture
def listing() -> Terminal:
    """Run bare `claudedo` on a terminal of 80 columns and 24 lines."""

    @contextmanager
    def start(**environment: str) -> Iterator[Any]:
        inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        child = pexpect.spawn(
            sys.executable,
            ["-m", "claudedo.cli.app"],
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONUTF8": "1",
                "TERM": "xterm-256color",
                **environment,
            },
            dimensions=(24, 80),
            timeout=SECONDS,
            encoding="utf-8",
        )
        try:
            yield child
        finally:
            child.close(force=True)

    return start


def ended(child: Any) -> tuple[int | None, int | None, str]:
    """Exit status, signal, and everything that was still to come on the terminal."""
    child.expect(pexpect.EOF)
    printed = child.before
    child.wait()
    return child.exitstatus, child.signalstatus, printed


def is_restored(child: Any, printed: str) -> bool:
    return all(code in printed for code in OFF) and is_cooked(child)


def is_cooked(child: Any) -> bool:
    """True if the terminal shows what is typed, by lines, and Ctrl-C makes a signal."""
    usual = termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN
    flags: list[Any] = termios.tcgetattr(child.child_fd)
    return flags[3] & usual == usual and bool(flags[0] & termios.ICRNL)


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        (lambda child: child.send("q" + "jy" * 50), 0),
        (lambda child: child.send("\x03"), 130),
        (lambda child: child.send("s\x03"), 130),
        (lambda child: child.kill(signal.SIGTERM), 143),
        (lambda child: child.kill(signal.SIGHUP), 129),
    ],
    ids=["q", "ctrl-c", "ctrl-c while writing", "SIGTERM", "SIGHUP"],
)
def test_leaving_restores_the_terminal(
    worker: FakeWorker, listing: Terminal, leave: Callable[[Any], None], status: int
) -> None:
    worker.add(task("backend"))
    with listing() as child:
        child.expect_exact(ON[0])
        child.expect("backend")
        child.expect("help")
        leave(child)
        code, _, printed = ended(child)
        assert code == status
        assert is_restored(child, printed)
        assert "Traceback" not in printed


def test_a_fault_is_one_line_on_a_restored_terminal(worker: FakeWorker, listing: Terminal) -> None:
    worker.add(task("backend"))
    with listing() as child:
        child.expect("backend")
        worker.tasks["t_BACKEND"]["session"]["since"] = "long ago"
        worker.say("t_BACKEND")
        code, _, printed = ended(child)
        assert code == 1
        assert is_restored(child, printed)
        assert "claudedo: this should not happen: ValueError" in printed
        assert "Traceback" not in printed


def test_a_stop_gives_the_terminal_back_until_the_list_goes_on(
    worker: FakeWorker, listing: Terminal
) -> None:
    worker.add(task("backend"))
    with listing() as child:
        child.expect("backend")
        child.send("\x1a")
        child.expect_exact(OFF[0])
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert is_cooked(child)
        child.kill(signal.SIGCONT)
        child.expect_exact(ON[0])
        child.expect("backend")
        child.send("q")
        assert ended(child)[0] == 0


def test_the_editor_gets_the_terminal_for_commands_and_messages(
    worker: FakeWorker, listing: Terminal
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    with listing(EDITOR="sed -i s/test/run/", VISUAL="") as child:
        child.expect("help")
        child.send("e")
        child.expect("Allow it changed like this")
        child.send("y")
        child.expect("was allowed through claudedo")
        child.send("s")
        child.expect("To backend:")
        child.send("a test")
        child.send("\x05")
        child.expect_exact(OFF[0])
        child.expect("a run")
        child.send("\r")
        child.expect("stored ✓")
        child.send("q")
        assert ended(child)[0] == 0
    command = {"command": "npm run", "description": "what it does"}
    assert worker.decided("k_1") == [{"decision": "allow", "input": command}]
    (sent,) = worker.requests("POST", "/api/tasks/t_BACKEND/messages")
    assert sent["body"] == "a run"


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured(
    worker: FakeWorker, listing: Terminal, environment: dict[str, str], coloured: bool
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    with listing(**environment) as child:
        child.expect("npm test")
        printed = child.before
        child.send("q")
        printed += ended(child)[2]
        assert bool(COLOUR.search(printed)) is coloured


def test_text_of_sessions_does_not_drive_the_terminal(
    worker: FakeWorker, listing: Terminal
) -> None:
    worker.wait_in(ask("k_1", "x", title="Bash: \x1b]0;title\x07\x9b2J[red]x"))
    with listing() as child:
        child.expect_exact("\\x1b]0;title\\x07\\x9b2J[red]x")
        printed = child.before
        child.send("q")
        printed += ended(child)[2]
        assert "\x1b]0;" not in printed
        assert "\x9b" not in printed


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_terminal_that_cannot_place_text_gets_the_help(
    worker: FakeWorker, listing: Terminal, name: str
) -> None:
    with listing(TERM=name) as child:
        code, _, printed = ended(child)
        assert code == 0
        assert "Usage: claudedo" in printed
        assert ON[0] not in printed


def test_without_a_terminal_there_is_the_help(worker: FakeWorker, run: Run) -> None:
    answer = run()

    assert answer.exit_code == 0
    assert "Usage: claudedo" in answer.stdout
    assert worker.asked == []


def test_a_worker_that_cannot_be_reached_is_one_line(worker: FakeWorker, listing: Terminal) -> None:
    worker.failures["GET /api/tasks"] = problem_of("version", "Upgrade [bold]claudedo.", 409)
    with listing() as child:
        child.expect_exact("! Upgrade [bold]claudedo.")
        child.send("q")
        assert ended(child)[0] == 0


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["asks"], ["send", "backend", "x"]])
def test_no_other_command_pays_for_the_list(worker: FakeWorker, arguments: list[str]) -> None:
    worker.add(task("backend"))
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "claudedo.cli.app", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )

    assert "claudedo.cli.task" in listed.stderr
    assert "textual" not in listed.stderr
