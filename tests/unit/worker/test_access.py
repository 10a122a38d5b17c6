"""The door: links that open once and not for long, cookies that hold for a while."""

from __future__ import annotations

import time

import pytest

from claudedo.errors import StorageError
from claudedo_worker import processes
from claudedo_worker.access import (
    COOKIE_DAYS,
    KEY,
    LINK_SECONDS,
    Access,
    Door,
    Kind,
    Receive,
    Scope,
    Send,
)

pytestmark = pytest.mark.anyio


class Behind:
    """The application behind the door: notes who came."""

    def __init__(self) -> None:
        self.came: list[Access] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.append(scope[KEY])


async def nobody_is_ours(session_id: str) -> bool:
    return False


async def the_disk_fails(session_id: str) -> bool:
    raise StorageError("the disk fails")


async def come(door: Door, **headers: str) -> list[int]:
    """A request on the port with these headers; the status that the door itself answered."""
    return await knock(door, ("127.0.0.1", 50000), {"host": "127.0.0.1:1", **headers})


async def knock(door: Door, client: tuple[str, int], headers: dict[str, str]) -> list[int]:
    answered: list[int] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            answered.append(int(str(message["status"])))

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "client": client, "headers": raw}
    await door(scope, receive, send)  # type: ignore[arg-type]  # a narrower message than ASGI's
    return answered


async def test_a_link_is_good_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(Behind(), "secret", "id", nobody_is_ours)
    fresh, old = door.new_link(), door.new_link()
    assert door.redeem(fresh) is not None
    at = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: at + LINK_SECONDS + 1)

    assert door.redeem(old) is None
    assert door.redeem("never made") is None


async def test_a_cookie_is_good_for_other_doors_of_the_same_worker_and_for_a_month(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = Behind()
    door = Door(behind, "secret", "id", nobody_is_ours)
    value = door.redeem(door.new_link())
    restarted = Door(behind, "secret", "id", nobody_is_ours)
    another = Door(behind, "another secret", "id", nobody_is_ours)
    for asked in (restarted, another):
        await come(asked, cookie=f"claudedo_id={value}")
    at = time.time()
    monkeypatch.setattr(time, "time", lambda: at + COOKIE_DAYS * 86_400 + 1)
    await come(restarted, cookie=f"claudedo_id={value}")

    assert [access.kind for access in behind.came] == [Kind.PAGE, Kind.NOBODY, Kind.NOBODY]


async def test_a_disk_that_fails_while_the_door_looks_is_an_answer_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = Behind()
    monkeypatch.setattr(processes, "sessions_above", lambda pid: ["s_1"])
    status = await knock(Door(behind, "secret", "id", the_disk_fails), ("unix", 4711), {})

    assert (status, behind.came) == ([507], [])


async def test_a_peer_that_the_system_does_not_name_is_nobody() -> None:
    behind = Behind()
    await knock(Door(behind, "secret", "id", nobody_is_ours), ("unix", 0), {})

    assert [access.kind for access in behind.came] == [Kind.NOBODY]
