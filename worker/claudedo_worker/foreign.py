"""The Claude sessions of this machine that are not ours: which there are, and how to find one.

Reads the CLI's own registry and the transcripts beside it; never signals a process (see
`adoption`). What cannot be read, because it belongs to somebody else, is not there.
"""

from __future__ import annotations

import asyncio
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from claudedo.errors import AmbiguousError, ClaudedoError, ConflictError, NotFoundError
from claudedo.model import Session, SessionState, Task
from claudedo_worker import git, processes, registry
from claudedo_worker.store import Store
from claudedo_worker.transcript import locate

SHORTEST = 4  # characters of a conversation's id that can stand for it
TAIL = 256 << 10  # bytes at the end of a transcript that are searched for its folder

SUSPENDED = "suspended (Ctrl-Z); `fg` in its terminal continues it"

_ID = re.compile(r"[0-9a-f-]+")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A conversation that is no task's. `pid` is None once its process is gone."""

    conversation: str
    config_dir: Path
    pid: int | None
    name: str
    folder: str
    state: SessionState
    waiting_for: str | None = None
    since: str | None = None
    version: str | None = None
    background: bool = False  # a command runs in its background
    supervised: bool = False  # by a claudedo of another state directory

    def following(self, entry: registry.Entry) -> Foreign:
        """The same session, as the registry tells of it now."""
        return replace(
            self,
            state=entry.state or SessionState.STARTING,
            waiting_for=entry.waiting_for,
            background=entry.background,
        )

    @property
    def at_work(self) -> str | None:
        """What ending it would cut short, in words; None if that is nothing."""
        if self.state is SessionState.WAITING:
            return f"is waiting for an answer ({self.waiting_for or 'a dialog is open'})"
        if self.state is not SessionState.IDLE:
            return "is busy"
        return "runs a command in the background" if self.background else None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a foreign session works, as its folder tells."""

    repository: str | None = None  # the main checkout; None: the folder is in no repository
    branch: str | None = None


class ForeignSessions:
    """Finds them in the configuration folders that are known."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def running(self, config_dir: str | None = None) -> list[Foreign]:
        """Those that run, by name. `config_dir`: also look in that folder."""
        return await asyncio.to_thread(
            _running, await self._folders(config_dir), await self._ours()
        )

    async def find(self, target: str, config_dir: str | None = None) -> Foreign:
        """The one that a person means: a pid, a conversation's id or its beginning, or a name.

        One that ended is found by its id. Raises `NotFoundError`, `AmbiguousError`, and
        `ConflictError` if it is one of our tasks'.
        """
        known = await self.running(config_dir)
        found = [one for one in known if target in (str(one.pid), one.conversation)]
        found = found or [one for one in known if one.name == target]
        if not found:
            await self._refuse_ours(target)
        if not found and len(target) >= SHORTEST and _ID.fullmatch(target):
            folders = await self._folders(config_dir)
            began = [one for one in known if one.conversation.startswith(target)]
            found = began or list(await asyncio.to_thread(_ended, folders, target))
        if len(found) > 1:
            names = ", ".join(f"{one.pid or one.conversation} ({one.name})" for one in found)
            raise AmbiguousError(f"{target!r} could be: {names}.")
        if not found:
            names = ", ".join(f"{one.pid} ({one.name})" for one in known) or "none"
            raise NotFoundError(
                f"There is no Claude session {target!r} besides claudedo's own; running: {names}."
            )
        await self._refuse_ours(found[0].conversation)
        return found[0]

    async def transcript(self, one: Foreign) -> Path | None:
        """The file that holds its conversation; None before its first prompt."""
        return await asyncio.to_thread(locate, one.config_dir, one.conversation)

    async def _folders(self, config_dir: str | None) -> list[Path]:
        sessions = (await self._store.latest_sessions()).values()
        given = [Path(config_dir)] if config_dir else []
        default = registry.config_dir(dict(os.environ))
        return list(dict.fromkeys([*given, default, *(Path(s.config_dir) for s in sessions)]))

    async def _ours(self) -> frozenset[str]:
        return frozenset(s.id for s in (await self._store.latest_sessions()).values())

    async def _refuse_ours(self, target: str) -> None:
        for task_id, session in (await self._store.latest_sessions()).items():
            mine = session.conversation.startswith(target) and len(target) >= SHORTEST
            if mine or (session.state.live and str(session.pid) == target):
                raise ConflictError(_belongs(await self._store.task(task_id), session))


def _belongs(task: Task, session: Session) -> str:
    if session.state.live:
        return f"This is the session of the task {task.name} already."
    return (
        f"This is the conversation of the task {task.name}: end it where it runs, if it does, and "
        f"go on with `claudedo restart {task.name}`."
    )


async def place_of(folder: str) -> Place:
    """The repository and branch of a folder, by one run of git."""
    if not Path(folder).is_dir():
        return Place()
    asked = ("--path-format=absolute", "--git-common-dir", "--show-toplevel")
    try:
        answer = await git.read(Path(folder), "rev-parse", *asked, "--abbrev-ref", "HEAD")
    except ClaudedoError:
        return Place()  # no repository, one that git does not trust, or one without a commit
    common, top, branch = map(str.strip, answer.out.splitlines()[:3])
    main = str(Path(common).parent) if Path(common).name == ".git" else top
    return Place(repository=main, branch=None if branch == "HEAD" else branch)


def _running(folders: Iterable[Path], ours: frozenset[str]) -> list[Foreign]:
    found: dict[int, Foreign] = {}
    for config_dir in folders:
        for entry in registry.running(config_dir):
            if entry.pid not in found and entry.at_terminal:
                found |= {one.pid: one for one in _foreign(config_dir, entry, ours) if one.pid}
    return sorted(found.values(), key=lambda one: (one.name, one.pid or 0))


def _foreign(config_dir: Path, entry: registry.Entry, ours: frozenset[str]) -> Iterator[Foreign]:
    """The entry's session, unless it, or a process above it, is one of ours or is gone."""
    marks = processes.sessions_above(entry.pid)
    if marks is None or not ours.isdisjoint(marks):
        return
    folder = entry.cwd or "?"
    yield Foreign(
        conversation=entry.conversation,
        config_dir=config_dir,
        pid=entry.pid,
        name=entry.name or Path(folder).name,
        folder=folder,
        state=entry.state or SessionState.STARTING,
        waiting_for=SUSPENDED if processes.suspended(entry.pid) else entry.waiting_for,
        since=entry.since,
        version=entry.version,
        background=entry.background,
        supervised=bool(marks),
    )


def _ended(folders: Iterable[Path], beginning: str) -> Iterator[Foreign]:
    """The conversations on disk whose id begins so; they run nowhere that can be seen."""
    for config_dir in folders:
        for path in (config_dir / "projects").glob(f"*/{glob.escape(beginning)}*.jsonl"):
            folder = _last_folder(path)
            yield Foreign(
                conversation=path.stem,
                config_dir=config_dir,
                pid=None,
                name=Path(folder).name,
                folder=folder,
                state=SessionState.STOPPED,
            )


def _last_folder(transcript: Path) -> str:
    """Where a conversation was last, as its newest lines say; "?" if they do not."""
    try:
        with transcript.open("rb") as file:
            file.seek(max(0, transcript.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:  # removed just now, or somebody else's
        return "?"
    for line in reversed(lines):
        try:
            folder = json.loads(line).get("cwd")
        except (ValueError, AttributeError):
            continue  # the first of them may be cut
        if isinstance(folder, str) and folder:
            return folder
    return "?"
