"""A stream of events whose client does not read: how it is written into, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import closing
from typing import Any

import pytest
import uvicorn

from claudedo_worker import daemon, mcp_sse
from claudedo_worker.access import HANG_UP, PeerProtocol, Receive, Scope, Send
from claudedo_worker.mcp_sse import EventStream

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


class DeafClient:
    """It takes the head of the stream and then reads nothing, nor does it hang up."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.scope = {"type": "http", "method": "GET", HANG_UP: self._gone.set}

    @property
    def hung_up(self) -> bool:
        return self._gone.is_set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"] != b": open\n\n":
            await asyncio.Event().wait()

    async def receive(self) -> MutableMapping[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}


async def write_on(stream: EventStream) -> None:
    while await stream.write("message", "x"):
        pass


@pytest.mark.parametrize("patience", [None, mcp_sse.PATIENCE])
async def test_a_stream_that_is_cut_is_over_though_nobody_reads(patience: float | None) -> None:
    client = DeafClient()
    stream = EventStream(write_on, patience=patience)
    asyncio.get_running_loop().call_later(0.05, stream.cut)
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE):
        await stream(client.scope, client.receive, client.send)

    assert client.hung_up
    assert time.monotonic() - began < 1 + mcp_sse.LAST


async def test_a_client_that_leaves_an_event_unread_is_hung_up_on() -> None:
    client = DeafClient()
    stream = EventStream(write_on, patience=0.05)
    async with asyncio.timeout(PATIENCE):
        await stream(client.scope, client.receive, client.send)

    assert client.hung_up


async def test_a_client_that_reads_sees_the_end_of_its_stream() -> None:
    sent: list[MutableMapping[str, Any]] = []
    client = DeafClient()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def write_one(stream: EventStream) -> None:
        assert await stream.write("message", "one\ntwo", 7)

    async with asyncio.timeout(PATIENCE):
        await EventStream(write_one)(client.scope, client.receive, send)

    assert sent[-2]["body"] == b"id: 7\nevent: message\ndata: one\ndata: two\n\n"
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert not client.hung_up


async def test_the_server_drops_the_connection_of_who_reads_nothing_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams: list[EventStream] = []

    async def write_much(stream: EventStream) -> None:
        streams.append(stream)
        while await stream.write("message", "x" * 2**20):
            pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventStream(write_much, patience=None)(scope, receive, send)

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as listener,
        closing(socket.create_connection(listener.getsockname())) as deaf,
    ):
        config = uvicorn.Config(app, http=PeerProtocol, lifespan="off", log_config=None)
        server = daemon.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        connections: set[Any] = server.server_state.connections
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await until(lambda: any(one.flow.write_paused for one in connections))
            assert streams
            streams[0].cut()
            await until(lambda: not connections)
        server.should_exit = True
        await serving

    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)
