"""The worker's connection to one holder: its orders, their answers, and the end of the child.

The frames are those of ``docs/holder-protocol.md``. What a holder is asked depends on what it
holds: `terminal` speaks to one that has a terminal, `pipes` to one that has a one-shot run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from claudedo.holding import (
    UNANSWERED,
    Exit,
    FrameReader,
    HolderError,
    HolderGoneError,
    HolderRefusedError,
    Kind,
    Status,
    decode_error,
    decode_exit,
    decode_status,
    encode,
    encode_json,
)

READ_SIZE = 64 << 10
ANSWER_PATIENCE = 10.0  # seconds for a holder to say what it is


class LaunchError(HolderError):
    """The holder could not start the command; the text says why."""


class _Asked(NamedTuple):
    """An order that waits for its answer; `arrived` is called before anybody hears of it."""

    answer: Kind
    future: asyncio.Future[bytes]
    arrived: Callable[[bytes], None] | None


class HolderLink:
    """An asyncio connection to one holder.

    Make one with `launch` or `connect` and `close` it; closing ends nothing but the connection.
    Every method raises HolderGoneError once the connection is gone, and HolderRefusedError
    when the holder declines.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._asked: deque[_Asked] = deque()
        self._settled = asyncio.Event()  # the child has ended, or the connection is lost
        self._lost: Exception | None = None
        self._exited: Exit | None = None
        self._hello: Status | None = None
        self._listener: asyncio.Task[None] | None = None

    # -- making one

    @classmethod
    async def launch(
        cls, python: Path | str, holder_path: Path | str, spec: Mapping[str, Any]
    ) -> Self:
        """Start a holder with the specification of docs/holder-protocol.md and connect to it.

        Raises LaunchError with the holder's own sentence when the command cannot be run.
        """
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-I",
            "-S",
            str(holder_path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaint = await process.communicate(json.dumps(spec).encode())
        if not output:
            reason = complaint.decode(errors="replace").strip() or f"exit {process.returncode}"
            sentence = f"the holder did not start: {reason}"
            raise LaunchError(sentence)
        answer = json.loads(output)
        if "error" in answer:
            raise LaunchError(answer["error"])
        return await cls.connect(spec["socket"])

    @classmethod
    async def connect(cls, socket_path: Path | str) -> Self:
        """Connect to a living holder.

        Raises HolderGoneError if there is none, HolderError if it may live but cannot be reached,
        does not answer in time, speaks another protocol or holds something else.
        """
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                reader, writer = await asyncio.open_unix_connection(str(socket_path))
                link = cls(reader, writer)
                try:
                    await link._greet()
                except BaseException:
                    writer.close()
                    raise
        except (ConnectionError, FileNotFoundError) as error:
            sentence = f"no holder answers on {socket_path}: {error}"
            raise HolderGoneError(sentence) from error
        except TimeoutError as error:
            sentence = f"the holder on {socket_path} did not answer in {ANSWER_PATIENCE:.0f} s"
            raise HolderError(sentence) from error
        except OSError as error:
            sentence = f"the holder on {socket_path} cannot be reached: {error}"
            raise HolderError(sentence) from error
        return link

    async def _greet(self) -> None:
        early: list[tuple[Kind, bytes]] = []
        while not early:
            data = await self._reader.read(READ_SIZE)
            if not data:
                raise HolderGoneError
            early += self._frames.feed(data)
        for kind, payload in early:
            if self._hello is None:
                if kind is not Kind.HELLO:
                    sentence = f"the holder began with {kind.name}"
                    raise HolderError(sentence)
                self._greeted(payload)
                self._check(self.hello)
            else:
                await self._take(kind, payload)
        self._listener = asyncio.create_task(self._listen())

    def _greeted(self, payload: bytes) -> None:
        self._hello = decode_status(payload)
        self._exited = self._hello.exited
        if self._exited is None:
            self._settled.clear()
        else:
            self._settled.set()

    def _check(self, hello: Status) -> None:
        """Raise HolderError if this holder is not one for us."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up the connection. The child goes on."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
        self._lose(HolderGoneError("the connection was closed here"))
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    # -- what is known without asking

    @property
    def hello(self) -> Status:
        """The holder's status at connection, or at the last respawn through this connection."""
        assert self._hello is not None
        return self._hello

    @property
    def exited(self) -> Exit | None:
        """How the child ended; None while it lives."""
        return self._exited

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost is not None

    # -- orders

    async def signal(self, name: str) -> None:
        """Signal the child, by name without SIG ("TERM")."""
        await self._order(encode_json(Kind.SIGNAL, signal=name), Kind.STATUS)

    async def status(self) -> Status:
        """The present status."""
        return decode_status(await self._order(encode(Kind.STATUS), Kind.STATUS))

    async def respawn(
        self, argv: Sequence[str], cwd: Path | str, env: Mapping[str, str | None]
    ) -> Status:
        """Run a command after the child has ended, in the same environment and holder.

        ``env`` holds changes for this command only; None removes a variable. Returns the new
        status.
        """
        order = encode_json(Kind.RESPAWN, argv=list(argv), cwd=str(cwd), env=dict(env))
        await self._order(order, Kind.HELLO, self._greeted)
        return self.hello

    async def leave(self) -> None:
        """Have the holder of an ended child go; the connection is over afterwards."""
        await self._order(encode(Kind.LEAVE), Kind.LEAVE)

    async def wait_exit(self) -> Exit:
        """Wait until the child has ended and all its output was taken in by the holder."""
        await self._settled.wait()
        if self._exited is None:
            raise self._lost or HolderGoneError()
        return self._exited

    # -- frames

    async def _send(self, frames: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        self._writer.write(frames)
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise HolderGoneError from error

    async def _order(
        self, order: bytes, answer: Kind, arrived: Callable[[bytes], None] | None = None
    ) -> bytes:
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        # With the write below: nothing can come between.
        self._asked.append(_Asked(answer, future, arrived))
        self._writer.write(order)
        return await future

    async def _listen(self) -> None:
        loss: Exception = HolderGoneError()
        try:
            while data := await self._reader.read(READ_SIZE):
                for kind, payload in self._frames.feed(data):
                    await self._take(kind, payload)
        except ConnectionError as error:
            loss.__cause__ = error
        except (HolderError, ValueError, KeyError) as error:
            loss = HolderError(f"the holder does not make sense: {error}")
        self._lose(loss)
        self._writer.close()
        await self._over()

    async def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.EXITED:
            self._exited = decode_exit(payload)
            self._settled.set()
            await self._over()
        elif kind is Kind.ERROR:
            self._refuse(decode_error(payload))
        else:
            self._answer(kind, payload)

    async def _over(self) -> None:
        """No more comes of the child: it has ended, or the connection is lost."""

    def _refuse(self, refusal: HolderRefusedError) -> None:
        if refusal.order in UNANSWERED:
            self._not_taken(refusal)
            return
        asked = self._oldest(Kind.ERROR)
        if not asked.future.done():
            asked.future.set_exception(refusal)

    def _not_taken(self, refusal: HolderRefusedError) -> None:
        """A frame that nobody waits for was refused."""
        raise HolderError(f"it refused what it always takes: {refusal}")

    def _answer(self, kind: Kind, payload: bytes) -> None:
        """Hand an answer to the oldest order: the holder answers in order."""
        asked = self._oldest(kind)
        if kind is not asked.answer:
            sentence = f"{kind.name} instead of {asked.answer.name}"
            raise HolderError(sentence)
        if asked.arrived:
            asked.arrived(payload)
        if not asked.future.done():  # else who asked was cancelled meanwhile
            asked.future.set_result(payload)

    def _oldest(self, kind: Kind) -> _Asked:
        if not self._asked:
            sentence = f"an unasked {kind.name}"
            raise HolderError(sentence)
        return self._asked.popleft()

    def _lose(self, loss: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = loss
        for asked in self._asked:
            if asked.future.done():
                continue
            if asked.answer is Kind.LEAVE:
                asked.future.set_result(b"")
            else:
                asked.future.set_exception(loss)
        self._asked.clear()
        self._settled.set()
