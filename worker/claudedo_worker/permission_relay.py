"""Permission prompts of clients that claudedo did not start, decided by the person here.

The client's program tells of a prompt that it shows anyway, and takes the first decision that
comes (docs/claude-cli.md §5). It never tells that one was made at its own terminal: so an ask is
closed as soon as its client shows that it went on, or is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from claudedo.errors import ConflictError, RefusedError
from claudedo.model import (
    Ask,
    AskKind,
    AskOutcome,
    Assignee,
    DecidedBy,
    Launch,
    Task,
    TaskStatus,
    new_id,
    now,
)
from claudedo_worker import ask_text, decision
from claudedo_worker.asks import GLANCE, HELD_PATIENCE, conflict
from claudedo_worker.clients import Client, Clients, notification, program_of
from claudedo_worker.decision import DENY, Decision
from claudedo_worker.mcp_sse import EventStream
from claudedo_worker.store import Store
from claudedo_worker.threads import PERSON, Party, Threads

log = logging.getLogger(__name__)

PERMISSION = "notifications/claude/channel/permission"
FOR_EVER = "9999-12-31T00:00:00.000Z"
LONGEST_ID, LONGEST_TEXT = 200, 64 * 1024  # characters
DEEPEST = 64
"""Levels of an input that is shown as an object; a deeper one is shown as a text."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")


class PermissionRelay:
    """The asks of all clients."""

    def __init__(self, store: Store, clients: Clients, threads: Threads) -> None:
        self._store = store
        self._clients = clients
        self._threads = threads

    async def asked(self, client: Client, params: Mapping[str, Any]) -> None:
        """A prompt is open at the client. One that says nothing we can use is ignored."""
        request_id, tool = params.get("request_id"), params.get("tool_name")
        usable = isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id)
        if not usable or not isinstance(tool, str) or not tool:
            log.warning("a permission request without its fields", extra={"action": "ignored"})
            return
        call = f"{client.connection.id}:{request_id}"
        if await self._went_on(client, but=call):
            return  # told twice
        task = await self._task_of(client.party)
        given = _input(params)
        _, title, body = ask_text.describe(tool[:LONGEST_ID], given, None)
        await self._store.add_ask(
            Ask(
                id=new_id("k"),
                task_id=task.id,
                session_id=None,
                kind=AskKind.PERMISSION,
                title=title,
                body=body,
                tool=tool[:LONGEST_ID],
                input=given,
                suggestions=(),
                agent=None,
                call=call,
                opened_at=now(),
            )
        )

    async def went_on(self, client: Client) -> None:
        """The client calls a tool: what it asked before was decided at its terminal."""
        await self._went_on(client)

    async def tidy(self) -> None:
        """Close what was asked by clients that are gone."""
        for ask in await self._open():
            if await self._clients.gone(_connection(ask)):
                await self._close(ask)

    async def decide(self, ask: Ask, said: Decision) -> Ask:
        """The person decides. Words that go with a no are sent to the client as a message.

        Raises `ConflictError` if somebody else was first or the client is away, `RefusedError` and
        `UsageError` for what a client cannot be told.
        """
        ruling = decision.rule(ask, said)
        if said.input is not None:
            raise RefusedError("The call of such a client cannot be edited: allow or deny it.")
        streams = await self._streams_of(ask)
        closed, first = await self._store.close_ask(
            ask.id, ruling.outcome, DecidedBy.USER, ruling.kept
        )
        if not first:
            raise conflict(closed)
        behavior = DENY if closed.outcome is AskOutcome.DENIED else decision.ALLOW
        told = notification(PERMISSION, {"request_id": _request(ask), "behavior": behavior})
        if not any([await stream.write("message", told) for stream in streams]):
            return await self._store.correct_ask(ask.id, AskOutcome.GONE, DecidedBy.SESSION)
        if said.reason:
            task = await self._store.task(ask.task_id)
            await self._threads.say(PERSON, task, said.reason)
        return closed

    async def _streams_of(self, ask: Ask) -> list[EventStream]:
        """The streams of who asked; one that is just coming back is waited for."""
        until = time.monotonic() + HELD_PATIENCE
        while ask.closed_at is None:
            if streams := self._clients.streams_of(_connection(ask)):
                return streams
            if time.monotonic() >= until:
                raise ConflictError(
                    "The client is not connected to claudedo just now; answer at its own terminal."
                )
            await asyncio.sleep(GLANCE)
            ask = await self._store.ask(ask.id)
        raise conflict(ask)

    async def _went_on(self, client: Client, but: str = "") -> bool:
        """Close what the client asked, but for the call `but`; True if that one is open."""
        mine = [ask for ask in await self._open() if program_of(_connection(ask)) == client.program]
        for ask in mine:
            if ask.call != but:
                await self._close(ask)
        return any(ask.call == but for ask in mine)

    async def _open(self) -> list[Ask]:
        asks = await self._store.open_asks()
        return [a for a in asks if a.session_id is None and a.kind is AskKind.PERMISSION]

    async def _close(self, ask: Ask) -> None:
        await self._store.close_ask(ask.id, AskOutcome.GONE, DecidedBy.SESSION)

    async def _task_of(self, party: Party) -> Task:
        """The task that a client works on; without any, one that stands for the client itself."""
        tasks = await self._store.tasks()
        held = [task for task in tasks if task.holder == party.id]
        if held:
            return held[-1]
        workspace = await self._store.workspace(party.workspace_id or "")
        taken = {task.name for task in tasks if task.workspace_id == workspace.id}
        return await self._store.add_task(
            Task(
                id=new_id("t"),
                workspace_id=workspace.id,
                workspace=workspace.name,
                name=_name(party.name, taken),
                title=f"The client {party.name}",
                body=f"What {party.name} does, a client with a token of its own.",
                status=TaskStatus.ONGOING,
                assignee=Assignee.AGENT,
                creator=party.id,
                holder=party.id,
                held_until=FOR_EVER,
                repo=workspace.root,
                worktree=None,
                branch=None,
                base=None,
                made_worktree=False,
                made_branch=False,
                launch=Launch(),
                created_at=now(),
            )
        )


def _input(params: Mapping[str, Any]) -> dict[str, Any]:
    """The call's input as far as the client tells it: its beginning, JSON or not (5.1)."""
    texts = {key: str(params.get(key) or "")[:LONGEST_TEXT] for key in _TOLD}
    given = _object(texts["input_preview"])
    return given if given is not None else {key: text for key, text in texts.items() if text}


def _object(text: str) -> dict[str, Any] | None:
    """The object that a text describes; None if it is no JSON that everybody could be shown."""
    try:
        given = json.loads(text)
        # Neither NaN nor half a character can be told to a page.
        json.dumps(given, allow_nan=False, ensure_ascii=False).encode()
        return given if isinstance(given, dict) and _depth(given) <= DEEPEST else None
    except (ValueError, RecursionError):
        return None


def _depth(value: Any) -> int:
    """How deep a value is nested."""
    if not isinstance(value, dict | list):
        return 0
    within = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, within), default=0)


_TOLD = ("description", "input_preview")


def _connection(ask: Ask) -> str:
    return (ask.call or "").partition(":")[0]


def _request(ask: Ask) -> str:
    return (ask.call or "").partition(":")[2]


def _name(words: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-z0-9._]+", "-", words.lower()).strip("._-")[:58] or "client"
    number, name = 2, stem
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
