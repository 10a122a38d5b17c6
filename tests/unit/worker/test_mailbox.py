"""Who may write what to whom, and what a burst comes to."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import (
    AmbiguousError,
    ForbiddenError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from claudedo.model import Event, Message, Priority, Task
from claudedo_worker import mcp_server
from claudedo_worker.database import Database
from claudedo_worker.mailbox import Mailbox, SessionCaller
from claudedo_worker.store import Store
from claudedo_worker.threads import BURST, BURST_SECONDS, session_of
from tests.support import services
from tests.support.records import a_message, a_session, a_task

pytestmark = pytest.mark.anyio


class Courier:
    """Stands in for delivery: what a session's tools ask of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, int | None]] = []
        self.mail: list[Message] = []
        self.proven_calls: list[str | None] = []

    async def check_inbox(
        self, tool_use_id: str | None, limit: int | None
    ) -> tuple[list[Message], int]:
        self.asked.append((tool_use_id, limit))
        return self.mail, 3

    async def proven(self, tool_use_id: str | None) -> None:
        self.proven_calls.append(tool_use_id)


@dataclass
class Live:
    """Stands in for a live session."""

    task: Task
    session: Any
    courier: Courier = field(default_factory=Courier)


@dataclass
class World:
    store: Store
    mailbox: Mailbox
    told: list[Event]
    backend: Task
    frontend: Task
    live: Live
    caller: SessionCaller

    async def add(self, name: str, root: str = "/repository") -> Task:
        workspace = await self.store.workspace_for(root, root.strip("/"))
        return await self.store.add_task(a_task(workspace, name))

    async def send(self, target: str, body: str = "x", key: str | None = None) -> dict[str, Any]:
        return await self.caller.send(
            target, body, reply_to=None, priority=Priority.NORMAL, tool_use_id=key
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    told: list[Event] = []
    database = await Database.open(tmp_path / "db")
    store = Store(database, told.append)
    workspace = await store.workspace_for("/repository", "repository")
    backend = await store.add_task(a_task(workspace, "backend"))
    frontend = await store.add_task(a_task(workspace, "frontend"))
    await store.link(backend, frontend)
    session = await store.add_session(a_session(backend), "h", backend)
    mailbox = services.mailbox(store, tmp_path)
    live = Live(backend, session)
    tools = services.tools(store, tmp_path, session_of(backend))
    caller = SessionCaller(store, mailbox, live, tools)  # type: ignore[arg-type]  # what it uses
    yield World(store, mailbox, told, backend, frontend, live, caller)
    await database.close()


# To whom


async def test_the_only_peer_needs_no_name(world: World) -> None:
    assert (await world.send("peer:"))["task_id"] == world.frontend.id


async def test_of_several_peers_one_must_be_named_and_they_are_listed(world: World) -> None:
    other = await world.add("docs")
    await world.store.link(world.backend, other)

    with pytest.raises(AmbiguousError, match="name one with `peer`: docs, frontend"):
        await world.send("peer:")
    assert (await world.send("peer:docs"))["task_id"] == other.id
    with pytest.raises(NotFoundError, match="your peers: docs, frontend"):
        await world.send("peer:nobody")


async def test_peers_of_the_same_name_are_told_apart_by_id(world: World) -> None:
    namesake = await world.add("frontend", "/elsewhere")
    await world.store.link(world.backend, namesake)

    for target in ("peer:frontend", "frontend"):
        with pytest.raises(AmbiguousError, match=f"{namesake.id} in elsewhere"):
            await world.send(target)
    assert (await world.send(f"peer:{namesake.id}"))["task_id"] == namesake.id
    assert (await world.send(namesake.id))["task_id"] == namesake.id


async def test_a_task_of_another_workspace_is_reached_only_when_linked(world: World) -> None:
    far = await world.add("far", "/elsewhere")

    with pytest.raises(NotFoundError):
        await world.send("far")
    with pytest.raises(ForbiddenError, match="The user can link the two"):
        await world.mailbox.check_reach(world.backend, far)
    await world.store.link(world.backend, far)
    await world.mailbox.check_reach(world.backend, far)
    assert (await world.send("far"))["task_id"] == far.id


async def test_only_a_person_halts(world: World) -> None:
    async def halt(sender: Task | None) -> Message:
        return await world.mailbox.send(
            world.frontend, "stop", sender=sender, key=None, priority=Priority.HALT
        )

    with pytest.raises(ForbiddenError, match="Only a person"):
        await halt(world.backend)

    sent = await halt(None)
    assert (sent.sender, sent.priority) == ("user", "halt")


# Bursts


async def test_a_burst_is_refused_with_advice_told_once_and_over_after_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: at)
    for number in range(BURST):
        await world.send("peer:", str(number))
    for _ in range(3):
        with pytest.raises(RefusedError, match=r"Not sent: 30 messages to frontend .* wait for"):
            await world.send("peer:", "one too many")

    [slowed] = [event for event in world.told if event.type == "peers.slowed"]
    assert slowed.payload["sender"] == "backend"
    assert slowed.payload["recipient"] == "frontend"
    assert len(await world.store.thread(world.frontend.id)) == BURST

    at += BURST_SECONDS
    await world.send("peer:", "a minute later")


async def test_a_burst_to_one_task_does_not_slow_others_nor_the_person(world: World) -> None:
    await world.add("docs")
    for number in range(BURST):
        await world.send("peer:", str(number))

    await world.send("docs")
    await world.mailbox.send(world.frontend, "by the person", sender=None, key=None)


async def test_a_repeated_call_is_answered_also_in_a_burst(world: World) -> None:
    first = await world.send("peer:", "0", key="toolu_0")
    for number in range(1, BURST):
        await world.send("peer:", str(number), key=f"toolu_{number}")

    assert await world.send("peer:", "0", key="toolu_0") == first


async def test_a_reply_lets_the_transcript_be_read_first(world: World) -> None:
    asked = (await world.store.add_message(a_message(world.backend), "k"))[0]
    await world.caller.send(
        "peer:", "x", reply_to=asked.id, priority=Priority.NORMAL, tool_use_id="toolu_1"
    )

    assert world.live.courier.proven_calls == ["toolu_1"]


# Tools, as the model sees them


async def test_every_tool_has_schemas_and_check_inbox_room_for_long_results() -> None:
    tools = {tool.name: tool.model_dump(by_alias=True) for tool in mcp_server.TOOLS}

    assert [*tools] == [
        "check_inbox",
        "inbox_status",
        "send_to_task",
        "send_to_peer",
        "list_peers",
        "createTask",
        "updateTaskStatus",
        "reply",
        "getTaskMessages",
        "getTask",
        "getWorkspace",
        "downloadAttachment",
    ]
    for tool in tools.values():
        assert tool["inputSchema"]["additionalProperties"] is False
        assert tool["outputSchema"]["type"] == "object"
        assert tool["description"]
    assert tools["check_inbox"]["_meta"] == {"anthropic/maxResultSizeChars": 500_000}


async def test_results_have_the_keys_of_the_contract_and_fit_their_schema(world: World) -> None:
    world.live.courier.mail = [(await world.store.add_message(a_message(world.backend), "k"))[0]]
    calls: dict[str, dict[str, Any]] = {
        "check_inbox": {"limit": 5},
        "inbox_status": {},
        "send_to_task": {"task_id": "frontend", "body": "x"},
        "list_peers": {},
    }
    results = {
        name: await mcp_server.call(world.caller, name, given, "toolu_1")
        for name, given in calls.items()
    }
    content = {name: result.structured_content or {} for name, result in results.items()}

    assert not any(result.is_error for result in results.values())
    assert content["check_inbox"].keys() == {"messages", "pending"}
    assert content["check_inbox"]["messages"][0].keys() == {
        "id",
        "sender",
        "sender_name",
        "body",
        "reply_to",
        "priority",
        "created_at",
        "chat_id",
        "attachments",
    }
    assert world.live.courier.asked == [("toolu_1", 5)]
    assert content["inbox_status"] == {"pending": 1}
    assert content["send_to_task"].keys() == {"id", "task_id", "receipts"}
    [peer] = content["list_peers"]["peers"]
    said = (await mcp_server.call(world.caller, "list_peers", {}, None)).content[0]
    assert json.loads(getattr(said, "text", "")) == [peer]
    assert peer == {
        "task_id": world.frontend.id,
        "name": "frontend",
        "status": "ongoing",
        "session_state": "stopped",
    }


@pytest.mark.parametrize(
    ("fault", "code"), [(StorageError("The disk is full."), "storage"), (KeyError("x"), "failed")]
)
async def test_what_fails_inside_a_tool_is_a_tool_error_with_a_code(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str
) -> None:
    async def fail(*given: object) -> None:
        raise fault

    monkeypatch.setattr(world.store, "peers", fail)
    result = await mcp_server.call(world.caller, "list_peers", {}, None)

    assert result.is_error
    assert (result.structured_content or {})["code"] == code
