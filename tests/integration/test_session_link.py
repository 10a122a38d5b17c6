"""The socket that a session's own processes speak to: who is let in, and what is carried."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from claudedo.errors import ConflictError
from claudedo_worker.mcp_server import Caller
from claudedo_worker.session_link import LINE_LIMIT, Bridge, SessionServer, Waiter, hashed

pytestmark = pytest.mark.anyio

BOUND = 20.0


class FakeSession:
    """What a live session is to its link."""

    def __init__(self) -> None:
        self.bridge: Bridge | None = None
        self.waiter: Waiter | None = None
        self.came = 0
        self.listed = 0
        self.hooks: list[tuple[str, dict[str, Any]]] = []
        self.refuses: Exception | None = None
        self.holds = asyncio.Event()
        self.let_go = 0
        self.cancelled: list[str] = []
        self.held: list[frozenset[str]] = []

    def bridge_came(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.came += 1

    def bridge_left(self, bridge: Bridge) -> None:
        if self.bridge is bridge:
            self.bridge = None

    def waiter_came(self, waiter: Waiter) -> bool:
        if self.waiter is not None:
            return False
        self.waiter = waiter
        return True

    def waiter_left(self, waiter: Waiter) -> None:
        if self.waiter is waiter:
            self.waiter = None

    def tools_listed(self) -> None:
        self.listed += 1

    async def hook_cancelled(self, key: str) -> None:
        self.cancelled.append(key)

    async def hooks_held(self, keys: frozenset[str]) -> None:
        self.held.append(keys)

    async def hook(self, event: str, call: dict[str, Any], key: str) -> dict[str, Any]:
        self.hooks.append((event, call))
        if event == "PermissionRequest":
            try:
                await self.holds.wait()
            except asyncio.CancelledError:
                self.let_go += 1
                raise
            return {"held": key}
        if self.refuses:
            raise self.refuses
        return {"heard": event}

    async def session_started(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"started": payload["source"]}

    @property
    def caller(self) -> Caller:
        return cast(Caller, None)  # no tool is called here


class Peer:
    """A process of a session, at its end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def say(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        await self.writer.drain()

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None when the worker hung up."""
        with anyio.fail_after(BOUND):
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return None
        return dict(json.loads(line)) if line else None


class Link:
    """A served socket with one session."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = FakeSession()
        self.is_live = True
        self.is_expected = False
        self.peers: list[Peer] = []
        self.server = SessionServer(path, self._find, lambda _: self.is_expected, self._credential)

    def _find(self, session_id: str) -> FakeSession | None:
        return self.session if session_id == "s_1" and self.is_live else None

    async def _credential(self, session_id: str) -> str | None:
        return hashed("secret") if session_id == "s_1" else None

    async def connect(self) -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(str(self.path), limit=LINE_LIMIT))
        self.peers.append(peer)
        return peer

    async def hello(self, kind: str = "bridge", **changes: Any) -> Peer:
        peer = await self.connect()
        shown = {"kind": kind, "protocol": 1, "session": "s_1", "credential": "secret"}
        await peer.say({"hello": {**shown, **changes}})
        return peer

    async def welcomed(self, kind: str = "bridge", **changes: Any) -> Peer:
        peer = await self.hello(kind, **changes)
        assert await peer.hear() == {"welcome": {"protocol": 1}}
        return peer


async def eventually(condition: Any) -> None:
    with anyio.fail_after(BOUND):
        while not condition():
            await anyio.sleep(0.01)


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    """Fails if a connection ends in an exception that nobody expected."""
    unexpected: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    made = Link(tmp_path / "session.sock")
    await made.server.start()
    yield made
    for peer in made.peers:
        peer.writer.close()
    await made.server.stop()
    loop.set_exception_handler(None)
    assert unexpected == []


async def test_only_the_owner_can_open_the_socket(link: Link) -> None:
    assert link.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "changes",
    [{"credential": "wrong"}, {"credential": ""}, {"session": "s_2"}, {"kind": "person"}],
    ids=str,
)
async def test_who_shows_no_valid_credential_is_sent_away(
    link: Link, changes: dict[str, str]
) -> None:
    peer = await link.hello(**changes)
    answer = await peer.hear()
    assert answer is not None and answer["error"]["code"] == "unauthorized"
    assert await peer.hear() is None


async def test_a_session_that_has_ended_is_told_so(link: Link) -> None:
    link.is_live = False
    answer = await (await link.hello()).hear()
    assert answer is not None and "claudedo restart" in answer["error"]["detail"]


async def test_a_session_that_is_being_taken_up_hears_nothing_and_tries_again(link: Link) -> None:
    link.is_live, link.is_expected = False, True
    assert await (await link.hello()).hear() is None
    link.is_live = True
    await link.welcomed()


@pytest.mark.parametrize(
    "line", [b"\n", b"hello\n", b"[]\n", b"\xff\n", b'"x"\n', b"{}\n"], ids=repr
)
async def test_nonsense_ends_only_its_own_connection(link: Link, line: bytes) -> None:
    good = await link.welcomed()
    bad = await link.connect()
    bad.writer.write(line)
    heard = await bad.hear()
    assert heard is None or heard["error"]["code"] == "unauthorized"
    await good.say({"hook": {"id": 1, "event": "Stop", "input": {}}})
    assert await good.hear() == {"hook": {"id": 1, "output": {"heard": "Stop"}}}


async def test_a_bridge_that_talks_nonsense_later_or_too_long_is_cut_off(link: Link) -> None:
    for line in (b"nonsense\n", b"x" * (LINE_LIMIT + 10) + b"\n"):
        peer = await link.welcomed()
        peer.writer.write(line)
        assert await peer.hear() is None
        await eventually(lambda: link.session.bridge is None)


async def test_a_bridge_that_leaves_during_a_hook_harms_nobody(link: Link) -> None:
    peer = await link.welcomed()
    for number in range(50):
        await peer.say({"hook": {"id": number, "event": "Stop", "input": {"x": "y" * 10_000}}})
    peer.writer.transport.abort()
    await eventually(lambda: link.session.bridge is None)


async def test_a_held_hook_keeps_no_other_waiting_and_is_known_by_its_bridges_name(
    link: Link,
) -> None:
    peer = await link.welcomed(name="b1")
    await peer.say({"hook": {"id": 1, "event": "PermissionRequest", "input": {}}})
    await peer.say({"hook": {"id": 2, "event": "Stop", "input": {}}})
    assert await peer.hear() == {"hook": {"id": 2, "output": {"heard": "Stop"}}}

    link.session.holds.set()

    assert await peer.hear() == {"hook": {"id": 1, "output": {"held": "b1:1"}}}


async def test_a_session_is_told_which_held_hooks_are_waited_for(link: Link) -> None:
    peer = await link.welcomed(name="b1")
    await peer.say({"hook": {"id": 1, "cancelled": True}})
    await peer.say({"held": [2, 3]})
    await peer.say({"held": []})

    await eventually(lambda: len(link.session.held) == 2)

    assert link.session.cancelled == ["b1:1"]
    assert link.session.held == [{"b1:2", "b1:3"}, frozenset()]


async def test_a_bridge_that_leaves_while_a_hook_is_held_is_let_go(link: Link) -> None:
    peer = await link.welcomed(name="b1")
    await peer.say({"hook": {"id": 1, "event": "PermissionRequest", "input": {}}})
    await eventually(lambda: link.session.hooks)

    peer.writer.transport.abort()

    await eventually(lambda: link.session.bridge is None)
    assert link.session.let_go == 1
    await link.welcomed(name="b1")  # and another one is served


@pytest.mark.parametrize(
    "why",
    [
        ConflictError("a message of this attempt is on its way already"),
        OSError("File name too long"),
        RecursionError("maximum recursion depth exceeded"),
    ],
)
async def test_a_hook_that_cannot_be_answered_says_nothing_and_its_bridge_stays(
    link: Link, why: Exception
) -> None:
    link.session.refuses = why
    peer = await link.welcomed()
    await peer.say({"hook": {"id": 7, "event": "PostToolBatch", "input": {"agent_id": ""}}})
    assert await peer.hear() == {"hook": {"id": 7, "output": {}}}
    assert link.session.hooks == [("PostToolBatch", {"agent_id": ""})]

    link.session.refuses = None
    await peer.say({"hook": {"id": 8, "event": "Stop", "input": {}}})
    assert await peer.hear() == {"hook": {"id": 8, "output": {"heard": "Stop"}}}


async def test_calls_of_bridges_without_a_name_are_not_mixed_up(link: Link) -> None:
    link.session.holds.set()
    keys = set()
    for _ in range(2):
        peer = await link.welcomed()
        await peer.say({"hook": {"id": 1, "event": "PermissionRequest", "input": {}}})
        keys.add((await peer.hear() or {})["hook"]["output"]["held"])
    assert len(keys) == 2


async def test_a_session_start_hook_is_answered_and_let_go(link: Link) -> None:
    peer = await link.welcomed("hook", payload={"source": "clear"})
    assert await peer.hear() == {"output": {"started": "clear"}}
    assert await peer.hear() is None


async def test_one_waiter_waits_and_the_others_leave(link: Link) -> None:
    first = await link.welcomed("waiter")
    await eventually(lambda: link.session.waiter)
    second = await link.welcomed("waiter")
    assert await second.hear() == {"leave": True}
    assert link.session.waiter is not None
    assert await link.session.waiter.wake("mail")
    assert not await link.session.waiter.wake("again")
    assert await first.hear() == {"wake": "mail"}
    first.writer.close()
    await eventually(lambda: link.session.waiter is None)


async def test_a_ping_is_answered_by_the_client_and_not_by_us(link: Link) -> None:
    peer = await link.welcomed()
    await eventually(lambda: link.session.bridge)
    assert link.session.bridge is not None
    asked = asyncio.create_task(link.session.bridge.ping())
    ping = await peer.hear()
    assert ping is not None and ping["mcp"]["method"] == "ping"
    assert not asked.done()
    await peer.say({"mcp": {"jsonrpc": "2.0", "id": ping["mcp"]["id"], "result": {}}})
    assert await asked
    peer.writer.close()
    await eventually(lambda: link.session.bridge is None)


async def test_a_push_is_a_channel_notification(link: Link) -> None:
    peer = await link.welcomed()
    await eventually(lambda: link.session.bridge)
    assert link.session.bridge is not None
    assert await link.session.bridge.push("text", {"chat_id": "t_1"})
    params = {"content": "text", "meta": {"chat_id": "t_1"}}
    method = "notifications/claude/channel"
    assert await peer.hear() == {"mcp": {"jsonrpc": "2.0", "method": method, "params": params}}


async def test_a_stopping_worker_hangs_up_on_everybody(link: Link) -> None:
    bridge, waiter = await link.welcomed(), await link.welcomed("waiter")
    await link.server.stop()
    assert await bridge.hear() is None and await waiter.hear() is None
    assert not link.path.exists()
