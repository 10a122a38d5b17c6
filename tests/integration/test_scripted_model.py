"""The scripted model over plain HTTP, and as the model of the real Claude CLI."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import aiohttp
import pexpect
import pytest

from claudedo.demo.model import (
    Answer,
    Error,
    Held,
    ModelRequest,
    NeverAsked,
    OtherRequest,
    RequestKind,
    Rules,
    ScriptedModel,
    ScriptFailed,
    Sequence,
    Slow,
    Text,
    ToolUse,
    ToolUses,
)
from tests.support.claude_home import (
    ClaudeHome,
    claude_params,
    create_claude_home,
    require_claude,
)

BOUND = 60.0  # seconds for anything a real `claude` has to do

ALLOWED = ("--permission-mode", "acceptEdits", "--allowedTools", "Bash")
AUTO = ("--permission-mode", "auto")

Body = dict[str, Any]
Said = str | list[Body]


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


# Over plain HTTP


@pytest.fixture
async def client(model: ScriptedModel) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(model.url, timeout=aiohttp.ClientTimeout(20)) as client:
        yield client


def conversation(*said: tuple[str, Said], **more: object) -> Body:
    """A request of the main conversation: it offers a tool."""
    messages = [{"role": role, "content": content} for role, content in said]
    tools = [{"name": "Bash", "description": "", "input_schema": {"type": "object"}}]
    return {"model": "any", "max_tokens": 9, "messages": messages, "tools": tools, **more}


async def ask(
    client: aiohttp.ClientSession, body: Body, session: str = "", agent: str = ""
) -> Body:
    headers = {"x-api-key": "secret", "X-Claude-Code-Session-Id": session}
    headers |= {"x-claude-code-agent-id": agent} if agent else {}
    async with client.post("/v1/messages?beta=true", json=body, headers=headers) as response:
        answer: Body = await response.json()
        return answer


async def ask_text(client: aiohttp.ClientSession, text: str, session: str = "") -> str:
    answer = await ask(client, conversation(("user", text)), session)
    said: str = answer["content"][0]["text"]
    return said


async def stream(client: aiohttp.ClientSession, body: Body) -> list[Body]:
    async with client.post("/v1/messages", json={**body, "stream": True}) as response:
        assert response.content_type == "text/event-stream"
        blocks = (await response.text()).strip().split("\n\n")
    lines = [block.split("\n") for block in blocks]
    events = [json.loads(data.removeprefix("data: ")) for _, data in lines]
    assert [f"event: {event['type']}" for event in events] == [name for name, _ in lines]
    return events


@pytest.mark.anyio
async def test_a_text_is_streamed_as_the_api_streams_it(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    model.otherwise(lambda request: Text("a longer answer, in several pieces"))
    events = await stream(client, conversation(("user", "hello")))
    kinds = [event["type"] for event in events if event["type"] != "content_block_delta"]
    assert kinds == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert len(pieces) > 1
    assert "".join(pieces) == "a longer answer, in several pieces"
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] > 0


@pytest.mark.anyio
async def test_parallel_tool_calls_are_streamed_with_their_own_ids_and_whole_inputs(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    calls = [ToolUse("Bash", {"command": "ls"}, text="Looking."), ToolUse("Read", {"path": "ü"})]
    model.otherwise(lambda request: ToolUses(calls))
    events = await stream(client, conversation(("user", "hello")))
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    inputs = {1: "", 2: ""}
    for event in events:
        if event["type"] == "content_block_delta" and event["index"] in inputs:
            inputs[event["index"]] += event["delta"]["partial_json"]
    assert [block["type"] for block in blocks] == ["text", "tool_use", "tool_use"]
    assert len({block["id"] for block in blocks[1:]}) == 2
    assert [json.loads(text) for text in inputs.values()] == [{"command": "ls"}, {"path": "ü"}]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.anyio
async def test_an_error_has_its_status_headers_and_body(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    refusal = Error(429, "rate_limit_error", "Slow down", {"retry-after": "2"})
    model.otherwise(lambda request: refusal)
    async with client.post("/v1/messages", json=conversation(("user", "hello"))) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "2")
        assert await response.json() == {
            "type": "error",
            "error": {"type": "rate_limit_error", "message": "Slow down"},
        }


@pytest.mark.anyio
async def test_what_is_no_message_is_answered_or_refused_and_recorded(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    async with client.head("/api/hello") as hello, client.get("/v1/models") as unknown:
        assert (hello.status, unknown.status) == (200, 404)
    counting = conversation(("user", "hello"))
    async with client.post("/v1/messages/count_tokens", json=counting) as counted:
        assert (await counted.json())["input_tokens"] > 0
    async with client.post("/v1/messages", json={"model": "any"}) as incomplete:
        assert incomplete.status == 400
    assert model.other_requests == (
        OtherRequest(method="HEAD", path="/api/hello", status=200),
        OtherRequest(method="GET", path="/v1/models", status=404),
        OtherRequest(method="POST", path="/v1/messages/count_tokens", status=200),
    )
    assert model.requests == ()


@pytest.mark.anyio
async def test_a_request_tells_what_is_new_what_was_said_and_what_tools_gave(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True}
    result |= {"content": [{"type": "text", "text": "no such file m_1"}]}
    body = conversation(
        ("user", "first m_1"),
        ("assistant", [{"type": "text", "text": "never counted m_1"}, call]),
        ("user", [result]),
        ("system", "a hook says m_1"),
        system=[{"type": "text", "text": "You are backend m_1"}],
    )
    await ask(client, body, session="s-1")
    [request] = model.requests
    assert [(part.role, part.kind, part.text) for part in request.texts()] == [
        ("user", "text", "first m_1"),
        ("user", "tool_result", "no such file m_1"),
        ("system", "text", "a hook says m_1"),
    ]
    assert request.latest == "no such file m_1\na hook says m_1"
    assert request.count("m_1") == 3
    assert (request.system_text, request.tool_names) == ("You are backend m_1", ("Bash",))
    assert (request.tool_results["t1"].text, request.tool_results["t1"].is_error) == (
        "no such file m_1",
        True,
    )
    assert (request.sequence, request.session_id, request.is_main) == (1, "s-1", True)
    assert "secret" not in str(request.headers)


@pytest.mark.anyio
async def test_a_session_stays_with_its_script_when_another_ones_name_reaches_it(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    for name in ("alpha", "beta"):
        model.script(f"You are {name}", Rules([], default=Text(f"I am {name}")))
    assert await ask_text(client, "You are beta", "s-beta") == "I am beta"
    assert await ask_text(client, "You are alpha, they say", "s-beta") == "I am beta"
    first_words = conversation(("user", "You are alpha?"), system="You are beta")
    assert (await ask(client, first_words, "s-b2"))["content"][0]["text"] == "I am beta"
    model.script("You are beta", Rules([], default=Text("I changed")))
    assert await ask_text(client, "anything", "s-beta") == "I changed"
    model.script("s-beta", Rules([], default=Text("chosen by id")))
    assert await ask_text(client, "anything", "s-beta") == "chosen by id"
    assert await ask_text(client, "anything", "s-other") == "ok"


@pytest.mark.anyio
async def test_a_sequence_ends_with_its_last_word_and_rules_look_at_what_is_new(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    model.script("sequence", Sequence([Text("one"), Text("two")], then=Text("over")))
    assert [await ask_text(client, "sequence") for _ in range(4)] == ["one", "two", "over", "over"]
    rules: list[tuple[str | Callable[[ModelRequest], bool], Answer]]
    rules = [("ping", Text("pong")), (lambda request: request.count("x") > 1, Text("many"))]
    model.script("rules", Rules(rules, default=lambda request: Text(request.latest.upper())))
    said = [await ask_text(client, f"rules {word}") for word in ("ping", "xx", "else")]
    assert said == ["pong", "many", "RULES ELSE"]


@pytest.mark.anyio
async def test_requests_beside_the_conversation_do_not_use_up_its_script(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    model.script("task", Sequence([Text("step one")]))
    model.script("task", Sequence([Text("from the subagent")]), kind=RequestKind.SUBAGENT)
    title = conversation(("user", "task"), output_config={"format": {"title": "string"}})
    side = conversation(("user", "quota task"))
    summary = conversation(("user", "task"), ("user", "CRITICAL: Respond with TEXT ONLY. Go."))
    title["tools"], side["tools"] = [], []
    for body in (title, side, summary):
        await ask(client, body, "s-1")
    sub = await ask(client, conversation(("user", "task")), "s-1", agent="a-1")
    assert sub["content"][0]["text"] == "from the subagent"
    assert await ask_text(client, "task", "s-1") == "step one"
    assert [request.kind for request in model.requests] == [
        RequestKind.TITLE,
        RequestKind.SIDE,
        RequestKind.COMPACTION,
        RequestKind.SUBAGENT,
        RequestKind.MAIN,
    ]


@pytest.mark.anyio
async def test_a_held_answer_waits_for_its_event_while_others_are_served(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    event = threading.Event()
    model.script("held", Rules([], default=Held(Text("at last"), event)))
    async with client.post("/v1/messages", json=conversation(("user", "quick"))) as quick:
        assert quick.status == 200
    answers: list[str] = []

    def ask_held() -> None:
        answers.append(post(model.url, conversation(("user", "held"))))

    thread = threading.Thread(target=ask_held)
    thread.start()
    await model.wait_for_async(lambda request: "held" in request.latest)
    assert await ask_text(client, "meanwhile") == "ok"
    assert answers == []
    event.set()
    thread.join(20)
    assert "at last" in answers[0]


@pytest.mark.anyio
async def test_a_slow_answer_arrives_whole_after_its_time(
    model: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    model.otherwise(lambda request: Slow(Text("unhurried"), 0.3))
    began = time.monotonic()
    events = await stream(client, conversation(("user", "hello")))
    assert time.monotonic() - began >= 0.3
    assert events[-1]["type"] == "message_stop"


def test_waiting_names_the_requests_that_did_come(model: ScriptedModel) -> None:
    post(model.url, conversation(("user", "something else")))
    with pytest.raises(NeverAsked, match=r"1 came\n  #1 main no session: 'something else'"):
        model.wait_for(lambda request: "this" in request.text, timeout=0.05)
    assert model.wait_for(lambda request: True).sequence == 1
    with pytest.raises(NeverAsked, match="0 came"):
        model.wait_for(lambda request: True, timeout=0.05, after=1)


def test_a_script_that_raises_refuses_the_request_and_fails_the_run() -> None:
    def broken(request: ModelRequest) -> Answer:
        raise LookupError("no line for this")

    model = ScriptedModel().start()
    model.otherwise(broken)
    assert "no line for this" in post(model.url, conversation(("user", "hello")))
    with pytest.raises(ScriptFailed, match="no line for this"):
        model.stop()


def test_an_answer_nobody_lets_go_fails_the_run() -> None:
    model = ScriptedModel().start()
    model.otherwise(lambda request: Held(Text("never"), threading.Event(), timeout=0.05))
    assert "never let go" in post(model.url, conversation(("user", "hello")))
    with pytest.raises(ScriptFailed, match="never let go"):
        model.stop()


def test_a_caller_who_hangs_up_is_not_waited_for() -> None:
    model = ScriptedModel().start()
    answers = iter([Held(Text("never"), threading.Event(), timeout=1)])
    model.otherwise(lambda request: next(answers, Text("next in line")))
    with connected(model.url, conversation(("user", "hello"))):
        model.wait_for(lambda request: True)
    assert "next in line" in post(model.url, conversation(("user", "again")))
    time.sleep(1.3)  # past the hold: a wait that went on would fail the run
    model.stop()


def test_stopping_cuts_held_requests_and_starting_again_keeps_the_address() -> None:
    model = ScriptedModel().start()
    first = model.url
    model.otherwise(lambda request: Held(Text("never"), threading.Event()))
    cut: list[str] = []
    thread = threading.Thread(
        target=lambda: cut.append(post(model.url, conversation(("user", "hello"))))
    )
    thread.start()
    model.wait_for(lambda request: True)
    model.stop()
    thread.join(20)
    assert cut == [""]
    model.otherwise(lambda request: Text("back"))
    with model:
        assert model.url == first
        assert "back" in post(model.url, conversation(("user", "again")))


def test_a_taken_port_is_reported_to_who_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        ScriptedModel(port=taken.getsockname()[1]).start()


def post(url: str, body: Body) -> str:
    """What the API says to `body`, from a caller without an event loop; "" when it hangs up."""
    with connected(url, body) as connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def connected(url: str, body: Body) -> socket.socket:
    """A connection on which `body` has been sent and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/messages HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(head + data)
    return connection


# As the model of the real CLI


@pytest.fixture(params=claude_params())
def claude(request: pytest.FixtureRequest) -> Path:
    return require_claude(request.param)


@pytest.fixture
def home(model: ScriptedModel, tmp_path: Path) -> ClaudeHome:
    return create_claude_home(tmp_path, model.url)


def run(
    claude: Path, home: ClaudeHome, *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(claude), "-p", *arguments],
        cwd=home.repository,
        env={**home.environment, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )


def main_requests(requests: Items[ModelRequest]) -> list[ModelRequest]:
    return [request for request in requests if request.is_main]


def test_a_one_shot_run_prints_what_the_model_says(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    model.script("m_question", Sequence([Text("scripted answer")]))
    finished = run(claude, home, *ALLOWED, "--", "m_question")
    assert (finished.returncode, finished.stdout) == (0, "scripted answer\n"), finished
    [request] = main_requests(model.requests)
    assert request.count("m_question") == 1
    assert "Bash" in request.tool_names
    assert not [other for other in model.other_requests if other.status != 200]


def test_parallel_tool_calls_are_run_and_both_results_come_back(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    calls = [
        ToolUse("Bash", {"command": "echo one-$((40 + 2))", "description": "say"}, id="toolu_1"),
        ToolUse("Bash", {"command": "false", "description": "fail"}, id="toolu_2"),
    ]
    model.script("m_tools", Sequence([ToolUses(calls)], then=Text("both seen")))
    finished = run(claude, home, *ALLOWED, "--", "m_tools")
    assert finished.stdout == "both seen\n", finished
    results = main_requests(model.requests)[-1].tool_results
    assert results["toolu_1"].text == "one-42"
    assert [results[name].is_error for name in ("toolu_1", "toolu_2")] == [False, True]


def test_a_stream_json_run_reports_what_the_model_says(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    model.script("m_line", Sequence([Text("scripted answer")]))
    line = {"type": "user", "message": {"role": "user", "content": "m_line"}}
    flags = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
    finished = run(claude, home, *ALLOWED, *flags, stdin=json.dumps(line) + "\n")
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    results = [event["result"] for event in events if event["type"] == "result"]
    assert results == ["scripted answer"], finished


def test_a_server_error_reaches_the_cli_which_retries_as_often_as_told(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    model.otherwise(lambda request: Error(500, "api_error", "scripted failure"))
    finished = run(claude, home, *ALLOWED, "--", "m_failing", CLAUDE_CODE_MAX_RETRIES="1")
    assert finished.returncode == 1, finished
    assert "500" in finished.stdout
    assert len(main_requests(model.requests)) == 2


def test_a_subagent_is_told_apart_from_the_main_conversation(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    errand = {"description": "look", "prompt": "m_errand", "subagent_type": "general-purpose"}
    echo = ToolUse("Bash", {"command": "echo from-below", "description": "say"})
    model.script("m_task", Sequence([ToolUse("Agent", errand)], then=Text("task over")))
    model.script("m_errand", Sequence([echo], then=Text("m_report")), kind=RequestKind.SUBAGENT)
    finished = run(claude, home, *ALLOWED, "--", "m_task")
    assert finished.returncode == 0, finished
    below = [request for request in model.requests if request.kind is RequestKind.SUBAGENT]
    above = main_requests(model.requests)
    assert [request.count("from-below") for request in below] == [0, 1]
    assert not any("m_task" in request.text for request in below)
    assert all(request.count("m_task") == 1 for request in above)
    assert above[-1].count("m_report") == 1
    assert {request.session_id for request in below} == {request.session_id for request in above}


def test_the_classifier_of_auto_mode_lets_a_scripted_tool_call_pass(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    create = ToolUse("Bash", {"command": "curl --version; touch made", "description": "make"})
    model.script("m_auto", Sequence([create], then=Text("made it")))
    finished = run(claude, home, *AUTO, "--", "m_auto")
    assert finished.stdout == "made it\n", finished
    assert (home.repository / "made").exists()
    assert {request.kind for request in model.requests} == {
        RequestKind.MAIN,
        RequestKind.CLASSIFIER,
    }


# From Python 3.12 on, forking beside the model's thread is warned of; the child executes at once.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_an_interactive_session_meets_no_dialog_and_keeps_its_script_over_a_compaction(
    model: ScriptedModel, claude: Path, home: ClaudeHome
) -> None:
    answers = [f"m_answer_{number}" for number in (1, 2, 3)]
    model.script("m_typed", Sequence([Text(answer) for answer in answers]))
    terminal = pexpect.spawn(
        str(claude),
        ["--permission-mode", "acceptEdits"],
        cwd=str(home.repository),
        env=home.environment,
        dimensions=(50, 120),
        encoding="utf-8",
        codec_errors="replace",
    )
    try:
        until(terminal, lambda: status(home) == "idle")
        exchange(terminal, home, "m_typed: please say hello", expected=answers[0])
        exchange(terminal, home, "more", expected=answers[1])  # 2.1.197 compacts nothing shorter
        exchange(terminal, home, "/compact", expected="compact_boundary")
        exchange(terminal, home, "next", expected=answers[2])
        terminal.send("/exit\r")
        until(terminal, lambda: not terminal.isalive())
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 0
    kinds = {request.kind for request in model.requests}
    assert kinds == {RequestKind.MAIN, RequestKind.TITLE, RequestKind.COMPACTION}
    assert len(main_requests(model.requests)) == 3
    assert main_requests(model.requests)[-1].count("m_typed") == 0


def exchange(terminal: pexpect.spawn[str], home: ClaudeHome, typed: str, *, expected: str) -> None:
    """Types into an idle session and waits until it is idle again, with `expected` on record."""
    terminal.send(f"{typed}\r")
    until(terminal, lambda: expected in transcript(home))
    until(terminal, lambda: status(home) == "idle")


def until(terminal: pexpect.spawn[str], condition: Callable[[], bool]) -> None:
    """Reads the terminal, so that nothing written to it blocks, until `condition` holds."""
    deadline, screen = time.monotonic() + BOUND, ""
    while not condition():
        assert time.monotonic() < deadline, f"never came true; the end of the screen: {screen}"
        try:
            screen = (screen + terminal.read_nonblocking(65536, timeout=0.05))[-4000:]
        except pexpect.TIMEOUT:
            continue
        except pexpect.EOF:
            terminal.wait()
            assert condition(), f"ended early; the end of the screen: {screen}"


def status(home: ClaudeHome) -> str:
    """What the CLI's registry says of the only session (docs/claude-cli.md 8.4)."""
    for record in (home.path / ".claude" / "sessions").glob("*.json"):
        text = record.read_text()
        return str(json.loads(text).get("status")) if text else ""
    return ""


def transcript(home: ClaudeHome) -> str:
    files = (home.path / ".claude" / "projects").glob("*/*.jsonl")
    return "".join(file.read_text() for file in files)
