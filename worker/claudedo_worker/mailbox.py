"""Sending: who may write what to whom. A message is stored first; couriers learn of it then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from claudedo import protocol
from claudedo.errors import AmbiguousError, ForbiddenError, NotFoundError
from claudedo.model import Message, Priority, SessionState, Task
from claudedo_worker import mcp_server
from claudedo_worker.linked import Linked
from claudedo_worker.store import Store
from claudedo_worker.task_tools import TaskTools
from claudedo_worker.threads import PERSON, Threads, session_of


class Mailbox:
    """Stores what is said to tasks by the person, and by command from within a session."""

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads

    async def send(
        self,
        task: Task,
        body: str,
        *,
        sender: Task | None,
        key: str | None,
        priority: Priority = Priority.NORMAL,
        reply_to: str | None = None,
        attachments: Sequence[str] = (),
    ) -> Message:
        """Say something in a task's thread: the person (`sender` None), or a task's session.

        `attachments` are ids of files that were uploaded. Raises what `Threads.say` does.
        """
        party = session_of(sender) if sender else PERSON
        return await self._threads.say(
            party,
            task,
            body,
            given=attachments,
            reply_to=reply_to,
            priority=priority,
            key=key,
        )

    async def reach(self, sender: Task) -> list[Task]:
        """The tasks that a session may write to: those of its workspace, and its peers."""
        return await self._threads.reach(session_of(sender))

    async def check_reach(self, sender: Task, task: Task) -> None:
        """Raise `ForbiddenError` if a session of `sender` may not write to `task`."""
        if task.id not in {near.id for near in await self.reach(sender)}:
            raise ForbiddenError(
                f"{task.name} belongs to another workspace and is no peer of {sender.name}: a "
                "session cannot write to it. The user can link the two."
            )


class SessionCaller:
    """What one session's tools may do: always for its own task."""

    def __init__(
        self,
        store: Store,
        mailbox: Mailbox,
        live: Linked,
        tools: TaskTools,
    ) -> None:
        self._store = store
        self._mailbox = mailbox
        self._live = live
        self._tools = tools

    @property
    def tools(self) -> TaskTools:
        """The tools about tasks."""
        return self._tools

    async def begin(self, tool_use_id: str | None) -> str | None:
        """Let the transcript show first that the model read what it may be about to answer."""
        await self._live.courier.proven(tool_use_id)
        return self._key(tool_use_id)

    def _key(self, tool_use_id: str | None) -> str | None:
        return f"{self._live.session.conversation}:{tool_use_id}" if tool_use_id else None

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
            key=self._key(tool_use_id),
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
