"""Lines of a transcript become facts, whatever else stands in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claudedo_worker.transcript import Answer, Compacted, Context, Enqueued, Transcript, locate
from tests.support.mailroom import Lines


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path / "c1.jsonl")


def kinds(lines: Lines) -> list[str]:
    facts = Transcript(lines.path).read()
    return [fact.kind for fact in facts if isinstance(fact, Context)]


def test_each_way_into_the_context_has_its_kind_of_line(lines: Lines) -> None:
    lines.prompt("typed")
    lines.push("pushed")
    lines.prompt("woken", "task-notification")
    lines.queued("typed ahead", "human")
    lines.queued("pushed late", "channel")
    lines.queued("woken late", "task-notification")
    lines.hook({"hookSpecificOutput": {"additionalContext": "x"}})
    lines.result("call", "fine")
    lines.result("call", "broken", error=True)
    assert kinds(lines) == [
        *("prompt", "channel", "rewake"),
        *("queued", "channel-busy", "rewake"),
        *("hook", "result", "error"),
    ]


def test_line_that_is_half_written_is_read_once_it_is_whole(lines: Lines) -> None:
    transcript = Transcript(lines.path)
    whole = json.dumps({"type": "user", "uuid": "u", "message": {"content": "é"}}).encode() + b"\n"
    seen = []
    for byte in whole:
        with lines.path.open("ab") as file:
            file.write(bytes([byte]))
        seen += transcript.read()
    assert seen == [Context(uuid="u", kind="prompt", text="é")]


def test_line_that_nests_too_deep_hides_no_other(lines: Lines) -> None:
    lines.prompt("before")
    with lines.path.open("a") as file:
        deep = '{"x":' * 100_000 + "1" + "}" * 100_000
        file.write(f'{{"type":"user","uuid":"d","toolUseResult":{deep}}}\n')
    lines.prompt("after")
    assert kinds(lines) == ["prompt", "prompt"]


def test_file_that_is_not_there_yet_has_no_facts(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "later.jsonl")
    assert transcript.read() == []
    Lines(transcript.path).prompt("now")
    assert len(transcript.read()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"type": "user"}',
        '{"type": "user", "uuid": "u", "isSidechain": true, "message": {"content": "x"}}',
        '{"type": "assistant", "uuid": "u", "isSidechain": true}',
        '{"type": "attachment", "uuid": "u", "attachment": "odd"}',
        '{"type": "attachment", "uuid": "u", "attachment": {"type": "hook_success"}}',
        '{"type": "system", "subtype": "other", "uuid": "u"}',
        '{"type": "queue-operation", "operation": "dequeue"}',
        '{"type": "last-prompt", "uuid": "u"}',
    ],
)
def test_other_lines_prove_nothing(lines: Lines, line: str) -> None:
    lines.path.write_text(line + "\n")
    assert Transcript(lines.path).read() == []


@pytest.mark.parametrize(
    "fields", [{"origin": "odd"}, {"message": "odd"}, {"message": {"content": 1}}, {}]
)
def test_shapes_that_are_not_known_break_nothing(lines: Lines, fields: dict[str, Any]) -> None:
    for kind in ("user", "assistant", "attachment", "system"):
        lines.add(kind, **fields)
    lines.prompt("TEXT")
    facts = Transcript(lines.path).read()
    assert isinstance(facts[-1], Context)
    assert facts[-1].text == "TEXT"


def test_answers_and_queue_and_compactions_are_told(lines: Lines) -> None:
    lines.enqueue("queued")
    kept = lines.answer("m1", "call")
    lines.answer("e1", failed=True)
    lines.answer("s1", model="<synthetic>")
    lines.compacted(kept)
    queued, answer, refused, made_up, compacted = Transcript(lines.path).read()
    assert queued == Enqueued(text="queued")
    assert isinstance(answer, Answer)
    assert (answer.tool_use_ids, answer.failed) == (("call",), False)
    assert isinstance(refused, Answer)
    assert isinstance(made_up, Answer)
    assert refused.failed
    assert made_up.failed
    assert isinstance(compacted, Compacted)
    assert compacted.kept == {kept}


def test_long_chain_is_walked_no_further_than_needed(lines: Lines) -> None:
    lines.prompt("old")
    for number in range(3_000):
        lines.add("system", subtype=f"{number}")
    lines.push("new")
    lines.answer("m1")
    transcript = Transcript(lines.path)
    facts = transcript.read()
    old, new, answer = facts
    assert isinstance(old, Context)
    assert isinstance(new, Context)
    assert isinstance(answer, Answer)
    assert transcript.carries(answer, new)
    assert transcript.carries(answer, old)
    assert not transcript.leaves_out(answer, old)


def test_transcript_is_found_by_the_name_of_its_conversation(tmp_path: Path) -> None:
    assert locate(tmp_path, "c1") is None
    path = tmp_path / "projects" / "-some-folder" / "c1.jsonl"
    path.parent.mkdir(parents=True)
    path.touch()
    assert locate(tmp_path, "c1") == path
