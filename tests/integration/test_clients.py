"""MCP clients with a token: the SDK's own client, over HTTP and SSE, against a real worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from claudedo.model import Task
from claudedo_worker.store import Store
from tests.support.own_worker import PATIENCE, Answer, OwnWorker
from tests.support.records import a_task

pytestmark = pytest.mark.anyio

TRANSPORTS = ("http", "sse")


@dataclass
class Place:
    """A running worker, two workspaces, a token of the first."""

    worker: OwnWorker
    backend: Task
    stranger: Task
    token: dict[str, Any] = field(default_factory=dict)

    def create(self, **more: Any) -> dict[str, Any]:
        """A new token."""
        order = {"workspace": self.backend.workspace_id, "name": "laptop", **more}
        answer = self.worker.ask("POST", "/api/tokens", order)
        assert answer.status == 200, answer
        return dict(answer.json)

    def post(self, path: str, message: Any, **headers: str) -> Answer:
        """One message, by hand."""
        return self.worker.ask("POST", path, message, port=self.worker.port, headers=headers)


async def fill(store: Store) -> Place:
    shop = await store.workspace_for("/repository", "shop")
    far = await store.workspace_for("/elsewhere", "far")
    backend = await store.add_task(a_task(shop, "backend"))
    stranger = await store.add_task(a_task(far, "stranger"))
    return Place(OwnWorker(Path()), backend, stranger)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("clients")
    worker = OwnWorker(root / "home", {"HOME": str(root)})
    made = worker.seed(fill)
    made.worker = worker
    worker.start()
    try:
        made.token = made.create()
        yield made
    finally:
        worker.close()


class Program:
    """An MCP client program: the SDK's own session, and every notification that it is sent."""

    def __init__(self, session: ClientSession, told: list[dict[str, Any]]) -> None:
        self.session = session
        self._told = told
        self.ended = asyncio.Event()

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


@asynccontextmanager
async def connected(
    token: dict[str, Any], transport: str, *, shown: str = "header"
) -> AsyncIterator[Program]:
    """A program that connected with a token, shown in the header or in the address."""
    headers = {"Authorization": f"Bearer {token['text']}"} if shown == "header" else {}
    url = token["url"] if shown == "header" else f"{token['url']}?token={token['text']}"
    told: list[dict[str, Any]] = []
    async with _streams(url, headers, transport) as (read, write):
        to_session, from_program = _pipe()
        async with asyncio.TaskGroup() as group:
            program: list[Program] = []

            async def carry() -> None:
                async with to_session:
                    async for message in read:
                        data = message.message.model_dump(by_alias=True)
                        if "method" in data:
                            told.append(data)
                        await to_session.send(message)
                program[0].ended.set()

            async with ClientSession(from_program, write) as session:
                program.append(Program(session, told))
                pump = group.create_task(carry())
                await session.initialize()
                await session.list_tools()
                try:
                    yield program[0]
                finally:
                    pump.cancel()


def _pipe() -> Any:
    import anyio

    return anyio.create_memory_object_stream[Any](64)


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


@pytest.mark.parametrize("shown", ["header", "address"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_program_with_a_token_has_the_tools_and_acts_as_that_client(
    place: Place, transport: str, shown: str
) -> None:
    async with connected(place.token, transport, shown=shown) as program:
        greeting = program.session.initialize_result
        assert greeting is not None
        experimental = greeting.capabilities.experimental
        assert experimental == {"claude/channel": {}, "claude/channel/permission": {}}
        assert len(greeting.instructions or "") < 2000
        sent = await program.call("send_to_task", task_id="backend", body=f"hello {transport}")

    thread = place.worker.ask("GET", f"/api/tasks/{place.backend.id}/messages").json
    [message] = [one for one in thread if one["id"] == sent["id"]]
    assert message["sender"] == f"token:{place.token['id']}"
    assert message["sender_name"] == "laptop"
