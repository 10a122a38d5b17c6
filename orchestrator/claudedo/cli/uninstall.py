"""`claudedo uninstall`: ends everything, removes what claudedo made, names what stays."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo import settings as configuration
from claudedo.cli import render
from claudedo.cli.worker import stop_and_wait
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError, RefusedError
from claudedo.model import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from claudedo.settings import Settings

app = typer.Typer()


@dataclass
class _Rest:
    """What stays, each with the reason."""

    lines: list[str] = field(default_factory=list)

    def add(self, what: object, why: object) -> None:
        self.lines.append(f"{what}: {why}")


@app.command(rich_help_panel="Service")
def uninstall(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop all sessions and the worker, and remove everything that claudedo made.

    Worktrees with work of their own stay, and so does what Claude Code itself wrote.

    Example: claudedo uninstall --dry-run
    """
    settings = configuration.load()
    client = WorkerClient(settings)
    tasks = _tasks(client, may_start=not dry_run)
    _announce(settings, tasks)
    if dry_run:
        return
    _confirm(yes)
    rest = _Rest()
    if tasks is not None:
        _end_tasks(client, tasks, rest)
        stop_and_wait(client)
    _remove_state(settings, rest)
    _name_rest(rest)


def _tasks(client: WorkerClient, *, may_start: bool) -> list[dict[str, Any]] | None:
    """Our tasks, or None when there is no worker and nothing that would need one."""
    if not client.settings.database.exists() and not client.listening():
        return None
    if not client.ready() and not may_start:
        render.note(
            "The worker is not running, so sessions and worktrees cannot be listed: "
            "`claudedo worker start` first, to see them."
        )
        return None
    # Only the worker can end sessions and judge worktrees, so here even a missing one is started.
    return [task for task in client.connect(start=True).tasks() if task["supervised"]]


def _announce(settings: Settings, tasks: list[dict[str, Any]] | None) -> None:
    render.show("This will be done:")
    for task in tasks or []:
        if _runs(task):
            render.show(f"  stop the session of {task['name']}")
        render.show(f"  remove the task {task['name']}")
        if task["worktree"]:
            render.show(
                f"    and {task['worktree']}, if we made it and it holds no work of its own"
            )
    if tasks is not None:
        render.show("  stop the worker")
    for entry in _ours(settings):
        render.show(f"  remove {entry}")


def _runs(task: dict[str, Any]) -> bool:
    return bool(task["session"]) and SessionState(task["session"]["state"]).live


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not render.can_ask():
        raise RefusedError("uninstall asks before it removes anything; without a terminal: --yes.")
    if not render.ask("Go on?"):
        raise RefusedError("Nothing was done.")


def _end_tasks(client: WorkerClient, tasks: list[dict[str, Any]], rest: _Rest) -> None:
    """Stop every session, then remove every task that has no work of its own.

    A session that cannot be stopped raises: what it needs must not be removed under it.
    """
    for task in tasks:
        if _runs(task):
            client.stop(task["id"])
            render.note(f"{task['name']} stopped")
    for task in tasks:
        try:
            client.remove(task["id"])
        except ClaudedoError as error:
            rest.add(task["name"], error)


def _ours(settings: Settings) -> list[Path]:
    """What is in the state directory, less what the person put there."""
    inside = settings.run.parent == settings.home
    folders = (settings.home,) if inside else (settings.home, settings.run)
    return [
        entry
        for folder in folders
        if folder.is_dir()
        for entry in sorted(folder.iterdir())
        if _is_ours(settings, entry)
    ]


def _is_ours(settings: Settings, entry: Path) -> bool:
    """True for names that claudedo gives: CLAUDEDO_HOME may have been somebody's folder."""
    if entry.parent == settings.run:
        return entry.suffix == ".sock"
    files = ("claudedo.db", "worker.", "start.lock")
    folders = ("sessions", "setup-logs", "runs", "programs", "run")
    return entry.name.startswith(files) or entry.name in folders


def _remove_state(settings: Settings, rest: _Rest) -> None:
    for entry in _ours(settings):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    for folder in (settings.run, settings.home):
        if folder.is_dir():
            _remove_empty(folder, rest)


def _remove_empty(folder: Path, rest: _Rest) -> None:
    left = list(folder.iterdir())
    for entry in left:
        rest.add(entry, "claudedo did not make it")
    if not left:
        folder.rmdir()


def _name_rest(rest: _Rest) -> None:
    render.show("Done. This stays:")
    for text in (*rest.lines, *_always_there()):
        render.show(f"  {text}")


def _always_there() -> Iterator[str]:
    yield "the conversations that Claude Code keeps, and the trust you gave folders in it"
    yield "the package itself: remove it the way you installed it (pipx, uv tool, pip)"
