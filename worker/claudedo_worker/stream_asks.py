"""What the session of a one-shot asks, and its answers, as lines of its output and input.

A tool call that needs permission waits until it is answered here: by a person, or after a time by
what was set beforehand. With no time at all nobody is asked, and nothing is stored. The answer is
stored before it is written; the process says which answers it read, so a new worker knows which
are still to be given (docs/claude-cli.md 34).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claudedo.holding import HolderGoneError, HolderRefusedError
from claudedo.model import Ask, AskKind, AskOutcome, DecidedBy, Rules, Task, new_id, now
from claudedo_worker import ask_text, decision
from claudedo_worker.asks import conflict
from claudedo_worker.decision import Decision, Output, Ruling
from claudedo_worker.store import Store
from claudedo_worker.stream_json import Permission, response_line

log = logging.getLogger(__name__)

READ_PATIENCE = 3.0
"""Seconds that a decision waits until the process has read it."""

Write = Callable[[bytes], Awaitable[None]]


@dataclass
class Asked:
    """One tool call that waits, and what was decided."""

    request: Permission
    ask: Ask | None = None  # None: nobody is asked
    ruling: Ruling | None = None
    written: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)  # it does not wait any more


class StreamAsks:
    """What one process of a one-shot asks. Its methods run on the worker's one event loop."""

    def __init__(
        self, store: Store, task: Task, session_id: str, rules: Rules, write: Write
    ) -> None:
        self._store = store
        self._task = task
        self._session_id = session_id
        self._rules = rules
        self._write = write
        self._waiting: dict[str, Asked] = {}
        self._closing = asyncio.Lock()

    async def load(self, requests: Iterable[Permission]) -> None:
        """Take up what waits; what an earlier worker asked and nothing waits for is gone."""
        self._waiting = {request.request_id: Asked(request) for request in requests}
        for ask in await self._store.asks_of_session(self._session_id):
            if ask.closed_at is None and ask.call not in self._waiting:
                await self._store.close_ask(ask.id, AskOutcome.GONE, DecidedBy.SESSION)

    def headline(self) -> str | None:
        """What the session waits for, in a line; None if it asks nothing."""
        asks = [w.ask for w in self._waiting.values() if w.ask is not None and w.ruling is None]
        return f"{asks[0].kind}: {asks[0].title}" if asks else None

    @property
    def is_open(self) -> bool:
        """True while the process waits for an answer: its input must not be closed (34.5)."""
        return bool(self._waiting)

    # What the process says

    def asked(self, request: Permission) -> None:
        """A tool call waits for a decision."""
        self._waiting.setdefault(request.request_id, Asked(request))

    async def gone(self, request_id: str) -> None:
        """The process does not wait any more: it read the answer, or was interrupted."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        waiting.over.set()
        if waiting.ask is not None and waiting.ruling is None:
            await self._store.close_ask(waiting.ask.id, AskOutcome.GONE, DecidedBy.SESSION)

    # What the watch does

    async def step(self) -> None:
        """Ask a person what is new; answer what nobody answered in time, and what is decided."""
        for waiting in list(self._waiting.values()):
            if waiting.ask is None and waiting.ruling is None:
                await self._open(waiting)
            if waiting.ruling is None and self._is_late(waiting):
                await self._settle(waiting)
            if waiting.ruling is not None and not waiting.written:
                await self._answer(waiting)

    def lost(self) -> None:
        """The connection was lost: what was decided is written once more, which does no harm."""
        for waiting in self._waiting.values():
            waiting.written = False

    async def deny_all(self, reason: str) -> None:
        """A person halted the session: say no to all that it asks."""
        for waiting in list(self._waiting.values()):
            said = Decision(decision=decision.DENY, reason=reason)
            await self._rule(waiting, said, DecidedBy.USER)

    async def close(self) -> None:
        """The process is gone: nobody can decide what it asked."""
        for request_id in list(self._waiting):
            await self.gone(request_id)

    # What a person decides

    async def decide(self, ask_id: str, said: Decision) -> Ask:
        """Decide an ask; returns it once the process has read the answer, or after some seconds.

        Raises `ConflictError` if it is decided already, `UsageError` and `RefusedError` if the
        decision does not fit the ask.
        """
        decision.rule(await self._store.ask(ask_id), said)
        for waiting in list(self._waiting.values()):  # a new worker may not have looked yet
            if waiting.ask is None and waiting.ruling is None:
                await self._open(waiting)
        found = [w for w in self._waiting.values() if w.ask is not None and w.ask.id == ask_id]
        if not found or not await self._rule(found[0], said, DecidedBy.USER):
            raise conflict(await self._store.ask(ask_id))
        await self._answer(found[0])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(found[0].over.wait(), READ_PATIENCE)
        return await self._store.ask(ask_id)

    async def _rule(self, waiting: Asked, said: Decision, by: DecidedBy) -> bool:
        """Store a decision; False if it is not the first."""
        async with self._closing:
            if waiting.ask is None or waiting.ruling is not None:
                return False
            ruling = decision.rule(waiting.ask, said)
            ask, first = await self._store.close_ask(
                waiting.ask.id, ruling.outcome, by, ruling.kept
            )
            waiting.ask = ask
            waiting.ruling = ruling if first else decision.of_kept(ask)
            return first

    # Pieces

    async def _open(self, waiting: Asked) -> None:
        """Store the ask, or find it as an earlier worker left it."""
        if self._rules.ask_timeout <= 0:
            await self._settle(waiting)
            return
        drafted = await self._draft(waiting.request)
        ask = await self._store.add_ask(drafted)
        waiting.ask = ask
        if ask.closed_at is not None and ask.outcome is not AskOutcome.GONE:
            waiting.ruling = decision.of_kept(ask)

    def _is_late(self, waiting: Asked) -> bool:
        if waiting.ask is None:
            return True
        opened = datetime.fromisoformat(waiting.ask.opened_at)
        return (datetime.now(UTC) - opened).total_seconds() >= self._rules.ask_timeout

    async def _settle(self, waiting: Asked) -> None:
        """Nobody is there: what was set beforehand holds."""
        ask = waiting.ask or await self._draft(waiting.request)
        said = self._default(ask)
        if waiting.ask is not None:
            await self._rule(waiting, said, DecidedBy.DEFAULT)
        else:
            waiting.ruling = decision.rule(ask, said)

    def _default(self, ask: Ask) -> Decision:
        """No answer can be made up for a question; all else may be allowed beforehand."""
        if self._rules.ask_default == decision.ALLOW and ask.kind is not AskKind.QUESTION:
            return Decision(decision=decision.ALLOW)
        waited = f" within {self._rules.ask_timeout:g} s" if self._rules.ask_timeout > 0 else ""
        if ask.kind is AskKind.QUESTION:
            reason = f"Nobody was there to answer{waited}. Decide by yourself, and say how."
        else:
            reason = f"Nobody was there to allow this{waited}. Go on without it if you can."
        return Decision(decision=decision.DENY, reason=reason)

    async def _answer(self, waiting: Asked) -> None:
        assert waiting.ruling is not None
        answer = _said(waiting.request, waiting.ruling)
        try:
            await self._write(response_line(waiting.request.request_id, answer))
        except HolderGoneError:
            return  # it may be there or not: written once more when the holder is reached again
        except HolderRefusedError as error:  # the process has ended
            log.info("not answered: %s", error, extra={"action": "answer_late"})
        waiting.written = True

    async def _draft(self, request: Permission) -> Ask:
        folder = self._task.worktree or self._task.repo
        kind, title, body = await asyncio.to_thread(
            ask_text.describe, request.tool, request.input, Path(folder) if folder else None
        )
        return Ask(
            id=new_id("k"),
            task_id=self._task.id,
            session_id=self._session_id,
            kind=kind,
            title=title,
            body=body,
            tool=request.tool,
            input=dict(request.input),
            suggestions=request.suggestions,
            agent=request.agent,
            call=request.request_id,
            tool_use_id=request.tool_use_id,
            opened_at=now(),
        )


def _said(request: Permission, ruling: Ruling) -> dict[str, Any]:
    """The answer; with a yes the input that is to run must be given, changed or not (34.4)."""
    output: Output = ruling.output["hookSpecificOutput"]["decision"]
    if output["behavior"] == "allow":
        return {"updatedInput": dict(request.input), **output}
    return dict(output)
