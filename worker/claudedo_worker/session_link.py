"""The sessions' side of the worker: bridges, hooks and waiters on one unix socket.

Speaks the JSON lines of docs/architecture.md. Checks each peer's credential, then carries its
words to the session they belong to; decides nothing about delivery.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from claudedo import protocol
from claudedo.errors import ClaudedoError, UnauthorizedError
from claudedo_worker import mcp_server

log = logging.getLogger(__name__)

LINE_LIMIT = 16 * 1024 * 1024
HELD_EVENTS = frozenset({"PermissionRequest"})  # answered by a person (22.4)
PING_PATIENCE = 10.0
HELLO_PATIENCE = 10.0
_PING = "claudedo-ping-"


class LinkedSession(Protocol):
    """What a session offers to the processes that belong to it."""

    def bridge_came(self, bridge: Bridge) -> None:
        """A bridge is connected; an earlier one, if any, is replaced."""
        ...

    def bridge_left(self, bridge: Bridge) -> None:
        """That bridge is gone."""
        ...

    def waiter_came(self, waiter: Waiter) -> bool:
        """Take this waiter; False if one waits already."""
        ...

    def waiter_left(self, waiter: Waiter) -> None:
        """That waiter is gone."""
        ...

    def tools_listed(self) -> None:
        """The client asked for the tools."""
        ...

    async def hook(self, event: str, call: dict[str, Any], key: str) -> dict[str, Any]:
        """Answer a hook of the session; `key` is the same when its bridge sends it once more."""
        ...

    async def hook_cancelled(self, key: str) -> None:
        """The client does not wait for that held hook any more."""
        ...

    async def hooks_held(self, keys: frozenset[str]) -> None:
        """The client waits for these held hooks, and for none besides that came before."""
        ...

    async def session_started(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The SessionStart hook ran."""
        ...

    @property
    def caller(self) -> mcp_server.Caller:
        """What the session's tools may do."""
        ...


Find = Callable[[str], LinkedSession | None]
CredentialOf = Callable[[str], Awaitable[str | None]]


def hashed(credential: str) -> str:
    """How a credential is kept: nobody who reads the database can use it."""
    return hashlib.sha256(credential.encode()).hexdigest()


class SessionServer:
    """Listens on `session.sock`."""

    def __init__(
        self, path: Path, find: Find, expected: Callable[[str], bool], credential_of: CredentialOf
    ) -> None:
        self._path = path
        self._find = find
        self._expected = expected
        self._credential_of = credential_of
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind the socket, replacing one that a dead worker left (the caller holds the lock)."""
        self._path.unlink(missing_ok=True)
        previous = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._accept, self._path, limit=LINE_LIMIT
            )
        finally:
            os.umask(previous)

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server:
            self._server.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        try:
            await self._serve(Line(reader, writer))
        except* (ConnectionError, TimeoutError, ValueError) as errors:
            # Its process left, or talks nonsense; it comes back by itself if it lives.
            log.info("a connection ended: %s", errors.exceptions, extra={"action": "hung_up"})
        except* asyncio.CancelledError:
            # The worker stops: the peer notices by the closed connection and waits for the next.
            log.debug("a connection ends with the worker", extra={"action": "closed"})
        finally:
            self._peers.discard(task)
            writer.close()

    async def _serve(self, line: Line) -> None:
        try:
            hello, session = await self._welcome(line)
        except ClaudedoError as error:
            await line.send({"error": {"code": error.code, "detail": str(error)}})
            return
        await line.send({"welcome": {"protocol": protocol.SESSION_PROTOCOL}})
        payload = hello.get("payload") or {}
        match hello["kind"]:
            case "bridge":
                await Bridge(line, str(hello.get("name"))).serve(session)
            case "hook":
                await line.send({"output": await session.session_started(payload)})
            case "waiter":
                await Waiter(line).serve(session)

    async def _welcome(self, line: Line) -> tuple[dict[str, Any], LinkedSession]:
        async with asyncio.timeout(HELLO_PATIENCE):
            first = await line.receive()
        hello = (first or {}).get("hello")
        if not isinstance(hello, dict) or hello.get("kind") not in ("bridge", "hook", "waiter"):
            raise UnauthorizedError("A hello with a kind must come first.")
        session_id, shown = str(hello.get("session")), str(hello.get("credential"))
        kept = await self._credential_of(session_id)
        if kept is None or not hmac.compare_digest(kept, hashed(shown)):
            raise UnauthorizedError("This session is not known to claudedo any more.")
        session = self._find(session_id)
        if session is None and self._expected(session_id):
            raise ConnectionResetError("the session is being taken up; the peer tries again")
        if session is None:
            raise UnauthorizedError("This session has ended; `claudedo restart` starts it again.")
        return hello, session


class Line:
    """JSON objects, one a line, over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()

    async def receive(self) -> dict[str, Any] | None:
        """The next object; None at the end. Raises `ValueError` for anything else."""
        data = await self._reader.readline()
        if not data:
            return None
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - malformed input, as json itself says
        return value

    async def send(self, value: dict[str, Any]) -> None:
        """Write one object. Raises `ConnectionError` when the peer is gone."""
        async with self._sending:
            self._writer.write(json.dumps(value).encode() + b"\n")
            await self._writer.drain()


class Bridge:
    """A connected bridge: MCP for the tools, hooks beside it, pushes the other way."""

    def __init__(self, line: Line, name: str) -> None:
        self.name = name
        self._line = line
        self._holding: set[asyncio.Task[None]] = set()
        self._pings: dict[str, asyncio.Future[None]] = {}
        self._numbers = itertools.count()

    async def push(self, content: str, meta: dict[str, str]) -> bool:
        """Send a channel notification; False if the bridge is gone."""
        params = {"content": content, "meta": meta}
        return await self._send_mcp({"method": "notifications/claude/channel", "params": params})

    async def ping(self) -> bool:
        """True once the client answered: it has handled everything sent before."""
        number = f"{_PING}{next(self._numbers)}"
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings[number] = answered
        try:
            if not await self._send_mcp({"id": number, "method": "ping"}):
                return False
            async with asyncio.timeout(PING_PATIENCE):
                await answered
        except TimeoutError:
            return False
        finally:
            self._pings.pop(number, None)
        return True

    async def serve(self, session: LinkedSession) -> None:
        """Carry messages until the bridge hangs up."""
        session.bridge_came(self)
        try:
            await self._run(session)
        finally:
            session.bridge_left(self)

    async def _run(self, session: LinkedSession) -> None:
        server = mcp_server.build(session.caller, session.tools_listed)
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](64)
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage](64)
        async with asyncio.TaskGroup() as group:
            group.create_task(
                server.run(from_client, to_client, server.create_initialization_options())
            )
            group.create_task(self._forward(from_server))
            async with to_server:
                try:
                    while (message := await self._line.receive()) is not None:
                        if mcp := message.get("mcp"):
                            await self._take_mcp(mcp, to_server)
                        else:
                            await self._take_hook(session, message, group)
                finally:
                    for task in self._holding:  # sent again to the next worker
                        task.cancel()

    async def _take_hook(
        self, session: LinkedSession, message: dict[str, Any], group: asyncio.TaskGroup
    ) -> None:
        hook = message.get("hook") or {}
        if hook.get("cancelled"):
            await session.hook_cancelled(self._key(hook.get("id")))
        elif hook:
            task = group.create_task(self._answer_hook(session, hook))
            if hook.get("event") in HELD_EVENTS:
                self._holding.add(task)
                task.add_done_callback(self._holding.discard)
        elif "held" in message:
            await session.hooks_held(frozenset(map(self._key, message["held"])))

    def _key(self, number: Any) -> str:
        return f"{self.name}:{number}"

    async def _take_mcp(self, mcp: dict[str, Any], to_server: Any) -> None:
        if str(mcp.get("id")).startswith(_PING):
            pong = self._pings.get(mcp["id"])
            if pong and not pong.done():
                pong.set_result(None)
            return
        try:
            message = types.jsonrpc_message_adapter.validate_python(mcp, by_name=False)
        except ValidationError as error:
            await to_server.send(error)
            return
        await to_server.send(SessionMessage(message))

    async def _forward(self, from_server: Any) -> None:
        async with from_server:
            async for sent in from_server:
                data = sent.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
                await self._line.send({"mcp": data})

    async def _answer_hook(self, session: LinkedSession, hook: dict[str, Any]) -> None:
        output: dict[str, Any] = {}
        try:
            event, call = str(hook.get("event")), hook.get("input") or {}
            output = await session.hook(event, call, self._key(hook.get("id")))
        except ClaudedoError:
            # A tool call must not wait or fail because of us; the message stays where it is.
            log.exception("a hook could not be answered", extra={"action": "hook_failed"})
        await self._line.send({"hook": {"id": hook.get("id"), "output": output}})

    async def _send_mcp(self, message: dict[str, Any]) -> bool:
        try:
            await self._line.send({"mcp": {"jsonrpc": "2.0", **message}})
        except ConnectionError:
            return False
        return True


class Waiter:
    """The idle process whose exit wakes its session."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._spent = False

    async def wake(self, text: str) -> bool:
        """End the waiter with this text; False if it is gone or was woken before."""
        if self._spent:
            return False
        self._spent = True
        try:
            await self._line.send({"wake": text})
        except ConnectionError:
            return False
        return True

    async def serve(self, session: LinkedSession) -> None:
        """Keep the connection until the waiter ends."""
        if not session.waiter_came(self):
            # Every Stop starts another one; only one may wait (15.1).
            await self._line.send({"leave": True})
            return
        try:
            while await self._line.receive() is not None:
                pass
        finally:
            session.waiter_left(self)
