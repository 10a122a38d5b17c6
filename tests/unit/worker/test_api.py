"""What no request is meant to reach: faults of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from claudedo.errors import KINDS
from claudedo_worker import api
from claudedo_worker.access import KEY, Access, Kind
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.store import Store

pytestmark = pytest.mark.anyio


async def test_a_fault_of_our_own_is_a_problem_too_and_goes_on_to_the_log(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "db")
    store = Store(database, lambda event: None)
    broken: Any = object()  # what no handler expects
    context = api.Context(
        store=store,
        bus=Bus(),
        tasks=broken,
        queue=broken,
        foreign=broken,
        adoption=broken,
        mailbox=broken,
        threads=broken,
        attachments=broken,
        supervisor=broken,
        tokens=broken,
        relay=broken,
        mcp=broken,
        listeners=broken,
        workspaces=broken,
        version="0",
        stop=lambda: None,
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/resolve",
        "query_string": b"target=x",
        "headers": [],
        KEY: Access(Kind.PERSON),
    }
    with pytest.raises(AttributeError):  # the server logs what it gets
        await api.build(context)(scope, receive, send)
    await database.close()

    assert sent[0]["status"] == 500
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    assert b'"code":"failed"' in sent[1]["body"]
    assert b"AttributeError" not in sent[1]["body"]


def test_every_kind_of_error_has_a_status() -> None:
    local = {"failed", "unavailable"}  # a fault; and what only a command can find
    assert api.STATUS.keys() == KINDS.keys() - local
