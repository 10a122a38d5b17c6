"""Who may make tasks, speak in threads and move statuses, and to whom it goes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import (
    ClaudedoError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    StorageError,
    TooLargeError,
    UsageError,
)
from claudedo.model import (
    USER,
    Ask,
    AskKind,
    AskOutcome,
    Assignee,
    DecidedBy,
    Event,
    Message,
    Task,
    TaskStatus,
    Workspace,
)
from claudedo_worker import task_tools
from claudedo_worker import threads as threads_module
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from claudedo_worker.task_tools import TaskTools
from claudedo_worker.threads import BURST, PERSON, Party, Threads, session_of
from tests.support import services
from tests.support.records import a_message, a_session, a_task

pytestmark = pytest.mark.anyio

HELLO = {"filename": "hello.txt", "mimeType": "text/plain", "data": "aGVsbG8="}


@dataclass
class Room:
    """A workspace with two tasks that have sessions, a client with a token, and a stranger."""

    store: Store
    threads: Threads
    path: Path
    told: list[Event]
    workspace: Workspace
    backend: Task
    frontend: Task
    stranger: Task
    session: Party
    other: Party
    client: Party

    def tools(self, party: Party) -> TaskTools:
        files = services.attachments(self.store, self.path)
        return TaskTools(self.store, self.threads, files, party)

    async def make(
        self, party: Party, assignee: Assignee = Assignee.AGENT, title: str = "Do it", **more: Any
    ) -> Task:
        given = {"body": "All of it.", **more}
        return await self.threads.create(
            party, self.workspace.id, title=title, assignee=assignee, **given
        )

    async def ask(self, task: Task) -> Ask:
        """The open ask of a person's task."""
        [found] = [ask for ask in await self.store.open_asks() if ask.task_id == task.id]
        return found

    async def words(self, task: Task) -> list[str]:
        return [message.body for message in await self.store.thread(task.id)]

    async def state(self) -> tuple[int, int, int, int]:
        """How much there is: tasks, messages, events, files."""
        tasks = await self.store.tasks()
        messages = [await self.store.thread(task.id) for task in tasks]
        files = [path for path in (self.path / "attachments").glob("**/*") if path.is_file()]
        events = await self.store.last_event()
        return len(tasks), sum(map(len, messages)), events, len(files)

    async def arrives(self, message: Message) -> None:
        """The message is delivered and read, as its transcript shows."""
        session = await self.store.latest_session(message.task_id)
        assert session is not None
        await self.store._db.run(  # as a confirmed attempt would
            "mark_delivered", {"id": message.id, "at": message.created_at, "via": "hook"}
        )
        await self.store.mark_read([message.id])


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    told: list[Event] = []
    database = await Database.open(tmp_path / "db")
    store = Store(database, told.append)
    workspace = await store.workspace_for("/repository", "shop")
    elsewhere = await store.workspace_for("/elsewhere", "elsewhere")
    backend, frontend = [
        await store.add_task(a_task(workspace, name)) for name in ("backend", "frontend")
    ]
    stranger = await store.add_task(a_task(elsewhere, "stranger"))
    for task in (backend, frontend):
        await store.add_session(a_session(task), "h", task)
    yield Room(
        store=store,
        threads=services.threads(store, tmp_path),
        path=tmp_path,
        told=told,
        workspace=workspace,
        backend=backend,
        frontend=frontend,
        stranger=stranger,
        session=session_of(backend),
        other=session_of(frontend),
        client=Party(id="token:k_1", name="laptop", workspace_id=workspace.id),
    )
    await database.close()


# Asking a person


async def test_a_task_for_a_person_is_an_ask_and_its_answer_is_mail_of_who_made_it(
    room: Room,
) -> None:
    task = await room.make(room.session, Assignee.HUMAN, "Drop the table?", attachments=[HELLO])
    ask = await room.ask(task)
    assert (ask.kind, ask.title, ask.body) == (AskKind.TASK, "Drop the table?", "All of it.")
    assert (task.name, task.status, task.creator) == (
        "drop-the-table",
        "notstarted",
        room.session.id,
    )
    [question] = await room.store.thread(task.id)
    assert question.party == USER
    assert [file.filename for file in question.attachments] == ["hello.txt"]
    assert await room.store.pending(task.id) == 0

    decided = await room.threads.decide(ask, AskOutcome.ANSWERED, "Yes, but keep a copy.")

    assert (decided.outcome, decided.decided_by) == (AskOutcome.ANSWERED, DecidedBy.USER)
    [answer] = await room.store.deliverable(room.backend.id)
    assert (answer.body, answer.sender) == ("Yes, but keep a copy.", USER)
    assert (answer.thread, answer.response_to) == (task.id, task.id)
    assert (await room.store.task(task.id)).status is TaskStatus.COMPLETED
    [move] = await room.store.moves(task.id)
    assert (move.before, move.after, move.party) == ("notstarted", "completed", USER)


@pytest.mark.parametrize(
    ("outcome", "words", "status", "told"),
    [
        (AskOutcome.ALLOWED, None, "completed", "completed."),
        (AskOutcome.DENIED, None, "rejected", "rejected."),
        (AskOutcome.DENIED, "Too risky.", "rejected", "rejected: Too risky."),
    ],
)
async def test_yes_and_no_are_told_with_their_reason(
    room: Room, outcome: AskOutcome, words: str | None, status: str, told: str
) -> None:
    task = await room.make(room.session, Assignee.HUMAN)
    decided = await room.threads.decide(await room.ask(task), outcome, words)

    assert decided.outcome is outcome
    assert (await room.store.task(task.id)).status == status
    assert [one.body for one in await room.store.deliverable(room.backend.id)] == [told]


async def test_an_answer_that_keeps_it_open_leaves_the_ask(room: Room) -> None:
    task = await room.make(room.session, Assignee.HUMAN)
    ask = await room.ask(task)
    await room.threads.decide(ask, AskOutcome.ANSWERED, "Which one?", keep_open=True)
    await room.threads.say(room.session, task, "The old one.")
    await room.threads.decide(ask, AskOutcome.ANSWERED, "Then do.")

    with pytest.raises(ConflictError):
        await room.threads.decide(ask, AskOutcome.ALLOWED, None)
    assert await room.words(task) == ["All of it.", "Which one?", "The old one.", "Then do."]
    assert await room.store.open_asks() == []


async def test_two_who_decide_at_once_make_one_decision(room: Room) -> None:
    for _ in range(20):
        task = await room.make(PERSON, Assignee.HUMAN)
        ask = await room.ask(task)
        decided = await asyncio.gather(
            room.threads.decide(ask, AskOutcome.ALLOWED, None),
            room.threads.decide(ask, AskOutcome.DENIED, "no"),
            room.threads.decide(ask, AskOutcome.ANSWERED, "yes"),
            return_exceptions=True,
        )
        refused = [one for one in decided if isinstance(one, ConflictError)]
        assert (len(refused), len(await room.store.moves(task.id))) == (2, 1)


async def test_the_answer_to_a_client_is_mail_of_its_token(room: Room) -> None:
    task = await room.make(room.client, Assignee.HUMAN)
    await room.threads.decide(await room.ask(task), AskOutcome.ANSWERED, "Yes.")

    [lent] = await room.store.mail_of(room.client.id)
    assert (lent.message.body, lent.message.response_to) == ("Yes.", task.id)


async def test_who_asked_may_take_it_back_and_nobody_else_may_speak_there(room: Room) -> None:
    task = await room.make(room.session, Assignee.HUMAN)
    before = await room.state()
    for party in (room.other, room.client):
        with pytest.raises(ForbiddenError, match="between a person and who made it"):
            await room.threads.say(party, task, "I say yes.", attachments=[HELLO])
        with pytest.raises(ForbiddenError):
            await room.threads.move(party, task, TaskStatus.REJECTED)
    with pytest.raises(ForbiddenError, match="only they say"):
        await room.threads.move(room.session, task, TaskStatus.COMPLETED)
    assert await room.state() == before

    ask = await room.ask(task)
    await room.threads.move(room.session, task, TaskStatus.REJECTED)
    assert (await room.store.ask(ask.id)).outcome is AskOutcome.GONE
    assert await room.store.deliverable(room.backend.id) == []


async def test_a_decision_that_is_taken_back_asks_again(room: Room) -> None:
    task = await room.make(room.session, Assignee.HUMAN)
    await room.threads.decide(await room.ask(task), AskOutcome.DENIED, None)
    task = await room.store.task(task.id)
    await room.threads.move(PERSON, task, TaskStatus.ONGOING)

    assert (await room.ask(task)).title == "Do it"


# All of it, or nothing


@pytest.mark.parametrize(
    "given",
    [
        {"title": "  \n "},
        {"title": "x" * 301},
        {"body": ""},
        {"attachments": [HELLO, {"filename": "a", "data": "not base64"}]},
        {"attachments": [HELLO] * 21},
        {"attachments": [HELLO, {**HELLO, "data": base64.b64encode(bytes(1001)).decode()}]},
    ],
)
async def test_a_task_that_is_refused_leaves_nothing(room: Room, given: dict[str, Any]) -> None:
    before = await room.state()
    with pytest.raises(UsageError):
        await room.make(room.session, Assignee.HUMAN, **given)
    assert await room.state() == before


async def test_a_fault_on_the_way_leaves_no_task_no_message_no_file_and_tells_nobody(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = await room.state(), len(room.told)

    async def fail(*given: object) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(room.store, "add_ask", fail)
    with pytest.raises(StorageError):
        await room.make(room.session, Assignee.HUMAN, attachments=[HELLO])

    assert await room.state() == before
    assert len(room.told) == told
    monkeypatch.undo()
    task = await room.make(room.session, Assignee.HUMAN)
    monkeypatch.setattr(room.store, "close_ask", fail)
    before = await room.state()
    for outcome in AskOutcome.ALLOWED, AskOutcome.ANSWERED:
        with pytest.raises(StorageError):
            await room.threads.decide(await room.ask(task), outcome, "words")
    assert await room.state() == before
    assert (await room.store.task(task.id)).status is TaskStatus.NOTSTARTED


async def test_a_call_that_comes_twice_makes_one_task_and_one_message(room: Room) -> None:
    one, other = [
        await room.make(room.session, Assignee.HUMAN, key="toolu_1", attachments=[HELLO])
        for _ in range(2)
    ]
    said = [
        await room.threads.say(room.session, one, "x", attachments=[HELLO], key="toolu_2")
        for _ in range(2)
    ]

    assert one.id == other.id
    assert said[0].id == said[1].id
    assert len(await room.store.thread(one.id)) == len(await room.store.attachments_of_task(one.id))


async def test_two_equal_calls_at_once_make_one_task_and_another_under_their_key_none(
    room: Room,
) -> None:
    made = await asyncio.gather(
        *(room.make(room.session, Assignee.HUMAN, key="toolu_1") for _ in range(5))
    )
    assert len({task.id for task in made}) == 1
    before = await room.state()
    said = await room.threads.say(room.session, room.backend, "All of it.", key="toolu_2")
    for key, title in (("toolu_1", "Another"), ("toolu_2", "Do it")):
        with pytest.raises(ConflictError, match=f"key '{key}' was used for something else"):
            await room.make(room.session, title=title, key=key)
    assert (await room.store.message(said.id)).body == "All of it."
    assert (await room.state())[0] == before[0]


async def test_a_message_that_comes_twice_is_one_though_its_recipient_changed(room: Room) -> None:
    task = await room.make(PERSON)
    first = await room.threads.say(PERSON, task, "Hurry.", key="k")
    await room.threads.claim(room.session)
    second = await room.threads.say(PERSON, task, "Hurry.", key="k")
    assert first.id == second.id
    assert (first.task_id, second.task_id) == (task.id, room.backend.id)


# Who reaches what


async def test_what_is_out_of_reach_is_as_if_it_were_not_there(room: Room) -> None:
    far = await room.threads.create(
        session_of(room.stranger),
        room.stranger.workspace_id,
        title="Far",
        body="x",
        assignee=Assignee.AGENT,
        attachments=[HELLO],
    )
    [file] = await room.store.attachments_of_task(far.id)
    for party in (room.session, room.client):
        tools, before = room.tools(party), await room.state()
        calls: list[Callable[[], Awaitable[Any]]] = [
            partial(tools.task, far.id, None, None, conversation=True),
            partial(tools.messages, "far", None, None),
            partial(tools.reply, far.id, "x", [HELLO], None),
            partial(tools.move, far.id, TaskStatus.ONGOING),
            partial(tools.attachment, file.id),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                await call()
        assert await room.state() == before
        assert (await tools.task(None, None, None, conversation=False))["task_id"] is None

    await room.store.link(room.backend, far)
    tools = room.tools(room.session)
    assert (await tools.attachment(file.id))["data"] == HELLO["data"]
    assert (await tools.reply("far", "hello, peer", [], None)).keys() == {"message_id"}


async def test_a_party_without_a_task_must_say_which(room: Room) -> None:
    with pytest.raises(UsageError, match="which task"):
        await room.tools(room.client).move(None, TaskStatus.ONGOING)
    with pytest.raises(ForbiddenError):
        await room.threads.claim(PERSON)


async def test_what_is_uploaded_and_not_sent_is_its_givers_alone(room: Room) -> None:
    files = services.attachments(room.store, room.path)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"draft"

    async with files.keep(chunks(), filename="a", mime_type=None) as content:
        file = await room.threads.upload(PERSON, room.backend, content)
    with pytest.raises(NotFoundError):
        await room.tools(room.session).attachment(file.id)
    with pytest.raises(NotFoundError):
        await room.threads.say(room.other, room.backend, "mine", given=[file.id])
    await room.threads.say(PERSON, room.backend, "yours", given=[file.id])
    assert (await room.tools(room.session).attachment(file.id))["filename"] == "a"


async def test_a_file_that_would_end_a_sessions_connection_is_gotten_by_command(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await room.make(room.client, attachments=[HELLO])
    [file] = await room.store.attachments_of_task(task.id)
    monkeypatch.setattr(task_tools, "STDIO_ROOM", file.size - 1)

    with pytest.raises(TooLargeError, match=f"claudedo attachment {file.id} -o FILE"):
        await room.tools(room.session).attachment(file.id)
    assert (await room.tools(room.client).attachment(file.id))["data"] == HELLO["data"]


# Claims


async def test_of_two_who_claim_one_task_one_wins_a_thousand_times(room: Room) -> None:
    rival = Party(id="token:k_2", name="desktop", workspace_id=room.workspace.id)
    wins = {room.client.id: 0, rival.id: 0}
    for number in range(1000):
        new = a_task(room.workspace, f"task-{number}", worktree=None, status=TaskStatus.NOTSTARTED)
        task = await room.store.add_task(new)
        first, second = (room.client, rival) if number % 2 else (rival, room.client)
        got = await asyncio.gather(room.threads.claim(first), room.threads.claim(second))
        [won] = [one for one in got if one is not None]
        assert won.id == task.id
        wins[str(won.holder)] += 1

    assert sum(wins.values()) == 1000
    assert min(wins.values()) > 0


async def test_claims_go_by_age_end_with_the_lease_and_are_renewed(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await room.make(PERSON, title="First"), await room.make(room.session)
    await room.make(room.session, Assignee.HUMAN)
    monkeypatch.setattr(threads_module, "lease_end", lambda: "2000")
    one = await room.threads.claim(room.client)
    assert one and (one.id, one.holder) == (first.id, room.client.id)
    again = await room.threads.claim(room.client)
    assert again and again.id == first.id, "a lease that is over gives it to the next"

    await room.store.extend_claims(room.client.id, "9999")
    two = await room.threads.claim(room.client)
    assert two and two.id == second.id
    await room.store.extend_claims(room.client.id, "9999")
    assert await room.threads.claim(room.client) is None


async def test_a_claimed_task_is_moved_by_its_holder_and_let_go_at_its_end(room: Room) -> None:
    made = await room.make(PERSON)
    task = await room.threads.claim(room.client)
    assert task and task.id == made.id
    with pytest.raises(ForbiddenError):
        await room.threads.move(room.session, task, TaskStatus.ONGOING)
    ongoing = await room.threads.move(room.client, task, TaskStatus.ONGOING)
    with pytest.raises(ConflictError, match="meanwhile"):
        await room.threads.move(room.client, task, TaskStatus.REJECTED)  # by what it saw before
    said = await room.threads.say(room.client, ongoing, "Half of it.")
    assert said.party == USER
    await room.threads.move(room.client, ongoing, TaskStatus.COMPLETED)

    assert (await room.store.task(task.id)).holder is None
    assert [move.name for move in await room.store.moves(task.id)] == ["laptop", "laptop"]


async def test_a_move_goes_by_who_holds_the_task_now_not_by_who_was_seen_to(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = Party(id="token:k_2", name="desktop", workspace_id=room.workspace.id)
    unheld = await room.make(PERSON)
    with monkeypatch.context() as past:
        past.setattr(threads_module, "lease_end", lambda: "2000")
        once = await room.threads.claim(room.client)
    assert once and await room.threads.claim(rival)
    with pytest.raises(ForbiddenError):
        await room.threads.move(room.client, once, TaskStatus.ONGOING)
    await room.threads.move(PERSON, unheld, TaskStatus.REJECTED, "No need.")

    task = await room.store.task(unheld.id)
    assert (task.status, task.holder) == (TaskStatus.REJECTED, None)


async def test_words_with_no_move_are_said_all_the_same(room: Room) -> None:
    question = await room.make(room.session, Assignee.HUMAN)
    reminder = await room.make(PERSON, Assignee.HUMAN)
    await room.threads.move(PERSON, question, TaskStatus.NOTSTARTED, "Later.")
    await room.threads.move(PERSON, room.backend, room.backend.status, "Good.")
    await room.threads.move(PERSON, reminder, TaskStatus.REJECTED, "Forget it.")

    mail = await room.store.deliverable(room.backend.id)
    assert [(one.body, one.thread) for one in mail] == [
        ("Later.", question.id),
        ("Good.", room.backend.id),
    ]
    assert await room.words(reminder) == ["All of it.", "Forget it."]


async def test_a_session_that_claims_twice_at_once_gets_one_task(room: Room) -> None:
    for title in ("One", "Two"):
        await room.make(PERSON, title=title)
    got = await asyncio.gather(*(room.threads.claim(room.session) for _ in range(4)))
    assert [task.title for task in got if task] == ["One"] * 4


async def test_a_session_that_claims_gets_the_tasks_mail_and_one_at_a_time(room: Room) -> None:
    made = await room.make(PERSON, title="One")
    await room.make(PERSON, title="Two")
    task = await room.threads.claim(room.session)
    same = await room.threads.claim(room.session)
    assert task and same and task.id == same.id == made.id
    await room.threads.say(PERSON, made, "And quickly.")

    mail = await room.store.deliverable(room.backend.id)
    assert [(one.body, one.thread, one.response_to) for one in mail] == [
        ("All of it.", made.id, None),
        ("And quickly.", made.id, None),
    ]
    await room.threads.move(room.session, task, TaskStatus.ONGOING)
    other = await room.threads.claim(room.session)
    assert other and other.title == "Two"


async def test_what_a_holder_was_not_told_is_for_the_next_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await room.make(PERSON)
    monkeypatch.setattr(threads_module, "lease_end", lambda: "2000")
    await room.threads.claim(room.session)
    await room.threads.say(PERSON, made, "And quickly.")
    before = len(room.told)
    assert await room.threads.claim(room.other), "the lease is over"
    assert await room.store.deliverable(room.backend.id) == []
    mail = await room.store.deliverable(room.frontend.id)
    assert [one.body for one in mail] == ["All of it.", "And quickly."]
    told = {e.task_id: e.payload["pending"] for e in room.told[before:] if "pending" in e.payload}
    assert told == {room.backend.id: 0, made.id: 0, room.frontend.id: 2}

    task = await room.threads.move(room.other, await room.store.task(made.id), TaskStatus.ONGOING)
    await room.threads.move(PERSON, task, TaskStatus.NOTSTARTED)
    assert await room.threads.claim(room.client)
    mail = [lent.message for lent in await room.store.mail_of(room.client.id)]
    assert [one.body for one in mail] == ["All of it.", "And quickly."]


async def test_what_a_holder_was_not_told_stays_its_mail_when_it_has_done_the_task(
    room: Room,
) -> None:
    await room.make(PERSON)
    task = await room.threads.claim(room.session)
    assert task
    task = await room.threads.move(room.session, task, TaskStatus.ONGOING)
    await room.threads.say(PERSON, task, "And quickly.")
    await room.threads.move(room.session, task, TaskStatus.COMPLETED)
    assert len(await room.store.deliverable(room.backend.id)) == 2


# Threads


async def test_a_reply_in_its_own_thread_answers_what_was_read_there(room: Room) -> None:
    asked = await room.threads.say(PERSON, room.backend, "How far are you?")
    unread = await room.threads.say(PERSON, room.backend, "And why?")
    async with room.store.together():
        await room.arrives(asked)
    said = await room.tools(room.session).reply(None, "Half way.", [], None)

    assert (await room.store.message(asked.id)).receipts.answered_at
    assert not (await room.store.message(unread.id)).receipts.answered_at
    reply = await room.store.message(said["message_id"])
    assert (reply.party, reply.thread) == (USER, room.backend.id)
    assert await room.store.pending(room.backend.id) == 1


async def test_a_client_answers_what_it_names_and_nothing_else(room: Room) -> None:
    question = await room.make(room.client, Assignee.HUMAN)
    answer, other = [await room.threads.say(PERSON, question, text) for text in ("Yes.", "But…")]
    work = await room.make(PERSON)
    await room.threads.claim(room.client)
    asked = await room.threads.say(room.session, work, "How far are you?")
    foreign = await room.threads.say(PERSON, room.backend, "Not yours.")
    tools, before = room.tools(room.client), len(room.told)
    for chat, said in ((question, answer), (work, asked), (room.frontend, foreign)):
        await tools.reply(chat.id, "So.", [], None, said.id)
    await room.threads.say(room.client, room.backend, "Half way.", reply_to=asked.id)

    receipts = [(await room.store.message(m.id)).receipts for m in (answer, asked)]
    assert all(one.delivered_at and one.read_at and one.answered_at for one in receipts)
    for message in (other, foreign):
        receipts = [(await room.store.message(message.id)).receipts]
        assert not any(one.delivered_at or one.read_at or one.answered_at for one in receipts)
    told = [e.type for e in room.told[before:] if e.payload.get("message_id") == answer.id]
    assert told == ["message.read", "message.answered"]
    mail = [lent.message.id for lent in await room.store.mail_of(room.client.id)]
    assert other.id in mail
    assert answer.id not in mail


async def test_a_reply_answers_many_with_as_few_statements_as_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ran = room.store._db.all, [0]

    async def count(name: str, /, **values: Any) -> Any:
        ran[0] += 1
        return await run(name, **values)

    monkeypatch.setattr(room.store._db, "all", count)
    costs, answered = [], []
    for many in (2, 200):
        async with room.store.together():
            for number in range(many):
                await room.arrives(await room.threads.say(PERSON, room.backend, str(number)))
        ran[0], before = 0, len(room.told)
        await room.threads.say(room.session, room.backend, "All done.")
        costs.append(ran[0])
        events = [event for event in room.told[before:] if event.type == "message.answered"]
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert all(event.payload["receipts"]["answered_at"] for event in events)
        assert all(event.payload["pending"] == 0 for event in events)
        answered.append(len({event.payload["message_id"] for event in events}))
        stored = await room.store.events_after(events[0].seq - 1)
        assert stored[: len(events)] == events

    assert answered == [2, 200]
    assert costs[0] == costs[1]


async def test_to_whom_words_go(room: Room) -> None:
    own = await room.threads.say(room.session, room.backend, "to the person")
    peer = await room.threads.say(room.other, room.backend, "to the session")
    client = await room.threads.say(room.client, room.backend, "to the session")

    assert own.party == USER
    assert [peer.party, client.party] == [None, None]
    mail = await room.store.deliverable(room.backend.id)
    assert {one.id for one in mail} == {peer.id, client.id}


async def test_pages_go_back_to_the_beginning_and_on_to_what_is_new(room: Room) -> None:
    def said(page: dict[str, Any]) -> list[str]:
        return [one["text"] for one in page["messages"]]

    task = await room.make(PERSON, body="0")
    for number in range(1, 7):
        await room.threads.say(PERSON, task, str(number))
    tools = room.tools(room.client)

    first = await tools.messages(task.id, None, 3)
    await room.threads.say(PERSON, task, "7")
    second = await tools.messages(task.id, first["nextCursor"], 3)
    await room.threads.say(PERSON, task, "8")
    third = await tools.messages(task.id, second["nextCursor"], 3)
    newer = await tools.messages(task.id, first["newerCursor"], 1)
    newest = await tools.messages(task.id, newer["newerCursor"], 5)
    none = await tools.messages(task.id, newest["newerCursor"], 5)
    back = await tools.messages(task.id, none["nextCursor"], 2)

    assert [said(page) for page in (first, second, third)] == [
        ["4", "5", "6"],
        ["1", "2", "3"],
        ["0"],
    ]
    assert third["nextCursor"] is None
    assert [said(page) for page in (newer, newest, none, back)] == [["7"], ["8"], [], ["7", "8"]]
    assert first["messages"][0].keys() == {
        *("id", "role", "sender", "sender_name", "text", "ts", "attachments")
    }
    for text in ("nonsense", "", "PD4=", f"{first['nextCursor']}x"):
        with pytest.raises(UsageError):
            await room.threads.messages(room.client, task, text, None)
    with pytest.raises(UsageError, match="another thread"):
        await room.threads.messages(room.client, room.backend, first["nextCursor"], None)


async def test_a_page_has_no_more_than_one_result_has_room_for(room: Room) -> None:
    numbers = range(20)
    task = await room.make(PERSON, body="begin")
    for number in numbers:
        await room.threads.say(PERSON, task, f"{number} " + "ü" * 30_000)
    largest = await room.threads.say(PERSON, task, '"' * 190_000)
    tools = room.tools(room.client)

    pages = [await tools.messages(task.id, None, 200)]
    while pages[-1]["nextCursor"]:
        pages.append(await tools.messages(task.id, pages[-1]["nextCursor"], 200))
    back = [await tools.messages(task.id, pages[-1]["newerCursor"], 200)]
    while back[-1]["messages"]:
        back.append(await tools.messages(task.id, back[-1]["newerCursor"], 200))

    assert [one["id"] for one in pages[0]["messages"]] == [largest.id]
    there = [one["text"].partition(" ")[0] for page in reversed(pages) for one in page["messages"]]
    assert there[:-1] == ["begin", *map(str, numbers)]
    begun = len(pages[-1]["messages"])
    assert [one["id"] for page in back for one in page["messages"]] == [
        one.id for one in (await room.store.thread(task.id))[begun:]
    ]
    for page in pages + back:
        assert len(json.dumps(page, ensure_ascii=False).encode("utf-16-le")) // 2 < 400_000


async def test_mail_of_a_held_task_is_not_shown_to_its_holder_before_it_comes(room: Room) -> None:
    await room.make(PERSON)
    task = await room.threads.claim(room.client)
    assert task
    mine = await room.tools(room.client).task(task.id, None, None, conversation=True)
    others = await room.tools(room.other).messages(task.id, None, None)

    assert (mine["body"], mine["messages"]) == ("All of it.", [])
    assert [one["text"] for one in others["messages"]] == ["All of it."]


async def test_a_reply_to_what_is_out_of_reach_is_refused(room: Room) -> None:
    far = await room.threads.say(PERSON, room.stranger, "not for you")
    before = await room.state()
    for party in (room.session, room.client):
        with pytest.raises(NotFoundError, match=f"no message '{far.id}' to reply to"):
            await room.threads.say(party, room.frontend, "x", reply_to=far.id)
    assert await room.state() == before
    near = await room.threads.say(room.other, room.backend, "for you")
    said = await room.threads.say(room.session, room.frontend, "x", reply_to=near.id)
    assert said.reply_to == near.id


async def test_mail_that_is_on_its_way_to_who_asks_is_not_shown(room: Room) -> None:
    await room.store.add_message(a_message(room.backend, "coming"), "k")
    mine = await room.tools(room.session).messages(None, None, None)
    others = await room.tools(room.other).messages("backend", None, None)

    assert mine["messages"] == []
    assert [one["text"] for one in others["messages"]] == ["coming"]


async def test_who_speaks_without_end_is_refused_and_the_person_never(room: Room) -> None:
    for number in range(BURST):
        await room.threads.say(room.session, room.frontend, str(number))
        await room.make(room.session, title=f"Task {number}")
    before = await room.state()
    with pytest.raises(RefusedError, match="Not sent: 30 messages to frontend"):
        await room.tools(room.session).reply("frontend", "one too many", [HELLO], None)
    with pytest.raises(RefusedError, match="30 new tasks"):
        await room.make(room.session, Assignee.HUMAN, attachments=[HELLO])
    tasks, messages, events, files = await room.state()
    assert (tasks, messages, events, files) == (*before[:2], before[2] + 2, before[3])
    for number in range(BURST + 5):
        await room.threads.say(PERSON, room.frontend, str(number))


async def test_a_client_that_speaks_without_end_is_refused_too(room: Room) -> None:
    for number in range(BURST):
        await room.threads.say(room.client, room.frontend, str(number))
        await room.make(room.client, title=f"Task {number}")
    before = (await room.state())[:2]
    tools = room.tools(room.client)
    with pytest.raises(RefusedError, match="Not sent: 30 messages to frontend"):
        await tools.reply("frontend", "one too many", [HELLO], None)
    with pytest.raises(RefusedError, match="30 new tasks"):
        await tools.create("x", "x", Assignee.HUMAN, [HELLO], None)
    assert (await room.state())[:2] == before


async def test_what_a_delivery_looks_at_does_not_grow_with_the_thread(room: Room) -> None:
    values = {"task_id": "t", "thread_id": "t", "place": 1, "limit": 1, "id": "m", "at": ""}
    values |= {"party": "token:k_1", "sender": "s", "key": "k"}
    plans = {
        "pending": ["SEARCH task_messages USING INDEX undelivered (task_id=?)"],
        "deliverable": ["SEARCH task_messages USING INDEX undelivered (task_id=?)"],
        "halting": ["SEARCH task_messages USING INDEX halting (task_id=?)"],
        "read_messages": ["SEARCH task_messages USING INDEX unanswered (task_id=?)"],
        "thread_before": ["SEARCH task_messages USING INDEX spoken (<expr>=? AND rowid<?)"],
        "thread_after": ["SEARCH task_messages USING INDEX spoken (<expr>=? AND rowid>?)"],
        "message_by_key": ["SEARCH task_messages USING INDEX sqlite_autoindex_task_messages_2"],
        "mark_read": ["SEARCH said USING INDEX inbox (task_id=? AND created_at>?)"],
    }
    statements = room.store._db._statements
    for name, wanted in plans.items():
        given = {key: value for key, value in values.items() if f":{key}" in statements[name]}
        explained = "EXPLAIN QUERY PLAN " + statements[name]
        rows = await room.store._db._reader.execute_fetchall(explained, given)
        steps = [str(row["detail"]) for row in rows]
        assert not [step for step in steps if step.startswith("SCAN task_messages")], (name, steps)
        for step in wanted:
            assert [one for one in steps if one.startswith(step)], (name, steps)


# The end of tasks


async def test_who_waits_for_an_answer_is_told_when_its_question_is_removed(room: Room) -> None:
    open_task = await room.make(room.session, Assignee.HUMAN, "Open")
    decided = await room.make(room.session, Assignee.HUMAN, "Decided")
    await room.threads.decide(await room.ask(decided), AskOutcome.ANSWERED, "Yes.")
    for task in (open_task, await room.store.task(decided.id)):
        await room.threads.forget(task)

    mail = await room.store.deliverable(room.backend.id)
    assert [(one.body, one.response_to) for one in mail] == [
        ("Yes.", decided.id),
        ("This task was removed without an answer.", open_task.id),
    ]
    assert await room.store.open_asks() == []


async def test_what_a_removed_session_asked_is_asked_no_more(room: Room) -> None:
    task = await room.make(room.session, Assignee.HUMAN)
    made = await room.make(room.session)
    held = await room.threads.claim(room.session)
    assert held and held.id == made.id
    await room.threads.forget(room.backend)

    assert await room.store.open_asks() == []
    assert (await room.store.task(task.id)).status is TaskStatus.REJECTED
    assert (await room.store.task(made.id)).holder is None
    note = await room.threads.say(PERSON, await room.store.task(task.id), "Too late.")
    assert (note.task_id, note.party) == (task.id, USER)


@pytest.mark.parametrize("begun", [False, True])
async def test_what_a_removed_session_had_claimed_waits_to_be_claimed(
    room: Room, begun: bool
) -> None:
    made = await room.make(PERSON)
    task = await room.threads.claim(room.session)
    assert task
    if begun:
        await room.threads.move(room.session, task, TaskStatus.ONGOING)
    await room.threads.forget(room.backend)

    assert (await room.store.task(made.id)).status is TaskStatus.NOTSTARTED
    again = await room.threads.claim(room.other)
    assert again and again.id == made.id
    assert [one.body for one in await room.store.deliverable(room.frontend.id)] == ["All of it."]


async def test_what_a_removed_session_was_told_stays_in_the_threads_where_it_was_said(
    room: Room,
) -> None:
    files = services.attachments(room.store, room.path)
    question, work = await room.make(room.session, Assignee.HUMAN), await room.make(PERSON)
    await room.threads.claim(room.session)
    async with room.store.together():
        await room.arrives((await room.store.deliverable(room.backend.id))[0])

    async def chunks() -> AsyncIterator[bytes]:
        yield b"the plan"

    async with files.keep(chunks(), filename="plan", mime_type=None) as content:
        file = await room.threads.upload(PERSON, question, content)
    await room.threads.say(PERSON, question, "See there.", given=[file.id])
    await room.threads.forget(room.backend)

    assert await room.words(question) == ["All of it.", "See there."]
    assert await room.words(work) == ["All of it."]
    assert await room.store.pending(question.id) == await room.store.pending(work.id) == 0
    kept = await room.tools(room.other).attachment(file.id)
    assert base64.b64decode(kept["data"]) == b"the plan"


async def test_files_that_an_answer_carries_outlive_the_question(room: Room) -> None:
    task = await room.make(room.session, Assignee.HUMAN, attachments=[HELLO])
    files = services.attachments(room.store, room.path)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"the plan"

    async with files.keep(chunks(), filename="plan", mime_type=None) as content:
        file = await room.threads.upload(PERSON, task, content)
    await room.threads.say(PERSON, task, "See there.", given=[file.id])
    await room.threads.forget(await room.store.task(task.id))

    [*_, answer] = await room.store.deliverable(room.backend.id)
    kept = await room.tools(room.session).attachment(file.id)
    assert base64.b64decode(kept["data"]) == b"the plan"
    assert (await room.state())[3] == 1, "the question's own file is gone"
    assert answer.body == "This task was removed without an answer."


async def test_every_text_comes_out_as_it_went_in(room: Room) -> None:
    hostile = "<script>alert(1)</script>\"'&\0\u202e\x1b[31m"
    task = await room.make(
        room.session,
        Assignee.HUMAN,
        hostile,
        body=hostile,
        attachments=[{**HELLO, "filename": "<b>.html", "mimeType": "text/html"}],
    )
    shown = await room.tools(room.session).task(task.id, None, None, conversation=True)

    assert shown["title"] == shown["body"] == shown["messages"][0]["text"] == hostile
    assert shown["attachments"][0]["filename"] == "<b>.html"
    assert set(task.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    with pytest.raises(ClaudedoError):
        await room.make(room.session, title="\ud800")
