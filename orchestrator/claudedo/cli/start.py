"""`claudedo start`: creates tasks, makes their worktrees, launches their sessions."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo import claude_args
from claudedo.cli import options, progress, render
from claudedo.cli.exits import Exit
from claudedo.errors import RefusedError, UntrustedError, UsageError
from claudedo.model import check_body, check_name

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

app = typer.Typer()


@app.command(cls=options.WithRest, rich_help_panel="Sessions")
def start(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME[@DIR][=PROMPT]",
            help="A task, with its own repository DIR, and what to tell it.",
            show_default=False,
        ),
    ],
    prompt_file: Annotated[
        str | None,
        typer.Option(metavar="F", help="Prompt for every NAME without one; - is standard input."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="REF", help="Begin the branches here instead of at HEAD.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="B", help="The branch, instead of claudedo/NAME.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--here", help="No worktree: work in this very folder.")
    ] = False,
    worktree: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the worktree is to be.")
    ] = None,
    link: Annotated[
        list[str] | None, typer.Option(metavar="T", help="Link with this task, too. Repeatable.")
    ] = None,
    no_link: Annotated[
        bool, typer.Option("--no-link", help="Do not link the named tasks with each other.")
    ] = False,
    trust: options.Trust = False,
    permission_mode: options.PermissionMode = None,
    model: options.Model = None,
    attach: Annotated[
        bool, typer.Option("--attach", help="Then show the first session's terminal.")
    ] = False,
    workspace: options.OfWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put sessions to work, each in its own git worktree, linked with each other.

    What exists already is used: a PROMPT for it is sent as a message.
    What a repository's claudedo.toml says of NAME counts where you say nothing.
    Everything after -- goes to claude.

    Example: claudedo start backend="Add the API" frontend -- --model opus
    """
    given = options.rest(context)
    claude_args.check(given)
    tasks = _with_prompt([_parse(name) for name in names], prompt_file)
    _check_together(tasks, in_place=in_place, worktree=worktree, branch=branch, attach=attach)
    client = options.worker()
    order = {
        "cwd": options.here(),
        "tasks": tasks,
        "base": base,
        "branch": branch,
        "here": in_place,
        "worktree": _absolute(worktree),
        "links": link or [],
        "no_link": no_link,
        "trust": trust,
        "permission_mode": permission_mode,
        "model": model,
        "claude_args": given,
        "env": dict(os.environ),
        "workspace": workspace,
    }
    ordered = _order(client, order)
    _note_existing(ordered, tasks)
    started = [task["id"] for task in ordered]
    listed, status = progress.follow(client, started)
    prompted = {done["id"] for done, wanted in zip(ordered, tasks, strict=True) if wanted["prompt"]}
    _report(listed, prompted, json_output=json_output, quiet=quiet, attaching=attach)
    if status is Exit.DONE and attach:
        from claudedo.cli.terminal import show_terminal

        show_terminal(client, started[0])
    if status is not Exit.DONE:
        raise typer.Exit(status)


def _parse(text: str) -> dict[str, str | None]:
    """One `NAME[@DIR][=PROMPT]` as the worker wants it."""
    place, equals, prompt = text.partition("=")
    name, at, folder = place.partition("@")
    check_name(name)
    if at and not folder:
        raise UsageError(f"{text!r}: a folder must follow the @.")
    if equals:
        check_body(prompt)
    return {"name": name, "dir": _absolute(folder or None), "prompt": prompt or None}


def _with_prompt(tasks: list[dict[str, Any]], file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return tasks
    if all(task["prompt"] for task in tasks):
        raise UsageError("Every task has a =PROMPT already: leave out --prompt-file.")
    prompt = check_body(read_text(file))
    return [{**task, "prompt": task["prompt"] or prompt} for task in tasks]


def read_text(file: str) -> str:
    """The text of `file`, `-` being standard input; raises `UsageError` if it cannot be read."""
    try:
        path = claude_args.seen_from(Path(), file)
        content = sys.stdin.buffer.read() if file == "-" else path.read_bytes()
        return content.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text (at byte {error.start}).") from error


def _check_together(
    tasks: list[dict[str, Any]],
    *,
    in_place: bool,
    worktree: str | None,
    branch: str | None,
    attach: bool,
) -> None:
    places = [(task["name"], task["dir"]) for task in tasks]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UsageError(f"{twice[0]} is named twice.")
    if in_place and (worktree or branch):
        raise UsageError("--here makes no worktree: leave out --worktree and --branch.")
    if len(tasks) > 1 and (worktree or branch):
        raise UsageError("--worktree and --branch name one thing: start one task at a time.")
    options.check_attach(attach)


def _absolute(folder: str | None) -> str | None:
    return None if folder is None else str(claude_args.seen_from(Path(options.here()), folder))


def _order(client: WorkerClient, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the order, and ask the person once for trust that is wanting."""
    try:
        return client.start(order)
    except UntrustedError as error:
        if not render.can_ask():
            raise
        if not render.ask(f"{error} Trust it?"):
            raise RefusedError("Nothing was started; --trust says yes beforehand.") from None
    return client.start({**order, "trust": True})


def _note_existing(ordered: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> None:
    """Say what was there before, and what became of the prompt for it."""
    for done, wanted in zip(ordered, tasks, strict=True):
        if not done["created"]:
            sent = ": your prompt was sent to it as a message" if wanted["prompt"] else ""
            render.note(f"{done['name']} exists already{sent}.")


def _report(
    listed: list[dict[str, Any]],
    prompted: set[str],
    *,
    json_output: bool,
    quiet: bool,
    attaching: bool,
) -> None:
    if json_output:
        render.as_json(listed)
    elif quiet:
        for task in listed:
            render.show(task["id"])
    elif not attaching:
        for task in listed:
            one, folder = progress.sight(task), render.line(task["worktree"] or "?")
            if one.state == "idle" and task["pending"] and task["id"] in prompted:
                render.show(f"{one.name} is up in {folder}; its prompt is on its way")
            elif not one.failed:  # which was said with its reason
                render.show(f"{one.name} is {one.state} in {folder}")
