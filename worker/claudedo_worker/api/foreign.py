"""The machine's other Claude sessions: which there are, and taking one over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo import protocol
from claudedo.errors import UsageError
from claudedo.model import now
from claudedo_worker.adoption import AdoptRequest
from claudedo_worker.api.context import Context
from claudedo_worker.api.decode import (
    body_of,
    check_keys,
    environment,
    flag,
    line,
    lines,
    optional,
)
from claudedo_worker.foreign import Foreign, place_of


async def list_foreign(context: Context, request: Request) -> Response:
    """Those that run, as elements of `ls --json`."""
    query = dict(request.query_params)
    found = await context.foreign.running(_folder(query, "config_dir"))
    wanted = optional(query, "workspace")
    names = {workspace.root: workspace.name for workspace in await context.store.workspaces()}
    listed = await asyncio.gather(*(_show(one, names) for one in found))
    return JSONResponse([one for one in listed if wanted in (None, one["workspace"])])


async def adopt(context: Context, request: Request) -> Response:
    """Take one over, or fork it."""
    adopted = await context.adoption.adopt(_adopt_request(body_of(request)))
    return JSONResponse(
        {
            "task": {"id": adopted.task.id, "name": adopted.task.name},
            "ended": adopted.ended,
            "left": list(adopted.left),
        }
    )


async def _show(one: Foreign, workspaces: Mapping[str, str]) -> dict[str, Any]:
    place = await place_of(one.folder)
    repository = place.repository or one.folder
    return protocol.foreign_json(
        conversation=one.conversation,
        name=one.name,
        workspace=workspaces.get(repository) or Path(repository).name,
        folder=one.folder,
        branch=place.branch,
        state=one.state,
        waiting_for=one.waiting_for,
        since=one.since or now(),
        pid=one.pid,
    )


def _adopt_request(data: Mapping[str, Any]) -> AdoptRequest:
    check_keys(data, AdoptRequest)
    if not isinstance(data.get("worktree"), bool | None):
        raise UsageError("`worktree` must be true, false or null.")
    cwd = _folder(data, "cwd")
    if cwd is None:
        raise UsageError("`cwd` must be a text.")
    return AdoptRequest(
        target=line(data, "target"),
        cwd=cwd,
        env=environment(data),
        name=optional(data, "name"),
        worktree=data.get("worktree"),
        fork=flag(data, "fork"),
        now=flag(data, "now"),
        trust=flag(data, "trust"),
        permission_mode=optional(data, "permission_mode"),
        model=optional(data, "model"),
        claude_args=lines(data, "claude_args"),
        workspace=optional(data, "workspace"),
    )


def _folder(data: Mapping[str, Any], key: str) -> str | None:
    folder = optional(data, key)
    if folder is not None and not Path(folder).is_absolute():
        raise UsageError(f"`{key}` must be an absolute path.")
    return folder
