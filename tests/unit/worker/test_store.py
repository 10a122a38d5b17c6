"""What every store must do, whatever lies behind it. A second store joins by a line in `STORES`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import ConflictError, NotFoundError, UsageError
from claudedo.model import (
    AskOutcome,
    DecidedBy,
    Event,
    Failure,
    FailureKind,
    Message,
    Outcome,
    Priority,
    Session,
    SessionState,
    Task,
    TaskStatus,
    Transport,
    Usage,
    Workspace,
    new_id,
    now,
)
from claudedo_worker.database import Database
from claudedo_worker.store import Announce, Store
from tests.support.records import a_message, a_session, a_task, an_ask, an_attempt

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def sqlite_store(folder: Path, announce: Announce) -> AsyncIterator[Store]:
    """The store in one SQLite file."""
    database = await Database.open(folder / "claudedo.db")
    try:
        yield Store(database, announce)
    finally:
        await database.close()


STORES: dict[str, Callable[[Path, Announce], AbstractAsyncContextManager[Store]]] = {
    "sqlite": sqlite_store,
}


@dataclass
class World:
    """A store with a workspace, two tasks and a session, and what it announced since."""

    store: Store
    told: list[Event] = field(default_factory=list)
    workspace: Workspace = field(init=False)
    backend: Task = field(init=False)
    frontend: Task = field(init=False)
    session: Session = field(init=False)

    async def fill(self) -> None:
        self.workspace = await self.store.workspace_for("/repository", "shop")
        self.backend = await self.store.add_task(a_task(self.workspace, "backend"))
        self.frontend = await self.store.add_task(a_task(self.workspace, "frontend"))
        self.session = await self.store.add_session(a_session(self.backend), "h", self.backend)
        self.told.clear()

    def kinds(self) -> list[str]:
        """What was announced since the last look, by kind."""
        kinds = [event.type for event in self.told]
        self.told.clear()
        return kinds

    async def message(self, body: str = "Hello.", key: str = "", **changes: object) -> Message:
        message = a_message(self.backend, body, **changes)
        stored, new = await self.store.add_message(message, key or message.id)
        assert new
        return stored

    async def deliver(self, *messages: Message) -> None:
        await self.store.confirm(await self.store.add_attempt(an_attempt(self.session, *messages)))

    async def again(self, message: Message) -> Message:
        return await self.store.message(message.id)

    async def deliverable(self) -> list[str]:
        return [message.id for message in await self.store.deliverable(self.backend.id)]


@pytest.fixture(params=STORES)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    told: list[Event] = []
    async with STORES[request.param](tmp_path, told.append) as store:
        made = World(store, told)
        await made.fill()
        yield made


# Notes and workspaces


async def test_a_note_is_kept_and_replaced(world: World) -> None:
    assert await world.store.note("port") is None
    await world.store.set_note("port", "1")
    await world.store.set_note("port", "2")

    assert await world.store.note("port") == "2"


async def test_a_root_has_one_workspace_and_a_taken_name_gets_a_number(world: World) -> None:
    same = await world.store.workspace_for("/repository", "another")
    others = [await world.store.workspace_for(f"/copy{n}", "shop") for n in range(2)]

    assert same == world.workspace
    assert [workspace.name for workspace in others] == ["shop-2", "shop-3"]


async def test_the_same_workspace_wanted_at_once_is_made_once(world: World) -> None:
    made = await asyncio.gather(*(world.store.workspace_for("/new", "new") for _ in range(5)))

    assert len({workspace.id for workspace in made}) == 1


# Tasks and links


async def test_a_task_comes_back_as_it_was_stored(world: World) -> None:
    assert await world.store.task(world.backend.id) == world.backend
    assert await world.store.tasks() == [world.backend, world.frontend]


async def test_a_second_task_of_a_name_is_a_conflict_also_when_both_come_at_once(
    world: World,
) -> None:
    adding = (world.store.add_task(a_task(world.workspace, "api")) for _ in range(4))
    ended = await asyncio.gather(*adding, return_exceptions=True)

    conflicts = [str(end) for end in ended if isinstance(end, ConflictError)]
    assert conflicts == ["There is a task 'api' in shop already."] * 3
    assert len([task for task in await world.store.tasks() if task.name == "api"]) == 1


async def test_another_workspace_may_use_the_same_name(world: World) -> None:
    other = await world.store.workspace_for("/other", "other")

    assert (await world.store.add_task(a_task(other, "backend"))).workspace == "other"


async def test_a_changed_task_is_stored_and_told(world: World) -> None:
    await world.store.change_task(world.backend, status=TaskStatus.BLOCKED)

    assert (await world.store.task(world.backend.id)).status is TaskStatus.BLOCKED
    assert world.kinds() == ["task.updated"]


async def test_changes_of_a_task_made_with_an_older_copy_are_both_kept(world: World) -> None:
    changes: list[dict[str, Any]] = [{"status": TaskStatus.BLOCKED}, {"port": 20_000}]
    await asyncio.gather(*(world.store.change_task(world.backend, **one) for one in changes))

    kept = await world.store.task(world.backend.id)
    assert (kept.status, kept.port) == (TaskStatus.BLOCKED, 20_000)


async def test_a_removed_task_takes_along_all_that_is_its_own(world: World) -> None:
    message = await world.message()
    await world.store.link(world.backend, world.frontend)
    await world.store.remove_task(world.backend)

    assert await world.store.tasks() == [world.frontend]
    assert await world.store.links() == []
    assert await world.store.live_sessions() == []
    for lost in (
        world.store.task(world.backend.id),
        world.store.session(world.session.id),
        world.store.message(message.id),
        world.store.change_task(world.backend),
        world.store.change_session(world.session, state=SessionState.IDLE),
        world.store.add_message(a_message(world.backend), "late"),
    ):
        with pytest.raises(NotFoundError):
            await lost


async def test_peers_are_peers_of_each_other_once_and_until_unlinked(world: World) -> None:
    await world.store.link(world.backend, world.frontend)
    await world.store.link(world.frontend, world.backend)

    assert await world.store.peers(world.backend.id) == [world.frontend]
    assert await world.store.peers(world.frontend.id) == [world.backend]
    assert len(await world.store.links()) == 1
    assert world.kinds() == ["task.updated"] * 2  # the second link changed nothing
    await world.store.unlink(world.frontend, world.backend)
    assert await world.store.peers(world.backend.id) == []


# Sessions


async def test_a_session_comes_back_as_it_was_stored(world: World) -> None:
    assert await world.store.session(world.session.id) == world.session
    assert await world.store.latest_sessions() == {world.backend.id: world.session}
    assert await world.store.session_credential(world.session.id) == "h"
    assert await world.store.session_credential("s_unknown") is None


async def test_two_starts_at_once_leave_one_session_and_one_clean_conflict(world: World) -> None:
    starts: list[Awaitable[Session]] = [
        world.store.add_session(a_session(world.frontend), "h", world.frontend) for _ in range(2)
    ]
    one, other = await asyncio.gather(*starts, return_exceptions=True)

    assert isinstance(one, Session)
    assert isinstance(other, ConflictError)
    assert str(other) == "frontend has a running session already (starting)."
    assert len(await world.store.live_sessions()) == 2  # the other is the backend's


async def test_a_state_change_moves_since_and_an_empty_one_is_silent(world: World) -> None:
    same = await world.store.change_session(world.session, waiting_for=world.session.waiting_for)
    assert (same, world.kinds()) == (world.session, [])

    idle = await world.store.change_session(
        world.session, state=SessionState.IDLE, waiting_for=None
    )
    assert idle.since >= world.session.since
    assert await world.store.session(idle.id) == idle
    changed, connected = world.told
    assert (changed.type, changed.payload["state"]) == ("session.updated", "idle")
    assert connected.type == "agent.connected"
    assert connected.payload["name"] == "backend"
    assert connected.payload["client"] == f"claude-code {idle.cli_version}"


async def test_a_session_is_connected_once_however_its_state_changes(world: World) -> None:
    session, waiting = world.session, SessionState.WAITING
    for state in (waiting, SessionState.STARTING, SessionState.BUSY, waiting, SessionState.IDLE):
        session = await world.store.change_session(session, state=state)

    assert world.kinds().count("agent.connected") == 1


async def test_changes_of_different_fields_at_once_are_both_kept(world: World) -> None:
    await asyncio.gather(
        world.store.change_session(world.session, conversation="c2"),
        world.store.change_session(world.session, state=SessionState.BUSY),
    )

    stored = await world.store.session(world.session.id)
    assert (stored.conversation, stored.state) == ("c2", SessionState.BUSY)


async def test_an_ended_session_makes_room_for_the_next(world: World) -> None:
    await world.store.change_session(world.session, state=SessionState.STOPPED)
    following = await world.store.add_session(a_session(world.backend), "h", world.backend)

    assert await world.store.latest_session(world.backend.id) == following
    assert await world.store.live_sessions() == [following]


async def test_an_ask_comes_back_as_it_was_stored_and_its_call_has_one(world: World) -> None:
    suggestion = {"type": "addRules", "rules": [{"toolName": "Bash", "ruleContent": "make"}]}
    ask = an_ask(world.session, suggestions=(suggestion,), agent="a1")

    assert await world.store.add_ask(ask) == ask
    assert await world.store.add_ask(an_ask(world.session)) == ask
    assert await world.store.open_asks() == [ask]
    assert await world.store.asks_by_task() == {world.session.task_id: 1}
    assert [event.type for event in world.told].count("ask.opened") == 1


async def test_the_first_to_close_an_ask_wins(world: World) -> None:
    ask = await world.store.add_ask(an_ask(world.session))

    closings = [
        world.store.close_ask(ask.id, AskOutcome.ALLOWED, DecidedBy.USER, {"decision": "allow"}),
        world.store.close_ask(ask.id, AskOutcome.DENIED, DecidedBy.TERMINAL),
    ]
    closed = await asyncio.gather(*closings)

    (winner,) = [one for one, first in closed if first]
    assert await world.store.ask(ask.id) == winner
    assert winner.closed_at is not None
    assert await world.store.open_asks() == []
    assert [event.type for event in world.told].count("ask.closed") == 1
    corrected = await world.store.correct_ask(ask.id, AskOutcome.GONE, DecidedBy.SESSION)
    assert (corrected.outcome, corrected.closed_at) == (AskOutcome.GONE, winner.closed_at)


async def test_what_a_session_used_and_what_stopped_it_come_back(world: World) -> None:
    usage = Usage(requests=2, input_tokens=10, model="claude", cost_usd=0.5)
    failure = Failure(kind=FailureKind.RATE_LIMIT, text="429", at=now(), tries=1)

    await world.store.change_session(world.session, usage=usage, failure=failure)

    stored = await world.store.session(world.session.id)
    assert (stored.usage, stored.failure) == (usage, failure)


# Messages


@pytest.mark.parametrize(
    "body",
    ["plain", "NUL \0 inside", "Grüße 👋\r\n\ttabs", "\x1b[31m control \x7f", "a" * 262_144],
    ids=["plain", "nul", "unicode", "control", "largest"],
)
async def test_a_body_is_stored_whole(world: World, body: str) -> None:
    message = await world.message(body)

    assert (await world.again(message)).body == body


async def test_a_body_that_is_not_unicode_is_refused_and_leaves_nothing(world: World) -> None:
    with pytest.raises(UsageError):
        await world.message("\ud800")

    assert await world.store.thread(world.backend.id) == []


async def test_the_same_message_under_the_same_key_is_stored_once(world: World) -> None:
    first, new = await world.store.add_message(a_message(world.backend, "x"), "k")
    again, repeated = await world.store.add_message(a_message(world.backend, "x"), "k")

    assert (new, repeated) == (True, False)
    assert again == first == await world.again(first)
    assert world.kinds() == ["message.queued"]


async def test_the_same_key_at_once_stores_one(world: World) -> None:
    ended = await asyncio.gather(
        *(world.store.add_message(a_message(world.backend, "x"), "k") for _ in range(5))
    )

    assert len({message.id for message, _ in ended}) == 1
    assert [new for _, new in ended].count(True) == 1


async def test_a_key_for_another_message_is_a_conflict_so_that_nothing_is_lost_unseen(
    world: World,
) -> None:
    await world.message("x", key="k")

    for other in (a_message(world.backend, "y"), a_message(world.frontend, "x")):
        with pytest.raises(ConflictError, match="was used for another message"):
            await world.store.add_message(other, "k")


async def test_another_sender_may_use_the_same_key(world: World) -> None:
    await world.message("x", key="k")
    peers = await world.message("x", key="k", sender=f"task:{world.frontend.id}")

    assert len(await world.store.thread(world.backend.id)) == 2
    assert await world.store.message_by_key("user", "k") != peers


async def test_a_thread_holds_what_a_task_got_and_said_oldest_first(world: World) -> None:
    got = await world.message("got", created_at="2026-01-01T00:00:01.000Z")
    said = a_message(
        world.frontend,
        "said",
        sender=f"task:{world.backend.id}",
        created_at="2026-01-01T00:00:02.000Z",
    )
    await world.store.add_message(said, "k")

    thread = await world.store.thread(world.backend.id)
    assert [(m.id, m.recipient) for m in thread] == [(got.id, "backend"), (said.id, "frontend")]


async def test_messages_are_found_by_all_of_their_words_newest_first(world: World) -> None:
    for body in ("Use cursor pagination", "Paginación with Cursors", "cursor only", 'a "b* OR c'):
        await world.store.add_message(a_message(world.backend, body), new_id("k"))

    async def found(*words: str) -> list[str]:
        return [message.body for message in await world.store.search(words, 10)]

    assert await found("CURSOR", "pagin") == ["Paginación with Cursors", "Use cursor pagination"]
    assert await found("paginacion") == ["Paginación with Cursors"]
    assert await found("cursor") == [
        "cursor only",
        "Paginación with Cursors",
        "Use cursor pagination",
    ]
    assert await found('"b*', "OR") == ['a "b* OR c']
    assert await found("nothing", "cursor") == []
    assert len(await world.store.search(["cursor"], 2)) == 2


async def test_the_words_of_a_removed_task_are_found_no_more(world: World) -> None:
    await world.store.add_message(a_message(world.backend, "soon gone"), "k1")
    await world.store.add_message(a_message(world.frontend, "gone never"), "k2")

    await world.store.remove_task(world.backend)

    assert [m.body for m in await world.store.search(["gone"], 10)] == ["gone never"]


async def test_deliverable_is_halt_first_then_high_then_by_age(world: World) -> None:
    sent = [await world.message(priority=p) for p in ("normal", "high", "normal", "halt")]

    normal, high, later, halt = (message.id for message in sent)
    assert await world.deliverable() == [halt, high, *sorted([normal, later])]
    assert [message.id for message in await world.store.halting(world.backend.id)] == [halt]


# The ladder


async def test_a_message_climbs_the_ladder_rung_by_rung(world: World) -> None:
    message = await world.message()
    attempt = await world.store.add_attempt(an_attempt(world.session, message))
    offered = (await world.again(message)).receipts
    assert (offered.offered_at is not None, offered.delivered_at) == (True, None)
    assert await world.store.pending(world.backend.id) == 1

    await world.store.confirm(attempt)
    delivered = (await world.again(message)).receipts
    assert (delivered.delivered_at is not None, delivered.read_at) == (True, None)
    assert await world.store.pending(world.backend.id) == 0

    await world.store.mark_read([message.id])
    assert (await world.again(message)).receipts.read_at is not None
    assert world.kinds() == [
        "message.queued",
        "message.offered",
        "message.delivered",
        "message.read",
    ]


async def test_a_rung_is_reached_once_whatever_comes_again(world: World) -> None:
    message = await world.message()
    await world.deliver(message)
    await world.store.mark_read([message.id])
    reached = (await world.again(message)).receipts
    await world.store.mark_read([message.id])
    await world.store.forget([message.id])

    assert (await world.again(message)).receipts == reached
    assert await world.deliverable() == []


async def test_a_message_is_in_one_open_attempt_with_bodies_at_most(world: World) -> None:
    message = await world.message()
    first = await world.store.add_attempt(an_attempt(world.session, message))
    with pytest.raises(ConflictError, match="on its way already"):
        await world.store.add_attempt(an_attempt(world.session, message))
    assert await world.deliverable() == []

    await world.store.end_attempt(first, Outcome.VOID)
    assert await world.deliverable() == [message.id]


async def test_two_attempts_at_once_give_a_message_once(world: World) -> None:
    message = await world.message()
    ended = await asyncio.gather(
        *(world.store.add_attempt(an_attempt(world.session, message)) for _ in range(3)),
        return_exceptions=True,
    )

    assert [isinstance(end, ConflictError) for end in ended].count(True) == 2
    assert len(await world.store.open_attempts(world.session.conversation)) == 1


async def test_a_reminder_counts_as_offered_and_holds_nothing_back(world: World) -> None:
    message = await world.message()
    reminder = an_attempt(world.session, message, reminder=True, transport=Transport.WAITER)
    await world.store.confirm(await world.store.add_attempt(reminder))

    assert (await world.again(message)).receipts.delivered_at is None
    assert await world.deliverable() == [message.id]


async def test_what_only_a_notice_showed_is_given_again_and_known_as_shown(world: World) -> None:
    message = await world.message()
    pushed = await world.store.add_attempt(an_attempt(world.session, message))
    await world.store.end_attempt(pushed, Outcome.NOTICE)

    assert await world.store.noticed(world.backend.id) == {message.id}
    assert await world.deliverable() == [message.id]


async def test_what_left_the_context_unread_is_given_again_without_a_second_receipt(
    world: World,
) -> None:
    message = await world.message()
    await world.deliver(message)
    delivered = (await world.again(message)).receipts
    await world.store.forget([message.id])
    assert await world.deliverable() == [message.id]
    await world.store.mark_read([message.id])
    assert (await world.again(message)).receipts == delivered  # it is in no context now

    await world.deliver(message)
    await world.store.mark_read([message.id])
    assert (await world.again(message)).receipts.delivered_at == delivered.delivered_at
    assert (await world.again(message)).receipts.read_at is not None


@pytest.mark.parametrize("reply_first", [True, False])
async def test_answered_needs_the_reply_and_the_reading_in_either_order(
    world: World, reply_first: bool
) -> None:
    message = await world.message()
    await world.deliver(message)
    reply = a_message(world.frontend, sender=f"task:{world.backend.id}", reply_to=message.id)
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: world.store.add_message(reply, "k"),
        lambda: world.store.mark_read([message.id]),
    ]
    first, second = steps if reply_first else reversed(steps)
    await first()
    assert (await world.again(message)).receipts.answered_at is None
    await second()

    assert (await world.again(message)).receipts.answered_at is not None
    assert world.kinds().count("message.answered") == 1


async def test_a_reply_of_somebody_else_is_no_answer(world: World) -> None:
    message = await world.message()
    await world.deliver(message)
    await world.store.mark_read([message.id])
    await world.message("not me", reply_to=message.id)

    assert (await world.again(message)).receipts.answered_at is None


async def test_messages_of_one_millisecond_come_in_the_order_they_were_stored(world: World) -> None:
    at = now()
    stored = []
    for number in range(20):
        message = a_message(world.backend, body=str(number), created_at=at)
        await world.store.add_message(message, f"k{number}")
        stored.append(message.id)

    assert [m.id for m in await world.store.deliverable(world.backend.id)] == stored
    assert [m.id for m in await world.store.thread(world.backend.id)] == stored


async def test_a_thread_is_given_in_parts_next_to_any_of_its_messages(world: World) -> None:
    elsewhere = a_message(world.frontend)
    messages = [a_message(world.backend) for _ in range(2)]
    messages.append(a_message(world.frontend, sender=f"task:{world.backend.id}"))
    messages += [a_message(world.backend) for _ in range(3)]
    messages.append(a_message(world.frontend, thread_id=world.backend.id))
    ids = [message.id for message in messages]
    for message in (elsewhere, *messages):
        await world.store.add_message(message, message.id)

    async def part(limit: int, **place: str) -> list[str]:
        return [m.id for m in await world.store.thread_part(world.backend.id, limit, **place)]

    assert [m.id for m in await world.store.thread(world.backend.id)] == ids
    assert await part(3) == ids[-3:]
    assert await part(3, before=ids[4]) == ids[1:4]
    assert await part(3, before=ids[1]) == ids[:1]
    assert await part(3, after=ids[1]) == ids[2:5]
    assert await part(9, after=ids[4]) == ids[5:]
    assert await part(9, after=ids[-1]) == []
    for wrong in (elsewhere.id, "m_none"):
        with pytest.raises(UsageError, match=f"no message {wrong!r}"):
            await part(3, after=wrong)


async def test_a_session_is_answered_only_by_what_is_sent_to_it(world: World) -> None:
    question = a_message(world.backend, sender=f"task:{world.frontend.id}")
    await world.store.add_message(question, "q")
    await world.deliver(question)
    await world.store.mark_read([question.id])
    mine = f"task:{world.backend.id}"

    await world.store.add_message(a_message(world.backend, sender=mine, reply_to=question.id), "1")
    assert (await world.again(question)).receipts.answered_at is None

    await world.store.add_message(a_message(world.frontend, sender=mine, reply_to=question.id), "2")
    assert (await world.again(question)).receipts.answered_at is not None


async def test_attempts_come_back_with_their_messages_until_they_are_settled(world: World) -> None:
    message = await world.message()
    attempt = await world.store.add_attempt(
        an_attempt(world.session, message, tool_use_id="toolu_1")
    )
    conversation = world.session.conversation

    assert await world.store.open_attempts(conversation) == [attempt]
    assert await world.store.unread_attempts(conversation) == []
    await world.store.confirm(attempt)
    confirmed = replace(attempt, outcome=Outcome.CONFIRMED)
    assert await world.store.open_attempts(conversation) == []
    assert await world.store.unread_attempts(conversation) == [confirmed]
    await world.store.end_attempt(attempt, Outcome.VOID)  # a confirmed one stays so
    assert await world.store.unread_attempts(conversation) == [confirmed]
    await world.store.mark_read([message.id])
    assert await world.store.unread_attempts(conversation) == []


# Events


async def test_events_are_stored_in_order_before_they_are_told(world: World) -> None:
    last = await world.store.last_event()
    await asyncio.gather(*(world.message(str(number)) for number in range(20)))

    stored = await world.store.events_after(last)
    assert world.told == stored
    assert [event.seq for event in stored] == list(range(last + 1, last + 21))
    assert await world.store.events_after(last + 5, limit=2) == stored[5:7]


async def test_a_change_that_fails_tells_nothing(world: World) -> None:
    with pytest.raises(ConflictError):
        await world.store.add_task(a_task(world.workspace, "backend"))

    assert world.kinds() == []


async def test_events_that_are_too_many_or_too_old_go_and_numbers_never_return(
    world: World,
) -> None:
    for number in range(10):
        await world.store.add_event("peers.slowed", world.backend, {"number": number})
    last = await world.store.last_event()

    await world.store.prune_events(keep=3)
    assert [event.seq for event in await world.store.events_after(0)] == [last - 2, last - 1, last]
    assert await world.store.prune_events(days=-1) == 3
    assert await world.store.events_after(0) == []
    assert await world.store.last_event() == last

    await world.message()
    assert await world.store.last_event() == last + 1


# Reading


async def test_reading_while_somebody_writes_sees_a_change_and_its_event_together(
    world: World,
) -> None:
    last = await world.store.last_event()
    writing = asyncio.gather(*(world.message(str(number)) for number in range(30)))
    while not writing.done():
        events = await world.store.events_after(last)
        messages = await world.store.thread(world.backend.id)
        assert len(messages) >= len(events)
    await writing

    assert await world.store.pending(world.backend.id) == 30
    assert await world.store.pending_by_task() == {world.backend.id: 30}


async def test_the_priority_of_a_message_comes_back(world: World) -> None:
    message = await world.message(priority=Priority.HIGH)

    assert (await world.again(message)).priority is Priority.HIGH
