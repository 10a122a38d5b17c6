"""A live session keeps its parts together: what goes wrong with one must not harm another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

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


async def test_mail_is_settled_at_the_end_even_if_the_asks_cannot_be(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise OSError("the transcript cannot be read")

    nothing = cast(Terminal, None)
    live = LiveSession(room.store, room.task, room.session, nothing, lambda _: cast(Caller, None))
    await live.open()
    sent = await room.send("hello")
    assert await live.hook("PostToolBatch", {}, "b:1")
    assert await room.store.deliverable(room.task.id) == []
    monkeypatch.setattr(live.asks, "close", fail)

    with pytest.raises(OSError, match="cannot be read"):
        await live.close()

    assert [message.id for message in await room.store.deliverable(room.task.id)] == [sent]
