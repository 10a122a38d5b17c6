"""One request for a message, as the scripted model received it, and how to read it.

Knows which requests the Claude CLI makes beside the conversation itself. What tells them apart was
seen by driving 2.1.197 and 2.1.330 against the scripted model; tests/integration keeps it true.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

AGENT_ID_HEADER = "x-claude-code-agent-id"
SESSION_ID_HEADER = "x-claude-code-session-id"
CLASSIFIER_ROLE = "You are a security monitor for autonomous AI coding agents."
COMPACTION_OPENING = "CRITICAL: Respond with TEXT ONLY."


class RequestKind(StrEnum):
    """Why the CLI asks."""

    MAIN = "main"  #: the session's own conversation
    SUBAGENT = "subagent"  #: a conversation started by the tool `Agent`; carries an agent id header
    COMPACTION = "compaction"  #: a summary of the main conversation, asked for by `/compact`
    TITLE = "title"  #: a title of the session: no tools, answer constrained to `{"title": ...}`
    CLASSIFIER = "classifier"  #: whether auto mode may run a tool: `<block>no</block>` lets it
    SIDE = "side"  #: any other request without tools


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A text the model is told. `role` is the message's; the API's system prompt is not a part."""

    role: Literal["user", "system"]
    kind: Literal["text", "tool_result"]
    text: str


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool gave back: its texts, joined by newlines."""

    text: str
    is_error: bool


@dataclass(frozen=True, kw_only=True, eq=False)  # each is its own, and can be in a set
class ModelRequest:
    """A `POST /v1/messages`.

    `sequence` counts from 1 over all sessions; `headers` has lower-case names and no credentials;
    `body` is the JSON sent.
    """

    sequence: int
    time: datetime
    headers: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)

    @property
    def session_id(self) -> str:
        """The session that asks, subagents included; empty when it does not say."""
        return self.headers.get(SESSION_ID_HEADER, "")

    @property
    def agent_id(self) -> str:
        """The subagent that asks; empty in the main conversation."""
        return self.headers.get(AGENT_ID_HEADER, "")

    @property
    def is_main(self) -> bool:
        """Whether this is a step of the session's own conversation."""
        return self.kind is RequestKind.MAIN

    @cached_property
    def kind(self) -> RequestKind:
        """Why the CLI asks. A run that offers no tools at all counts as a side request."""
        if self.agent_id:
            return RequestKind.SUBAGENT
        if any(part.text.startswith(COMPACTION_OPENING) for part in self._latest_parts):
            return RequestKind.COMPACTION
        if self.tool_names:
            return RequestKind.MAIN
        if CLASSIFIER_ROLE in self.system_text:
            return RequestKind.CLASSIFIER
        return RequestKind.TITLE if self._wants_title else RequestKind.SIDE

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The tools offered to the model, in order."""
        return tuple(tool["name"] for tool in self.body.get("tools") or ())

    @cached_property
    def system_text(self) -> str:
        """The system prompt. Texts of role "system" inside the conversation are in `texts()`."""
        return _joined(self.body.get("system") or "")

    def texts(self) -> tuple[TextPart, ...]:
        """Everything the conversation told the model, oldest first; not what it said itself."""
        return tuple(_parts(self.body["messages"]))

    @cached_property
    def text(self) -> str:
        """The texts of `texts()`, joined by newlines."""
        return _lines(self.texts())

    @cached_property
    def latest(self) -> str:
        """What is new since the model last spoke, joined by newlines."""
        return _lines(self._latest_parts)

    @cached_property
    def tool_results(self) -> Mapping[str, ToolResult]:
        """The results of all tool calls in the conversation, by tool_use id."""
        return {
            block["tool_use_id"]: ToolResult(
                text=_joined(block.get("content") or ""), is_error=bool(block.get("is_error"))
            )
            for message in self.body["messages"]
            for block in _blocks(message["content"])
            if block["type"] == "tool_result"
        }

    def count(self, marker: str) -> int:
        """How often `marker` was told to the model in this conversation."""
        return self.text.count(marker)

    def __str__(self) -> str:
        session = self.session_id[:8] or "no session"
        return f"#{self.sequence} {self.kind} {session}: {self.latest[-200:]!r}"

    @cached_property
    def _latest_parts(self) -> tuple[TextPart, ...]:
        messages = self.body["messages"]
        spoken = [n for n, message in enumerate(messages, 1) if message["role"] == "assistant"]
        return tuple(_parts(messages[spoken[-1] if spoken else 0 :]))

    @property
    def _wants_title(self) -> bool:
        wanted = (self.body.get("output_config") or {}).get("format") or {}
        return "title" in json.dumps(wanted)


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[TextPart]:
    for message in messages:
        if message["role"] == "assistant":
            continue
        for block in _blocks(message["content"]):
            if block["type"] == "text":
                yield TextPart(role=message["role"], kind="text", text=block["text"])
            elif block["type"] == "tool_result":
                text = _joined(block.get("content") or "")
                yield TextPart(role=message["role"], kind="tool_result", text=text)


def _blocks(content: str | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _joined(content: str | Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(block["text"] for block in _blocks(content) if block["type"] == "text")


def _lines(parts: Sequence[TextPart]) -> str:
    return "\n".join(part.text for part in parts)
