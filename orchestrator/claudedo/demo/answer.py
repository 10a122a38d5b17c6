"""What the scripted model may answer, and the brains that choose an answer.

Knows nothing about HTTP: see `reply` for how an answer looks on the wire and `model` for who is
asked. An answer is a value and may be given any number of times.
"""

from __future__ import annotations

import threading
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from claudedo.demo.request import ModelRequest


@dataclass(frozen=True)
class Text:
    """A text that ends the turn."""

    text: str


@dataclass(frozen=True)
class ToolUse:
    """A call of one tool; `text`, if any, is said before it.

    Without `id` every answering draws a new one. An explicit id must be used once per conversation:
    the CLI matches results by it.
    """

    name: str
    input: Mapping[str, Any]
    id: str | None = None
    text: str = ""


@dataclass(frozen=True)
class ToolUses:
    """Calls of several tools at once; the texts of the calls are said first, in order."""

    calls: abc.Sequence[ToolUse]


@dataclass(frozen=True)
class Error:
    """A refusal of the API, e.g. `Error(529, "overloaded_error", "Overloaded")`.

    The CLI retries some of them (docs/claude-cli.md 16.6); `CLAUDE_CODE_MAX_RETRIES` bounds that.
    """

    status: int
    type: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """An answer given only once `event` is set; not a byte is sent before.

    If that takes more than `timeout` seconds the script has failed: the caller gets an error 400
    and `ScriptedModel.stop` raises. A caller who hangs up ends the wait.
    """

    answer: Answer
    event: threading.Event
    timeout: float = 60.0


@dataclass(frozen=True)
class Slow:
    """An answer whose stream is spread over about `seconds`, as a model that writes slowly."""

    answer: Answer
    seconds: float


Answer: TypeAlias = "Text | ToolUse | ToolUses | Error | Held | Slow"
"""Everything the model may answer."""

Brain: TypeAlias = Callable[[ModelRequest], Answer]
"""Chooses the answer. Runs in the server's thread, one at a time: it must not block."""

Condition: TypeAlias = str | Callable[[ModelRequest], bool]
"""Either a test of a request, or a text that must occur in `ModelRequest.latest`."""


class Sequence:
    """Gives `answers` one after the other, then `then` for ever.

    It counts requests, retries of a failed one included: `Sequence([Error(...), Text(...)])`
    fails once and succeeds when asked again. Use one instance for one session.
    """

    def __init__(self, answers: Iterable[Answer], then: Answer = Text("ok")) -> None:
        self._answers = iter(tuple(answers))
        self._then = then

    def __call__(self, request: ModelRequest) -> Answer:
        return next(self._answers, self._then)


class Rules:
    """Gives the answer of the first rule that fits the request, else `default`.

    The answer of a rule may itself be a brain, to say something that depends on the request.
    """

    def __init__(
        self,
        rules: Iterable[tuple[Condition, Answer | Brain]],
        default: Answer | Brain = Text("ok"),
    ) -> None:
        self._rules = tuple(rules)
        self._default = default

    def __call__(self, request: ModelRequest) -> Answer:
        for condition, answer in self._rules:
            if _fits(condition, request):
                return _given(answer, request)
        return _given(self._default, request)


def _fits(condition: Condition, request: ModelRequest) -> bool:
    return condition in request.latest if isinstance(condition, str) else condition(request)


def _given(answer: Answer | Brain, request: ModelRequest) -> Answer:
    return answer(request) if callable(answer) else answer
