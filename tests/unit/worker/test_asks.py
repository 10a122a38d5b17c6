"""Asks of one session: held calls, decisions, and what the session shows of who was first.

The store and the transcript file are real; the test plays the CLI, the person at the terminal, and
the clock.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from claudedo.errors import ConflictError, UsageError
from claudedo.model import Ask, AskOutcome, DecidedBy, SessionState, now
from claudedo_worker import asks as asks_module
from claudedo_worker.asks import Asks
from claudedo_worker.clock import Clock
from claudedo_worker.decision import Decision
from tests.support.mailroom import Mailroom

pytestmark = pytest.mark.anyio

Json = dict[str, Any]

ALLOW, DENY = Decision(decision="allow"), Decision(decision="deny", reason="Not now.")
REJECTED = "The user doesn't want to proceed with this tool use. The tool use was rejected."
TERMINAL, USER, SESSION = DecidedBy.TERMINAL, DecidedBy.USER, DecidedBy.SESSION
WAITING, BUSY = SessionState.WAITING, SessionState.BUSY


class Stage:
    """One session's asks, and all who have to do with them."""

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.late = 0.0
        self.new_worker()

    def new_worker(self) -> None:
        """A worker that knows only what is stored."""
        self.asks = Asks(self.room.store, self.room.task, self.room.session.id, self._clock)

    async def restart(self) -> None:
        self.new_worker()
        await self.asks.load(str(self.room.lines.path))

    def _clock(self) -> float:
        return time.monotonic() + self.late

    # The CLI

    def call(self, command: str = "make", *, agent: str = "") -> Json:
        return {
            "tool_name": "Bash",
            "tool_input": json.dumps({"command": command}),
            "permission_suggestions": "",
            "agent_id": agent,
            "transcript_path": str(self.room.lines.path),
        }

    def announce(self, tool_use: str, command: str = "make", *, agent: str = "") -> None:
        """The PreToolUse hook."""
        self.asks.saw("PreToolUse", self.call(command, agent=agent) | {"tool_use_id": tool_use})

    async def hold(self, key: str, command: str = "make", *, agent: str = "") -> asyncio.Task[Json]:
        """A held call; returns when its ask is there."""
        before = len(await self.room.store.open_asks())
        task = asyncio.create_task(self.asks.hold(key, self.call(command, agent=agent)))
        with anyio.fail_after(10):
            while len(await self.room.store.open_asks()) == before and not task.done():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # from the store to the wait
        return task

    async def ask(
        self, tool_use: str = "t1", command: str = "make"
    ) -> tuple[asyncio.Task[Json], str]:
        """An announced call of the main conversation, held; and the id of its ask."""
        self.announce(tool_use, command)
        held = await self.hold(f"b:{tool_use}", command)
        return held, (await self.room.store.open_asks())[-1].id

    def hook_decided(self, decision: str, tool_use: str = "t1") -> None:
        """The line that says so."""
        attachment = {"type": "hook_permission_decision", "decision": decision}
        self.room.lines.add("attachment", attachment=attachment | {"toolUseID": tool_use})

    def rejected(self, tool_use: str = "t1") -> None:
        self.room.lines.result(tool_use, REJECTED, error=True)

    def ran(self, tool_use: str = "t1") -> None:
        self.room.lines.result(tool_use, "done")

    async def step(self, seconds: float = 0.0, state: SessionState = WAITING) -> None:
        """Let time pass, then let the watch look."""
        self.late += seconds + asks_module.READ_EVERY
        await self.asks.step(state)

    async def fate(self, ask_id: str) -> tuple[AskOutcome | None, DecidedBy | None]:
        ask = await self.room.store.ask(ask_id)
        return ask.outcome, ask.decided_by


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    room = await Mailroom(tmp_path).open()
    yield Stage(room)
    await room.close()


async def out(held: asyncio.Task[Json]) -> Json:
    """What the CLI is told for a held call."""
    with anyio.fail_after(10):
        return await held


def behavior(output: Json) -> str:
    return str(output["hookSpecificOutput"]["decision"]["behavior"])


# Decided here


async def test_a_decision_is_stored_and_handed_to_the_held_call(stage: Stage) -> None:
    held, ask = await stage.ask()
    stage.hook_decided("deny")

    decided = await stage.asks.decide(ask, DENY)

    assert (decided.outcome, decided.decided_by) == (AskOutcome.DENIED, USER)
    assert (await out(held))["hookSpecificOutput"]["decision"]["message"] == "Not now."
    assert decided.decision == {"decision": "deny", "reason": "Not now."}
    assert stage.asks.headline() is None


async def test_of_two_decisions_at_once_one_is_refused(stage: Stage) -> None:
    held, ask = await stage.ask()
    stage.hook_decided("allow")

    results = await asyncio.gather(
        stage.asks.decide(ask, ALLOW), stage.asks.decide(ask, ALLOW), return_exceptions=True
    )

    assert [isinstance(result, Ask) for result in results].count(True) == 1
    [refused] = [result for result in results if isinstance(result, ConflictError)]
    assert str(refused) == "This was allowed here already."
    assert behavior(await out(held)) == "allow"


async def test_what_does_not_fit_the_ask_leaves_it_open(stage: Stage) -> None:
    _, ask = await stage.ask()

    with pytest.raises(UsageError):
        await stage.asks.decide(ask, Decision(decision="allow", reason="x"))

    assert await stage.fate(ask) == (None, None)


async def test_what_was_allowed_and_runs_on_is_answered_within_a_second(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.step()
    before = time.monotonic()

    deciding = asyncio.create_task(stage.asks.decide(ask, ALLOW))
    assert behavior(await out(held)) == "allow"
    await stage.asks.step(BUSY)

    assert (await deciding).decided_by is USER
    assert time.monotonic() - before < 3


async def test_while_the_dialog_is_open_nobody_is_told_that_it_was_allowed(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.step()
    deciding = asyncio.create_task(stage.asks.decide(ask, ALLOW))
    await out(held)

    for state in (WAITING, SessionState.IDLE):
        await stage.step(1.5, state=state)
        await asyncio.sleep(0.1)
        assert not deciding.done()
    stage.rejected()

    with pytest.raises(ConflictError, match="denied in its terminal"):
        await deciding


async def test_a_cancelled_call_that_was_allowed_here_is_waited_for(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.step(state=BUSY)
    deciding = asyncio.create_task(stage.asks.decide(ask, ALLOW))
    await out(held)
    stage.asks.cancelled("b:t1")

    await stage.step(1.2, state=BUSY)
    await asyncio.sleep(0.1)
    assert not deciding.done()
    stage.rejected()

    with pytest.raises(ConflictError, match="denied in its terminal"):
        await deciding


async def test_a_decision_about_a_call_that_nobody_holds_is_refused_and_nothing_stored(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks_module, "HELD_PATIENCE", 0.1)
    held, ask = await stage.ask()
    held.cancel()
    await stage.restart()

    with pytest.raises(ConflictError, match="answer at its terminal"):
        await stage.asks.decide(ask, ALLOW)

    assert await stage.fate(ask) == (None, None)


# Decided at the terminal


async def test_a_yes_at_the_terminal_closes_the_ask_once_its_dialog_is_gone(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.step()
    await stage.step(60)
    assert await stage.fate(ask) == (None, None)

    await stage.step(state=BUSY)
    assert await stage.fate(ask) == (None, None), "a no there may still show"
    await stage.step(2, state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)
    assert await out(held) == {}
    with pytest.raises(ConflictError, match="allowed in its terminal"):
        await stage.asks.decide(ask, ALLOW)


async def test_a_no_that_shows_late_corrects_what_was_taken_for_a_yes(stage: Stage) -> None:
    _, ask = await stage.ask()
    await stage.step()
    await stage.step(state=BUSY)
    await stage.step(2, state=BUSY)
    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)

    stage.rejected()
    await stage.step(60, state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.DENIED, TERMINAL)


async def test_a_turn_that_is_over_without_a_word_of_its_ask_left_it(stage: Stage) -> None:
    _, ask = await stage.ask()
    await stage.step()
    await stage.step(state=SessionState.IDLE)
    await stage.step(1, state=SessionState.IDLE)
    assert await stage.fate(ask) == (None, None)
    await stage.step(1, state=SessionState.IDLE)
    assert await stage.fate(ask) == (AskOutcome.GONE, SESSION)


async def test_a_dialog_that_is_not_drawn_yet_is_not_taken_for_answered(stage: Stage) -> None:
    _, ask = await stage.ask()
    await stage.step(60, state=BUSY)
    assert await stage.fate(ask) == (None, None)


async def test_the_dialog_before_is_not_taken_for_the_one_that_is_not_drawn_yet(
    stage: Stage,
) -> None:
    await stage.step(state=WAITING)
    _, ask = await stage.ask()
    await stage.step(state=WAITING)  # the registry still tells of the dialog before
    await stage.step(state=BUSY)
    await stage.step(2.0, state=BUSY)  # a loaded machine draws the next one late

    assert await stage.fate(ask) == (None, None)

    await stage.step(state=WAITING)
    await stage.step(state=BUSY)
    await stage.step(2.0, state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)


async def test_an_ask_of_which_no_line_ever_comes_is_let_go_of_once_the_session_is_idle(
    stage: Stage,
) -> None:
    _, ask = await stage.ask()
    await asyncio.gather(stage.asks.decide(ask, ALLOW), stage.step(state=BUSY))

    await stage.step(asks_module.LATELY + 1, state=BUSY)
    assert stage.asks._held  # its tool may still run
    await stage.step(1, state=SessionState.IDLE)

    assert not stage.asks._held
    assert await stage.fate(ask) == (AskOutcome.ALLOWED, USER)


async def test_a_terminal_that_waits_again_still_shows_the_dialog(stage: Stage) -> None:
    _, ask = await stage.ask()
    for state in (WAITING, BUSY, WAITING):
        await stage.step(state=state)
    await stage.step(2, state=BUSY)
    assert await stage.fate(ask) == (None, None)


async def test_a_no_at_the_terminal_is_what_the_transcript_says_of_a_cancelled_call(
    stage: Stage,
) -> None:
    held, ask = await stage.ask()
    stage.asks.cancelled("b:t1")
    await stage.step()
    assert await stage.fate(ask) == (None, None), "the line may come later"
    stage.rejected()
    await stage.step()

    assert await stage.fate(ask) == (AskOutcome.DENIED, TERMINAL)
    assert await out(held) == {}


async def test_a_cancelled_call_of_which_nothing_is_said_is_gone(stage: Stage) -> None:
    _, ask = await stage.ask()
    stage.asks.cancelled("b:t1")
    with pytest.raises(ConflictError):
        await asyncio.gather(stage.asks.decide(ask, ALLOW), stage.step(), stage.step(3))

    assert await stage.fate(ask) == (AskOutcome.GONE, SESSION)


@pytest.mark.parametrize("refused", [True, False])
async def test_a_call_that_is_cancelled_before_it_is_stored_is_closed_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    described, describe = threading.Event(), asks_module._describe

    def slowly(*given: Any) -> Any:
        described.wait(10)
        return describe(*given)

    monkeypatch.setattr(asks_module, "_describe", slowly)
    stage.announce("t1")
    held = asyncio.create_task(stage.asks.hold("b:1", stage.call()))
    await asyncio.sleep(0.01)
    stage.asks.cancelled("b:1")
    if refused:
        stage.room.lines.result("t1", REJECTED, error=True, timestamp=now())
    await asyncio.sleep(0.01)
    described.set()
    with anyio.fail_after(10):
        while not stage.asks._held:  # stored, and known to the watch
            await asyncio.sleep(0.001)
    asks = await stage.room.store.asks_of_session(stage.room.session.id)

    await stage.step(state=BUSY)
    await stage.step(3, state=BUSY)

    fate = (AskOutcome.DENIED, TERMINAL) if refused else (AskOutcome.GONE, SESSION)
    assert await stage.fate(asks[0].id) == fate
    assert await out(held) == {}


async def test_the_result_of_a_call_closes_its_ask(stage: Stage) -> None:
    _, ask = await stage.ask()
    stage.ran()
    await stage.step()
    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)


@pytest.mark.parametrize("event", ["PostToolBatch", "Stop"])
async def test_a_turn_that_goes_on_closes_the_asks_of_its_own_agent_only(
    stage: Stage, event: str
) -> None:
    _, main = await stage.ask()
    await stage.hold("b:2", agent="helper")
    helpers = (await stage.room.store.open_asks())[-1].id

    stage.asks.saw(event, stage.call())
    await stage.step(2)

    assert await stage.fate(main) == (AskOutcome.ALLOWED, TERMINAL)
    assert await stage.fate(helpers) == (None, None)


async def test_the_next_request_of_an_agent_shows_that_the_one_before_is_answered(
    stage: Stage,
) -> None:
    _, first = await stage.ask("t1", "one")
    _, second = await stage.ask("t2", "two")
    await stage.step(2)

    assert await stage.fate(first) == (AskOutcome.ALLOWED, TERMINAL)
    assert await stage.fate(second) == (None, None)
    assert stage.asks.headline() == "permission: Bash: two"


async def test_the_terminal_says_nothing_of_a_subagents_ask(stage: Stage) -> None:
    await stage.hold("b:1", agent="helper")
    ask = (await stage.room.store.open_asks())[-1].id
    await stage.step()
    await stage.step(60, state=BUSY)
    await stage.step(60, state=BUSY)
    assert await stage.fate(ask) == (None, None)


# Who was first


@pytest.mark.parametrize(
    ("said", "terminal", "outcome"),
    [(ALLOW, "rejected", AskOutcome.DENIED), (DENY, "ran", AskOutcome.ALLOWED)],
)
async def test_a_contrary_answer_that_was_faster_at_the_terminal_stands(
    stage: Stage, said: Decision, terminal: str, outcome: AskOutcome
) -> None:
    _, ask = await stage.ask()
    getattr(stage, terminal)()

    with pytest.raises(ConflictError, match=f"{outcome} in its terminal"):
        await stage.asks.decide(ask, said)

    assert await stage.fate(ask) == (outcome, TERMINAL)


async def test_the_same_answer_at_the_terminal_is_no_conflict(stage: Stage) -> None:
    _, ask = await stage.ask()
    stage.ran()
    decided = await stage.asks.decide(ask, ALLOW)
    assert (decided.outcome, decided.decided_by) == (AskOutcome.ALLOWED, TERMINAL)


async def test_an_edit_that_came_too_late_is_a_conflict_though_both_said_yes(stage: Stage) -> None:
    _, ask = await stage.ask()
    stage.ran()
    with pytest.raises(ConflictError, match="allowed in its terminal"):
        await stage.asks.decide(ask, Decision(decision="allow", input={"command": "ls"}))


async def test_a_no_that_shows_nowhere_came_too_late_until_its_line_says_otherwise(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks_module, "PROOF_PATIENCE", 0.2)
    _, ask = await stage.ask()
    await stage.step()

    deciding = asyncio.create_task(stage.asks.decide(ask, DENY))
    await asyncio.sleep(0.05)
    await stage.asks.step(BUSY)

    with pytest.raises(ConflictError, match="allowed in its terminal"):
        await deciding
    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)
    stage.hook_decided("deny")
    await stage.step(state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.DENIED, USER)


async def test_time_in_which_everything_stood_still_proves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks_module, "working_time", Clock(stage._clock))
    stage.asks = Asks(stage.room.store, stage.room.task, stage.room.session.id)
    _, ask = await stage.ask()
    await stage.asks.step(BUSY)
    decided = asyncio.create_task(stage.asks.decide(ask, DENY))
    await asyncio.sleep(0.1)

    stage.late += 3600
    await asyncio.sleep(0.1)
    stage.hook_decided("deny")

    assert (await decided).decided_by is USER


async def test_what_a_subagent_did_counts_as_decided_here_where_no_line_says_by_whom(
    stage: Stage,
) -> None:
    stage.announce("t9", agent="helper")
    await stage.hold("b:1", agent="helper")
    ask = (await stage.room.store.open_asks())[-1].id
    folder = stage.room.lines.path.with_suffix("") / "subagents"
    folder.mkdir(parents=True)
    block = {"type": "tool_result", "tool_use_id": "t9", "content": "done"}
    line = {"type": "user", "isSidechain": True, "message": {"content": [block]}}
    (folder / "agent-helper.jsonl").write_text(json.dumps(line) + "\n")

    decided = await stage.asks.decide(ask, ALLOW)

    assert decided.decided_by is USER


async def test_a_call_that_no_worker_was_told_of_is_found_in_the_transcript(stage: Stage) -> None:
    lines = stage.room.lines

    def used(tool_use: str) -> None:
        call = {"type": "tool_use", "id": tool_use, "name": "Bash", "input": {"command": "make"}}
        lines.add("assistant", message={"id": tool_use, "content": [call]})

    used("earlier")
    lines.result("earlier", "done", timestamp="2020-01-01T00:00:00.000Z")
    held = await stage.hold("b:1")
    ask = (await stage.room.store.open_asks())[-1].id
    await stage.step()
    assert await stage.fate(ask) == (None, None)

    stage.asks.cancelled("b:1")
    used("t1")
    lines.result("t1", REJECTED, error=True, timestamp="2999-01-01T00:00:00.000Z")
    await stage.step()

    assert await stage.fate(ask) == (AskOutcome.DENIED, TERMINAL)
    assert await out(held) == {}


@pytest.mark.parametrize("event", ["PostToolBatch", "Stop", "UserPromptSubmit"])
async def test_an_earlier_call_just_like_it_says_nothing_of_an_ask(
    stage: Stage, event: str
) -> None:
    stage.announce("earlier")
    stage.asks.saw(event, stage.call())

    _, ask = await stage.ask("t1")

    assert (await stage.room.store.ask(ask)).tool_use_id == "t1"


async def test_a_result_from_before_the_ask_is_not_its_own(stage: Stage) -> None:
    stage.room.lines.result("t1", "done", timestamp="2020-01-01T00:00:00.000Z")
    _, ask = await stage.ask("t1")
    await stage.step()
    assert await stage.fate(ask) == (None, None)


async def test_two_equal_calls_are_told_apart(stage: Stage) -> None:
    stage.announce("t1")
    stage.announce("t2")
    await stage.hold("b:1")
    await stage.hold("b:2")
    one, two = [ask.tool_use_id for ask in await stage.room.store.open_asks()]
    assert (one, two) == ("t1", "t2")


# Workers and bridges come and go


async def test_the_same_call_sent_again_is_the_same_ask(stage: Stage) -> None:
    first, ask = await stage.ask()
    first.cancel()
    await stage.restart()

    again = asyncio.create_task(stage.asks.hold("b:t1", stage.call()))
    stage.hook_decided("allow")
    await stage.asks.decide(ask, ALLOW)

    assert behavior(await out(again)) == "allow"
    assert len(await stage.room.store.asks_of_session(stage.room.session.id)) == 1


async def test_what_was_decided_but_not_handed_over_is_handed_to_the_call_sent_again(
    stage: Stage,
) -> None:
    held, ask = await stage.ask()
    held.cancel()
    await stage.room.store.close_ask(ask, AskOutcome.DENIED, USER, {"decision": "deny"})
    await stage.restart()

    assert behavior(await out(await stage.hold("b:t1"))) == "deny"
    stage.hook_decided("deny")
    await stage.step(state=BUSY)
    assert await stage.fate(ask) == (AskOutcome.DENIED, USER)


async def test_a_new_worker_corrects_what_its_predecessor_could_not_see_any_more(
    stage: Stage,
) -> None:
    held, ask = await stage.ask()
    held.cancel()
    await stage.room.store.close_ask(ask, AskOutcome.ALLOWED, USER, {"decision": "allow"})
    stage.rejected()
    await stage.restart()

    await stage.step(state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.DENIED, TERMINAL)


async def test_a_request_sent_again_closes_none_that_came_after_it(stage: Stage) -> None:
    (await stage.hold("b:1", "one")).cancel()
    (await stage.hold("b:2", "two")).cancel()
    await stage.restart()
    again = asyncio.create_task(stage.asks.hold("b:1", stage.call("one")))
    last = asyncio.create_task(stage.asks.hold("b:2", stage.call("two")))
    await asyncio.sleep(0.1)
    one, two = [ask.id for ask in await stage.room.store.open_asks()]

    await stage.step()
    await stage.step(2)

    assert await stage.fate(one) == (AskOutcome.ALLOWED, TERMINAL)
    assert await out(again) == {}
    assert await stage.fate(two) == (None, None)
    last.cancel()


@pytest.mark.parametrize(
    ("state", "fate"),
    [(BUSY, (AskOutcome.ALLOWED, TERMINAL)), (SessionState.IDLE, (AskOutcome.GONE, SESSION))],
)
async def test_what_was_asked_and_answered_while_no_worker_ran_is_offered_to_nobody(
    stage: Stage, state: SessionState, fate: tuple[AskOutcome, DecidedBy]
) -> None:
    stage.ran()
    await stage.restart()
    stage.asks.bridge_came("b")
    stage.asks.still_held(frozenset({"b:1"}))  # nobody cancels what was allowed there (13.5)
    held = await stage.hold("b:1")
    ask = (await stage.room.store.open_asks())[0].id

    await stage.step(state=state)
    with pytest.raises(ConflictError):
        await asyncio.gather(stage.asks.decide(ask, ALLOW), stage.step(3, state=state))

    assert await stage.fate(ask) == fate
    assert await out(held) == {}


async def test_what_was_answered_at_the_terminal_while_no_worker_ran_is_closed(
    stage: Stage,
) -> None:
    held, ask = await stage.ask()
    held.cancel()
    await stage.restart()
    again = asyncio.create_task(stage.asks.hold("b:t1", stage.call()))
    await asyncio.sleep(0.1)

    await stage.step(state=BUSY)
    await stage.step(2, state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.ALLOWED, TERMINAL)
    assert await out(again) == {}


async def test_a_call_that_the_bridge_does_not_hold_any_more_is_gone(stage: Stage) -> None:
    for number in (1, 2):
        (await stage.hold(f"b:{number}", f"make {number}", agent=f"a{number}")).cancel()
    await stage.restart()
    one, two = [ask.id for ask in await stage.room.store.open_asks()]

    stage.asks.still_held(frozenset({"b:2"}))
    await stage.step()
    await stage.step(3)

    assert await stage.fate(one) == (AskOutcome.GONE, SESSION)
    assert await stage.fate(two) == (None, None)


async def test_what_was_allowed_and_runs_on_stays_allowed_over_a_restart(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.asks.step(BUSY)
    await stage.asks.decide(ask, ALLOW)
    await out(held)
    await stage.restart()

    stage.asks.still_held(frozenset())
    await stage.step(state=BUSY)
    await stage.step(60, state=BUSY)

    assert await stage.fate(ask) == (AskOutcome.ALLOWED, USER)


async def test_another_bridge_knows_nothing_of_the_calls_of_the_one_before(stage: Stage) -> None:
    _, ask = await stage.ask()
    stage.asks.bridge_came("b")
    await stage.step(3)
    assert await stage.fate(ask) == (None, None)
    stage.asks.bridge_came("other")
    await stage.step()
    await stage.step(3)
    assert await stage.fate(ask) == (AskOutcome.GONE, SESSION)


# The session goes


async def test_clear_ends_what_the_main_conversation_asked(stage: Stage) -> None:
    held, main = await stage.ask()
    await stage.hold("b:2", agent="helper")
    helpers = (await stage.room.store.open_asks())[-1].id

    stage.asks.conversation_left()
    await stage.step()
    await stage.step(3)

    assert await stage.fate(main) == (AskOutcome.GONE, SESSION)
    assert await out(held) == {}
    assert await stage.fate(helpers) == (None, None)


async def test_the_end_of_the_process_ends_all_that_it_asked(stage: Stage) -> None:
    held, ask = await stage.ask()
    await stage.asks.close()
    assert await stage.fate(ask) == (AskOutcome.GONE, SESSION)
    assert await out(held) == {}
    with pytest.raises(ConflictError, match="Nobody can answer this any more"):
        await stage.asks.decide(ask, ALLOW)


async def test_a_halt_refuses_all_that_is_asked(stage: Stage) -> None:
    main, ask = await stage.ask()
    helper = await stage.hold("b:2", agent="helper")

    await stage.asks.deny_all("A person halted this session.")

    for held in (main, helper):
        told = (await out(held))["hookSpecificOutput"]["decision"]
        assert told == {"behavior": "deny", "message": "A person halted this session."}
    assert await stage.fate(ask) == (AskOutcome.DENIED, USER)


async def test_input_that_nests_without_measure_is_asked_for_as_text(stage: Stage) -> None:
    call = stage.call() | {"tool_input": '{"x":' * 5000 + "1" + "}" * 5000}
    held = asyncio.create_task(stage.asks.hold("b:1", call))
    with anyio.fail_after(10):
        while not (asks := await stage.room.store.open_asks()) and not held.done():
            await asyncio.sleep(0.001)
    assert asks[0].input == {"tool_input": call["tool_input"]}
    held.cancel()


async def test_input_that_is_no_object_is_shown_as_it_is(stage: Stage) -> None:
    call = stage.call() | {"tool_input": "", "permission_suggestions": "{not json"}
    task = asyncio.create_task(stage.asks.hold("b:1", call))
    while not (open_ := await stage.room.store.open_asks()):
        await asyncio.sleep(0.001)
    assert open_[0].input == {"tool_input": ""}
    assert open_[0].suggestions == ()
    task.cancel()
