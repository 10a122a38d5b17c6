"""A conversation as a person reads it: what was said, which tools were called, what they gave."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo_worker import envelope

LONGEST = 2_000  # characters of one tool result that are shown
PAGE = 1 << 20  # bytes of the transcript that are read at a time

# What newer versions of the CLI put before a text (docs/claude-cli.md 4.5).
_NOISE = re.compile(r"\A(?:\s*<system-reminder>\s*<tools-used.*?</system-reminder>)+", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    `role` is "user", "assistant", "tool" (a call), "result", "error", or "message" for what
    claudedo brought; such a text begins with its sender.
    """

    role: str
    text: str


def read(path: Path, after: int) -> tuple[list[Entry], int]:
    """The next entries after byte `after` of a transcript, and where to go on.

    Reads about a megabyte, and always whole lines; at the end the two numbers are equal.
    """
    try:
        with path.open("rb") as file:
            file.seek(after)
            data = file.read(PAGE)
            data += file.readline()
    except FileNotFoundError:
        return [], after
    whole = data[: data.rfind(b"\n") + 1]
    entries = [entry for line in whole.splitlines() for entry in _entries(line)]
    return entries, after + len(whole)


def last_said(path: Path) -> str | None:
    """The model's last words in a transcript; None if they are not among its last megabyte."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    entries, _ = read(path, max(0, size - PAGE))
    return next((entry.text for entry in reversed(entries) if entry.role == "assistant"), None)


def _entries(line: bytes) -> list[Entry]:
    try:
        data = json.loads(line)
    except ValueError:
        return []
    if not isinstance(data, dict) or data.get("isSidechain"):
        return []
    if data.get("type") == "attachment":
        return _attachment(data.get("attachment") or {})
    if data.get("type") not in ("user", "assistant"):
        return []
    content = (data.get("message") or {}).get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    role = "error" if data.get("isApiErrorMessage") else data["type"]
    return [entry for block in blocks for entry in _block(role, block)]


def _attachment(attachment: dict[str, Any]) -> list[Entry]:
    if attachment.get("type") == "hook_additional_context":
        return [entry for text in attachment.get("content") or [] for entry in _said(str(text))]
    if attachment.get("type") == "queued_command":
        return _said(str(attachment.get("prompt")))
    return []


def _said(text: str) -> list[Entry]:
    """What came in as a user's text; ours is shown as the messages it gives, without reminders."""
    text = _NOISE.sub("", text)
    try:
        return [Entry("message", f"from {who}: {body}") for who, body in envelope.opened(text)]
    except ValueError:
        return [Entry("user", text.strip())] if text.strip() else []


def _block(role: str, block: Any) -> list[Entry]:
    if not isinstance(block, dict):
        return []
    if block.get("type") == "text":
        text = str(block.get("text", "")).strip()
        return _said(text) if role == "user" else [Entry(role, text)] if text else []
    if block.get("type") == "tool_use":
        given = json.dumps(block.get("input"), ensure_ascii=False)
        return [Entry("tool", f"{block.get('name')} {given}"[:LONGEST])]
    if block.get("type") == "tool_result":
        content = block.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        text = "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
        return [Entry("error" if block.get("is_error") else "result", text[:LONGEST])]
    return []
