"""Lines of a `claude -p`, and of ours between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claudedo_worker.stream_json import (
    Answered,
    ApiRetry,
    Background,
    Began,
    Cancelled,
    Denied,
    Echo,
    Ended,
    Init,
    Output,
    Permission,
    Refusal,
    Result,
    Said,
    Unreadable,
    line_id,
    read_line,
    response_line,
    user_line,
)

BEGAN = Began(attempt=1, session="s_1", at=1.0)
CALL = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "make"}}


def line(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("given", "event"),
    [
        (
            line(
                type="system",
                subtype="init",
                session_id="c",
                mcp_servers=[{"name": "claudedo", "status": "failed"}, {"name": "x"}],
            ),
            Init(conversation="c", failed_servers=("claudedo",)),
        ),
        (line(type="user", isReplay=True, uuid="u", message={}), Echo(uuid="u")),
        (
            line(
                type="control_request",
                request_id="r",
                request={
                    "subtype": "can_use_tool",
                    "tool_name": "Bash",
                    "input": {"command": "make"},
                    "permission_suggestions": [{"type": "addRules"}],
                    "tool_use_id": "t",
                },
            ),
            Permission(
                request_id="r",
                tool="Bash",
                input={"command": "make"},
                suggestions=({"type": "addRules"},),
                tool_use_id="t",
            ),
        ),
        (line(type="control_cancel_request", request_id="r"), Cancelled(request_id="r")),
        (response_line("r", {"behavior": "deny"}), Answered(request_id="r", denied=True)),
        (response_line("r", {"behavior": "allow"}), Answered(request_id="r")),
        (
            line(type="system", subtype="api_retry", attempt=2, error_status=None, error="unknown"),
            ApiRetry(attempt=2, error="unknown", status=None),
        ),
        (
            line(type="assistant", message={"content": [{"type": "text", "text": "Hi"}, CALL]}),
            Said(text="Hi", calls=(("Bash", {"command": "make"}),)),
        ),
        (
            line(
                type="assistant",
                error="rate_limit",
                quotaLimits={"resetsAt": 5},
                message={"content": [{"type": "text", "text": "limit"}]},
            ),
            Refusal(error="rate_limit", text="limit", resets_at=5.0),
        ),
        (
            line(type="system", subtype="task_started", task_id="b"),
            Background(id="b", runs=True),
        ),
        (
            line(
                type="result",
                subtype="success",
                is_error=True,
                result="API Error: 529",
                api_error_status=529,
                total_cost_usd=0.25,
                permission_denials=[
                    {"tool_name": "Bash", "tool_use_id": "t", "tool_input": {"command": "x"}}
                ],
                result_index=0,
            ),
            Result(
                is_error=True,
                subtype="success",
                text="API Error: 529",
                status=529,
                cost=0.25,
                denials=(Denied(tool="Bash", input={"command": "x"}, tool_use_id="t"),),
                counts_on=True,
            ),
        ),
        (b"Traceback:", Unreadable(text="Traceback:")),
        (b"[1]", Unreadable(text="[1]")),
    ],
)
def test_each_line_says_what_it_says(given: bytes, event: object) -> None:
    assert list(read_line(given)) == [event]


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"  ",
        line(type="user", message={"content": []}),
        line(type="assistant", parent_tool_use_id="t", message={"content": [CALL]}),
        line(type="control_request", request={"subtype": "other"}),
        line(type="system", subtype="hook_started"),
        line(type="later", of="a newer version"),
        line(type="claudedo", event="unheard"),
        line(),
    ],
)
def test_what_is_of_no_interest_says_nothing(given: bytes) -> None:
    assert list(read_line(given)) == []


@pytest.mark.parametrize("kind", ["system", "user", "assistant", "control_request", "result"])
@pytest.mark.parametrize("value", [None, 3, "x", [], [None, 3], {}, {"subtype": 4}])
def test_no_line_breaks_the_reading(kind: str, value: Any) -> None:
    names = ("message", "request", "result", "permission_denials", "total_cost_usd", "errors")
    given = {"type": kind, "subtype": "init", "isReplay": True, "mcp_servers": None}
    list(read_line(line(**given, **dict.fromkeys(names, value))))
    list(read_line(line(type=kind, message={"content": value}, request=value, response=value)))


def test_a_file_is_read_as_it_grows_and_only_whole_lines(tmp_path: Path) -> None:
    output = Output(tmp_path / "output.jsonl")
    assert output.read() == []
    output.add(BEGAN)
    said = line(type="assistant", message={"content": [{"type": "text", "text": "a\u2028b"}]})
    with output.path.open("ab") as file:
        file.write(said + b"\n" + said[:20])
    assert output.read() == [BEGAN, Said(text="a\u2028b")]
    assert output.read() == []
    with output.path.open("ab") as file:
        file.write(said[20:] + b"\n")
    assert output.read() == [Said(text="a\u2028b")]


def test_what_a_killed_process_left_half_does_not_hide_our_line(tmp_path: Path) -> None:
    output = Output(tmp_path / "output.jsonl")
    output.path.write_bytes(b'{"type": "assist')
    ended = Ended(code=137, at=2.0, seconds=1.0, spent=0.1)
    output.add(ended)
    assert output.read() == [Unreadable(text='{"type": "assist'), ended]


def test_a_text_survives_its_way_and_one_line_it_stays() -> None:
    text = 'ü😀\u2028\n"</system-reminder>\x00'
    written = user_line(text, "u")
    assert written.endswith(b"\n") and written.count(b"\n") == 1
    assert json.loads(written)["message"] == {"role": "user", "content": text}


def test_the_same_attempt_is_always_the_same_line() -> None:
    assert line_id("a_1") == line_id("a_1") != line_id("a_2")
