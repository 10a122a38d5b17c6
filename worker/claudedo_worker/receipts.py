"""Compares what a transcript proves with what was offered to that conversation.

Confirms attempts whose context line is there, voids those that provably did not make it, and
marks messages read once the model answered with them in its context. Decides nothing about
offering; see `courier`. The rules and their sources are told in docs/delivery.md.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from claudedo.model import Attempt, Outcome, Transport
from claudedo_worker.clock import working_time
from claudedo_worker.envelope import ATTEMPT
from claudedo_worker.store import Store
from claudedo_worker.transcript import (
    Answer,
    Compacted,
    Context,
    Enqueued,
    Fact,
    Refusal,
    Transcript,
)

LINE_PATIENCE = 0.5
"""Seconds for which lines may be written in another order than they came about."""

VOIDED = 64
"""How many attempts that were given up are kept, to be known if their line comes after all."""

_INTERRUPTED = "[Request interrupted by user"
"""How the line begins that the CLI writes at an Esc."""

_COMMANDS = ("<command-", "<local-command-")
"""How the lines of slash commands begin. Newer and older CLIs type one after a limit (29.5)."""

_CHANNEL = re.compile(r"<channel\b[^>]*>\n")
"""What the CLI puts before a push; values are escaped, so its first `>` ends it (4.5, 4.11)."""


@dataclass
class Receipts:
    """The attempts of one conversation, and what became of them.

    `queued` are attempts that the client took into its queue, and when that was seen: they are in
    its memory and come into the context later, unless the process ends.
    """

    store: Store
    conversation: str
    transcript: Transcript
    open: dict[str, Attempt] = field(default_factory=dict)
    queued: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = working_time
    compactions: int = 0  # how many were seen
    broken_off: bool = False  # the last turn ended without an answer, and nobody wanted it to
    refusal: Refusal | None = None  # by the API, since the model last answered
    _interrupted: bool = False  # by the person
    _failure: Answer | None = None  # the newest one
    _facts: deque[Fact] = field(default_factory=deque)  # read, and not yet acted on
    _voided: deque[Attempt] = field(default_factory=lambda: deque(maxlen=VOIDED))  # with bodies
    _unread: dict[str, Attempt] = field(default_factory=dict)  # message -> what last gave it
    _contexts: dict[str, Context] = field(default_factory=dict)  # attempt with unread -> its line
    # In a session's first turn lines are not written in the order of time, so an answer may be read
    # before the lines it follows: it is judged again at every reading.
    _answers: deque[tuple[float, Answer]] = field(default_factory=lambda: deque(maxlen=64))

    @classmethod
    async def load(
        cls,
        store: Store,
        conversation: str,
        transcript: Transcript,
        clock: Callable[[], float] = working_time,
    ) -> Receipts:
        """Take up the attempts that an earlier worker left, and read the transcript to its end."""
        receipts = cls(store, conversation, transcript, clock=clock)
        receipts.open = {a.id: a for a in await store.open_attempts(conversation)}
        for attempt in await store.unread_attempts(conversation):
            receipts._unread |= dict.fromkeys(attempt.message_ids, attempt)
        # A long conversation's file has many megabytes: others are not kept waiting.
        receipts._facts.extend(await asyncio.to_thread(transcript.read))
        await receipts._act()
        return receipts

    def add(self, attempt: Attempt) -> None:
        """An attempt is about to be stored, then to be made."""
        self.open[attempt.id] = attempt

    def drop(self, attempt: Attempt) -> None:
        """The attempt is not, or no longer, waited for."""
        self.open.pop(attempt.id, None)
        if attempt in self._voided:
            self._voided.remove(attempt)
        self.queued.pop(attempt.id, None)

    @property
    def unread(self) -> list[str]:
        """The messages that are in the context and not answered to, oldest first."""
        return sorted(self._unread)

    def resume(self) -> None:
        """Another process takes the conversation up: it does not go on by itself."""
        self.broken_off = not self._interrupted

    def pardon(self) -> None:
        """The refusal is a matter of the past: nothing is to go on because of it."""
        self.refusal = None

    async def sync(self) -> None:
        """Read what is new in the transcript and act on it.

        What could not be written down (a full disk, say, or the caller is cancelled) is acted on
        by the next call: the store is changed first, then what is remembered here, and to change
        the store the same way twice does no harm.
        """
        self._facts.extend(self.transcript.read())
        await self._act()

    async def close(self) -> None:
        """The process has left this conversation: what its transcript lacks did not arrive."""
        await self.sync()
        for attempt in await self.store.open_attempts(self.conversation):
            await self.void(attempt)
        self.open.clear()
        self.queued.clear()
        given = {attempt.id: attempt for attempt in self._unread.values()}
        for attempt in given.values():
            # The client said that it is in the context, and was killed before it wrote the line.
            if attempt.transport is Transport.STREAM and attempt.id not in self._contexts:
                await self._forget(attempt.id)

    async def entered(self, attempt: Attempt) -> None:
        """The client says that the attempt is in the context; its line may be written later."""
        await self.store.confirm(attempt)
        self.drop(attempt)
        if not attempt.reminder:
            self._unread |= dict.fromkeys(attempt.message_ids, attempt)

    async def forget(self, kept: frozenset[str] = frozenset()) -> None:
        """The context is gone, but for a summary and the lines `kept`.

        What was not read must be given again (11.8).
        """
        for attempt_id, context in list(self._contexts.items()):
            if context.uuid not in kept:
                await self._forget(attempt_id)

    async def forget_side_lines(self) -> None:
        """The process that resumes this drops what hangs beside the chain of its newest line.

        So do versions before 2.1.330 with the results of a parallel batch, but for one.
        """
        for attempt_id, context in list(self._contexts.items()):
            if not self.transcript.on_main_chain(context):
                await self._forget(attempt_id)

    async def void(self, attempt: Attempt, outcome: Outcome = Outcome.VOID) -> None:
        """The attempt did not reach the context: its messages may be given again."""
        await self.store.end_attempt(attempt, outcome)
        self.drop(attempt)
        if outcome is Outcome.VOID and not attempt.reminder:
            self._voided.append(attempt)

    async def _act(self) -> None:
        while self._facts:
            await self._take(self._facts[0])
            self._facts.popleft()
        await self._judge()

    async def _take(self, fact: Fact) -> None:
        match fact:
            case Context():
                await self._entered(fact)
                if fact.kind in ("prompt", "channel", "rewake"):
                    self._begin(fact)
            case Enqueued():
                for attempt_id in _named(fact.text) & self.open.keys():
                    self.queued.setdefault(attempt_id, self.clock())
            case Answer(failed=True):
                self.broken_off = True
                self._failure = fact
                self.refusal = fact.refusal or self.refusal
            case Answer():
                self.broken_off = False
                self.refusal = None
                self._answers.append((self.clock(), fact))
            case Compacted():
                await self._judge()
                await self.forget(fact.kept)
                self.compactions += 1

    def _begin(self, prompt: Context) -> None:
        """A turn began, or an Esc ended one; the line may stand behind the turn's failure."""
        if prompt.text.startswith(_COMMANDS):
            return  # no turn, or one whose prompt follows
        if self._failure is None or not self.transcript.carries(self._failure, prompt):
            self.broken_off = False
        self._interrupted = prompt.text.startswith(_INTERRUPTED)
        if self._interrupted:
            self.refusal = None  # there the person decided

    async def _entered(self, context: Context) -> None:
        # Of a voided one, too: better late than given twice.
        for attempt in [a for a in (*self.open.values(), *self._voided) if _shows(context, a)]:
            if context.kind == "channel-busy" and not attempt.reminder:
                # The CLI frames it as untrusted, not to be acted on (4.6): it counts as offered.
                await self.void(attempt, Outcome.NOTICE)
                continue
            await self.entered(attempt)
        for attempt in self._unread.values():
            if attempt.id not in self._contexts and _shows(context, attempt):
                self._contexts[attempt.id] = context
        if context.kind == "error" and context.tool_use_id:
            await self._failed_call(context.tool_use_id)

    async def _failed_call(self, tool_use_id: str) -> None:
        for attempt in list(self.open.values()):
            if attempt.transport is Transport.INBOX and attempt.tool_use_id == tool_use_id:
                await self.void(attempt)

    async def _judge(self) -> None:
        """Say what the answers read so far prove of the attempts that are not settled."""
        for read_at, answer in self._answers if self.open or self._contexts else ():
            settled = self.clock() - read_at >= LINE_PATIENCE
            if settled:
                await self._void_passed(answer)
            for attempt_id, context in list(self._contexts.items()):
                if self.transcript.carries(answer, context):
                    await self._mark_read(attempt_id)
                elif settled and self.transcript.leaves_out(answer, context):
                    await self._forget(attempt_id)

    async def _void_passed(self, answer: Answer) -> None:
        """The model went on after a call, and the line is not there: it never will be (11.3)."""
        for attempt in list(self.open.values()):
            if attempt.tool_use_id and self.transcript.follows_call(answer, attempt.tool_use_id):
                await self.void(attempt)

    async def _mark_read(self, attempt_id: str) -> None:
        await self.store.mark_read(self._last_given_by(attempt_id))
        self._settle(attempt_id)

    async def _forget(self, attempt_id: str) -> None:
        await self.store.forget(self._last_given_by(attempt_id))
        self._settle(attempt_id)

    def _last_given_by(self, attempt_id: str) -> list[str]:
        return [message for message, last in self._unread.items() if last.id == attempt_id]

    def _settle(self, attempt_id: str) -> None:
        for message in self._last_given_by(attempt_id):
            self._unread.pop(message)
        self._contexts.pop(attempt_id, None)


def _named(text: str) -> set[str]:
    return set(ATTEMPT.findall(text))


def _shows(context: Context, attempt: Attempt) -> bool:
    """True if this line is the one by which the attempt enters the context.

    The kind of line must fit the transport, and the attempt's name must stand where we put it.
    """
    match attempt.transport:
        case Transport.INBOX:
            same = context.tool_use_id == attempt.tool_use_id
            return context.kind == "result" and same and _holds(context.text, attempt.message_ids)
        case Transport.HOOK:
            return context.kind == "hook" and _says(context.text, attempt)
        case Transport.CHANNEL:
            pushed = context.kind in ("channel", "channel-busy")
            # Newer versions may put a line of their own before it (4.5).
            opened = _CHANNEL.search(context.text) if pushed else None
            return opened is not None and _says(context.text[opened.end() :], attempt)
        case Transport.WAITER:
            return context.kind == "rewake" and _says(context.text, attempt)
        case Transport.TYPED | Transport.STREAM:
            return context.kind in ("prompt", "queued") and _says(context.text, attempt)


def _says(text: str, attempt: Attempt) -> bool:
    """Bodies count only in a text that opens with the attempt; a reminder may follow a letter."""
    if attempt.reminder:
        return attempt.id in _named(text)
    found = ATTEMPT.match(text)
    return found is not None and found.group(1) == attempt.id


def _holds(result: str, message_ids: tuple[str, ...]) -> bool:
    try:
        messages = json.loads(result).get("messages", [])
        return {message["id"] for message in messages} >= set(message_ids)
    except (ValueError, AttributeError, TypeError, KeyError):
        return False
