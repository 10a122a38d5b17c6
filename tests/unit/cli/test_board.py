"""The live list and its keys, driven in memory in front of the tests' worker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
from textual.events import Key
from textual.pilot import Pilot

from claudedo import settings
from claudedo.cli import edited_input
from claudedo.cli.board import board as board_module
from claudedo.cli.board.board import Board
from claudedo.cli.board.dialogs import Page
from claudedo.cli.board.reading import AskReading
from claudedo.client import WorkerClient
from tests.unit.cli.fake_worker import FakeWorker, ask, message, problem_of, receipts, task

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
HOSTILE = "\x1b[2J\x9b2J[red]x[/red] :smile:"
RULE = {
    "type": "addRules",
    "behavior": "allow",
    "rules": [{"toolName": "Bash", "ruleContent": "npm test:*"}],
}
COLOURS = {
    "questions": [
        {
            "question": "Which colour?",
            "header": "Colour",
            "multiSelect": False,
            "options": [
                {"label": "Red", "description": "warm"},
                {"label": "Blue", "description": "cold"},
            ],
        },
        {
            "question": "Which sizes?",
            "header": "Sizes",
            "multiSelect": True,
            "options": [{"label": "Small"}, {"label": "Large"}],
        },
    ]
}


def question(identity: str, count: int = 1) -> dict[str, Any]:
    """An ask with `count` questions that have choices."""
    return ask(
        identity,
        "",
        kind="question",
        title="Which colour?",
        tool="AskUserQuestion",
        input={"questions": COLOURS["questions"][:count]},
    )


class Driver:
    """A person in front of the list."""

    def __init__(self, app: Board, pilot: Pilot[int]) -> None:
        self.app = app
        self._pilot = pilot

    @property
    def screen(self) -> str:
        """What the terminal shows."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    @property
    def said(self) -> str:
        return self.app.said

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def press_at_once(self, keys: Iterable[str]) -> None:
        """The same when they arrive together, as over a slow line."""
        for key in keys:
            self.app.post_message(Key(key, key if len(key) == 1 else None))
        await self.until(self.app._message_queue.empty, "keys are left")
        await self._pilot.pause()

    async def resize(self, columns: int, lines: int) -> None:
        await self._pilot.resize_terminal(columns, lines)

    async def type(self, text: str) -> None:
        """Write into the dialog that is opening."""
        await self.until(lambda: isinstance(self.app.focused, Page), "no dialog opened")
        self.app.screen.query_one(Page).insert(text)

    async def sees(self, text: str) -> None:
        await self.until(lambda: text in self.screen, f"{text!r} is not seen")

    async def hears(self, text: str) -> None:
        await self.until(lambda: text in self.said, f"{text!r} is not said")

    async def misses(self, text: str) -> None:
        await self.until(lambda: text not in self.screen, f"{text!r} is still seen")

    async def until(self, condition: Callable[[], bool], never: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if condition():
                return
            await self._pilot.pause(0.02)
        raise AssertionError(f"{never}; said: {self.said!r}\n{self.screen}")


Open = Callable[..., Any]


@pytest.fixture
def opened(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Show the list on a terminal of the given size; a moved cursor counts at once."""
    monkeypatch.setattr(board_module, "SETTLE_SECONDS", 0.0)

    @asynccontextmanager
    async def show(columns: int = 80, lines: int = 24) -> AsyncIterator[Driver]:
        client = WorkerClient(settings.load()).connect(start=False)
        app = Board(client)
        async with app.run_test(size=(columns, lines)) as pilot:
            driver = Driver(app, pilot)
            begun = ("\n> ", "claudedo start NAME")
            await driver.until(lambda: any(one in driver.screen for one in begun), "no list")
            yield driver

    return show


async def test_the_list_shows_asks_above_sessions(worker: FakeWorker, opened: Open) -> None:
    worker.add(task("frontend", "busy", pending=2))
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.sees("frontend")

        lines = driver.screen.splitlines()
        assert lines[0].startswith("claudedo  1 ask for you  2 tasks: 1 busy, 1 waiting")
        assert lines[2].startswith("> ")
        assert lines[2].endswith("Bash: npm test")
        assert "y allow" in lines[-1]
        assert lines[-1].endswith("? help  q quit")


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (60, 20), (200, 50), (30, 8), (12, 4)])
async def test_the_list_fits_the_terminal(
    worker: FakeWorker, opened: Open, columns: int, lines: int
) -> None:
    for number in range(8):
        worker.add(task(f"service-{number}", "idle", branch="b" * 100))
    worker.wait_in(ask("k_1", "x" * 300, "service-1"))
    async with opened(columns, lines) as driver:
        await driver.sees("claudedo")
        await driver.sees("> ")

        shown = driver.screen.splitlines()
        assert len(shown) == lines
        assert max(map(len, shown)) <= columns
        assert shown[-1].rstrip()


async def test_a_terminal_that_changes_its_size_is_filled_again(
    worker: FakeWorker, opened: Open
) -> None:
    for number in range(8):
        worker.add(task(f"service-{number}"))
    async with opened(200, 50) as driver:
        await driver.sees("BRANCH")
        await driver.press("G")
        await driver.resize(40, 6)
        await driver.sees("> service")
        await driver.misses("BRANCH")
        await driver.resize(200, 50)
        await driver.sees("BRANCH")


async def test_what_changes_is_shown_at_once(worker: FakeWorker, opened: Open) -> None:
    worker.add(task("backend", "busy"))
    async with opened() as driver:
        await driver.sees("busy")
        worker.add(task("backend", "failed"))
        worker.say("t_BACKEND")
        await driver.sees("failed")


async def test_text_of_sessions_is_neither_obeyed_nor_markup(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(ask("k_1", HOSTILE, title=f"Bash: {HOSTILE}", said=HOSTILE))
    worker.logs["t_BACKEND"] = [{"role": "assistant", "text": HOSTILE}]
    async with opened() as driver:
        await driver.sees("\\x1b[2J\\x9b2J[red]x[/red] :smile:")
        await driver.press("enter")
        await driver.sees("│ \\x1b[2J\\x9b2J[red]x[/red] :smile:")
        for _ in range(2):
            assert not {"\x1b", "\x9b"} & set(driver.screen)
            await driver.press("q", "l")
            await driver.sees("assistant:")


async def test_a_key_allows_what_the_row_shows_in_full(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.sees("npm test")
        await driver.press("y")
        await driver.hears("backend's permission was allowed through claudedo")
        await driver.misses("npm test")
        assert worker.decided("k_1") == [{"decision": "allow"}]


async def test_what_the_row_does_not_show_in_full_is_opened_before_it_is_allowed(
    worker: FakeWorker, opened: Open
) -> None:
    body = "\n".join(f"line {number}" for number in range(100))
    worker.wait_in(ask("k_1", body, title="Bash: line 0 …", said="Now I run it."))
    async with opened() as driver:
        await driver.press("y")
        await driver.sees("Now I run it.")
        await driver.sees("more below")
        assert worker.decided("k_1") == []
        await driver.press("G")
        await driver.sees("line 99")
        await driver.press("y")
        await driver.sees("SESSION")
        assert worker.decided("k_1") == [{"decision": "allow"}]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (50, 14)])
async def test_nothing_is_allowed_before_its_end_was_seen(
    worker: FakeWorker, opened: Open, columns: int, lines: int
) -> None:
    body = "\n".join(f"line {number}" for number in range(60))
    worker.wait_in(ask("k_1", body, title="Bash: line 0 …", suggestions=[RULE]))
    async with opened(columns, lines) as driver:
        await driver.press("y")
        await driver.sees("more below: space; y allows at the end")
        assert "This is all of it" not in driver.screen
        for key in "yY":
            await driver.press(key)
            await driver.sees("more below are unseen: space goes on.")
        while "line 59" not in driver.screen:
            assert worker.decided("k_1") == []
            await driver.press("space")
        await driver.sees("This is all of it; y allows.")
        await driver.press("g")
        await driver.misses("This is all of it")
        await driver.press("y")
        await driver.sees("SESSION")
        assert worker.decided("k_1") == [{"decision": "allow"}]


async def test_what_is_short_is_all_there_at_once(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(ask("k_1", "npm test\nnpm run build", title="Bash: npm test …"))
    async with opened() as driver:
        await driver.press("y")
        await driver.sees("This is all of it; y allows.")
        await driver.press("y")
        await driver.hears("backend's permission was allowed")


async def test_a_rule_is_kept_only_for_what_was_seen(worker: FakeWorker, opened: Open) -> None:
    hidden = "npm test\nrm -rf /"
    worker.wait_in(ask("k_1", hidden, title="Bash: npm test …", suggestions=[RULE]))
    async with opened() as driver:
        await driver.press("Y")
        await driver.sees("│ rm -rf /")
        await driver.press("Y")
        await driver.sees("allow and keep the rule")


async def test_an_edit_is_shown_to_its_end_and_behind_its_bar(
    worker: FakeWorker, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {"command": "\n".join(f"{'x' * 60} {number}" for number in range(40))}
    monkeypatch.setattr(edited_input, "edit", lambda _: changed)
    monkeypatch.setattr(Board, "suspend", lambda _: nullcontext())
    worker.wait_in(ask("k_1", "npm test", input={"command": "npm test"}))
    async with opened(50, 14) as driver:
        await driver.press("e")
        await driver.sees("Allow it changed like this?")
        await driver.sees("  │ -npm test")
        await driver.sees("  ┆ xxx")
        await driver.press("y")
        await driver.sees("more below are unseen: space goes on.")
        assert worker.decided("k_1") == []
        await driver.press("G", "y")
        await driver.hears("allowed")
        assert worker.decided("k_1") == [{"decision": "allow", "input": changed}]


async def test_a_line_that_is_folded_is_marked_as_folded(worker: FakeWorker, opened: Open) -> None:
    worker.add(task("backend"))
    worker.logs["t_BACKEND"] = [{"role": "assistant", "text": "x" * 100}]
    async with opened() as driver:
        await driver.press("l")
        await driver.sees(f"  │ {'x' * 76}\n  ┆ {'x' * 24}")


async def test_what_was_said_before_does_not_stand_under_what_is_read(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    worker.logs["t_BACKEND"] = [{"role": "assistant", "text": "Hello."}]
    async with opened() as driver:
        driver.app.say("backend stopped.")
        await driver.sees("backend stopped.")
        await driver.press("l")
        await driver.sees("Hello.")
        assert "backend stopped." not in driver.screen
        driver.app.say("backend goes on.")
        await driver.sees("backend goes on.")
        await driver.press("q")
        await driver.sees("SESSION")


async def test_each_of_several_questions_says_which_it_is(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(question("k_1", count=2))
    async with opened() as driver:
        await driver.sees("Which colour? (+1 question)")
        await driver.press("w")
        await driver.sees("1 of 2")


async def test_nothing_is_claimed_before_the_worker_has_answered(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    async with opened() as driver:
        driver.app.situation = None
        driver.app.draw()
        await driver.sees("Asking the worker")
        assert "0 tasks" not in driver.screen
        assert "claudedo start" not in driver.screen


async def test_always_shows_the_rule_first(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(ask("k_1", "npm test", suggestions=[RULE]), ask("k_2", "ls"))
    async with opened() as driver:
        await driver.press("Y")
        await driver.sees("Bash(npm test:*)")
        await driver.press("escape")
        assert worker.decided("k_1") == []
        await driver.press("Y")
        await driver.sees("Bash(npm test:*)")
        await driver.press("y")
        await driver.hears("allowed")
        assert worker.decided("k_1") == [{"decision": "allow", "always": True}]
        await driver.misses("npm test")
        await driver.press("Y")
        await driver.hears("There is no rule to keep")
        assert worker.decided("k_2") == []


@pytest.mark.parametrize(("reason", "sent"), [("not now", {"reason": "not now"}), ("", {})])
async def test_denying_takes_a_reason_or_none(
    worker: FakeWorker, opened: Open, reason: str, sent: dict[str, str]
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.press("n")
        await driver.type(reason)
        await driver.press("enter")
        await driver.hears("denied")
        assert worker.decided("k_1") == [{"decision": "deny", **sent}]


async def test_the_very_same_elsewhere_is_offered_with_it(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(
        ask("k_1", "npm test", "backend", same=["k_2"]),
        ask("k_2", "npm test", "api", same=["k_1"]),
    )
    async with opened() as driver:
        await driver.sees("(+1 the same)")
        await driver.press("y")
        await driver.sees("allow all 2")
        await driver.press("y")
        await driver.hears("backend's permission was allowed")
        await driver.hears("api's permission was allowed")
        assert worker.decided("k_1") == worker.decided("k_2") == [{"decision": "allow"}]


async def test_only_one_of_the_same_can_be_allowed(worker: FakeWorker, opened: Open) -> None:
    worker.wait_in(
        ask("k_1", "npm test", "backend", same=["k_2"]),
        ask("k_2", "npm test", "api", same=["k_1"]),
    )
    async with opened() as driver:
        await driver.press("y")
        await driver.sees("only backend")
        await driver.press("o")
        await driver.hears("backend's permission was allowed")
        assert worker.decided("k_2") == []


async def test_questions_are_answered_by_number_or_in_own_words(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(question("k_1", count=2))
    async with opened() as driver:
        await driver.press("w")
        await driver.type("9")
        await driver.press("enter")
        await driver.hears("There is no choice 9")
        await driver.until(lambda: isinstance(driver.app.focused, Page), "no dialog opened")
        await driver.press("backspace", "2", "enter")
        await driver.sees("Which sizes?")
        await driver.type("1,huge")
        await driver.press("enter")
        await driver.hears("answered")
        answers = {"Which colour?": "Blue", "Which sizes?": ["Small", "huge"]}
        assert worker.decided("k_1") == [{"decision": "answer", "answers": answers}]


async def test_a_number_begins_the_answer_and_enter_gives_it(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(question("k_1"))
    async with opened() as driver:
        await driver.press("enter")
        await driver.sees("cold")
        await driver.press("2")
        await driver.sees("A number or own words")
        assert worker.decided("k_1") == []
        await driver.press("enter")
        await driver.hears("answered")
        assert worker.decided("k_1")[0]["answers"] == {"Which colour?": "Blue"}


async def test_a_plan_is_approved_or_told_what_it_lacks(worker: FakeWorker, opened: Open) -> None:
    for identity in ("k_1", "k_2"):
        plan = {"kind": "plan", "title": "A plan", "body": "# Plan\nstep", "tool": "ExitPlanMode"}
        worker.wait_in(ask(identity, "x", **plan))
    async with opened() as driver:
        await driver.press("y")
        await driver.sees("│ step")
        await driver.press("y")
        await driver.hears("allowed")
        await driver.sees("SESSION")
        await driver.press("w")
        await driver.type("tests first")
        await driver.press("enter")
        await driver.hears("answered")
        assert worker.decided("k_1") == [{"decision": "allow"}]
        assert worker.decided("k_2") == [{"decision": "answer", "text": "tests first"}]


async def test_an_ask_that_was_decided_elsewhere_disappears(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.sees("npm test")
        worker.close("k_1")
        worker.say("t_BACKEND")
        await driver.misses("npm test")


async def test_an_open_ask_that_was_decided_elsewhere_closes_and_says_by_whom(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.press("enter")
        await driver.until(lambda: isinstance(driver.app.screen, AskReading), "it did not open")
        worker.close("k_1")
        worker.say("t_BACKEND")
        await driver.sees("SESSION")
        await driver.hears("backend's permission was allowed in its terminal")


async def test_deciding_an_ask_that_is_gone_says_who_decided(
    worker: FakeWorker, opened: Open
) -> None:
    worker.wait_in(ask("k_1", "npm test"))
    async with opened() as driver:
        await driver.sees("npm test")
        worker.close("k_1")
        await driver.press("y")
        await driver.hears("It was allowed at its terminal already.")


async def test_the_cursor_never_slips_unseen_onto_another_ask(
    worker: FakeWorker, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "SETTLE_SECONDS", 3600.0)
    worker.wait_in(ask("k_1", "npm test"), ask("k_2", "rm -rf /"))
    async with opened() as driver:
        await driver.sees("npm test")
        worker.close("k_1")
        worker.say("t_BACKEND")
        await driver.misses("npm test")
        await driver.press("y", "enter")
        await driver.hears("The list has just moved")
        assert worker.decided("k_2") == []
        await driver.press("down", "up", "y")
        await driver.hears("allowed")
        assert worker.decided("k_2") == [{"decision": "allow"}]


async def test_a_message_is_sent_and_followed_to_where_it_is_read(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    async with opened() as driver:
        await driver.press("s")
        await driver.type("first line")
        await driver.press("ctrl+j")
        await driver.type("second line")
        await driver.press("left", "backspace", "e", "end", "!", "enter")
        await driver.hears("to backend: stored ✓ offered -")
        (sent,) = worker.requests("POST", "/api/tasks/t_BACKEND/messages")
        assert sent["body"] == "first line\nsecond liee!"
        reached = receipts(offered_at="x", delivered_at="x", read_at="x")
        payload = {"message_id": f"m_{sent['key'][:4]}", "receipts": reached}
        with worker.news:
            worker.events.append({"seq": 1, "type": "message.read", "payload": payload})
            worker.news.notify_all()
        await driver.hears("delivered ✓ read ✓ answered -")


async def test_what_is_typed_at_once_is_sent_whole_and_in_order(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    text = "abcdefghijklmnopqrstuvwxyz" * 3
    async with opened() as driver:
        await driver.press("s")
        await driver.press_at_once([*text, "enter", *"yyy"])
        await driver.hears("to backend: stored ✓")
        (sent,) = worker.requests("POST", "/api/tasks/t_BACKEND/messages")
        assert sent["body"] == text


async def test_what_was_written_and_not_sent_is_still_there(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    worker.failures["POST /api/tasks/t_BACKEND/messages"] = problem_of("storage", "Full.", 507)
    async with opened() as driver:
        await driver.press("s")
        await driver.type("long thoughts")
        await driver.press("escape")
        await driver.press("s")
        await driver.sees("long thoughts")
        await driver.press("enter")
        await driver.hears("Full.")
        await driver.press("s")
        await driver.sees("long thoughts")


async def test_stopping_asks_first(worker: FakeWorker, opened: Open) -> None:
    worker.add(task("backend"))
    async with opened() as driver:
        await driver.press("x")
        await driver.sees("Stop backend?")
        await driver.press("escape")
        assert worker.requests("POST", "/api/tasks/t_BACKEND/stop") == []
        await driver.press("x")
        await driver.sees("Stop backend?")
        await driver.press("y")
        await driver.hears("backend stopped.")
        await driver.sees("stopped")


@pytest.mark.parametrize("opening", "xnYs")
async def test_a_key_that_is_typed_for_a_dialog_never_decides_in_the_list(
    worker: FakeWorker, opened: Open, opening: str
) -> None:
    worker.wait_in(*(ask(one, "npm test", suggestions=[RULE]) for one in ("k_1", "k_2")))
    async with opened() as driver:
        await driver.press_at_once([opening, *"yyyy"])
        await driver.press("escape", "down")
        await driver.press_at_once([opening, *"yyyy"])
        assert [body for body in worker.decided("k_2") if "always" not in body] == []
        assert [body for body in worker.decided("k_1") if "always" not in body] == []


async def test_restarting_takes_the_environment_of_this_shell(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend", "stopped"))
    async with opened() as driver:
        await driver.press("R")
        await driver.hears("backend goes on.")
        (order,) = worker.requests("POST", "/api/tasks/t_BACKEND/restart")
        assert order["env"] == dict(os.environ)


async def test_the_log_grows_while_it_is_read(worker: FakeWorker, opened: Open) -> None:
    worker.add(task("backend"))
    worker.logs["t_BACKEND"] = []
    async with opened() as driver:
        await driver.press("l")
        await driver.sees("Nothing was said yet.")
        worker.logs["t_BACKEND"] = [
            {"role": "user", "text": f"line {number}"} for number in range(60)
        ]
        await driver.sees("│ line 59")


async def test_a_session_that_is_not_ours_can_only_be_looked_at(
    worker: FakeWorker, opened: Open
) -> None:
    worker.tasks["other"] = task("notes", "busy", id=None, supervised=False)
    async with opened() as driver:
        await driver.sees("(notes)")
        for key in ("a", "enter", "s", "x", "R", "d", "l"):
            driver.app.say("")
            await driver.press(key)
            await driver.hears("`claudedo adopt 4711` brings it in")


async def test_the_help_tells_every_key(worker: FakeWorker, opened: Open) -> None:
    async with opened(80, 40) as driver:
        await driver.press("question_mark")
        await driver.sees("Ctrl-] comes back")
        assert max(map(len, driver.screen.splitlines())) <= 80
        await driver.press("q")
        await driver.sees("claudedo start NAME")


async def test_an_error_of_the_worker_is_a_sentence_on_the_screen(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    worker.failures["POST /api/tasks/t_BACKEND/stop"] = problem_of("failed", "It [red]broke.", 500)
    async with opened() as driver:
        await driver.press("x")
        await driver.sees("Stop backend?")
        await driver.press("y")
        await driver.sees("! It [red]broke.")


async def test_a_worker_that_goes_away_is_told_started_and_gone_on_with(
    worker: FakeWorker, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.add(task("backend", "idle"))
    async with opened() as driver:
        await driver.sees("idle")
        started: list[bool] = []
        client = driver.app.client
        monkeypatch.setattr(client, "connect", lambda: started.append(True))
        worker.failures["GET /readyz"] = problem_of("unavailable", "Ending.", 503)
        for route in ("tasks", "events", "asks"):
            problem = problem_of("unavailable", "Ending.", 503)
            worker.failures[f"GET /api/{route}"] = problem
        worker.say("t_BACKEND")
        await driver.hears("The worker is away")
        await driver.until(lambda: bool(started), "no worker was started")
        worker.add(task("backend", "busy"))
        worker.failures.clear()
        await driver.hears("The worker is back.")
        await driver.sees("busy")


async def test_a_fault_of_ours_ends_the_list_and_is_given_on(
    worker: FakeWorker, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with opened() as driver:
            monkeypatch.setattr(driver.app, "say", lambda *_: 1 / 0)
            await driver.press("r")
            await asyncio.sleep(0)


async def test_messages_of_others_do_not_disturb_the_one_that_is_followed(
    worker: FakeWorker, opened: Open
) -> None:
    worker.add(task("backend"))
    async with opened() as driver:
        worker.say("t_BACKEND", message("m_9", "hello"))
        await driver.sees("backend")
        assert driver.said == ""


async def test_a_task_for_the_person_is_rejected_not_denied_and_shows_what_came_with_it(
    worker: FakeWorker, opened: Open
) -> None:
    made = {"kind": "task", "title": "Which?", "body": "Say which.", "tool": None, "said": None}
    worker.wait_in(ask("k_1", "x", "which", creator="token:tok_1", **made))
    plan = {"id": "f_1", "filename": "plan.md", "mimeType": "text/plain", "size": 5}
    asked = message("m_1", "Say which.", sender="token:tok_1", sender_name="laptop")
    worker.threads["t_WHICH"] = [asked | {"attachments": [plan]}]
    async with opened() as driver:
        await driver.press("a")
        await driver.hears("no session of ours")
        await driver.press("enter")
        await driver.sees("+ plan.md  5 B  text/plain  f_1")
        await driver.sees("laptop asks")
        await driver.press("w")
        await driver.sees("This completes it")
        await driver.press("escape")
        await driver.press("n")
        await driver.sees("Reject: Which?")
        await driver.press("enter")
        await driver.hears("which was denied through claudedo")
        assert worker.decided("k_1") == [{"decision": "deny"}]
