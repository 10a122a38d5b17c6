"""`claudedo adopt`: brings in a Claude session that was started elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import options, progress, render
from claudedo.cli.exits import Exit
from claudedo.errors import BusyError, RefusedError, UntrustedError, UsageError
from claudedo.model import check_name

if TYPE_CHECKING:
    from claudedo.client import Json, WorkerClient

app = typer.Typer()


@app.command(cls=options.WithRest, rich_help_panel="Sessions")
def adopt(
    context: typer.Context,
    session: Annotated[
        str,
        typer.Argument(
            metavar="PID|SESSION",
            help="A Claude session as `claudedo ls` shows it: its process, its id, its name.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="N", help="The task's name, instead of the session's.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--here", help="Work on in the session's own folder.")
    ] = False,
    worktree: Annotated[
        bool, typer.Option("--worktree", help="Go on in a new worktree; what is there stays there.")
    ] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="Leave the session running, and go on with a copy.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--now", help="End it although it is at work or waits for an answer.")
    ] = False,
    trust: options.Trust = False,
    permission_mode: options.PermissionMode = None,
    model: options.Model = None,
    attach: Annotated[bool, typer.Option("--attach", help="Then show its terminal.")] = False,
    workspace: options.OfWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring in a Claude session from elsewhere: its conversation goes on as a task.

    It is asked to end where it runs, and resumed here, in its own folder.
    One that does not end is left as it is.
    With --fork it runs on, and a copy of it goes on in a new worktree.
    Everything after -- goes to claude.

    Example: claudedo adopt 4711 --name backend
    """
    _check(name, in_place=in_place, worktree=worktree, attach=attach)
    client = options.worker()
    order = {
        "target": session,
        "cwd": options.here(),
        "name": name,
        "worktree": True if worktree else False if in_place else None,
        "fork": fork,
        "now": at_once,
        "trust": trust,
        "permission_mode": permission_mode,
        "model": model,
        "claude_args": options.rest(context),
        "env": dict(os.environ),
        "workspace": workspace,
    }
    adopted = _order(client, order)
    _note(adopted)
    [task], status = progress.follow(client, [adopted["task"]["id"]])
    _report(task, json_output=json_output, quiet=quiet, attaching=attach)
    if status is not Exit.DONE:
        raise typer.Exit(status)
    if attach:
        from claudedo.cli.terminal import show_terminal

        show_terminal(client, task["id"])


def _check(name: str | None, *, in_place: bool, worktree: bool, attach: bool) -> None:
    if name is not None:
        check_name(name)
    if in_place and worktree:
        raise UsageError("--here and --worktree exclude each other.")
    options.check_attach(attach)


def _order(client: WorkerClient, order: Json) -> Json:
    """Give the order; what only the person can decide is asked where there is one."""
    try:
        return client.adopt(order)
    except BusyError as error:
        if not render.can_ask():
            raise
        if not render.ask(f"{error} End it now?"):
            raise RefusedError("Nothing was adopted.") from None
        return _order(client, {**order, "now": True})
    except UntrustedError as error:
        if not render.can_ask():
            raise
        if not render.ask(f"{error} Trust it?"):
            raise RefusedError("Nothing was adopted.") from None
        return _order(client, {**order, "trust": True})


def _note(adopted: Json) -> None:
    name, ended, left = adopted["task"]["name"], adopted["ended"], adopted["left"]
    if ended:
        render.note(f"Process {ended} has ended; its conversation goes on as {name}.")
    if left:
        render.note(f"What it had started runs on: process {', '.join(map(str, left))}.")


def _report(task: dict[str, Any], *, json_output: bool, quiet: bool, attaching: bool) -> None:
    if json_output:
        render.as_json(task)
    elif quiet:
        render.show(task["id"])
    elif not attaching:
        state = progress.sight(task).state
        render.show(f"{task['name']} is {state} in {render.line(task['worktree'] or '?')}")
