"""`attach`, the function behind `claudedo attach`, on a real terminal in front of a real holder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pexpect
import psutil
import pytest

from claudedo.cli.attach import DetachKeys, TerminalModes
from claudedo.errors import UsageError
from tests.support.holders import PATIENCE, Held, Holders, eventually, holders, python

CALL = (
    "import sys; from claudedo.cli.attach import attach; "
    "sys.exit(attach(sys.argv[1], read_only={read_only}, detach_keys={detach_keys!r}))"
)
CTRL_RIGHT_BRACKET = "\x1d"
Attach = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def started() -> Iterator[Holders]:
    with holders() as factory:
        yield factory


def command(held: Held, *, read_only: bool = False, detach_keys: str = "ctrl-]") -> list[str]:
    code = CALL.format(read_only=read_only, detach_keys=detach_keys)
    return [sys.executable, "-c", code, str(held.socket)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm"}


@contextmanager
def terminal(argv: list[str], rows: int = 24, cols: int = 80) -> Iterator[pexpect.spawn[str]]:
    """A person's terminal with a command in it."""
    window = pexpect.spawn(
        argv[0],
        argv[1:],
        dimensions=(rows, cols),
        env=environment(),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    try:
        yield window
    finally:
        window.close(force=True)


def exit_code(window: pexpect.spawn[str]) -> int | None:
    window.expect(pexpect.EOF)
    window.wait()
    return window.exitstatus


def test_a_person_attaches_types_and_detaches_while_the_session_goes_on(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo before; exec cat"])
    with terminal(command(held)) as window:
        window.expect("before")
        window.send("hello\r")
        window.expect("hello\r\nhello\r\n")
        window.send(CTRL_RIGHT_BRACKET)
        window.expect("Detached; the session goes on.")
        assert exit_code(window) == 0
    with held.connect() as client:
        assert client.hello.exited is None
        assert client.hello.watchers == 0
        assert client.hello.last_input_at is not None


@pytest.mark.parametrize(
    ("end", "code", "sentence"),
    [
        ("exit 0", 0, "The session ended (exit 0)."),
        ("exit 7", 7, "The session ended (exit 7)."),
        ("kill -KILL $$", 137, "The session ended (signal 9)."),
    ],
)
def test_the_end_of_the_session_is_told_and_becomes_the_exit_code(
    started: Holders, end: str, code: int, sentence: str
) -> None:
    held = started.start(["sh", "-c", f"echo up; read line; echo last words; {end}"])
    with terminal(command(held)) as window:
        window.expect("up")
        window.send("\r")
        window.expect("last words")
        window.expect_exact(sentence)
        assert exit_code(window) == code


def test_attaching_to_an_ended_session_shows_what_it_left(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo last words; exit 3"])
    held.exit_file()
    with terminal(command(held)) as window:
        window.expect("last words")
        assert exit_code(window) == 3


def test_the_session_follows_the_size_of_the_window(started: Holders) -> None:
    code = """
import os, signal
def show(*_): os.write(1, b"size %d %d " % os.get_terminal_size()[::-1])
signal.signal(signal.SIGWINCH, show)
show()
while True: signal.pause()
"""
    held = started.start(python(code))
    with terminal(command(held), rows=33, cols=101) as window:
        window.expect("size 33 101")
        window.setwinsize(44, 120)
        window.expect("size 44 120")


def test_a_read_only_watcher_sees_but_changes_nothing_and_can_detach(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo up; exec cat"])
    with terminal(command(held, read_only=True), rows=50, cols=50) as window:
        window.expect("up")
        window.send("not me\r")
        with held.connect() as other:
            other.send_input(b"but me\r")
            window.expect("but me\r\nbut me\r\n")
            assert "not me" not in str(window.before)
            assert (other.status().rows, other.status().cols) == (24, 80)
            assert other.status().watchers == 1
        window.send(CTRL_RIGHT_BRACKET)
        assert exit_code(window) == 0


def test_other_detach_keys_are_typed_one_after_the_other(started: Holders) -> None:
    code = """
import os, tty
tty.setraw(0)
os.write(1, b"up")
while True:
    os.write(1, repr(os.read(0, 99)).encode())
"""
    held = started.start(python(code))
    with terminal(command(held, detach_keys="ctrl-p,ctrl-q")) as window:
        window.expect("up")
        window.send("\x10")
        window.send("x")
        window.expect_exact(r"\x10x")  # not the keys after all: nothing of it is lost
        window.send(CTRL_RIGHT_BRACKET)
        window.expect_exact(r"\x1d")  # means nothing now
        window.send("\x10")
        window.send("\x11")
        window.expect("Detached")
        assert exit_code(window) == 0


def settings(window: pexpect.spawn[str], mark: str) -> str:
    window.sendline(f"echo {mark}-$((1+1)); stty -a; echo {mark}-$((2+2))")
    window.expect_exact(f"{mark}-2\r\n")
    window.expect_exact(f"{mark}-4\r\n")
    return str(window.before)


ENDINGS: dict[str, Callable[[pexpect.spawn[str], Held], Any]] = {
    "detaching": lambda window, _held: window.send(CTRL_RIGHT_BRACKET),
    "the session's end": lambda _window, held: os.kill(held.pid, signal.SIGKILL),
    "the holder's death": lambda _window, held: os.kill(held.holder_pid, signal.SIGKILL),
    "a request to end": lambda window, _held: terminate_child(window),
}


def terminate_child(window: pexpect.spawn[str]) -> None:
    (attached,) = psutil.Process(window.pid).children()
    attached.terminate()


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_terminal_is_given_back_as_it_was(
    started: Holders, end: Callable[[pexpect.spawn[str], Held], Any]
) -> None:
    code = r"""
import os, time, tty
tty.setraw(0)
os.write(1, b"\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?2004h\x1b[?2004l\x1b[>1uup")
time.sleep(60)
"""
    held = started.start(python(code))
    with terminal(["sh"]) as window:
        before = settings(window, "before")
        window.sendline(shlex.join(command(held)))
        window.expect_exact("\x1b[>1uup")
        end(window, held)
        window.expect_exact("\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[<1u\x1b[0m")
        assert settings(window, "after") == before
    held.socket.unlink(missing_ok=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_a_request_to_end_is_passed_on_once_the_terminal_is_given_back(
    started: Holders, number: signal.Signals
) -> None:
    held = started.start(["sh", "-c", "printf '\\033[?25lup'; exec cat"])
    with terminal(command(held)) as window:
        window.expect_exact("up")
        window.kill(number)
        window.expect_exact("\x1b[?25h")
        assert exit_code(window) is None
        assert window.signalstatus == number


def test_a_large_paste_arrives_whole(started: Holders) -> None:
    code = """
import os, tty
tty.setraw(0)
os.write(1, b"up")
seen = 0
while seen < 100_000:
    seen += os.read(0, 65536).count(b"p")
os.write(1, b"seen %d" % seen)
"""
    held = started.start(python(code))
    with terminal(command(held)) as window:
        window.expect("up")
        window.delaybeforesend = None
        window.send("p" * 100_000)
        window.expect("seen 100000")
        assert exit_code(window) == 0


def test_without_a_terminal_attaching_says_so(started: Holders) -> None:
    held = started.start(["cat"])
    done = subprocess.run(
        command(held),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert b"UsageError: Attaching needs a terminal" in done.stderr


def test_a_session_without_a_holder_is_an_error(started: Holders) -> None:
    held = started.start(["true"], linger=0.1)
    eventually(lambda: not held.socket.exists(), "the holder goes")
    with terminal(command(held)) as window:
        window.expect("HolderGoneError: no holder answers")


def test_a_one_shot_run_has_no_terminal_to_attach_to(started: Holders) -> None:
    files = {name: str(started.directory / name) for name in ("output", "errors")}
    held = started.start(["cat"], files=files)
    with terminal(command(held)) as window:
        window.expect(
            "HolderRefusedError: this is a one-shot run without a terminal; `claudedo logs`"
        )
        window.expect(pexpect.EOF)


# ---------------------------------------------------------------- the pieces

FORMS_OF_CTRL_RIGHT_BRACKET = [
    b"\x1d",
    b"\x1b[93;5u",
    b"\x1b[93;69u",
    b"\x1b[93:125;5:1u",
    b"\x1b[27;5;93~",
]


@pytest.mark.parametrize("form", FORMS_OF_CTRL_RIGHT_BRACKET)
def test_detach_keys_are_known_in_every_form_a_terminal_sends(form: bytes) -> None:
    assert DetachKeys("ctrl-]").feed(b"ab" + form + b"cd") == (b"ab", True)


def test_similar_keys_do_not_detach() -> None:
    for typed in (b"]", b"\x1b[93;6u", b"\x1b[93;5:3u", b"\x1b[193;5u", b"\x1b"):
        assert DetachKeys("ctrl-]").feed(typed) == (typed, False)


@pytest.mark.parametrize("text", ["", "q", "ctrl-", "ctrl-11", "alt-x", "ctrl-p,", "ctrl-é"])
def test_unusable_detach_keys_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        DetachKeys(text)


def test_modes_are_noticed_wherever_the_output_is_cut() -> None:
    output = b"\x1b[?1049htext\x1b[?1004;2031h\x1b[>4;2m\x1b[2 q\x1b[?7l\x1b[?1004l\x1b[?2026h"
    whole = TerminalModes()
    whole.feed(output)
    for cut in range(len(output)):
        pieces = TerminalModes()
        pieces.feed(output[:cut])
        pieces.feed(output[cut:])
        assert pieces.undo() == whole.undo()
    expected = b"\x1b[?1049l\x1b[?2026l\x1b[?2031l\x1b[?7h\x1b[>4m\x1b[0 q\x1b[0m"
    assert whole.undo() == expected


def test_a_program_that_changed_nothing_leaves_a_fresh_line_and_nothing_below_it() -> None:
    modes = TerminalModes()
    modes.feed(b"plain \x1b[31mred\x1b[?25l\x1b[?25h\x1b[>1u\x1b[<u")
    assert modes.undo() == b"\x1b[0m\r\n\x1b[J"
