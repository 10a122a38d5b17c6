"""What a client is lent, and how it comes back: with a real store, without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import NotFoundError, StorageError
from claudedo.model import Task, Token, Workspace, stamp
from claudedo_worker import clients as clients_module
from claudedo_worker.clients import CONNECTIONS, SEEN, Client, Clients
from claudedo_worker.database import Database
from claudedo_worker.decision import ALLOW, Decision
from claudedo_worker.mcp_sse import EventStream
from claudedo_worker.permission_relay import PermissionRelay
from claudedo_worker.store import Store
from claudedo_worker.tokens import Tokens, digest
from tests.support import services
from tests.support.records import a_message, a_task

pytestmark = pytest.mark.anyio

PATIENCE = 20.0


class Bench:
    """A token, a task that it holds, and the clients of one worker."""

    token: Token
    text: str
    task: Task
    workspace: Workspace

    def __init__(self, database: Database, path: Path) -> None:
        self._path = path
        self.store = Store(database, lambda event: self.clients.notice(event))
        self.clients = self.worker()

    def worker(self) -> Clients:
        """The clients as another worker would find them."""
        self.threads = threads = services.threads(self.store, self._path)
        self.tokens = Tokens(self.store)
        return Clients(
            self.store,
            self.tokens,
            threads,
            lambda who: services.tools(self.store, self._path, who),
        )

    async def client(self) -> Client:
        """A program that just connected."""
        return await self.clients.open(self.token, digest(self.text), "a program")

    async def say(self, body: str) -> str:
        """The person writes to the client."""
        message = a_message(self.task, body)
        await self.store.add_message(message, message.id)
        return message.id

    async def inbox(self, client: Client, **given: Any) -> list[tuple[str, bool]]:
        """What `check_inbox` gives: bodies, and whether they are marked."""
        await self.clients.heard(client, "check_inbox")
        found = await client.caller.check_inbox(None, given.get("limit"), None)
        return [(message["body"], "note" in message) for message in found["messages"]]

    async def delivered(self, message_id: str) -> bool:
        """True once a client confirmed it."""
        return (await self.store.message(message_id)).receipts.delivered_at is not None


SCOPE: dict[str, Any] = {"type": "http", "method": "GET"}


class Sent:
    """The other end of a stream. After so many pieces it reads nothing any more."""

    def __init__(self, reads: int | None = None) -> None:
        self.text = ""
        self._reads = reads

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Take a piece, as the server does."""
        if self._reads == 0 and message.get("more_body", True):
            await asyncio.Event().wait()
        if self._reads:
            self._reads -= 1
        self.text += message.get("body", b"").decode()


async def never() -> MutableMapping[str, Any]:
    """A client that does not hang up."""
    await asyncio.Event().wait()
    return {}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def streaming(
    bench: Bench, client: Client, sent: Sent | None = None
) -> AsyncIterator[tuple[asyncio.Task[None], Sent]]:
    """A client with an open stream; gives what serves it, and what came."""
    sent = sent or Sent()
    stream = EventStream(lambda stream: bench.clients.serve(client, stream))
    serving = asyncio.create_task(stream(SCOPE, never, sent))
    await until(lambda: ": open" in sent.text and (client.stream is stream or serving.done()))
    try:
        yield serving, sent
    finally:
        stream.cut()
        await asyncio.wait([serving])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = await Database.open(tmp_path / "claudedo.db")
    made = Bench(database, tmp_path)
    made.workspace = await made.store.workspace_for("/repository", "shop")
    made.token, made.text = await Tokens(made.store).create(made.workspace, "laptop")
    holder = f"token:{made.token.id}"
    made.task = await made.store.add_task(a_task(made.workspace, worktree=None, holder=holder))
    yield made
    await made.clients.stop()
    await database.close()


async def test_the_inbox_gives_each_message_once_and_the_next_look_confirms_it(
    bench: Bench,
) -> None:
    client = await bench.client()
    first, second = await bench.say("one"), await bench.say("two")

    assert await bench.inbox(client, limit=1) == [("one", False)]
    assert (await bench.delivered(first), await bench.delivered(second)) == (False, False)
    assert await bench.inbox(client) == [("two", False)]
    assert (await bench.delivered(first), await bench.delivered(second)) == (True, False)
    await bench.clients.heard(client, "send_to_task")
    assert await bench.delivered(second)
    assert await bench.inbox(client) == []


async def test_what_a_worker_gave_that_died_is_given_again_and_marked(bench: Bench) -> None:
    before = await bench.client()
    message = await bench.say("one")
    assert await bench.inbox(before) == [("one", False)]
    bench.clients = bench.worker()
    client = await bench.clients.find(bench.token, "digest", before.connection.id)
    await bench.clients.heard(client, "send_to_task")  # says nothing of what came before

    assert not await bench.delivered(message)
    assert await bench.inbox(client) == [("one", True)]
    assert await bench.inbox(client) == []
    assert await bench.delivered(message)


async def test_a_push_that_a_worker_died_of_is_not_taken_for_given(bench: Bench) -> None:
    """Nobody knows whether it was written: the request that comes next does not confirm it."""
    before = await bench.client()
    message = await bench.say("one")
    assert await bench.store.lend_push(before.connection)
    bench.clients = bench.worker()
    client = await bench.clients.find(bench.token, "digest", before.connection.id)
    await bench.clients.heard(client, "send_to_task")

    assert not await bench.delivered(message)
    assert await bench.inbox(client) == [("one", True)]


async def test_a_push_into_a_stream_that_ended_is_not_taken_for_given(bench: Bench) -> None:
    client = await bench.client()
    client.settle(0)
    message = await bench.say("one")
    async with streaming(bench, client) as (_, sent):
        await until(lambda: "one" in sent.text)
    await bench.clients.heard(client, "send_to_task")

    assert not await bench.delivered(message)
    async with streaming(bench, client) as (_, again):
        await until(lambda: "one" in again.text)
        await bench.clients.heard(client, "send_to_task")
        assert await bench.delivered(message)
    assert SEEN in again.text


async def test_a_stream_that_ends_while_it_begins_leaves_its_client_without_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await bench.client()

    async def fail(connection_id: str, keep: Collection[str] = ()) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(bench.store, "give_back", fail)
    stream = EventStream(lambda stream: bench.clients.serve(client, stream))
    async with asyncio.timeout(PATIENCE):
        await stream(SCOPE, never, Sent())

    assert client.stream is None
    assert client.ended_at < float("inf")


async def test_a_token_that_expires_in_the_middle_of_much_mail_ends_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader is so slow that there is always something to write."""
    client = await bench.client()
    client.settle(0)
    for number in range(3):
        await bench.say(f"number {number}")
    opens = iter([True, False])

    async def still_opens(shown: str) -> bool:
        return next(opens)

    monkeypatch.setattr(bench.tokens, "still_opens", still_opens)
    async with streaming(bench, client) as (serving, sent):
        async with asyncio.timeout(PATIENCE):
            await serving

    assert ("number 0" in sent.text, "number 1" in sent.text) == (True, False)


async def test_a_token_that_expires_while_nothing_is_read_ends_its_stream(bench: Bench) -> None:
    bench.token = replace(bench.token, expires_at=stamp(datetime.now(UTC) + timedelta(seconds=0.3)))
    client = await bench.client()
    client.settle(0)
    await bench.say("one")
    async with streaming(bench, client, Sent(reads=2)) as (serving, _), asyncio.timeout(5):
        await serving


async def test_what_one_connection_has_no_other_gets(bench: Bench) -> None:
    for number in range(30):
        await bench.say(str(number))

    async def empty(client: Client) -> list[tuple[str, bool]]:
        given = []
        while found := await bench.inbox(client, limit=2):
            given += found
        return given

    clients = await bench.client(), await bench.client()
    one, other = await asyncio.gather(*map(empty, clients))
    assert len(one) + len(other) == 30
    assert {*one, *other} == {(str(number), False) for number in range(30)}


async def test_of_a_lost_program_the_mail_goes_to_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "SWEEP", 0.01)
    monkeypatch.setattr(clients_module, "SILENT", 0.2)
    bench.clients.start()
    lost = await bench.client()
    await bench.say("one")
    assert await bench.inbox(lost) == [("one", False)]
    other = await bench.client()
    async with asyncio.timeout(PATIENCE):
        while not (found := await bench.inbox(other)):
            await asyncio.sleep(0.02)

    assert found == [("one", True)]


async def test_only_so_many_sessions_of_a_token_are_remembered(bench: Bench) -> None:
    first = await bench.client()
    await bench.say("one")
    assert await bench.inbox(first) == [("one", False)]
    others = [await bench.client() for _ in range(CONNECTIONS)]

    with pytest.raises(NotFoundError, match="initialize again"):
        await bench.clients.find(bench.token, "digest", first.connection.id)
    assert await bench.inbox(others[0]) == [("one", True)]
    assert await bench.store.connections() == {bench.token.id: CONNECTIONS}


@pytest.mark.parametrize(
    ("program", "is_over"), [("claude-code 2.1.197", True), ("another", False)]
)
async def test_a_claude_code_without_its_stream_is_made_to_shake_hands_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, program: str, is_over: bool
) -> None:
    before = await bench.clients.open(bench.token, "digest", program)
    fresh = await bench.clients.find_to_ask(bench.token, "digest", before.connection.id)
    bench.clients = bench.worker()
    monkeypatch.setattr(clients_module, "DEAF", -1.0)  # it had the time to come back

    assert fresh is before
    if is_over:
        with pytest.raises(NotFoundError, match="initialize again"):
            await bench.clients.find_to_ask(bench.token, "digest", before.connection.id)
        assert await bench.store.connections() == {}
    else:
        known = await bench.clients.find_to_ask(bench.token, "digest", before.connection.id)
        assert known.connection == before.connection


async def test_a_program_with_a_stream_is_not_forgotten_for_newer_ones(bench: Bench) -> None:
    """As when a script connects again and again with the token of a session that stays."""
    before = await bench.client()  # and is not heard of any more
    staying, working = await bench.client(), await bench.client()
    async with streaming(bench, staying):
        for _ in range(CONNECTIONS):
            await bench.client()
            await bench.clients.find(bench.token, "digest", working.connection.id)

        for client in (staying, working):
            found = await bench.clients.find(bench.token, "digest", client.connection.id)
            assert found is client
    with pytest.raises(NotFoundError, match="initialize again"):
        await bench.clients.find(bench.token, "digest", before.connection.id)
    assert await bench.store.connections() == {bench.token.id: CONNECTIONS}


async def test_much_mail_that_waits_does_not_make_a_push_slow(bench: Bench) -> None:
    client = await bench.client()
    client.settle(0)
    for number in range(250):
        await bench.say(f"number {number}")
    began = time.process_time()
    async with streaming(bench, client) as (_, sent):
        await until(lambda: "number 249" in sent.text)

    assert time.process_time() - began < 5  # to look at all of it each time takes far longer


async def test_what_is_pushed_goes_into_both_sessions_of_a_program_that_connects_anew_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 2.1.197 does, which then listens in one of them (docs/claude-cli.md 4.15)."""
    shown, name = digest(bench.text), "claude-code 2.1.197"
    before = await bench.clients.open(bench.token, shown, name)
    bench.clients = bench.worker()
    monkeypatch.setattr(clients_module, "DEAF", -1.0)
    with pytest.raises(NotFoundError, match="initialize again"):
        await bench.clients.find_to_ask(bench.token, shown, before.connection.id)
    twins = [await bench.clients.open(bench.token, shown, name) for _ in range(2)]
    monkeypatch.setattr(clients_module, "ANEW", -1.0)
    stranger = await bench.clients.open(bench.token, shown, name)
    for client in twins:
        client.settle(0)
    async with (
        streaming(bench, twins[0]) as (_, one),
        streaming(bench, twins[1]) as (_, other),
        streaming(bench, stranger) as (_, third),
    ):
        message = await bench.say("to both")
        await until(lambda: "to both" in one.text and "to both" in other.text)
        await bench.clients.heard(stranger, "send_to_task")
        assert not await bench.delivered(message)
        await bench.clients.heard(twins[1], "send_to_task")
        assert await bench.delivered(message)

        relay = PermissionRelay(bench.store, bench.clients, bench.threads)
        asked = {"request_id": "abcde", "tool_name": "Bash", "input_preview": "{}"}
        await relay.asked(twins[0], asked)
        [ask] = await bench.store.open_asks()
        await relay.decide(ask, Decision(decision=ALLOW))
        await until(lambda: '"allow"' in one.text and '"allow"' in other.text)
        await relay.asked(twins[0], asked)
        await relay.went_on(stranger)
        assert len(await bench.store.open_asks()) == 1
        await relay.went_on(twins[1])
        assert await bench.store.open_asks() == []

    assert "to both" not in third.text
    assert '"allow"' not in third.text
    assert sorted([SEEN in one.text, SEEN in other.text]) == [False, True]


async def test_a_client_that_is_heard_of_keeps_what_it_claimed(bench: Bench) -> None:
    until = (await bench.store.task(bench.task.id)).held_until
    client = await bench.client()
    await bench.store.extend_claims(client.party.id, "2020-01-01T00:00:00.000Z")
    await bench.clients.heard(client, None)

    extended = (await bench.store.task(bench.task.id)).held_until
    assert extended is not None
    assert extended > "2026-01-01"
    assert until is None
