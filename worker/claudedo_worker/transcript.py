"""Reads a conversation's transcript for what it proves.

The CLI appends one JSON object a line to `<config>/projects/<folder>/<conversation>.jsonl`. The
same text can stand there several times; only some kinds of line show that it *entered the
model's context* (docs/claude-cli.md 11). This module turns lines into facts and knows nothing of
messages or attempts; `receipts` compares the facts with what was offered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Context:
    """A text entered the main conversation's context.

    `kind` is one of "hook", "channel", "channel-busy", "prompt", "queued", "rewake", "result".
    """

    uuid: str
    kind: str
    text: str
    tool_use_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """The client took a text into its queue; the model has not seen it (11.1, 11.2)."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The API refused a request for good, as the CLI tells it (16.6, 29)."""

    error: str  # the CLI's word for it
    status: int | None
    text: str
    at: str  # ISO 8601
    resets_at: float | None = None  # Unix time at which a limit ends


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The model answered.

    `failed`: no model did; the CLI wrote the line itself, after an API error (11.4), or because
    a conversation that was cut is resumed (9.3). `refusal` is there in the first of these cases.
    """

    uuid: str
    message: str | None  # the API's message id: one answer may be several lines
    failed: bool
    tool_use_ids: tuple[str, ...]
    text: str
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """Everything before this is out of the context, but for a summary (11.8).

    `kept`: the last lines before it, which newer versions put behind the summary as they are.
    """

    uuid: str
    kept: frozenset[str] = frozenset()


Fact = Context | Enqueued | Answer | Compacted

DISORDER = 200
"""Lines by which a parent may stand behind its child: those of a session's first turn do."""


class Transcript:
    """One growing transcript file, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""
        self._parents: dict[str, str | None] = {}
        self._numbers: dict[str, int] = {}  # line, or API message -> where it stands, or begins
        self._messages: dict[str, str] = {}  # assistant line -> API message
        self._callers: dict[str, str] = {}  # tool use -> API message that made it
        self._kept: dict[str, frozenset[str]] = {}  # compaction -> lines that stayed in the context
        self._last: str | None = None

    def read(self) -> list[Fact]:
        """The facts of the complete lines that were added since the last call.

        A missing file has none. A file that became shorter is read again from its beginning.
        """
        return [fact for line in self._new_lines() for fact in self._facts(line)]

    def carries(self, answer: Answer, context: Context) -> bool:
        """True if the request that `answer` answers had `context` in it.

        So it is if the chain of parents of the answer holds the context line. The tool results of
        one parallel batch, with what hooks add to them, hang side by side on the calls of one API
        message, and only one of them is on the chain: for them the chain must hold that message.
        """
        caller = self._callers.get(context.tool_use_id or "")
        if caller and caller != answer.message and self._follows(answer.uuid, caller):
            return True
        return context.uuid in self._ancestors(answer.uuid, self._numbers[context.uuid])

    def leaves_out(self, answer: Answer, context: Context) -> bool:
        """True if `answer` was begun behind `context` and its request did not have it.

        An Esc before any output takes the prompt back, with what hooks added to it, and a rewind
        takes whole turns: the next prompt hangs on an earlier line (14.5).
        """
        back_to = self._numbers[context.uuid]
        if self._numbers[answer.message or answer.uuid] < back_to or self.carries(answer, context):
            return False
        *_, oldest = self._ancestors(answer.uuid, back_to)
        return oldest in self._parents  # else a line of the chain is still to come

    def follows_call(self, answer: Answer, tool_use_id: str) -> bool:
        """True if `answer` is a later API message than the one that made that tool call."""
        caller = self._callers.get(tool_use_id)
        return caller not in (None, answer.message) and self._follows(answer.uuid, str(caller))

    def on_main_chain(self, context: Context) -> bool:
        """True if the chain of parents of the newest line holds the context line itself."""
        return self._last is not None and context.uuid in self._ancestors(
            self._last, self._numbers[context.uuid]
        )

    def knows_call(self, tool_use_id: str) -> bool:
        """True once the line with that tool call is on disk."""
        return tool_use_id in self._callers

    def _follows(self, uuid: str, message: str) -> bool:
        """True if a line of that API message is among the ancestors of a line."""
        lines = self._ancestors(uuid, self._numbers[message])
        return any(self._messages.get(line) == message for line in lines)

    def _ancestors(self, uuid: str, back_to: int) -> Iterator[str]:
        """A line and what stands before it in the context.

        As far as the line number `back_to`, because a chain can be long.
        """
        line: str | None = uuid
        while line is not None and self._numbers.get(line, back_to) >= back_to - DISORDER:
            yield line
            yield from self._kept.get(line, ())
            line = self._parents.get(line)

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            parsed = _parse(line)
            if parsed is not None:
                yield parsed

    def _facts(self, line: dict[str, Any]) -> Iterator[Fact]:
        uuid = line.get("uuid")
        if line.get("isSidechain"):
            return
        if isinstance(uuid, str):
            self._parents[uuid] = line.get("parentUuid")
            self._numbers.setdefault(uuid, len(self._numbers))
            self._last = uuid
        kind = line.get("type")
        if kind == "queue-operation" and line.get("operation") == "enqueue":
            yield Enqueued(text=_text(line.get("content")))
        elif not isinstance(uuid, str):
            return
        elif kind == "attachment":
            yield from _attachment(uuid, _object(line.get("attachment")))
        elif kind == "user":
            yield from _user(uuid, line)
        elif kind == "assistant":
            yield self._remember(_answer(uuid, line))
        elif kind == "system" and line.get("subtype") == "compact_boundary":
            self._kept[uuid] = _kept(line)
            yield Compacted(uuid=uuid, kept=self._kept[uuid])

    def _remember(self, answer: Answer) -> Answer:
        if answer.message:
            self._messages[answer.uuid] = answer.message
            self._numbers.setdefault(answer.message, self._numbers[answer.uuid])
            self._callers |= dict.fromkeys(answer.tool_use_ids, answer.message)
        return answer


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # A torn line after a crash of the CLI, or one that nests without measure (a tool's result):
        # it proves nothing, and the next line is whole.
        return None
    return value if isinstance(value, dict) else None


def _attachment(uuid: str, attachment: dict[str, Any]) -> Iterator[Fact]:
    kind = attachment.get("type")
    if kind == "hook_additional_context":
        for text in attachment.get("content") or []:
            yield Context(
                uuid=uuid,
                kind="hook",
                text=_text(text),
                tool_use_id=attachment.get("toolUseID"),
            )
    elif kind == "queued_command":
        kinds = {"channel": "channel-busy", "task-notification": "rewake"}
        yield Context(
            uuid=uuid,
            kind=kinds.get(_origin(attachment), "queued"),
            text=_text(attachment.get("prompt")),
        )


def _user(uuid: str, line: dict[str, Any]) -> Iterator[Fact]:
    content = _object(line.get("message")).get("content")
    if isinstance(content, list):
        results = [block for block in content if _is(block, "tool_result")]
        for block in results:
            yield Context(
                uuid=uuid,
                kind="error" if block.get("is_error") else "result",
                text=_text(block.get("content")),
                tool_use_id=block.get("tool_use_id"),
            )
        if results:
            return
    kinds = {"channel": "channel", "task-notification": "rewake"}
    yield Context(uuid=uuid, kind=kinds.get(_origin(line), "prompt"), text=_text(content))


def _answer(uuid: str, line: dict[str, Any]) -> Answer:
    message = _object(line.get("message"))
    blocks = message.get("content")
    blocks = blocks if isinstance(blocks, list) else []
    text = "".join(block.get("text", "") for block in blocks if _is(block, "text"))
    return Answer(
        uuid=uuid,
        message=message.get("id"),
        failed=bool(line.get("isApiErrorMessage")) or message.get("model") == "<synthetic>",
        tool_use_ids=tuple(block["id"] for block in blocks if _is(block, "tool_use")),
        text=text,
        refusal=_refusal(line, text) if line.get("isApiErrorMessage") else None,
    )


def _refusal(line: dict[str, Any], text: str) -> Refusal:
    status = line.get("apiErrorStatus")
    resets_at = _object(line.get("quotaLimits")).get("resetsAt")
    return Refusal(
        error=str(line.get("error") or "unknown"),
        status=status if isinstance(status, int) else None,
        text=text,
        at=_moment(line.get("timestamp")),
        resets_at=resets_at if isinstance(resets_at, int | float) else None,
    )


def _moment(value: Any) -> str:
    """A moment that can be read; the present one if the line tells none."""
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        at = datetime.now(UTC)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def _kept(boundary: dict[str, Any]) -> frozenset[str]:
    kept = _object(_object(boundary.get("compactMetadata")).get("preservedMessages"))
    return frozenset(kept.get("allUuids") or kept.get("uuids") or ())


def _origin(line: dict[str, Any]) -> str:
    return str(_object(line.get("origin")).get("kind"))


def _object(value: Any) -> dict[str, Any]:
    """The format is not ours: what is not as known proves nothing, and breaks nothing."""
    return value if isinstance(value, dict) else {}


def _is(block: Any, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _text(content: Any) -> str:
    """The text of a string, of a text block, or of a list of them."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content"))
    if isinstance(content, list):
        return "\n".join(_text(part) for part in content)
    return ""


def locate(config_dir: Path, conversation: str) -> Path | None:
    """The transcript of a conversation, wherever the CLI put it below `config_dir`.

    The folder's name is derived from the working directory by a rule that long or unusual paths
    bend (9.3), so it is searched by the conversation's id.
    """
    return next((config_dir / "projects").glob(f"*/{conversation}.jsonl"), None)
