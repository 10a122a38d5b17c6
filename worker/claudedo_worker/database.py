"""One SQLite file: opening, migrating, transactions, named statements.

Knows SQL and nothing of what the rows mean; `store` gives them meaning. One writer connection,
one transaction at a time, `synchronous=FULL`: what was committed survives a power cut. Reads
outside a transaction have a connection of their own, so they never see what is not committed.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from claudedo.errors import ConflictError, StorageError, UsageError

_SQL = importlib.resources.files("claudedo_worker") / "sql"
_HEADER = re.compile(r"^-- (\w+): ", re.MULTILINE)

Row = sqlite3.Row


def _statements() -> dict[str, str]:
    text = (_SQL / "queries.sql").read_text()
    parts = _HEADER.split(text)[1:]
    return {
        name: body.split("\n", 1)[1] for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _migrations() -> list[str]:
    """The numbered files, in order; number N leads from version N-1 to N."""
    names = sorted(item.name for item in _SQL.iterdir() if re.fullmatch(r"\d{3}\.sql", item.name))
    return [(_SQL / name).read_text() for name in names]


class Database:
    """The state of one claudedo home: one connection that writes, one that reads.

    Every method raises `StorageError` when the file cannot be used (full disk, damage),
    `ConflictError` when a constraint forbids a row, `UsageError` for a value that no database
    can hold (unpaired surrogates, integers beyond 64 bits).
    """

    def __init__(
        self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._statements = _statements()
        self._writing = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None  # who is in a transaction

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the file and bring it to the present version.

        Raises `StorageError` if it is damaged, not readable, or of a newer claudedo.
        """
        async with AsyncExitStack() as stack:
            _make_private(path)
            with _explained(path):
                writer = await _connect(path)
                stack.push_async_callback(writer.close)
                await _migrate(writer, path)
                reader = await _connect(path)
                stack.push_async_callback(reader.close)
                await reader.execute("PRAGMA query_only=ON")
            stack.pop_all()
        return cls(path, writer, reader)

    async def close(self) -> None:
        """Finish what runs, then close the file."""
        async with self._writing:
            await self._reader.close()
            await self._writer.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """One write at a time: commits at the end, rolls back on any exception.

        What this coroutine reads inside is what it wrote; others see it after the commit. Inside
        another transaction of the same coroutine it is a part of that one.
        """
        if self.inside:
            yield
            return
        async with self._writing:
            self._owner = asyncio.current_task()
            try:
                with _explained(self._path):
                    await self._writer.execute("BEGIN IMMEDIATE")
                    yield
                    await self._writer.execute("COMMIT")
            except BaseException:
                # Queued behind a statement whose caller was cancelled while it ran, so that it
                # ends that statement's transaction too; does nothing after a commit.
                await asyncio.shield(self._writer.rollback())
                raise
            finally:
                self._owner = None

    @property
    def inside(self) -> bool:
        """True for the coroutine that is in a transaction."""
        return self._owner is not None and self._owner is asyncio.current_task()

    async def all(self, name: str, /, **values: Any) -> Sequence[Row]:
        """Run the statement `name`; return all its rows."""
        connection = self._writer if self.inside else self._reader
        with _explained(self._path):
            rows = await connection.execute_fetchall(self._statements[name], values)
        return list(rows)

    async def one(self, name: str, /, **values: Any) -> Row | None:
        """Run the statement `name`; return its first row, if any."""
        rows = await self.all(name, **values)
        return rows[0] if rows else None

    async def run(self, name: str, /, values: Mapping[str, Any]) -> int:
        """Run the statement `name`, in a transaction; return the number of rows it changed."""
        async with self._writer.execute(self._statements[name], values) as cursor:
            return cursor.rowcount

    async def check(self) -> str:
        """SQLite's own verdict on the file: "ok", or what is wrong."""
        try:
            rows = await self._reader.execute_fetchall("PRAGMA quick_check(1)")
        except sqlite3.DatabaseError as error:
            return str(error)
        return "; ".join(str(row[0]) for row in rows)


def _make_private(path: Path) -> None:
    """Create the file for us alone, whatever the umask; SQLite's side files get the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be used: {error.strerror}. Make its folder writable, or set "
            "CLAUDEDO_HOME to another one."
        ) from error


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in (
            "busy_timeout=5000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            await connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    migrations = _migrations()
    rows = list(await connection.execute_fetchall("PRAGMA user_version"))
    version = int(rows[0][0])
    if version > len(migrations):
        raise StorageError(
            f"{path} was written by a newer claudedo (version {version}, this one knows "
            f"{len(migrations)}). Upgrade claudedo, or set CLAUDEDO_HOME to another folder."
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        await connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say about the file into a sentence for its owner."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConflictError(
            f"Something else changed this meanwhile; try again ({error})."
        ) from error
    except sqlite3.DatabaseError as error:
        # The low byte is the primary code; a statement of ours that is wrong has code 1.
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code not in _ADVICE:
            raise
        raise StorageError(f"{path}: {error}. {_ADVICE[code]}") from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise UsageError(f"This cannot be stored: {error}.") from error


_DAMAGED = (
    "The file is damaged; your worktrees and conversations are not affected. Move it away (with "
    "its -wal and -shm files) to begin with an empty one, or restore a copy."
)
_ADVICE = {
    sqlite3.SQLITE_FULL: "The disk is full; nothing was stored. Free some space and try again.",
    sqlite3.SQLITE_IOERR: (
        "The disk took nothing: it may be full, over its quota, or failing. Nothing was stored; "
        "try again when it has recovered."
    ),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_BUSY: "Another program holds the file; close that, then try again.",
    sqlite3.SQLITE_LOCKED: "Another program holds the file; close that, then try again.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, then try again.",
    sqlite3.SQLITE_PERM: "Make the file and its folder writable, then try again.",
    sqlite3.SQLITE_CANTOPEN: "Make the file and its folder writable, then try again.",
}
