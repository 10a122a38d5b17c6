"""Tokens: made, listed, renewed, revoked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.errors import UsageError
from claudedo.model import Token, Workspace, check_name
from claudedo_worker import git
from claudedo_worker.api.context import Context
from claudedo_worker.api.decode import body_of, line, optional
from claudedo_worker.tasks import name_from
from claudedo_worker.tokens import DAYS, refusal_of


async def create_token(context: Context, request: Request) -> Response:
    """A new one, with its text and the address that it opens; nobody is told the text again."""
    data = body_of(request)
    name, days = line(data, "name"), _days(data)
    workspace = await workspace_of(context, data)
    token, text = await context.tokens.create(workspace, name, days)
    return JSONResponse(_told(context, token, workspace, text))


async def list_tokens(context: Context, request: Request) -> Response:
    """All of them, newest first."""
    wanted = request.query_params.get("workspace")
    workspaces = {w.id: w for w in await context.store.workspaces()}
    counts = await context.store.connections()
    return JSONResponse(
        [
            {**_shown(token, workspaces[token.workspace_id]), "sessions": counts.get(token.id, 0)}
            for token in await context.store.tokens()
            if token.workspace_id in workspaces  # not one that came meanwhile
            and wanted in (None, token.workspace_id, workspaces[token.workspace_id].name)
        ]
    )


async def rotate_token(context: Context, request: Request) -> Response:
    """Another text in the place of the one before."""
    token = await context.store.token(request.path_params["token"])
    workspace = await context.store.workspace(token.workspace_id)
    token, text = await context.tokens.rotate(token, _days(body_of(request)))
    return JSONResponse(_told(context, token, workspace, text))


async def revoke_token(context: Context, request: Request) -> Response:
    """It opens nothing any more."""
    token = await context.store.token(request.path_params["token"])
    workspace = await context.store.workspace(token.workspace_id)
    return JSONResponse(_shown(await context.tokens.revoke(token), workspace))


async def workspace_of(context: Context, data: Mapping[str, Any]) -> Workspace:
    """The workspace that is named, else the one of the repository at `cwd`, made if it is new."""
    if named := optional(data, "workspace"):
        return await context.store.find_workspace(named)
    main = (await git.discover(Path(line(data, "cwd")))).main
    return await context.store.workspace_for(str(main), check_name(name_from(main.name)))


def _days(data: Mapping[str, Any]) -> int:
    days = data.get("days", DAYS)
    if type(days) is not int:
        raise UsageError("`days` must be a whole number.")
    return days


def _told(context: Context, token: Token, workspace: Workspace, text: str) -> dict[str, Any]:
    # By id: a renamed workspace must not lock its clients out.
    url = f"{context.url}/mcp/{workspace.id}"
    return {**_shown(token, workspace), "text": text, "url": url}


def _shown(token: Token, workspace: Workspace) -> dict[str, Any]:
    values = asdict(token)
    del values["workspace_id"]
    return {**values, "workspace": workspace.name, "valid": refusal_of(token) is None}
