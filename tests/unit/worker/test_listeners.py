"""When a listener with a token is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from claudedo.model import Event
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.listeners import Listeners
from claudedo_worker.store import Store
from claudedo_worker.tokens import Tokens

pytestmark = pytest.mark.anyio

PATIENCE = 10.0


async def test_a_token_that_ends_while_it_is_looked_at_ends_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(tmp_path / "claudedo.db")
    store, bus = Store(database, lambda event: None), Bus()
    tokens = Tokens(store)
    listeners = Listeners(store, bus, tokens)
    workspace = await store.workspace_for("/repository", "shop")
    token, _ = await tokens.create(workspace, "laptop")
    opens = iter([True, False])

    async def still_opens(shown: str) -> bool:
        # Told of after the look, before its answer.
        told = Event(seq=1, type="token.updated", workspace_id=workspace.id, task_id=None)
        listeners.notice(told)
        return next(opens)

    async def send(message: MutableMapping[str, Any]) -> None:
        """Read everything."""

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(tokens, "still_opens", still_opens)
    try:
        async with asyncio.timeout(PATIENCE):
            stream = listeners.open(workspace, 0, token, "digest")
            await stream({"type": "http", "method": "GET"}, receive, send)
    finally:
        await database.close()
