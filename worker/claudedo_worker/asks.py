"""The asks of one live session: held permission requests, their decisions, and who was first.

A request is held from the hook call until it is decided here, or the session shows that it was
decided or given up there. What is stored comes first, then it is handed over; who really decided is
read from the transcript, which outlives every process (docs/asks.md). Knows neither HTTP nor what
a terminal looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claudedo.errors import ConflictError
from claudedo.model import Ask, AskKind, AskOutcome, DecidedBy, SessionState, Task, new_id, now
from claudedo_worker import ask_text, decision
from claudedo_worker.clock import working_time
from claudedo_worker.decision import Decision, Output, Ruling
from claudedo_worker.store import Store
from claudedo_worker.verdict import Verdict, Verdicts, of_subagent, plan_file

log = logging.getLogger(__name__)

HELD_PATIENCE = 10.0
"""Seconds that a decision waits for a bridge which sends its held call to a new worker again."""

PROOF_PATIENCE = 6.0
"""Seconds to wait for the line that shows who decided (measured: up to 0.6)."""

RUNS = 1.0
"""Seconds after which what was allowed is taken to run: its line comes only when it has ended."""

LEFT = 1.0
"""Seconds after a dialog's end within which a refusal there is on disk; else it was a yes."""

GIVEN_UP = 2.0
"""Seconds after a cancelled request within which the transcript says why."""

LATELY = 120.0
"""Seconds for which a new worker doubts what its predecessor thought was decided."""

READ_EVERY = 0.5
"""Seconds between two looks into the transcript for an ask of which nothing else is heard."""

SELDOM = 10.0
"""The same for one that was decided long ago: its line comes when its tool has ended, if ever."""

DRAWN = 1.0
"""Seconds after which a terminal that waited all the time waits with the dialog of this ask."""

GLANCE = 0.02
CALLS_KEPT = 200


@dataclass
class Held:
    """One ask of which the session may still say something."""

    ask: Ask
    verdicts: Verdicts | None
    since: float  # when it was opened, or taken up
    answer: asyncio.Future[Output] | None = None  # None: its bridge has not sent it (again) yet
    worked: bool = False  # the session was seen not to wait: the dialog before is gone
    shown: bool = False  # its dialog was seen: the terminal waits, and not for the one before
    decided_at: float | None = None  # when it was closed, by whomever
    left_at: float | None = None  # when the terminal stopped waiting
    passed_at: float | None = None  # when a hook showed that the session is past it
    given_up_at: float | None = None
    ruling: Ruling | None = None  # decided here
    bare: bool = True
    found: str | None = None  # the tool call, as the transcript knows it
    read_at: float = float("-inf")
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # nothing more will be said

    @property
    def agent(self) -> str:
        """The subagent that asks; empty for the main conversation."""
        return self.ask.agent or ""

    @property
    def is_over(self) -> bool:
        """True once the session has an answer of its own, or wants none any more."""
        return not (self.left_at is self.passed_at is self.given_up_at is None)

    @property
    def is_provable(self) -> bool:
        """True if it is known which call the transcript will tell of."""
        return self.verdicts is not None and (self.ask.tool_use_id or self.found) is not None

    def verdict(self) -> Verdict:
        """What the transcript says of it."""
        tool_use_id = self._tool_use_id()
        if self.verdicts is None or tool_use_id is None:
            return Verdict()
        verdict = self.verdicts.of(tool_use_id, self.ask.opened_at)
        if self.ruling is not None and verdict.hook is None and self._bears_out(verdict):
            return replace(verdict, hook=self.ruling.behavior)
        return verdict

    def _tool_use_id(self) -> str | None:
        """Which call it is about; no worker may have been there to be told."""
        if self.found is None and self.ask.tool_use_id is None and self.verdicts is not None:
            ask = self.ask
            self.found = self.verdicts.find(ask.tool or "", ask.input, ask.opened_at)
        return self.ask.tool_use_id or self.found

    def _bears_out(self, verdict: Verdict) -> bool:
        """True if what became of the call is what was decided here, where no line says by whom."""
        if self.ruling is not None and self.ruling.message is not None:
            return verdict.error == self.ruling.message
        return self.agent != "" and verdict.result == "ran"  # 28.2

    def hand_over(self, output: Output) -> None:
        """Answer the held call, once."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(output)


class Asks:
    """What one session asks. Its methods run on the worker's one event loop."""

    def __init__(
        self,
        store: Store,
        task: Task,
        session_id: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._task = task
        self._session_id = session_id
        self._clock = clock or working_time
        self._held: dict[str, Held] = {}
        self._calls: OrderedDict[str, tuple[str, str, str]] = OrderedDict()
        self._files: dict[Path, Verdicts] = {}
        self._sent_again: frozenset[str] = frozenset()
        self._cancelled: deque[str] = deque(maxlen=CALLS_KEPT)  # perhaps before they were stored
        self._state = SessionState.STARTING
        self._closing = asyncio.Lock()

    async def load(self, transcript: str | None) -> None:
        """Take up what an earlier worker left open; the bridge will send the calls again."""
        for ask in await self._store.asks_of_session(self._session_id):
            if ask.closed_at is None:
                held = Held(ask, self._file_of(ask, transcript), self._clock(), shown=True)
                self._held[ask.id] = held
            elif ask.decided_by is DecidedBy.USER and _age(ask.closed_at) < LATELY:
                held = Held(ask, self._file_of(ask, transcript), self._clock())
                held.ruling, held.decided_at = decision.of_kept(ask), self._clock()
                self._held[ask.id] = held

    def headline(self) -> str | None:
        """What the session waits for, in a line; None if it asks nothing."""
        waiting = sorted(self._open(), key=lambda held: (held.agent != "", held.ask.opened_at))
        return f"{waiting[0].ask.kind}: {waiting[0].ask.title}" if waiting else None

    # What the session's hooks say

    async def hold(self, key: str, call: dict[str, Any]) -> Output:
        """The answer to a held PermissionRequest; `{}` if it was not decided here.

        `key` says which call of which bridge it is: the same call sent again finds its ask.
        """
        ask = await self._store.add_ask(await self._draft(key, call))
        for earlier in self._open(ask.agent or ""):
            if earlier.ask.opened_at < ask.opened_at:  # one after the other (13.11): that is over
                self._pass(earlier)
        if ask.closed_at is not None and ask.decided_by is not DecidedBy.USER:
            return {}
        new = Held(ask, None, self._clock(), shown=key in self._sent_again)
        new.worked = self._state is not SessionState.WAITING
        held = self._held.setdefault(ask.id, new)
        held.verdicts = self._file_of(ask, call.get("transcript_path"))
        held.given_up_at = None
        if key in self._cancelled:
            self._give_up(held)
        if ask.closed_at is not None:  # decided, and perhaps not handed over before
            held.ruling = held.ruling or decision.of_kept(ask)
            return held.ruling.output
        answer: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        held.answer = answer
        try:
            return await answer
        finally:
            if held.answer is answer:
                held.answer = None

    def saw(self, event: str, call: dict[str, Any]) -> None:
        """Another hook of the session: what it tells of the asks of the same agent."""
        agent = call.get("agent_id") or ""
        if event == "PreToolUse" and call.get("tool_use_id"):
            about = (agent, str(call.get("tool_name")), str(call.get("tool_input")))
            self._calls[call["tool_use_id"]] = about
            if len(self._calls) > CALLS_KEPT:
                self._calls.popitem(last=False)
            return
        # The calls announced before are done. Text typed ahead is a prompt, too, and ends nothing
        # (8.1): which call an ask is about is then found in the transcript.
        self._calls = OrderedDict(
            (own, about) for own, about in self._calls.items() if about[0] != agent
        )
        if event in ("PostToolBatch", "Stop"):
            for held in self._open(agent):
                self._pass(held)

    def cancelled(self, key: str) -> None:
        """The client gave up a held call: refused in its dialog, or cut off with the turn."""
        self._cancelled.append(key)
        for held in self._held.values():
            if held.ask.call == key:
                self._give_up(held)

    def still_held(self, keys: frozenset[str]) -> None:
        """A bridge is back and says which calls it holds; the others ended meanwhile.

        Those it sends again. Their dialogs were drawn long ago, and may have been answered.
        """
        self._sent_again = keys
        for held in self._open():
            if held.ask.call not in keys:
                self._give_up(held)

    def bridge_came(self, name: str) -> None:
        """A bridge is there: what another one held is lost."""
        for held in self._open():
            if not str(held.ask.call).startswith(f"{name}:"):
                self._give_up(held)

    def conversation_left(self) -> None:
        """Another conversation goes on (/clear): the main one asks nothing any more."""
        for held in self._open(""):
            self._give_up(held)

    # What the watch does

    async def step(self, state: SessionState) -> None:
        """Close what the session decided or gave up; find out who was first where it is open."""
        self._state = state
        for held in list(self._held.values()):
            self._note_terminal(held)
            await self._look(held)

    async def _look(self, held: Held) -> None:
        """Judge an ask if it is time to; let go of one of which nothing more is to be expected."""
        old = self._since(held.decided_at) > LATELY
        urgent = held.is_over and not held.closed.is_set() and not old
        if urgent or self._clock() - held.read_at > (SELDOM if old else READ_EVERY):
            await self._judge(held)
        if old and self._state is SessionState.IDLE:
            self._forget(held)

    async def deny_all(self, reason: str) -> None:
        """A person halted the session: say no to all that it asks."""
        for held in self._open():
            if held.answer is not None:
                await self._rule(held, Decision(decision=decision.DENY, reason=reason))

    async def close(self) -> None:
        """The process is gone: nobody can decide what it asked."""
        for held in list(self._held.values()):
            await self._judge(held)
            if not held.closed.is_set() and held.ruling is None:
                await self._finish(held, AskOutcome.GONE, DecidedBy.SESSION)

    # What a person decides

    async def decide(self, ask_id: str, said: Decision) -> Ask:
        """Decide an ask; returns it once it is known who decided, or after a few seconds.

        Raises `ConflictError` if somebody else did, `UsageError` and `RefusedError` if the decision
        does not fit the ask.
        """
        decision.rule(await self._store.ask(ask_id), said)
        held = await self._reached(ask_id)
        if held is None or not await self._rule(held, said):
            await self._over(held)
            raise conflict(await self._store.ask(ask_id))
        await self._proven(held)
        ask = await self._store.ask(ask_id)
        same = held.ruling is not None and ask.outcome is held.ruling.outcome and held.bare
        if ask.decided_by is not DecidedBy.USER and not same:
            raise conflict(ask)
        return ask

    async def _reached(self, ask_id: str) -> Held | None:
        """The held call of an open ask; None if it is closed. Raises `ConflictError`."""
        until = self._clock() + HELD_PATIENCE
        while True:
            held = self._held.get(ask_id)
            if held is None or held.ruling is not None:
                return None
            if held.answer is not None or held.is_over or held.closed.is_set():
                return held
            if self._clock() >= until:
                raise ConflictError(
                    f"{self._task.name} is not connected to claudedo just now; answer at its "
                    f"terminal: `claudedo attach {self._task.name}`."
                )
            await asyncio.sleep(GLANCE)

    async def _rule(self, held: Held, said: Decision) -> bool:
        """Store the decision, then hand it over; False if it is not the first."""
        ruling = decision.rule(held.ask, said)
        async with self._closing:
            if held.ruling is not None or held.is_over or held.closed.is_set():
                return False
            ask, first = await self._store.close_ask(
                held.ask.id, ruling.outcome, DecidedBy.USER, ruling.kept
            )
            if first:
                held.ask, held.ruling, held.bare = ask, ruling, said.is_bare
                held.decided_at = self._clock()
                held.hand_over(ruling.output)
            return first

    async def _proven(self, held: Held) -> None:
        """Wait, up to a few seconds, until the transcript shows who decided.

        A refusal shows at once. If it does not, and the dialog is closed, somebody said yes there,
        and what they allowed is still running.
        """
        assert held.ruling is not None
        began = self._clock()
        while not held.closed.is_set() and self._since(began) < PROOF_PATIENCE:
            if self._since(began) > RUNS and self._runs(held):
                return
            await self._judge(held)
            await asyncio.sleep(GLANCE)
        refused = held.ruling.outcome is AskOutcome.DENIED and held.is_provable
        if not held.closed.is_set() and refused and self._state is SessionState.BUSY:
            await self._correct(held, _outcome(held.ask, Verdict()))

    def _runs(self, held: Held) -> bool:
        """True if what was allowed here seems to run: nobody refused it in the dialog.

        That would have ended the turn (28.5); but the session works on, or asks the next thing.
        """
        assert held.ruling is not None
        next_one = any(o.ask.opened_at > held.ask.opened_at for o in self._open(held.agent))
        works = self._state is SessionState.BUSY or next_one
        return works and held.given_up_at is None and held.ruling.outcome is AskOutcome.ALLOWED

    async def _over(self, held: Held | None) -> None:
        if held is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held.closed.wait(), 2 * GIVEN_UP)

    # Judging

    def _note_terminal(self, held: Held) -> None:
        """Follow the dialog of an ask: it is there while the terminal waits, and then it is not.

        Of a subagent's ask it says nothing: that one may have no dialog (13.11), and what the
        terminal waits for may be another's.
        """
        if held.agent:
            return
        if self._state is SessionState.WAITING:
            held.shown = held.shown or held.worked or self._since(held.since) > DRAWN
            held.left_at = None
            return
        held.worked = True
        if held.shown and self._state is SessionState.BUSY:
            held.left_at = held.left_at or self._clock()
        elif held.shown and held.ruling is None:
            self._give_up(held)  # the turn is over: its lines say what became of the call, or none

    async def _judge(self, held: Held) -> None:
        async with self._closing:
            if held.ask.id not in self._held:
                return
            held.read_at = self._clock()
            verdict = await asyncio.to_thread(held.verdict)
            if held.ruling is not None:
                await self._prove(held, verdict)
            elif not held.closed.is_set():
                await self._notice(held, verdict)
            elif verdict.hook or verdict.result:  # what was taken for a yes can be seen now
                await self._correct(held, _outcome(held.ask, verdict))
                self._forget(held)

    async def _notice(self, held: Held, verdict: Verdict) -> None:
        """Close an open ask if it was decided in the session, or nobody can decide it any more."""
        if verdict.hook or verdict.result:
            await self._finish(held, _outcome(held.ask, verdict), DecidedBy.TERMINAL)
        elif self._since(held.passed_at) > LEFT:
            await self._close(held, _outcome(held.ask, Verdict()), DecidedBy.TERMINAL)
        elif held.given_up_at is not None:
            if self._since(held.given_up_at) > GIVEN_UP:
                await self._finish(held, AskOutcome.GONE, DecidedBy.SESSION)
        elif self._since(held.left_at) > LEFT:
            await self._close(held, _outcome(held.ask, Verdict()), DecidedBy.TERMINAL)

    async def _prove(self, held: Held, verdict: Verdict) -> None:
        """Compare a decision made here with what the session shows of it."""
        assert held.ruling is not None
        if verdict.hook:
            await self._correct(held, held.ruling.outcome, DecidedBy.USER)
            self._forget(held)
        elif verdict.result:
            await self._correct(held, _outcome(held.ask, verdict))
            self._forget(held)
        elif self._since(held.given_up_at) > GIVEN_UP:
            await self._correct(held, AskOutcome.GONE, DecidedBy.SESSION)
            self._forget(held)
        elif held.verdicts is None:
            self._forget(held)  # no way to tell; the answer was the first that we know of

    async def _close(self, held: Held, outcome: AskOutcome, decided_by: DecidedBy) -> None:
        """Close an ask; if its call is known its transcript may still say otherwise."""
        held.ask, _ = await self._store.close_ask(held.ask.id, outcome, decided_by)
        held.decided_at = self._clock()
        held.hand_over({})
        held.closed.set()

    async def _finish(self, held: Held, outcome: AskOutcome, decided_by: DecidedBy) -> None:
        await self._close(held, outcome, decided_by)
        self._forget(held)

    async def _correct(
        self, held: Held, outcome: AskOutcome, by: DecidedBy = DecidedBy.TERMINAL
    ) -> None:
        if (held.ask.outcome, held.ask.decided_by) != (outcome, by):
            log.info("decided otherwise", extra={"action": "ask_corrected", "ask": held.ask.id})
            held.ask = await self._store.correct_ask(held.ask.id, outcome, by)

    def _forget(self, held: Held) -> None:
        self._held.pop(held.ask.id, None)
        held.closed.set()

    def _since(self, moment: float | None) -> float:
        return 0.0 if moment is None else self._clock() - moment

    def _pass(self, held: Held) -> None:
        if held.given_up_at is None:
            held.passed_at = held.passed_at or self._clock()

    def _give_up(self, held: Held) -> None:
        held.given_up_at = held.given_up_at or self._clock()

    def _open(self, agent: str | None = None) -> list[Held]:
        """The asks that nobody decided, of one agent or of all."""
        return [
            held
            for held in self._held.values()
            if held.ruling is None and not held.closed.is_set() and agent in (None, held.agent)
        ]

    # Reading a call

    async def _draft(self, key: str, call: dict[str, Any]) -> Ask:
        opened_at = now()  # what the session says from here on is about it
        tool, given = str(call.get("tool_name") or ""), _object(call.get("tool_input"))
        folder = self._task.worktree or self._task.repo
        kind, title, body = await asyncio.to_thread(
            _describe, tool, given, Path(folder) if folder else None, call.get("transcript_path")
        )
        return Ask(
            id=new_id("k"),
            task_id=self._task.id,
            session_id=self._session_id,
            kind=kind,
            title=title,
            body=body,
            tool=tool,
            input=given,
            suggestions=_objects(call.get("permission_suggestions")),
            agent=call.get("agent_id") or None,
            call=key,
            tool_use_id=self._tool_use(call),
            opened_at=opened_at,
        )

    def _tool_use(self, call: dict[str, Any]) -> str | None:
        """Which tool call it is: the oldest equal one that its agent announced and not yet asked.

        The request itself does not say (13.4); the PreToolUse hook just before it does.
        """
        about = (
            call.get("agent_id") or "",
            str(call.get("tool_name")),
            str(call.get("tool_input")),
        )
        found = next((own for own, known in self._calls.items() if known == about), None)
        if found is not None:
            del self._calls[found]
        return found

    def _file_of(self, ask: Ask, transcript: str | None) -> Verdicts | None:
        if not transcript:
            return None
        path = of_subagent(Path(transcript), ask.agent) if ask.agent else Path(transcript)
        return self._files.setdefault(path, Verdicts(path))


def conflict(ask: Ask) -> ConflictError:
    """Why an ask cannot be decided any more."""
    if ask.closed_at is None:
        return ConflictError("The session is just going on without an answer; look again.")
    if ask.outcome is AskOutcome.GONE:
        return ConflictError("Nobody can answer this any more: the session went on without.")
    where = "in its terminal" if ask.decided_by is DecidedBy.TERMINAL else "here"
    return ConflictError(f"This was {ask.outcome} {where} already.")


async def close_all(store: Store, session_id: str) -> None:
    """The session is over: what it still asked is gone."""
    for ask in await store.asks_of_session(session_id):
        if ask.closed_at is None:
            await store.close_ask(ask.id, AskOutcome.GONE, DecidedBy.SESSION)


def _age(at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()


def _outcome(ask: Ask, verdict: Verdict) -> AskOutcome:
    if verdict.hook == "deny" or (verdict.hook is None and verdict.result == "rejected"):
        return AskOutcome.DENIED
    return AskOutcome.ANSWERED if ask.kind is AskKind.QUESTION else AskOutcome.ALLOWED


def _describe(
    tool: str, given: dict[str, Any], folder: Path | None, transcript: str | None
) -> tuple[AskKind, str, str]:
    if tool == ask_text.PLAN and "plan" not in given and transcript:
        given = {**given, "planFilePath": str(plan_file(Path(transcript)) or "")}
    return ask_text.describe(tool, given, folder)


def _object(text: Any) -> dict[str, Any]:
    """A substituted object (22.2); what is none is kept under its own name."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"tool_input": value}


def _objects(text: Any) -> tuple[dict[str, Any], ...]:
    try:
        value = json.loads(text) if isinstance(text, str) and text else []
    except (ValueError, RecursionError):
        return ()
    found = value if isinstance(value, list) else []
    return tuple(item for item in found if isinstance(item, dict))
