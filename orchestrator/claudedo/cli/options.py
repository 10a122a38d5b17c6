"""Arguments and options that several commands share, and the way to the worker."""

from __future__ import annotations

import difflib
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from claudedo import settings
from claudedo.cli import render
from claudedo.client import WorkerClient
from claudedo.errors import NotFoundError, UsageError
from claudedo.model import Assignee

Target = Annotated[
    str,
    typer.Argument(metavar="T", help="A task: name, workspace/name or the beginning of its id."),
]
Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="T", help="Tasks: name, workspace/name or the beginning of an id."),
]
InWorkspace = Annotated[
    str | None,
    typer.Option("--workspace", "-w", metavar="WORKSPACE", help="Look only in this workspace."),
]
OfWorkspace = Annotated[
    str | None,
    typer.Option("--workspace", "-w", metavar="WORKSPACE", help="The workspace it belongs to."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print one value only.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes; Ctrl-C ends.")]

Trust = Annotated[bool, typer.Option("--trust", help="Trust the repository without being asked.")]
PermissionMode = Annotated[
    str | None, typer.Option(metavar="M", help="Default: permissions.defaultMode of your settings.")
]
Model = Annotated[str | None, typer.Option(metavar="M", help="The model to use.")]

# Of one-shots: what a task is to be

OneShotName = Annotated[
    str | None, typer.Option(metavar="N", help="What to call it; by omission its first words.")
]
Check = Annotated[
    str | None,
    typer.Option(metavar="CMD", help="A shell command, run in its worktree, that must succeed."),
]
Needs = Annotated[
    list[str] | None,
    typer.Option(metavar="T,…", help="Tasks that must be done before; it begins with their work."),
]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="S", help="How many seconds it may take, retries included.")
]
Budget = Annotated[
    float | None, typer.Option(metavar="USD", help="How many US dollars it may spend.")
]
Retries = Annotated[
    int | None,
    typer.Option(metavar="N", help="How often to try again when the API or claude fails (2)."),
]
Base = Annotated[
    str | None, typer.Option(metavar="REF", help="Begin its branch here instead of at HEAD.")
]

# Of one-shots: what counts as failed, and what is left of a run

FailOnUnread = Annotated[
    bool, typer.Option("--fail-on-unread", help="A task that leaves mail unread failed (14).")
]
AllowDenied = Annotated[
    bool,
    typer.Option("--allow-denied", help="A task that was denied a tool can still be good."),
]
AskTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        min=0,
        max=86_400,
        help="How many seconds a task waits when it asks for permission: 300 on a terminal, "
        "else 0. `claudedo next` answers it.",
        show_default=False,
    ),
]


class AskDefault(StrEnum):
    """What a session is told that asked when nobody answered in time."""

    ALLOW = "allow"
    DENY = "deny"


AskAnswer = Annotated[
    AskDefault, typer.Option("--ask-default", help="The answer when that time is over.")
]
Junit = Annotated[
    Path | None, typer.Option(metavar="F", help="Write the verdicts as JUnit XML into this file.")
]
Artifacts = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep prompt, transcript, result and patch of each here."),
]
Summary = Annotated[
    Path | None, typer.Option(metavar="F", help="Write a summary as Markdown into this file.")
]
Push = Annotated[bool, typer.Option("--push", help="Push the branches of the tasks that are done.")]

_REST = "claudedo.rest"
_ALIKE = 2  # names that are offered for one that there is not


class WithRest(TyperCommand):
    """A command that keeps everything after `--`, whatever it looks like; see `rest`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_REST] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def rest(context: typer.Context) -> list[str]:
    """What a person wrote after `--`."""
    return list(context.meta.get(_REST, []))


def check_attach(wanted: bool) -> None:
    """Raise `UsageError` if a session's terminal is wanted where there is none to show it."""
    if wanted and not (sys.stdin.isatty() and render.out_is_terminal()):
        raise UsageError("--attach needs a terminal.")


def worker(*, start: bool = True) -> WorkerClient:
    """The worker of this person's state directory, started if there is none."""
    return WorkerClient(settings.load()).connect(start)


def here() -> str:
    """The present directory, from which names are looked up."""
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise UsageError("This directory does not exist any more; `cd` elsewhere.") from error


def config_dir() -> str:
    """Where a `claude` of this shell keeps its files, absolute."""
    chosen = os.environ.get("CLAUDE_CONFIG_DIR")
    return str(Path(here(), chosen)) if chosen else str(Path.home() / ".claude")


def everything(client: WorkerClient, workspace: str | None = None) -> list[dict[str, Any]]:
    """What `ls` lists: the tasks, then the Claude sessions that are not ours."""
    return client.tasks(workspace) + client.foreign(workspace, config_dir())


def find(client: WorkerClient, target: str, workspace: str | None) -> dict[str, Any]:
    """The task that `target` names.

    Raises `NotFoundError`, with the names that it may be a slip of, and `AmbiguousError`.
    """
    if not target:
        raise UsageError("A task's name cannot be empty.")
    try:
        return client.resolve(target, here(), workspace)
    except NotFoundError as error:
        alike = _alike(client, target, workspace)
        if not alike:
            raise
        raise NotFoundError(f"{error} Did you mean {' or '.join(alike)}?") from error


def find_workspace(client: WorkerClient, named: str) -> dict[str, Any]:
    """The workspace with this name or id; raises `NotFoundError` listing those that there are."""
    found = client.workspaces()
    for workspace in found:
        if named in (workspace["id"], workspace["name"]):
            return workspace
    known = ", ".join(workspace["name"] for workspace in found) or "none yet"
    raise NotFoundError(f"There is no workspace {named!r}; there are: {known}.")


def check_workspace(client: WorkerClient, named: str | None) -> None:
    """Raise `NotFoundError` if a workspace is named that there is not."""
    if named is not None:
        find_workspace(client, named)


def find_place(client: WorkerClient, target: str, workspace: str | None) -> dict[str, Any]:
    """The task that `target` names, which has a session or a folder, or had one.

    Raises like `find`, and `NotFoundError` with what to do for a task that never had either.
    """
    task = find(client, target, workspace)
    if task["session"] or task["worktree"]:
        return task
    name = render.line(task["name"])
    if task["assignee"] == Assignee.HUMAN:
        raise NotFoundError(
            f"{name} is a task for you, without a session and a folder: "
            f"`claudedo thread {name}` shows it, `claudedo answer {name}` answers."
        )
    if task.get("holder"):
        raise NotFoundError(
            f"{name} has no session and no folder of its own: it was claimed by who works on it. "
            f"`claudedo thread {name}` shows what was said."
        )
    raise NotFoundError(f"{name} was never started: `claudedo start {name}` makes its folder.")


def _alike(client: WorkerClient, target: str, workspace: str | None) -> list[str]:
    """The names of tasks that are nearly `target`, the nearest first."""
    tasks = client.tasks()
    if workspace:
        tasks = [task for task in tasks if task["workspace"] == workspace]
    full = "/" in target
    names = {f"{task['workspace']}/{task['name']}" if full else task["name"] for task in tasks}
    return difflib.get_close_matches(target, sorted(names), _ALIKE)
