"""Looking into a session: `attach` to its real terminal, `logs` of its conversation."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import ask_view, options, render
from claudedo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from claudedo.client import WorkerClient

app = typer.Typer()

_LOOK_SECONDS = 0.5


@app.command(rich_help_panel="Sessions")
def attach(
    target: options.Target,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only watch: what you type stays here.")
    ] = False,
    detach_keys: Annotated[
        str, typer.Option(metavar="K", help="The keys that leave the session running.")
    ] = "ctrl-]",
    workspace: options.InWorkspace = None,
) -> None:
    """Show the real terminal of a session. Ctrl-] leaves it running; several may watch.

    Example: claudedo attach backend
    """
    if not (sys.stdin.isatty() and render.out_is_terminal()):
        raise UsageError("attach needs a terminal; `claudedo logs` works without one.")
    client = options.worker()
    task = options.find_place(client, target, workspace)
    show_terminal(client, task["id"], read_only=read_only, detach_keys=detach_keys)


def show_terminal(
    client: WorkerClient, task: str, *, read_only: bool = False, detach_keys: str = "ctrl-]"
) -> None:
    """Connect this terminal with the session of `task` until the person detaches.

    Leaves with the session's status when the session ends first.
    """
    from claudedo.cli.attach import attach as connect

    status = connect(client.terminal(task), read_only=read_only, detach_keys=detach_keys)
    if status:
        raise typer.Exit(status)


@app.command(rich_help_panel="Sessions")
def logs(
    target: options.Target,
    follow: options.Follow = False,
    json_output: options.AsJson = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Print a session's conversation, readable. With -f: until the session ends.

    Example: claudedo logs backend -f
    """
    client = options.worker()
    task = options.find_place(client, target, workspace)["id"]
    if json_output and not follow:
        render.as_json([said for page in pages(client, task) for said in page])
        return
    silent = True
    for page in pages(client, task, follow=follow):
        silent = False
        _print_lines(page, json_output)
    if silent and not json_output:
        render.note("Nothing was said yet.")


def pages(
    client: WorkerClient, task: str, *, follow: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """The conversation in pieces; with `follow`, what comes until the session ends."""
    after = 0
    while True:
        page = client.log(task, after)
        if page["lines"]:
            yield page["lines"]
        if page["next"] == after:
            if not follow or page["ended"]:
                return
            time.sleep(_LOOK_SECONDS)
        after = page["next"]


def _print_lines(lines: list[dict[str, Any]], json_output: bool) -> None:
    for said in lines:
        if json_output:
            render.as_json_line(said)
        else:
            for line in _drawn(said):
                render.show(line.text)


def _drawn(said: dict[str, Any]) -> list[render.Cell]:
    """One entry; the gutter keeps a text from looking like somebody else's line."""
    first, *rest = render.neutral(said["text"]).rstrip("\n").split("\n")
    lines = [f"{render.line(said['role'])}: {first}", *(ask_view.GUTTER + text for text in rest)]
    cells = [render.Cell(text) for text in lines]
    return ask_view.folded(cells, render.console().width) if render.out_is_terminal() else cells
