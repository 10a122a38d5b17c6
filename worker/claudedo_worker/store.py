"""What claudedo remembers: workspaces, tasks, links, sessions, messages, attempts, events.

Each method is one transaction and speaks in the words of the model. A change and the event that
tells of it are stored together; the event is announced after the commit, never before.
What a change depends on is looked at inside its transaction. Besides what they name, all methods
raise `StorageError` when nothing can be stored or read, and `ConflictError` when a row that the
change belongs to was removed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from claudedo.errors import ConflictError, NotFoundError, UsageError
from claudedo.model import (
    USER,
    Ask,
    AskKind,
    AskOutcome,
    Assignee,
    Attachment,
    Attempt,
    Connection,
    DecidedBy,
    Event,
    Failure,
    FailureKind,
    Launch,
    Lent,
    Message,
    Move,
    OneShot,
    Outcome,
    Priority,
    QueueStatus,
    Receipts,
    Recipe,
    Rules,
    RunExit,
    Session,
    SessionState,
    Task,
    TaskStatus,
    Token,
    Transport,
    Usage,
    Verdict,
    Workspace,
    new_id,
    now,
    stamp,
)
from claudedo_worker.database import Database, Row
from claudedo_worker.telemetry import Price

Announce = Callable[[Event], None]

KEPT_EVENTS, KEPT_DAYS = 100_000, 30
"""How many events are kept, and for how long; who was away longer reads the state anew."""


@dataclass(frozen=True)
class Place:
    """Where a page of a thread begins: before a row, or after it. By omission at the newest."""

    row: int = 2**63 - 1
    after: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some messages of a thread, oldest first, and the row of each."""

    messages: tuple[Message, ...]
    rows: tuple[int, ...]
    more: bool  # on the side that it was looked for on


class Store:
    """The state of one claudedo home. Safe to call from many coroutines of one process."""

    def __init__(self, database: Database, announce: Announce) -> None:
        self._db = database
        self._announce = announce
        self._held: list[Event] = []  # told when the transaction around them is over

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Everything changed inside is one transaction; what is told of it is told afterwards."""
        if self._db.inside:
            yield
            return
        async with self._db.transaction():
            self._held = []
            yield
            held, self._held = self._held, []
        self._tell(held)

    # Notes of the database itself

    async def note(self, key: str) -> str | None:
        """A value kept beside the data, such as the worker's identity."""
        row = await self._db.one("get_meta", key=key)
        return row["value"] if row else None

    async def set_note(self, key: str, value: str) -> None:
        """Keep a value beside the data."""
        async with self._db.transaction():
            await self._db.run("set_meta", {"key": key, "value": value})

    async def check(self) -> str:
        """The database's own verdict on its file: "ok", or what is wrong."""
        return await self._db.check()

    # Workspaces

    async def workspaces(self) -> list[Workspace]:
        """All projects by name."""
        return [Workspace(**dict(row)) for row in await self._db.all("workspaces")]

    async def workspace(self, workspace_id: str) -> Workspace:
        """One project. Raises `NotFoundError`."""
        found = [one for one in await self.workspaces() if one.id == workspace_id]
        if not found:
            raise NotFoundError(f"There is no workspace {workspace_id!r}.")
        return found[0]

    async def find_workspace(self, named: str) -> Workspace:
        """The project of that id or name. Raises `NotFoundError`."""
        workspaces = await self.workspaces()
        for workspace in workspaces:
            if named in (workspace.id, workspace.name):
                return workspace
        known = ", ".join(workspace.name for workspace in workspaces) or "none yet"
        raise NotFoundError(f"There is no workspace {named!r}; there are: {known}.")

    async def workspace_for(self, root: str, name: str) -> Workspace:
        """The project of the repository at `root`, created under a free form of `name` if new."""
        async with self._db.transaction():
            if row := await self._db.one("workspace_by_root", root=root):
                return Workspace(**dict(row))
            taken = {workspace.name for workspace in await self.workspaces()}
            free = name if name not in taken else _free_name(name, taken)
            made = Workspace(id=new_id("w"), name=free, root=root, created_at=now())
            await self._db.run("insert_workspace", asdict(made))
            events = [await self._event("workspace.updated", made.id, None, {"name": made.name})]
        self._tell(events)
        return made

    async def rename_workspace(self, workspace: Workspace, name: str) -> Workspace:
        """Give a project another name.

        Raises `ConflictError` if it is taken, `NotFoundError` if the project was removed.
        """
        async with self._db.transaction():
            if name in {one.name for one in await self.workspaces() if one.id != workspace.id}:
                raise ConflictError(f"There is a workspace {name!r} already.")
            if not await self._db.run("rename_workspace", {"id": workspace.id, "name": name}):
                raise NotFoundError(f"There is no workspace {workspace.id!r}.")
            event = await self._event("workspace.updated", workspace.id, None, {"name": name})
        self._tell([event])
        return replace(workspace, name=name)

    async def remove_workspace(self, workspace: Workspace) -> None:
        """Forget a project and its tokens. Raises `ConflictError` if it has tasks."""
        async with self._db.transaction():
            if await self._db.one("task_of_workspace", workspace_id=workspace.id):
                raise ConflictError(
                    f"{workspace.name} has got another task meanwhile, so it stays; try again."
                )
            await self._db.run("delete_workspace", {"id": workspace.id})
            told = {"name": workspace.name}
            event = await self._event("workspace.removed", workspace.id, None, told)
        self._tell([event])

    # Tasks and links

    async def add_task(self, task: Task) -> Task:
        """Store a new task. Raises `ConflictError` if its workspace has one of that name."""
        place = {"workspace_id": task.workspace_id, "name": task.name}
        async with self._db.transaction():
            if await self._db.one("task_by_name", **place):
                raise ConflictError(f"There is a task {task.name!r} in {task.workspace} already.")
            await self._db.run("insert_task", _task_values(task))
            event = await self._event(
                "task.created", task.workspace_id, task.id, {"name": task.name}
            )
        self._tell([event])
        return task

    async def change_task(self, task: Task, **changes: Any) -> Task:
        """Store changes of a task.

        Only what is named in `changes` is written: the caller's copy may be older than the row.
        Raises `NotFoundError` if it was removed.
        """
        async with self._db.transaction():
            changed = replace(await self.task(task.id), **changes)
            await self._db.run("update_task", _task_values(changed))
            event = await self._event(
                "task.updated", task.workspace_id, task.id, {"status": changed.status}
            )
        self._tell([event])
        return changed

    async def move_task(self, task: Task, after: TaskStatus, party: str, name: str) -> Task:
        """Change a task's status, remember who did, and tell. `moves.check` comes before.

        Raises `ConflictError` if the status is not what the caller saw.
        """
        at = now()
        change = {"before": task.status, "after": after}
        async with self._db.transaction():
            if not await self._db.run("move_task", {"id": task.id, **change}):
                there = await self.task(task.id)
                raise ConflictError(f"{task.name} is {there.status} meanwhile, not {task.status}.")
            values = {"task_id": task.id, "at": at, "party": party, "name": name, **change}
            await self._db.run("insert_move", values)
            told = {"status": after, "previous": task.status, "by": party}
            event = await self._event("status.updated", task.workspace_id, task.id, told)
        self._tell([event])
        return replace(task, status=after)

    async def moves(self, task_id: str) -> list[Move]:
        """The changes of a task's status, oldest first."""
        return [_move(row) for row in await self._db.all("moves", task_id=task_id)]

    async def claim_task(self, workspace_id: str, party: str, until: str) -> Task | None:
        """Give `party` the oldest agent task that nobody works on, until the moment `until`.

        None if there is none. Of many who ask at once each gets another one. What waits in its
        inbox, or in that of a session that held it before, goes to the session that claimed it.
        """
        async with self._db.transaction():
            values = {"workspace_id": workspace_id, "party": party, "until": until, "now": now()}
            row = await self._db.one("claim_task", **values)
            if row is None:
                return None
            task = await self.task(row["id"])
            events = [await self._event("task.updated", workspace_id, task.id, {"holder": party})]
            events += await self._take_back(task)
            if party.startswith("task:"):
                events += await self._hand_over(task, await self.task(party.removeprefix("task:")))
        self._tell(events)
        return task

    async def _hand_over(self, task: Task, to: Task) -> list[Event]:
        if not await self._db.run("hand_over", {"task_id": task.id, "to": to.id}):
            return []
        return await self._tell_pending(task, {task.id, to.id})

    async def extend_claims(self, party: str, until: str) -> None:
        """What `party` claimed stays its own until then."""
        async with self._db.transaction():
            await self._db.run("extend_claims", {"party": party, "until": until})

    async def release_task(self, task: Task, *, unfinished: bool) -> None:
        """Nobody holds the task any more.

        `unfinished`: what its holder was to be told and was not is for the next who works on it.
        """
        async with self._db.transaction():
            await self._db.run("release_task", {"id": task.id})
            told = {"holder": None}
            events = [await self._event("task.updated", task.workspace_id, task.id, told)]
            events += await self._take_back(task) if unfinished else []
        self._tell(events)

    async def _take_back(self, task: Task) -> list[Event]:
        rows = await self._db.all("given_to_holders", task_id=task.id)
        if not rows:
            return []
        await self._db.run("take_back", {"ids": json.dumps([row["id"] for row in rows])})
        return await self._tell_pending(task, {task.id, *(row["task_id"] for row in rows)})

    async def _tell_pending(self, thread: Task, task_ids: Collection[str]) -> list[Event]:
        """Mail of a thread went from one of these tasks to another."""
        events = []
        for task_id in sorted(task_ids):
            task, pending = await self.task(task_id), await self.pending(task_id)
            told = {"thread": thread.id, "pending": pending}
            events.append(await self._event("message.queued", task.workspace_id, task.id, told))
        return events

    async def counts(self, workspace_id: str) -> dict[TaskStatus, int]:
        """How many tasks of a workspace have each status."""
        rows = await self._db.all("counts", workspace_id=workspace_id)
        there = {row["status"]: row["tasks"] for row in rows}
        return {status: there.get(status, 0) for status in TaskStatus}

    async def remove_task(self, task: Task) -> list[Attachment]:
        """Forget a task, with its sessions, messages and links; returns its files, forgotten, too.

        What was said in its thread to the session of another task stays there, with what it
        carries, and what was said to its session in another thread stays in that.
        """
        async with self._db.transaction():
            await self._db.run("keep_said", {"task_id": task.id})
            await self._db.run("keep_carried", {"task_id": task.id})
            files = await self.attachments_of_task(task.id)
            await self._db.run("delete_task", {"id": task.id})
            await self._db.run("forget_words", {})
            event = await self._event(
                "task.removed", task.workspace_id, task.id, {"name": task.name}
            )
        self._tell([event])
        return files

    async def task(self, task_id: str) -> Task:
        """One task. Raises `NotFoundError`."""
        if row := await self._db.one("task", id=task_id):
            return _task(row)
        raise NotFoundError(f"There is no task {task_id!r}.")

    async def tasks(self) -> list[Task]:
        """All tasks, oldest first within their workspace."""
        return [_task(row) for row in await self._db.all("tasks")]

    async def near(self, workspace_id: str, task_id: str | None = None) -> list[Task]:
        """The tasks of a workspace, and the peers of a task of it, by age within a workspace."""
        tasks = [task for task in await self.tasks() if task.workspace_id == workspace_id]
        peers = await self.peers(task_id) if task_id else []
        return tasks + [peer for peer in peers if peer.workspace_id != workspace_id]

    async def link(self, one: Task, other: Task) -> None:
        """Make two tasks peers; nothing happens if they are."""
        await self._change_link("insert_link", one, other)

    async def unlink(self, one: Task, other: Task) -> None:
        """They are peers no more."""
        await self._change_link("delete_link", one, other)

    async def _change_link(self, statement: str, one: Task, other: Task) -> None:
        async with self._db.transaction():
            changed = await self._db.run(statement, {"one": one.id, "other": other.id})
            events = [
                await self._event("task.updated", task.workspace_id, task.id, {"peers": True})
                for task in (one, other)
                if changed
            ]
        self._tell(events)

    async def peers(self, task_id: str) -> list[Task]:
        """The tasks linked to one task, by name."""
        return [_task(row) for row in await self._db.all("peers", task_id=task_id)]

    async def links(self) -> list[tuple[str, str]]:
        """All pairs of linked tasks."""
        return [(row["a"], row["b"]) for row in await self._db.all("links")]

    # Sessions

    async def add_session(self, session: Session, credential: str, task: Task) -> Session:
        """Store a session that is about to be launched; `credential` is a hash.

        Raises `ConflictError` if the task has a live session.
        """
        async with self._db.transaction():
            latest = await self.latest_session(task.id)
            if latest and latest.state.live:
                raise ConflictError(f"{task.name} has a running session already ({latest.state}).")
            values = {**_session_values(session), "credential": credential}
            await self._db.run("insert_session", values)
            event = await self._event(
                "session.updated", task.workspace_id, task.id, _state(session)
            )
        self._tell([event])
        return session

    async def change_session(self, session: Session, **changes: Any) -> Session:
        """Store changes of a session; `since` follows `state`. Tells of them.

        Only what is named in `changes` is written: the caller's copy may be older than the row.
        Raises `NotFoundError` if the session was removed with its task.
        """
        if replace(session, **changes) == session:
            return session  # the watch asks ten times a second; that must cost no transaction
        async with self._db.transaction():
            task = await self.task(session.task_id)
            kept = await self.session(session.id)
            if changes.get("state", kept.state) != kept.state:
                changes["since"] = now()
            changed = replace(kept, **changes)
            await self._db.run("update_session", _session_values(changed))
            events = [
                await self._event("session.updated", task.workspace_id, task.id, _state(changed))
            ]
            if kept.state is SessionState.STARTING and changed.state in _UP:
                told = {"session_id": changed.id, "name": task.name, "client": _client(changed)}
                events.append(
                    await self._event("agent.connected", task.workspace_id, task.id, told)
                )
        self._tell(events)
        return changed

    async def set_credential(self, session_id: str, hashed: str) -> None:
        """Keep the hash of the credential that a session's processes will show."""
        async with self._db.transaction():
            await self._db.run("set_credential", {"id": session_id, "credential": hashed})

    async def session(self, session_id: str) -> Session:
        """One session. Raises `NotFoundError`."""
        if row := await self._db.one("session", id=session_id):
            return _session(row)
        raise NotFoundError(f"There is no session {session_id!r}.")

    async def session_credential(self, session_id: str) -> str | None:
        """The hash of the credential of a session, or None if there is no such session."""
        row = await self._db.one("session_credential", id=session_id)
        return row["credential"] if row else None

    async def latest_session(self, task_id: str) -> Session | None:
        """The newest session of a task."""
        row = await self._db.one("latest_session", task_id=task_id)
        return _session(row) if row else None

    async def latest_sessions(self) -> dict[str, Session]:
        """The newest session of every task that had one, by task id."""
        return {row["task_id"]: _session(row) for row in await self._db.all("latest_sessions")}

    async def usages(self, task_id: str) -> dict[str, Usage]:
        """What each conversation of a task used, by conversation."""
        rows = await self._db.all("usages", task_id=task_id)
        return {row["conversation"]: Usage(**json.loads(row["usage"])) for row in rows}

    async def set_usage(self, task_id: str, conversation: str, usage: Usage) -> None:
        """What a conversation of a task used until now."""
        values = {"task_id": task_id, "conversation": conversation}
        async with self._db.transaction():
            await self._db.run("set_usage", {**values, "usage": json.dumps(asdict(usage))})

    async def add_prices(self, task_id: str, prices: Iterable[Price]) -> None:
        """What requests of a task's conversations cost; each counts once."""
        rows = [{"task_id": task_id, **asdict(price)} for price in prices]
        if rows:
            async with self._db.transaction():
                for row in rows:
                    await self._db.run("insert_price", row)

    async def prices(
        self, task_id: str, conversation: str, after: int
    ) -> tuple[int, dict[str, float]]:
        """What was told after the number `after`: dollars by request, and the number to go on."""
        given = {"task_id": task_id, "conversation": conversation, "after": after}
        rows = await self._db.all("prices_after", **given)
        told = {row["request"]: row["dollars"] for row in rows}
        return (rows[-1]["seq"] if rows else after), told

    async def live_sessions(self) -> list[Session]:
        """The sessions that have, or should have, a process."""
        return [_session(row) for row in await self._db.all("live_sessions")]

    # One-shot tasks

    async def add_one_shot(self, one_shot: OneShot, task: Task) -> OneShot:
        """Queue a task that was just stored, behind those that were queued before."""
        async with self._db.transaction():
            await self._db.run("insert_one_shot", _one_shot_values(one_shot))
            event = await self._queue_event(task, one_shot)
        self._tell([event])
        return one_shot

    async def change_one_shot(self, one_shot: OneShot, **changes: Any) -> OneShot:
        """Store changes of a one-shot task, and tell of them.

        Only what is named in `changes` is written: the caller's copy may be older than the row.
        Raises `NotFoundError` if it was removed with its task.
        """
        async with self._db.transaction():
            kept = await self.one_shot(one_shot.task_id)
            if kept is None:
                raise NotFoundError("This one-shot task was removed.")
            changed = replace(kept, **changes)
            await self._db.run("update_one_shot", _one_shot_values(changed))
            event = await self._queue_event(await self.task(changed.task_id), changed)
        self._tell([event])
        return changed

    async def one_shot(self, task_id: str) -> OneShot | None:
        """What makes a task a one-shot; None for every other."""
        row = await self._db.one("one_shot", task_id=task_id)
        return _one_shot(row) if row else None

    async def one_shots(self) -> list[OneShot]:
        """All of them, in the order in which they were added."""
        return [_one_shot(row) for row in await self._db.all("one_shots")]

    async def unread(self, task_id: str) -> list[Message]:
        """Messages to a task's session that its model did not answer with in its context."""
        rows = await self._db.all("unread", task_id=task_id)
        return await self._whole([_message(row) for row in rows])

    async def _queue_event(self, task: Task, one_shot: OneShot) -> Event:
        told = {"name": task.name, "queue": one_shot.status, "attempts": one_shot.attempts}
        return await self._event("task.updated", task.workspace_id, task.id, told)

    # Asks

    async def add_ask(self, ask: Ask) -> Ask:
        """Store an ask, or give back the one that its held call has already."""
        async with self._db.transaction():
            task = await self.task(ask.task_id)
            if ask.call and (known := await self._ask_of_call(ask)):
                return known
            await self._db.run("insert_ask", _ask_values(ask))
            events = [await self._ask_event("ask.opened", task, ask)]
        self._tell(events)
        return ask

    async def _ask_of_call(self, ask: Ask) -> Ask | None:
        row = await self._db.one("ask_of_call", session_id=ask.session_id, call=ask.call)
        return _ask(row) if row else None

    async def close_ask(
        self,
        ask_id: str,
        outcome: AskOutcome,
        decided_by: DecidedBy,
        decision: Mapping[str, Any] | None = None,
    ) -> tuple[Ask, bool]:
        """Close an ask. Returns it as it is now, and False if it was closed before."""
        async with self._db.transaction():
            values = {"outcome": outcome, "decided_by": decided_by, "at": now()}
            encoded = None if decision is None else json.dumps(decision)
            first = await self._db.run("close_ask", {"id": ask_id, "decision": encoded, **values})
            ask = await self.ask(ask_id)
            task = await self.task(ask.task_id)
            events = [await self._ask_event("ask.closed", task, ask)] if first else []
        self._tell(events)
        return ask, bool(first)

    async def correct_ask(self, ask_id: str, outcome: AskOutcome, decided_by: DecidedBy) -> Ask:
        """The session shows that a closed ask was decided otherwise, a moment before."""
        async with self._db.transaction():
            values = {"id": ask_id, "outcome": outcome, "decided_by": decided_by}
            await self._db.run("correct_ask", values)
            ask = await self.ask(ask_id)
            event = await self._ask_event("ask.closed", await self.task(ask.task_id), ask)
        self._tell([event])
        return ask

    async def ask(self, ask_id: str) -> Ask:
        """One ask, open or closed. Raises `NotFoundError`."""
        if row := await self._db.one("ask", id=ask_id):
            return _ask(row)
        raise NotFoundError(f"There is no ask {ask_id!r}.")

    async def open_asks(self) -> list[Ask]:
        """What waits for a person, oldest first."""
        return [_ask(row) for row in await self._db.all("open_asks")]

    async def asks_of_session(self, session_id: str) -> list[Ask]:
        """All that one session asked, oldest first."""
        rows = await self._db.all("asks_of_session", session_id=session_id)
        return [_ask(row) for row in rows]

    async def asks_by_task(self) -> dict[str, int]:
        """How many asks are open, for every task that has any."""
        return {row["task_id"]: row["asks"] for row in await self._db.all("asks_by_task")}

    async def _ask_event(self, kind: str, task: Task, ask: Ask) -> Event:
        payload = {
            "ask_id": ask.id,
            "kind": ask.kind,
            "title": ask.title,
            "outcome": ask.outcome,
            "decided_by": ask.decided_by,
        }
        return await self._event(kind, task.workspace_id, task.id, payload)

    # Messages

    async def add_message(
        self, message: Message, key: str, attachments: Sequence[str] = ()
    ) -> tuple[Message, bool]:
        """Store a message under the sender's idempotency key, with the files that it carries.

        Returns the stored message and whether it is new: the same again from the same sender gives
        the first one back. `attachments` are ids of files that the sender gave to the thread's
        task and no message carries yet; raises `NotFoundError` for another one and for
        a recipient that does not exist, `ConflictError` if the key belongs to another message of
        that sender.
        """
        async with self._db.transaction():
            task = await self.task(message.task_id)
            if earlier := await self.message_by_key(message.sender, key):
                if (earlier.thread, earlier.body) != (message.thread, message.body):
                    raise ConflictError(
                        f"The key {key!r} was used for another message ({earlier.id}); nothing "
                        "was sent. Use a new key for a new message."
                    )
                return earlier, False
            await self._db.run("insert_message", {**_message_values(message), "key": key})
            for attachment in attachments:
                await self._carry(message, attachment)
            events = await self._tell_said(task, message)
            events += await self._mark_answered(message)
            stored = await self.message(message.id)
        self._tell(events)
        return stored, True

    async def _carry(self, message: Message, attachment: str) -> None:
        place = {"task_id": message.thread, "message_id": message.id, "party": message.sender}
        if not await self._db.run("carry_attachment", {"id": attachment, **place}):
            raise NotFoundError(f"There is no attachment {attachment!r} to send here.")

    async def message_by_key(self, sender: str, key: str) -> Message | None:
        """The message that `sender` stored under this idempotency key."""
        row = await self._db.one("message_by_key", sender=sender, key=key)
        return _message(row) if row else None

    async def _tell_said(self, task: Task, message: Message) -> list[Event]:
        """What is to be delivered is queued; what is for a person is there."""
        names = {"thread": message.thread, "sender": message.sender}
        payload: dict[str, Any] = {"message_id": message.id, **names}
        if message.party == USER:
            return [await self._event("reply.received", task.workspace_id, task.id, payload)]
        payload |= {"pending": await self.pending(task.id)}
        return [await self._event("message.queued", task.workspace_id, task.id, payload)]

    async def _mark_answered(self, reply: Message) -> list[Event]:
        if reply.sender.startswith("token:"):
            return await self._mark_replied(reply)
        answered = [reply.reply_to] if reply.reply_to else []
        if reply.party == USER:  # whoever replies in a thread answers what they read there
            place = {"thread_id": reply.thread, "task_id": reply.sender.removeprefix("task:")}
            answered += [row["id"] for row in await self._db.all("read_messages", **place)]
        names = {"sender": reply.sender, "recipient": reply.task_id}
        ids = json.dumps(answered)
        rows = await self._db.all("mark_answered", ids=ids, at=now(), **names)
        return await self._message_events("message.answered", [row["id"] for row in rows])

    async def _mark_replied(self, reply: Message) -> list[Event]:
        names = {"sender": reply.sender, "recipient": reply.task_id}
        rows = await self._db.all("mark_replied", id=reply.reply_to, at=now(), **names)
        ids = [row["id"] for row in rows]
        read = await self._message_events("message.read", ids)
        return read + await self._message_events("message.answered", ids)

    async def message(self, message_id: str) -> Message:
        """One message. Raises `NotFoundError`."""
        if row := await self._db.one("message", id=message_id):
            (message,) = await self._whole([_message(row)])
            return message
        raise NotFoundError(f"There is no message {message_id!r}.")

    async def _whole(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with what stands in other tables: what they carry, and what they answer."""
        ids = json.dumps([message.id for message in messages])
        files: dict[str | None, list[Attachment]] = {}
        for row in await self._db.all("attachments_of_messages", ids=ids):
            files.setdefault(row["message_id"], []).append(Attachment(**dict(row)))
        return [
            replace(
                message,
                attachments=tuple(files.get(message.id, ())),
                response_to=await self._asked(message),
            )
            for message in messages
        ]

    async def _asked(self, message: Message) -> str | None:
        """The task in whose thread a person's message stands, if its recipient made that one."""
        elsewhere = message.thread_id or (message.party not in (None, USER))
        if message.sender != USER or not elsewhere:
            return None
        row = await self._db.one("task", id=message.thread)
        if row is None:
            return message.thread  # removed since
        recipient = message.party or f"task:{message.task_id}"
        asked = row["assignee"] == Assignee.HUMAN and row["creator"] == recipient
        return message.thread if asked else None

    async def thread(self, task_id: str) -> list[Message]:
        """What was said to a task, by it and about it, oldest first."""
        rows = await self._db.all("thread", task_id=task_id)
        return await self._whole([_message(row) for row in rows])

    async def thread_part(
        self, task_id: str, limit: int, *, before: str | None = None, after: str | None = None
    ) -> list[Message]:
        """Up to `limit` messages of `thread` next to one of them, by omission the newest.

        Oldest first. Raises `UsageError` for a message that is not one of them.
        """
        values: dict[str, Any] = {"task_id": task_id, "limit": limit, "place": Place().row}
        if next_to := before or after:
            row = await self._db.one("part_place", task_id=task_id, id=next_to)
            if row is None:
                raise UsageError(f"There is no message {next_to!r} in this thread.")
            values["place"] = row["place"]
        rows = list(await self._db.all("part_after" if after else "part_before", **values))
        if not after:
            rows.reverse()
        return await self._whole([_message(row) for row in rows])

    async def thread_page(self, task_id: str, limit: int, place: Place) -> Page:
        """Up to `limit` messages of a task's own thread on one side of a place."""
        statement = "thread_after" if place.after else "thread_before"
        values: dict[str, Any] = {"task_id": task_id, "place": place.row, "limit": limit + 1}
        rows = list(await self._db.all(statement, **values))
        more, rows = len(rows) > limit, rows[:limit]
        if not place.after:
            rows.reverse()
        return Page(
            messages=tuple(await self._whole([_message(row) for row in rows])),
            rows=tuple(row["place"] for row in rows),
            more=more,
        )

    async def search(self, words: Sequence[str], limit: int) -> list[Message]:
        """Messages of all tasks that hold each of `words`, or a longer word, newest first."""
        quoted = ['"' + word.replace('"', '""') + '"*' for word in words]
        rows = await self._db.all("search", expression=" ".join(quoted), limit=limit)
        return await self._whole([_message(row) for row in rows])

    async def pending(self, task_id: str) -> int:
        """How many messages of a task are not delivered yet."""
        row = await self._db.one("pending", task_id=task_id)
        return int(row["pending"]) if row else 0

    async def pending_by_task(self) -> dict[str, int]:
        """The same for every task that has any."""
        return {r["task_id"]: r["pending"] for r in await self._db.all("pending_by_task")}

    async def deliverable(self, task_id: str) -> list[Message]:
        """Messages whose body may be given now, in the order in which to give them."""
        rows = await self._db.all("deliverable", task_id=task_id)
        return await self._whole([_message(row) for row in rows])

    async def halting(self, task_id: str) -> list[Message]:
        """Halt messages that the model has not answered with in its context."""
        return [_message(row) for row in await self._db.all("halting", task_id=task_id)]

    # Attachments

    async def add_attachment(self, attachment: Attachment) -> Attachment:
        """Remember a file whose bytes are stored."""
        async with self._db.transaction():
            await self._db.run("insert_attachment", asdict(attachment))
        return attachment

    async def attachment(self, attachment_id: str) -> Attachment:
        """One file. Raises `NotFoundError`."""
        if row := await self._db.one("attachment", id=attachment_id):
            return Attachment(**dict(row))
        raise NotFoundError(f"There is no attachment {attachment_id!r}.")

    async def attachments_of_task(self, task_id: str) -> list[Attachment]:
        """All files of a task."""
        rows = await self._db.all("attachments_of_task", task_id=task_id)
        return [Attachment(**dict(row)) for row in rows]

    async def forget_uncarried(self, before: str) -> None:
        """Forget the files that were given before a moment and that no message carries."""
        async with self._db.transaction():
            await self._db.run("delete_uncarried", {"before": before})

    async def content_used(self, sha256: str) -> bool:
        """True while any file has this content."""
        return await self._db.one("content_used", sha256=sha256) is not None

    # Tokens, and the clients that show them

    async def add_token(self, token: Token, hashed: str) -> Token:
        """Remember what a client will show."""
        async with self._db.transaction():
            await self._db.run("insert_token", {**asdict(token), "hash": hashed})
            told = {"token_id": token.id}
            event = await self._event("token.updated", token.workspace_id, None, told)
        self._tell([event])
        return token

    async def token(self, token_id: str) -> Token:
        """One token. Raises `NotFoundError`."""
        if row := await self._db.one("token", id=token_id):
            return _token(row)
        raise NotFoundError(f"There is no token {token_id!r}.")

    async def token_by_hash(self, hashed: str) -> Token | None:
        """The token of that text, valid or not."""
        row = await self._db.one("token_by_hash", hash=hashed)
        return _token(row) if row else None

    async def tokens(self) -> list[Token]:
        """All tokens, newest first."""
        return [_token(row) for row in await self._db.all("tokens")]

    async def use_token(self, token_id: str) -> None:
        """It was shown now."""
        async with self._db.transaction():
            await self._db.run("use_token", {"id": token_id, "at": now()})

    async def revoke_token(self, token: Token) -> Token:
        """It is worth nothing any more."""
        async with self._db.transaction():
            await self._db.run("revoke_token", {"id": token.id, "at": now()})
            told = {"token_id": token.id}
            event = await self._event("token.updated", token.workspace_id, None, told)
        self._tell([event])
        return await self.token(token.id)

    async def rotate_token(self, token: Token, hashed: str, expires_at: str) -> Token:
        """Another text is worth what the one before was. Raises `ConflictError` if revoked."""
        values = {"id": token.id, "hash": hashed, "expires_at": expires_at}
        async with self._db.transaction():
            if not await self._db.run("rotate_token", values):
                raise ConflictError(f"{token.name} was revoked; make a new token.")
            told = {"token_id": token.id}
            event = await self._event("token.updated", token.workspace_id, None, told)
        self._tell([event])
        return await self.token(token.id)

    async def add_connection(
        self,
        connection: Connection,
        token: Token,
        forget: Callable[[Sequence[str]], Sequence[str]],
    ) -> Sequence[str]:
        """Remember a client's MCP session, and no more those that `forget` takes of the token's.

        It is given the ids of those before, newest first. Returns what it took.
        """
        async with self._db.transaction():
            rows = await self._db.all("connections_of", token_id=token.id)
            old = forget([row["id"] for row in rows])
            for connection_id in old:
                await self._db.run("delete_connection", {"id": connection_id})
            await self._db.run("insert_connection", asdict(connection))
            told = {"token_id": token.id, "name": token.name, "client": connection.client}
            event = await self._event("agent.connected", token.workspace_id, None, told)
        self._tell([event])
        return old

    async def connection(self, connection_id: str) -> Connection | None:
        """One client's MCP session, None if there is no such."""
        row = await self._db.one("connection", id=connection_id)
        return Connection(**dict(row)) if row else None

    async def connections(self) -> dict[str, int]:
        """How many MCP sessions each token has, by token id."""
        return {row["token_id"]: row["connections"] for row in await self._db.all("connections")}

    async def remove_connection(self, connection_id: str) -> None:
        """It ended: what it did not confirm may be given again."""
        async with self._db.transaction():
            await self._db.run("delete_connection", {"id": connection_id})

    async def mail_of(self, party: str) -> list[Lent]:
        """What a client has to act on and did not confirm, in the order in which to give it."""
        return await self._mail(party, "*", -1)

    async def _mail(self, party: str, whose: str, limit: int) -> list[Lent]:
        rows = await self._db.all("mail_of", party=party, whose=whose, limit=limit)
        names = ("lent_to", "lent", "pushed")
        bare = [_message({k: row[k] for k in row.keys() if k not in names}) for row in rows]  # noqa: SIM118 - see _message
        return [
            Lent(
                message=message,
                connection_id=row["lent_to"],
                pushed=bool(row["pushed"]),
                before=bool(row["lent"]),
            )
            for row, message in zip(rows, await self._whole(bare), strict=True)
        ]

    async def lend_inbox(
        self, connection: Connection, choose: Callable[[Sequence[Lent]], Sequence[Lent]]
    ) -> list[Lent]:
        """Give a connection what `choose` takes of the mail that no other connection has now.

        It counts as offered. Of several connections that ask at once only one gets a message.
        """
        async with self.together():
            mail = await self._mail(f"token:{connection.token_id}", connection.id, -1)
            return await self._lend(connection, choose(mail), Transport.INBOX)

    async def lend_push(self, connection: Connection) -> Lent | None:
        """The same for the first message that no connection has; None if there is none."""
        async with self.together():
            mail = await self._mail(f"token:{connection.token_id}", "", 1)
            return next(iter(await self._lend(connection, mail, Transport.CHANNEL)), None)

    async def _lend(
        self, connection: Connection, chosen: Sequence[Lent], via: Transport
    ) -> list[Lent]:
        at, events = now(), []
        pushed = via is Transport.CHANNEL
        for one in chosen:
            place = {"message_id": one.message.id, "connection_id": connection.id}
            await self._db.run("lend", {**place, "pushed": pushed, "at": at})
            await self._db.run("mark_offered", {"id": one.message.id, "at": at, "via": via})
            message = await self.message(one.message.id)
            events.append(await self._message_event("message.offered", message))
        self._tell(events)
        return list(chosen)

    async def lends(self, connection_id: str) -> dict[str, bool]:
        """The messages that a connection did not confirm; True for one that was pushed."""
        rows = await self._db.all("lends", connection_id=connection_id)
        return {row["message_id"]: bool(row["pushed"]) for row in rows}

    async def confirm_lends(self, connection_id: str, message_ids: Iterable[str]) -> None:
        """The connection has these messages: they are delivered."""
        at, events = now(), []
        async with self._db.transaction():
            for message_id in message_ids:
                place = {"message_id": message_id, "connection_id": connection_id}
                if not await self._db.run("end_lend", place):
                    continue
                via = (await self.message(message_id)).via
                await self._db.run("mark_delivered", {"id": message_id, "at": at, "via": via})
                message = await self.message(message_id)
                events.append(await self._message_event("message.delivered", message))
        self._tell(events)

    async def lenders(self) -> list[str]:
        """The connections that did not confirm all they were given."""
        return [row["connection_id"] for row in await self._db.all("lenders")]

    async def give_back(self, connection_id: str, keep: Collection[str] = ()) -> None:
        """What a connection did not confirm may be given again, as possibly seen before.

        All but the messages whose ids are in `keep`.
        """
        async with self._db.transaction():
            for message_id in (await self.lends(connection_id)).keys() - set(keep):
                await self._db.run("give_back", {"message_id": message_id})

    # Attempts

    async def add_attempt(self, attempt: Attempt) -> Attempt:
        """Store a try before it is made: its messages count as offered.

        Raises `ConflictError` if it carries bodies and one of them may not be given now.
        """
        async with self._db.transaction():
            task = await self.task((await self.session(attempt.session_id)).task_id)
            if not attempt.reminder:
                free = {message.id for message in await self.deliverable(task.id)}
                if not free.issuperset(attempt.message_ids):
                    raise ConflictError("A message of this attempt is on its way already.")
            await self._db.run("insert_attempt", asdict(attempt))
            events = [await self._offer(attempt, message_id) for message_id in attempt.message_ids]
        self._tell(events)
        return attempt

    async def _offer(self, attempt: Attempt, message_id: str) -> Event:
        await self._db.run(
            "insert_attempt_message", {"attempt_id": attempt.id, "message_id": message_id}
        )
        values = {"id": message_id, "at": attempt.created_at, "via": attempt.transport}
        await self._db.run("mark_offered", values)
        return await self._message_event("message.offered", await self.message(message_id))

    async def confirm(self, attempt: Attempt) -> None:
        """The attempt's context line was found: its messages are delivered."""
        at = now()
        async with self._db.transaction():
            await self._end(attempt, Outcome.CONFIRMED, at)
            events = []
            for message_id in () if attempt.reminder else attempt.message_ids:
                values = {"id": message_id, "at": at, "via": attempt.transport}
                if await self._db.run("mark_delivered", values):
                    message = await self.message(message_id)
                    events.append(await self._message_event("message.delivered", message))
        self._tell(events)

    async def end_attempt(self, attempt: Attempt, outcome: Outcome) -> None:
        """The attempt did not bring its messages into the context: they may be given again."""
        async with self._db.transaction():
            await self._end(attempt, outcome, now())

    async def noticed(self, task_id: str) -> frozenset[str]:
        """Messages of a task that a channel showed before, as a notice not to be acted on."""
        rows = await self._db.all("noticed", task_id=task_id)
        return frozenset(row["message_id"] for row in rows)

    async def _end(self, attempt: Attempt, outcome: Outcome, at: str) -> None:
        await self._db.run("end_attempt", {"id": attempt.id, "outcome": outcome, "at": at})

    async def mark_read(self, message_ids: Iterable[str]) -> None:
        """The model answered with these messages in its context."""
        at = now()
        events = []
        async with self._db.transaction():
            for message_id in message_ids:
                if await self._db.run("mark_read", {"id": message_id, "at": at}):
                    message = await self.message(message_id)
                    events.append(await self._message_event("message.read", message))
                    if message.receipts.answered_at == at:
                        events.append(await self._message_event("message.answered", message))
        self._tell(events)

    async def forget(self, message_ids: Iterable[str]) -> None:
        """These left the context before the model answered: they may be given again."""
        async with self._db.transaction():
            for message_id in message_ids:
                await self._db.run("forget", {"id": message_id})

    async def open_attempts(self, conversation: str) -> list[Attempt]:
        """Attempts of a conversation whose outcome is not known, oldest first."""
        rows = await self._db.all("open_attempts", conversation=conversation)
        return [await self._attempt(row) for row in rows]

    async def unread_attempts(self, conversation: str) -> list[Attempt]:
        """Confirmed attempts of a conversation with a message that is not read."""
        rows = await self._db.all("unread_attempts", conversation=conversation)
        return [await self._attempt(row) for row in rows]

    async def _attempt(self, row: Row) -> Attempt:
        members = await self._db.all("attempt_messages", attempt_id=row["id"])
        return Attempt(
            id=row["id"],
            session_id=row["session_id"],
            conversation=row["conversation"],
            transport=Transport(row["transport"]),
            reminder=bool(row["reminder"]),
            message_ids=tuple(member["message_id"] for member in members),
            created_at=row["created_at"],
            tool_use_id=row["tool_use_id"],
            outcome=Outcome(row["outcome"]),
        )

    # Events

    async def events_after(self, seq: int, limit: int = 500) -> list[Event]:
        """The facts after number `seq`, in order."""
        rows = await self._db.all("events_after", after=seq, limit=limit)
        return [Event(**{**dict(row), "payload": json.loads(row["payload"])}) for row in rows]

    async def last_event(self) -> int:
        """The number of the newest fact, kept or not; 0 if there never was one."""
        row = await self._db.one("last_event")
        return int(row["seq"]) if row else 0

    async def add_event(self, kind: str, task: Task, payload: Mapping[str, Any]) -> None:
        """Store and tell a fact that changes nothing else."""
        async with self._db.transaction():
            event = await self._event(kind, task.workspace_id, task.id, payload)
        self._tell([event])

    async def prune_events(self, keep: int = KEPT_EVENTS, days: float = KEPT_DAYS) -> int:
        """Forget all but the newest `keep` facts, and those older than `days`; returns how many.

        Numbers are never given again.
        """
        before = stamp(datetime.now(UTC) - timedelta(days=days))
        async with self._db.transaction():
            return await self._db.run("prune_events", {"keep": keep, "before": before})

    async def _message_event(self, kind: str, message: Message) -> Event:
        [event] = await self._message_events(kind, [message.id])
        return event

    async def _message_events(self, kind: str, message_ids: Sequence[str]) -> list[Event]:
        """What tells of messages as they are now; as few statements for many as for one."""
        told: dict[str, list[dict[str, Any]]] = {}
        for row in await self._db.all("receipts", ids=json.dumps(message_ids)):
            receipts = {name: row[name] for name in ("stored_at", *_RECEIPTS)}
            payload = {"message_id": row["id"], "receipts": receipts, "via": row["via"]}
            told.setdefault(row["task_id"], []).append(payload)
        events: list[Event] = []
        for task_id, payloads in told.items():
            task, pending = await self.task(task_id), await self.pending(task_id)
            full = [{**payload, "pending": pending} for payload in payloads]
            events += await self._events(kind, task.workspace_id, task_id, full)
        return events

    async def _event(
        self, kind: str, workspace_id: str, task_id: str | None, payload: Mapping[str, Any]
    ) -> Event:
        [event] = await self._events(kind, workspace_id, task_id, [payload])
        return event

    async def _events(
        self,
        kind: str,
        workspace_id: str,
        task_id: str | None,
        payloads: Sequence[Mapping[str, Any]],
    ) -> list[Event]:
        """Store facts of one kind about one task."""
        at = now()
        about: dict[str, Any] = {
            "type": kind,
            "workspace_id": workspace_id,
            "task_id": task_id,
            "at": at,
        }
        full = [{"task_id": task_id, **payload} for payload in payloads]
        texts = json.dumps([json.dumps(payload) for payload in full])
        rows = await self._db.all("insert_events", **about, payloads=texts)
        numbers = sorted(int(row["seq"]) for row in rows)  # of rows that were stored in order
        return [
            Event(**about, seq=seq, payload=payload)
            for seq, payload in zip(numbers, full, strict=True)
        ]

    def _tell(self, events: Sequence[Event]) -> None:
        if self._db.inside:
            self._held += events
            return
        for event in events:
            self._announce(event)


def _free_name(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name[:59]}-{number}" in taken:
        number += 1
    return f"{name[:59]}-{number}"


_UP = (SessionState.IDLE, SessionState.BUSY)
"""What a session is that has passed its start-up dialogs."""


def _client(session: Session) -> str:
    """How a client with a token would call itself."""
    return f"claude-code {session.cli_version}"


def _state(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "state": session.state,
        "waiting_for": session.waiting_for,
        "since": session.since,
        "reason": session.reason,
        "failure": asdict(session.failure) if session.failure else None,
    }


def _task_values(task: Task) -> dict[str, Any]:
    values = asdict(task)
    for column in ("launch", "recipe"):
        values[column] = json.dumps(values[column])
    return values


def _task(row: Row) -> Task:
    values = dict(row)
    launch, recipe = (json.loads(values.pop(column)) for column in ("launch", "recipe"))
    return Task(
        **{
            **values,
            "status": TaskStatus(values["status"]),
            "assignee": Assignee(values["assignee"]),
            "made_worktree": bool(values["made_worktree"]),
            "made_branch": bool(values["made_branch"]),
            "launch": Launch(**_tuples(launch)),
            "recipe": Recipe(**_tuples(recipe)),
        }
    )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _session_values(session: Session) -> dict[str, Any]:
    values = asdict(session)
    for column in ("usage", "failure"):
        values[column] = json.dumps(values[column]) if values[column] else None
    return values


def _session(row: Row) -> Session:
    values = dict(row)
    values.pop("credential")
    channel = values["channel"]
    usage, failure = (json.loads(values.pop(column) or "null") for column in ("usage", "failure"))
    return Session(
        **{
            **values,
            "state": SessionState(values["state"]),
            "channel": None if channel is None else bool(channel),
            "one_shot": bool(values["one_shot"]),
            "usage": Usage(**usage) if usage else None,
            "failure": _failure(failure) if failure else None,
        }
    )


def _failure(values: Mapping[str, Any]) -> Failure:
    return Failure(**{**values, "kind": FailureKind(values["kind"])})


def _move(row: Row) -> Move:
    values = dict(row)
    statuses = {key: TaskStatus(values.pop(key)) for key in ("before", "after")}
    return Move(**values, **statuses)


def _token(row: Row) -> Token:
    values = dict(row)
    values.pop("hash")
    return Token(**values)


_ONE_SHOT_JSON = ("needs", "rules", "verdict")


def _one_shot_values(one_shot: OneShot) -> dict[str, Any]:
    values = asdict(one_shot)
    encoded = {key: json.dumps(values[key]) for key in _ONE_SHOT_JSON if values[key] is not None}
    return values | encoded


def _one_shot(row: Row) -> OneShot:
    values = dict(row)
    values.pop("seq")
    decoded = {key: json.loads(values.pop(key) or "null") for key in _ONE_SHOT_JSON}
    verdict = decoded["verdict"]
    return OneShot(
        **{
            **values,
            "needs": tuple(decoded["needs"]),
            "rules": Rules(**decoded["rules"]),
            "status": QueueStatus(values["status"]),
            "checking": bool(values["checking"]),
            "verdict": _verdict(verdict) if verdict else None,
        }
    )


def _verdict(values: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**_tuples(values), "exit": RunExit(values["exit"])})


_ASK_JSON = ("input", "suggestions", "decision")


def _ask_values(ask: Ask) -> dict[str, Any]:
    values = {key: getattr(ask, key) for key in Ask.__dataclass_fields__}
    return values | {key: json.dumps(values[key]) for key in ("input", "suggestions")}


def _ask(row: Row) -> Ask:
    values = dict(row)
    decoded = {key: json.loads(values.pop(key) or "null") for key in _ASK_JSON}
    outcome, decided_by = values.pop("outcome"), values.pop("decided_by")
    return Ask(
        **{
            **values,
            **decoded,
            "suggestions": tuple(decoded["suggestions"]),
            "kind": AskKind(values["kind"]),
            "outcome": AskOutcome(outcome) if outcome else None,
            "decided_by": DecidedBy(decided_by) if decided_by else None,
        }
    )


_RECEIPTS = ("offered_at", "delivered_at", "read_at", "answered_at")


def _message_values(message: Message) -> dict[str, Any]:
    plain = "id task_id sender sender_name body reply_to created_at thread_id party"
    fields = plain.split()
    return {field: getattr(message, field) for field in fields} | {"priority": message.priority}


def _message(row: Row | Mapping[str, Any]) -> Message:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - iterating a Row gives values
    receipts = {name: values.pop(name) for name in _RECEIPTS}
    for internal in ("key", "forgotten", "place"):
        values.pop(internal, None)
    return Message(
        **{
            **values,
            "priority": Priority(values["priority"]),
            "receipts": Receipts(stored_at=values["created_at"], **receipts),
        }
    )
