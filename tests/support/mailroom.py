"""A mailbox with one session: a real store and a real transcript file whose lines a test writes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claudedo.model import (
    USER,
    Assignee,
    Launch,
    Message,
    Priority,
    Receipts,
    Session,
    SessionState,
    Task,
    TaskStatus,
    new_id,
    now,
    stamp,
)
from claudedo_worker import receipts
from claudedo_worker.bus import Bus
from claudedo_worker.courier import Courier
from claudedo_worker.database import Database
from claudedo_worker.failures import Schedule
from claudedo_worker.store import Store
from claudedo_worker.transcript import Transcript

Json = dict[str, Any]


class Links:
    """Ways into a session that are open or closed as a test says; keeps what was put in."""

    def __init__(self) -> None:
        self.pushable = self.wakeable = self.typeable = self.answers = True
        self.slow = ""  # the way that takes until `release`
        self.reached = asyncio.Event()  # it is being taken
        self.release = asyncio.Event()
        self.pushed: list[str] = []
        self.metas: list[dict[str, str]] = []
        self.woken: list[str] = []
        self.typed: list[str] = []

    async def _take_time(self, way: str) -> None:
        if way == self.slow:
            self.reached.set()
            await self.release.wait()

    async def push(self, content: str, meta: dict[str, str]) -> bool:
        self.pushed.append(content)
        self.metas.append(meta)
        return True

    async def ping(self) -> bool:
        await self._take_time("ping")
        return self.answers

    async def wake(self, text: str) -> bool:
        self.woken.append(text)
        return True

    async def type(self, text: str) -> bool:
        await self._take_time("type")
        self.typed.append(text)
        return True

    def can_push(self) -> bool:
        return self.pushable

    def can_wake(self) -> bool:
        return self.wakeable

    async def can_type(self) -> bool:
        await self._take_time("can_type")
        return self.typeable


class Lines:
    """Writes transcript lines as the CLI does; each hangs on the one before, or on `parent`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._numbers = itertools.count()
        self.clock = time.time  # Unix time, for the lines that tell one
        self.last: str | None = None

    def add(self, kind: str, *, parent: str | None = "", **fields: Any) -> str:
        """Append a line; returns its uuid."""
        uuid = f"u{next(self._numbers)}"
        above = self.last if parent == "" else parent
        line = {"type": kind, "uuid": uuid, "parentUuid": above, **fields}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.last = uuid
        return uuid

    def enqueue(self, text: str) -> None:
        """The client took a text into its queue: a line outside the chain."""
        line = {"type": "queue-operation", "operation": "enqueue", "content": text}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def prompt(self, text: str, origin: str = "human", **more: Any) -> str:
        return self.add("user", message={"content": text}, origin={"kind": origin}, **more)

    def push(self, text: str, **more: Any) -> str:
        return self.prompt(f'<channel source="claudedo">\n{text}\n</channel>', "channel", **more)

    def queued(self, text: str, origin: str, **more: Any) -> str:
        attachment = {"type": "queued_command", "prompt": text, "origin": {"kind": origin}}
        return self.add("attachment", attachment=attachment, **more)

    def hook(self, output: Json, *, call: str | None = None, **more: Any) -> str:
        """The context line of a hook's answer."""
        text = output["hookSpecificOutput"]["additionalContext"]
        attachment = {"type": "hook_additional_context", "content": [text], "toolUseID": call}
        return self.add("attachment", attachment=attachment, **more)

    def answer(
        self,
        message: str,
        *calls: str,
        failed: bool = False,
        error: str = "server_error",
        model: str = "m",
        **more: Any,
    ) -> str:
        """An answer of the model, or (`failed`) the line that tells of the API's refusal."""
        content = [{"type": "tool_use", "id": call, "name": "x", "input": {}} for call in calls]
        said = {
            "id": message,
            "model": model,
            "content": content or [{"type": "text", "text": "ok"}],
        }
        at = stamp(datetime.fromtimestamp(self.clock(), UTC))
        if failed:
            more |= {"isApiErrorMessage": True, "error": error}
        return self.add("assistant", message=said, timestamp=at, **more)

    def result(self, call: str, text: str, *, error: bool = False, **more: Any) -> str:
        block = {"type": "tool_result", "tool_use_id": call, "content": text, "is_error": error}
        return self.add("user", message={"content": [block]}, **more)

    def compacted(self, *kept: str) -> str:
        meta = {"preservedMessages": {"allUuids": kept}}
        return self.add("system", subtype="compact_boundary", parent=None, compactMetadata=meta)


class Mailroom:
    """One task with one idle session, its courier, and a clock that a test turns."""

    store: Store
    database: Database
    task: Task
    session: Session
    courier: Courier

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = Links()
        self.lines = Lines(folder / "c1.jsonl")
        self.time = 1_000.0
        self.slept = 0.0  # seconds that the machine slept: only the wall clock counts them
        self.schedule = Schedule(wall=self.wall, clock=lambda: self.time)
        self.lines.clock = self.wall

    def wall(self) -> float:
        """Unix time: as many seconds after its beginning as `time` says, and what was slept."""
        return 1_790_000_000.0 + self.time + self.slept

    async def open(self) -> Mailroom:
        self.database = await Database.open(self.folder / "claudedo.db")
        self.store = Store(self.database, Bus().publish)
        workspace = await self.store.workspace_for(str(self.folder), "w")
        self.task = await self.store.add_task(
            Task(
                id=new_id("t"),
                workspace_id=workspace.id,
                workspace=workspace.name,
                name="backend",
                body="",
                status=TaskStatus.ONGOING,
                assignee=Assignee.AGENT,
                repo=None,
                worktree=None,
                branch=None,
                base=None,
                made_worktree=False,
                made_branch=False,
                launch=Launch(),
                created_at=now(),
            )
        )
        self.session = await self.store.add_session(
            Session(
                id=new_id("s"),
                task_id=self.task.id,
                conversation="c1",
                state=SessionState.IDLE,
                waiting_for=None,
                since=now(),
                pid=1,
                holder_socket=None,
                transcript=str(self.lines.path),
                config_dir=str(self.folder),
                cli_version="2.1.330",
                channel=True,
                started_at=now(),
            ),
            "",
            self.task,
        )
        await self.new_worker()
        return self

    async def close(self) -> None:
        await self.database.close()

    async def new_worker(self, *, resumed: bool = False) -> None:
        """A worker that knows only what is stored takes the session up, or a new process of it."""
        loaded = await self.load()
        if resumed:
            loaded.resume()
        self.courier = Courier(
            self.store,
            self.task,
            await self.store.session(self.session.id),
            self.links,
            loaded,
            self.schedule,
            clock=lambda: self.time,
        )

    async def load(self, conversation: str = "c1") -> receipts.Receipts:
        transcript = Transcript(self.folder / f"{conversation}.jsonl")
        return await receipts.Receipts.load(
            self.store, conversation, transcript, clock=lambda: self.time
        )

    async def send(
        self, body: str, priority: Priority = Priority.NORMAL, sender: str = USER
    ) -> str:
        """Store a message; returns its id."""
        at = now()
        message = Message(
            id=new_id("m"),
            task_id=self.task.id,
            sender=sender,
            sender_name=USER if sender == USER else "frontend",
            body=body,
            priority=priority,
            reply_to=None,
            created_at=at,
            receipts=Receipts(stored_at=at),
        )
        stored, _ = await self.store.add_message(message, message.id)
        return stored.id

    async def be(self, state: SessionState) -> None:
        self.session = await self.store.change_session(self.courier.session, state=state)
        self.courier.session = self.session

    async def step(self, seconds: float = 0.0) -> None:
        """Let time pass, then let the courier look."""
        self.time += seconds
        await self.courier.step()

    async def hook(self, event: str, **call: str) -> Json:
        return await self.courier.hook(event, call)

    async def rungs(self, message_id: str) -> str:
        """The rungs that a message reached, by their first letters: "sodra"."""
        reached = (await self.store.message(message_id)).receipts
        names = ("stored", "offered", "delivered", "read", "answered")
        return "".join(name[0] for name in names if getattr(reached, f"{name}_at"))
