"""A conversation as `logs` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claudedo.model import Workspace, new_id, now
from claudedo_worker import envelope, journal
from claudedo_worker.journal import Entry
from tests.support.records import a_message, a_task

TASK = a_task(Workspace(id=new_id("w"), name="shop", root="/shop", created_at=now()))


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


def test_a_letter_is_shown_as_its_messages_and_a_reminder_not_at_all(tmp_path: Path) -> None:
    peer = a_message(TASK, sender="task:t_2", sender_name="frontend", body="Which\nfields?")
    attempt = new_id("a")
    letter = envelope.letter(attempt, [a_message(TASK, body="Add it."), peer])
    reminder = envelope.reminder(attempt, 2)
    pushed = f'<channel source="claudedo" chat_id="t">\n{letter}\n</channel>'
    context = {"type": "hook_additional_context", "content": [letter]}
    path = tmp_path / "t.jsonl"
    path.write_text(
        line("user", pushed)
        + line("user", reminder)
        + json.dumps({"type": "attachment", "attachment": context})
        + "\n"
    )

    entries, _ = journal.read(path, 0)

    both = [
        Entry("message", "from user: Add it."),
        Entry("message", "from frontend: Which\nfields?"),
    ]
    assert entries == [*both, *both]


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


def test_what_the_client_puts_before_a_prompt_is_not_shown(tmp_path: Path) -> None:
    noise = (
        "<system-reminder><tools-used-before-summary>mcp__claudedo__channel"
        "</tools-used-before-summary></system-reminder>\n"
    )
    path = tmp_path / "t.jsonl"
    path.write_text(
        line("user", noise, isMeta=True)
        + line("user", [{"type": "text", "text": noise}, {"type": "text", "text": "hello"}])
        + line("user", f"{noise}go on")
        + line("user", "why <system-reminder>?")
    )

    assert journal.read(path, 0)[0] == [
        Entry("user", "hello"),
        Entry("user", "go on"),
        Entry("user", "why <system-reminder>?"),
    ]
