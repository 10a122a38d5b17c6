"""What the MCP tools about tasks do for one party: a session, or a client with a token.

Takes the words of the wire contract and gives its results as JSON. Who may do what is decided in
`threads`; knows nothing of MCP.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from claudedo import protocol
from claudedo.errors import TooLargeError, UsageError
from claudedo.model import USER, Assignee, Message, Task, TaskStatus
from claudedo_worker.attachments import Attachments
from claudedo_worker.store import Store
from claudedo_worker.threads import Party, Threads

STDIO_ROOM = 11 * 2**20
"""Bytes of a file that fit, in base64, into one message of a stdio server: a longer message ends
the connection (docs/claude-cli.md 12.3)."""


class TaskTools:
    """The tools about tasks, always as one party."""

    def __init__(
        self,
        store: Store,
        threads: Threads,
        attachments: Attachments,
        party: Party,
    ) -> None:
        self._store = store
        self._threads = threads
        self._attachments = attachments
        self._party = party

    async def create(
        self,
        title: str,
        body: str,
        assignee: Assignee,
        attachments: Sequence[Any],
        key: str | None,
    ) -> dict[str, Any]:
        """Make a task in the party's workspace. The same `key` never makes two."""
        task = await self._threads.create(
            self._party,
            self._party.workspace_id or "",
            title=title,
            body=body,
            assignee=assignee,
            attachments=attachments,
            key=key,
        )
        return {"task_id": task.id}

    async def move(self, target: str | None, status: TaskStatus) -> dict[str, Any]:
        """Say how far a task is."""
        task = await self._find(target)
        moved = await self._threads.move(self._party, task, status)
        return {"task_id": task.id, "status": moved.status, "previous": task.status}

    async def reply(
        self,
        target: str | None,
        text: str,
        attachments: Sequence[Any],
        key: str | None,
        reply_to: str | None = None,
    ) -> dict[str, Any]:
        """Say something in a task's thread."""
        chat = await self._find(target)
        message = await self._threads.say(
            self._party, chat, text, attachments=attachments, reply_to=reply_to, key=key
        )
        return {"message_id": message.id}

    async def messages(
        self, target: str | None, cursor: str | None, limit: int | None
    ) -> dict[str, Any]:
        """A page of a task's thread; the first one holds what was said last."""
        return await self._conversation(await self._find(target), cursor, limit)

    async def task(
        self, target: str | None, cursor: str | None, limit: int | None, *, conversation: bool
    ) -> dict[str, Any]:
        """One task; without a target the next that nobody works on, claimed."""
        if target:
            task = await self._threads.find(self._party, target)
        elif (claimed := await self._threads.claim(self._party)) is not None:
            task = claimed
        else:
            return {"task_id": None, "note": "No task waits to be claimed."}
        files = await self._store.attachments_of_task(task.id)
        shown = _task_json(task) | {
            "attachments": [protocol.attachment_json(file) for file in files if file.message_id]
        }
        if conversation:
            shown |= await self._conversation(task, cursor, limit)
        return shown

    async def workspace(self) -> dict[str, Any]:
        """The project that the party works in."""
        workspace = await self._store.workspace(self._party.workspace_id or "")
        return {
            "id": workspace.id,
            "name": workspace.name,
            "description": f"The repository {workspace.root}",
            "counts": dict(await self._store.counts(workspace.id)),
        }

    async def attachment(self, attachment_id: str) -> dict[str, Any]:
        """The bytes of a file that a message carries, in base64.

        Raises `NotFoundError`, also for one out of the party's reach, and `TooLargeError` for one
        that a session must get by command.
        """
        file = await self._threads.attachment(self._party, attachment_id)
        if self._party.task_id and file.size > STDIO_ROOM:
            raise TooLargeError(
                f"{file.filename} has {file.size:,} bytes, which is too much for this tool. Run "
                f"`claudedo attachment {file.id} -o FILE` in the shell to get it."
            )
        data = base64.b64encode(await self._attachments.read(file)).decode()
        return {"filename": file.filename, "mimeType": file.mime_type, "data": data}

    async def _find(self, target: str | None) -> Task:
        wanted = target or self._party.task_id
        if wanted is None:
            raise UsageError("Say which task: `task_id`.")
        return await self._threads.find(self._party, wanted)

    async def _conversation(
        self, task: Task, cursor: str | None, limit: int | None
    ) -> dict[str, Any]:
        page = await self._threads.messages(self._party, task, cursor, limit)
        return {
            "messages": [_message_json(message) for message in page.messages],
            "nextCursor": page.older,
            "newerCursor": page.newer,
        }


def _task_json(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "name": task.name,
        "title": task.title or task.name,
        "body": task.body,
        "status": task.status,
        "assignee": task.assignee,
        "creator": task.creator,
        "holder": task.holder,
        "held_until": task.held_until if task.holder else None,
        "created_at": task.created_at,
    }


def _message_json(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": "human" if message.sender == USER else "agent",
        "sender": message.sender,
        "sender_name": message.sender_name,
        "text": message.body,
        "ts": message.created_at,
        "attachments": [protocol.attachment_json(file) for file in message.attachments],
    }
