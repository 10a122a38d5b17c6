"""A live session keeps its parts together: what goes wrong with one must not harm another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import anyio
import pytest

from claudedo_worker.live import LiveSession
from claudedo_worker.mcp_server import Caller
from claudedo_worker.terminal import Terminal
from tests.support.mailroom import Mailroom

pytestmark = pytest.mark.anyio


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Mailroom]:
    made = await Mailroom(tmp_path).open()
    yield made
    await made.close()


async def alive(room: Mailroom) -> LiveSession:
    """The session of the room, whose terminal is not looked at."""
    nothing = cast(Terminal, None)
    live = LiveSession(room.store, room.task, room.session, nothing, lambda _: cast(Caller, None))
    await live.open()
    return live


async def test_mail_is_settled_at_the_end_even_if_the_asks_cannot_be(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise OSError("the transcript cannot be read")

    live = await alive(room)
    sent = await room.send("hello")
    assert await live.hook("PostToolBatch", {}, "b:1")
    assert await room.store.deliverable(room.task.id) == []
    monkeypatch.setattr(live.asks, "close", fail)

    with pytest.raises(OSError, match="cannot be read"):
        await live.close()

    assert [message.id for message in await room.store.deliverable(room.task.id)] == [sent]


async def test_a_held_call_of_a_conversation_that_was_left_brings_nobody_back_to_it(
    room: Mailroom, tmp_path: Path
) -> None:
    live = await alive(room)
    await room.send("hello")
    assert await live.hook("PostToolBatch", {}, "b:1")
    (tmp_path / "c0.jsonl").touch()
    # Allowed in its dialog while no worker ran, before a /clear, and so never cancelled (13.5).
    call = {"session_id": "c0", "transcript_path": str(tmp_path / "c0.jsonl"), "tool_name": "Bash"}

    held = asyncio.create_task(live.hook("PermissionRequest", call, "b:2"))
    with anyio.fail_after(10):
        while not await room.store.open_asks():
            await asyncio.sleep(0.001)

    assert live.session.conversation == "c1"
    assert await room.store.deliverable(room.task.id) == [], "given twice"
    held.cancel()
