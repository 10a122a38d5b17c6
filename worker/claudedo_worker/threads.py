"""Tasks made by those who work, what is said in their threads, and how far they are.

One place for MCP tools, REST, page and command line. Who asks is a party: the person, the session
of a task, or a client with a token. A person's answer goes to whoever made the task, through the
same mailbox as everything else.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from claudedo import moves
from claudedo.errors import (
    AmbiguousError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from claudedo.model import (
    MOST_FILES,
    USER,
    Ask,
    AskKind,
    AskOutcome,
    Assignee,
    Attachment,
    DecidedBy,
    Launch,
    Message,
    Priority,
    Receipts,
    Task,
    TaskStatus,
    check_body,
    new_id,
    now,
    stamp,
)
from claudedo_worker.attachments import Attachments, Content
from claudedo_worker.store import Page, Place, Store

LEASE = timedelta(minutes=30)
"""How long a claimed task stays with a party that shows no sign of life."""

LONGEST_TITLE = 300
PAGE, LONGEST_PAGE = 20, 200
PAGE_ROOM = 400_000
"""UTF-16 units of a page in JSON. What is much longer would end a session's connection
(docs/claude-cli.md 12.3)."""

BURST, BURST_SECONDS = 30, 60.0
"""So many messages from one session to one task in so many seconds: more is a loop."""

CLAUDEDO = "claudedo"
"""The party for what was set beforehand, where nobody decided."""

NO_CURSOR = "This is no cursor: give `nextCursor` of the page before, as it is."


@dataclass(frozen=True, kw_only=True)
class Party:
    """Who asks. `workspace_id` is None for the person, who may reach every workspace."""

    id: str  # "user", "task:<id>" or "token:<id>"
    name: str
    workspace_id: str | None

    @property
    def is_person(self) -> bool:
        return self.id == USER

    @property
    def task_id(self) -> str | None:
        """The task whose session it is."""
        return self.id.removeprefix("task:") if self.id.startswith("task:") else None


PERSON = Party(id=USER, name=USER, workspace_id=None)


def session_of(task: Task) -> Party:
    """The session of a task, as who asks."""
    return Party(id=f"task:{task.id}", name=task.name, workspace_id=task.workspace_id)


@dataclass(frozen=True, kw_only=True)
class Words:
    """A page of a thread, oldest message first, and the cursors of what is before and after it."""

    messages: tuple[Message, ...]
    older: str | None  # None at the beginning of the thread
    newer: str  # leads also to what is not said yet


class Threads:
    """What can be done with tasks by those who work on them, and said in their threads."""

    def __init__(self, store: Store, attachments: Attachments) -> None:
        self._store = store
        self._attachments = attachments
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._slowed: set[tuple[str, str]] = set()

    # Who may reach what

    async def reach(self, party: Party) -> list[Task]:
        """The tasks that a party may see and write to: its workspace's, and a session's peers."""
        if party.workspace_id is None:
            return await self._store.tasks()
        return await self._store.near(party.workspace_id, party.task_id)

    async def find(self, party: Party, target: str) -> Task:
        """The task that a party means by an id or a name.

        Raises `NotFoundError`, also for one out of its reach, and `AmbiguousError`.
        """
        tasks = await self.reach(party)
        found = [t for t in tasks if t.id == target] or [t for t in tasks if t.name == target]
        if len(found) > 1:
            ids = ", ".join(f"{task.id} in {task.workspace}" for task in found)
            raise AmbiguousError(f"Several tasks are called {target!r}; give an id: {ids}.")
        if not found:
            names = ", ".join(sorted(task.name for task in tasks if task.id != party.task_id))
            raise NotFoundError(f"There is no task {target!r} here; there are: {names or 'none'}.")
        return found[0]

    # Tasks

    async def create(
        self,
        party: Party,
        workspace_id: str,
        *,
        title: str,
        body: str,
        assignee: Assignee,
        attachments: Sequence[Any] = (),
        key: str | None = None,
    ) -> Task:
        """Make a task. A person's opens an ask; an agent's waits to be claimed or started.

        `attachments` are `{"filename", "mimeType", "data"}`. The same again under the same `key`
        gives the task that was made the first time. Raises `UsageError`, and `RefusedError` to who
        makes tasks without end, and `ConflictError` if the key was used for something else; then
        nothing is stored.
        """
        title = check_title(title)
        check_body(body)
        workspace = await self._store.workspace(workspace_id)
        like = (title, body, assignee)
        if made := await self._made_before(party, key, like):
            return made
        async with self._attachments.keep_encoded(attachments) as contents:
            await self._slow_down(party, None)
            async with self._store.together():
                if made := await self._made_before(party, key, like):
                    return made  # the same call came twice, at once
                task = await self._store.add_task(
                    Task(
                        id=new_id("t"),
                        workspace_id=workspace.id,
                        workspace=workspace.name,
                        name=await self._free_name(workspace.id, title),
                        title=title,
                        body=body,
                        status=TaskStatus.NOTSTARTED,
                        assignee=assignee,
                        creator=party.id,
                        repo=workspace.root,
                        worktree=None,
                        branch=None,
                        base=None,
                        made_worktree=False,
                        made_branch=False,
                        launch=Launch(),
                        created_at=now(),
                    )
                )
                await self._say(party, task, body, contents, key=key)
                if assignee is Assignee.HUMAN:
                    await self._store.add_ask(_ask(task))
        return task

    async def move(self, party: Party, task: Task, status: TaskStatus, words: str = "") -> Task:
        """Change how far a task is.

        A person's decision on a task that somebody made is told to that one, with `words`.
        Raises `ConflictError` for a move that there is not, `ForbiddenError` for one that is not
        for `party`.
        """
        if words:
            check_body(words)
        async with self._store.together():
            there = await self._store.task(task.id)  # who holds it now? The status is as was seen
            there = replace(there, status=task.status)
            moves.check(there.assignee, there.status, status, role_of(party, there))
            moved = there
            if status is not there.status:
                moved = await self._store.move_task(there, status, party.id, party.name)
                words = await self._follow(there, moved, party, words)
            if words and party.is_person:
                await self._say(PERSON, there, words)
            if there.holder and (status.over or status is TaskStatus.NOTSTARTED):
                await self._store.release_task(there, unfinished=not status.over)
        return moved

    async def _follow(self, before: Task, task: Task, party: Party, words: str) -> str:
        """What else a move changes; returns what is to be said of it."""
        if task.assignee is not Assignee.HUMAN:
            return words
        await self._follow_with_ask(before, task, party, words)
        if task.creator == USER:
            return words
        return f"{task.status}: {words}" if words else f"{task.status}."

    async def claim(self, party: Party) -> Task | None:
        """The next agent task of the workspace that nobody works on; it is now this party's.

        It stays so for `LEASE` after the party's last sign of life. None if there is none. A
        session that has one which it did not begin gets that again: a call may come twice.
        """
        if party.workspace_id is None:
            raise ForbiddenError("Only a session or a client claims tasks.")
        async with self._store.together():
            for task in await self._store.tasks() if party.task_id else ():
                if task.holder == party.id and task.status is TaskStatus.NOTSTARTED:
                    await self._store.extend_claims(party.id, lease_end())
                    return await self._store.task(task.id)
            return await self._store.claim_task(party.workspace_id, party.id, lease_end())

    async def forget(self, task: Task) -> None:
        """Forget a task that nobody works on any more, with its thread and its files.

        The session that made it and still waits for an answer is told. What the task's own session
        asked of a person is asked no more, and what it had claimed waits to be claimed.
        """
        async with self._store.together():
            own = session_of(task)
            for other in await self._store.tasks():
                if other.holder == own.id:
                    await self._give_back(own, other)
                if other.creator == own.id and _is_open(other):
                    await self.move(own, other, TaskStatus.REJECTED)
            if task.creator.startswith("task:") and _is_open(task):
                await self._say(PERSON, task, "This task was removed without an answer.")
            files = await self._store.remove_task(task)
        await self._attachments.forget(files)

    async def begin(self, task: Task) -> None:
        """A session is about to be started for a task that was made and that nobody works on.

        Its first message is the task's body, also if somebody who held the task had it before.
        """
        async with self._store.together():
            if task.holder:
                await self._store.release_task(task, unfinished=True)
            await self.move(PERSON, task, TaskStatus.ONGOING)
            waiting = {message.id for message in await self._store.deliverable(task.id)}
            page = await self._store.thread_page(task.id, 1, Place(0, after=True))
            for first in page.messages:
                if first.id not in waiting:
                    await self._repeat(first, await self._store.task(task.id))

    async def _repeat(self, message: Message, chat: Task) -> None:
        """Say the same once more, with the same files, for the sake of who did not hear it."""
        sender = Party(id=message.sender, name=message.sender_name, workspace_id=chat.workspace_id)
        contents = [
            Content(filename=f.filename, mime_type=f.mime_type, size=f.size, sha256=f.sha256)
            for f in message.attachments
        ]
        await self._say(sender, chat, message.body, contents)

    async def _give_back(self, own: Party, task: Task) -> None:
        """Who held a task is gone: the next who asks may have it."""
        if task.status in (TaskStatus.ONGOING, TaskStatus.BLOCKED):
            await self._store.move_task(task, TaskStatus.NOTSTARTED, own.id, own.name)
        await self._store.release_task(task, unfinished=not task.status.over)

    # Threads

    async def say(
        self,
        party: Party,
        chat: Task,
        text: str,
        *,
        attachments: Sequence[Any] = (),
        given: Sequence[str] = (),
        reply_to: str | None = None,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
    ) -> Message:
        """Say something in the thread of `chat`; it goes to whoever must act on it.

        From the person to whoever made a person's task, else to who works on the task; from who
        works on it to the person, from everybody else to who works on it. `attachments` are files
        as MCP tools give them, `given` are ids of files that were uploaded. The same again under
        the same `key` gives the message that was stored the first time. Raises `UsageError`,
        `ForbiddenError`, `NotFoundError`, `ConflictError`, and `RefusedError` to who writes without
        end; then nothing is stored.
        """
        check_body(text)
        if priority is Priority.HALT and not party.is_person:
            raise ForbiddenError("Only a person may halt a session.")
        _check_may_speak(party, chat)
        if reply_to:
            await self._check_reply(party, reply_to)
        repeated = key is not None and await self._store.message_by_key(party.id, key)
        async with self._attachments.keep_encoded(() if repeated else attachments) as contents:
            if not repeated:
                await self._slow_down(party, chat)
            async with self._store.together():
                return await self._say(
                    party,
                    await self._store.task(chat.id),  # as it is now: who holds it?
                    text,
                    contents,
                    given=given,
                    reply_to=reply_to,
                    priority=priority,
                    key=key,
                )

    async def upload(self, party: Party, chat: Task, content: Content) -> Attachment:
        """Give kept bytes to the thread of `chat`; a message of `party` is to carry them."""
        _check_may_speak(party, chat)
        return await self._attachments.record(content, chat, party.id)

    async def attachment(self, party: Party, attachment_id: str) -> Attachment:
        """A file in a thread that `party` reaches; one that is not sent yet only who gave it.

        Raises `NotFoundError`.
        """
        file = await self._store.attachment(attachment_id)
        near = {task.id for task in await self.reach(party)}
        if file.task_id not in near or (file.message_id is None and file.party != party.id):
            raise NotFoundError(f"There is no attachment {attachment_id!r}.")
        return file

    async def messages(
        self, party: Party, chat: Task, cursor: str | None, limit: int | None
    ) -> Words:
        """A page of a thread, the newest messages first page, each page oldest first.

        It has at most `limit` messages, and no more than there is room for. What the party has not
        been given yet is left out. The cursors stay good while more is said. Raises `UsageError`
        for a cursor of another thread.
        """
        size = min(max(limit or PAGE, 1), LONGEST_PAGE)
        place = _place(chat, cursor)
        page = _fitting(await self._store.thread_page(chat.id, size, place), place)
        more = page.more if not place.after else place.row > 0
        first = page.rows[0] if page.rows else place.row + place.after
        return Words(
            messages=tuple(one for one in page.messages if not _waits_for(party, chat, one)),
            older=_cursor(chat, Place(first)) if more else None,
            newer=_cursor(chat, Place(_last_row(page, place), after=True)),
        )

    async def decide(
        self,
        ask: Ask,
        outcome: AskOutcome,
        words: str | None,
        *,
        keep_open: bool = False,
        given: Sequence[str] = (),
    ) -> Ask:
        """The person decides a task that was made for them: completed, rejected, or answered.

        An answer completes it, too, unless `keep_open`; it carries the files `given`. All of it
        happens, or nothing. Returns the ask. Raises `ConflictError` if it is closed, and what `say`
        raises.
        """
        if outcome is AskOutcome.ANSWERED:
            check_body(words or "")
        after = TaskStatus.REJECTED if outcome is AskOutcome.DENIED else TaskStatus.COMPLETED
        async with self._store.together():
            if (await self._store.ask(ask.id)).closed_at is not None:
                raise ConflictError("This was decided already, or taken back.")
            task = await self._store.task(ask.task_id)
            if outcome is not AskOutcome.ANSWERED:
                await self.move(PERSON, task, after, words or "")
            else:
                await self._say(PERSON, task, words or "", given=given)
                if not keep_open:
                    moved = await self._store.move_task(task, after, USER, USER)
                    await self._follow_with_ask(task, moved, PERSON, words or "", outcome)
            return await self._store.ask(ask.id)

    async def unanswered(self, party: Party) -> list[tuple[Task, Ask]]:
        """The tasks that `party` made for a person and nobody decided, with their asks."""
        tasks = {task.id: task for task in await self._store.tasks() if task.creator == party.id}
        return [
            (tasks[ask.task_id], ask)
            for ask in await self._store.open_asks()
            if ask.kind is AskKind.TASK and ask.task_id in tasks
        ]

    async def expire(self, ask: Ask, outcome: AskOutcome, words: str) -> None:
        """Nobody decided a person's task in time: `outcome` holds, and who made it is told."""
        after = TaskStatus.COMPLETED if outcome is AskOutcome.ALLOWED else TaskStatus.REJECTED
        async with self._store.together():
            _, first = await self._store.close_ask(ask.id, outcome, DecidedBy.DEFAULT)
            if not first:
                return
            task = await self._store.task(ask.task_id)
            await self._say(PERSON, task, f"{after}: {words}")
            await self._store.move_task(task, after, CLAUDEDO, CLAUDEDO)

    # Pieces

    async def _say(
        self,
        party: Party,
        chat: Task,
        text: str,
        contents: Sequence[Content] = (),
        *,
        given: Sequence[str] = (),
        reply_to: str | None = None,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
    ) -> Message:
        if len(given) + len(contents) > MOST_FILES:
            raise UsageError(f"A message carries at most {MOST_FILES} files.")
        files = [await self._attachments.record(one, chat, party.id) for one in contents]
        recipient, to = await self._recipient(party, chat)
        at = now()
        message = Message(
            id=new_id("m"),
            task_id=recipient,
            thread_id=chat.id if recipient != chat.id else None,
            party=to,
            sender=party.id,
            sender_name=party.name,
            body=text,
            priority=priority,
            reply_to=reply_to,
            created_at=at,
            receipts=Receipts(stored_at=at),
        )
        carried = [*given, *(file.id for file in files)]
        stored, _ = await self._store.add_message(message, key or new_id("k"), carried)
        return stored

    async def _recipient(self, party: Party, chat: Task) -> tuple[str, str | None]:
        """Who must act on what is said in the thread of `chat`: a task, and its party if any."""
        if chat.assignee is Assignee.HUMAN:
            to = chat.creator if party.is_person else USER
        elif _is_doer(party, chat):
            to = USER
        elif (chat.holder or "").startswith("task:"):
            to = str(chat.holder)
        else:
            return chat.id, None  # its session, or the client that holds it when it is given
        if not to.startswith("task:"):
            return chat.id, to
        task_id = to.removeprefix("task:")
        if task_id not in {task.id for task in await self._store.tasks()}:
            return chat.id, USER  # who asked is gone: it is kept where it was said
        return task_id, None

    async def _check_reply(self, party: Party, reply_to: str) -> None:
        """Raise `NotFoundError` for a message that is not there, or out of the party's reach."""
        try:
            message = await self._store.message(reply_to)
            near = {task.id for task in await self.reach(party)}
            if near.isdisjoint((message.task_id, message.thread)):
                raise NotFoundError
        except NotFoundError as error:
            raise NotFoundError(f"There is no message {reply_to!r} to reply to.") from error

    async def _follow_with_ask(
        self,
        before: Task,
        task: Task,
        party: Party,
        words: str,
        outcome: AskOutcome | None = None,
    ) -> None:
        """A person's task has an open ask as long as it is open itself."""
        if _is_open(task):
            if not _is_open(before):
                await self._store.add_ask(_ask(task))
            return
        done = task.status is TaskStatus.COMPLETED
        decided = outcome or (AskOutcome.ALLOWED if done else AskOutcome.DENIED)
        by = DecidedBy.USER if party.is_person else DecidedBy.SESSION
        kept = {"reason": words} if words else None
        for ask in await self._store.open_asks():
            if ask.task_id == task.id and ask.kind is AskKind.TASK:
                closed = decided if party.is_person else AskOutcome.GONE
                await self._store.close_ask(ask.id, closed, by, kept)

    async def _slow_down(self, party: Party, chat: Task | None) -> None:
        """Refuse what is one too many; the first refusal of a burst is told to people.

        `chat`: what is written to, None for a new task.
        """
        if party.is_person:
            return
        at, which = time.monotonic(), (party.id, chat.id if chat else "")
        times = self._recent.setdefault(which, deque(maxlen=BURST))
        if len(times) < BURST or at - times[0] >= BURST_SECONDS:
            times.append(at)
            self._slowed.discard(which)
            return
        about = chat or (await self._store.task(party.task_id) if party.task_id else None)
        if about and which not in self._slowed:
            self._slowed.add(which)
            payload = {"sender": party.name, "recipient": chat.name if chat else USER}
            await self._store.add_event("peers.slowed", about, payload)
        what = f"messages to {chat.name}" if chat else "new tasks"
        raise RefusedError(
            f"Not sent: {BURST} {what} within a minute. Collect what you have to say in one "
            "message, and wait for the answer before you write again."
        )

    async def _made_before(
        self, party: Party, key: str | None, like: tuple[str, str, Assignee]
    ) -> Task | None:
        """The task that `party` made under this key. Raises `ConflictError` if that is another."""
        earlier = await self._store.message_by_key(party.id, key) if key else None
        if earlier is None:
            return None
        task = await self._store.task(earlier.thread)
        if (task.title, task.body, task.assignee) != like or task.creator != party.id:
            raise ConflictError(
                f"The key {key!r} was used for something else in {task.name}; nothing was made. "
                "Use a new key for a new task."
            )
        return task

    async def _free_name(self, workspace_id: str, title: str) -> str:
        taken = {t.name for t in await self._store.tasks() if t.workspace_id == workspace_id}
        stem = name = _slug(title)
        number = 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        return name


def role_of(party: Party, task: Task) -> moves.Role:
    """What somebody is to a task."""
    if party.is_person:
        return moves.Role.PERSON
    if _is_doer(party, task):
        return moves.Role.DOER
    return moves.Role.CREATOR if party.id == task.creator else moves.Role.OTHER


def check_title(title: str) -> str:
    """`title` on one line. Raises `UsageError` if it is empty or too long."""
    line = " ".join(title.split())
    if not line or len(line) > LONGEST_TITLE:
        raise UsageError(
            f"A title has 1 to {LONGEST_TITLE} characters; the rest belongs in the body."
        )
    return line


def lease_end() -> str:
    """Until when a claim lasts that is made, or renewed, now."""
    return stamp(datetime.now(UTC) + LEASE)


def _is_doer(party: Party, task: Task) -> bool:
    return party.id in (f"task:{task.id}", task.holder)


def _is_open(task: Task) -> bool:
    """True of a person's task that is not decided."""
    return task.assignee is Assignee.HUMAN and not task.status.over


def _check_may_speak(party: Party, chat: Task) -> None:
    """Raise `ForbiddenError` if somebody would join in where another one asks a person."""
    if chat.assignee is Assignee.HUMAN and not party.is_person and party.id != chat.creator:
        raise ForbiddenError(
            f"{chat.name} is between a person and who made it; to ask a person make a task of "
            "your own with createTask."
        )


def _waits_for(party: Party, chat: Task, message: Message) -> bool:
    """True for mail of this party that it has not been given: that comes by its own way."""
    if message.receipts.delivered_at is not None:
        return False
    held = message.party is None and message.task_id == chat.id and chat.holder == party.id
    return held or party.id == (message.party or f"task:{message.task_id}")


def _ask(task: Task) -> Ask:
    return Ask(
        id=new_id("k"),
        task_id=task.id,
        session_id=None,
        kind=AskKind.TASK,
        title=task.title or task.name,
        body=task.body,
        tool=None,
        input={},
        suggestions=(),
        agent=None,
        call=None,
        opened_at=now(),
    )


def _slug(title: str) -> str:
    kept = re.sub(r"[^a-z0-9._]+", "-", title.lower()).strip("._-")
    return kept[:48].rstrip("._-") or "task"


# Cursors: a task, a direction, a row


def _last_row(page: Page, place: Place) -> int:
    """The row after which comes what is newer than a page."""
    if page.rows:
        return page.rows[-1]
    if place.after:
        return place.row
    return 0 if place == Place() else place.row - 1


def _fitting(page: Page, place: Place) -> Page:
    """As much of a page as one result has room for, at least one message, next to its place."""
    room, kept = PAGE_ROOM, 0
    for message in page.messages if place.after else reversed(page.messages):
        room -= _size(message)
        if kept and room < 0:
            break
        kept += 1
    if kept == len(page.messages):
        return page
    part = slice(kept) if place.after else slice(-kept, None)
    return replace(page, messages=page.messages[part], rows=page.rows[part], more=True)


def _size(message: Message) -> int:
    """At most so many UTF-16 units a message has in JSON."""
    said = [message.body, *(file.filename for file in message.attachments)]
    text = json.dumps(said, ensure_ascii=False).encode("utf-16-le")
    return len(text) // 2 + 500 * (1 + len(message.attachments))


def _cursor(chat: Task, place: Place) -> str:
    text = f"{chat.id}{'>' if place.after else '<'}{place.row}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(chat: Task, cursor: str | None) -> Place:
    if cursor is None:
        return Place()
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise UsageError(NO_CURSOR) from error
    found = re.fullmatch(r"(\w+)([<>])(\d{1,18})", text, re.ASCII)
    if not found:
        raise UsageError(NO_CURSOR)
    if found[1] != chat.id:
        raise UsageError("This cursor belongs to another thread.")
    return Place(int(found[3]), after=found[2] == ">")
