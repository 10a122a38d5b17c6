"""What the stand-in for `claude` writes: the conversation's transcript, and the ground truth.

The transcript is what claudedo reads: lines are chained by their parents and written a little
late (docs/claude-cli.md 9.3, 11). The ground truth is what claudedo never sees: one JSON object a
line in FAKE_CLAUDE_TRUTH/<name>.jsonl, `at` a Unix time, whose `event` is one of

- `began`: a process started with a context that holds `bodies`;
- `request`: `bodies` are told to the model for the first time;
- `answered`: the model answered for the first time with `bodies` in its context;
- `sending`, `sent`: the message `body` is being written to a peer, and was accepted.

A body is known by its mark, `mail-` and 16 hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = re.compile(r"\bmail-[0-9a-f]{16}\b")

Json = dict[str, Any]


class Truth:
    """What happened to the context, recorded where claudedo does not look."""

    def __init__(self, name: str) -> None:
        self._path = Path(os.environ["FAKE_CLAUDE_TRUTH"]) / f"{name}.jsonl"

    def count(self, event: str) -> int:
        """How often `event` was recorded, by this process and those before it."""
        with suppress(FileNotFoundError):
            lines = self._path.read_text().splitlines()
            return sum(json.loads(line)["event"] == event for line in lines)
        return 0

    def record(self, event: str, **facts: Any) -> None:
        """Append one fact; it survives a kill of this process."""
        with self._path.open("a") as file:
            file.write(json.dumps({"event": event, "at": time.time(), **facts}) + "\n")


class Transcript:
    """The conversation's file: lines are chained, and written a little late."""

    def __init__(self, config: Path, conversation: str) -> None:
        folder = re.sub(r"[/.]", "-", str(Path.cwd()))
        self.path = config / "projects" / folder / f"{conversation}.jsonl"
        self.conversation = conversation
        self.tail: str | None = None
        self._waiting: list[str] = []

    def resume(self) -> list[str]:
        """The texts that told the model something, in what the file holds of the last chain.

        The results of a parallel batch count with the API message that made the calls, as newer
        versions do.
        """
        parsed = [json.loads(line) for line in self.path.read_text().splitlines() if line]
        lines = {line["uuid"]: line for line in parsed if "uuid" in line}
        self.tail = next(reversed(lines), None)
        chain, at = set[str](), self.tail
        while at is not None and at in lines:
            chain.add(at)
            at = lines[at]["parentUuid"]
        messages = {lines[at]["message"]["id"] for at in chain if lines[at]["type"] == "assistant"}
        calls = {
            block["id"]
            for line in lines.values()
            if line["type"] == "assistant" and line["message"]["id"] in messages
            for block in line["message"]["content"]
            if block["type"] == "tool_use"
        }
        kept = (n for n in lines.values() if n["uuid"] in chain or _result_of(n) in calls)
        return [text for line in kept if (text := _told(line)) is not None]

    def chained(self, kind: str, parent: str | None = None, **fields: Any) -> str:
        """Add a line of the conversation after `parent`, or after the last one."""
        own = str(uuid.uuid4())
        self._add({"type": kind, "uuid": own, "parentUuid": parent or self.tail, **fields})
        self.tail = own
        return own

    def queue(self, operation: str, content: str | None = None) -> None:
        """Add a line about the queue: it proves nothing of the context (11.1)."""
        line = {"type": "queue-operation", "operation": operation}
        self._add(line if content is None else {**line, "content": content})

    def flush(self) -> None:
        """Write what is kept back."""
        if self._waiting:
            text, self._waiting = "".join(self._waiting), []
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(text)

    def _add(self, line: Json) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        full = {**line, "sessionId": self.conversation, "isSidechain": False, "timestamp": at}
        self._waiting.append(json.dumps(full) + "\n")


def marks(texts: Iterable[str]) -> list[str]:
    """The marks of the bodies in `texts`, each as often as it stands there."""
    return [mark for text in texts for mark in MARK.findall(text)]


def _told(line: Json) -> str | None:
    """The text with which a line of the transcript entered the context as more than a notice."""
    if line["type"] == "attachment":
        attachment = line["attachment"]
        if attachment["type"] == "hook_additional_context":
            return "\n".join(attachment["content"])
        return None if attachment["origin"]["kind"] == "channel" else attachment["prompt"]
    if line["type"] == "user":
        content = line["message"]["content"]
        return content if isinstance(content, str) else content[0]["content"][0]["text"]
    return None


def _result_of(line: Json) -> str | None:
    content = line["message"]["content"] if line["type"] == "user" else ""
    return None if isinstance(content, str) else content[0]["tool_use_id"]
