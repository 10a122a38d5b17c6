"""What a one-shot's output file tells of its processes: what each said, cost, was denied.

The file is all there is to know them by: read from its beginning it gives every worker the same.
Draws no conclusions; see `one_shot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from claudedo_worker.stream_json import (
    Answered,
    ApiRetry,
    Background,
    Began,
    Cancelled,
    Denied,
    Echo,
    Ended,
    Event,
    Init,
    Permission,
    Refusal,
    Result,
    Said,
    Unreadable,
)


@dataclass
class Process:
    """One process of a one-shot: its session's, or its check's."""

    began: Began
    ended: Ended | None = None
    results: list[Result] = field(default_factory=list)
    in_turn: bool = False
    was_in_turn: bool = False
    said: str | None = None  # what the model said last
    call: tuple[str, Any] | None = None  # the newest tool call of this turn
    retry: ApiRetry | None = None  # since the model last said something
    refusal: Refusal | None = None  # likewise
    unreadable: str | None = None  # the last line that was no JSON
    waiting: dict[str, Permission] = field(default_factory=dict)  # asked, and not answered
    denied: list[Denied] = field(default_factory=list)
    background: set[str] = field(default_factory=set)
    failed_servers: tuple[str, ...] = ()

    @property
    def result(self) -> Result | None:
        """How its last turn ended; None if that did not end, or there was none."""
        return None if self.in_turn or not self.results else self.results[-1]

    @property
    def is_complete(self) -> bool:
        """True if its last turn ended well."""
        return self.result is not None and not self.result.is_error

    @property
    def cost(self) -> float:
        """US dollars, as it told itself."""
        return self.results[-1].cost if self.results else 0.0

    def take(self, event: Event) -> None:
        """Add what it said."""
        match event:
            case Ended():
                self.ended = event
            case Init():
                self.in_turn = self.was_in_turn = True
                self.call = None
                self.failed_servers = event.failed_servers
            case Echo():
                self.was_in_turn = True
            case Said():
                self.said = event.text or self.said
                self.call = event.calls[-1] if event.calls else None
                self.retry = self.refusal = None
            case Refusal():
                self.refusal = event
            case ApiRetry():
                self.retry = event
            case Result():
                self.results.append(event)
                self.in_turn, self.call = False, None
                self.denied += event.denials
                self.said = event.text or self.said
            case Background():
                (self.background.add if event.runs else self.background.discard)(event.id)
            case Permission():
                self.waiting[event.request_id] = event
            case Cancelled():
                self.waiting.pop(event.request_id, None)
            case Answered():
                request = self.waiting.pop(event.request_id, None)
                if request is not None and event.denied:
                    self.denied.append(
                        Denied(
                            tool=request.tool,
                            input=request.input,
                            tool_use_id=request.tool_use_id,
                        )
                    )
            case Unreadable():
                self.unreadable = event.text


@dataclass
class Record:
    """All processes of a one-shot, oldest first."""

    processes: list[Process] = field(default_factory=list)

    def take(self, events: Iterable[Event]) -> None:
        """Add what the output file tells."""
        for event in events:
            if isinstance(event, Began):
                self.processes.append(Process(event))
            elif self.processes:
                self.processes[-1].take(event)

    @property
    def newest(self) -> Process:
        """The process that runs, or ran last."""
        return self.processes[-1]

    @property
    def session(self) -> Process | None:
        """The newest one that was no check."""
        return next(self._sessions(), None)

    @property
    def before(self) -> Process | None:
        """The session's process before the newest one."""
        sessions = self._sessions()
        next(sessions, None)
        return next(sessions, None)

    def denials(self) -> list[Denied]:
        """Each call that was denied in the newest run, oldest first. A call is told once."""
        run = [p for p in self.processes if p.began.run == self.newest.began.run]
        found: dict[str, Denied] = {}
        for process in run:
            for number, denied in enumerate(process.denied):
                found.setdefault(denied.tool_use_id or f"{process.began.at}:{number}", denied)
        return list(found.values())

    def cost(self) -> float:
        """US dollars that the newest process spent.

        Newer versions go on counting where the conversation was left in an orderly way (34.8).
        """
        newest = self.newest
        if not newest.results or not newest.results[-1].counts_on or not newest.began.resumes:
            return newest.cost
        left = [p.cost for p in self.processes[:-1] if p.ended and p.ended.is_orderly]
        return max(0.0, newest.cost - max(left, default=0.0))

    def _sessions(self) -> Iterator[Process]:
        return (process for process in reversed(self.processes) if not process.began.check)
