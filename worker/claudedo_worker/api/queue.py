"""The queue of one-shot tasks: add, look, begin what is ready, cancel, take up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo import protocol, task_file
from claudedo.errors import NotFoundError, RefusedError, UsageError
from claudedo.model import OneShot, Rules, Task
from claudedo_worker import git
from claudedo_worker.api.context import Context, task_of
from claudedo_worker.api.decode import (
    body_of,
    check_keys,
    environment,
    flag,
    line,
    lines,
    optional,
)
from claudedo_worker.api.tokens import workspace_of
from claudedo_worker.queue import Addition, Turn

MOST_JOBS = 64


async def add_one_shots(context: Context, request: Request) -> Response:
    """Put tasks into the queue: all of them, or none."""
    data = body_of(request)
    tasks = data.get("tasks")
    if not isinstance(tasks, dict):
        raise UsageError("`tasks` must be an object: what each task is to be, by its name.")
    addition = Addition(
        cwd=line(data, "cwd"),
        tasks=task_file.sections({"tasks": tasks}),
        source=optional(data, "source"),
        workspace=optional(data, "workspace"),
        permission_mode=optional(data, "permission_mode"),
        model=optional(data, "model"),
        claude_args=lines(data, "claude_args"),
    )
    added = await context.queue.add(addition)
    return JSONResponse(await _shown(context, {task.id for task in added}))


async def list_queue(context: Context, request: Request) -> Response:
    """The one-shot tasks, in the order in which they were added."""
    query = request.query_params
    return JSONResponse(
        await _shown(
            context, workspace=await _near(context, query.get("workspace"), query.get("cwd"))
        )
    )


async def _near(context: Context, named: str | None, cwd: str | None) -> str | None:
    """The id of the workspace that is named, or that `cwd` belongs to; None: all.

    Empty for a repository that has none yet.
    """
    if named:
        return (await context.store.find_workspace(named)).id
    if not cwd:
        return None
    try:
        main = (await git.discover(Path(cwd))).main
    except (NotFoundError, RefusedError):
        return None
    return next((w.id for w in await context.store.workspaces() if w.root == str(main)), "")


async def next_in_queue(context: Context, request: Request) -> Response:
    """Begin what is ready, up to so many at a time; called again until nothing is left."""
    data = body_of(request)
    chosen = data.get("tasks")
    ids = None if chosen is None else frozenset(lines(data, "tasks"))
    named = data.get("workspace") or data.get("cwd")
    workspace = await workspace_of(context, data) if ids is None and named else None
    turn = Turn(
        env=environment(data),
        jobs=_jobs(data),
        workspace_id=workspace.id if workspace else None,
        tasks=ids,
        trust=flag(data, "trust"),
        rules=_rules(data.get("rules") or {}),
    )
    begun = await context.queue.next(turn)
    return JSONResponse({"begun": begun, "tasks": await _shown(context, ids, turn.workspace_id)})


async def cancel_in_queue(context: Context, request: Request) -> Response:
    """End what runs of these tasks; take out what waits, or let all of it come back later."""
    data = body_of(request)
    tasks = [await context.store.task(task) for task in lines(data, "tasks")]
    await context.queue.cancel(tasks, requeue=flag(data, "requeue"))
    return JSONResponse(await _shown(context, {task.id for task in tasks}))


async def again_in_queue(context: Context, request: Request) -> Response:
    """Let ended tasks go on with their mail, or where they did not finish."""
    data = body_of(request)
    tasks = [await context.store.task(task) for task in lines(data, "tasks")]
    await context.queue.again(tasks)
    return JSONResponse(await _shown(context, {task.id for task in tasks}))


async def report(context: Context, request: Request) -> Response:
    """One of them, with all that its artifacts are made of."""
    task = await task_of(context, request)
    one_shot = await context.store.one_shot(task.id)
    if one_shot is None:
        raise NotFoundError(f"{task.name} is no one-shot.")
    session = await context.store.latest_session(task.id)
    [shown] = await _shown(context, {task.id})
    thread = await context.store.thread(task.id)
    return JSONResponse(
        {
            **shown,
            "prompt": task.body,
            "check": one_shot.check,
            "folder": str(context.tasks.run_dir(task)),
            "transcript": session.transcript if session else None,
            "repo": task.repo,
            "base": task.base,
            "messages": [protocol.message_json(message) for message in thread],
        }
    )


async def _shown(
    context: Context, ids: frozenset[str] | set[str] | None = None, workspace: str | None = None
) -> list[dict[str, Any]]:
    tasks = {task.id: task for task in await context.store.tasks()}
    sessions = await context.store.latest_sessions()

    def show(task: Task, one_shot: OneShot) -> dict[str, Any]:
        needs = [tasks[need].name for need in one_shot.needs if need in tasks]
        return protocol.one_shot_json(task, one_shot, sessions.get(task.id), needs)

    return [
        show(tasks[one_shot.task_id], one_shot)
        for one_shot in await context.store.one_shots()
        if one_shot.task_id in tasks
        and (ids is None or one_shot.task_id in ids)
        and workspace in (None, tasks[one_shot.task_id].workspace_id)
    ]


def _jobs(data: Mapping[str, Any]) -> int:
    jobs = data.get("jobs", 1)
    if type(jobs) is not int or not 1 <= jobs <= MOST_JOBS:
        raise UsageError(f"`jobs` must be a number from 1 to {MOST_JOBS}.")
    return jobs


def _rules(data: Any) -> Rules:
    if not isinstance(data, dict):
        raise UsageError("`rules` must be an object.")
    check_keys(data, Rules)
    timeout = data.get("ask_timeout", 0)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 <= timeout <= 86_400:
        raise UsageError("`ask_timeout` must be a number of seconds, at most a day.")
    default = data.get("ask_default", "deny")
    if default not in ("allow", "deny"):
        raise UsageError("`ask_default` must be allow or deny.")
    return Rules(
        fail_on_unread=flag(data, "fail_on_unread"),
        allow_denied=flag(data, "allow_denied"),
        ask_timeout=float(timeout),
        ask_default=default,
    )
