"""The command `claudedo`: puts the groups together and ends every command the same way.

Whatever a command raises becomes one line on standard error and the exit status of `exits`.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from claudedo import settings
from claudedo.cli import (
    adopt,
    ask,
    demo,
    doctor,
    finish,
    message,
    page,
    queue,
    render,
    run,
    start,
    task,
    terminal,
    token,
    triage,
    uninstall,
    worker,
    workspace,
)
from claudedo.cli.exits import Exit, status_of
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError
from claudedo.model import TaskStatus

# The base of all errors that the parser finds; where it lives depends on the release of typer.
_Misuse = typer.BadParameter.__mro__[1]

_WANTED = {
    "T": "Name a task",
    "A": "Name two tasks",
    "B": "Name two tasks",
    "ID|T": "Name an ask or a task",
    "NAME[@DIR][=PROMPT]": "Give the task a name",
    "STATUS": f"Say how far it is ({', '.join(TaskStatus)})",
    "WORDS": "Say what to look for",
    "FILE-ID": "Name a file by its id",
    "TOKEN": "Name a token",
    "W": "Name a workspace",
    "NEW-NAME": "Say what it is to be called",
}
# What is missing, by the metavar of the argument.


class Commands(TyperGroup):
    """The group of all commands; ends each with one line and the right status."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run one command; ends the process, like the original, unless told not to."""
        ends_process = extra.pop("standalone_mode", True)
        extra["standalone_mode"] = False
        run = partial(super().main, *args, **extra)
        if not ends_process:
            return run()
        render.prepare()
        sys.exit(_run(run))


def _run(command: Callable[[], Any]) -> int:
    try:
        status = command()
    except ClaudedoError as error:
        render.error(str(error))
        return status_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except Exception as error:
        if isinstance(error, _Misuse):
            render.error(_misuse(error))
            return Exit.USAGE
        return _unexpected(error)
    return status if isinstance(status, int) else Exit.DONE


def _misuse(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "claudedo"
    sentence = str(error.format_message()).rstrip()
    wanted = _WANTED.get(getattr(getattr(error, "param", None), "metavar", None) or "")
    if wanted and sentence.startswith("Missing argument"):
        return f"{wanted}: see `{command} --help`."
    if sentence.startswith("Missing command"):
        verbs = ", ".join(error.ctx.command.list_commands(error.ctx))
        return f"Say what to do ({verbs}): see `{command} --help`."
    sentence = sentence.replace(": Value error, ", ": ")  # the parser's own name for it
    return f"{sentence}{'' if sentence.endswith(('.', '?')) else '.'} See `{command} --help`."


def _unexpected(error: Exception) -> int:
    if os.environ.get("CLAUDEDO_DEBUG"):
        render.note("".join(traceback.format_exception(error)))
    render.error(
        f"this should not happen: {type(error).__name__}: {render.line(str(error))} "
        f"(the worker's log: {_log()}; CLAUDEDO_DEBUG=1 shows where)"
    )
    return Exit.FAILED


def _log() -> str:
    try:
        return str(settings.load().log)
    except ClaudedoError:
        return "unknown, the configuration cannot be read"


app = typer.Typer(
    cls=Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for group in (
    start,
    adopt,
    run,
    task,
    terminal,
    ask,
    triage,
    message,
    finish,
    page,
    demo,
    doctor,
    uninstall,
):
    app.add_typer(group.app)
app.add_typer(queue.app, name="queue", rich_help_panel="Sessions")
app.add_typer(worker.app, name="worker", rich_help_panel="Service")
app.add_typer(token.app, name="token", rich_help_panel="Service")
app.add_typer(workspace.app, name="workspace", rich_help_panel="Service")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        render.show(f"claudedo {version('claudedo')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Run linked Claude Code sessions side by side, and know how far a message came.

    Begin with [bold]claudedo start backend frontend[/bold], then [bold]claudedo ls[/bold],
    [bold]claudedo attach backend[/bold] and [bold]claudedo send backend "..."[/bold].
    By itself, on a terminal, [bold]claudedo[/bold] shows the live list of all of them.
    """
    if context.invoked_subcommand is not None:
        return
    if render.can_show_screens():
        raise typer.Exit(_live_list())
    text = context.get_help()  # drawn at once, and empty, where typer has rich
    if text:
        render.show(text)


def _live_list() -> int:
    client = WorkerClient(settings.load())
    if not client.listening():
        render.note("Starting the worker …")  # takes seconds, and nothing is on the screen yet
    client.connect()
    from claudedo.cli.board import show

    return show(client)


def main() -> None:
    """Run the command that the command line names."""
    try:
        app(prog_name="claudedo")
    finally:
        gc.freeze()  # else the interpreter looks through all it has, for 0.1 s and more, to end


if __name__ == "__main__":
    main()
