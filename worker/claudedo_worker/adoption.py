"""Takes over a Claude session that somebody started elsewhere, as a task of ours.

Everything is checked first. Then its process is asked to end, never killed: whatever does not end
stays as it is, and nothing was changed. What is taken over goes on in a process of ours; see
`tasks` for that, `foreign` for what can be found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claudedo import claude_args
from claudedo.errors import BusyError, ConflictError, RefusedError, TimedOutError
from claudedo.model import Task
from claudedo_worker import launch, processes, registry
from claudedo_worker.foreign import Foreign, ForeignSessions
from claudedo_worker.store import Store
from claudedo_worker.tasks import TakeOver, Tasks, Wanted, name_from

log = logging.getLogger(__name__)

END_PATIENCE = 20.0
"""Seconds for a session to end once it was asked to; seen: 0.1 to 6, with its hooks (9.1)."""


@dataclass(frozen=True, kw_only=True)
class AdoptRequest:
    """A whole `adopt`, as the command line sends it.

    `worktree`: True to work in a new one, False in the session's own folder, None for what fits:
    a fork works in a new one, beside the original, a session that is taken over where it is.
    """

    target: str
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    name: str | None = None
    worktree: bool | None = None
    fork: bool = False
    now: bool = False  # cut short what it is doing
    trust: bool = False
    permission_mode: str | None = None
    model: str | None = None
    claude_args: tuple[str, ...] = ()
    workspace: str | None = None


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The new task; which process was ended for it, and what that left running on."""

    task: Task
    ended: int | None = None
    left: tuple[int, ...] = ()


class Adoption:
    """Brings foreign sessions in."""

    def __init__(self, store: Store, foreign: ForeignSessions, tasks: Tasks) -> None:
        self._store = store
        self._foreign = foreign
        self._tasks = tasks

    async def adopt(self, request: AdoptRequest) -> Adopted:
        """Take a session over, or fork it; returns once its new process is on its way.

        Raises `NotFoundError`, `AmbiguousError`; `BusyError` if it is at work and neither `now` nor
        `fork` is given; `TimedOutError` if it does not end; and what a start can raise. Nothing is
        changed then.
        """
        env = launch.anchored_environment(request.env, Path(request.cwd))
        one = await self._foreign.find(request.target, str(registry.config_dir(env)))
        transcript = await self._foreign.transcript(one)
        worktree = request.fork if request.worktree is None else request.worktree
        _check(one, transcript)
        await self._check_folder(one, worktree=worktree)
        if not request.fork:
            await self._check_alone(one)
        left: list[int] = []

        async def end() -> None:
            if one.pid is not None and not request.fork:
                left.extend(await _end(one, now=request.now))

        task = await self._tasks.take_over(
            TakeOver(
                cwd=one.folder,
                tasks=(Wanted(name=request.name or await self._free_name(one)),),
                env=registry.environment_for(one.config_dir, env),
                here=not worktree,
                trust=request.trust,
                permission_mode=request.permission_mode,
                model=request.model,
                claude_args=claude_args.anchored(request.claude_args, Path(request.cwd)),
                workspace=request.workspace,
                conversation=None if request.fork else one.conversation,
                fork_of=str(transcript) if request.fork else None,
                end=end,
            )
        )
        log.info("adopted", extra={"action": "adopted", "task": task.name, "pid": one.pid})
        return Adopted(task=task, ended=None if request.fork else one.pid, left=tuple(left))

    async def _check_folder(self, one: Foreign, *, worktree: bool) -> None:
        """Refuse to let two tasks work in a folder that goes with one of them."""
        for task in await self._store.tasks():
            made = Path(task.worktree) if task.made_worktree and task.worktree else None
            if made and not worktree and Path(one.folder).is_relative_to(made):
                raise ConflictError(
                    f"It works in the worktree of the task {task.name}, which is removed with that "
                    "task: use --worktree to give it one of its own."
                )

    async def _check_alone(self, one: Foreign) -> None:
        """Refuse a conversation that another process has open, too: both write to it (20.5)."""
        for other in await self._foreign.running(str(one.config_dir)):
            if other.conversation == one.conversation and other.pid != one.pid:
                raise ConflictError(
                    f"This conversation is open in another process, too ({other.pid}): end that "
                    "first, or use --fork."
                )

    async def _free_name(self, one: Foreign) -> str:
        """The session's own name, or its folder's, as a task's name that no task has."""
        taken = {task.name for task in await self._store.tasks()}
        name = name_from(one.name)
        numbered = (f"{name[:59]}-{number}" for number in range(2, len(taken) + 3))
        return name if name not in taken else next(n for n in numbered if n not in taken)


def _check(one: Foreign, transcript: Path | None) -> None:
    if one.supervised:
        raise RefusedError(
            f"Process {one.pid} belongs to the claudedo of another state directory "
            "(CLAUDEDO_HOME): stop it there first."
        )
    if transcript is None:
        raise RefusedError(
            f"Nothing was said in {one.name} ({one.pid}) yet, so there is nothing to take over: "
            "end it, and use `claudedo start`."
        )
    if one.folder == "?":
        raise RefusedError(f"Nothing tells in which folder {one.conversation} was.")
    if not Path(one.folder).is_dir():
        raise ConflictError(f"The folder that it worked in, {one.folder}, is gone.")


async def _end(one: Foreign, *, now: bool) -> list[int]:
    """Ask the session to end; returns what it left running on, which was asked, too."""
    assert one.pid is not None
    since = processes.started_at(one.pid)
    entry = registry.read(one.config_dir, one.pid, since) if since is not None else None
    if entry is None:
        return []  # it ended by itself meanwhile
    if entry.conversation != one.conversation:
        raise ConflictError("It went over to another conversation just now; look again.")
    work = one.following(entry).at_work
    if work and not now:
        raise BusyError(
            f"{one.name} ({one.pid}) {work}; ending it would cut that short. Wait, use --now to do "
            "it all the same, or --fork to leave it running."
        )
    if processes.suspended(one.pid):  # it would stop again at once, and end when it is continued
        raise ConflictError(
            f"{one.name} ({one.pid}) is suspended (Ctrl-Z) and cannot end: continue it with `fg` "
            "in its terminal first, or use --fork."
        )
    left = await processes.dismiss(one.pid, END_PATIENCE)
    if one.pid in left:
        raise TimedOutError(
            f"{one.name} ({one.pid}) was asked to end and did not within {END_PATIENCE:.0f} s, so "
            "nothing was changed: end it yourself (/exit in its terminal), then adopt it by "
            f"{one.conversation}; or use --fork."
        )
    return left
