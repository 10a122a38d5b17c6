"""The bridge as `claude` runs it, against a worker that the test plays itself."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.session import IncomingMessage
from mcp_types import TextContent

Json = dict[str, Any]

BRIDGE = Path(__file__).parents[2] / "hooks" / "claudedo_hooks" / "bridge.py"
PYTHON = str(Path(sys.executable).resolve())  # the base interpreter, as in a session

BOUND = 30.0
"""Seconds that anything which has to happen may take."""

HURRY = 2.0
"""Seconds within which "at once" counts as kept on a busy machine; below a hook's patience of 5."""

INITIALIZE: Json = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class LineReader:
    """Reads JSON lines from a descriptor, each within a bound."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self, bound: float = BOUND) -> Json:
        """The next line. EOFError at the end, TimeoutError when none comes."""
        chunks = [self._rest]
        while b"\n" not in chunks[-1]:
            if not select.select([self._fd], [], [], bound)[0]:
                raise TimeoutError(f"nothing came within {bound} seconds")
            try:
                chunks.append(os.read(self._fd, 1 << 20))
            except ConnectionResetError as error:  # it ended with something unread
                raise EOFError from error
            if not chunks[-1]:
                raise EOFError
        line, _, self._rest = b"".join(chunks).partition(b"\n")
        message: Json = json.loads(line)
        return message

    def nibble(self, size: int) -> None:
        """Takes `size` bytes out of the pipe and leaves the rest there."""
        while size:
            assert select.select([self._fd], [], [], BOUND)[0]
            taken = os.read(self._fd, size)
            self._rest += taken
            size -= len(taken)

    def expect_nothing(self, seconds: float = 0.3) -> None:
        """Fails if a line comes within `seconds`."""
        try:
            message = self.read(seconds)
        except TimeoutError:
            return
        pytest.fail(f"there should be nothing: {str(message)[:300]}")


class Connection:
    """The worker's end of one accepted connection."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.socket.settimeout(BOUND)
        self._reader = LineReader(accepted.fileno())
        self.read = self._reader.read
        self.expect_nothing = self._reader.expect_nothing
        self.held: list[int] = []

    def send(self, message: Json) -> None:
        """Writes one line."""
        self.socket.sendall(json.dumps(message, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """What the death of the worker does to a connection."""
        self.socket.close()


class FakeWorker:
    """The listening side of a session.sock; `stop` and `start` are a restart of the worker."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "session.sock"
        self._listener: socket.socket | None = None
        self._open: list[Connection] = []

    def start(self) -> None:
        """Listens on the same path as before."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.settimeout(BOUND)

    def stop(self) -> None:
        """Closes everything, as `kill -9` would."""
        if self._listener is not None:
            self._listener.close()
            self.path.unlink()
        self._listener = None
        for connection in self._open:
            connection.close()
        self._open = []

    def accept(self) -> Connection:
        """The next connection, its hello unread."""
        assert self._listener is not None
        connection = Connection(self._listener.accept()[0])
        self._open.append(connection)
        return connection

    def welcome(self) -> Connection:
        """The next connection, its hello answered."""
        connection = self.accept()
        assert "hello" in connection.read()
        connection.send({"welcome": {"protocol": 1}})
        return connection


def write_session(folder: Path, worker: FakeWorker) -> None:
    """Writes the session.json of a session that `worker` serves."""
    session = {
        "session": "s_1",
        "socket": str(worker.path),
        "credential": "secret",
        "protocol": 1,
        "instructions": "Read your mail.",
        "server_version": "0.1.0",
    }
    (folder / "session.json").write_text(json.dumps(session))


class RunningBridge:
    """A bridge process and the client's end of its pipes."""

    def __init__(self, folder: Path, constants: Json) -> None:
        command = [PYTHON, "-I", "-S", str(BRIDGE), str(folder)]
        if constants:
            # The same file, with times that a test can wait for.
            program = f"import sys; sys.path.insert(0, {str(BRIDGE.parent)!r}); import bridge; "
            program += f"vars(bridge).update({constants!r}); sys.exit(bridge.main(sys.argv[1:]))"
            command[3:4] = ["-c", program]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = self.process.stdin
        self._reader = LineReader(self.process.stdout.fileno())
        self.read = self._reader.read
        self.nibble = self._reader.nibble
        self.expect_nothing = self._reader.expect_nothing

    def write(self, *messages: Json) -> None:
        """Sends messages of the client."""
        for message in messages:
            self.write_raw(json.dumps(message, ensure_ascii=False).encode() + b"\n")

    def write_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.stdin.write(data)
        self.stdin.flush()

    def initialize(self) -> Json:
        """The client's handshake; the answer to its `initialize`."""
        self.write(INITIALIZE)
        answer = self.read()
        self.write(INITIALIZED)
        return answer

    def stop(self) -> None:
        """Ends the process, if it has not ended by itself."""
        self.process.kill()
        self.process.wait(BOUND)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was never flushed
                    pipe.close()


class Stage:
    """One session's folder, its worker, and the bridges started in it."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.folder = folder
        self._cleanup = cleanup
        self.worker = FakeWorker(folder)
        self._cleanup.callback(self.worker.stop)
        write_session(folder, self.worker)

    def bridge(self, **constants: float) -> RunningBridge:
        """A bridge; `constants` replace those of its module."""
        bridge = RunningBridge(self.folder, constants)
        self._cleanup.callback(bridge.stop)
        return bridge

    def connected(self, **constants: float) -> tuple[RunningBridge, Connection]:
        """A bridge whose client and worker have both said what they say at the start."""
        self.worker.start()
        bridge = self.bridge(**constants)
        connection = self.worker.welcome()
        bridge.initialize()
        assert connection.read() == {"mcp": INITIALIZE}
        assert connection.read() == {"mcp": INITIALIZED}
        return bridge, connection

    def restart_worker(self) -> Connection:
        """A new worker's connection, the repeated handshake already read, and what is held."""
        self.worker.stop()
        self.worker.start()
        connection = self.worker.welcome()
        assert connection.read() == {"mcp": INITIALIZE}
        assert connection.read() == {"mcp": INITIALIZED}
        connection.held = connection.read()["held"]
        return connection


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as cleanup:
        # Not tmp_path: a unix socket's path has about a hundred bytes.
        folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cd-"))
        yield Stage(Path(folder), cleanup)


def request(id: int | str, method: str, params: Json | None = None) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


def call(id: int | str, tool: str, arguments: Json, meta: Json | None = None) -> Json:
    params = {"name": tool, "arguments": arguments, **({"_meta": meta} if meta else {})}
    return request(id, "tools/call", params)


def hook(id: int, event: str, meta: Json | None = None) -> Json:
    return call(id, "hook", {"event": event, "tool_name": "Bash"}, meta)


def cancelled(id: int | str) -> Json:
    params = {"requestId": id, "reason": "Esc"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


def result(id: int | str, value: Json) -> Json:
    return {"jsonrpc": "2.0", "id": id, "result": value}


def hook_answer(id: int, output: str) -> Json:
    return result(id, {"content": [{"type": "text", "text": output}]})


# What the bridge answers by itself


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        (None, "2025-11-25"),
    ],
)
def test_initialize_is_answered_without_a_worker_in_a_revision_that_has_channels(
    stage: Stage, asked: str | None, given: str
) -> None:
    bridge = stage.bridge()

    bridge.write({**INITIALIZE, "params": {"protocolVersion": asked}})

    expected = {
        "protocolVersion": given,
        "capabilities": {"tools": {"listChanged": True}, "experimental": {"claude/channel": {}}},
        "serverInfo": {"name": "claudedo", "version": "0.1.0"},
        "instructions": "Read your mail.",
    }
    assert bridge.read(HURRY) == result(0, expected)


def test_a_probe_and_a_ping_are_answered_at_once_while_the_worker_is_away(stage: Stage) -> None:
    bridge = stage.bridge()

    bridge.write(request("server-discover-probe-1", "server/discover"), request(1, "ping"))

    probe = bridge.read(HURRY)
    assert (probe["id"], probe["error"]["code"]) == ("server-discover-probe-1", -32601)
    assert bridge.read(HURRY) == result(1, {})


def test_a_worker_is_told_neither_of_probes_nor_of_pings(stage: Stage) -> None:
    bridge, worker = stage.connected()

    bridge.write(request("p", "server/discover"), request(1, "ping"), request(2, "tools/list"))

    assert worker.read() == {"mcp": request(2, "tools/list")}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700),
        (b"[]", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
    ],
    ids=["cut off", "a batch", "not UTF-8", "too deep", "an object as id"],
)
def test_a_line_that_is_no_message_gets_an_error_and_the_next_is_served(
    stage: Stage, line: bytes, code: int
) -> None:
    bridge = stage.bridge()

    bridge.write_raw(line + b"\n\n")
    bridge.write(request(1, "ping"))

    failure = bridge.read()
    assert (failure["id"], failure["error"]["code"]) == (None, code)
    assert bridge.read() == result(1, {})


# The worker's connection


def test_hello_shows_the_credential_and_who_is_asking(stage: Stage) -> None:
    stage.worker.start()
    bridge = stage.bridge()

    hello = stage.worker.accept().read()

    assert len(hello["hello"].pop("name")) == 16
    assert hello == {
        "hello": {
            "kind": "bridge",
            "protocol": 1,
            "session": "s_1",
            "credential": "secret",
            "pid": bridge.process.pid,
            "parent": os.getpid(),
        }
    }


def test_nothing_is_sent_to_a_worker_that_has_not_said_welcome(stage: Stage) -> None:
    stage.worker.start()
    bridge = stage.bridge()
    worker = stage.worker.accept()
    worker.read()

    bridge.initialize()
    bridge.write(request(1, "tools/list"))

    worker.expect_nothing()
    worker.send({"welcome": {"protocol": 1}})
    assert [worker.read() for _ in range(3)] == [
        {"mcp": INITIALIZE},
        {"mcp": INITIALIZED},
        {"mcp": request(1, "tools/list")},
    ]


def test_a_worker_that_accepts_and_says_nothing_is_left(stage: Stage) -> None:
    stage.worker.start()
    stage.bridge(WELCOME_PATIENCE=0.2)
    silent = stage.worker.accept()
    silent.read()

    with pytest.raises(EOFError):
        silent.read()
    assert "hello" in stage.worker.accept().read()


def test_a_worker_that_comes_late_is_found_within_two_seconds(stage: Stage) -> None:
    bridge = stage.bridge()
    bridge.initialize()
    bridge.expect_nothing(3.5)  # long enough for the back-off to have grown to its end

    stage.worker.start()
    started = time.monotonic()
    stage.worker.welcome()

    assert time.monotonic() - started < 2


def test_the_workers_answer_to_initialize_is_swallowed(stage: Stage) -> None:
    bridge, worker = stage.connected()

    worker.send({"mcp": result(0, {"protocolVersion": "2025-11-25"})})

    bridge.expect_nothing()


# Requests


def test_a_request_reaches_the_worker_and_its_answer_the_client_unchanged(stage: Stage) -> None:
    bridge, worker = stage.connected()
    text = 'käse 🧀 \u2028 "quoted" \\ud83e </channel>\t'

    bridge.write(call("seven", "reply", {"text": text}))
    assert worker.read() == {"mcp": call("seven", "reply", {"text": text})}
    worker.send({"mcp": result("seven", {"text": text, "big": 2**70})})

    assert bridge.read() == result("seven", {"text": text, "big": 2**70})


def test_half_a_surrogate_pair_passes_both_ways_as_the_escape_that_it_is(stage: Stage) -> None:
    bridge, worker = stage.connected()

    bridge.write_raw(rb'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"\ud83e"}}' + b"\n")
    assert worker.read()["mcp"]["params"] == {"a": "\ud83e"}
    worker.socket.sendall(rb'{"mcp":{"jsonrpc":"2.0","id":1,"result":{"a":"\ud83e"}}}' + b"\n")

    assert bridge.read()["result"] == {"a": "\ud83e"}


def test_unanswered_requests_are_replayed_in_order_once_per_connection(stage: Stage) -> None:
    bridge, worker = stage.connected()
    requests = [request(1, "tools/list"), call("two", "check_inbox", {}), call(3, "getTask", {})]
    bridge.write(*requests)
    assert [worker.read()["mcp"] for _ in requests] == requests
    worker.send({"mcp": result("two", {"content": []})})
    assert bridge.read()["id"] == "two"

    for _ in range(3):
        worker = stage.restart_worker()
        assert worker.read() == {"mcp": requests[0]}
        assert worker.read() == {"mcp": requests[2]}
        worker.expect_nothing()

    worker.send({"mcp": result(3, {"content": []})})
    worker.send({"mcp": result(1, {"tools": []})})
    assert [bridge.read()["id"], bridge.read()["id"]] == [3, 1]
    stage.restart_worker().expect_nothing()


def test_a_request_made_while_the_worker_is_away_is_answered_by_the_next(stage: Stage) -> None:
    bridge, _ = stage.connected()
    stage.worker.stop()

    bridge.write(call(1, "check_inbox", {}))
    bridge.expect_nothing()
    worker = stage.restart_worker()
    assert worker.read() == {"mcp": call(1, "check_inbox", {})}
    worker.send({"mcp": result(1, {"content": []})})

    assert bridge.read() == result(1, {"content": []})


def test_the_answer_that_two_workers_give_reaches_the_client_once(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(call(1, "check_inbox", {}))
    worker.read()

    worker.send({"mcp": result(1, {"content": []})})
    worker.send({"mcp": result(1, {"content": ["again"]})})

    assert bridge.read() == result(1, {"content": []})
    bridge.expect_nothing()


def test_a_cancelled_request_is_forgotten_and_the_worker_is_told(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(call(1, "check_inbox", {}))
    worker.read()

    bridge.write(cancelled(1))

    assert worker.read() == {"mcp": cancelled(1)}
    worker.send({"mcp": result(1, {"content": []})})
    bridge.expect_nothing()
    stage.restart_worker().expect_nothing()


def test_other_notifications_of_the_client_reach_the_worker(stage: Stage) -> None:
    bridge, worker = stage.connected()
    changed = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}

    bridge.write(changed)

    assert worker.read() == {"mcp": changed}


# What the worker starts


def test_a_push_of_the_worker_reaches_the_client_unchanged(stage: Stage) -> None:
    bridge, worker = stage.connected()
    params = {"content": "[claudedo message m_1]\nhällo", "meta": {"sender": "user"}}
    push = {"jsonrpc": "2.0", "method": "notifications/claude/channel", "params": params}

    worker.send({"mcp": push})

    assert bridge.read() == push


def test_a_worker_that_asks_the_client_gets_the_answer_under_its_own_id(stage: Stage) -> None:
    bridge, worker = stage.connected()

    worker.send({"mcp": request(1, "roots/list")})
    asked = bridge.read()
    assert (asked["method"], asked["params"]) == ("roots/list", {})
    bridge.write(result(asked["id"], {"roots": []}))

    assert worker.read() == {"mcp": result(1, {"roots": []})}


def test_an_answer_to_a_worker_that_is_gone_does_not_reach_its_successor(stage: Stage) -> None:
    bridge, worker = stage.connected()
    worker.send({"mcp": request(1, "roots/list")})
    old = bridge.read()
    worker = stage.restart_worker()
    worker.send({"mcp": request(1, "roots/list")})
    new = bridge.read()

    bridge.write(result(old["id"], {"roots": ["old"]}), result(new["id"], {"roots": ["new"]}))

    assert worker.read() == {"mcp": result(1, {"roots": ["new"]})}


def test_a_worker_can_take_back_what_it_asked(stage: Stage) -> None:
    bridge, worker = stage.connected()
    worker.send({"mcp": request(5, "roots/list")})
    asked = bridge.read()

    worker.send({"mcp": cancelled(5)})

    assert bridge.read() == cancelled(asked["id"])


# Hooks


def test_a_hook_call_travels_apart_from_mcp_and_brings_back_the_output(stage: Stage) -> None:
    bridge, worker = stage.connected()
    output = {"hookSpecificOutput": {"additionalContext": "Grüße\n"}}

    bridge.write(hook(9, "PostToolUse"))
    sent = worker.read()["hook"]
    assert (sent["event"], sent["input"]) == (
        "PostToolUse",
        {"event": "PostToolUse", "tool_name": "Bash"},
    )
    worker.send({"hook": {"id": sent["id"], "output": output}})

    answer = bridge.read()
    assert answer["id"] == 9
    assert [part["type"] for part in answer["result"]["content"]] == ["text"]
    assert json.loads(answer["result"]["content"][0]["text"]) == output


def test_a_hook_is_answered_with_nothing_at_once_while_the_worker_is_away(stage: Stage) -> None:
    bridge = stage.bridge()

    bridge.write(hook(1, "PostToolUse"))

    assert bridge.read(HURRY) == hook_answer(1, "{}")


def test_a_hook_is_answered_with_nothing_at_once_when_its_worker_dies(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(hook(1, "Stop"))
    worker.read()

    stage.worker.stop()

    assert bridge.read(HURRY) == hook_answer(1, "{}")
    worker = stage.restart_worker()
    assert worker.held == []
    worker.expect_nothing()


def test_a_hook_is_answered_with_nothing_after_five_seconds_of_silence(stage: Stage) -> None:
    bridge, worker = stage.connected()
    started = time.monotonic()
    bridge.write(hook(1, "PreToolUse"))
    sent = worker.read()["hook"]

    assert bridge.read() == hook_answer(1, "{}")
    assert 4.9 < time.monotonic() - started < 8
    worker.send({"hook": {"id": sent["id"], "output": {"late": True}}})
    bridge.expect_nothing()


def test_a_stuck_worker_costs_the_full_patience_only_once(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(hook(1, "PreToolUse"))
    bridge.read()

    bridge.write(hook(2, "PostToolUse"))

    assert bridge.read(HURRY) == hook_answer(2, "{}")
    sent = [worker.read()["hook"] for _ in range(2)]  # told of both all the same
    assert [one["event"] for one in sent] == ["PreToolUse", "PostToolUse"]
    worker.send({"hook": {"id": sent[1]["id"], "output": {}}})
    bridge.expect_nothing()
    bridge.write(hook(3, "PostToolUse"))
    bridge.expect_nothing(HURRY)  # it has spoken, so it is waited for again


def test_a_cancelled_held_hook_is_told_and_forgotten_and_its_late_answer_dropped(
    stage: Stage,
) -> None:
    bridge, worker = stage.connected()
    bridge.write(hook(1, "PermissionRequest"))
    sent = worker.read()["hook"]

    bridge.write(cancelled(1))

    assert worker.read() == {"hook": {"id": sent["id"], "cancelled": True}}
    worker.send({"hook": {"id": sent["id"], "output": {"allow": True}}})
    bridge.expect_nothing()
    worker = stage.restart_worker()
    assert worker.held == []
    worker.expect_nothing()


def test_of_a_cancelled_hook_that_nobody_holds_the_worker_is_told_nothing(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(hook(1, "PreToolUse"))
    worker.read()

    bridge.write(cancelled(1))

    worker.expect_nothing()


def test_what_was_cancelled_while_the_worker_was_away_is_not_among_the_held(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(hook(1, "PermissionRequest"), hook(2, "PermissionRequest"))
    numbers = [worker.read()["hook"]["id"] for _ in range(2)]
    stage.worker.stop()

    bridge.write(cancelled(1), request(3, "ping"))
    assert bridge.read() == result(3, {})
    worker = stage.restart_worker()

    assert worker.held == numbers[1:]
    assert worker.read()["hook"]["id"] == numbers[1]


def test_two_bridges_of_a_session_have_different_names(stage: Stage) -> None:
    stage.worker.start()

    stage.bridge()
    one = stage.worker.accept().read()["hello"]
    stage.bridge()
    other = stage.worker.accept().read()["hello"]

    assert one["name"] != other["name"]


def test_a_held_permission_request_survives_two_workers_in_its_place(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(call(1, "a", {}), hook(2, "PermissionRequest"), call(3, "b", {}))
    first = [worker.read() for _ in range(3)]
    assert "hook" in first[1]

    for _ in range(2):
        worker = stage.restart_worker()
        assert worker.held == [first[1]["hook"]["id"]]
        assert [worker.read() for _ in range(3)] == first
    worker.send({"hook": {"id": first[1]["hook"]["id"], "output": {"allow": True}}})

    assert bridge.read() == hook_answer(2, '{"allow":true}')


def test_a_permission_request_made_while_the_worker_is_away_is_held(stage: Stage) -> None:
    bridge, _ = stage.connected()
    stage.worker.stop()

    bridge.write(hook(1, "PermissionRequest"))
    bridge.expect_nothing()
    worker = stage.restart_worker()
    sent = worker.read()["hook"]
    assert sent["event"] == "PermissionRequest"
    worker.send({"hook": {"id": sent["id"], "output": {}}})

    assert bridge.read() == hook_answer(1, "{}")


def test_a_held_permission_request_shows_that_it_lives_until_it_is_answered(stage: Stage) -> None:
    bridge, worker = stage.connected(PROGRESS_EVERY=0.2)

    bridge.write(hook(1, "PermissionRequest", {"progressToken": "t"}))
    sent = worker.read()["hook"]

    signs = [bridge.read() for _ in range(3)]
    assert [sign["method"] for sign in signs] == ["notifications/progress"] * 3
    assert [sign["params"] for sign in signs] == [
        {"progressToken": "t", "progress": count} for count in (1, 2, 3)
    ]
    worker.send({"hook": {"id": sent["id"], "output": {}}})
    while "id" not in (message := bridge.read()):
        assert message["method"] == "notifications/progress"
    assert message == hook_answer(1, "{}")
    bridge.expect_nothing(0.6)


def test_a_held_permission_request_without_a_token_is_kept_in_silence(stage: Stage) -> None:
    bridge, worker = stage.connected(PROGRESS_EVERY=0.1)

    bridge.write(hook(1, "PermissionRequest"))
    worker.read()

    bridge.expect_nothing(0.6)


@pytest.mark.slow
def test_signs_of_life_are_twenty_seconds_apart_and_no_answer_is_made_up(stage: Stage) -> None:
    bridge, _ = stage.connected()
    started = time.monotonic()

    bridge.write(hook(1, "PermissionRequest", {"progressToken": 7}))

    params = {"progressToken": 7, "progress": 1}
    expected = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    assert bridge.read() == expected
    assert 19.9 < time.monotonic() - started < 25


# A session that the worker does not know


@pytest.mark.parametrize("code", ["unauthorized", "gone"])
def test_a_refused_session_hears_what_to_do_and_the_bridge_stays(stage: Stage, code: str) -> None:
    stage.worker.start()
    bridge = stage.bridge()
    bridge.initialize()
    bridge.write(call(1, "check_inbox", {}), hook(2, "PermissionRequest"), request(3, "tools/list"))

    worker = stage.worker.accept()
    worker.read()
    worker.send({"error": {"code": code, "detail": "No such session."}})

    pending, held, listing = (bridge.read() for _ in range(3))
    assert pending["result"]["isError"] is True
    assert "not known to claudedo any more; " in pending["result"]["content"][0]["text"]
    assert held == hook_answer(2, "{}")
    assert "not known to claudedo" in listing["error"]["message"]
    bridge.write(call(4, "getTask", {}), hook(5, "PostToolUse"), request(6, "ping"))
    assert bridge.read(HURRY) == {**pending, "id": 4}
    assert bridge.read(HURRY) == hook_answer(5, "{}")
    assert bridge.read(HURRY) == result(6, {})


def test_a_refused_session_works_again_once_a_worker_knows_it(stage: Stage) -> None:
    stage.worker.start()
    bridge = stage.bridge(REFUSED_RETRY=0.2)
    bridge.initialize()
    worker = stage.worker.accept()
    worker.read()
    worker.send({"error": {"code": "gone", "detail": ""}})

    worker = stage.worker.welcome()
    assert [worker.read(), worker.read()] == [{"mcp": INITIALIZE}, {"mcp": INITIALIZED}]
    bridge.write(call(1, "check_inbox", {}))

    assert worker.read() == {"mcp": call(1, "check_inbox", {})}


def test_a_worker_that_refuses_for_now_is_asked_again_and_calls_are_kept(stage: Stage) -> None:
    stage.worker.start()
    bridge = stage.bridge()
    bridge.initialize()
    bridge.write(call(1, "check_inbox", {}))
    worker = stage.worker.accept()
    worker.read()
    worker.send({"error": {"code": "unavailable", "detail": "starting"}})

    worker = stage.worker.welcome()

    sent = [worker.read()["mcp"] for _ in range(3)]
    assert sent == [INITIALIZE, INITIALIZED, call(1, "check_inbox", {})]


# Size, memory, end


def test_ten_megabytes_pass_both_ways(stage: Stage) -> None:
    bridge, worker = stage.connected()
    text = "ü" * (5 * 1024 * 1024)  # two bytes each

    bridge.write(call(1, "createTask", {"body": text}))
    assert worker.read()["mcp"]["params"]["arguments"]["body"] == text
    worker.send({"mcp": result(1, {"body": text})})

    assert bridge.read()["result"]["body"] == text


def test_a_big_message_to_a_worker_that_does_not_read_keeps_nobody_waiting(stage: Stage) -> None:
    bridge, worker = stage.connected()
    text = "x" * (10 * 1024 * 1024)

    bridge.write(call(1, "createTask", {"body": text}), request(2, "ping"))

    assert bridge.read() == result(2, {})
    assert len(worker.read()["mcp"]["params"]["arguments"]["body"]) == len(text)


def test_a_client_that_does_not_read_stops_neither_the_client_nor_the_worker(stage: Stage) -> None:
    bridge, worker = stage.connected()
    text = "x" * (10 * 1024 * 1024)
    bridge.write(call(1, "a", {}), call(2, "b", {}))
    assert [worker.read()["mcp"]["id"] for _ in range(2)] == [1, 2]
    worker.send({"mcp": result(1, {"body": text})})  # far above a pipe's buffer
    bridge.nibble(10_000)

    bridge.write(call(3, "c", {}))

    assert worker.read()["mcp"]["id"] == 3
    worker.send({"mcp": result(2, {})})
    assert bridge.read()["result"]["body"] == text
    assert bridge.read() == result(2, {})


def test_a_worker_cannot_fill_the_memory_while_the_client_does_not_read(stage: Stage) -> None:
    _, worker = stage.connected()
    worker.socket.settimeout(1)
    push = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 2**20}}

    with pytest.raises(TimeoutError):
        for _ in range(64):
            worker.send({"mcp": push})


def test_a_line_above_sixteen_mebibytes_is_refused_and_the_next_is_served(stage: Stage) -> None:
    bridge, worker = stage.connected()
    limit = 16 * 1024 * 1024
    frame = len(json.dumps(call(2, "createTask", {"body": ""})).encode())

    bridge.write(call(1, "createTask", {"body": "x" * limit}))
    assert bridge.read()["error"]["code"] == -32700
    bridge.write(call(2, "createTask", {"body": "x" * (limit - frame)}))  # too long once wrapped
    refusal = bridge.read()
    assert (refusal["id"], refusal["error"]["code"]) == (2, -32600)
    bridge.write(call(3, "createTask", {"body": "x" * (limit - frame - 64)}))

    assert worker.read()["mcp"]["id"] == 3


def test_a_line_of_the_worker_above_the_limit_is_passed_over(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(call(1, "a", {}))
    worker.read()

    worker.send({"mcp": result(1, {"body": "x" * (16 * 1024 * 1024)})})
    worker.send({"mcp": result(1, {"body": "short"})})

    assert bridge.read() == result(1, {"body": "short"})


def test_a_bridge_at_work_stays_below_fifteen_megabytes(stage: Stage) -> None:
    bridge, worker = stage.connected()
    for id in range(1, 201):
        bridge.write(hook(id, "PostToolUse"))
        worker.send({"hook": {"id": worker.read()["hook"]["id"], "output": {}}})
        assert bridge.read() == hook_answer(id, "{}")

    assert psutil.Process(bridge.process.pid).memory_info().rss < 15_000_000


def test_the_end_of_standard_input_ends_the_bridge_whatever_is_open(stage: Stage) -> None:
    bridge, worker = stage.connected()
    bridge.write(call(1, "a", {}), hook(2, "PermissionRequest"))
    assert [list(worker.read()), list(worker.read())] == [["mcp"], ["hook"]]

    bridge.stdin.close()

    assert bridge.process.wait(BOUND) == 0
    with pytest.raises(EOFError):
        bridge.read()
    with pytest.raises(EOFError):
        worker.read()


def test_the_end_of_standard_input_ends_a_bridge_without_a_worker(stage: Stage) -> None:
    bridge = stage.bridge()
    bridge.initialize()

    bridge.stdin.close()

    assert bridge.process.wait(BOUND) == 0


def test_an_interrupt_ends_the_bridge_without_a_traceback(stage: Stage) -> None:
    # A shell starts what runs in the background with interrupts ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    bridge = stage.bridge()
    signal.signal(signal.SIGINT, before)
    bridge.initialize()

    bridge.process.send_signal(signal.SIGINT)

    assert bridge.process.wait(BOUND) == 0
    assert bridge.process.stderr is not None
    assert bridge.process.stderr.read() == b""


def test_a_bridge_without_a_session_says_so_and_fails(tmp_path: Path) -> None:
    command = [PYTHON, "-I", "-S", str(BRIDGE), str(tmp_path)]

    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOUND, check=False
    )

    assert ended.returncode == 1
    assert b"no session to serve" in ended.stderr
    assert ended.stdout == b""


# The real client library


class AsyncWorker:
    """A worker for the client library: answers every request, and can push."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream

    async def send(self, message: Json) -> None:
        """Writes one line."""
        await self._stream.send(json.dumps(message).encode() + b"\n")

    async def serve(self) -> None:
        """Answers until the bridge is gone."""
        rest = b""
        async for chunk in self._stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await self._answer(json.loads(line))

    async def _answer(self, message: Json) -> None:
        if "hello" in message:
            await self.send({"welcome": {"protocol": 1}})
        elif "id" in (asked := message["mcp"]):
            await self.send({"mcp": result(asked["id"], self._result(asked))})

    def _result(self, asked: Json) -> Json:
        match asked["method"]:
            case "initialize":
                return {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
            case "tools/list":
                schema = {"type": "object"}
                return {"tools": [{"name": "inbox_status", "inputSchema": schema}]}
            case "tools/call":
                text = f"{asked['params']['name']}: {asked['params']['arguments']['task_id']}"
                return {"content": [{"type": "text", "text": text}]}
        raise AssertionError(asked)


@pytest.mark.anyio
async def test_the_client_library_connects_pings_lists_calls_and_hears_a_push(stage: Stage) -> None:
    heard: list[str] = []
    pushed = anyio.Event()

    async def hear(message: IncomingMessage) -> None:
        heard.append(getattr(message, "method", repr(message)))
        pushed.set()

    async def accept(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            worker = AsyncWorker(stream)
            workers.append(worker)
            await worker.serve()

    workers: list[AsyncWorker] = []
    server = StdioServerParameters(
        command=PYTHON, args=["-I", "-S", str(BRIDGE), str(stage.folder)]
    )
    async with (
        await anyio.create_unix_listener(stage.worker.path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, accept)
        with anyio.fail_after(BOUND):
            async with Client(server, message_handler=hear) as client:
                assert client.session.instructions == "Read your mail."
                assert client.session.protocol_version == "2025-11-25"
                await client.session.send_ping()
                tools = await client.list_tools()
                answer = await client.call_tool("inbox_status", {"task_id": "t_1"})
                changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
                await workers[0].send({"mcp": changed})
                await pushed.wait()
        tasks.cancel_scope.cancel()

    assert [tool.name for tool in tools.tools] == ["inbox_status"]
    assert isinstance(answer.content[0], TextContent)
    assert answer.content[0].text == "inbox_status: t_1"
    assert heard == ["notifications/tools/list_changed"]
