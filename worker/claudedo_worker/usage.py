"""Counts what the conversations of a task used, from what the CLI writes to disk.

Tokens and context stand in every line that a model answered (docs/claude-cli.md 18.3, 29.6). The
cost stands there only once a newer version was left (29.7): where that is not so, none is told.
Reads only what was added since the last time; knows nothing of receipts or failures.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
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
    _cost: float | None = None  # what the CLI said, as long as nothing came after it
    _older: bool = False  # the conversation was there before: its cost is not the task's alone

    def read(self) -> Usage:
        """Everything so far. Takes long for a long conversation that is read the first time."""
        for path in (self.transcript, *self._subagents()):
            for line in self._files.setdefault(path, _Lines(path)).new():
                self._take(line, main=path == self.transcript)
        totals = {name: sum(used[name] for used in self._messages.values()) for name in _COUNTERS}
        return Usage(
            **totals,
            requests=len(self._messages),
            context_tokens=self._context,
            model=self._model,
            cost_usd=self._cost_of_all(),
        )

    def _cost_of_all(self) -> float | None:
        if not self._messages:
            return 0.0
        return None if self._older else self._cost

    def _subagents(self) -> list[Path]:
        return sorted(self.transcript.with_suffix("").glob("subagents/**/agent-*.jsonl"))

    def _take(self, line: dict[str, Any], *, main: bool) -> None:
        if line.get("type") == "cost-state":
            cost = line.get("totalCostUSD")
            unknown = line.get("hasUnknownModelCost")
            self._cost = float(cost) if isinstance(cost, int | float) and not unknown else None
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
        if self._is_older(line.get("timestamp")):
            self._older = True
            return
        # One answer may be several lines, each with what it used so far: the last one holds.
        known = str(message.get("id") or line.get("uuid"))
        if self._messages.get(known) != used:  # a conversation that is resumed may repeat a line
            self._messages[known] = used
            self._cost = None

    def _is_older(self, timestamp: Any) -> bool:
        try:
            return datetime.fromisoformat(str(timestamp)) < datetime.fromisoformat(self.since)
        except (ValueError, TypeError):  # a line without a time that can be read counts
            return False


class Account:
    """What a task used, over all conversations that its sessions had."""

    def __init__(self, store: Store, task: Task) -> None:
        self._store = store
        self._task = task
        self._meter: Meter | None = None
        self._conversation = ""
        self._before: Usage = Usage()  # in the task's other conversations
        self._stored: Usage | None = None

    async def total(self, session: Session) -> Usage | None:
        """What was used until now; stored if it changed. None while there is no transcript."""
        if session.transcript is None:
            return session.usage
        path = Path(session.transcript)
        if self._meter is None or self._meter.transcript != path:
            await self._read()  # the other one's last words
            await self._open(session.conversation, path)
        return plus(self._before, await self._read())

    async def _read(self) -> Usage:
        if self._meter is None:
            return Usage()
        used = await asyncio.to_thread(self._meter.read)
        if used != self._stored:
            await self._store.set_usage(self._task.id, self._conversation, used)
            self._stored = used
        return used

    async def _open(self, conversation: str, path: Path) -> None:
        kept = await self._store.usages(self._task.id)
        self._stored = kept.pop(conversation, None)
        self._before = Usage(cost_usd=0.0)
        for used in kept.values():
            self._before = plus(self._before, used)
        self._conversation = conversation
        self._meter = Meter(path, self._task.created_at)


def plus(before: Usage, latest: Usage) -> Usage:
    """The sum; context and model are those of the latest. A cost that lacks a part is none."""
    counters = ("requests", *_COUNTERS)
    sums = {name: getattr(before, name) + getattr(latest, name) for name in counters}
    costs = (before.cost_usd, latest.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return replace(latest, **sums, cost_usd=sum(known) if len(known) == len(costs) else None)


def _counts(usage: Mapping[str, Any]) -> Counts:
    values = {name: usage.get(key) for name, key in _COUNTERS.items()}
    return {name: value if isinstance(value, int) else 0 for name, value in values.items()}
