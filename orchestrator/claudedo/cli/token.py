"""Tokens, with which MCP clients of other origin come in: create, ls, rotate, revoke."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from claudedo.cli import options, render
from claudedo.client import WorkerClient
from claudedo.errors import AmbiguousError, ConflictError, NotFoundError, UsageError

app = typer.Typer(
    help="Let other Claude sessions and MCP clients in, each with a token of its own."
)

SERVER = "claudedo"
DAYS = 30

Id = Annotated[
    str, typer.Argument(metavar="TOKEN", help="A token: its name, its id or the beginning of it.")
]
Days = Annotated[int, typer.Option("--days", metavar="D", help="How long it is good.")]
AsConfiguration = Annotated[
    bool, typer.Option("--mcp-json", help="Print the configuration for `claude --mcp-config`.")
]
AsSse = Annotated[
    bool, typer.Option("--sse", help="The configuration of the older transport, type sse.")
]


@app.command()
def create(
    name: Annotated[
        str, typer.Option("--name", metavar="N", help="What people see as the client's name.")
    ] = "client",
    days: Days = DAYS,
    mcp_json: AsConfiguration = False,
    sse: AsSse = False,
    workspace: options.InWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a token for this workspace. Its text is shown now and never again.

    Example: claudedo token create --name laptop --mcp-json > claudedo.json, then
    claude --mcp-config claudedo.json --dangerously-load-development-channels server:claudedo
    """
    _check(sse, mcp_json)
    order = {"name": name, "days": days, "workspace": workspace, "cwd": options.here()}
    _show(options.worker().create_token(order), mcp_json, sse, json_output, quiet)


@app.command()
def ls(workspace: options.InWorkspace = None, json_output: options.AsJson = False) -> None:
    """List the tokens, newest first, with their last use.

    Example: claudedo token ls
    """
    client = options.worker()
    found = client.tokens(workspace)
    if not found:
        options.check_workspace(client, workspace)
    if json_output:
        render.as_json(found)
        return
    if not found:
        render.note("No tokens. `claudedo token create --name laptop --mcp-json` makes one.")
        return
    render.table(["NAME", "WORKSPACE", "STATE", "LAST USE", "ID"], [_row(one) for one in found])


@app.command()
def rotate(
    token: Id,
    days: Days = DAYS,
    mcp_json: AsConfiguration = False,
    sse: AsSse = False,
    workspace: options.InWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put a new text in the place of a token's old one, which is worth nothing at once.

    Mail and tasks stay the client's. Example: claudedo token rotate laptop --mcp-json
    """
    _check(sse, mcp_json)
    client = options.worker()
    told = client.rotate_token(_find(client, token, workspace)["id"], days)
    _show(told, mcp_json, sse, json_output, quiet)


@app.command()
def revoke(token: Id, workspace: options.InWorkspace = None) -> None:
    """Make a token worthless for good. Who is connected with it is cut off at once.

    Example: claudedo token revoke laptop
    """
    client = options.worker()
    revoked = client.revoke_token(_find(client, token, workspace)["id"])
    render.show(f"{render.line(revoked['name'])} ({revoked['id']}) is revoked.")


def configuration(told: Mapping[str, Any], *, sse: bool) -> dict[str, Any]:
    """What `claude --mcp-config` takes, for the token that was just told.

    The header keeps the token out of addresses; `alwaysLoad` puts the tools into the first request
    (docs/claude-cli.md 4.17).
    """
    entry = {
        "type": "sse" if sse else "http",
        "url": told["url"],
        "headers": {"Authorization": f"Bearer {told['text']}"},
        "alwaysLoad": True,
    }
    return {"mcpServers": {SERVER: entry}}


def _check(sse: bool, mcp_json: bool) -> None:
    if sse and not mcp_json:
        raise UsageError("--sse goes with --mcp-json.")


def _show(
    told: Mapping[str, Any], mcp_json: bool, sse: bool, json_output: bool, quiet: bool
) -> None:
    if mcp_json:
        render.as_json(configuration(told, sse=sse))
    elif json_output:
        render.as_json(told)
    else:
        render.show(str(told["text"]))
    if not quiet:
        render.note(
            f"This is shown only now. It opens {told['url']} until {_day(told)}; "
            f"`claudedo token revoke {told['id']}` ends that."
        )


def _day(told: Mapping[str, Any]) -> str:
    return str(told["expires_at"])[:10]


def _row(token: Mapping[str, Any]) -> list[render.Cell]:
    used = f"{render.age(token['last_used_at'])} ago" if token["last_used_at"] else "never"
    return [
        render.Cell(render.line(token["name"]), "bold"),
        render.Cell(token["workspace"]),
        render.Cell(_state(token), "" if token["valid"] else "dim"),
        render.Cell(used, "dim"),
        render.Cell(token["id"], "dim"),
    ]


def _state(token: Mapping[str, Any]) -> str:
    if token["revoked_at"]:
        return "revoked"
    return f"until {_day(token)}" if token["valid"] else "expired"


def _find(client: WorkerClient, target: str, workspace: str | None) -> dict[str, Any]:
    """The token that is meant: a valid one's name, an id, or the beginning of one."""
    found = client.tokens(workspace)
    ways = (
        [one for one in found if one["id"] == target],
        [one for one in found if one["name"] == target and not one["revoked_at"]],
        [one for one in found if target and one["id"].lower().startswith(target.lower())],
    )
    for chosen in ways:
        if len(chosen) > 1:
            ids = "".join(f"\n  {one['id']}  {_full_name(one)}" for one in chosen)
            raise AmbiguousError(f"{target!r} could be several tokens; name one by its id:{ids}")
        if chosen:
            return chosen[0]
    if any(one["name"] == target for one in found):
        again = f"`claudedo token create --name {shlex.quote(target)}` makes another"
        raise ConflictError(f"{render.line(target)} is revoked; {again}.")
    raise NotFoundError(f"There is no token {target!r}; `claudedo token ls` lists them.")


def _full_name(token: Mapping[str, Any]) -> str:
    return f"{token['workspace']}/{render.line(token['name'])}"
