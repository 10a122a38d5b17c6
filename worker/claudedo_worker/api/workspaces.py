"""Workspaces: listed, renamed, removed."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.model import Workspace
from claudedo_worker.api.context import Context
from claudedo_worker.api.decode import body_of, environment, line


async def list_workspaces(context: Context, request: Request) -> Response:
    """All projects, by name."""
    tasks = await context.store.tasks()
    live = {session.task_id for session in await context.store.live_sessions()}
    there = Counter(task.workspace_id for task in tasks)
    running = Counter(task.workspace_id for task in tasks if task.id in live)
    return JSONResponse(
        [
            {**_shown(one), "counts": {"tasks": there[one.id], "sessions": running[one.id]}}
            for one in await context.store.workspaces()
        ]
    )


async def rename_workspace(context: Context, request: Request) -> Response:
    """Another name; ids and tokens stay."""
    name = line(body_of(request), "name")
    return JSONResponse(_shown(await context.workspaces.rename(await _of(context, request), name)))


async def remove_workspace(context: Context, request: Request) -> Response:
    """Remove a workspace with all that is in it, but not its repository."""
    workspace = await _of(context, request)
    force = request.query_params.get("force") == "true"
    env = environment(body_of(request)) if request.state.body else None  # a page has none
    gone = await context.workspaces.remove(workspace, force=force, environ=env)
    return JSONResponse({"name": gone.name, "tasks": list(gone.tasks), "tokens": gone.tokens})


async def _of(context: Context, request: Request) -> Workspace:
    return await context.store.find_workspace(request.path_params["workspace"])


def _shown(workspace: Workspace) -> dict[str, object]:
    return {"id": workspace.id, "name": workspace.name, "root": workspace.root}
