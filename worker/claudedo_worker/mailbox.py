"""Sending: who may write what to whom. A message is stored first; couriers learn of it then."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from claudedo import protocol
from claudedo.errors import AmbiguousError, ForbiddenError, NotFoundError, RefusedError
from claudedo.model import (
    USER,
    Message,
    Priority,
    Receipts,
    SessionState,
    Task,
    check_body,
    new_id,
    now,
)
from claudedo_worker import mcp_server
from claudedo_worker.live import LiveSession
from claudedo_worker.store import Store

BURST, BURST_SECONDS = 30, 60.0
"""So many messages from one session to one task in so many seconds: more is a loop."""


class Mailbox:
    """Stores what is said to tasks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: dict[tuple[str, str], deque[float]] = {}
        self._slowed: set[tuple[str, str]] = set()

    async def send(
        self,
        task: Task,
        body: str,
        *,
        sender: Task | None,
        key: str | None,
        priority: Priority = Priority.NORMAL,
        reply_to: str | None = None,
    ) -> Message:
        """Store a message from the person (`sender` None) or from a task's session.

        The same again from the same sender under the same `key` gives the message that was stored
        the first time. Raises `UsageError` for a bad body, `ForbiddenError`, `NotFoundError` for an
        unknown `reply_to`, `ConflictError` for a `key` that belongs to another message,
        `RefusedError` when a session writes to another without end.
        """
        check_body(body)
        if sender and priority is Priority.HALT:
            raise ForbiddenError("Only a person may halt a session.")
        if reply_to:
            await self._check_reply(reply_to)
        name = f"task:{sender.id}" if sender else USER
        repeated = key is not None and await self._store.message_by_key(name, key)
        if sender and not repeated:
            await self._slow_down(sender, task)
        at = now()
        message, _ = await self._store.add_message(
            Message(
                id=new_id("m"),
                task_id=task.id,
                sender=name,
                sender_name=sender.name if sender else USER,
                body=body,
                priority=priority,
                reply_to=reply_to,
                created_at=at,
                receipts=Receipts(stored_at=at),
            ),
            key or new_id("k"),
        )
        return message

    async def _check_reply(self, reply_to: str) -> None:
        try:
            await self._store.message(reply_to)
        except NotFoundError as error:
            raise NotFoundError(f"There is no message {reply_to!r} to reply to.") from error

    async def reach(self, sender: Task) -> list[Task]:
        """The tasks that a session may write to: those of its workspace, and its peers."""
        tasks = [t for t in await self._store.tasks() if t.workspace_id == sender.workspace_id]
        return tasks + [t for t in await self._store.peers(sender.id) if t not in tasks]

    async def check_reach(self, sender: Task, task: Task) -> None:
        """Raise `ForbiddenError` if a session of `sender` may not write to `task`."""
        if task.id not in {near.id for near in await self.reach(sender)}:
            raise ForbiddenError(
                f"{task.name} belongs to another workspace and is no peer of {sender.name}: a "
                "session cannot write to it. The user can link the two."
            )

    async def _slow_down(self, sender: Task, task: Task) -> None:
        """Refuse a message that is one too many; the first refusal of a burst is told to people."""
        at = time.monotonic()
        times = self._recent.setdefault((sender.id, task.id), deque(maxlen=BURST))
        if len(times) < BURST or at - times[0] >= BURST_SECONDS:
            times.append(at)
            self._slowed.discard((sender.id, task.id))
            return
        if (sender.id, task.id) not in self._slowed:
            self._slowed.add((sender.id, task.id))
            payload = {"sender": sender.name, "recipient": task.name}
            await self._store.add_event("peers.slowed", task, payload)
        raise RefusedError(
            f"Not sent: {BURST} messages to {task.name} within a minute. Collect what you have to "
            "say in one message, and wait for the answer before you write again."
        )


class SessionCaller:
    """What one session's tools may do: always for its own task."""

    def __init__(self, store: Store, mailbox: Mailbox, live: LiveSession) -> None:
        self._store = store
        self._mailbox = mailbox
        self._live = live

    async def check_inbox(
        self, task_id: str | None, limit: int | None, tool_use_id: str | None
    ) -> dict[str, Any]:
        """Lend the undelivered messages to this call; another task's are refused."""
        self._check_own(task_id)
        messages, pending = await self._live.courier.check_inbox(tool_use_id, limit)
        listed = [mcp_server.message_json(message) for message in messages]
        return {"messages": listed, "pending": pending}

    async def inbox_status(self, task_id: str | None) -> dict[str, Any]:
        """How many messages wait."""
        self._check_own(task_id)
        return {"pending": await self._store.pending(self._live.task.id)}

    async def send(
        self,
        target: str | None,
        body: str,
        *,
        reply_to: str | None,
        priority: Priority,
        tool_use_id: str | None,
    ) -> dict[str, Any]:
        """Write to a task, or to a peer ("peer:NAME"; "peer:" means the only one)."""
        task = await self._target(target or "peer:")
        if reply_to:
            # The call shows that the model read that message: let the transcript say so first.
            await self._live.courier.proven(tool_use_id)
        message = await self._mailbox.send(
            task,
            body,
            sender=self._live.task,
            key=f"{self._live.session.conversation}:{tool_use_id}" if tool_use_id else None,
            priority=priority,
            reply_to=reply_to,
        )
        sent = protocol.sent_json(message)
        return {"id": sent["id"], "task_id": task.id, "receipts": sent["receipts"]}

    async def list_peers(self) -> dict[str, Any]:
        """The linked tasks."""
        peers = []
        for peer in await self._store.peers(self._live.task.id):
            session = await self._store.latest_session(peer.id)
            state = session.state if session else SessionState.STOPPED
            peers.append(
                {
                    "task_id": peer.id,
                    "name": peer.name,
                    "status": peer.status,
                    "session_state": state,
                }
            )
        return {"peers": peers}

    def _check_own(self, task_id: str | None) -> None:
        if task_id and task_id not in (self._live.task.id, self._live.task.name):
            raise ForbiddenError("You can only look into your own inbox; leave `task_id` out.")

    async def _target(self, target: str) -> Task:
        if target.startswith("peer:"):
            return await self._peer(target.removeprefix("peer:"))
        tasks = await self._mailbox.reach(self._live.task)
        found = [task for task in tasks if target in (task.id, task.name)]
        if len(found) > 1:
            ids = ", ".join(f"{task.id} in {task.workspace}" for task in found)
            raise AmbiguousError(f"Several tasks are called {target!r}; give an id: {ids}.")
        if not found:
            names = ", ".join(sorted(t.name for t in tasks if t.id != self._live.task.id))
            raise NotFoundError(f"There is no task {target!r} here; there are: {names or 'none'}.")
        return found[0]

    async def _peer(self, name: str) -> Task:
        peers = await self._store.peers(self._live.task.id)
        chosen = [peer for peer in peers if not name or name in (peer.name, peer.id)]
        names = ", ".join(peer.name for peer in peers) or "none"
        if not chosen:
            raise NotFoundError(f"There is no peer {name!r}; your peers: {names}.")
        if len(chosen) > 1 and name:
            ids = ", ".join(f"{peer.id} in {peer.workspace}" for peer in chosen)
            raise AmbiguousError(f"Several peers are called {name!r}; give an id as `peer`: {ids}.")
        if len(chosen) > 1:
            raise AmbiguousError(f"You have several peers; name one with `peer`: {names}.")
        return chosen[0]
