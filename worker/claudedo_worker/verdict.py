"""Who decided about a tool call, as a conversation's transcript tells it.

A decision that a hook made has a line of its own, an attachment `hook_permission_decision` with the
call's id, before the call's result. A decision made in the dialog has none (docs/claude-cli.md
28.1). Older versions write that line for the main conversation only (28.2).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LOOK_BACK = 1024 * 1024
"""Bytes before the end from which a transcript is read: an ask may have been decided before."""

KEPT = 1000
"""Calls of which something is remembered."""

_REJECTED = "The user doesn't want to proceed with this tool use"
_MARKS = (b"hook_permission_decision", b"tool_result", b"tool_use")


@dataclass(frozen=True)
class Verdict:
    """What is known of one tool call."""

    hook: str | None = None  # "allow" or "deny", if a hook decided
    result: str | None = None  # "rejected" in the dialog, or "ran", whatever came of it
    error: str | None = None  # what the model was told instead of a result
    at: str = ""  # when the newest of these was written

    def is_since(self, moment: str) -> bool:
        """True unless all of it was written before."""
        return self.at == "" or self.at > moment


class Verdicts:
    """The verdicts of one growing transcript file: a conversation's, or a subagent's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset: int | None = None
        self._known: OrderedDict[str, Verdict] = OrderedDict()
        self._calls: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def of(self, tool_use_id: str, since: str) -> Verdict:
        """What the file tells of a call up to now, if that is newer than `since`."""
        self._read()
        verdict = self._known.get(tool_use_id, Verdict())
        return verdict if verdict.is_since(since) else Verdict()

    def find(self, tool: str, given: Mapping[str, Any], since: str) -> str | None:
        """The oldest call of that tool with just that input that had no result before `since`."""
        self._read()
        wanted = (tool, _exact(given))
        for own, call in self._calls.items():
            verdict = self._known.get(own, Verdict())
            if call == wanted and (verdict.result is None or verdict.is_since(since)):
                return own
        return None

    def _read(self) -> None:
        for line in self._new_lines():
            if any(mark in line for mark in _MARKS):
                self._take(line)

    def _new_lines(self) -> list[bytes]:
        """The whole lines that were added since the last look."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if self._offset is None or size < self._offset:
                    self._offset = max(0, size - LOOK_BACK)
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()

    def _take(self, line: bytes) -> None:
        value = _object(line)
        at = str(value.get("timestamp") or "")
        attachment = value.get("attachment")
        if isinstance(attachment, dict) and attachment.get("type") == "hook_permission_decision":
            decision = str(attachment.get("decision"))
            self._know(attachment.get("toolUseID"), hook=decision, at=at)
        message = value.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else []:
            if isinstance(block, dict) and block.get("type") == "tool_result":
                self._know(block.get("tool_use_id"), at=at, **_result(block))
            elif isinstance(block, dict) and block.get("type") == "tool_use":
                self._calls[str(block.get("id"))] = (
                    str(block.get("name")),
                    _exact(block.get("input")),
                )
                if len(self._calls) > KEPT:
                    self._calls.popitem(last=False)

    def _know(self, tool_use_id: Any, **news: Any) -> None:
        if isinstance(tool_use_id, str):
            known = self._known.pop(tool_use_id, Verdict())
            self._known[tool_use_id] = replace(known, **news)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)


def _result(block: dict[str, Any]) -> dict[str, str | None]:
    content = block.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = str(content)
    result = "rejected" if text.startswith(_REJECTED) else "ran"
    return {"result": result, "error": text if block.get("is_error") else None}


def plan_file(transcript: Path) -> Path | None:
    """Where the conversation's plan is: newer versions do not say it in the call (28.3)."""
    try:
        lines = transcript.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if b'"plan_mode' not in line:
            continue
        attachment = _object(line).get("attachment")
        if isinstance(attachment, dict) and str(attachment.get("type")).startswith("plan_mode"):
            named = attachment.get("planFilePath")
            return Path(named) if isinstance(named, str) else None
    return None


def _exact(given: Any) -> str:
    return json.dumps(given, sort_keys=True)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # half a line, where the reading began, or nested too deep
        return {}
    return value if isinstance(value, dict) else {}


def of_subagent(transcript: Path, agent: str) -> Path:
    """Where a subagent of that conversation keeps its own lines (docs/claude-cli.md 28.2)."""
    return transcript.with_suffix("") / "subagents" / f"agent-{agent}.jsonl"
