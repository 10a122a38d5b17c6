"""The database file: transactions that others see whole or not at all, and what can be wrong."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from claudedo.errors import ClaudedoError, ConflictError, StorageError, UsageError
from claudedo.model import USER, Move, Task, TaskStatus
from claudedo_worker import database as module
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from claudedo_worker.threads import PERSON, Threads, session_of
from tests.support import services

pytestmark = pytest.mark.anyio

V1 = Path(__file__).parents[2] / "data" / "v1.sqlite3"
V3 = V1.with_name("v3.sqlite3")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "claudedo.db"


@pytest.fixture
async def database(file: Path) -> AsyncIterator[Database]:
    opened = await Database.open(file)
    yield opened
    await opened.close()


async def write(database: Database, key: str, value: str) -> None:
    async with database.transaction():
        await database.run("set_meta", {"key": key, "value": value})


async def read(database: Database, key: str) -> str | None:
    row = await database.one("get_meta", key=key)
    return row["value"] if row else None


# Transactions


async def test_a_transaction_sees_its_own_rows_and_nobody_else_does_before_the_commit(
    database: Database,
) -> None:
    written, looked = asyncio.Event(), asyncio.Event()

    async def writing() -> str | None:
        async with database.transaction():
            await database.run("set_meta", {"key": "port", "value": "1"})
            written.set()
            await looked.wait()
            return await read(database, "port")

    writer = asyncio.create_task(writing())
    await written.wait()
    seen_during = await read(database, "port")
    looked.set()

    assert seen_during is None
    assert await writer == "1"
    assert await read(database, "port") == "1"


async def test_an_error_in_a_transaction_takes_everything_back(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.transaction():
            await database.run("set_meta", {"key": "port", "value": "1"})
            raise RuntimeError("no")

    assert await read(database, "port") is None
    await write(database, "port", "2")
    assert await read(database, "port") == "2"


@pytest.mark.parametrize("steps", range(12))
async def test_a_transaction_cancelled_at_any_point_is_whole_or_absent_and_blocks_no_other(
    database: Database, steps: int
) -> None:
    async def both() -> None:
        async with database.transaction():
            await database.run("set_meta", {"key": "one", "value": "1"})
            await database.run("set_meta", {"key": "two", "value": "2"})

    task = asyncio.create_task(both())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    await write(database, "after", "3")
    assert await read(database, "after") == "3"
    assert (await read(database, "one") is None) == (await read(database, "two") is None)


async def test_transactions_wait_for_each_other(database: Database) -> None:
    await asyncio.gather(*(write(database, f"key{n}", str(n)) for n in range(50)))

    assert [await read(database, f"key{n}") for n in range(50)] == [str(n) for n in range(50)]


@pytest.mark.parametrize(
    ("value", "told"),
    [("\ud800", "cannot be stored"), (2**70, "cannot be stored")],
    ids=["lone surrogate", "huge number"],
)
async def test_a_value_that_no_database_can_hold_is_refused(
    database: Database, value: object, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        async with database.transaction():
            await database.run("set_meta", {"key": "x", "value": value})
    with pytest.raises(UsageError, match=told):
        await database.one("get_meta", key=value)


async def test_a_row_that_a_constraint_forbids_is_a_conflict(database: Database) -> None:
    link = {"one": "t_1", "other": "t_2"}

    with pytest.raises(ConflictError, match="changed this meanwhile"):
        async with database.transaction():
            await database.run("insert_link", link)


# What can be wrong with the disk


async def test_a_full_disk_is_said_and_the_database_goes_on_when_there_is_room(
    database: Database,
) -> None:
    await write(database, "before", "1")
    await database._writer.execute("PRAGMA max_page_count=1")

    with pytest.raises(StorageError, match="disk is full; nothing was stored"):
        await write(database, "large", "x" * 1_000_000)

    assert await read(database, "before") == "1"
    assert await read(database, "large") is None
    await database._writer.execute("PRAGMA max_page_count=1000000")
    await write(database, "large", "x" * 1_000_000)
    assert await read(database, "large") == "x" * 1_000_000


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to let any file of this process grow beyond `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_is_said_and_nothing_is_lost(
    database: Database, file: Path
) -> None:
    await write(database, "before", "1")
    with (
        no_file_larger_than(file.with_name("claudedo.db-wal").stat().st_size),
        pytest.raises(StorageError, match="Nothing was stored"),
    ):
        await write(database, "more", "2")

    assert await read(database, "before") == "1"
    assert await read(database, "more") is None
    await write(database, "more", "3")
    assert await read(database, "more") == "3"
    assert await database.check() == "ok"


async def test_what_was_committed_is_there_after_the_file_is_opened_again(file: Path) -> None:
    first = await Database.open(file)
    await write(first, "kept", "1")
    await first.close()
    second = await Database.open(file)

    assert await read(second, "kept") == "1"
    await second.close()


# What can be wrong with the file


async def broken(file: Path) -> str:
    """What opening the file and looking into every table says."""
    with pytest.raises(StorageError) as told:
        database = await Database.open(file)
        try:
            await write(database, "x", "1")
            await Store(database, lambda event: None).tasks()
        finally:
            await database.close()
    return str(told.value)


async def test_a_file_that_is_no_database_is_named_and_left_alone(file: Path) -> None:
    file.write_bytes(b"notes about something else\n" * 400)

    assert "is damaged; your worktrees and conversations are not affected" in await broken(file)
    assert file.read_bytes().startswith(b"notes about")


async def test_a_database_with_torn_pages_is_named(database: Database, file: Path) -> None:
    await database.close()
    shutil.copy(V1, file)
    content = bytearray(file.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    file.write_bytes(content)
    told = await broken(file)

    assert str(file) in told
    assert "Move it away" in told


async def test_a_database_that_lost_its_end_is_named(file: Path) -> None:
    shutil.copy(V1, file)
    os.truncate(file, 8192)

    assert "is damaged" in await broken(file)


async def test_a_database_of_a_newer_claudedo_is_not_touched(file: Path) -> None:
    with sqlite3.connect(file) as plain:
        plain.execute("PRAGMA user_version=99")
    plain.close()

    assert "newer claudedo (version 99" in await broken(file)


async def test_a_folder_where_the_database_should_be_is_named(file: Path) -> None:
    file.mkdir()

    assert str(file) in await broken(file)


async def test_a_home_that_is_gone_is_named(tmp_path: Path) -> None:
    assert "cannot be used" in await broken(tmp_path / "gone" / "claudedo.db")


async def test_the_check_tells_what_sqlite_thinks_of_the_file(database: Database) -> None:
    assert await database.check() == "ok"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
async def test_the_files_are_ours_alone_under_any_umask(file: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        database = await Database.open(file)
        await write(database, "x", "1")
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
        await database.close()
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(["claudedo.db", "claudedo.db-wal", "claudedo.db-shm"], 0o600)


# Versions


async def test_a_migration_that_fails_leaves_the_version_before_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = module._migrations()
    bad = "CREATE TABLE half (x TEXT); INSERT INTO nowhere VALUES (1);"
    monkeypatch.setattr(module, "_migrations", lambda: [*good, bad])
    with pytest.raises((ClaudedoError, sqlite3.Error), match="nowhere"):
        await Database.open(file)
    monkeypatch.undo()

    database = await Database.open(file)
    with sqlite3.connect(file) as plain:
        tables = [row[0] for row in plain.execute("SELECT name FROM sqlite_schema")]
        version = plain.execute("PRAGMA user_version").fetchone()[0]
    plain.close()
    await database.close()

    assert "half" not in tables
    assert version == len(good)


async def test_data_of_the_first_version_is_there_after_every_migration(file: Path) -> None:
    """`v1.sqlite3` was written by the store of version 0.1.0, the first with this file."""
    shutil.copy(V1, file)
    database = await Database.open(file)
    store = Store(database, lambda event: None)
    [workspace] = await store.workspaces()
    backend, frontend = await store.tasks()
    session = await store.latest_session(backend.id)
    first, second, reply = await store.thread(backend.id)
    events = await store.events_after(0)
    assert session is not None

    assert (workspace.name, backend.name, frontend.name) == ("shop", "backend", "frontend")
    assert backend.launch.claude_args == ("--verbose",)
    assert [peer.name for peer in await store.peers(backend.id)] == ["frontend"]
    assert (session.state, session.cli_version) == ("stopped", "2.1.330")
    assert (first.body, first.via, first.priority) == ("Grüße 👋\nline two", "hook", "high")
    assert None not in (first.receipts.delivered_at, first.receipts.read_at)
    assert first.receipts.answered_at is not None
    assert second.receipts.offered_at is None
    assert (reply.reply_to, reply.sender_name) == (first.id, "backend")
    assert [m.id for m in await store.deliverable(backend.id)] == [second.id]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert await store.note("worker_id") == "0badcafe"
    with sqlite3.connect(file) as plain:
        assert plain.execute("PRAGMA user_version").fetchone()[0] == len(module._migrations())
    plain.close()
    await database.close()


async def test_what_was_said_before_threads_came_goes_on_in_them(file: Path) -> None:
    """`v3.sqlite3` was written by the last store without threads, tokens and files."""
    shutil.copy(V3, file)
    database = await Database.open(file)
    store = Store(database, lambda event: None)
    backend, frontend = await store.tasks()
    session = session_of(backend)
    read, delivered, waits, peers = await store.thread(backend.id)
    [ask] = await store.open_asks()
    service = services.threads(store, file.parent)

    assert (backend.creator, backend.title, backend.holder) == (USER, None, None)
    assert (ask.kind, ask.input) == ("permission", {"command": "make"})
    assert [peer.name for peer in await store.peers(backend.id)] == ["frontend"]
    assert [one.id for one in await store.deliverable(backend.id)] == [waits.id, peers.id]
    seen = (await service.messages(session, backend, None, None)).messages
    assert [one.body for one in seen] == ["read", "delivered"]

    await service.say(session, backend, "Done.")
    receipts = [(await store.message(one.id)).receipts for one in (read, delivered, peers)]
    assert [one.answered_at is not None for one in receipts] == [True, False, False]
    assert await service.claim(session) is None, "no task of before is to be claimed"
    [move] = await _moved(store, service, frontend)
    assert (move.before, move.after, move.party) == ("ongoing", "completed", USER)
    await service.forget(backend)
    assert [task.id for task in await store.tasks()] == [frontend.id]
    await database.close()


async def _moved(store: Store, service: Threads, task: Task) -> list[Move]:
    await service.move(PERSON, task, TaskStatus.COMPLETED)
    return await store.moves(task.id)
