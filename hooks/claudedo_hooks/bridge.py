"""The MCP server that `claude` starts for one session: `bridge.py SESSION_DIR`.

Stands between the client (JSON-RPC lines on standard input and output) and the worker (JSON lines
on a unix socket, docs/architecture.md "session.sock") and outlives any number of workers. It
answers only what must be answered while no worker is there, and keeps every other request until a
worker has answered it. It knows no tool and decides nothing.

One standard-library file, run by path with `python3 -I -S`. A session has one all its life, so it
imports nothing heavy (docs/claude-cli.md 17.4).
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from math import inf

TYPE_CHECKING = False  # the real one costs the import of `typing`
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    RequestId = str | int | None  # None is the id of no request

PROTOCOL_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""MCP revisions with the `initialize` handshake; the last one is offered to a client of another."""

HOOK_TOOL = "hook"
"""The unlisted tool that every `mcp_tool` hook calls (docs/claude-cli.md 22.1)."""

HELD_EVENTS = frozenset({"PermissionRequest"})
"""Hook events whose answer may take a person any time (docs/claude-cli.md 22.4). The worker is told
when the client gives one up, and after a reconnect which ones are still waiting."""

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one line, both ways, and of what may wait for a reader that does not read."""

CHUNK = 64 * 1024
HOOK_PATIENCE = 5.0
"""Seconds that a tool call of the session may wait for the worker's answer to a hook."""
SILENT_PATIENCE = 0.25
"""The same after one went unanswered: a stuck worker must not cost five seconds a tool call."""
PROGRESS_EVERY = 20.0
"""Seconds between two signs of life of a held hook; the client's idle limit is 30 minutes."""
WELCOME_PATIENCE = 10.0
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 1.0
STEADY = 5.0
"""Seconds after which a connection counts as good, and the back-off begins anew."""
REFUSED_RETRY = 30.0

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, NO_SESSION = -32700, -32600, -32601, -32001

FOR_GOOD = ("unauthorized", "gone")
REFUSED_TEXT = (
    "This session is not known to claudedo any more; its tools and its inbox do not work here. "
    "Do not call them again: go on with the work, and tell the person that `claudedo restart` "
    "connects a task's session anew."
)

STDIN, STDOUT, STDERR = 0, 1, 2


class Lines:
    """Cuts a byte stream into lines. A line above `LINE_LIMIT` bytes comes out as None."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._too_long = False

    def cut(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their newline."""
        *ends, rest = data.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            self._add(end)
            lines.append(None if self._too_long else bytes(self._rest))
            self._rest, self._too_long = bytearray(), False
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._rest) + len(part) > LINE_LIMIT
        if self._too_long:
            self._rest = bytearray()
        else:
            self._rest += part


class Outlet:
    """Bytes on their way into a non-blocking file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = bytearray()
        os.set_blocking(fd, False)

    def write(self) -> None:
        """Writes what the descriptor takes now. OSError when nobody reads it any more."""
        try:
            written = os.write(self.fd, self.waiting[:CHUNK])
        except BlockingIOError:
            return
        del self.waiting[:written]


class Call:
    """A request of the client that has no answer yet."""

    def __init__(self, id: RequestId, method: str, line: bytes) -> None:
        self.id = id
        self.method = method
        self.line = line
        """What the worker is sent, again after every reconnect."""
        self.hook: int | None = None
        """The number the worker answers to, when this is a hook call."""
        self.event = ""
        self.deadline = inf
        self.token: RequestId | None = None
        self.progress = 0
        self.progress_at = inf

    @property
    def hurried(self) -> bool:
        """Whether the session stands still meanwhile, so that no answer beats a late one."""
        return self.hook is not None and self.event not in HELD_EVENTS

    @property
    def held(self) -> bool:
        """Whether a person may take any time for the answer."""
        return self.hook is not None and self.event in HELD_EVENTS


class Link:
    """The connection to the worker, or the wait for the next attempt at one."""

    def __init__(self, session: Message) -> None:
        self._session = session
        # Hook calls are numbered from one in each process: the name tells whose number it is.
        self._name = os.urandom(8).hex()
        self._socket: socket.socket | None = None
        self._lines = Lines()
        self._since = 0.0
        self._delay = BACKOFF_FIRST
        self._retry_at = 0.0
        self.outlet: Outlet | None = None
        self.ready = False
        """The worker has said welcome."""

    def moment(self) -> float:
        """When `tend` has something to do next."""
        if self.outlet is None:
            return self._retry_at
        return inf if self.ready else self._since + WELCOME_PATIENCE

    def tend(self, now: float) -> None:
        """Connects when it is time to; gives up on a worker that accepts and says nothing."""
        if now < self.moment():
            return
        if self.outlet is not None:
            self.close(now)
        else:
            self._connect(now)

    def send(self, line: bytes) -> None:
        """Queues one line; nothing happens while there is no connection."""
        if self.outlet is not None:
            self.outlet.waiting += line

    def receive(self) -> list[bytes | None] | None:
        """The lines that came in; None when the worker is gone."""
        assert self.outlet is not None
        try:
            data = os.read(self.outlet.fd, CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._lines.cut(data) if data else None

    def close(self, now: float, retry_in: float | None = None) -> None:
        """Lets go of the connection; tries again after `retry_in` seconds, else the back-off."""
        if self._socket is not None:
            self._socket.close()
        if self.ready and now - self._since > STEADY:
            self._delay = BACKOFF_FIRST
        self._socket = self.outlet = None
        self.ready = False
        self._wait(now, retry_in)

    def _wait(self, now: float, retry_in: float | None = None) -> None:
        self._retry_at = now + (self._delay if retry_in is None else retry_in)
        self._delay = min(self._delay * 2, BACKOFF_LAST)

    def _connect(self, now: float) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._session["socket"])
        except OSError:  # no worker, or one that accepts nothing: the next attempt will tell
            connection.close()
            self._wait(now)
            return
        self._socket, self._since, self._lines = connection, now, Lines()
        self.outlet = Outlet(connection.fileno())
        self.send(encode({"hello": self._hello()}))

    def _hello(self) -> Message:
        return {
            "kind": "bridge",
            "protocol": self._session["protocol"],
            "session": self._session["session"],
            "credential": self._session["credential"],
            "name": self._name,
            "pid": os.getpid(),
            "parent": os.getppid(),
        }


class Bridge:
    """Carries messages between the client and whichever worker there is.

    `session` is the content of the session's `session.json`.
    """

    def __init__(self, session: Message) -> None:
        self._session = session
        self._client_lines = Lines()
        self._client = Outlet(STDOUT)
        self._link = Link(session)
        self._calls: dict[RequestId, Call] = {}
        self._hooks: dict[RequestId, RequestId] = {}
        self._hooks_made = 0
        self._asked: dict[RequestId, RequestId] = {}
        """The present worker's open requests: our id, which the client sees, to the worker's."""
        self._asks_made = 0
        self._greeting = b""
        self._greeted = b""
        self._reconnects = False
        self._refused = False
        self._silent = False

    def run(self) -> None:
        """Works until standard input ends. OSError when standard output is closed before that."""
        open_ = True
        while open_:
            now = time.monotonic()
            self._tend(now)
            readable, writable, _ = select.select(*self._wanted(), [], self._time_left(now))
            if self._link.outlet is not None and self._link.outlet.fd in readable:
                self._read_worker()
            if STDIN in readable:
                open_ = self._read_client()
            self._write(writable)

    def _wanted(self) -> tuple[list[int], list[int]]:
        reads, writes = [STDIN], []
        if self._client.waiting:
            writes.append(STDOUT)
        worker = self._link.outlet
        if worker is not None:
            if len(self._client.waiting) <= LINE_LIMIT:
                reads.append(worker.fd)
            if worker.waiting:
                writes.append(worker.fd)
        return reads, writes

    def _time_left(self, now: float) -> float | None:
        moments = (min(call.deadline, call.progress_at) for call in self._calls.values())
        moment = min(self._link.moment(), *moments, inf)
        return None if moment == inf else max(0.0, moment - now)

    def _tend(self, now: float) -> None:
        self._link.tend(now)
        for call in list(self._calls.values()):
            if call.deadline <= now:
                self._silent = True
                self._answer_hook(call, {})
            elif call.progress_at <= now:
                self._report_progress(call, now)

    def _write(self, writable: list[int]) -> None:
        if STDOUT in writable:
            self._client.write()
        worker = self._link.outlet
        if worker is not None and worker.fd in writable:
            try:
                worker.write()
            except OSError:
                self._lose_worker()

    # The client's side

    def _read_client(self) -> bool:
        data = os.read(STDIN, CHUNK)
        for line in self._client_lines.cut(data):
            self._from_client(line)
        return bool(data)

    def _from_client(self, line: bytes | None) -> None:
        if line is not None and not line.strip():
            return
        message = decode(line)
        if message is None:
            self._answer(None, error(PARSE_ERROR, "Neither a JSON object nor below 16 MiB."))
        elif "method" not in message:
            self._take_response(message)
        elif "id" not in message:
            self._take_notification(message, wrap(line))
        elif isinstance(message["id"], str | int):
            self._take_request(message, wrap(line))
        else:
            self._answer(None, error(INVALID_REQUEST, "An id is a string or an integer."))

    def _take_request(self, message: Message, line: bytes) -> None:
        method = message["method"]
        if method == "initialize":
            self._greeting, self._greeted = line, b""
            self._answer(message["id"], {"result": self._greet(section(message, "params"))})
            self._to_worker(line)
        elif method == "ping":
            self._answer(message["id"], {"result": {}})
        elif method == "server/discover":
            # A newer client tries this first and offers no channel to who answers it (17.6, 4.13).
            self._answer(message["id"], error(METHOD_NOT_FOUND, "Method not found"))
        else:
            self._keep(self._call(message, line))

    def _greet(self, params: Message) -> Message:
        wanted = params.get("protocolVersion")
        return {
            "protocolVersion": wanted if wanted in PROTOCOL_VERSIONS else PROTOCOL_VERSIONS[-1],
            "capabilities": {
                "tools": {"listChanged": True},
                "experimental": {"claude/channel": {}},
            },
            "serverInfo": {"name": "claudedo", "version": self._session["server_version"]},
            "instructions": self._session["instructions"],
        }

    def _call(self, message: Message, line: bytes) -> Call:
        params = section(message, "params")
        call = Call(message["id"], message["method"], line)
        if call.method != "tools/call" or params.get("name") != HOOK_TOOL:
            return call
        arguments = section(params, "arguments")
        self._hooks_made += 1
        call.hook = self._hooks_made
        call.event = str(arguments.get("event", ""))
        call.line = encode({"hook": {"id": call.hook, "event": call.event, "input": arguments}})
        now = time.monotonic()
        if call.hurried:
            call.deadline = now + (SILENT_PATIENCE if self._silent else HOOK_PATIENCE)
        elif (token := section(params, "_meta").get("progressToken")) is not None:
            call.token, call.progress_at = token, now + PROGRESS_EVERY
        return call

    def _keep(self, call: Call) -> None:
        """Keeps a call until it is answered, or answers it when there is no point in keeping it."""
        if (namesake := self._calls.get(call.id)) is not None:
            self._forget(namesake)
        self._calls[call.id] = call
        if call.hook is not None:
            self._hooks[call.hook] = call.id
        if self._refused:
            self._refuse(call)
        elif len(call.line) > LINE_LIMIT:
            self._reject(call)
        elif call.hurried and not self._worker_listens():
            self._answer_hook(call, {})
        else:
            self._to_worker(call.line)

    def _worker_listens(self) -> bool:
        outlet = self._link.outlet
        return self._link.ready and outlet is not None and len(outlet.waiting) <= LINE_LIMIT

    def _take_notification(self, message: Message, line: bytes) -> None:
        if message["method"] == "notifications/initialized":
            self._greeted = line
        elif message["method"] == "notifications/cancelled":
            call = self._calls.get(known_id(section(message, "params").get("requestId")))
            if call is None:
                return
            self._forget(call)
            if call.held:
                self._to_worker(encode({"hook": {"id": call.hook, "cancelled": True}}))
            if call.hook is not None:  # the worker never heard of the request that carried it
                return
        self._to_worker(line)

    def _take_response(self, message: Message) -> None:
        """Passes a response to the worker that asked; who asked before a restart is gone."""
        ours = known_id(message.get("id"))
        if ours in self._asked:
            self._to_worker(encode({"mcp": {**message, "id": self._asked.pop(ours)}}))

    # The worker's side

    def _read_worker(self) -> None:
        lines = self._link.receive()
        if lines is None:
            self._lose_worker()
            return
        for line in lines:
            message = decode(line)
            if message is None:
                warn("the worker sent a line that is neither a JSON object nor below 16 MiB")
            else:
                self._silent = False
                self._from_worker(message)
            if self._link.outlet is None:
                return

    def _from_worker(self, message: Message) -> None:
        if not self._link.ready:
            if "welcome" in message:
                self._resume()
            elif "error" in message:
                self._take_refusal(section(message, "error"))
        elif "mcp" in message:
            self._from_server(section(message, "mcp"))
        elif "hook" in message:
            answer = section(message, "hook")
            call = self._calls.get(self._hooks.get(known_id(answer.get("id"))))
            if call is not None:
                self._answer_hook(call, section(answer, "output"))

    def _resume(self) -> None:
        """Tells a worker that has just said welcome everything its predecessors left open."""
        self._link.ready = True
        self._refused = False
        for line in (self._greeting, self._greeted):
            self._to_worker(line)
        if self._reconnects:
            held = [call.hook for call in self._calls.values() if call.held]
            self._to_worker(encode({"held": held}))
        self._reconnects = True
        for call in self._calls.values():
            self._to_worker(call.line)

    def _from_server(self, message: Message) -> None:
        if "method" not in message:
            # The answer to an `initialize` that we answered belongs to no call, nor does one to a
            # call that was cancelled: both end here.
            call = self._calls.get(known_id(message.get("id")))
            if call is not None and call.hook is None:
                self._forget(call)
                self._to_client(message)
        elif "id" in message:
            self._to_client({**message, "id": self._ask(message["id"])})
        elif message["method"] == "notifications/cancelled":
            self._cancel_ask(message)
        else:
            self._to_client(message)

    def _ask(self, theirs: RequestId) -> RequestId:
        """An id that no other worker's request has had: each of them counts from the beginning."""
        self._asks_made += 1
        ours = f"claudedo-{self._asks_made}"
        self._asked[ours] = theirs
        return ours

    def _cancel_ask(self, message: Message) -> None:
        params = section(message, "params")
        for ours, theirs in list(self._asked.items()):
            if theirs == params.get("requestId"):
                del self._asked[ours]
                self._to_client({**message, "params": {**params, "requestId": ours}})

    def _take_refusal(self, refusal: Message) -> None:
        self._refused = refusal.get("code") in FOR_GOOD
        warn(f"the worker refused this session: {refusal.get('code')}: {refusal.get('detail')}")
        # Seldom, but never never: a state directory may have been put back.
        self._link.close(time.monotonic(), REFUSED_RETRY if self._refused else None)
        if self._refused:
            for call in list(self._calls.values()):
                self._refuse(call)

    def _lose_worker(self) -> None:
        self._link.close(time.monotonic())
        self._asked.clear()
        for call in list(self._calls.values()):
            if call.hurried:
                self._answer_hook(call, {})

    # Answers

    def _answer(self, id: RequestId, outcome: Message) -> None:
        self._to_client({"jsonrpc": "2.0", "id": id, **outcome})

    def _answer_call(self, call: Call, outcome: Message) -> None:
        self._forget(call)
        self._answer(call.id, outcome)

    def _answer_hook(self, call: Call, output: Message) -> None:
        self._answer_call(call, {"result": tool_result(encode(output).decode().rstrip("\n"))})

    def _refuse(self, call: Call) -> None:
        if call.hook is not None:
            self._answer_hook(call, {})
        elif call.method == "tools/call":
            self._answer_call(call, {"result": {**tool_result(REFUSED_TEXT), "isError": True}})
        else:
            self._answer_call(call, error(NO_SESSION, REFUSED_TEXT))

    def _reject(self, call: Call) -> None:
        if call.hook is not None:
            self._answer_hook(call, {})
        else:
            self._answer_call(call, error(INVALID_REQUEST, "Above 16 MiB; send less at once."))

    def _report_progress(self, call: Call, now: float) -> None:
        call.progress += 1
        call.progress_at = now + PROGRESS_EVERY
        params = {"progressToken": call.token, "progress": call.progress}
        self._to_client({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def _forget(self, call: Call) -> None:
        del self._calls[call.id]
        if call.hook is not None:
            del self._hooks[call.hook]

    def _to_client(self, message: Message) -> None:
        self._client.waiting += encode(message)

    def _to_worker(self, line: bytes) -> None:
        if self._link.ready:
            self._link.send(line)


def decode(line: bytes | None) -> Message | None:
    """The JSON object in a line; None when there is none, or not in UTF-8."""
    if line is None:
        return None
    try:
        message = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def encode(message: Message) -> bytes:
    """One line. A lone surrogate, which UTF-8 cannot carry, stays the escape that it came as."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace") + b"\n"


def wrap(line: bytes | None) -> bytes:
    """The client's message for the worker, byte for byte."""
    return b'{"mcp":' + (line or b"") + b"}\n"


def section(message: Message, name: str) -> Message:
    """The object under `name`, empty when there is none."""
    value = message.get(name)
    return value if isinstance(value, dict) else {}


def known_id(value: object) -> RequestId:
    """`value` if it can be the id of a request or a hook, else None."""
    return value if isinstance(value, str | int) else None


def error(code: int, message: str) -> Message:
    """The outcome of a request that failed."""
    return {"error": {"code": code, "message": message}}


def tool_result(text: str) -> Message:
    """The result of a tool call."""
    return {"content": [{"type": "text", "text": text}]}


def warn(sentence: str) -> None:
    """A line for the client's debug log, if it still has one."""
    with suppress(OSError):
        os.write(STDERR, f"claudedo bridge: {sentence}\n".encode(errors="backslashreplace"))


def main(arguments: list[str]) -> int:
    """Serves the session whose folder is named. Returns the exit status: 1 without a session."""
    try:
        # pathlib would be a tenth of this program's memory.
        with open(f"{arguments[0]}/session.json", encoding="utf-8") as file:  # noqa: PTH123
            session = json.load(file)
        bridge = Bridge(session)
    except (IndexError, OSError, ValueError) as failure:
        warn(f"no session to serve: {failure!r}")
        return 1
    try:
        bridge.run()
    except (ConnectionError, KeyboardInterrupt):
        return 0  # the client is gone, or says so with a signal
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
