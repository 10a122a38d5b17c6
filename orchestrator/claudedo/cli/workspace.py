"""Workspaces, one for each repository: ls, rename, rm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from claudedo.cli import options, render
from claudedo.errors import RefusedError

app = typer.Typer(
    help="Workspaces: one for each repository, with its tasks, their threads and its tokens."
)

Named = Annotated[str, typer.Argument(metavar="W", help="A workspace: its name or its id.")]


@app.command()
def ls(json_output: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List the workspaces. `claudedo start` makes one for a repository that has none.

    Example: claudedo workspace ls
    """
    found = options.worker().workspaces()
    if json_output:
        render.as_json(found)
    elif quiet:
        for one in found:
            render.show(one["name"])
    elif found:
        render.table(
            ["NAME", "TASKS", "SESSIONS", "REPOSITORY", "ID"], [_row(one) for one in found]
        )
    else:
        render.note("No workspaces yet. In a git repository, start a task: claudedo start NAME")


@app.command()
def rename(
    workspace: Named,
    name: Annotated[str, typer.Argument(metavar="NEW-NAME", help="What it is to be called.")],
) -> None:
    """Give a workspace another name. Its id, its tasks and its tokens stay as they are.

    Example: claudedo workspace rename shop market
    """
    client = options.worker()
    before = options.find_workspace(client, workspace)
    after = client.rename_workspace(before["id"], name)
    render.show(f"{before['name']} is now {after['name']}")


@app.command()
def rm(
    workspace: Named,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also remove work that exists nowhere else.")
    ] = False,
) -> None:
    """Remove a workspace: its tasks with their worktrees, branches, threads and files, its tokens.

    The repository stays. While a session runs there nothing is removed, and without --force
    nothing either if a worktree holds uncommitted, untracked, stashed or unmerged work.

    Example: claudedo workspace rm shop
    """
    client = options.worker()
    found = options.find_workspace(client, workspace)
    tasks = client.tasks(found["name"])
    if not yes:
        _announce(found, tasks, client.tokens(found["name"]))
        _confirm()
    gone = client.remove_workspace(found["id"], force=force, tasks=len(tasks))
    for sentence in gone["tasks"]:
        render.show(render.line(sentence))
    render.show(f"Removed the workspace {gone['name']}{_with_tokens(gone['tokens'])}.")


def _announce(
    workspace: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    tokens: Sequence[Mapping[str, Any]],
) -> None:
    """On standard error: what is asked about is no result."""
    root = render.line(workspace["root"])
    render.note(f"This goes with the workspace {workspace['name']}, and cannot be brought back:")
    for task in tasks:
        place = f", {render.line(task['worktree'])} if we made it" if task["worktree"] else ""
        render.note(f"  the task {task['name']} ({task['status']}) with its thread{place}")
    for token in tokens:
        render.note(f"  the token {render.line(token['name'])} ({token['id']})")
    render.note(f"The repository {root} stays.")


def _confirm() -> None:
    if not render.can_ask():
        raise RefusedError(
            "workspace rm asks before it removes anything; without a terminal: --yes."
        )
    if not render.ask("Remove all of it?"):
        raise RefusedError("Nothing was removed.")


def _with_tokens(number: int) -> str:
    return {0: "", 1: " and its token"}.get(number, f" and its {number} tokens")


def _row(workspace: Mapping[str, Any]) -> list[render.Cell]:
    counts = workspace["counts"]
    return [
        render.Cell(workspace["name"], "bold"),
        render.Cell(str(counts["tasks"] or "")),
        render.Cell(str(counts["sessions"] or "")),
        render.Cell(render.line(workspace["root"])),
        render.Cell(workspace["id"], "dim"),
    ]
