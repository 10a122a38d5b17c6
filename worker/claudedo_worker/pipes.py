"""The worker's side of a one-shot run: a command whose input is a pipe of its holder's.

What the command writes goes to its files and is not seen here; whoever wants it reads them. What
the input means is not known here either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from claudedo.holding import HolderError, HolderRefusedError, Kind, Status, encode
from claudedo_worker.holder_link import HolderLink

PIECE = 1 << 20  # bytes of input in one frame, which arrives whole or not at all


class PipedProcess(HolderLink):
    """A connection to a holder with a one-shot run; `HolderLink` says what holds for every method.

    `signal` and the other orders never wait for a command that does not read its input: what is
    written travels on a connection of its own.
    """

    _input: _Input

    @classmethod
    async def connect(cls, socket_path: Path | str) -> Self:
        """Connect to a living holder; raises as `HolderLink.connect` does."""
        given = await _Input.connect(socket_path)
        try:
            process = await super().connect(socket_path)
        except BaseException:
            await given.close()
            raise
        process._input = given
        return process

    async def close(self) -> None:
        """Give up the connection. The command goes on, and its input stays open."""
        await self._input.close()
        await super().close()

    async def write(self, data: bytes) -> None:
        """Give the command input, in order; returns once its holder has all of it.

        While the command leaves more than 1 MiB unread, this waits. Up to 1 MiB at a time arrives
        whole or not at all, whatever happens to the worker; a write that is cancelled still
        arrives whole, unless the connection is lost. Raises HolderRefusedError when the input was
        finished, or the command has closed it or ended: then nobody will read some of this.
        """
        await self._input.write(data)

    async def finish_input(self) -> None:
        """Let the command read to the end of what was written, and no further. Again is no error,
        nor is it after the command's end."""
        await self._input.finish()

    async def respawn(
        self, argv: Sequence[str], cwd: Path | str, env: Mapping[str, str | None]
    ) -> Status:
        """Run a command after the last one has ended, as `HolderLink.respawn` does.

        It appends to the same files. Nothing that was written before reaches it.
        """
        async with self._input.between_writes():
            return await super().respawn(argv, cwd, env)

    def _check(self, hello: Status) -> None:
        if hello.files is None:
            raise HolderError("the holder has a terminal, not a one-shot run")


class _Input(HolderLink):
    """The connection that input travels on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._turn = asyncio.Lock()
        self._refusal: HolderRefusedError | None = None

    async def write(self, data: bytes) -> None:
        # Never half of it: what is written next would be taken for the rest.
        writing = asyncio.create_task(self._write(data))
        writing.add_done_callback(_heed)
        await asyncio.shield(writing)

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            self._refusal = None
            for start in range(0, len(data), PIECE):
                await self._send(encode(Kind.WORKER_INPUT, data[start : start + PIECE]))
            await self.status()  # answered once all of it was taken or refused
            if self._refusal is not None:
                raise self._refusal

    async def finish(self) -> None:
        async with self._turn:
            await self._order(encode(Kind.FINISH_INPUT), Kind.STATUS)

    @contextlib.asynccontextmanager
    async def between_writes(self) -> AsyncIterator[None]:
        """Nothing written before is still on its way, a cancelled write included."""
        async with self._turn:
            await self.status()
            yield

    def _not_taken(self, refusal: HolderRefusedError) -> None:
        self._refusal = refusal


def _heed(writing: asyncio.Task[None]) -> None:
    """Have its failure noticed where nobody waits for it any more."""
    if not writing.cancelled():
        writing.exception()
