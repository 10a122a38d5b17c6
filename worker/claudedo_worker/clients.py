"""MCP clients that claudedo did not start: who is connected, and their mail.

A client is a party of its own ("token:<id>"). What it has to act on is pushed into its open stream,
or taken by `check_inbox`. No transcript tells what it saw, so the connection's next request
confirms what it was given before; what is not confirmed is given again, marked as possibly seen.
Knows nothing of HTTP; see `mcp_http`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from mcp.server.lowlevel import Server

from claudedo import protocol
from claudedo.errors import (
    AmbiguousError,
    ClaudedoError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
)
from claudedo.model import (
    USER,
    Connection,
    Event,
    Lent,
    Message,
    Priority,
    SessionState,
    Task,
    Token,
    now,
)
from claudedo_worker import mcp_server
from claudedo_worker.inbox import batch
from claudedo_worker.mcp_sse import EventStream
from claudedo_worker.store import Store
from claudedo_worker.task_tools import TaskTools
from claudedo_worker.threads import Party, Threads, lease_end
from claudedo_worker.tokens import Tokens

log = logging.getLogger(__name__)

CONNECTIONS = 32
"""So many MCP sessions of one token are remembered; those not heard of for longest make room."""

SETTLED = 0.5
"""Seconds after `tools/list` from which on a push is not lost (docs/claude-cli.md 17.2)."""

UNSETTLED = 3.0
"""The same, from the handshake on, for a client that does not ask for the tools."""

LOST = 10.0
"""Seconds that a client whose stream ended has to open it again and keep what it was lent."""

SILENT = 600.0
"""Seconds without a request after which the same holds for a client that never had a stream."""

RETRY = 4.0
"""Seconds between the two times that Claude Code tries to open a lost stream (4.18)."""

DEAF = 3 * RETRY
"""So long without its stream it does not try any more."""

STREAMING = "claude-code"
"""The program that always opens a stream (4.12). Deaf, it hears again after a new handshake."""

ANEW = 5.0
"""Seconds in which a program that is told that its session is over begins another one, or two."""

SWEEP, LOOK = 5.0, 20.0
SIGN_OF_LIFE = 60.0  # seconds between two renewals of the claims of a connected client

SEEN = "[possibly seen before: act on it once]"
CHANNEL = "notifications/claude/channel"


def party_of(token: Token) -> Party:
    """Who a token speaks for."""
    return Party(id=f"token:{token.id}", name=token.name, workspace_id=token.workspace_id)


def program_of(connection_id: str) -> str:
    """What the MCP sessions of one program have in common."""
    return connection_id.rpartition("_")[0]


class Client:
    """One MCP session of one program. A worker that finds it in the store takes it up as it was."""

    def __init__(
        self, clients: Clients, connection: Connection, token: Token, shown: str, *, known: bool
    ) -> None:
        """`shown` is the digest of the token's text; `known`: it shook hands with a worker."""
        self.connection = connection
        self.party = party_of(token)
        self.token = token
        self.shown = shown
        self.stream: EventStream | None = None
        self.news = asyncio.Event()
        self.answered: set[str] = set()  # what calls of `check_inbox` have returned
        self.written: set[str] = set()  # what was pushed into the stream that it has now
        self.heard_at = time.monotonic()
        self.left_at: float | None = None  # when its last stream ended
        self.alive_at = 0.0  # when its claims were renewed
        self.known = known
        self.pushes_from = self.heard_at if known else float("inf")
        self.caller = TokenCaller(clients, self)
        self.server: Server[Any] = mcp_server.build(self.caller, self.listed)

    @property
    def program(self) -> str:
        """The same for all MCP sessions that are known to be one program's."""
        return program_of(self.connection.id)

    def listed(self) -> None:
        """It asked for the tools."""
        self.settle(SETTLED)

    def greeted(self) -> None:
        """It begins its handshake: a push would be lost until that is over."""
        self.pushes_from = float("inf")

    def settle(self, seconds: float) -> None:
        """Pushes are safe from then on, at the latest."""
        self.pushes_from = min(self.pushes_from, time.monotonic() + seconds)
        self.news.set()

    @property
    def ended_at(self) -> float:
        """When it is given up, unless it is heard of before."""
        if self.stream is not None:
            return float("inf")
        if self.left_at is None:
            return self.heard_at + SILENT
        return max(self.left_at, self.heard_at) + LOST


class Clients:
    """All clients of one worker."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        threads: Threads,
        tools_for: Callable[[Party], TaskTools],
    ) -> None:
        self.store = store
        self.threads = threads
        self.tools_for = tools_for
        self._tokens = tokens
        self._clients: dict[str, Client] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._began = time.monotonic()
        self._told: dict[tuple[str, str], tuple[str, float]] = {}
        self.sweeps: list[Callable[[], Awaitable[None]]] = []
        """What else is to be tidied when clients may be gone; called every few seconds."""

    # Life

    def start(self) -> None:
        """Begin to give back what clients that are gone were lent."""
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """End every stream; the sessions go on at the next worker."""
        for task in [*self._checks, *([self._sweeper] if self._sweeper else [])]:
            task.cancel()
            await asyncio.wait([task])
        for client in self._clients.values():
            if client.stream:
                client.stream.cut()

    def notice(self, event: Event) -> None:
        """Something was stored: it may be mail of a client, or the end of a token."""
        if event.type in ("message.queued", "task.updated"):
            for client in self._clients.values():
                if client.token.workspace_id == event.workspace_id:
                    client.news.set()
        elif event.type in ("token.updated", "workspace.removed"):
            check = asyncio.create_task(self._check_tokens(event.workspace_id))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check_tokens(self, workspace_id: str) -> None:
        for client in list(self._clients.values()):
            if client.stream and client.token.workspace_id == workspace_id:
                try:
                    await self._check_token(client)
                except ClaudedoError:
                    # Better cut than left open: who may come back will be let in again.
                    log.exception("a token cannot be checked", extra={"action": "check_failed"})
                    client.stream.cut()

    async def check(self, shown: str) -> None:
        """Raise `UnauthorizedError` if the text with this digest opens nothing any more."""
        if not await self._tokens.still_opens(shown):
            raise UnauthorizedError("This token ended while the request was on its way.")

    async def _check_token(self, client: Client) -> bool:
        """False, and the stream is cut, if what the client showed opens nothing any more."""
        if await self._tokens.still_opens(client.shown):
            return True
        if client.stream:
            client.stream.cut()
        return False

    # Connections

    async def open(self, token: Token, shown: str, name: str) -> Client:
        """A new MCP session for a program that calls itself `name`."""
        name = name[:200]
        program, told_at = self._told.get((token.id, name), ("", 0.0))
        if not program or time.monotonic() - told_at > ANEW:
            program = f"c_{secrets.token_hex(8)}"
        connection = Connection(
            id=f"{program}_{secrets.token_hex(16)}",
            token_id=token.id,
            client=name,
            created_at=now(),
        )
        for old in await self.store.add_connection(connection, token, self._too_many):
            self._forget(old)
        client = Client(self, connection, token, shown, known=False)
        self._clients[connection.id] = client
        return client

    def _too_many(self, connection_ids: Sequence[str]) -> Sequence[str]:
        """Which MCP sessions of a token, given newest first, make room for another one."""
        return sorted(connection_ids, key=self._life, reverse=True)[CONNECTIONS - 1 :]

    def _life(self, connection_id: str) -> tuple[bool, float]:
        """How likely it is that a program still uses its MCP session: the more, the greater."""
        client = self._clients.get(connection_id)
        return (client.stream is not None, client.heard_at) if client else (False, 0.0)

    async def find(self, token: Token, shown: str, connection_id: str) -> Client:
        """The client of an MCP session. Raises `NotFoundError` if it is none of this token's."""
        client = self._clients.get(connection_id)
        if client is None:
            connection = await self.store.connection(connection_id)
            if connection is not None:
                client = self._clients.setdefault(
                    connection_id, Client(self, connection, token, shown, known=True)
                )
        if client is None or client.connection.token_id != token.id:
            raise NotFoundError("There is no such MCP session; initialize again.")
        client.token, client.shown = token, shown
        client.heard_at = time.monotonic()
        return client

    async def find_to_ask(self, token: Token, shown: str, connection_id: str) -> Client:
        """The same, for a request.

        A Claude Code that lost its stream, and would hear of nothing any more, is told that its
        session is over: that makes it shake hands again.
        """
        client = await self.find(token, shown, connection_id)
        lost = max(client.left_at or 0.0, self._began)
        settled = client.known or client.left_at is not None
        deaf = client.stream is None and settled and time.monotonic() - lost > DEAF
        if deaf and client.connection.client.startswith(STREAMING):
            self._told[token.id, client.connection.client] = client.program, time.monotonic()
            await self.end(client)
            raise NotFoundError("This MCP session has lost its stream; initialize again.")
        return client

    async def end(self, client: Client) -> None:
        """The client is done; what it did not confirm may be given to another."""
        await self.store.remove_connection(client.connection.id)
        self._forget(client.connection.id)

    async def gone(self, connection_id: str) -> bool:
        """True if a client was not heard of for so long that it is taken for ended."""
        if client := self._clients.get(connection_id):
            return time.monotonic() >= client.ended_at
        if time.monotonic() >= self._began + LOST:
            return True
        return await self.store.connection(connection_id) is None

    def streams_of(self, connection_id: str) -> list[EventStream]:
        """The open streams of a client's program."""
        if (client := self._clients.get(connection_id)) is None:
            return []
        every = [client, *self._others_of(client)]
        return [one.stream for one in every if one.stream]

    def _forget(self, connection_id: str) -> None:
        client = self._clients.pop(connection_id, None)
        if client is None:
            return
        if client.stream:
            client.stream.cut()
        for other in self._clients.values():  # what is given back is theirs
            if other.token.id == client.token.id:
                other.news.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                for connection_id in await self.store.lenders():
                    if await self.gone(connection_id):
                        await self.store.give_back(connection_id)
                        self._forget(connection_id)
                for sweep in self.sweeps:
                    await sweep()
            except ClaudedoError:
                # The database may recover; what is lent stays lent until then.
                log.exception("nothing can be given back", extra={"action": "sweep_failed"})

    # What a client has and had

    async def heard(self, client: Client, tool: str | None) -> None:
        """A request of this client came, which calls `tool` if any: it confirms what it was given.

        Who looks into the inbox confirms what an earlier look gave, but no push: a program that
        drops pushes gets them so. Nor does anything confirm a push into a stream that is over, or
        by a worker that is gone: who knows whether it was read.
        """
        await self._keep_claims(client)
        for one in [client, *self._others_of(client)]:
            await self._confirm(one, tool)

    async def _confirm(self, client: Client, tool: str | None) -> None:
        lent = await self.store.lends(client.connection.id)
        had = {message for message, pushed in lent.items() if not pushed} & client.answered
        if tool not in ("check_inbox", "inbox_status"):
            had |= {message for message, pushed in lent.items() if pushed} & client.written
        if had:
            await self.store.confirm_lends(client.connection.id, had)
            client.answered -= had
            client.written -= had

    async def _keep_claims(self, client: Client) -> None:
        if time.monotonic() - client.alive_at >= SIGN_OF_LIFE:
            client.alive_at = time.monotonic()
            await self.store.extend_claims(client.party.id, lease_end())

    async def take(self, client: Client, limit: int | None) -> tuple[list[Lent], int]:
        """Lend waiting mail to one call of `check_inbox`; returns it and how much more waits."""

        def choose(mail: Sequence[Lent]) -> Sequence[Lent]:
            first = batch([one.message for one in mail], limit)
            return mail[: len(first)]

        lent = await self.store.lend_inbox(client.connection, choose)
        client.answered |= {one.message.id for one in lent}
        waiting = await self.store.mail_of(client.party.id)
        return lent, len(waiting) - len(lent)

    # The stream

    async def serve(self, client: Client, stream: EventStream, endpoint: str | None = None) -> None:
        """Push into a stream as long as it is open. `endpoint`: the session lives only so long."""
        if client.stream:
            client.stream.cut()  # the client came back before the old one was found dead
        client.stream, client.written = stream, set()
        # Whatever is done meanwhile, and however long a write may take.
        ending = asyncio.get_running_loop().call_later(max(_left(client.token), 0), stream.cut)
        try:
            await self.store.give_back(client.connection.id, keep=client.answered)
            if endpoint is None:
                await self._serve(client, stream)
            elif await stream.write("endpoint", endpoint):
                # A program that lost its stream comes back without another handshake (4.18).
                client.settle(UNSETTLED)
                await self._serve(client, stream)
        finally:
            ending.cancel()
            if client.stream is stream:
                client.stream, client.written = None, set()
                client.left_at = time.monotonic()
                if endpoint is not None:
                    await self.end(client)

    async def _serve(self, client: Client, stream: EventStream) -> None:
        while await self._check_token(client):
            client.news.clear()
            await self._keep_claims(client)
            wait = client.pushes_from - time.monotonic()
            if wait <= 0 and (lent := await self.store.lend_push(client.connection)):
                if not await self._push(client, stream, lent):
                    return
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, max(wait, 0.0) or LOOK)):
                    await client.news.wait()

    async def _push(self, client: Client, stream: EventStream, lent: Lent) -> bool:
        """Write a message into a stream; False if that is over."""
        chat = await self.store.task(lent.message.thread)
        if not await stream.write("message", _pushed(lent, chat)):
            return False
        if client.stream is stream:
            client.written.add(lent.message.id)
        again = _pushed(replace(lent, before=True), chat)
        for other in self._others_of(client):
            if other.stream:
                await other.stream.write("message", again)
        return True

    def _others_of(self, client: Client) -> list[Client]:
        """The other MCP sessions of the same program.

        2.1.197, told that its session is over, begins two, and listens to pushes in one of them
        (docs/claude-cli.md 4.15): what is pushed goes into both, and a request in either confirms.
        """
        return [
            other
            for other in self._clients.values()
            if other is not client and other.program == client.program
        ]


class TokenCaller:
    """What the tools of one client may do: always as the party of its token."""

    def __init__(self, clients: Clients, client: Client) -> None:
        self._clients = clients
        self._client = client
        self._store = clients.store
        self._threads = clients.threads

    @property
    def party(self) -> Party:
        """Who calls."""
        return self._client.party

    @property
    def tools(self) -> TaskTools:
        """The tools about tasks."""
        return self._clients.tools_for(self.party)

    async def begin(self, tool_use_id: str | None) -> str | None:
        """What a call is known by if it comes again."""
        return f"{self._client.connection.id}:{tool_use_id}" if tool_use_id else None

    async def check_inbox(
        self, task_id: str | None, limit: int | None, tool_use_id: str | None
    ) -> dict[str, Any]:
        """Lend the waiting mail to this call."""
        _check_own(task_id)
        lent, pending = await self._clients.take(self._client, limit)
        return {"messages": [_listed(one) for one in lent], "pending": pending}

    async def inbox_status(self, task_id: str | None) -> dict[str, Any]:
        """How much mail is not confirmed."""
        _check_own(task_id)
        return {"pending": len(await self._store.mail_of(self.party.id))}

    async def send(
        self,
        target: str | None,
        body: str,
        *,
        reply_to: str | None,
        priority: Priority,
        tool_use_id: str | None,
    ) -> dict[str, Any]:
        """Write to a task of the workspace; a client has no peers."""
        if not target or target.startswith("peer:"):
            raise NotFoundError("You have no peers; use `send_to_task` with a task's id or name.")
        task = await self._task(target)
        message = await self._threads.say(
            self.party,
            task,
            body,
            reply_to=reply_to,
            priority=priority,
            key=await self.begin(tool_use_id),
        )
        sent = protocol.sent_json(message)
        return {"id": sent["id"], "task_id": task.id, "receipts": sent["receipts"]}

    async def list_peers(self) -> dict[str, Any]:
        """The tasks of the workspace that have, or had, a session."""
        sessions = await self._store.latest_sessions()
        return {
            "peers": [
                {
                    "task_id": task.id,
                    "name": task.name,
                    "status": task.status,
                    "session_state": sessions[task.id].state
                    if task.id in sessions
                    else SessionState.STOPPED,
                }
                for task in await self._near()
                if task.id in sessions
            ]
        }

    async def _near(self) -> list[Task]:
        tasks = await self._store.tasks()
        return [task for task in tasks if task.workspace_id == self.party.workspace_id]

    async def _task(self, target: str) -> Task:
        tasks = await self._near()
        found = [task for task in tasks if target in (task.id, task.name)]
        if len(found) > 1:
            raise AmbiguousError(f"Several tasks are called {target!r}; give an id.")
        if not found:
            names = ", ".join(sorted(task.name for task in tasks)) or "none"
            raise NotFoundError(f"There is no task {target!r} here; there are: {names}.")
        return found[0]


def _left(token: Token) -> float:
    """Seconds until a token expires."""
    return datetime.fromisoformat(token.expires_at).timestamp() - time.time()


def notification(method: str, params: dict[str, Any]) -> str:
    """A JSON-RPC notification as it goes over a stream."""
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}, ensure_ascii=False)


def _pushed(lent: Lent, chat: Task) -> str:
    """The channel notification that gives a message (wire contract)."""
    message = lent.message
    lines = [SEEN] if lent.before else []
    if message.response_to:
        lines = [f"[Response to task {message.response_to}]", *lines]
    content = "\n".join([*lines, "", message.body]) if lines else message.body
    return notification(CHANNEL, {"content": content, "meta": _meta(message, chat)})


def _meta(message: Message, chat: Task) -> dict[str, str]:
    """Strings all: the CLI drops a notification with anything else (docs/claude-cli.md 4.11)."""
    meta = {
        "chat_id": chat.id,
        "message_id": message.id,
        "sender": message.sender,
        "user": "human" if message.sender == USER else message.sender_name,
        "ts": message.created_at,
        "priority": str(message.priority),
    }
    if message.attachments:
        meta["attachments"] = ",".join(file.id for file in message.attachments)
    return meta


def _listed(lent: Lent) -> dict[str, Any]:
    given = mcp_server.message_json(lent.message)
    return {**given, "note": SEEN} if lent.before else given


def _check_own(task_id: str | None) -> None:
    if task_id:
        raise ForbiddenError("You can only look into your own inbox; leave `task_id` out.")
