"""The attempts to bring a task's messages into its live session, whichever way they take.

What all ways have in common: an attempt is stored before it is made, what became of it is read from
the transcript by `receipts`, and the model may fetch its messages by itself. See `courier` for a
session with a terminal, `stream_courier` for one without.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from claudedo.errors import ClaudedoError
from claudedo.model import Attempt, Message, Session, Task, Transport, new_id, now
from claudedo_worker import envelope, mcp_server
from claudedo_worker.receipts import Receipts
from claudedo_worker.store import Store
from claudedo_worker.transcript import Transcript

INBOX_LIMIT = 400_000
"""Encoded characters in one `check_inbox` result, a body of any legal size included."""

HALTED = "A person halted this session. Stop now: no further tool calls. Their message follows."


class Inbox:
    """The messages of one live session. All methods may be called concurrently."""

    def __init__(self, store: Store, task: Task, session: Session, receipts: Receipts) -> None:
        self.session = session  # replaced by the live session whenever the record changes
        self._store = store
        self._task = task
        self._receipts = receipts
        self._lock = asyncio.Lock()

    @property
    def transcript(self) -> Transcript:
        """The transcript that the receipts are read from."""
        return self._receipts.transcript

    async def check_inbox(
        self, tool_use_id: str | None, limit: int | None
    ) -> tuple[list[Message], int]:
        """Lend deliverable messages to one `check_inbox` call; returns them and what is pending.

        The same call again (a replay by the bridge) gets the same messages again.
        """
        async with self._lock:
            await self._sync()
            mine = [a for a in self._receipts.open.values() if a.transport is Transport.INBOX]
            again = next((a for a in mine if a.tool_use_id == tool_use_id), None)
            if again:
                chosen = [await self._store.message(item) for item in again.message_ids]
            else:
                chosen = batch(await self._store.deliverable(self._task.id), limit)
                if chosen:
                    await self._offer(Transport.INBOX, chosen, tool_use_id=tool_use_id)
            pending = await self._store.pending(self._task.id) - len(chosen)
            return chosen, max(pending, 0)

    async def proven(self, tool_use_id: str | None) -> None:
        """Wait, up to a second, until the line with this tool call is on disk and counted.

        A call that answers a message proves that the model read it; the line that shows so is
        written up to 0.4 s after the call arrives here.
        """
        for _ in range(50):
            async with self._lock:
                await self._sync()
            if not tool_use_id or self._receipts.transcript.knows_call(tool_use_id):
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """The process is gone: what its transcript does not show did not arrive."""
        async with self._lock:
            await self._receipts.close()

    # Attempts

    async def _offer(
        self, transport: Transport, mail: Sequence[Message], *, tool_use_id: str | None = None
    ) -> Attempt:
        return await self._attempt(transport, mail, tool_use_id, reminder=False)

    async def _remind(
        self, transport: Transport, mail: Sequence[Message], tool_use_id: str | None = None
    ) -> Attempt:
        return await self._attempt(transport, mail, tool_use_id, reminder=True)

    async def _attempt(
        self,
        transport: Transport,
        mail: Sequence[Message],
        tool_use_id: str | None,
        *,
        reminder: bool,
    ) -> Attempt:
        attempt = Attempt(
            id=new_id("a"),
            session_id=self.session.id,
            conversation=self._receipts.conversation,
            transport=transport,
            reminder=reminder,
            message_ids=tuple(message.id for message in mail),
            created_at=now(),
            tool_use_id=tool_use_id,
        )
        # Known here first: cancelled while it is stored, it may be stored all the same.
        self._receipts.add(attempt)
        try:
            await self._store.add_attempt(attempt)
        except ClaudedoError:
            self._receipts.drop(attempt)
            raise
        return attempt

    async def _void(self, attempt: Attempt) -> None:
        await self._receipts.void(attempt)

    async def _deliverable(self) -> list[Message]:
        return await self._store.deliverable(self._task.id)

    async def _sync(self) -> None:
        await self._receipts.sync()


def batch(mail: Sequence[Message], limit: int | None = None) -> list[Message]:
    """The first messages that fit into one result, at least one, at most `limit`."""
    chosen: list[Message] = []
    room = INBOX_LIMIT - 50  # what stands around them
    for message in mail[: limit or len(mail)]:
        encoded = json.dumps(mcp_server.message_json(message), ensure_ascii=False)
        room -= envelope.size(encoded) + len(", ")
        if chosen and room < 0:
            break
        chosen.append(message)
    return chosen
