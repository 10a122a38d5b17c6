"""`claudedo next` on a real terminal of 80 x 24, driven by keys."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from claudedo_worker.terminal import screen
from tests.unit.cli.fake_worker import FakeWorker, ask, message, problem_of
from tests.unit.cli.test_ask import DATABASE, MAKE_RULE, PARTS, plan, question, three_alike

SECONDS = 30
PROMPT = r"\?\] > "


class Next:
    """A person in front of `claudedo next`."""

    def __init__(self, *arguments: str, shell: str | None = None, **environment: str) -> None:
        """`shell`: what a shell with job control runs, `{next}` being the command."""
        not_ours = ("NO_COLOR", "COLUMNS", "LINES")  # they say more than the terminal itself
        inherited = {key: value for key, value in os.environ.items() if key not in not_ours}
        paths = os.pathsep.join(sys.path)
        env = {**inherited, "PYTHONPATH": paths, "PYTHONUTF8": "1", "TERM": "xterm-256color"}
        command = [sys.executable, "-m", "claudedo.cli.app", "next", *arguments]
        if shell:
            command = ["sh", "-mc", shell.format(next=shlex.join(command))]
        self.child: Any = pexpect.spawn(
            command[0],
            command[1:],
            env={**env, **environment},
            dimensions=(24, 80),
            timeout=SECONDS,
            encoding="utf-8",
        )
        self.before = self.modes()
        self.seen = ""

    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self.child.child_fd)

    def see(self, pattern: str) -> str:
        """Wait for `pattern`; returns what came before it."""
        self.child.expect(pattern)
        self.seen += self.child.before + self.child.after
        return str(self.child.before)

    def card(self) -> str:
        """Wait for a prompt; returns what was shown before it, without colours."""
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", self.see(PROMPT))

    def press(self, keys: str) -> None:
        self.child.send(keys)

    def end(self) -> tuple[int, str]:
        """The exit status (or minus the signal), and what was still to come."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus, str(self.child.before)


@pytest.fixture
def ended() -> Iterator[list[Next]]:
    """Whoever is in this list is gone after the test."""
    people: list[Next] = []
    yield people
    for person in people:
        person.child.close(force=True)


@pytest.fixture
def sit_down(worker: FakeWorker, ended: list[Next]) -> Any:
    """Sit down in front of `claudedo next`."""

    def start(*arguments: str, **options: str) -> Next:
        ended.append(Next(*arguments, **options))
        return ended[-1]

    return start


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_asks_are_gone_through_oldest_first(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(
        ask("k_1", "make test", suggestions=[MAKE_RULE]),
        ask("k_2", "rm -rf build", "web"),
        ask("k_3", "make docs", "docs"),
    )
    person = sit_down()

    first = person.card()
    assert "1 of 3 · backend · permission · " in first
    assert "  │ I will look at it now." in first
    assert "\r\nBash\r\n  │ make test\r\n" in first
    assert "A, for the rest of this session: Bash(make test:*)" in first
    person.press("A")
    person.see("backend: allowed: Bash: make test")

    assert "2 of 3 · web · permission" in person.card()
    person.press("d")
    person.see("> ")
    person.press("Not today\r")
    person.see("web: denied: Bash: rm -rf build")

    assert "3 of 3 · docs" in person.card()
    person.press("s")
    status, rest = person.end()

    assert status == 0
    assert "Nothing waits for you but the 1 you skipped" in rest
    assert worker.decided("k_1") == [{"decision": "allow", "always": True}]
    assert worker.decided("k_2") == [{"decision": "deny", "reason": "Not today"}]
    assert worker.decided("k_3") == []


def test_without_asks_it_says_so_and_ends(worker: FakeWorker, sit_down: Any) -> None:
    assert sit_down().end() == (0, "Nothing waits for you.\r\n")


def test_an_ask_that_closes_elsewhere_is_left_and_late_keys_hit_nothing(
    worker: FakeWorker, sit_down: Any
) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "rm -rf /", "web"))
    person = sit_down()
    person.card()

    worker.close("k_1", "allowed", "terminal")
    person.see("It was allowed in its terminal.")
    person.press("a")  # meant for the first one
    assert "rm -rf /" in person.card()

    person.press("s")
    person.end()
    assert worker.decided("k_1") == worker.decided("k_2") == []


def test_what_was_typed_ahead_and_what_is_pasted_decides_nothing(
    worker: FakeWorker, sit_down: Any
) -> None:
    worker.wait_in(ask("k_1", "make"))
    person = sit_down()
    person.press("a")  # before anything is shown
    person.card()
    person.press("allow it\r")
    person.see("Arrows and pasted text decide nothing")
    person.card()
    person.press("\x1b[A")
    person.see("Arrows and pasted text decide nothing")
    person.card()
    person.press("x")
    person.see("explains the keys")
    person.card()
    person.press("\x04")

    assert person.end()[0] == 0
    assert worker.decided("k_1") == []


def test_losing_the_race_is_said_and_the_next_one_comes(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "make install", "web"))
    late = problem_of("conflict", "This was denied in its terminal already.", 409)
    worker.failures["POST /api/asks/k_1/decision"] = late
    person = sit_down()
    person.card()
    worker.close("k_1", "denied", "terminal")
    person.press("a")
    person.see("was denied in its terminal")
    assert "make install" in person.card()


@pytest.mark.parametrize("code", ["refused", "conflict"])
def test_what_the_worker_refuses_is_said_and_the_ask_stays(
    worker: FakeWorker, sit_down: Any, code: str
) -> None:
    worker.wait_in(ask("k_1", "make"))
    worker.failures["POST /api/asks/k_1/decision"] = problem_of(code, "Not so.", 409)
    person = sit_down()
    person.card()
    person.press("a")
    person.see("claudedo: Not so.")
    person.card()
    worker.failures.clear()
    person.press("a")
    assert "Nothing waits for you." in person.end()[1]


def test_the_very_same_elsewhere_is_offered_as_one_confirmation(
    worker: FakeWorker, sit_down: Any
) -> None:
    three_alike(worker)
    person = sit_down()
    person.card()
    person.press("a")
    person.see(r"The very same waits in web and docs. Allow it there, too\? \[y/N\] ")
    assert worker.decided("k_1") and not worker.decided("k_2")
    person.press("y")
    person.see("docs: allowed")
    assert "make install" in person.card()
    assert worker.decided("k_2") == worker.decided("k_3") == [{"decision": "allow"}]


def test_only_yes_allows_the_same_elsewhere(worker: FakeWorker, sit_down: Any) -> None:
    three_alike(worker)
    person = sit_down()
    person.card()
    person.press("a")
    person.see(r"\[y/N\] ")
    person.press("\r")
    assert "2 of 4 · web" in person.card()
    assert worker.decided("k_2") == worker.decided("k_3") == []


def test_an_edited_command_is_shown_and_allowed(
    worker: FakeWorker, sit_down: Any, tmp_path: Path
) -> None:
    worker.wait_in(ask("k_1", "make"))
    (tmp_path / "editor").write_text('#!/bin/sh\necho "make -n" > "$1"\n')
    (tmp_path / "editor").chmod(0o755)
    person = sit_down(EDITOR="true", VISUAL="")
    person.card()
    person.press("e")
    person.see("Nothing was changed; a allows it as it is.")
    person.card()
    person.press("q")
    person.end()

    person = sit_down(EDITOR=str(tmp_path / "editor"), VISUAL="")
    person.card()
    person.press("e")
    person.see("-make\x1b")
    person.see(r"\+make -n")
    person.see(r"Allow it changed like this\? \[y/N\] ")
    person.press("n")
    person.card()
    assert worker.decided("k_1") == []
    person.press("e")
    person.see(r"\[y/N\] ")
    person.press("y")
    person.see("backend: allowed, edited: Bash: make -n")
    assert person.end()[0] == 0
    given = {"command": "make -n", "description": "what it does"}
    assert worker.decided("k_1") == [{"decision": "allow", "input": given}]


def test_a_choice_is_taken_with_its_number(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(question("k_1", DATABASE, workspace="a"))
    worker.wait_in(ask("k_2", "make", "web", workspace="b"))
    person = sit_down()
    shown = person.card()
    assert "1 of 2 · a/backend" in shown
    assert "   2  SQLite" in shown and "about SQLite" in shown
    assert "[1-3]  [t]ext  [d]eny" in shown
    person.press("9")
    person.card()
    person.press("2")
    person.card()
    person.press("q")
    assert person.end()[0] == 0
    assert worker.decided("k_1")[0]["answers"] == {"Which database?": "SQLite"}


def test_several_questions_and_choices_are_gone_through(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(question("k_1", DATABASE, PARTS, ("Why?", "", False, [])))
    person = sit_down()
    first = person.card()
    assert "1/3 Database [1-3]" in first
    person.press("1")
    assert "2/3 Parts [1-3] then Enter  " in person.card()
    person.press("\r")
    person.card()
    person.press("3")
    person.card()
    person.press("2")
    person.card()
    person.press("3")
    person.card()
    person.press("1")
    assert "[1-3] then Enter: 2,1  " in person.card()
    person.press("\r")
    assert "3/3 Why?" in person.card()
    person.press("t")
    person.see("Why\\?\r\n")
    person.see("> ")
    person.press("because\r")
    person.end()
    given = {"Which database?": "Postgres", "Which parts?": ["web", "api"], "Why?": "because"}
    assert worker.decided("k_1") == [{"decision": "answer", "answers": given}]


def test_a_plan_is_sent_back_with_words_or_carried_out(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(plan("k_1"), plan("k_2"))
    person = sit_down()
    person.card()
    person.press("t")
    person.see("> ")
    person.press("\x03")  # thought better of it
    person.card()
    person.press("t")
    person.see("> ")
    person.press("Test first\r")
    person.card()
    person.press("a")
    person.end()
    assert worker.decided("k_1") == [{"decision": "answer", "text": "Test first"}]
    assert worker.decided("k_2") == [{"decision": "allow"}]


@pytest.mark.parametrize("pager", ["cat", "cat 'a b' - 2>/dev/null", "no-such-pager"])
def test_a_long_body_is_cut_in_the_middle_and_seen_whole_on_a_key(
    worker: FakeWorker, sit_down: Any, pager: str
) -> None:
    lines = [f"line {number} \x1b[2J {'x' * 90}" for number in range(100)]
    worker.wait_in(ask("k_1", "make", body="\n".join(lines)))
    person = sit_down(PAGER=pager)
    shown = person.card()
    assert "line 0 \\x1b[2J" in shown and "line 99" in shown and "line 50" not in shown
    assert re.search(r"⋮ \d+ more lines: v shows all", shown)
    assert shown.count("\n") < 24
    person.press("v")
    person.see("line 50 ")
    person.see("line 99 ")
    person.card()
    assert "\x1b[2J" not in person.seen


def test_help_explains_the_keys_that_do_something(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(ask("k_1", "make"))
    person = sit_down()
    person.card()
    person.press("?")
    shown = person.card()
    assert "  e  change it in your editor; then y allows it" in shown
    assert "  A  " not in shown  # no rule was suggested


def test_a_session_that_cannot_be_opened_leaves_the_ask(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(ask("k_1", "make"))
    person = sit_down()
    person.card()
    person.press("o")
    person.see("claudedo: ")
    person.card()
    person.press("a")
    assert person.end()[0] == 0


def test_with_f_it_waits_for_the_next_ask_and_q_ends(worker: FakeWorker, sit_down: Any) -> None:
    person = sit_down("-f")
    person.see("Waiting for the next ask; q ends.")
    worker.wait_in(ask("k_1", "make"))
    person.card()
    person.press("a")
    person.see("Waiting for the next ask; q ends.")
    person.press("q")
    assert person.end()[0] == 0
    assert worker.decided("k_1")


def test_no_color_and_a_narrow_window_are_honoured(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(ask("k_1", "make " + "x" * 200, tool="Edit", body="+ a\n- b\n" + "x" * 200))
    person = sit_down(NO_COLOR="1")
    person.card()
    assert not re.search(r"\x1b\[[0-9;]*3\dm", person.seen)
    assert f"  │ {'x' * 76}\r\n  ┆ {'x' * 76}\r\n  ┆ {'x' * 48}" in person.seen
    person.child.setwinsize(20, 40)
    person.see(r"\r\x1b\[K\[a,e,d,s,o,q,\?\] > ")
    person.press("?")
    person.card()


@pytest.mark.parametrize("ending", ["q", "\x04", "\x03", signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back_on_every_way_out(
    worker: FakeWorker, sit_down: Any, ending: str | signal.Signals
) -> None:
    worker.wait_in(ask("k_1", "make"))
    person = sit_down()
    person.card()
    assert person.modes() != person.before
    if isinstance(ending, str):
        person.press(ending)
        expected = 130 if ending == "\x03" else 0
    else:
        person.child.kill(ending)
        expected = 128 + ending
    until(lambda: person.modes() == person.before)
    assert person.end()[0] == expected


def test_the_terminal_is_given_back_while_it_is_stopped(worker: FakeWorker, sit_down: Any) -> None:
    worker.wait_in(ask("k_1", "make"))
    person = sit_down(shell="{next}; stty -a | grep -o -- '-*icanon'; fg")
    person.card()
    person.press("\x1a")
    assert not person.see("icanon").endswith("-")
    assert "1 of 1 · backend" in person.card()
    person.press("a")
    assert "Nothing waits for you." in person.end()[1]
    assert worker.decided("k_1")


def test_the_prompt_fits_80_columns(worker: FakeWorker, sit_down: Any) -> None:
    long = ask("k_1", "make", suggestions=[MAKE_RULE], body="x\n" * 100)
    worker.wait_in(long)
    person = sit_down()
    person.card()
    shown = screen(person.seen.encode(), 24, 80).text.rstrip().split("\n")
    assert shown[-1].startswith("[a]llow  [A]lways  [e]dit") and shown[-1].endswith("[?] >")
    assert "1 of 1" in "\n".join(shown)


def test_a_task_for_the_person_says_who_asks_and_what_came_with_it_and_can_stay_open(
    worker: FakeWorker, sit_down: Any
) -> None:
    made = {"kind": "task", "title": "Which one?", "body": "Say which.", "tool": None, "said": None}
    worker.wait_in(ask("k_1", "x", "which-one", creator="task:t_BACKEND", **made))
    plan = {"id": "f_1", "filename": "plan\x1b.md", "mimeType": "text/plain", "size": 5}
    worker.threads["t_WHICH-ONE"] = [
        message("m_1", "Say which.", sender="task:t_BACKEND", sender_name="backend")
        | {"attachments": [plan]}
    ]
    person = sit_down()

    card = person.card()
    assert "1 of 1 · which-one · backend asks · task" in card
    assert "  │ Say which.\r\n  + plan\\x1b.md  5 B  text/plain  f_1\r\n" in card
    assert "[k]eep open" in card
    person.press("k")
    person.see("> ")
    person.press("Of what?\r")
    person.see("which-one: told; it still waits for you")
    person.see(PROMPT)
    person.press("t")
    person.see("> ")
    person.press("The first\r")
    person.see("which-one: answered: Which one")
    person.end()
    assert worker.decided("k_1") == [
        {"decision": "answer", "text": "Of what?", "keep_open": True},
        {"decision": "answer", "text": "The first"},
    ]
