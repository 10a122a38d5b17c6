"""Brings a task's messages into its live session, by whichever path works in its present state.

One courier per live session. It is asked by hooks and by `check_inbox`, and it looks by itself at
every step of the watch. It stores an attempt before it makes it; what became of the attempt is
read from the transcript by `receipts`. docs/delivery.md tells the same as a table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from claudedo.model import (
    USER,
    Attempt,
    Message,
    Priority,
    Session,
    SessionState,
    Task,
    Transport,
)
from claudedo_worker import envelope
from claudedo_worker.clock import working_time
from claudedo_worker.failures import Schedule
from claudedo_worker.inbox import HALTED, Inbox
from claudedo_worker.receipts import Receipts
from claudedo_worker.store import Store

SETTLE = 2.0
"""Seconds after the client's pong within which its queue is on disk (measured: up to 0.4)."""

TURN_START = 1.0
"""Seconds within which the registry file follows the first hook of a turn."""

QUEUE_STALE = 30.0
"""Seconds of idleness after which a client that answers cannot still hold what it queued before."""

WAITER_DUE = 3.0
"""Seconds of idleness after which no waiter is to be expected any more."""

REMIND_AT_STOP = 2
"""How often the end of one turn is put off to remind of the same mail (the CLI allows 8, 6.9)."""

NUDGE_AGAIN = (30.0, 120.0, 600.0, 3600.0)
"""Seconds until an idle session that ignored a reminder is reminded again."""

GO_ON = 5
"""How many messages one line names that asks to go on with them."""

CHECK_INBOX = "mcp__claudedo__check_inbox"

NOT_YOURS = "Only the main conversation takes its mail: what a subagent reads does not reach it."


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What an idle session is to be woken for.

    `held`: the mail, if any, is in its context already; it only has to go on. `retry`: its last
    turn was refused by the API, and this one is counted.
    """

    mail: tuple[Message, ...]
    held: bool = False
    retry: bool = False


class Links(Protocol):
    """The ways into a session that are open at this moment."""

    async def push(self, content: str, meta: dict[str, str]) -> bool:
        """Send a channel notification; False if no bridge is there to take it."""
        ...

    async def ping(self) -> bool:
        """True once the client answered, and so has handled all that was sent before."""
        ...

    async def wake(self, text: str) -> bool:
        """Let the waiter end with this text; False if there is none."""
        ...

    async def type(self, text: str) -> bool:
        """Type a line into the idle terminal; False if it could not be submitted."""
        ...

    def can_push(self) -> bool:
        """True if a push can be taken: the tools were listed long enough ago (17.2)."""
        ...

    def can_wake(self) -> bool:
        """True if a waiter waits."""
        ...

    async def can_type(self) -> bool:
        """True if no draft stands in the input box and nobody typed a moment ago."""
        ...


class Courier(Inbox):
    """Delivery for one live session. All methods may be called concurrently."""

    def __init__(
        self,
        store: Store,
        task: Task,
        session: Session,
        links: Links,
        receipts: Receipts,
        schedule: Schedule | None = None,
        clock: Callable[[], float] = working_time,
    ) -> None:
        super().__init__(store, task, session, receipts)
        self._schedule = schedule or Schedule()
        self._links = links
        self._clock = clock
        self._idle_since: float | None = None
        self._turn_began: float | None = None  # a hook of a running turn was called
        self._last_call: str | None = None  # the main conversation's newest tool call
        self._stops: dict[str, int] = {}  # message -> reminders at the end of this turn
        self._nudges: dict[str, tuple[int, float]] = {}  # message -> reminders, next allowed
        self._compactions = 0  # of this conversation, as far as we acted on them
        self._pongs: dict[str, float] = {}  # open attempt -> when a later ping was answered

    # What the session asks

    async def hook(self, event: str, call: dict[str, Any]) -> dict[str, Any]:
        """The answer to a hook of this session; `{}` = nothing to say.

        `call` holds the substituted inputs (22.2); an `agent_id` marks a subagent, whose hooks
        would put the text into the subagent's context (6.7).
        """
        async with self._lock:
            if event in ("PreToolUse", "PostToolBatch") and (halt := await self._halt(event, call)):
                return halt
            if call.get("agent_id"):
                return _of_subagent(event, call)
            within_turn = self._turn_began is not None
            self._turn_began = self._clock()
            self._idle_since = None
            match event:
                case "PreToolUse":
                    self._last_call = call.get("tool_use_id") or None
                case "PostToolBatch":
                    return await self._between_calls()
                case "Stop":
                    return await self._at_turn_end()
                case "UserPromptSubmit" if not within_turn:
                    # The newer CLI calls it for text typed while a turn runs, too (8.1).
                    return await self._at_turn_start()
            return {}

    # What the watch does

    async def step(self) -> None:
        """Read the transcript; give what can be given to an idle session; settle old attempts.

        What takes seconds (a ping, the terminal) is done while hooks are answered.
        """
        async with self._lock:
            idle = await self._sees_idle()
            await self._tell_failure()
            if not idle:
                return
            unanswered = await self._settle()
            to_type = await self._serve_idle()
        if unanswered and await self._links.ping():
            self._pongs |= dict.fromkeys(unanswered, self._clock())
        if to_type and await self._links.can_type():
            await self._type()

    async def move(self, receipts: Receipts) -> None:
        """The person typed /clear or /resume: another conversation goes on in this process."""
        async with self._lock:
            await self._receipts.close()
            await self._receipts.forget()
            self._receipts = receipts
            self._turn_began = self._last_call = None
            for remembered in (self._stops, self._nudges, self._pongs):
                remembered.clear()

    def goes_on(self) -> bool:
        """True if the session is to go on now where the API refused its turn."""
        return self._receipts.broken_off and self._schedule.due(self.session.failure)

    # Within a turn

    async def _at_turn_start(self) -> dict[str, Any]:
        await self._sync()
        self._last_call = None
        return await self._give("UserPromptSubmit", await self._deliverable(), None, remind=True)

    async def _between_calls(self) -> dict[str, Any]:
        await self._sync()
        # A call belongs to one batch: a later batch whose calls we were not asked about has none.
        call, self._last_call = self._last_call, None
        mail = [m for m in await self._deliverable() if m.priority is not Priority.HALT]
        # Each new message is announced once; after that the end of the turn asks again.
        fresh = any(message.receipts.offered_at is None for message in mail)
        return await self._give("PostToolBatch", mail, call, remind=fresh)

    async def _at_turn_end(self) -> dict[str, Any]:
        await self._sync()
        mail = [
            message
            for message in await self._deliverable()
            if self._stops.get(message.id, 0) < REMIND_AT_STOP
        ]
        for message in mail:
            self._stops[message.id] = self._stops.get(message.id, 0) + 1
        insistent = any(self._stops[message.id] > 1 for message in mail)
        output = await self._give("Stop", mail, None, remind=True, altered=insistent)
        if not output:
            self._turn_began = None  # what is queued may start the next turn at once (4.7)
        return output

    async def _give(
        self,
        event: str,
        mail: Sequence[Message],
        tool_use_id: str | None,
        *,
        remind: bool,
        altered: bool = False,
    ) -> dict[str, Any]:
        """Hand over what fits, and remind of the rest. `altered`: even what the CLI will escape."""
        bodies = envelope.fitting(
            [m for m in mail if altered or envelope.passes_unchanged(m.body)],
            envelope.HOOK_LIMIT - 300,
        )
        rest = [message for message in mail if message not in bodies]
        parts = []
        if bodies:
            attempt = await self._offer(Transport.HOOK, bodies, tool_use_id=tool_use_id)
            noticed = await self._store.noticed(self._task.id)
            parts.append(envelope.letter(attempt.id, bodies, noticed))
        if rest and remind:
            attempt = await self._remind(Transport.HOOK, rest, tool_use_id)
            parts.append(envelope.reminder(attempt.id, len(rest)))
        if not parts:
            return {}
        context = {"hookEventName": event, "additionalContext": "\n".join(parts)}
        return {"hookSpecificOutput": context}

    async def _halt(self, event: str, call: dict[str, Any]) -> dict[str, Any]:
        """Refuse every call until the model has answered with the halt message in its context.

        A denied call does not end a turn, so the end of the batch does, a subagent's too (14.1,
        14.2).
        """
        if not await self._store.halting(self._task.id):
            return {}
        if call.get("tool_name") == CHECK_INBOX and not call.get("agent_id"):
            return {}  # the way to a halt message that is too large for a hook
        await self._sync()
        if not call.get("agent_id") and await self._answers_halt(call.get("tool_use_id")):
            return {}
        if event == "PostToolBatch":
            return {"continue": False, "stopReason": HALTED}
        return _refusal(HALTED)

    async def _answers_halt(self, tool_use_id: str | None) -> bool:
        """True if this call is part of an answer to the halt message.

        The lines that show so are written up to 0.4 s after the hook is called, so they are
        awaited; only once the message was handed over, or every refused call would take that long.
        """
        attempts = [a for a in self._receipts.open.values() if not a.reminder]
        handed = {message_id for attempt in attempts for message_id in attempt.message_ids}
        halts = await self._store.halting(self._task.id)
        if not tool_use_id or any(
            halt.receipts.delivered_at is None and halt.id not in handed for halt in halts
        ):
            return False
        for _ in range(50):
            if not await self._store.halting(self._task.id):
                return True
            await asyncio.sleep(0.02)
            await self._sync()
        return False

    # Between turns

    async def _sees_idle(self) -> bool:
        await self._sync()
        if self.session.state is not SessionState.IDLE or self._turn_just_began():
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = self._clock()
            self._turn_began = None
            self._stops.clear()
        return True

    async def _serve_idle(self) -> bool:
        """Start a turn if there is a reason; True if only the terminal is left to do so."""
        errand = await self._due()
        if errand is None:
            return False
        if self.session.channel is not False and self._links.can_push():
            await self._push(errand)
        elif self._links.can_wake():
            await self._wake(errand)
        else:
            return self._idle_for() >= WAITER_DUE
        return False

    async def _due(self) -> Errand | None:
        """What an idle session is to be woken for now; nothing while an attempt is open.

        That is mail that may be given. Else it is to go on where its turn broke off, unless
        somebody makes it go on before.
        """
        if self._receipts.open:
            return None
        mail = await self._deliverable()
        if self._receipts.refusal is not None:
            return await self._due_after_refusal(mail)
        held = not mail and self._receipts.broken_off and self._idle_for() >= NUDGE_AGAIN[0]
        chosen = await self._held() if held else mail
        ready = [m for m in chosen if self._nudges.get(m.id, (0, 0.0))[1] <= self._clock()]
        return Errand(mail=tuple(ready), held=held) if ready else None

    async def _due_after_refusal(self, mail: Sequence[Message]) -> Errand | None:
        """New mail at once; what it was told of before waits as long as the rest of its turn."""
        fresh = [message for message in mail if message.id not in self._nudges]
        if fresh:
            return Errand(mail=tuple(fresh))
        if not self.goes_on():
            return None
        held = [] if mail else await self._held()
        if not self.goes_on():  # another session went on meanwhile
            return None
        return Errand(mail=tuple(mail or held), held=not mail, retry=True)

    async def _held(self) -> list[Message]:
        """What is in the context and was not answered: as many as one line names."""
        held = [await self._store.message(item) for item in self._receipts.unread]
        return [message for message in held if message.receipts.read_at is None][:GO_ON]

    async def _tell_failure(self) -> None:
        """Keep in the record what the API refused, until the model answers again."""
        refusal, before = self._receipts.refusal, self.session.failure
        failure = None
        if refusal is not None:
            failure = self._schedule.failure(
                refusal,
                session_id=self.session.id,
                tries=before.tries if before else 0,
                waiting=self._receipts.broken_off and not self._receipts.open,
            )
        self.session = await self._store.change_session(self.session, failure=failure)

    def _take_turn(self, errand: Errand) -> None:
        """Hold back the other sessions, before anything is waited for: they ask meanwhile."""
        if errand.retry:
            self._schedule.take()

    async def _count_retry(self, errand: Errand) -> None:
        if errand.retry and self.session.failure is not None:
            failure = replace(self.session.failure, tries=self.session.failure.tries + 1)
            self.session = await self._store.change_session(self.session, failure=failure)
            await self._tell_failure()

    def _reminder(self, attempt: Attempt, errand: Errand) -> str:
        if errand.held:
            return envelope.go_on(attempt.id, attempt.message_ids, refused=errand.retry)
        return envelope.reminder(attempt.id, len(errand.mail))

    async def _push(self, errand: Errand) -> None:
        """Push the first message's body, or a reminder if it has that or it would be altered."""
        self._take_turn(errand)
        first = errand.mail[0] if errand.mail else None
        whole = first is not None and not errand.held and envelope.fitting([first])
        if first is not None and whole and envelope.passes_unchanged(first.body):
            attempt = await self._offer(Transport.CHANNEL, [first])
            noticed = await self._store.noticed(self._task.id)
            text = envelope.letter(attempt.id, [first], noticed)
        else:
            attempt = await self._remind(Transport.CHANNEL, errand.mail)
            text = self._reminder(attempt, errand)
            self._count_nudge(errand.mail)
        await self._count_retry(errand)
        if not await self._links.push(text, _meta(self._task, attempt, first)):
            await self._void(attempt)

    async def _wake(self, errand: Errand) -> None:
        """Start a turn with a reminder; the turn's first hook hands over the bodies."""
        self._take_turn(errand)
        attempt = await self._remind(Transport.WAITER, errand.mail)
        woken = await self._links.wake(self._reminder(attempt, errand))
        await self._nudged(attempt, errand, woken)

    async def _type(self) -> None:
        """The same by a typed line, unless the session or its mail moved on meanwhile."""
        async with self._lock:
            await self._sync()
            errand = await self._due()
            if errand is None or self._idle_since is None:
                return
            self._take_turn(errand)
            attempt = await self._remind(Transport.TYPED, errand.mail)
            text = self._reminder(attempt, errand)
        typed = await self._links.type(text)
        async with self._lock:
            await self._nudged(attempt, errand, typed)

    async def _nudged(self, attempt: Attempt, errand: Errand, made: bool) -> None:
        if made:
            self._count_nudge(errand.mail)
            await self._count_retry(errand)
        else:
            await self._void(attempt)

    async def _settle(self) -> list[str]:
        """Void what the client, idle and answering, provably no longer holds.

        The client must answer a ping sent after the attempt, and its transcript, read after that
        answer was on disk, must not name the attempt. Returns the attempts to send a ping after.
        """
        idle = self._idle_for()
        if idle < SETTLE:
            return []
        unanswered = []
        for attempt in list(self._receipts.open.values()):
            queued_at = self._receipts.queued.get(attempt.id)
            if queued_at is not None and min(idle, self._clock() - queued_at) < QUEUE_STALE:
                continue
            answered = self._pongs.get(attempt.id)
            if answered is None:
                unanswered.append(attempt.id)
            elif self._clock() - answered >= SETTLE:
                await self._give_up(attempt)
        return unanswered

    async def _give_up(self, attempt: Attempt) -> None:
        queued = attempt.id in self._receipts.queued
        await self._void(attempt)
        if attempt.transport is Transport.CHANNEL and not queued:
            # Handled by the client and not even queued: this session has no channel (4.2).
            self.session = await self._store.change_session(self.session, channel=False)
            for message_id in attempt.message_ids:
                self._nudges.pop(message_id, None)  # the other ways are tried at once

    def _idle_for(self) -> float:
        return 0.0 if self._idle_since is None else self._clock() - self._idle_since

    def _turn_just_began(self) -> bool:
        """True while the registry file may still say idle of a turn whose hook was called."""
        return self._turn_began is not None and self._clock() - self._turn_began < TURN_START

    # Attempts

    async def _void(self, attempt: Attempt) -> None:
        await super()._void(attempt)
        self._pongs.pop(attempt.id, None)

    async def _sync(self) -> None:
        await super()._sync()
        if self._compactions != self._receipts.compactions:
            self._compactions = self._receipts.compactions
            self._nudges.clear()

    def _count_nudge(self, mail: Sequence[Message]) -> None:
        for message in mail:
            count, _ = self._nudges.get(message.id, (0, 0.0))
            pause = NUDGE_AGAIN[min(count, len(NUDGE_AGAIN) - 1)]
            self._nudges[message.id] = (count + 1, self._clock() + pause)


def _of_subagent(event: str, call: dict[str, Any]) -> dict[str, Any]:
    """Nothing to say to it, and nothing to give: its context is not the session's."""
    asks = event == "PreToolUse" and call.get("tool_name") == CHECK_INBOX
    return _refusal(NOT_YOURS) if asks else {}


def _refusal(reason: str) -> dict[str, Any]:
    decision = {
        "hookEventName": "PreToolUse",
        "permissionDecision": "deny",
        "permissionDecisionReason": reason,
    }
    return {"hookSpecificOutput": decision}


def _meta(task: Task, attempt: Attempt, message: Message | None) -> dict[str, str]:
    """The attributes of a channel push (wire contract): strings all (4.11).

    Without a message the push is our own word.
    """
    if message is None:
        ours = {"message_id": attempt.id, "sender": "claudedo", "user": "claudedo"}
        return {"chat_id": task.id, **ours, "ts": attempt.created_at, "priority": Priority.NORMAL}
    meta = {
        "chat_id": message.thread,
        "message_id": message.id,
        "sender": message.sender,
        "user": "human" if message.sender == USER else message.sender_name,
        "ts": message.created_at,
        "priority": message.priority,
    }
    files = ",".join(file.id for file in message.attachments)
    return {**meta, "attachments": files} if files else meta
