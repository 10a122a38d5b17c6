"""Tasks and their sessions: what there is, and what is done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo import moves, protocol
from claudedo.errors import ConflictError, UsageError
from claudedo.model import Session, Task, check_body
from claudedo_worker import checkout, journal
from claudedo_worker.api.context import Context, task_of
from claudedo_worker.api.decode import (
    body_of,
    check_keys,
    environment,
    flag,
    line,
    lines,
    number,
    optional,
    text,
)
from claudedo_worker.tasks import StartRequest, Wanted


async def resolve(context: Context, request: Request) -> Response:
    """The task that a person means."""
    query = dict(request.query_params)
    task = await context.tasks.resolve(
        line(query, "target"),
        cwd=optional(query, "cwd"),
        workspace=optional(query, "workspace"),
    )
    return JSONResponse(await _show(context, task))


async def list_tasks(context: Context, request: Request) -> Response:
    """What there is."""
    wanted = request.query_params.get("workspace")
    tasks = {task.id: task for task in await context.store.tasks()}
    sessions = await context.store.latest_sessions()
    pending = await context.store.pending_by_task()
    asks = await context.store.asks_by_task()
    peers: dict[str, list[str]] = {task_id: [] for task_id in tasks}
    for one, other in await context.store.links():
        if one in tasks and other in tasks:  # not one that came or went meanwhile
            peers[one].append(tasks[other].name)
            peers[other].append(tasks[one].name)
    one_shots = {one_shot.task_id: one_shot for one_shot in await context.store.one_shots()}
    listed = [
        protocol.task_json(
            task,
            sessions.get(task.id),
            pending=pending.get(task.id, 0),
            asks=asks.get(task.id, 0),
            peers=sorted(peers[task.id]),
            one_shot=one_shots.get(task.id),
        )
        for task in tasks.values()
        if wanted is None or wanted in (task.workspace, task.workspace_id)
    ]
    return JSONResponse(listed)


async def show_task(context: Context, request: Request) -> Response:
    """One task with all that is known of it."""
    return JSONResponse(await _show(context, await task_of(context, request)))


async def start(context: Context, request: Request) -> Response:
    """Create, link and launch."""
    drafts = await context.tasks.start(_start_request(body_of(request)))
    listed = [{"id": d.task.id, "name": d.task.name, "created": not d.exists} for d in drafts]
    return JSONResponse({"tasks": listed})


async def stop_task(context: Context, request: Request) -> Response:
    """End a session."""
    task = await task_of(context, request)
    return JSONResponse({"stopped": await context.tasks.stop(task)})


async def restart_task(context: Context, request: Request) -> Response:
    """Go on with the same conversation in a new process."""
    data = body_of(request)
    await context.tasks.restart(await task_of(context, request), environment(data))
    return JSONResponse({"restarted": True})


async def remove_task(context: Context, request: Request) -> Response:
    """Remove a task with its worktree and branch."""
    task = await task_of(context, request)
    force = request.query_params.get("force") == "true"
    data = body_of(request) if request.state.body else {}
    env = environment(data) if "env" in data else None  # a page has none
    summary = await context.tasks.remove(task, force=force, environ=env)
    return JSONResponse({"summary": summary})


async def link(context: Context, request: Request) -> Response:
    """Make two tasks peers."""
    data = body_of(request)
    one, other = [await context.store.task(line(data, key)) for key in ("a", "b")]
    await context.tasks.link(one, other)
    return JSONResponse({"linked": True})


async def unlink(context: Context, request: Request) -> Response:
    """They are peers no more."""
    query = request.query_params
    one, other = [await context.store.task(query.get(key, "")) for key in ("a", "b")]
    await context.tasks.unlink(one, other)
    return JSONResponse({"linked": False})


async def terminal(context: Context, request: Request) -> Response:
    """Where the terminal of a session is reached."""
    task = await task_of(context, request)
    live = context.supervisor.of_task(task.id)
    one_shot = await context.store.one_shot(task.id)
    if live is None and one_shot is not None and not one_shot.status.over:
        raise ConflictError(
            f"{task.name} is a one-shot, {one_shot.status}, and gets no terminal; "
            f"`claudedo queue run {task.name}` runs it."
        )
    if live is None:
        raise ConflictError(
            f"{task.name} has no running session; `claudedo restart {task.name}` starts it."
        )
    if live.session.one_shot:
        raise ConflictError(
            f"{task.name} is a one-shot without a terminal; `claudedo logs -f {task.name}` shows "
            "what it does."
        )
    return JSONResponse({"socket": live.session.holder_socket})


async def task_log(context: Context, request: Request) -> Response:
    """A session's conversation, readable."""
    task = await task_of(context, request)
    session = await context.store.latest_session(task.id)
    after = number(request, "after")
    entries: list[journal.Entry] = []
    if session and session.transcript:
        path = Path(session.transcript)
        entries, after = await asyncio.to_thread(journal.read, path, after)
    lines = [asdict(entry) for entry in entries]
    ended = session is None or not session.state.live
    return JSONResponse({"lines": lines, "next": after, "ended": ended})


async def _show(context: Context, task: Task) -> dict[str, Any]:
    session = await context.store.latest_session(task.id)
    peers = [peer.name for peer in await context.store.peers(task.id)]
    pending = await context.store.pending(task.id)
    asks = (await context.store.asks_by_task()).get(task.id, 0)
    one_shot = await context.store.one_shot(task.id)
    data = protocol.task_json(
        task, session, pending=pending, asks=asks, peers=peers, one_shot=one_shot
    )
    data |= {"port": task.port, "setup_log": context.tasks.log_of(task)}
    data |= {"body": task.body, "repo": task.repo, "base": task.base}
    data["base_branch"] = task.base_branch
    data["moves"] = moves.onward(task.assignee, task.status)
    state = await checkout.look(task.worktree, task.base)
    data["work"] = asdict(state) if state else None
    if session:
        data["session"] |= _details(context, session)
    return data


def _details(context: Context, session: Session) -> dict[str, Any]:
    live = context.supervisor.find(session.id)
    return {
        "version": session.cli_version,
        "channel": session.channel,
        "transports": live.transports() if live else [],
        "crashes": session.crashes,
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "transcript": session.transcript,
    }


def _start_request(data: Mapping[str, Any]) -> StartRequest:
    check_keys(data, StartRequest)
    texts = ("base", "branch", "worktree", "permission_mode", "model", "workspace")
    cwd = line(data, "cwd")
    if not Path(cwd).is_absolute():
        raise UsageError("`cwd` must be an absolute path.")
    return StartRequest(
        cwd=cwd,
        tasks=_wanted(data.get("tasks")),
        env=environment(data),
        here=flag(data, "here"),
        no_link=flag(data, "no_link"),
        trust=flag(data, "trust"),
        links=lines(data, "links"),
        claude_args=lines(data, "claude_args"),
        **{key: optional(data, key) for key in texts},
    )


def _wanted(tasks: Any) -> tuple[Wanted, ...]:
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UsageError("`tasks` must be a list of objects.")
    for task in tasks:
        check_keys(task, Wanted)
    return tuple(
        Wanted(name=line(task, "name"), dir=optional(task, "dir"), prompt=_prompt(task))
        for task in tasks
    )


def _prompt(task: Mapping[str, Any]) -> str | None:
    return None if task.get("prompt") is None else check_body(text(task, "prompt"))
