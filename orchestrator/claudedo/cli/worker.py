"""The worker itself: run, start, stop, status. Sessions go on whatever happens to it."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NoReturn

import typer

from claudedo import settings
from claudedo.cli import options, render
from claudedo.cli.exits import Exit
from claudedo.client import WorkerClient
from claudedo.errors import TimedOutError

app = typer.Typer(help="The worker, which every other command starts when it is missing.")

STOP_SECONDS = 20.0


@app.command()
def run() -> NoReturn:
    """Run the worker in the foreground, for a service manager or to see it fail.

    Example: claudedo worker run
    """
    found = settings.load()
    env = {**os.environ, "CLAUDEDO_HOME": str(found.home)}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "claudedo_worker"], env)


@app.command()
def start(quiet: options.Quiet = False) -> None:
    """Start the worker if it does not run.

    Example: claudedo worker start
    """
    about = options.worker().worker()
    render.show(str(about["pid"]) if quiet else f"The worker runs with process id {about['pid']}.")


@app.command()
def stop() -> None:
    """Stop the worker. Sessions go on, and the next command starts it again.

    Example: claudedo worker stop
    """
    client = WorkerClient(settings.load())
    if not client.listening():
        render.note("The worker is not running.")
        return
    stop_and_wait(client)
    render.show("The worker stopped. Sessions that run go on.")


def stop_and_wait(client: WorkerClient) -> None:
    """Stop the worker of `client`; returns when it has let go of everything.

    Raises `TimedOutError` if that takes longer than `STOP_SECONDS`.
    """
    client.connect(start=False).stop_worker()
    deadline = time.monotonic() + STOP_SECONDS
    while client.listening() or not client.gone():
        if time.monotonic() > deadline:
            raise TimedOutError(
                f"The worker is still there after {STOP_SECONDS:.0f} s; "
                f"its log is {client.settings.log}."
            )
        time.sleep(0.05)


@app.command()
def status(json_output: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Say whether the worker runs, and where. Status 1 when it does not.

    Example: claudedo worker status --json
    """
    client = WorkerClient(settings.load())
    if not client.ready():
        _print_absent(client, json_output)
        raise typer.Exit(Exit.FAILED)
    about = client.connect(start=False).worker()
    if json_output:
        render.as_json(about)
    elif quiet:
        render.show(str(about["pid"]))
    else:
        _print_about(about)


def _print_absent(client: WorkerClient, json_output: bool) -> None:
    if json_output:
        render.as_json(None)
    if client.listening():
        render.note("The worker is starting.")
    else:
        render.note("The worker is not running; any command that needs it starts it.")


def _print_about(about: dict[str, Any]) -> None:
    for key in ("pid", "url", "version", "sessions"):
        render.show(f"{key:<10} {about[key]}")
