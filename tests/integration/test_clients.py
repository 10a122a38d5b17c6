"""MCP clients with a token: the SDK's own client, over HTTP and SSE, against a real worker."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp.client._probe import negotiate_auto
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from claudedo.model import Task, Token, Workspace, stamp
from claudedo_worker.store import Store
from claudedo_worker.tokens import Tokens
from tests.support.own_worker import PATIENCE, Answer, OwnWorker
from tests.support.records import a_task
from tests.support.world import COMMAND

pytestmark = pytest.mark.anyio

T = TypeVar("T")

TRANSPORTS = ("http", "sse")


@dataclass
class Mate:
    """A token, and a task that its client holds: what a person says there is the client's mail."""

    token: Token
    text: str
    task: Task
    url: str = ""


@dataclass
class Place:
    """A running worker, two workspaces, a token for each test."""

    worker: OwnWorker
    backend: Task
    far: Workspace
    mates: list[Mate]
    port: int = 0

    def mate(self) -> Mate:
        """A token that nobody used yet."""
        mate = self.mates.pop()
        mate.url = f"http://127.0.0.1:{self.port}/mcp/shop"
        return mate

    def say(self, mate: Mate, body: str) -> str:
        """The person writes to the client; returns the message's id."""
        path = f"/api/tasks/{mate.task.id}/messages"
        answer = self.worker.ask("POST", path, {"body": body})
        assert answer.status == 200, answer
        return str(answer.json["id"])

    def receipts(self, message_id: str) -> dict[str, str | None]:
        """How far a message came."""
        return dict(self.worker.ask("GET", f"/api/messages/{message_id}").json["receipts"])

    def asks(self, mate: Mate) -> list[dict[str, Any]]:
        """What the client asks the person."""
        return [a for a in self.worker.ask("GET", "/api/asks").json if a["task"] == mate.task.id]

    def decide(self, ask: str, **decision: Any) -> Answer:
        """The person decides."""
        return self.worker.ask("POST", f"/api/asks/{ask}/decision", decision)

    def ask_mcp(self, mate: Mate, method: str, body: Any = None, **headers: str) -> Answer:
        """One request to the endpoint, by hand."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        given = {"Authorization": f"Bearer {mate.text}", **named}
        return self.worker.ask(method, "/mcp/shop", body, port=self.port, headers=given)


async def fill(store: Store) -> Place:
    shop = await store.workspace_for("/repository", "shop")
    far = await store.workspace_for("/elsewhere", "far")
    backend = await store.add_task(a_task(shop, "backend"))
    mates = [await make_mate(store, shop, f"held{number}") for number in range(60)]
    return Place(OwnWorker(Path()), backend, far, mates)


async def make_mate(store: Store, workspace: Workspace, name: str) -> Mate:
    token, text = await Tokens(store).create(workspace, "laptop")
    holder = f"token:{token.id}"
    held = {"worktree": None, "holder": holder, "held_until": "9999-12-31T00:00:00.000Z"}
    return Mate(token, text, await store.add_task(a_task(workspace, name, **held)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("clients")
    worker = OwnWorker(root / "home", {"HOME": str(root)})
    made = worker.seed(fill)
    made.worker = worker
    worker.start()
    try:
        made.port = worker.port
        yield made
    finally:
        worker.close()


class Program:
    """An MCP client program: the SDK's own session, and every notification that it is sent."""

    def __init__(self, session: ClientSession, told: list[dict[str, Any]]) -> None:
        self.session = session
        self._told = told

    @property
    def pushes(self) -> list[dict[str, Any]]:
        """The channel notifications that came so far."""
        return [one["params"] for one in self._told if one["method"].endswith("claude/channel")]

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """The decisions of permission prompts that came so far."""
        return [one["params"] for one in self._told if one["method"].endswith("permission")]

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What a tool returns."""
        result = await self.session.call_tool(tool, arguments)
        assert not result.is_error, result
        return dict(result.structured_content or {})

    async def pushed(self, count: int) -> list[dict[str, Any]]:
        """All pushes, once there are so many."""
        await until(lambda: len(self.pushes) >= count)
        return self.pushes


async def until(condition: Any, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds, with a bound."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def eventually(question: Callable[[], T], seconds: float = PATIENCE) -> T:
    """The first answer that is true; the question may block."""
    deadline = time.monotonic() + seconds
    while not (answer := await asyncio.to_thread(question)):
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.05)
    return answer


@asynccontextmanager
async def connected(mate: Mate, transport: str, *, shown: str = "header") -> AsyncIterator[Program]:
    """A program that connected with a token, shown in the header or in the address."""
    headers = {"Authorization": f"Bearer {mate.text}"} if shown == "header" else {}
    url = mate.url if shown == "header" else f"{mate.url}?token={mate.text}"
    told: list[dict[str, Any]] = []
    async with _streams(url, headers, transport) as (read, write):
        to_session, from_program = anyio.create_memory_object_stream[Any](64)
        async with asyncio.TaskGroup() as group, ClientSession(from_program, write) as session:
            pump = group.create_task(_carry(read, to_session, told))
            await session.initialize()
            await session.list_tools()
            try:
                yield Program(session, told)
            finally:
                pump.cancel()


async def _carry(read: Any, to_session: Any, told: list[dict[str, Any]]) -> None:
    """Hand on what comes, and keep the notifications: the SDK drops those that it does not know."""
    async with to_session:
        async for message in read:
            data = message.message.model_dump(by_alias=True)
            if "method" in data:
                told.append(data)
            await to_session.send(message)


@asynccontextmanager
async def _streams(url: str, headers: dict[str, str], transport: str) -> AsyncIterator[Any]:
    if transport == "sse":
        async with sse_client(url, headers=headers) as streams:
            yield streams
    else:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as http,
            streamable_http_client(url, http_client=http) as streams,
        ):
            yield streams


class RawStream:
    """A stream by hand: what a program sees that does nothing of itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.text = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, place: Place, mate: Mate, **headers: str) -> AsyncIterator[Self]:
        """Ask for the stream of a session, or for one of the older transport."""
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        given = {"Host": f"127.0.0.1:{place.port}", "Accept": "text/event-stream"}
        given |= {"Authorization": f"Bearer {mate.text}"}
        given |= {key.replace("_", "-"): value for key, value in headers.items()}
        lines = "".join(f"{key}: {value}\r\n" for key, value in given.items())
        writer.write(f"GET /mcp/shop HTTP/1.1\r\n{lines}\r\n".encode())
        made = cls(reader, writer)
        try:
            await made.until(": open")
            assert " 200 " in made.text.partition("\r\n")[0]
            yield made
        finally:
            writer.close()

    async def until(self, words: str) -> str:
        """Read on until these words came."""
        async with asyncio.timeout(PATIENCE):
            while words not in self.text:
                data = await self._reader.read(65536)
                assert data, f"over before {words!r}: {self.text}"
                self.text += data.decode()
        return self.text

    async def end(self) -> float:
        """Read until it is over; the moment of that."""
        async with asyncio.timeout(PATIENCE):
            while not self.text.endswith("0\r\n\r\n"):
                data = await self._reader.read(65536)
                if not data:
                    break
                self.text += data.decode()
        return time.monotonic()


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


def shake_hands(place: Place, mate: Mate) -> str:
    """A new session by hand; returns its id."""
    session = place.ask_mcp(mate, "POST", INITIALIZE).headers["mcp-session-id"]
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    for message in (INITIALIZED, listing):
        assert place.ask_mcp(mate, "POST", message, Mcp_Session_Id=session).status < 300
    return session


# Who comes in


@pytest.mark.parametrize("shown", ["header", "address"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_program_with_a_token_has_the_tools_and_acts_as_that_client(
    place: Place, transport: str, shown: str
) -> None:
    mate = place.mate()
    async with connected(mate, transport, shown=shown) as program:
        greeting = program.session.initialize_result
        assert greeting is not None
        experimental = greeting.capabilities.experimental
        assert experimental == {"claude/channel": {}, "claude/channel/permission": {}}
        assert len(greeting.instructions or "") < 2000
        sent = await program.call("send_to_task", task_id="backend", body="hello")

    thread = place.worker.ask("GET", f"/api/tasks/{place.backend.id}/messages").json
    [message] = [one for one in thread if one["id"] == sent["id"]]
    assert (message["sender"], message["sender_name"]) == (f"token:{mate.token.id}", "laptop")
    assert mate.text not in place.worker.log


def test_a_token_in_an_address_is_not_logged_when_a_websocket_is_asked_for(place: Place) -> None:
    mate = place.mate()
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    for path in ("/mcp/shop", "/socket.io/", "/none"):
        address = f"{path}?token={mate.text}"
        answer = place.worker.ask("GET", address, port=place.port, headers=upgrade)
        assert answer.status == 403

    assert mate.text not in place.worker.log


async def test_a_newer_program_that_tries_first_falls_back_to_the_handshake(place: Place) -> None:
    mate = place.mate()
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {mate.text}"}) as http,
        streamable_http_client(mate.url, http_client=http) as (read, write),
        ClientSession(read, write) as session,
    ):
        await negotiate_auto(session)
        assert session.discover_result is None
        assert session.protocol_version == "2025-11-25"


def test_what_is_not_let_in_gets_the_fitting_status_and_a_sentence(place: Place) -> None:
    mate, other = place.mate(), place.mate()
    session = shake_hands(place, mate)

    def at(path: str, text: str | None) -> Answer:
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        return place.worker.ask("POST", path, PING, port=place.port, headers=headers)

    nothing, wrong = at("/mcp/shop", None), at("/mcp/shop", "cdo_" + "x" * 43)
    assert [answer.status for answer in (nothing, wrong)] == [401, 401]
    assert nothing.headers["www-authenticate"] == "Bearer"
    assert "not known" in wrong.json["detail"]
    assert at("/mcp/none", None).status == 401
    foreign, unknown = at("/mcp/far", mate.text), at("/mcp/none", mate.text)
    assert (foreign.status, foreign.json["detail"]) == (403, "This token is another workspace's.")
    assert unknown.status == 404
    assert place.ask_mcp(mate, "POST", PING).status == 400
    for name in (session + "x", "c_none", "%00"):
        assert place.ask_mcp(mate, "POST", PING, Mcp_Session_Id=name).status == 404
    theirs = place.ask_mcp(other, "POST", PING, Mcp_Session_Id=session)
    assert theirs.status == 404
    assert place.ask_mcp(mate, "POST", PING, Mcp_Session_Id=session).status == 200
    evil = place.ask_mcp(mate, "POST", PING, Mcp_Session_Id=session, Origin="http://evil.example")
    rebound = place.ask_mcp(mate, "POST", PING, Mcp_Session_Id=session, Host="evil.example")
    assert (evil.status, rebound.status) == (403, 403)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
     b'{"jsonrpc":"2.0","id":1,"method":7}', b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_message_is_refused(place: Place, body: bytes) -> None:
    mate = place.mates[0]
    session = place.ask_mcp(mate, "POST", INITIALIZE).headers["mcp-session-id"]
    answer = place.ask_mcp(mate, "POST", body, Mcp_Session_Id=session)

    assert (answer.status, answer.json["code"]) == (400, "usage")


def test_a_request_may_be_large_but_not_endless(place: Place) -> None:
    mate = place.mate()
    session = shake_hands(place, mate)
    call = {"name": "send_to_task", "arguments": {"task_id": "backend", "body": "x" * 2**23}}
    large = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call}
    taken = place.ask_mcp(mate, "POST", large, Mcp_Session_Id=session)
    endless = place.ask_mcp(mate, "POST", b" " * (41 * 2**20), Mcp_Session_Id=session)

    assert (taken.status, taken.json["result"]["isError"]) == (200, True)  # read, and too long
    assert endless.status in (400, 413)
    assert "larger than 40 MiB" in endless.json["detail"]


@pytest.mark.parametrize(
    ("method", "version", "code"),
    [("server/discover", "2026-07-28", -32601), ("ping", "2026-07-28", -32022)],
)
def test_a_revision_without_streams_is_not_spoken(
    place: Place, method: str, version: str, code: int
) -> None:
    message = {"jsonrpc": "2.0", "id": "probe", "method": method, "params": {}}
    answer = place.ask_mcp(place.mates[0], "POST", message, Mcp_Protocol_Version=version)

    assert (answer.status, answer.json["id"], answer.json["error"]["code"]) == (400, "probe", code)


def test_a_notification_of_another_revision_is_refused(place: Place) -> None:
    mate = place.mates[0]
    session = shake_hands(place, mate)
    named = {"Mcp_Session_Id": session, "Mcp_Protocol_Version": "1999-01-01"}
    answer = place.ask_mcp(mate, "POST", INITIALIZED, **named)

    assert (answer.status, answer.json["code"]) == (400, "usage")
    assert "2025-11-25" in answer.json["detail"]


def test_asking_for_the_head_of_a_stream_begins_no_session(place: Place) -> None:
    mate = place.mate()
    answer = place.ask_mcp(mate, "HEAD", Accept="text/event-stream")
    [token] = [t for t in place.worker.ask("GET", "/api/tokens").json if t["id"] == mate.token.id]

    assert (answer.status, token["sessions"]) == (200, 0)


# Mail


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_mail_is_pushed_and_the_next_request_confirms_it(
    place: Place, transport: str
) -> None:
    mate = place.mate()
    async with connected(mate, transport) as program:
        sent = await asyncio.to_thread(place.say, mate, "Böden & <b>Wände</b>\n\0")
        [push] = await program.pushed(1)
        offered = await asyncio.to_thread(place.receipts, sent)
        await program.session.send_ping()
        await eventually(lambda: place.receipts(sent)["delivered_at"])
        later = await program.call("check_inbox")

    assert push["content"] == "Böden & <b>Wände</b>\n\0"
    meta = push["meta"]
    assert all(isinstance(value, str) for value in meta.values())
    assert (meta["chat_id"], meta["message_id"]) == (mate.task.id, sent)
    assert (meta["sender"], meta["user"], meta["priority"]) == ("user", "human", "normal")
    assert offered["offered_at"]
    assert offered["delivered_at"] is None
    assert later == {"messages": [], "pending": 0}


async def test_what_waited_is_pushed_in_order_when_the_program_comes(place: Place) -> None:
    mate = place.mate()
    sent = [place.say(mate, f"number {number}") for number in range(12)]
    async with connected(mate, "http") as program:
        pushes = await program.pushed(12)

    assert [push["meta"]["message_id"] for push in pushes] == sent


async def test_a_program_that_drops_pushes_gets_them_by_check_inbox(place: Place) -> None:
    mate = place.mate()
    async with connected(mate, "http") as program:
        first = await asyncio.to_thread(place.say, mate, "one")
        await program.pushed(1)
        assert await program.call("inbox_status") == {"pending": 1}
        [again] = (await program.call("check_inbox"))["messages"]
        still = await asyncio.to_thread(place.receipts, first)
        assert (await program.call("check_inbox"))["messages"] == []
        done = await asyncio.to_thread(place.receipts, first)

    assert (again["id"], again["body"]) == (first, "one")
    assert again["note"] == "[possibly seen before: act on it once]"
    assert (still["delivered_at"], bool(done["delivered_at"])) == (None, True)


async def test_of_two_programs_with_one_token_each_message_reaches_one(place: Place) -> None:
    mate = place.mate()
    async with connected(mate, "http") as one, connected(mate, "sse") as other:
        for number in range(20):
            await asyncio.to_thread(place.say, mate, f"number {number}")
        await until(lambda: len(one.pushes) + len(other.pushes) >= 20)
        await asyncio.sleep(0.2)  # for one too many
        ids = [push["meta"]["message_id"] for push in one.pushes + other.pushes]

    assert len(ids) == len(set(ids)) == 20


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_an_ended_program_did_not_confirm_is_given_to_the_next_and_marked(
    place: Place, transport: str
) -> None:
    mate = place.mate()
    async with connected(mate, transport) as program:
        await asyncio.to_thread(place.say, mate, "act on it once")
        await program.pushed(1)
    async with connected(mate, transport) as program:
        [push] = await program.pushed(1)

    assert push["content"] == "[possibly seen before: act on it once]\n\nact on it once"


# Sessions and the worker's life


async def test_a_session_goes_on_at_the_next_worker_under_its_old_id(place: Place) -> None:
    mate = place.mate()
    session = shake_hands(place, mate)
    async with RawStream.open(place, mate, Mcp_Session_Id=session) as raw:
        await asyncio.to_thread(place.say, mate, "before")
        await raw.until("before")
        await asyncio.to_thread(place.worker.end, signal.SIGKILL)
    await asyncio.to_thread(place.worker.start)
    async with RawStream.open(place, mate, Mcp_Session_Id=session) as again:
        await asyncio.to_thread(place.say, mate, "after")
        await again.until("after")
        ping = await asyncio.to_thread(place.ask_mcp, mate, "POST", PING, Mcp_Session_Id=session)

    assert again.text.index("possibly seen before") < again.text.index("after")
    assert (ping.status, ping.json["result"]) == (200, {})


async def test_an_older_stream_that_comes_back_without_a_handshake_is_pushed_to(
    place: Place,
) -> None:
    """So does Claude Code (docs/claude-cli.md 4.18)."""
    mate = place.mate()
    async with RawStream.open(place, mate) as raw:
        await asyncio.to_thread(place.say, mate, "hello")
        await raw.until("hello")
        [endpoint] = re.findall(r"data: (/mcp/shop\?session_id=\w+)", raw.text)
        headers = {"Authorization": f"Bearer {mate.text}"}
        taken = await asyncio.to_thread(
            place.worker.ask, "POST", endpoint, PING, port=place.port, headers=headers
        )
        await raw.until('"result":{}')

    assert taken.status == 202


async def test_the_worker_ends_at_once_though_streams_are_open(place: Place) -> None:
    mate = place.mate()
    async with connected(mate, "sse"):
        took = await asyncio.to_thread(place.worker.end)
    await asyncio.to_thread(place.worker.start)

    assert took < 5
    assert "ASGI callable" not in place.worker.log


async def test_a_stream_that_is_opened_again_takes_the_place_of_the_one_before(
    place: Place,
) -> None:
    mate = place.mate()
    session = await asyncio.to_thread(shake_hands, place, mate)
    async with (
        RawStream.open(place, mate, Mcp_Session_Id=session) as first,
        RawStream.open(place, mate, Mcp_Session_Id=session) as second,
    ):
        await first.end()
        await asyncio.to_thread(place.say, mate, "hello")
        await second.until("hello")
        done = await asyncio.to_thread(place.ask_mcp, mate, "DELETE", Mcp_Session_Id=session)
        await second.end()
    after = await asyncio.to_thread(place.ask_mcp, mate, "POST", PING, Mcp_Session_Id=session)

    assert (done.status, after.status) == (200, 404)


def test_a_request_whose_token_ends_while_it_is_on_its_way_does_nothing(place: Place) -> None:
    mate = place.mate()
    session = shake_hands(place, mate)
    call = {"name": "send_to_task", "arguments": {"task_id": "backend", "body": "too late"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call}).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)) as slow:
        slow.putrequest("POST", "/mcp/shop")
        slow.putheader("Authorization", f"Bearer {mate.text}")
        slow.putheader("Mcp-Session-Id", session)
        slow.putheader("Content-Length", str(len(body)))
        slow.endheaders(body[:10])
        place.ask_mcp(mate, "POST", PING, Mcp_Session_Id=session)  # the door has seen the first
        place.worker.ask("DELETE", f"/api/tokens/{mate.token.id}")
        slow.send(body[10:])
        answer = slow.getresponse()
        answer.read()
    thread = place.worker.ask("GET", f"/api/tasks/{place.backend.id}/messages").json

    assert answer.status == 401
    assert "too late" not in [message["body"] for message in thread]


@pytest.mark.parametrize("end", ["revoke", "rotate"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_end_of_a_token_cuts_its_streams_within_a_second(
    place: Place, transport: str, end: str
) -> None:
    mate, other = place.mate(), place.mate()
    headers = {}
    if transport == "http":
        headers["Mcp_Session_Id"] = await asyncio.to_thread(shake_hands, place, mate)
    path = f"/api/tokens/{mate.token.id}"
    order = ("DELETE", path, None) if end == "revoke" else ("POST", f"{path}/rotate", {"days": 3})
    async with (
        RawStream.open(place, mate, **headers) as raw,
        RawStream.open(place, other) as theirs,
    ):
        began = time.monotonic()
        ended = await asyncio.to_thread(place.worker.ask, *order)
        over = await raw.end()
        next_one = await asyncio.to_thread(place.ask_mcp, mate, "POST", PING, **headers)

    assert ended.status == 200
    assert over - began < 1
    assert (next_one.status, next_one.headers["www-authenticate"]) == (401, "Bearer")
    assert not theirs.text.endswith("0\r\n\r\n")
    if end == "rotate":
        renewed = replace(mate, text=ended.json["text"])
        await asyncio.to_thread(place.say, mate, "still mine")
        if transport == "http":
            ping = await asyncio.to_thread(place.ask_mcp, renewed, "POST", PING, **headers)
            assert ping.status == 200
        async with connected(renewed, transport) as program:
            [push] = await program.pushed(1)
            assert push["content"] == "still mine"


async def test_a_token_that_expires_cuts_its_streams_within_a_second(tmp_path: Path) -> None:
    worker = OwnWorker(tmp_path / "home", {"HOME": str(tmp_path)})
    made = await asyncio.to_thread(worker.seed, fill)
    made.worker = worker
    await asyncio.to_thread(worker.start)
    try:
        made.port = worker.port
        mate = made.mate()
        ends = datetime.now(UTC) + timedelta(seconds=2)
        await asyncio.to_thread(set_expiry, worker, mate.token, stamp(ends))
        async with RawStream.open(made, mate) as raw:
            await raw.end()
        late = (datetime.now(UTC) - ends).total_seconds()
        refused = await asyncio.to_thread(made.ask_mcp, mate, "POST", PING)
    finally:
        worker.close()

    assert 0 <= late < 1
    assert (refused.status, "expired" in refused.json["detail"]) == (401, True)


def set_expiry(worker: OwnWorker, token: Token, moment: str) -> None:
    """As if it had been made long ago."""
    with closing(sqlite3.connect(worker.home / "claudedo.db", timeout=10)) as database:
        database.execute("UPDATE tokens SET expires_at = ? WHERE id = ?", (moment, token.id))
        database.commit()


# Permission prompts


def permission_request(request_id: Any = "abcde", **more: Any) -> dict[str, Any]:
    params = {
        "request_id": request_id,
        "tool_name": "Bash",
        "description": "Make a file",
        "input_preview": '{"command":"touch made"}',
        **more,
    }
    method = "notifications/claude/channel/permission_request"
    return {"jsonrpc": "2.0", "method": method, "params": params}


async def test_a_prompt_of_a_client_is_decided_here_once(place: Place) -> None:
    mate = place.mate()
    session = await asyncio.to_thread(shake_hands, place, mate)

    def prompt(request_id: str) -> dict[str, Any]:
        message = permission_request(request_id)
        assert place.ask_mcp(mate, "POST", message, Mcp_Session_Id=session).status == 202
        [ask] = place.asks(mate)
        return ask

    async with RawStream.open(place, mate, Mcp_Session_Id=session) as raw:
        ask = await asyncio.to_thread(prompt, "first")
        assert (ask["kind"], ask["title"], ask["tool"]) == (
            "permission",
            "Bash: touch made",
            "Bash",
        )
        for unfit in ({"always": True}, {"input": {"command": "rm"}}):
            refused = await asyncio.to_thread(place.decide, ask["id"], decision="allow", **unfit)
            assert refused.status == 409
        decided = await asyncio.gather(
            *(asyncio.to_thread(place.decide, ask["id"], decision=d) for d in ["allow", "deny"] * 3)
        )
        assert sorted(answer.status for answer in decided) == [200] + [409] * 5
        await raw.until("channel/permission")
        assert raw.text.count("channel/permission") == 1
        assert '"request_id": "first"' in raw.text

        ask = await asyncio.to_thread(prompt, "second")
        said = await asyncio.to_thread(place.decide, ask["id"], decision="deny", reason="not there")
        await raw.until("not there")  # the reason comes as a message
        assert (said.status, said.json["outcome"]) == (200, "denied")
        assert '"request_id": "second", "behavior": "deny"' in raw.text


async def test_a_prompt_that_the_client_left_behind_is_closed(place: Place) -> None:
    mate = place.mate()
    async with connected(mate, "sse") as program:
        for request_id in ("one", "two", "two"):
            await send_raw(program, permission_request(request_id))
        await eventually(lambda: [a["title"] for a in place.asks(mate)] == ["Bash: touch made"])
        await program.call("inbox_status")
        assert await asyncio.to_thread(place.asks, mate) == []
        await send_raw(program, permission_request("three"))
        [ask] = await eventually(lambda: place.asks(mate))
    await eventually(lambda: place.asks(mate) == [])
    late = await asyncio.to_thread(place.decide, ask["id"], decision="allow")
    assert late.status == 409


async def test_a_prompt_is_answered_though_the_worker_died_meanwhile(place: Place) -> None:
    mate = place.mate()
    session = await asyncio.to_thread(shake_hands, place, mate)
    message = permission_request("abcde")
    await asyncio.to_thread(place.ask_mcp, mate, "POST", message, Mcp_Session_Id=session)
    [ask] = await asyncio.to_thread(place.asks, mate)
    await asyncio.to_thread(place.worker.end, signal.SIGKILL)
    await asyncio.to_thread(place.worker.start)
    deciding = asyncio.create_task(asyncio.to_thread(place.decide, ask["id"], decision="allow"))
    async with RawStream.open(place, mate, Mcp_Session_Id=session) as raw:
        await raw.until('"behavior": "allow"')
        assert (await deciding).json["outcome"] == "allowed"


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": None}, {"request_id": 5}, {"request_id": ""}, {"request_id": "x" * 300},
        {"request_id": "a b"}, {"tool_name": None}, {"tool_name": ["Bash"]}, {"tool_name": ""},
    ],
)  # fmt: skip
async def test_a_prompt_that_says_nothing_usable_is_ignored(
    place: Place, changes: dict[str, Any]
) -> None:
    mate = place.mates[1]
    session = await asyncio.to_thread(shake_hands, place, mate)
    message = permission_request(**changes)
    taken = await asyncio.to_thread(place.ask_mcp, mate, "POST", message, Mcp_Session_Id=session)

    assert taken.status == 202
    assert await asyncio.to_thread(place.asks, mate) == []


ODD_INPUTS = (
    '{"command": NaN}', '{"command": -Infinity}', '{"command": 1e999}', "[" * 60_000,
    '{"a":' * 20_000, '{"a":' * 400 + "1" + "}" * 400, '{"a":' * 990 + "1" + "}" * 990,
    '{"command":"\\ud800"}', "{}", "", '{"command":"a\\u0000b"}', '["touch"]',
    '{"command":"touch', "9" * 5000,
)  # fmt: skip


def test_a_prompt_is_shown_whatever_the_client_says_of_its_input(place: Place) -> None:
    mate = place.mate()
    session = shake_hands(place, mate)
    for number, preview in enumerate(ODD_INPUTS):
        message = permission_request(f"odd{number}", input_preview=preview)
        taken = place.ask_mcp(mate, "POST", message, Mcp_Session_Id=session)
        [ask] = place.asks(mate)
        shown = place.worker.ask("GET", f"/api/asks/{ask['id']}")

        assert (taken.status, shown.status) == (202, 200), preview[:20]
        assert shown.json["title"].startswith("Bash")


async def send_raw(program: Program, message: dict[str, Any]) -> None:
    """Send a notification that the SDK has no type for."""
    note = types.Notification[dict[str, Any], str](
        method=message["method"], params=message["params"]
    )
    await program.session.send_notification(note)  # type: ignore[arg-type]  # none of the SDK's


# By command


def test_tokens_are_made_listed_rotated_and_revoked_by_command(place: Place) -> None:
    environment = {**os.environ, "CLAUDEDO_HOME": str(place.worker.home)}

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [COMMAND, "token", *arguments],
            env={key: value for key, value in environment.items() if key != "CLAUDEDO_SESSION"},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    status, out, err = run("create", "--name", "desk", "-w", "shop", "--mcp-json")
    entry = json.loads(out)["mcpServers"]["claudedo"]
    bearer = entry["headers"]["Authorization"]
    url = urlsplit(entry["url"])
    assert (status, entry["type"], url.port) == (0, "http", place.port)
    assert "only now" in err
    greeted = place.worker.ask(
        "POST", url.path, INITIALIZE, port=place.port, headers={"Authorization": bearer}
    )
    assert greeted.status == 200

    listed = json.loads(run("ls", "--json", "-w", "shop")[1])
    [desk] = [one for one in listed if one["name"] == "desk"]
    assert (desk["valid"], desk["sessions"], bool(desk["last_used_at"])) == (True, 1, True)
    assert bearer.removeprefix("Bearer ") not in json.dumps(listed)
    assert "desk" in run("ls")[1]

    status, text, _ = run("rotate", "desk", "-q")
    assert (status, text[:4]) == (0, "cdo_")
    assert run("rotate", "desk", "--sse")[0] == 2
    sse = json.loads(
        run("rotate", desk["id"][:12].lower() + desk["id"][12:], "--mcp-json", "--sse")[1]
    )
    assert sse["mcpServers"]["claudedo"]["type"] == "sse"
    assert run("revoke", "desk")[0] == 0
    assert run("rotate", desk["id"])[0] == 5
    assert run("revoke", "nothing")[0] == 4
    assert run("create", "-w", "nothing")[0] == 4
    assert run("create", "-w", "shop", "--days", "0")[0] == 2
    assert run("create", "-w", "shop", "--name", "")[0] == 2
