"""Tokens: made, checked, renewed, revoked; what is kept of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from starlette.requests import Request

from claudedo.errors import ConflictError, NotFoundError, UnauthorizedError, UsageError
from claudedo.model import Event, Workspace, stamp
from claudedo_worker import tokens as tokens_module
from claudedo_worker.api.context import Context
from claudedo_worker.api.tokens import list_tokens
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from claudedo_worker.tokens import PREFIX, Tokens

pytestmark = pytest.mark.anyio


class Bench:
    """A database with one workspace."""

    def __init__(self, database: Database, path: Path) -> None:
        self.path = path
        self.told: list[Event] = []
        self.store = Store(database, self.told.append)
        self.tokens = Tokens(self.store)
        self.workspace: Workspace


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = await Database.open(tmp_path / "claudedo.db")
    made = Bench(database, tmp_path)
    made.workspace = await made.store.workspace_for("/repository", "shop")
    yield made
    await database.close()


def later(monkeypatch: pytest.MonkeyPatch, **ahead: float) -> None:
    """Let the token module believe that it is so much later."""
    at = datetime.now(UTC) + timedelta(**ahead)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return at

    monkeypatch.setattr(tokens_module, "datetime", Clock)
    monkeypatch.setattr(tokens_module, "now", lambda: stamp(at))


async def test_a_token_is_random_recognisable_and_good_for_30_days(bench: Bench) -> None:
    made = [await bench.tokens.create(bench.workspace, "laptop") for _ in range(20)]
    token, text = made[0]
    left = datetime.fromisoformat(token.expires_at) - datetime.now(UTC)

    assert len({text for _, text in made}) == 20
    assert text.startswith(PREFIX)
    assert len(text) == len(PREFIX) + 43  # 32 bytes in base64
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)
    assert (await bench.tokens.check(text))[0].id == token.id


async def test_the_text_is_nowhere_in_the_database(bench: Bench) -> None:
    _, text = await bench.tokens.create(bench.workspace, "laptop")
    await bench.tokens.check(text)

    files = [path.read_bytes() for path in bench.path.iterdir()]
    assert len(files) >= 1
    assert not any(text.encode() in data or text[4:].encode() in data for data in files)


@pytest.mark.parametrize(
    "text", ["", "cdo_", "cdo_" + "x" * 43, "x" * 47, "cdo_" + "é" * 43, "cdo_" + "x" * 10_000]
)
async def test_what_was_never_made_opens_nothing(bench: Bench, text: str) -> None:
    await bench.tokens.create(bench.workspace, "laptop")
    with pytest.raises(UnauthorizedError, match="not known"):
        await bench.tokens.check(text)


async def test_one_letter_less_or_more_opens_nothing(bench: Bench) -> None:
    _, text = await bench.tokens.create(bench.workspace, "laptop")
    for wrong in (
        text[:-1],
        text + "a",
        text[:-1] + ("a" if text[-1] != "a" else "b"),
        text + "\n",
    ):
        with pytest.raises(UnauthorizedError):
            await bench.tokens.check(wrong)


async def test_a_token_expires_and_says_how_to_renew_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, text = await bench.tokens.create(bench.workspace, "laptop", days=2)
    _, hashed = await bench.tokens.check(text)
    later(monkeypatch, days=2, seconds=1)

    with pytest.raises(UnauthorizedError, match=f"expired.*claudedo token rotate {token.id}"):
        await bench.tokens.check(text)
    assert not await bench.tokens.still_opens(hashed)


async def test_rotating_keeps_the_token_and_ends_the_old_text_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, old = await bench.tokens.create(bench.workspace, "laptop", days=1)
    later(monkeypatch, days=3)  # an expired one can be renewed
    renewed, new = await bench.tokens.rotate(token, days=5)

    assert (renewed.id, renewed.name) == (token.id, "laptop")
    assert renewed.expires_at > token.expires_at
    assert (await bench.tokens.check(new))[0].id == token.id
    with pytest.raises(UnauthorizedError, match="not known"):
        await bench.tokens.check(old)


async def test_a_revoked_token_opens_nothing_for_good(bench: Bench) -> None:
    token, text = await bench.tokens.create(bench.workspace, "laptop")
    _, hashed = await bench.tokens.check(text)
    first = await bench.tokens.revoke(token)
    again = await bench.tokens.revoke(token)

    assert first.revoked_at == again.revoked_at is not None
    assert not await bench.tokens.still_opens(hashed)
    with pytest.raises(UnauthorizedError, match="revoked"):
        await bench.tokens.check(text)
    with pytest.raises(ConflictError, match="revoked"):
        await bench.tokens.rotate(token)
    assert [event.type for event in bench.told].count("token.updated") == 3


async def test_the_last_use_is_written_at_most_once_a_minute(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, text = await bench.tokens.create(bench.workspace, "laptop")
    assert token.last_used_at is None
    await bench.tokens.check(text)
    used = (await bench.store.token(token.id)).last_used_at
    assert used is not None
    for _ in range(5):
        await bench.tokens.check(text)
    assert (await bench.store.token(token.id)).last_used_at == used

    written: list[str] = []

    async def note(token_id: str) -> None:
        written.append(token_id)

    monkeypatch.setattr(bench.store, "use_token", note)
    later(monkeypatch, seconds=61)
    await bench.tokens.check(text)
    assert written == [token.id]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\0b", "\x1b[31mred", "a\u202eb"])
async def test_a_name_that_cannot_be_shown_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        await bench.tokens.create(bench.workspace, name)


@pytest.mark.parametrize("days", [0, -1, 366, 10**9])
async def test_an_impossible_number_of_days_is_refused(bench: Bench, days: int) -> None:
    with pytest.raises(UsageError, match="days"):
        await bench.tokens.create(bench.workspace, "laptop", days)


async def test_tokens_go_with_their_workspace(bench: Bench) -> None:
    token, text = await bench.tokens.create(bench.workspace, "laptop")
    await bench.store.remove_workspace(bench.workspace)

    with pytest.raises(NotFoundError):
        await bench.store.token(token.id)
    with pytest.raises(UnauthorizedError):
        await bench.tokens.check(text)


async def test_a_token_of_a_workspace_that_comes_while_tokens_are_listed_harms_no_list(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, count = await bench.tokens.create(bench.workspace, "laptop"), bench.store.connections

    async def meanwhile() -> dict[str, int]:
        new = await bench.store.workspace_for("/elsewhere", "elsewhere")
        await bench.tokens.create(new, "desktop")
        return await count()

    monkeypatch.setattr(bench.store, "connections", meanwhile)
    request = Request({"type": "http", "query_string": b""})
    context = cast(Context, SimpleNamespace(store=bench.store))
    listed = await list_tokens(context, request)

    assert b"laptop" in listed.body
    assert b"desktop" not in listed.body
