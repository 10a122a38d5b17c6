"""Tasks made by those who work, what is said in their threads, and how far they are.

One place for MCP tools, REST, page and command line. Who asks is a party: the person, the session
of a task, or a client with a token. A person's answer goes to whoever made the task, through the
same mailbox as everything else.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from claudedo import moves
from claudedo.errors import ForbiddenError, UsageError
from claudedo.model import (
    USER,
    Ask,
    AskKind,
    AskOutcome,
    Assignee,
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
from claudedo_worker.store import Store

LEASE = timedelta(minutes=30)
"""How long a claimed task stays with a client that shows no sign of life."""

LONGEST_TITLE = 300
PAGE, LONGEST_PAGE = 20, 200
ENDS = (TaskStatus.COMPLETED, TaskStatus.REJECTED)


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


class Threads:
    """What can be done with tasks by those who work on them, and said in their threads."""

    def __init__(self, store: Store, attachments: Attachments) -> None:
        self._store = store
        self._attachments = attachments

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
    ) -> Task:
        """Make a task. A person's opens an ask; an agent's waits to be claimed or started.

        `attachments` are `{"filename", "mimeType", "data"}`. Raises `UsageError`.
        """
        title = check_title(title)
        check_body(body)
        contents = [await self._attachments.keep_encoded(given) for given in attachments]
        workspace = await self._store.workspace(workspace_id)
        async with self._store.together():
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
            await self._say(party, task, body, contents)
            if assignee is Assignee.HUMAN:
                await self._store.add_ask(_ask(task))
        return task

    async def move(self, party: Party, task: Task, status: TaskStatus, words: str = "") -> Task:
        """Change how far a task is.

        A person's decision on a task that somebody made is told to that one, with `words`.
        Raises `ConflictError` for a move that there is not, `ForbiddenError` for one that is not
        for `party`.
        """
        moves.check(task.assignee, task.status, status, role_of(party, task))
        if status is task.status:
            return task
        async with self._store.together():
            moved = await self._store.move_task(task, status, party.id, party.name)
            if task.assignee is Assignee.HUMAN:
                await self._close_ask(task, status, party)
                if party.is_person and task.creator != USER:
                    await self._answer(task, f"{status}: {words}" if words else f"{status}.")
            elif status in ENDS and task.holder:
                await self._store.release_task(task)
        return moved

    async def claim(self, party: Party) -> Task | None:
        """The next agent task of the workspace that nobody works on; it is now this party's.

        It stays so for `LEASE` after the party's last sign of life. None if there is none.
        """
        if party.workspace_id is None:
            raise ForbiddenError("Only a session or a client claims tasks.")
        return await self._store.claim_task(party.workspace_id, party.id, lease_end())

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

        From the person to whoever made a person's task, else to the task's session; from everybody
        else to the person, or to the session of another's task. `attachments` are files as MCP
        tools give them, `given` are ids of files that were uploaded. Raises `UsageError`,
        `ForbiddenError`, `NotFoundError`, `ConflictError`.
        """
        check_body(text)
        if priority is Priority.HALT and not party.is_person:
            raise ForbiddenError("Only a person may halt a session.")
        contents = [await self._attachments.keep_encoded(one) for one in attachments]
        async with self._store.together():
            return await self._say(
                party,
                chat,
                text,
                contents,
                given=given,
                reply_to=reply_to,
                priority=priority,
                key=key,
            )

    async def messages(
        self, party: Party, chat: Task, cursor: str | None, limit: int | None
    ) -> tuple[list[Message], str | None]:
        """A page of a thread, the newest messages first page, each page oldest first.

        What the party has not been given yet is left out. Returns the cursor of the page before,
        None at the beginning of the thread. Raises `UsageError` for a cursor of another thread.
        """
        size = min(max(limit or PAGE, 1), LONGEST_PAGE)
        found, more = await self._store.thread_page(chat.id, _place(chat, cursor), size)
        shown = [message for message in found if not _waits_for(party, message)]
        return shown, None if more is None else _cursor(chat, more)

    async def decide(
        self,
        ask: Ask,
        outcome: AskOutcome,
        words: str | None,
        *,
        keep_open: bool = False,
        given: Sequence[str] = (),
    ) -> Task:
        """The person decides a task that was made for them: completed, rejected, or answered.

        An answer completes it, too, unless `keep_open`. All of it happens, or nothing.
        """
        task = await self._store.task(ask.task_id)
        if words is not None:
            check_body(words)
        after = TaskStatus.REJECTED if outcome is AskOutcome.DENIED else TaskStatus.COMPLETED
        async with self._store.together():
            if outcome is AskOutcome.ANSWERED:
                await self._answer(task, words or "", given=given)
                if keep_open:
                    return task
                moved = await self._store.move_task(task, after, USER, USER)
                await self._store.close_ask(ask.id, outcome, DecidedBy.USER, {"text": words})
                return moved
            return await self.move(PERSON, task, after, words or "")

    # Pieces

    async def _answer(self, task: Task, words: str, given: Sequence[str] = ()) -> None:
        await self._say(PERSON, task, words, (), given=given)

    async def _say(
        self,
        party: Party,
        chat: Task,
        text: str,
        contents: Sequence[Content],
        *,
        given: Sequence[str] = (),
        reply_to: str | None = None,
        priority: Priority = Priority.NORMAL,
        key: str | None = None,
    ) -> Message:
        if reply_to:
            await self._store.message(reply_to)
        files = [await self._attachments.record(one, chat, party.id) for one in contents]
        recipient, to = _recipient(party, chat)
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

    async def _close_ask(self, task: Task, status: TaskStatus, party: Party) -> None:
        if status not in ENDS:
            return
        outcome = AskOutcome.ALLOWED if status is TaskStatus.COMPLETED else AskOutcome.DENIED
        by = DecidedBy.USER if party.is_person else DecidedBy.SESSION
        for ask in await self._store.open_asks():
            if ask.task_id == task.id and ask.kind is AskKind.TASK:
                await self._store.close_ask(
                    ask.id, outcome if party.is_person else AskOutcome.GONE, by
                )

    async def _free_name(self, workspace_id: str, title: str) -> str:
        taken = {t.name for t in await self._store.tasks() if t.workspace_id == workspace_id}
        name = _slug(title)
        number = 2
        while name in taken:
            name = f"{_slug(title)[:58]}-{number}"
            number += 1
        return name


def role_of(party: Party, task: Task) -> moves.Role:
    """What somebody is to a task."""
    if party.is_person:
        return moves.Role.PERSON
    if party.id in (f"task:{task.id}", task.holder):
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


def _recipient(party: Party, chat: Task) -> tuple[str, str | None]:
    """Who must act on what `party` says in the thread of `chat`: a task, and its party if any."""
    if not party.is_person:
        own = party.task_id == chat.id or party.id == chat.holder
        to_person = own or chat.assignee is Assignee.HUMAN
        return chat.id, USER if to_person else None
    if chat.assignee is Assignee.AGENT:
        return chat.id, None
    if chat.creator.startswith("task:"):
        return chat.creator.removeprefix("task:"), None
    return chat.id, chat.creator


def _waits_for(party: Party, message: Message) -> bool:
    """True for mail of this party that it has not been given: that comes by its own way."""
    if message.receipts.delivered_at is not None:
        return False
    return party.id == (message.party or f"task:{message.task_id}")


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
    return kept[:63].rstrip("._-") or "task"


def _cursor(chat: Task, place: int) -> str:
    return base64.urlsafe_b64encode(f"{chat.id}:{place}".encode()).decode().rstrip("=")


def _place(chat: Task, cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        task_id, _, place = text.partition(":")
        number = int(place)
    except (ValueError, binascii.Error) as error:
        raise UsageError(
            "This is no cursor: give `nextCursor` of the page before, as it is."
        ) from error
    if task_id != chat.id:
        raise UsageError("This cursor belongs to another thread.")
    return number
