"""One SQLite file: opening, migrating, transactions, named statements.

Knows SQL and nothing of what the rows mean; `store` gives them meaning. One writer connection,
one transaction at a time, `synchronous=FULL`: what was committed survives a power cut.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from claudedo.errors import ClaudedoError, ConflictError

_SQL = importlib.resources.files("claudedo_worker") / "sql"
_HEADER = re.compile(r"^-- (\w+): ", re.MULTILINE)

Row = sqlite3.Row


class DatabaseError(ClaudedoError):
    """The database cannot be used. The message names the file and what to do."""

    code = "database"


def _statements() -> dict[str, str]:
    text = (_SQL / "queries.sql").read_text()
    parts = _HEADER.split(text)[1:]
    return {name: body.split("\n", 1)[1] for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _migrations() -> list[str]:
    """The numbered files, in order; number N leads from version N-1 to N."""
    names = sorted(item.name for item in _SQL.iterdir() if re.fullmatch(r"\d{3}\.sql", item.name))
    return [(_SQL / name).read_text() for name in names]


class Database:
    """A connection to the state of one claudedo home."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._statements = _statements()
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create the file and bring it to the present version.

        Raises `DatabaseError` if it is corrupt, unreadable, or of a newer claudedo.
        """
        try:
            connection = await aiosqlite.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise DatabaseError(f"{path} cannot be opened: {error}") from error
        connection.row_factory = sqlite3.Row
        try:
            await _prepare(connection, path)
        except sqlite3.Error as error:
            await connection.close()
            raise DatabaseError(_advice(path, error)) from error
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    async def close(self) -> None:
        """Finish what runs, then close the file."""
        async with self._writing:
            await self._connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """One write at a time: commits at the end, rolls back on any exception.

        Raises `ConflictError` when the disk is full: nothing was stored then.
        """
        async with self._writing:
            try:
                await self._connection.execute("BEGIN IMMEDIATE")
                yield
                await self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    await self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    message = "The disk is full; nothing was stored. Free some space and try again."
                    raise ConflictError(message) from error
                raise

    async def all(self, name: str, **values: Any) -> Sequence[Row]:
        """Run the statement `name`; return all its rows."""
        async with self._connection.execute(self._statements[name], values) as cursor:
            return list(await cursor.fetchall())

    async def one(self, name: str, **values: Any) -> Row | None:
        """Run the statement `name`; return its first row, if any."""
        async with self._connection.execute(self._statements[name], values) as cursor:
            return await cursor.fetchone()

    async def run(self, name: str, values: Mapping[str, Any]) -> int:
        """Run the statement `name`; return the number of rows it changed."""
        async with self._connection.execute(self._statements[name], values) as cursor:
            return cursor.rowcount

    async def check(self) -> str:
        """SQLite's own verdict on the file: "ok", or what is wrong."""
        async with self._connection.execute("PRAGMA quick_check(1)") as cursor:
            row = await cursor.fetchone()
        return str(row[0]) if row else "no answer"


async def _prepare(connection: aiosqlite.Connection, path: Path) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        await connection.execute(f"PRAGMA {pragma}")
    path.chmod(0o600)
    await _migrate(connection, path)


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    migrations = _migrations()
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    version = int(row[0]) if row else 0
    if version > len(migrations):
        raise DatabaseError(
            f"{path} was written by a newer claudedo (version {version}, this one knows "
            f"{len(migrations)}). Upgrade claudedo, or set CLAUDEDO_HOME to another folder."
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        await connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
        )


def _advice(path: Path, error: sqlite3.Error) -> str:
    if "malformed" in str(error) or "not a database" in str(error):
        return (
            f"{path} is damaged ({error}). Your worktrees and conversations are not affected. "
            f"Move it away (with its -wal and -shm files) to begin with an empty one, or restore a copy."
        )
    return f"{path} cannot be used: {error}"
