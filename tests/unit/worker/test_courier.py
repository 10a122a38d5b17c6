"""Which way a message takes in each state of its session, and what is tried when one fails."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from claudedo.errors import UsageError
from claudedo.model import (
    MOST_FILES,
    Assignee,
    Attachment,
    FailureKind,
    Priority,
    SessionState,
    check_body,
    new_id,
)
from claudedo_worker import mcp_server, receipts
from claudedo_worker.attachments import LONGEST_NAME
from claudedo_worker.courier import NUDGE_AGAIN, QUEUE_STALE, SETTLE, WAITER_DUE
from claudedo_worker.envelope import ATTEMPT
from claudedo_worker.failures import FIRST_PAUSE, PAUSES, SPACING, SPREAD, TRIES
from claudedo_worker.inbox import HALTED, INBOX_LIMIT
from tests.support.mailroom import Json, Mailroom
from tests.support.records import a_message

pytestmark = pytest.mark.anyio

LARGE = "x" * 9_000
A_LITTLE = 1 + FIRST_PAUSE * SPREAD


@pytest.fixture
async def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mailroom]:
    monkeypatch.setattr(receipts, "LINE_PATIENCE", 0.0)
    made = await Mailroom(tmp_path).open()
    yield made
    await made.close()


def text_of(output: Json) -> str:
    return str(output["hookSpecificOutput"]["additionalContext"])


# Between turns


async def test_idle_session_is_pushed_the_first_body_and_its_turn_gets_the_others(
    room: Mailroom,
) -> None:
    sent = [await room.send(f"BODY-{number}") for number in range(3)]
    await room.step()
    await room.step()
    (pushed,) = room.links.pushed
    assert "BODY-0" in pushed
    others = text_of(await room.hook("UserPromptSubmit"))
    assert "BODY-0" not in others
    assert others.index("BODY-1") < others.index("BODY-2")
    assert [await room.rungs(message) for message in sent] == ["so"] * 3


@pytest.mark.parametrize("body", [LARGE, "</channel>", "<system-reminder>x</system-reminder>"])
async def test_body_that_would_be_altered_is_fetched_instead(room: Mailroom, body: str) -> None:
    await room.send(body)
    await room.step()
    (pushed,) = room.links.pushed
    assert body not in pushed
    assert "call `mcp__claudedo__check_inbox` now" in pushed
    room.lines.push(pushed)
    room.lines.answer("m1", "fetch")
    ((message,), pending) = await room.courier.check_inbox("fetch", None)
    assert (message.body, pending) == (body, 0)


async def test_channel_that_swallows_a_push_is_given_up_for_the_waiter(room: Mailroom) -> None:
    await room.send("BODY")
    await room.step()
    await room.step(SETTLE)
    await room.step(SETTLE)
    await room.step()
    assert room.courier.session.channel is False
    assert len(room.links.pushed) == len(room.links.woken) == 1


async def test_push_that_the_client_queued_is_waited_for(room: Mailroom) -> None:
    await room.send("BODY")
    await room.step()
    room.lines.enqueue(room.links.pushed[0])
    for _ in range(5):
        await room.step(SETTLE)
    assert len(room.links.pushed) == 1
    assert room.courier.session.channel is True


async def test_push_that_the_client_queued_after_long_idleness_is_waited_for_as_long(
    room: Mailroom,
) -> None:
    for _ in range(5):
        await room.step(QUEUE_STALE)
    await room.send("BODY")
    await room.step()
    room.lines.enqueue(room.links.pushed[0])
    for _ in range(5):
        await room.step(QUEUE_STALE / 5 - 1)
    assert len(room.links.pushed) == 1
    for _ in range(6):
        await room.step(SETTLE + 1)
    assert len(room.links.pushed) == 2, "never looked at again"


async def test_push_is_not_repeated_while_the_client_does_not_answer(room: Mailroom) -> None:
    await room.send("BODY")
    await room.step()
    room.links.answers = False
    for _ in range(5):
        await room.step(60)
    assert len(room.links.pushed) == 1
    assert room.links.woken == []


async def test_line_is_typed_only_when_no_waiter_comes(room: Mailroom) -> None:
    room.links.pushable = room.links.wakeable = False
    await room.send("BODY")
    await room.step()
    assert room.links.typed == []
    await room.step(WAITER_DUE)
    (typed,) = room.links.typed
    assert "BODY" not in typed
    assert "\n" not in typed


async def test_draft_in_the_input_box_holds_the_line_back(room: Mailroom) -> None:
    room.links.pushable = room.links.wakeable = room.links.typeable = False
    sent = await room.send("BODY")
    for _ in range(3):
        await room.step(WAITER_DUE)
    assert await room.rungs(sent) == "s"
    room.links.typeable = True
    await room.step()
    assert len(room.links.typed) == 1


@pytest.mark.parametrize(
    ("way", "typed"), [("ping", 0), ("can_type", 0), ("type", 1)], ids=["ping", "look", "type"]
)
async def test_hook_is_answered_while_a_way_into_the_session_takes_its_time(
    room: Mailroom, way: str, typed: int
) -> None:
    room.links.slow = way
    room.links.pushable = way == "ping"
    room.links.wakeable = False
    await room.send("BODY")
    await room.step()
    looking = asyncio.create_task(room.step(WAITER_DUE))
    await asyncio.wait_for(room.links.reached.wait(), 20)
    await room.send("MORE")
    given = await asyncio.wait_for(room.hook("UserPromptSubmit"), 20)
    assert "MORE" in text_of(given)
    room.links.release.set()
    await looking
    assert len(room.links.typed) == typed
    assert await room.hook("PostToolBatch") == {}


async def test_reminder_without_effect_is_repeated_ever_more_rarely(room: Mailroom) -> None:
    room.links.pushable = False
    await room.send(LARGE)
    for pause in NUDGE_AGAIN:
        await room.step()
        room.lines.prompt(f"<task-notification>{room.links.woken[-1]}", "task-notification")
        room.lines.answer(f"m{len(room.links.woken)}")
        count = len(room.links.woken)
        await room.step(pause - 1)
        assert len(room.links.woken) == count, "too early"
        await room.step(1)
        assert len(room.links.woken) == count + 1, "too late"


@pytest.mark.parametrize("state", [SessionState.STARTING, SessionState.BUSY, SessionState.WAITING])
async def test_nothing_is_put_into_a_session_that_is_not_idle(
    room: Mailroom, state: SessionState
) -> None:
    await room.be(state)
    sent = await room.send("BODY")
    for _ in range(3):
        await room.step(60)
    assert room.links.pushed + room.links.woken + room.links.typed == []
    assert await room.rungs(sent) == "s"


async def test_push_that_a_starting_turn_took_in_as_a_notice_is_given_again_and_marked(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    await room.step()
    await room.hook("UserPromptSubmit")
    room.lines.queued(f'<channel source="claudedo">\n{room.links.pushed[0]}\n</channel>', "channel")
    room.lines.answer("m1")
    again = text_of(await room.hook("PostToolBatch"))
    assert "shown before as a channel notice" in again
    assert await room.rungs(sent) == "so"
    room.lines.hook({"hookSpecificOutput": {"additionalContext": again}})
    room.lines.answer("m2")
    await room.hook("Stop")
    assert await room.rungs(sent) == "sodr"


# Within a turn


async def test_batch_hands_over_each_message_once(room: Mailroom) -> None:
    await room.hook("UserPromptSubmit")
    await room.send("BODY-1")
    await room.send("BODY-2", Priority.HIGH)
    first = text_of(await room.hook("PostToolBatch"))
    assert first.index("BODY-2") < first.index("BODY-1")
    assert await room.hook("PostToolBatch") == {}
    assert await room.hook("Stop") == {}


async def test_large_message_is_announced_once_in_a_turn_and_twice_at_its_end(
    room: Mailroom,
) -> None:
    await room.hook("UserPromptSubmit")
    await room.send(LARGE)
    announced = [bool(await room.hook("PostToolBatch")) for _ in range(3)]
    assert announced == [True, False, False]
    ends = [bool(await room.hook("Stop")) for _ in range(4)]
    assert ends == [True, True, False, False]


async def test_body_that_is_never_fetched_is_handed_over_altered_at_last(room: Mailroom) -> None:
    await room.hook("UserPromptSubmit")
    await room.send("</channel>")
    assert "</channel>" not in text_of(await room.hook("Stop"))
    assert "</channel>" in text_of(await room.hook("Stop"))


@pytest.mark.parametrize("event", ["PostToolBatch", "Stop", "UserPromptSubmit"])
async def test_subagent_is_given_nothing(room: Mailroom, event: str) -> None:
    await room.send("BODY")
    assert await room.hook(event, agent_id="a1") == {}


async def test_subagent_may_not_fetch_the_mail(room: Mailroom) -> None:
    tool = "mcp__claudedo__check_inbox"
    refused = await room.hook("PreToolUse", agent_id="a1", tool_name=tool)
    assert refused["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert await room.hook("PreToolUse", agent_id="a1", tool_name="Bash") == {}
    assert await room.hook("PreToolUse", tool_name=tool) == {}


async def test_text_typed_while_a_turn_runs_is_given_nothing(room: Mailroom) -> None:
    await room.hook("UserPromptSubmit")
    await room.hook("PreToolUse", tool_use_id="call")
    await room.send("BODY")
    assert await room.hook("UserPromptSubmit") == {}
    assert "BODY" in text_of(await room.hook("PostToolBatch"))


async def test_turn_that_follows_at_once_is_given_what_came_meanwhile(room: Mailroom) -> None:
    await room.hook("UserPromptSubmit")
    assert await room.hook("Stop") == {}
    await room.send("BODY")
    assert "BODY" in text_of(await room.hook("UserPromptSubmit"))


async def test_batch_of_unasked_calls_is_not_taken_for_an_earlier_one(room: Mailroom) -> None:
    """Its calls were not told to us, say because the bridge was away."""
    await room.be(SessionState.BUSY)
    room.lines.answer("m1", "call")
    await room.hook("PreToolUse", tool_use_id="call")
    await room.hook("PostToolBatch")
    room.lines.result("call", "fine")
    room.lines.answer("m2", "unasked")
    sent = await room.send("BODY")
    await room.hook("PostToolBatch")
    await room.step()
    assert await room.store.deliverable(room.task.id) == []
    assert await room.rungs(sent) == "so"


# Fetching


async def test_same_call_again_is_given_the_same_messages(room: Mailroom) -> None:
    await room.send("BODY")
    ((first,), _) = await room.courier.check_inbox("fetch", None)
    ((again,), _) = await room.courier.check_inbox("fetch", None)
    assert (again.id, again.body) == (first.id, "BODY")
    assert (await room.courier.check_inbox("other", None))[0] == []


async def test_limit_bounds_a_fetch_and_the_rest_is_counted(room: Mailroom) -> None:
    for number in range(3):
        await room.send(f"BODY-{number}")
    messages, pending = await room.courier.check_inbox("fetch", 2)
    assert [message.body for message in messages] == ["BODY-0", "BODY-1"]
    assert pending == 1


@pytest.mark.parametrize(
    ("body", "fit"),
    [
        ("x" * 195_000, 2),
        ("\n" * 97_500, 2),
        ("\x01" * 32_500, 2),
        ("\N{PARTY POPPER}" * 60_000, 3),
    ],
    ids=["plain", "line breaks", "control characters", "two units each"],
)
async def test_fetch_is_bounded_in_what_its_result_is_encoded_to(
    room: Mailroom, body: str, fit: int
) -> None:
    for _ in range(4):
        await room.send(body)
    messages, pending = await room.courier.check_inbox("fetch", None)
    assert (len(messages), pending) == (fit, 4 - fit)


@pytest.mark.parametrize("character", ["x", "\n", "\x01", "\N{PARTY POPPER}"])
async def test_largest_body_that_may_be_sent_fits_into_one_fetch(
    room: Mailroom, character: str
) -> None:
    def may_be_sent(length: int) -> bool:
        with contextlib.suppress(UsageError):
            return bool(check_body(character * length))
        return False

    longest = bisect.bisect_left(range(1, 300_000), True, key=lambda n: not may_be_sent(n))
    await room.send(character * longest, sender="task:" + "t" * 28)
    (message,), _ = await room.courier.check_inbox("fetch", None)
    file = Attachment(
        id=new_id("f"),
        task_id=room.task.id,
        message_id=message.id,
        filename='"' * LONGEST_NAME,
        mime_type="x" * 100 + "/" + "x" * 100,
        size=2**40,
        sha256="",
        party="user",
        created_at="",
    )
    message = replace(message, attachments=(file,) * MOST_FILES)
    result = {"messages": [mcp_server.message_json(message)], "pending": 1_000_000}
    text = json.dumps(result, ensure_ascii=False)
    assert len(text.encode("utf-16-le")) // 2 <= INBOX_LIMIT


async def test_what_a_message_carries_and_answers_goes_with_every_way(room: Mailroom) -> None:
    made = replace(room.task, id="t_asked", name="asked", creator=f"task:{room.task.id}")
    asked = await room.store.add_task(replace(made, assignee=Assignee.HUMAN))
    file = Attachment(
        id="f_1",
        task_id=asked.id,
        message_id=None,
        filename="plan.pdf",
        mime_type="application/pdf",
        size=7,
        sha256="0" * 64,
        party="user",
        created_at="",
    )
    await room.store.add_attachment(file)
    message = a_message(room.task, "YES", thread_id=asked.id)
    await room.store.add_message(message, "k", ["f_1"])
    await room.step()

    (pushed,) = room.links.pushed
    assert f"attachments f_1]\n[Response to task {asked.id}]\n\nYES\n" in pushed
    (meta,) = room.links.metas
    assert (meta["chat_id"], meta["attachments"]) == (asked.id, "f_1")
    assert all(isinstance(value, str) for value in meta.values())
    (again,) = [await room.store.message(message.id)]
    listed = mcp_server.message_json(again)
    assert listed["chat_id"] == asked.id
    assert listed["attachments"] == [
        {"id": "f_1", "filename": "plan.pdf", "mimeType": "application/pdf", "size": 7}
    ]


# Halting


async def test_halt_refuses_every_call_until_the_model_answered_it(room: Mailroom) -> None:
    await room.be(SessionState.BUSY)
    await room.hook("UserPromptSubmit")
    room.lines.answer("m1", "call")
    assert await room.hook("PreToolUse", tool_use_id="call", tool_name="Bash") == {}
    halt = await room.send("HALT", Priority.HALT)
    for who in ({}, {"agent_id": "a1"}):
        refused = await room.hook("PreToolUse", tool_use_id="next", tool_name="Bash", **who)
        assert refused["hookSpecificOutput"]["permissionDecision"] == "deny"
        assert await room.hook("PostToolBatch", **who) == {"continue": False, "stopReason": HALTED}
    await room.be(SessionState.IDLE)
    await room.step(2)
    (pushed,) = room.links.pushed
    assert "HALT" in pushed
    await room.be(SessionState.BUSY)
    room.lines.push(pushed)
    room.lines.answer("m2", "obedient")
    assert await room.hook("PreToolUse", tool_use_id="obedient", tool_name="Bash") == {}
    assert await room.rungs(halt) == "sodr"
    assert await room.hook("PreToolUse", agent_id="a1", tool_use_id="x", tool_name="Bash") == {}


async def test_halt_that_comes_as_the_turn_ends_is_handed_over_there(room: Mailroom) -> None:
    await room.be(SessionState.BUSY)
    await room.hook("UserPromptSubmit")
    await room.send("HALT", Priority.HALT)
    given = await room.hook("Stop")
    assert "HALT" in text_of(given)
    room.lines.hook(given)
    room.lines.answer("m1", "obedient")
    assert await room.hook("PreToolUse", tool_use_id="obedient", tool_name="Bash") == {}


async def test_large_halt_may_be_fetched_and_by_no_tool_of_another_server(room: Mailroom) -> None:
    await room.send(LARGE, Priority.HALT)
    assert await room.hook("PreToolUse", tool_name="mcp__claudedo__check_inbox") == {}
    for call in ({"tool_name": "mcp__other__check_inbox"}, {"tool_name": "Bash"}):
        assert await room.hook("PreToolUse", **call) != {}


# Delivered, and nobody goes on


async def deliver(room: Mailroom) -> str:
    """A message whose body is in the context and is not answered; the session is idle."""
    await room.be(SessionState.BUSY)
    sent = await room.send("BODY")
    room.lines.hook(await room.hook("UserPromptSubmit"))
    await room.step()
    await room.be(SessionState.IDLE)
    await room.step(1)
    return sent


async def test_session_whose_answer_failed_is_asked_to_go_on_without_the_body_again(
    room: Mailroom,
) -> None:
    sent = await deliver(room)
    room.lines.answer("e1", failed=True)
    await room.step(FIRST_PAUSE - 1)
    assert room.links.pushed == [], "the API needs time, and the person may do so first"
    await room.step(A_LITTLE)
    (pushed,) = room.links.pushed
    assert sent in pushed
    assert "BODY" not in pushed
    room.lines.push(pushed)
    room.lines.answer("m1")
    await room.step()
    assert await room.rungs(sent) == "sodr"
    assert room.courier.session.failure is None
    await room.step(NUDGE_AGAIN[-1])
    assert len(room.links.pushed) == 1


async def test_failure_that_stands_before_its_prompt_broke_the_turn_off_too(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    await room.step()
    (pushed,) = room.links.pushed
    room.lines.answer("e1", failed=True, parent="u1")
    assert room.lines.push(pushed, parent=None) == "u1"
    await room.step(1)
    await room.step(FIRST_PAUSE + A_LITTLE)
    assert sent in room.links.pushed[1]


async def test_session_that_is_refused_on_and_on_goes_on_ever_more_rarely_and_gives_up(
    room: Mailroom,
) -> None:
    await room.be(SessionState.BUSY)
    room.lines.prompt("do it")
    room.lines.answer("e0", failed=True, error="rate_limit")
    await room.be(SessionState.IDLE)
    await room.step()
    for count in range(TRIES):
        failure = room.courier.session.failure
        assert failure is not None
        assert (failure.kind, failure.tries) == (FailureKind.RATE_LIMIT, count)
        pause = FIRST_PAUSE * PAUSES[min(count, len(PAUSES) - 1)]
        await room.step(pause - 1)
        assert len(room.links.pushed) == count, "too early"
        await room.step(1 + pause * SPREAD)
        assert len(room.links.pushed) == count + 1, "one line, once"
        room.lines.push(room.links.pushed[-1])
        await room.step(5)
        failure = room.courier.session.failure
        assert failure is not None
        assert failure.continues_at is None, "nothing is planned while its turn runs"
        room.lines.answer(f"e{count + 1}", failed=True, error="rate_limit")
        await room.step()
    for _ in range(3):
        await room.step(100 * FIRST_PAUSE)
    assert len(room.links.pushed) == TRIES
    failure = room.courier.session.failure
    assert failure is not None
    assert (failure.continues_at, failure.tries) == (None, TRIES)


async def refuse(room: Mailroom, error: str = "rate_limit") -> None:
    """A turn without any mail of ours that the API refused; the session is idle."""
    await room.be(SessionState.BUSY)
    room.lines.prompt("typed by the person")
    room.lines.answer("e1", failed=True, error=error)
    await room.be(SessionState.IDLE)
    await room.step()


@pytest.mark.parametrize("way", ["pushed", "woken", "typed"])
async def test_refused_turn_goes_on_by_any_way_without_a_word_that_was_said_before(
    room: Mailroom, way: str
) -> None:
    room.links.pushable, room.links.wakeable = way == "pushed", way == "woken"
    await refuse(room)
    await room.step(FIRST_PAUSE * (1 + SPREAD))
    await room.step(WAITER_DUE)
    (text,) = getattr(room.links, way)
    assert "Go on with what you were doing" in text
    assert "Not answered" not in text


@pytest.mark.parametrize("error", ["authentication_failed", "billing_error", "unknown"])
async def test_what_only_a_person_can_mend_is_shown_and_not_tried_again(
    room: Mailroom, error: str
) -> None:
    await refuse(room, error)
    failure = room.courier.session.failure
    assert failure is not None
    assert failure.continues_at is None
    await room.step(10_000)
    assert room.links.pushed == []


async def test_nothing_goes_on_by_itself_where_that_is_switched_off(room: Mailroom) -> None:
    room.schedule.enabled = False
    sent = await deliver(room)
    room.lines.answer("e1", failed=True)
    await room.step(10_000)
    assert room.links.pushed == []
    failure = room.courier.session.failure
    assert failure is not None
    assert failure.continues_at is None
    assert await room.rungs(sent) == "sod"


async def test_mail_that_comes_after_a_refusal_continues_the_turn_instead(room: Mailroom) -> None:
    await refuse(room)
    await room.send("MAIL")
    await room.step(1)
    (pushed,) = room.links.pushed
    assert "MAIL" in pushed
    room.lines.push(pushed)
    await room.step(2 * FIRST_PAUSE)
    room.lines.answer("m1")
    await room.step()
    assert room.courier.session.failure is None
    await room.step(2 * FIRST_PAUSE)
    assert len(room.links.pushed) == 1


async def test_prompt_of_the_person_after_a_refusal_continues_the_turn_instead(
    room: Mailroom,
) -> None:
    await refuse(room)
    await room.be(SessionState.BUSY)
    room.lines.prompt("go on, please")
    await room.step(2 * FIRST_PAUSE)
    await room.be(SessionState.IDLE)
    await room.step(2 * FIRST_PAUSE)
    assert room.links.pushed == []


async def test_command_that_starts_no_turn_leaves_the_schedule_alone(room: Mailroom) -> None:
    await refuse(room)
    room.lines.prompt("<command-name>/rate-limit-options</command-name>")
    room.lines.prompt("<local-command-stdout></local-command-stdout>")
    await room.step(FIRST_PAUSE * (1 + SPREAD))
    assert len(room.links.pushed) == 1


async def test_refused_turn_goes_on_under_the_next_worker_and_counts_on(room: Mailroom) -> None:
    await refuse(room)
    planned = room.courier.session.failure
    await room.new_worker()
    await room.step()
    assert room.courier.session.failure == planned
    await room.step(FIRST_PAUSE * (1 + SPREAD))
    room.lines.push(room.links.pushed[0])
    room.lines.answer("e2", failed=True, error="rate_limit")
    await room.new_worker()
    await room.step(1)
    failure = room.courier.session.failure
    assert failure is not None
    assert failure.tries == 1
    assert failure.continues_at is not None


async def test_time_that_the_machine_slept_counts(room: Mailroom) -> None:
    await refuse(room)
    room.slept += 8 * 3600
    await room.step(1)
    assert len(room.links.pushed) == 1


async def test_two_sessions_that_are_due_at_once_go_on_one_after_the_other(
    room: Mailroom,
) -> None:
    await refuse(room)
    room.slept += 3600
    room.schedule.take()  # another session went on at this moment
    await room.step(SPACING - 1)
    assert room.links.pushed == []
    await room.step(1)
    assert len(room.links.pushed) == 1


@pytest.mark.parametrize("way", ["pushed", "woken", "typed"])
async def test_of_two_sessions_that_are_looked_at_at_once_one_goes_on(
    room: Mailroom, tmp_path: Path, way: str
) -> None:
    (tmp_path / "other").mkdir()
    other = await Mailroom(tmp_path / "other").open()
    other.schedule = room.schedule
    await other.new_worker()
    for each in (room, other):
        each.links.pushable, each.links.wakeable = way == "pushed", way == "woken"
        await refuse(each)
    room.slept += 3600

    await asyncio.gather(room.step(WAITER_DUE), other.step(WAITER_DUE))

    went_on = [*getattr(room.links, way), *getattr(other.links, way)]
    await other.close()
    assert len(went_on) == 1


async def test_failure_is_forgotten_with_its_conversation(room: Mailroom) -> None:
    await refuse(room)
    await room.courier.move(await room.load("c2"))
    await room.step()
    assert room.courier.session.failure is None
    await room.step(2 * FIRST_PAUSE)
    assert room.links.pushed == []


async def test_escape_ends_the_matter(room: Mailroom) -> None:
    await refuse(room)
    room.lines.prompt("[Request interrupted by user]")
    await room.step(2 * FIRST_PAUSE)
    assert room.courier.session.failure is None
    assert room.links.pushed == []


async def test_resumed_session_is_asked_to_go_on_by_a_typed_line_if_need_be(
    room: Mailroom,
) -> None:
    room.links.pushable = room.links.wakeable = False
    sent = await deliver(room)
    await room.step(NUDGE_AGAIN[-1])
    assert room.links.typed == [], "its turn may have been ended by hand"
    await room.new_worker(resumed=True)
    await room.step()
    await room.step(NUDGE_AGAIN[0])
    (typed,) = room.links.typed
    assert sent in typed


async def test_session_that_the_person_interrupted_is_left_alone(room: Mailroom) -> None:
    await deliver(room)
    room.lines.answer("e1", failed=True)
    room.lines.prompt("[Request interrupted by user]")
    await room.step(NUDGE_AGAIN[-1])
    await room.new_worker(resumed=True)
    await room.step()
    await room.step(NUDGE_AGAIN[-1])
    assert room.links.pushed == []


async def test_session_with_other_mail_is_not_asked_to_go_on(room: Mailroom) -> None:
    sent = await deliver(room)
    room.lines.answer("e1", failed=True)
    await room.send("OTHER")
    await room.step(NUDGE_AGAIN[0])
    (pushed,) = room.links.pushed
    assert "OTHER" in pushed
    assert sent not in pushed


# Another conversation, another worker


async def test_unread_message_goes_over_to_the_next_conversation(room: Mailroom) -> None:
    await room.be(SessionState.BUSY)
    sent = await room.send("BODY")
    room.lines.hook(await room.hook("UserPromptSubmit"))
    await room.step()
    assert await room.rungs(sent) == "sod"
    await room.courier.move(await room.load("c2"))
    assert "BODY" in text_of(await room.hook("UserPromptSubmit"))


async def test_reminder_is_not_put_off_in_the_next_conversation(room: Mailroom) -> None:
    room.links.pushable = False
    await room.send(LARGE)
    await room.step()
    await room.courier.move(await room.load("c2"))
    await room.step()
    assert len(room.links.woken) == 2


async def test_new_worker_gives_nothing_that_may_still_come(room: Mailroom) -> None:
    await room.be(SessionState.BUSY)
    sent = await room.send("BODY")
    given = await room.hook("UserPromptSubmit")
    await room.new_worker()
    assert await room.hook("PostToolBatch") == {}
    room.lines.hook(given)
    room.lines.answer("m1")
    await room.step()
    assert await room.rungs(sent) == "sodr"


async def test_attempt_that_ends_unknown_leaves_no_message_behind(room: Mailroom) -> None:
    """Every attempt is settled once the session is idle and its client answers."""
    await room.send("BODY")
    lost = text_of(await room.hook("UserPromptSubmit"))
    await room.new_worker()
    for _ in range(4):
        await room.step(SETTLE)
    (pushed,) = room.links.pushed
    assert ATTEMPT.findall(pushed) != ATTEMPT.findall(lost)
    assert json.dumps(pushed).count("BODY") == 1
