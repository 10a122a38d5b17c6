"""Counts what the conversations of a task used, from what the CLI writes to disk.

Tokens and context stand in every line that a model answered (docs/claude-cli.md 18.3, 29.6). The
cost stands there only once a newer version was left (29.7); before that it is the sum of what the
CLI reported for each request (29.9). Where a part of that is missing, none is told.
Reads only what was added since the last time; knows nothing of receipts or failures.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from claudedo.model import Session, Task, Usage
from claudedo_worker.store import Store

_COUNTERS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_creation_tokens": "cache_creation_input_tokens",
}
_CONTEXT = ("input_tokens", "cache_read_tokens", "cache_creation_tokens")
_SYNTHETIC = "<synthetic>"  # a line that the CLI wrote itself: nothing was used (11.4, 27.1)

REPORT_SECONDS = 15.0
"""By then the CLI has reported what a request cost: it does so every two seconds (29.9)."""

Counts: TypeAlias = dict[str, int]


@dataclass
class _Lines:
    """A growing file of JSON lines, of which only those are decoded that can tell of usage."""

    path: Path
    _offset: int = 0
    _rest: bytes = b""

    def new(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if b'"usage"' in line or b'"cost-state"' in line:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue  # torn by a crash of the CLI: the next line is whole
                if isinstance(value, dict):
                    yield value


@dataclass
class Meter:
    """What one conversation used since `since`, its subagents included.

    `since`: ISO 8601; what a conversation used before its task was there (`adopt`) is not counted,
    nor what a fork copied from the conversation that it began with (29.6).
    """

    transcript: Path
    since: str
    _files: dict[Path, _Lines] = field(default_factory=dict)
    _messages: dict[str, Counts] = field(default_factory=dict)  # API message -> what it used
    _context: int = 0
    _model: str | None = None
    # message -> the API's name for the request, and when it was answered
    _requests: dict[str, tuple[str | None, datetime | None]] = field(default_factory=dict)
    _cost: float | None = None  # what the CLI said, as long as nothing came after it
    _doubtful: bool = False  # it said that it does not know what a model costs
    _older: bool = False  # the conversation was there before: its cost is not the task's alone

    @property
    def _began(self) -> datetime:
        return datetime.fromisoformat(self.since)

    def read(
        self, prices: Mapping[str, float] | None = None, reported: datetime | None = None
    ) -> Usage:
        """Everything so far. Takes long for a long conversation that is read the first time.

        `prices`: dollars that requests of the conversation cost, as far as that was reported;
        what was answered after `reported` may still be missing there.
        """
        for path in (self.transcript, *self._subagents()):
            for line in self._files.setdefault(path, _Lines(path)).new():
                self._take(line, main=path == self.transcript)
        totals = {name: sum(used[name] for used in self._messages.values()) for name in _COUNTERS}
        return Usage(
            **totals,
            requests=len(self._messages),
            context_tokens=self._context,
            model=self._model,
            cost_usd=self._cost_of_all(prices or {}, reported),
        )

    def _cost_of_all(self, prices: Mapping[str, float], reported: datetime | None) -> float | None:
        if self._cost is not None and not self._older:
            return self._cost
        if self._doubtful or (self._requests and not prices):
            return None
        for request, at in self._requests.values():
            late = reported is not None and at is not None and at > reported
            if request not in prices and not late:
                return None
        # Requests beside the conversation have a price and no line: they count, too.
        return round(math.fsum(prices.values()), 6)

    def _subagents(self) -> list[Path]:
        return sorted(self.transcript.with_suffix("").glob("subagents/**/agent-*.jsonl"))

    def _take(self, line: dict[str, Any], *, main: bool) -> None:
        if line.get("type") == "cost-state":
            cost = line.get("totalCostUSD")
            self._doubtful = bool(line.get("hasUnknownModelCost"))
            told = isinstance(cost, int | float) and not self._doubtful
            self._cost = cost if told else None
            return
        message = line.get("message")
        if line.get("type") != "assistant" or not isinstance(message, dict):
            return
        if message.get("model") in (None, _SYNTHETIC) or not isinstance(message.get("usage"), dict):
            return
        used = _counts(message["usage"])
        if main and not line.get("isSidechain"):
            self._context = sum(used[name] for name in _CONTEXT)
            self._model = str(message["model"])
        if line.get("forkedFrom"):
            return
        at = _moment(line.get("timestamp"))  # a line without a time that can be read counts
        if at is not None and at < self._began:
            self._older = True
            return
        # One answer may be several lines, each with what it used so far: the last one holds.
        name = str(message.get("id") or line.get("uuid"))
        if self._messages.get(name) != used:  # a conversation that is resumed may repeat a line
            self._messages[name] = used
            self._requests[name] = (line.get("requestId"), at)
            self._cost = None


@dataclass
class _Part:
    """One conversation of a task, with what its requests were reported to have cost."""

    meter: Meter
    prices: dict[str, float] = field(default_factory=dict)
    told: int = 0  # up to here the prices are known


class Account:
    """What a task used, over all conversations that its sessions had."""

    def __init__(self, store: Store, task: Task) -> None:
        self._store = store
        self._task = task
        self._parts: dict[str, _Part] = {}  # conversations that were seen, the left ones included
        self._stored: dict[str, Usage] | None = None

    async def total(self, session: Session, *, ended: bool = False) -> Usage | None:
        """What was used until now; stored if it changed. None while there is no transcript.

        `ended`: nothing more will be reported, so that a price that is missing stays so.
        """
        if session.transcript is None:
            return session.usage
        if self._stored is None:
            self._stored = await self._store.usages(self._task.id)
        path, present = Path(session.transcript), session.conversation
        known = self._parts.pop(present, None)
        if known is None or known.meter.transcript != path:
            known = _Part(Meter(path, self._task.created_at))
        self._parts[present] = known  # the last one: its context is the task's
        for conversation, part in self._parts.items():
            used = await self._read(conversation, part, ended=ended)
            if used != self._stored.get(conversation):
                await self._store.set_usage(self._task.id, conversation, used)
                self._stored[conversation] = used
        total = Usage(cost_usd=0.0)
        for conversation, used in self._stored.items():
            total = plus(total, used) if conversation != present else total
        return plus(total, self._stored[present])

    async def _read(self, conversation: str, part: _Part, *, ended: bool) -> Usage:
        """Those that were left, too: their last words, and prices, come late."""
        part.told, prices = await self._store.prices(self._task.id, conversation, part.told)
        part.prices |= prices
        by = datetime.now(UTC) - timedelta(seconds=0 if ended else REPORT_SECONDS)
        return await asyncio.to_thread(part.meter.read, part.prices, by)


def plus(before: Usage, latest: Usage) -> Usage:
    """The sum; context and model are those of the latest. A cost that lacks a part is none."""
    counters = ("requests", *_COUNTERS)
    sums = {name: getattr(before, name) + getattr(latest, name) for name in counters}
    costs = (before.cost_usd, latest.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return replace(latest, **sums, cost_usd=sum(known) if len(known) == len(costs) else None)


def _moment(timestamp: Any) -> datetime | None:
    """A time with its zone; None for anything else."""
    try:
        at = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return None
    return at if at.tzinfo else None


def _counts(usage: Mapping[str, Any]) -> Counts:
    values = {name: usage.get(key) for name, key in _COUNTERS.items()}
    return {name: value if isinstance(value, int) else 0 for name, value in values.items()}
