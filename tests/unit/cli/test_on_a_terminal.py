"""The commands on a real terminal: questions, live progress, colours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pexpect
import pytest

from tests.unit.cli.fake_worker import FakeWorker, message, one_shot, task

SECONDS = 30

Terminal = Callable[..., Any]


@pytest.fixture
def terminal(worker: FakeWorker) -> Iterator[Terminal]:
    """Run `claudedo ARGUMENTS...` on a terminal of 120 columns.

    It is ended before the worker, in whose place it would start a real one.
    """
    children = []

    def start(*arguments: str, **environment: str) -> Any:
        ours = ("NO_COLOR", "COLUMNS", "LINES")  # the terminal says how large it is
        inherited = {key: value for key, value in os.environ.items() if key not in ours}
        env = {
            **inherited,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONUTF8": "1",
            "TERM": "xterm-256color",
            **environment,
        }
        child = pexpect.spawn(
            sys.executable,
            ["-m", "claudedo.cli.app", *arguments],
            env=env,
            dimensions=(40, 120),
            timeout=SECONDS,
            encoding="utf-8",
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def ending(child: Any) -> tuple[int, str]:
    """The exit status, and everything that was still to come on the terminal."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, child.before


def test_trust_is_asked_for_once_and_given(worker: FakeWorker, terminal: Terminal) -> None:
    worker.trusted = False
    child = terminal("start", "a@/src/shop")

    child.expect(r"The repository /src/shop was never trusted; .*Trust it\? \[y/N\]")
    child.sendline("y")

    assert ending(child)[0] == 0
    assert [order["trust"] for order in worker.requests("POST", "/api/start")] == [False, True]


@pytest.mark.parametrize("answer", ["n", "", "yup"])
def test_trust_that_is_not_given_starts_nothing(
    worker: FakeWorker, terminal: Terminal, answer: str
) -> None:
    worker.trusted = False
    child = terminal("start", "a")

    child.expect(r"Trust it\? \[y/N\]")
    child.sendline(answer)

    status, printed = ending(child)
    assert status == 5
    assert printed.endswith("claudedo: Nothing was started; --trust says yes beforehand.\r\n")
    assert "never trusted" not in printed
    assert len(worker.requests("POST", "/api/start")) == 1


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 5)])
def test_a_session_in_the_middle_of_a_turn_is_removed_only_if_the_person_says_so(
    worker: FakeWorker, terminal: Terminal, answer: str, status: int
) -> None:
    worker.add(task("a", "busy"), task("b"))
    child = terminal("rm", "a", "b")

    child.expect(r"a is in the middle of a turn. Remove it now\? \[y/N\]")
    child.sendline(answer)

    assert ending(child)[0] == status
    assert [one in worker.tasks for one in ("t_A", "t_B")] == [status == 5] * 2


def test_a_wait_says_at_once_what_it_waits_for_and_can_be_left(
    worker: FakeWorker, terminal: Terminal
) -> None:
    worker.add(task("backend"))
    child = terminal("send", "backend", "x", "--wait", "answered")

    child.expect("stored for backend; waiting until it is answered, up to 60 s")
    child.sendintr()

    status, printed = ending(child)
    assert status == 130
    assert "The message is safe and will go on: claudedo thread backend" in printed


@pytest.mark.parametrize(("answer", "orders", "status"), [("y", 2, 0), ("n", 1, 5)])
def test_a_session_at_work_is_ended_only_if_the_person_says_so(
    worker: FakeWorker, terminal: Terminal, answer: str, orders: int, status: int
) -> None:
    worker.foreign = [task("sub-6f", "busy", supervised=False)]
    child = terminal("adopt", "sub-6f")

    child.expect(r"sub-6f is busy.*End it now\? \[y/N\]")
    child.sendline(answer)

    assert ending(child)[0] == status
    asked = worker.requests("POST", "/api/adopt")
    assert [order["now"] for order in asked] == [False, True][:orders]


def test_progress_is_shown_live_and_a_dialog_is_left_to_the_person(
    worker: FakeWorker, terminal: Terminal
) -> None:
    worker.add(task("a"), task("b"))
    dialog = {**task("a", "waiting")["session"], "waiting_for": "start-up dialog: theme"}
    step = {**task("a", "starting")["session"], "waiting_for": "making the worktree"}
    worker.progress["t_A"] = [step, step, dialog]
    child = terminal("start", "a", "b")

    child.expect("making the worktree")
    child.expect("start-up dialog: theme")
    child.expect("claudedo attach a")

    assert ending(child)[0] == 0


def test_the_list_is_coloured_and_fitted(worker: FakeWorker, terminal: Terminal) -> None:
    worker.add(task("a", branch="x" * 200))

    status, printed = ending(terminal("ls"))

    assert status == 0
    assert "\x1b[32midle" in printed
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines())) <= 120


def test_what_is_waited_for_is_cut_and_leaves_a_line_for_each_task(
    worker: FakeWorker, terminal: Terminal
) -> None:
    words = {**task("a", "waiting")["session"], "waiting_for": "permission: Bash: " + "make " * 50}
    worker.add(task("a", session=words), task("b", branch="claudedo/" + "b" * 60))

    _, printed = ending(terminal("ls", NO_COLOR="1"))

    heads, *lines = re.sub(r"\x1b\[[0-9;]*m", "", printed).split("\r\n")
    assert [line.split()[:1] for line in lines] == [["a"], ["b"], []]
    assert "WAITING FOR" in heads and "BRANCH" in heads
    assert "permission: Bash: make" in lines[0] and "…" in lines[0] and "…" in lines[1]
    assert all(len(line.rstrip()) <= 120 for line in (heads, *lines))


def test_no_line_of_a_conversation_begins_without_its_bar_on_a_narrow_terminal(
    worker: FakeWorker, terminal: Terminal
) -> None:
    worker.add(task("a"))
    worker.logs["t_A"] = [{"role": "user", "text": "x" * 300 + "\n" + "y" * 300}]

    _, printed = ending(terminal("logs", "a"))

    first, *others = printed.rstrip().split("\r\n")
    assert first == "user: " + "x" * 114
    assert [line[:4] for line in others] == ["  ┆ ", "  ┆ ", "  │ ", "  ┆ ", "  ┆ "]
    assert all(len(line) <= 120 for line in others)
    assert "".join(others).count("x") == 186 and "".join(others).count("y") == 300


def test_no_color_is_honoured(worker: FakeWorker, terminal: Terminal) -> None:
    worker.add(task("a"))

    _, printed = ending(terminal("ls", NO_COLOR="1"))

    assert not re.search(r"\x1b\[[0-9;]*3\dm", printed)


def test_markup_in_a_message_is_only_text(worker: FakeWorker, terminal: Terminal) -> None:
    worker.add(task("backend"))
    worker.say("t_BACKEND", message("m_1", "[red]x[/red] :smile: \x1b[2J\x9b2J"))

    _, printed = ending(terminal("thread", "backend"))

    assert "[red]x[/red] :smile: \\x1b[2J\\x9b2J" in printed
    assert "\x1b[2J" not in printed


def test_the_list_is_redrawn_until_ctrl_c(worker: FakeWorker, terminal: Terminal) -> None:
    worker.add(task("a"))
    child = terminal("ls", "--watch")
    child.expect("idle")
    worker.add(task("b", "busy"))
    worker.say("t_B")
    child.expect("busy")

    child.sendintr()

    assert ending(child)[0] == 130


def test_uninstall_asks_before_it_removes_anything(worker: FakeWorker, terminal: Terminal) -> None:
    child = terminal("uninstall")

    child.expect(r"Go on\? \[y/N\]")
    child.sendline("n")

    status, printed = ending(child)
    assert status == 5
    assert "Nothing was done." in printed
    assert not worker.stopping.is_set()


def test_a_terminal_that_is_gone_is_reported(worker: FakeWorker, terminal: Terminal) -> None:
    worker.add(task("a"))

    status, printed = ending(terminal("attach", "a"))

    assert status == 1
    assert printed.startswith("claudedo: ")
    assert "Traceback" not in printed


def test_a_run_of_the_queue_is_a_table_while_it_goes_on(
    worker: FakeWorker, terminal: Terminal
) -> None:
    build = one_shot("build", doing="Bash: make \x1b[2J", usage={"requests": 1})
    worker.queue(build, one_shot("test", needs=["build"]))
    worker.ends["build"] = None
    child = terminal("queue", "run")

    child.expect(r"build\S*\s.*Bash: make \\x1b\[2J")
    child.expect(r"test\S*\s.*queued")
    worker.ends["build"] = {"status": "rejected", "exit": 10, "reason": "its check failed"}
    worker.ends["test"] = {"status": "skipped", "exit": 17, "reason": "build is rejected"}
    worker.one_shots["t_TEST"]["status"] = "running"
    worker.announce("t_BUILD")

    status, printed = ending(child)
    assert status == 10
    assert "claudedo: build rejected (10): its check failed; look: claudedo logs build" in printed
    assert worker.requests("POST", "/api/queue/next")[0]["rules"]["ask_timeout"] == 300.0


def test_ctrl_c_ends_a_run_of_the_queue_cleanly(worker: FakeWorker, terminal: Terminal) -> None:
    worker.queue(one_shot("build"))
    worker.ends["build"] = None
    child = terminal("queue", "run")

    child.expect("running")
    child.sendintr()
    child.expect("Ending build … \\(once more leaves at once\\)")

    status, printed = ending(child)
    assert status == 130
    assert "Interrupted; `claudedo queue run` goes on with build." in printed
    assert worker.requests("POST", "/api/queue/cancel") == [{"tasks": ["t_BUILD"], "requeue": True}]


def test_a_hang_up_ends_a_run_of_the_queue_cleanly(worker: FakeWorker, terminal: Terminal) -> None:
    worker.queue(one_shot("build"))
    worker.ends["build"] = None
    child = terminal("queue", "run")

    child.expect("running")
    child.ptyproc.fileobj.close()  # the terminal is gone; `close` would send signals of its own
    child.closed = child.ptyproc.closed = True

    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 130
    child.ptyproc.terminated = child.terminated = True
    assert worker.requests("POST", "/api/queue/cancel") == [{"tasks": ["t_BUILD"], "requeue": True}]
