"""A conversation as `logs` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claudedo_worker import journal
from claudedo_worker.journal import Entry


def line(kind: str, content: Any, **more: Any) -> str:
    return json.dumps({"type": kind, "message": {"content": content}, **more}) + "\n"


def test_what_was_said_called_and_failed_is_told_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        line("user", "hello")
        + line("assistant", [{"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}])
        + line("user", [{"type": "tool_result", "content": "no such", "is_error": True}])
        + line("assistant", [{"type": "text", "text": "API Error"}], isApiErrorMessage=True)
        + line("user", "beside", isSidechain=True)
        + "torn {\n"
    )

    entries, after = journal.read(path, 0)

    assert entries == [
        Entry("user", "hello"),
        Entry("tool", 'Bash {"command": "ls"}'),
        Entry("error", "no such"),
        Entry("error", "API Error"),
    ]
    assert journal.read(path, after) == ([], after)


def test_a_long_transcript_is_read_in_pages_of_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [line("user", f"{number} " + "x" * 300_000) for number in range(12)]
    path.write_text("".join(lines) + '{"type": "user", "mess')

    pages, after = [], 0
    while (page := journal.read(path, after))[1] != after:
        pages.append(page[0])
        after = page[1]

    assert len(pages) > 2
    assert [int(e.text.split()[0]) for page in pages for e in page] == list(range(12))
