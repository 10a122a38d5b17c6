"""Brings a one-shot's messages into its session, as lines on the standard input of its process.

A line goes into the next request of the turn that runs, or starts a turn. Several that wait are
joined by the CLI into one, so there is one at a time: while it is on its way, new messages wait.
The CLI gives the line back when the model is about to get it, and takes a line of the same uuid
only once (docs/claude-cli.md 34.3): what a killed worker may have written is written again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from claudedo.holding import HolderGoneError, HolderRefusedError
from claudedo.model import Attempt, Message, Priority, Session, Task, Transport
from claudedo_worker import envelope
from claudedo_worker.inbox import Inbox, batch
from claudedo_worker.receipts import Receipts
from claudedo_worker.store import Store
from claudedo_worker.stream_json import interrupt_line, line_id, user_line

log = logging.getLogger(__name__)

WRITE_PATIENCE = 5.0
"""Seconds that a process may leave its input unread before it is looked at again."""

ASKED = "You are asked to go on with your task."


class Pipe(Protocol):
    """The input of the process."""

    async def write(self, data: bytes) -> None:
        """Raises `HolderRefusedError` if it is closed, `HolderGoneError` if nobody can tell."""
        ...

    async def finish_input(self) -> None:
        """Let the process read to the end of what was written."""
        ...


class StreamCourier(Inbox):
    """Delivery for one process of a one-shot. All methods may be called concurrently."""

    def __init__(
        self,
        store: Store,
        task: Task,
        session: Session,
        receipts: Receipts,
        pipe: Pipe,
        *,
        resumes: str | None = None,
        begun: bool = False,
    ) -> None:
        """`resumes`: why the conversation goes on, if it does; "" if there is nothing to say of it.

        `begun`: a turn of this process was seen.
        """
        super().__init__(store, task, session, receipts)
        self.pipe = pipe  # another one once the connection was lost
        self._resumes = resumes
        self._begun = begun
        self._finished = False
        # Written by an earlier worker, or not: only the transcript tells what came of these.
        self._doubtful = {a.id for a in receipts.open.values() if a.transport is Transport.STREAM}
        self._again = set(self._doubtful)
        self._halted: set[str] = set()  # messages for which the turn was ended

    @property
    def takes_mail(self) -> bool:
        """True until the input is finished."""
        return not self._finished

    @property
    def begun(self) -> bool:
        """True if this process was told something."""
        return self._begun

    @property
    def halted(self) -> bool:
        """True if a turn was ended for a halt message."""
        return bool(self._halted)

    def connect(self, pipe: Pipe) -> None:
        """The connection was lost and is there again: what was on its way is doubtful."""
        self.pipe = pipe
        self._doubtful |= {attempt.id for attempt in self._on_the_way()}
        self._again |= self._doubtful & self._receipts.open.keys()

    def begin(self) -> None:
        """A turn of this process was seen."""
        self._begun = True

    async def echoed(self, uuids: set[str]) -> None:
        """The CLI gave these lines back: they are in the context.

        Of a line that was written twice older versions give back the second copy at once (34.3),
        so of a doubtful one only the transcript counts.
        """
        self._begun = True
        async with self._lock:
            for attempt in self._on_the_way():
                if line_id(attempt.id) in uuids and attempt.id not in self._doubtful:
                    await self._receipts.entered(attempt)

    async def step(self) -> None:
        """Read the transcript; write what may be written now."""
        async with self._lock:
            await self._sync()
            if self._finished:
                return
            for attempt in self._on_the_way():
                if attempt.id in self._again:
                    await self._write(attempt, await self._text(attempt))
            await self._halt()
            if self._on_the_way():
                return
            if mail := batch(await self._deliverable()):
                attempt = await self._offer(Transport.STREAM, mail)
                await self._write(attempt, await self._text(attempt))
            elif self._resumes is not None and not self._begun:
                unread = [await self._store.message(item) for item in self._receipts.unread]
                attempt = await self._remind(Transport.STREAM, unread)
                await self._write(attempt, await self._text(attempt))
            self._begun = self._begun or bool(self._on_the_way())

    async def finish(self, *, whatever: bool = False) -> bool:
        """Let the process end if it has all its mail; True if it may.

        What is stored until then is given before, what is stored later stays unread. `whatever`:
        even with mail that it does not have.
        """
        async with self._lock:
            await self._sync()
            if self._finished:
                return True
            if not whatever and (self._on_the_way() or await self._deliverable()):
                return False
            await self.pipe.finish_input()
            self._finished = True
            return True

    def _on_the_way(self) -> list[Attempt]:
        return [a for a in self._receipts.open.values() if a.transport is Transport.STREAM]

    async def _halt(self) -> None:
        """End the turn that runs, once for each halt message; the message then starts another."""
        halts = {message.id for message in await self._deliverable() if _halts(message)}
        if not halts - self._halted:
            return
        if self._begun and not await self._send(interrupt_line(f"halt-{min(halts)}")):
            return
        self._halted |= halts

    async def _text(self, attempt: Attempt) -> str:
        """The same for the same attempt: a new worker writes the line that an old one wrote."""
        if attempt.reminder:
            return envelope.resumed(attempt.id, attempt.message_ids, self._resumes or ASKED)
        mail = [await self._store.message(item) for item in attempt.message_ids]
        return envelope.letter(attempt.id, mail, await self._store.noticed(self._task.id))

    async def _write(self, attempt: Attempt, text: str) -> None:
        try:
            if await self._send(user_line(text, line_id(attempt.id))):
                self._again.discard(attempt.id)
        except HolderRefusedError:  # it closed its input, or has ended: nobody will read it
            self._finished = True
            await self._void(attempt)

    async def _send(self, line: bytes) -> bool:
        """False if it may be there, or not: then it is written once more."""
        try:
            async with asyncio.timeout(WRITE_PATIENCE):
                await self.pipe.write(line)
        except TimeoutError:
            log.info("its input is full", extra={"action": "input_full", "task": self._task.name})
            return True  # it is in order, and arrives when the process reads
        except HolderGoneError:
            return False
        return True


def _halts(message: Message) -> bool:
    return message.priority is Priority.HALT
