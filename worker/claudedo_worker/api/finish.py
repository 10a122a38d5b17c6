"""What becomes of a task's work: what it changed, merged, proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.errors import ClaudedoError, RefusedError, UsageError
from claudedo.model import Task
from claudedo_worker import launch, merge
from claudedo_worker.api.context import Context, task_of
from claudedo_worker.api.decode import body_of, environment, flag, optional

_MERGE = {"env", "into", "squash", "commit", "message", "remove"}
_PROPOSAL = {"env", "into", "commit", "message"}


async def variables(context: Context, request: Request) -> Response:
    """What a program finds in its environment that is to run for a task."""
    task = await task_of(context, request)
    peers = [peer.name for peer in await context.store.peers(task.id)]
    return JSONResponse(launch.variables(task, peers))


async def changes(context: Context, request: Request) -> Response:
    """From where to where a task's changes go, and which of them are files git does not know."""
    task = await task_of(context, request)
    found = await merge.changes(await _job(context, task, {}))
    return JSONResponse({**asdict(found), "directory": str(found.directory)})


async def merge_task(context: Context, request: Request) -> Response:
    """Merge a task's work, and then remove the task if that is wanted."""
    data = body_of(request)
    job = await _job(context, task := await task_of(context, request), _known(data, _MERGE))
    done = await merge.merge(job)
    summary = done.summary(task.name)
    removed = None
    if job.leaves:
        saved = done.head if done.commits else None
        try:
            removed = await context.tasks.remove(
                task, force=False, environ=job.environ, saved=saved
            )
        except ClaudedoError as error:
            raise type(error)(f"{summary} But {task.name} was not removed: {error}") from error
    elif done.commits and context.supervisor.of_task(task.id):
        summary += " Its session runs on: what it does from now on is not in there."
    answer = {
        "summary": summary,
        "into": done.into,
        "commit": done.commit,
        "commits": done.commits,
        "committed": done.committed,
        "checkout": str(done.checkout) if done.checkout else None,
        "removed": removed,
    }
    return JSONResponse(answer)


async def propose(context: Context, request: Request) -> Response:
    """Make a task's branch ready to be pushed; pushes nothing."""
    data = body_of(request)
    task = await task_of(context, request)
    made = await merge.propose(await _job(context, task, _known(data, _PROPOSAL)))
    return JSONResponse({**asdict(made), "directory": str(made.directory)})


def _known(data: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    if unknown := set(data) - keys:
        raise UsageError(f"Unknown key {min(unknown)!r}.")
    return data | {"env": environment(data)}


async def _job(context: Context, task: Task, wanted: Mapping[str, Any]) -> merge.Job:
    if task.repo is None:
        raise RefusedError(f"{task.name} works in no repository, so it has nothing to merge.")
    message = optional(wanted, "message")
    if flag(wanted, "commit") and not (message and message.strip()):
        raise UsageError("What is uncommitted needs a message: --commit -m MESSAGE.")
    tasks = await context.store.tasks()
    return merge.Job(
        name=task.name,
        main=Path(task.repo),
        worktree=Path(task.worktree) if task.worktree else None,
        branch=task.branch,
        base=task.base,
        base_branch=task.base_branch,
        made_branch=task.made_branch,
        others=frozenset(t.branch for t in tasks if t.branch and t.made_branch and t != task),
        into=optional(wanted, "into") or None,
        squash=flag(wanted, "squash"),
        message=message,
        commit=flag(wanted, "commit"),
        leaves=flag(wanted, "remove"),
        environ=wanted.get("env", {}),
    )
