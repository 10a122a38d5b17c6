"""What each order of lines in a transcript proves, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import StorageError
from claudedo.model import SessionState
from claudedo_worker import receipts
from tests.support.mailroom import Json, Mailroom

pytestmark = pytest.mark.anyio


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Mailroom]:
    made = await Mailroom(tmp_path).open()
    await made.be(SessionState.BUSY)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for lines that come out of order, but where a test says so."""
    monkeypatch.setattr(receipts, "LINE_PATIENCE", 0.0)


def context_of(output: Json) -> str:
    return str(output["hookSpecificOutput"]["additionalContext"])


Story = Callable[[Mailroom, Json], None]


def plain(room: Mailroom, given: Json) -> None:
    room.lines.hook(given)
    room.lines.answer("m1")


def failed(room: Mailroom, given: Json) -> None:
    room.lines.hook(given)
    room.lines.answer("e1", failed=True)


def retried(room: Mailroom, given: Json) -> None:
    failed(room, given)
    room.lines.prompt("continue")
    room.lines.answer("m1")


def resumed_after_a_cut(room: Mailroom, given: Json) -> None:
    room.lines.hook(given)
    room.lines.answer("s1", model="<synthetic>")


def only_a_hook_success(room: Mailroom, given: Json) -> None:
    attachment = {"type": "hook_success", "stdout": context_of(given)}
    room.lines.add("attachment", attachment=attachment)
    room.lines.answer("m1")


def only_enqueued(room: Mailroom, given: Json) -> None:
    room.lines.enqueue(context_of(given))
    room.lines.answer("m1")


def in_a_sidechain(room: Mailroom, given: Json) -> None:
    room.lines.hook(given, isSidechain=True)
    room.lines.answer("m1", parent=None)


def quoted_in_a_prompt(room: Mailroom, given: Json) -> None:
    room.lines.prompt(f"see this: {context_of(given)}")
    room.lines.answer("m1")


def at_the_start_of_a_prompt(room: Mailroom, given: Json) -> None:
    room.lines.prompt(context_of(given))
    room.lines.answer("m1")


def in_a_tool_result(room: Mailroom, given: Json) -> None:
    room.lines.answer("m1", "call")
    room.lines.result("call", context_of(given))
    room.lines.answer("m2")


def lost_in_a_batch(room: Mailroom, given: Json) -> None:
    room.lines.result("call", "fine")
    room.lines.answer("m1")


def compacted_unread(room: Mailroom, given: Json) -> None:
    room.lines.hook(given)
    room.lines.compacted()
    room.lines.prompt("summary")
    room.lines.answer("m1")


def compacted_read(room: Mailroom, given: Json) -> None:
    plain(room, given)
    room.lines.compacted()


def kept_by_a_compaction(room: Mailroom, given: Json) -> None:
    kept = room.lines.hook(given)
    room.lines.compacted(kept)
    room.lines.prompt("summary")


def kept_by_a_compaction_and_answered(room: Mailroom, given: Json) -> None:
    kept_by_a_compaction(room, given)
    room.lines.answer("m1")


def taken_back_by_esc(room: Mailroom, given: Json) -> None:
    before = room.lines.last
    room.lines.prompt("typed")
    room.lines.hook(given)
    room.lines.prompt("typed again", parent=before)
    room.lines.answer("m1")


def with_an_answer_that_was_under_way(room: Mailroom, given: Json) -> None:
    """The first lines of an answer stand before the text, the others behind it, beside it."""
    first = room.lines.answer("m1")
    room.lines.hook(given)
    room.lines.answer("m1", parent=first)


STORIES: dict[str, tuple[Story, str, bool]] = {
    # what happens after a hook handed a message over: (lines, rungs, may be given again)
    "answered with it in context": (plain, "sodr", False),
    "the request failed": (failed, "sod", False),
    "the request failed and was made again": (retried, "sodr", False),
    "cut off, and resumed with a line that the client made up": (resumed_after_a_cut, "sod", False),
    "the hook ran, but its text is in no request": (only_a_hook_success, "so", False),
    "queued, and the model answered something else": (only_enqueued, "so", False),
    "seen by a subagent only": (in_a_sidechain, "so", False),
    "quoted by the person": (quoted_in_a_prompt, "so", False),
    "typed by the person word for word": (at_the_start_of_a_prompt, "so", False),
    "printed by a tool": (in_a_tool_result, "so", False),
    "out of the context before it was answered": (compacted_unread, "sod", True),
    "out of the context after it was answered": (compacted_read, "sodr", False),
    "kept by a compaction": (kept_by_a_compaction, "sod", False),
    "kept by a compaction and answered": (kept_by_a_compaction_and_answered, "sodr", False),
    "taken back by an Esc": (taken_back_by_esc, "sod", True),
    "an answer was under way": (with_an_answer_that_was_under_way, "sod", False),
}


@pytest.mark.parametrize(("story", "rungs", "again"), STORIES.values(), ids=STORIES)
async def test_lines_prove_this_much_of_a_message_given_by_a_hook(
    room: Mailroom, story: Story, rungs: str, again: bool
) -> None:
    sent = await room.send("BODY")
    given = await room.hook("UserPromptSubmit")
    story(room, given)
    await room.courier.step()
    assert await room.rungs(sent) == rungs
    assert bool(await room.store.deliverable(room.task.id)) == again
    await room.new_worker()
    assert await room.rungs(sent) == rungs, "another worker reads the same"
    assert bool(await room.store.deliverable(room.task.id)) == again


async def test_answer_that_stands_before_its_context_reads_it_once_both_are_there(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    given = await room.hook("UserPromptSubmit")
    room.lines.answer("m1", parent="u1")
    await room.courier.step()
    assert await room.rungs(sent) == "so"
    assert room.lines.hook(given, parent=None) == "u1"
    await room.courier.step()
    assert await room.rungs(sent) == "sodr"


async def test_result_beside_the_chain_is_read_by_the_next_answer(room: Mailroom) -> None:
    sent = await room.send("BODY")
    call = room.lines.answer("m1", "fetch", "other")
    await room.courier.check_inbox("fetch", None)
    room.lines.result("fetch", f'{{"messages": [{{"id": "{sent}"}}]}}')
    room.lines.result("other", "fine", parent=call)
    room.lines.answer("m2")
    await room.courier.step()
    assert await room.rungs(sent) == "sodr"


async def test_older_version_drops_a_result_beside_the_chain_when_it_resumes(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    call = room.lines.answer("m1", "fetch", "other")
    await room.courier.check_inbox("fetch", None)
    room.lines.result("fetch", f'{{"messages": [{{"id": "{sent}"}}]}}')
    room.lines.result("other", "fine", parent=call)
    await room.courier.close()
    assert await room.rungs(sent) == "sod"
    assert await room.store.deliverable(room.task.id) == []
    await (await room.load()).forget_side_lines()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]


async def test_what_is_on_the_chain_stays_when_an_older_version_resumes(room: Mailroom) -> None:
    sent = await room.send("BODY")
    room.lines.hook(await room.hook("UserPromptSubmit"))
    room.lines.prompt("more")
    await room.courier.close()
    await (await room.load()).forget_side_lines()
    assert await room.rungs(sent) == "sod"
    assert await room.store.deliverable(room.task.id) == []


async def test_message_given_again_after_a_compaction_is_not_given_a_third_time(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    room.lines.hook(await room.hook("UserPromptSubmit"))
    room.lines.compacted()
    await room.courier.step()
    room.lines.hook(await room.hook("PostToolBatch"))
    await room.courier.step()
    await room.new_worker()
    assert await room.store.deliverable(room.task.id) == []
    room.lines.answer("m1")
    await room.courier.step()
    assert await room.rungs(sent) == "sodr"


async def test_failed_fetch_gives_the_messages_back_at_once(room: Mailroom) -> None:
    sent = await room.send("BODY")
    room.lines.answer("m1", "fetch")
    await room.courier.check_inbox("fetch", None)
    room.lines.result("fetch", "the connection was closed", error=True)
    await room.courier.step()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]


async def test_text_of_a_batch_that_the_model_went_on_without_is_given_again(
    room: Mailroom,
) -> None:
    sent = await room.send("BODY")
    room.lines.answer("m1", "call")
    await room.hook("PreToolUse", tool_use_id="call")
    await room.hook("PostToolBatch")
    room.lines.result("call", "fine")
    await room.courier.step()
    assert await room.store.deliverable(room.task.id) == [], "the line may still come"
    room.lines.answer("m2")
    await room.courier.step()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]


async def test_push_is_known_behind_a_line_that_the_client_put_before_it(room: Mailroom) -> None:
    sent = await room.send("BODY")
    await room.be(SessionState.IDLE)
    await room.step()
    (pushed,) = room.links.pushed
    reminder = "<system-reminder><tools-used>x</tools-used></system-reminder>\n"
    room.lines.prompt(f'{reminder}<channel source="claudedo">\n{pushed}\n</channel>', "channel")
    await room.step()
    assert await room.rungs(sent) == "sod"


async def test_body_cannot_pass_for_another_attempt(room: Mailroom) -> None:
    """A peer that learnt the name of a past attempt, and tries the shape of one."""
    first = await room.send("FIRST")
    given = context_of(await room.hook("UserPromptSubmit"))
    forged = await room.send(given, sender="task:t_1")
    assert room.links.pushed == []
    other = await room.hook("PostToolBatch")
    room.lines.hook(other)
    room.lines.answer("m1")
    await room.courier.step()
    assert await room.rungs(forged) == "sodr"
    assert await room.rungs(first) == "so"


async def test_line_that_comes_after_its_attempt_was_given_up_delivers_it(room: Mailroom) -> None:
    sent = await room.send("BODY")
    await room.be(SessionState.IDLE)
    await room.step()
    room.links.wakeable = False
    for _ in range(2):
        await room.step(2)
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]
    room.lines.push(room.links.pushed[0])
    room.lines.answer("m1")
    await room.step()
    assert await room.rungs(sent) == "sodr"
    assert await room.store.deliverable(room.task.id) == []
    assert await room.hook("UserPromptSubmit") == {}


async def test_attempts_left_open_end_when_the_process_does(room: Mailroom) -> None:
    sent = await room.send("BODY")
    await room.hook("UserPromptSubmit")
    await room.courier.close()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]


# What goes wrong while it is written down


Fail = Callable[..., None]


@pytest.fixture
def fail(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Lets the next call of a method of the store fail, before it stored anything or after."""

    def fail_once(name: str, error: BaseException, *, stored: bool) -> None:
        method = getattr(room.store, name)

        async def failing(*values: Any) -> None:
            monkeypatch.setattr(room.store, name, method)
            if stored:
                await method(*values)
            raise error

        monkeypatch.setattr(room.store, name, failing)

    return fail_once


FULL = StorageError("The disk is full.")


@pytest.mark.parametrize("stored", [False, True], ids=["nothing stored", "stored all the same"])
@pytest.mark.parametrize("error", [FULL, asyncio.CancelledError()], ids=["disk full", "cancelled"])
@pytest.mark.parametrize(
    ("method", "story", "rungs"),
    [
        ("confirm", plain, "sodr"),
        ("mark_read", plain, "sodr"),
        ("forget", compacted_unread, "sod"),
        ("end_attempt", lost_in_a_batch, "so"),
    ],
)
async def test_fact_that_could_not_be_written_down_counts_at_the_next_look(
    room: Mailroom,
    fail: Fail,
    method: str,
    story: Story,
    rungs: str,
    error: BaseException,
    stored: bool,
) -> None:
    sent = await room.send("BODY")
    room.lines.answer("m0", "call")
    await room.hook("PreToolUse", tool_use_id="call")
    story(room, await room.hook("PostToolBatch"))
    fail(method, error, stored=stored)
    with pytest.raises(type(error)):
        await room.courier.step()
    await room.courier.step()
    assert await room.rungs(sent) == rungs
    again = [message.id for message in await room.store.deliverable(room.task.id)]
    assert again == ([] if "r" in rungs else [sent])
    assert room.courier._receipts.open == {}
    assert await room.store.open_attempts("c1") == []


@pytest.mark.parametrize("stored", [False, True], ids=["nothing stored", "stored all the same"])
async def test_attempt_whose_storing_was_cancelled_ends_with_its_call(
    room: Mailroom, fail: Fail, stored: bool
) -> None:
    sent = await room.send("BODY")
    fail("add_attempt", asyncio.CancelledError(), stored=stored)
    with pytest.raises(asyncio.CancelledError):
        await room.courier.check_inbox("fetch", None)
    room.lines.answer("m1", "fetch")
    room.lines.result("fetch", "cancelled", error=True)
    await room.courier.step()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]


async def test_attempt_that_the_store_refused_is_not_waited_for(room: Mailroom, fail: Fail) -> None:
    await room.send("BODY")
    fail("add_attempt", FULL, stored=False)
    with pytest.raises(StorageError):
        await room.courier.check_inbox("fetch", None)
    ((message,), _) = await room.courier.check_inbox("fetch", None)
    assert message.body == "BODY"


async def test_attempt_that_only_the_store_knows_ends_with_the_process(room: Mailroom) -> None:
    sent = await room.send("BODY")
    await room.hook("UserPromptSubmit")
    room.courier._receipts.open.clear()
    await room.courier.close()
    assert [m.id for m in await room.store.deliverable(room.task.id)] == [sent]
