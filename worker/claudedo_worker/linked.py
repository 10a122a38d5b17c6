"""What every live session is to its bridge, to a person and to the watch, terminal or not.

Its record, the connection to its holder, its tools, its mail and its asks, the tasks that it
claimed, and what it used. What it shows of itself, and how, is told by those that are one: `live`
(a session at a terminal) and `one_shot`.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from claudedo.model import Ask, Session, Task
from claudedo_worker import mcp_server
from claudedo_worker.decision import Decision
from claudedo_worker.holder_link import HolderLink
from claudedo_worker.inbox import Inbox
from claudedo_worker.receipts import Receipts
from claudedo_worker.session_link import Bridge, Waiter
from claudedo_worker.store import Store
from claudedo_worker.threads import lease_end
from claudedo_worker.transcript import Transcript
from claudedo_worker.usage import Account

COUNT_EVERY = 3.0
"""Seconds between two looks at what the conversation used."""

SIGN_OF_LIFE = 60.0
"""Seconds between two renewals of what the session claimed."""


class Decider(Protocol):
    """Where a person's decisions about the asks of a session go."""

    async def decide(self, ask_id: str, said: Decision) -> Ask:
        """Decide an ask; returns it once it is known who decided. Raises `ConflictError`."""
        ...


class Linked(ABC):
    """A session that has a process. Its methods run on the worker's one event loop."""

    tick: ClassVar[float] = 0.1
    """Seconds between two looks."""

    def __init__(
        self,
        store: Store,
        task: Task,
        session: Session,
        holder: HolderLink,
        make_caller: Callable[[Linked], mcp_server.Caller],
    ) -> None:
        self.store = store
        self.task = task
        self.session = session
        self.holder = holder
        self.caller = make_caller(self)
        self.woken = asyncio.Event()  # look now instead of at the next tick
        self._bridge: Bridge | None = None
        self._bridge_at = time.monotonic()  # when the bridge came, or left
        self._claims_at = -SIGN_OF_LIFE
        self._courier: Inbox | None = None
        self._account = Account(store, task)
        self._counted_at = 0.0

    @property
    def courier(self) -> Inbox:
        """Delivery for this session; there once `open` has run."""
        assert self._courier is not None
        return self._courier

    @property
    @abstractmethod
    def decider(self) -> Decider:
        """Where what it asks is decided."""

    @abstractmethod
    async def open(self) -> None:
        """Take up what was before, and what an earlier worker left."""

    @abstractmethod
    async def look(self) -> None:
        """One step of the watch."""

    @abstractmethod
    async def close(self) -> None:
        """The process is gone: what it does not show did not happen."""

    @abstractmethod
    def transports(self) -> list[str]:
        """Which ways in are open at this moment."""

    def part(self) -> bool:
        """Somebody wants it to end: let it, in its own way. False if it has none (any more)."""
        return False

    def connect(self, holder: HolderLink) -> None:
        """The connection to its holder was lost and is there again."""
        self.holder = holder

    async def change(self, **changes: Any) -> None:
        """Store changes of the record."""
        self.session = await self.store.change_session(self.session, **changes)
        if self._courier:
            self._courier.session = self.session

    async def _keep_claims(self) -> None:
        """A session that lives keeps the tasks that it claimed."""
        if time.monotonic() - self._claims_at >= SIGN_OF_LIFE:
            self._claims_at = time.monotonic()
            await self.store.extend_claims(f"task:{self.task.id}", lease_end())

    async def _count_now_and_then(self) -> None:
        if time.monotonic() - self._counted_at >= COUNT_EVERY:
            await self._count()

    async def _count(self, *, ended: bool = False) -> None:
        """Keep in the record what was used until now."""
        self._counted_at = time.monotonic()
        await self.change(usage=await self._account.total(self.session, ended=ended))

    async def _receipts(self, conversation: str, transcript: str | None) -> Receipts:
        # Before the first prompt there is no file; one that cannot exist reads as empty.
        path = Path(transcript) if transcript else Path(self.session.config_dir) / "projects/none"
        return await Receipts.load(self.store, conversation, Transcript(path))

    # What its processes say (session_link.LinkedSession)

    def bridge_came(self, bridge: Bridge) -> None:
        """A bridge is connected; an earlier one, if any, is replaced."""
        self._bridge = bridge
        self._bridge_at = time.monotonic()
        self.woken.set()

    def bridge_left(self, bridge: Bridge) -> None:
        """That bridge is gone."""
        if self._bridge is bridge:
            self._bridge = None
            self._bridge_at = time.monotonic()

    def tools_listed(self) -> None:
        """The client asked for the tools."""
        self.woken.set()

    @abstractmethod
    def waiter_came(self, waiter: Waiter) -> bool:
        """Take this waiter; False if none is wanted."""

    @abstractmethod
    def waiter_left(self, waiter: Waiter) -> None:
        """That waiter is gone."""

    @abstractmethod
    async def hook(self, event: str, call: dict[str, Any], key: str) -> dict[str, Any]:
        """Answer a hook of the session, in the conversation that it was called in."""

    @abstractmethod
    async def hook_cancelled(self, key: str) -> None:
        """The client does not wait for that held hook any more."""

    @abstractmethod
    async def hooks_held(self, keys: frozenset[str]) -> None:
        """The client waits for these held hooks, and for none besides that came before."""

    @abstractmethod
    async def session_started(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The SessionStart hook ran."""
