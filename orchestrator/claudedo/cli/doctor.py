"""`claudedo doctor`: looks for what keeps claudedo from working, and says what to do.

Needs no worker, and starts none unless asked to with --fix.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from claudedo import settings as configuration
from claudedo.cli import options, render
from claudedo.cli.exits import Exit
from claudedo.cli.worker import stop_and_wait
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError
from claudedo.settings import (
    LONGEST_SOCKET_NAME,
    MAX_SOCKET_PATH,
    OLDEST_CLAUDE,
    make_private,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from claudedo.settings import Settings

app = typer.Typer()

_MEGABYTE = 1024 * 1024
_COMMAND_SECONDS = 30

# docs/claude-cli.md 4.2: each of these switches the feature off, whatever the account has.
_SILENCES_CHANNELS = (
    "DISABLE_TELEMETRY",
    "DISABLE_GROWTHBOOK",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
)

Health = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found: how it is, and what to do if it is not well."""

    check: str
    health: Health
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to look at, and how to repair it where claudedo can."""

    look: Callable[[Settings], Finding]
    repair: Callable[[Settings], None] | None = None


@app.command(rich_help_panel="Service")
def doctor(
    json_output: options.AsJson = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what claudedo can repair.")] = False,
) -> None:
    """Look for what keeps claudedo from working. Status 1 when there is a problem.

    Example: claudedo doctor --fix
    """
    settings = configuration.load()
    findings = []
    for finding in _examine(settings, fix):
        findings.append(finding)
        if not json_output:
            _print(finding)
    if json_output:
        render.as_json([asdict(finding) for finding in findings])
    if any(finding.health == "problem" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _examine(settings: Settings, fix: bool) -> Iterator[Finding]:
    for check in _CHECKS:
        finding = check.look(settings)
        if fix and finding.health != "ok" and check.repair:
            finding = _repaired(check, check.repair, settings, finding)
        yield finding


def _repaired(
    check: Check, repair: Callable[[Settings], None], settings: Settings, finding: Finding
) -> Finding:
    try:
        repair(settings)
    except (ClaudedoError, OSError) as error:
        return replace(finding, detail=f"{finding.detail}; not repaired: {error}")
    after = check.look(settings)
    return replace(after, detail=f"repaired: {after.detail}") if after.health == "ok" else after


def _print(finding: Finding) -> None:
    mark, style = _MARKS[finding.health]
    render.show(f"{mark} {finding.check}: {render.line(finding.detail)}", style)
    if finding.advice:
        render.show(f"    {finding.advice}")


_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


# Our own files


def _home(settings: Settings) -> Finding:
    name, home = "state directory", settings.home
    if not home.exists():
        parent = next(folder for folder in home.parents if folder.exists())
        if os.access(parent, os.W_OK) and parent.is_dir():
            return Finding(name, "ok", f"{home} will be made when it is needed")
        return Finding(name, "problem", f"{home} cannot be made in {parent}", _ELSEWHERE)
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Finding(name, "problem", f"{home} is no folder that you can write to", _ELSEWHERE)
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        detail = f"{home} can be read by others (mode {mode:o})"
        return Finding(name, "problem", detail, f"chmod 700 {home}, or --fix")
    return Finding(name, "ok", str(home))


_ELSEWHERE = "Set CLAUDEDO_HOME to a folder of your own."


def _make_private(settings: Settings) -> None:
    make_private(settings.home)


def _disk(settings: Settings) -> Finding:
    folder = next(one for one in (settings.home, *settings.home.parents) if one.exists())
    free = shutil.disk_usage(folder).free // _MEGABYTE
    advice = "Make room: messages that cannot be stored are refused."
    if free < 50:
        return Finding("disk space", "problem", f"{free} MB free at {folder}", advice)
    if free < 500:
        return Finding("disk space", "warning", f"{free} MB free at {folder}", advice)
    return Finding("disk space", "ok", f"{free:,} MB free")


def _sockets(settings: Settings) -> Finding:
    longest = len(os.fsencode(settings.run / LONGEST_SOCKET_NAME))
    detail = f"{settings.run} ({longest} of {MAX_SOCKET_PATH} bytes)"
    if longest > MAX_SOCKET_PATH:
        return Finding("socket paths", "problem", detail, "Set CLAUDEDO_HOME to a shorter path.")
    return Finding("socket paths", "ok", detail)


def _database(settings: Settings) -> Finding:
    if not settings.database.exists():
        return Finding("database", "ok", "will be made when it is needed")
    client = WorkerClient(settings)
    try:
        running = client.ready()
        answer = client.connect(start=False).check() if running else _checked(settings.database)
    except ClaudedoError as error:
        return Finding("database", "warning", f"could not be looked at: {error}")
    if answer == "ok":
        return Finding("database", "ok", "is sound")
    advice = f"Stop the worker, keep a copy of {settings.database}, and restore a backup."
    return Finding("database", "problem", f"{settings.database}: {answer}", advice)


def _checked(database: Path) -> str:
    """What a database that nobody has open says of itself."""
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            return str(opened.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)


# The worker


def _worker(settings: Settings) -> Finding:
    client = WorkerClient(settings)
    try:
        if not client.ready():
            return _absent_worker(client)
        about = client.connect(start=False).worker()
    except ClaudedoError as error:
        return Finding("worker", "problem", str(error), "claudedo worker stop, then try again.")
    detail = f"runs, process {about['pid']}, version {about['version']}, {about['url']}"
    if (ours := _our_version()) not in (None, about["version"]):
        advice = "claudedo worker stop, or --fix: sessions go on, the next command starts the new."
        return Finding("worker", "warning", f"{detail}; this command is {ours}", advice)
    return Finding("worker", "ok", detail)


def _absent_worker(client: WorkerClient) -> Finding:
    if client.listening():
        detail = "accepts connections but does not answer"
        return Finding("worker", "problem", detail, f"Look at {client.settings.log}.")
    if client.settings.worker_socket.exists():
        detail = "does not run; it did not end by itself (its socket is still there)"
        return Finding("worker", "warning", detail, "Any command starts it again; so does --fix.")
    return Finding("worker", "ok", "does not run; any command that needs it starts it")


def _renew_worker(settings: Settings) -> None:
    client = WorkerClient(settings)
    if client.ready():
        stop_and_wait(client)
    client.connect(start=True)


def _our_version() -> str | None:
    try:
        return version("claudedo")
    except PackageNotFoundError:
        return None  # run from a source tree that was never installed


def _port(settings: Settings) -> Finding:
    if settings.port is None:
        return Finding("port", "ok", "any free port of 127.0.0.1")
    if WorkerClient(settings).listening():
        return Finding("port", "ok", f"{settings.port}, in use by the worker")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.port))
        except OSError as error:
            advice = f"Choose another port in {settings.config_file}, or none."
            return Finding("port", "problem", f"{settings.port}: {error.strerror}", advice)
    return Finding("port", "ok", f"{settings.port} is free")


# What we need from others


def _claude(settings: Settings) -> Finding:
    found = shutil.which(settings.claude)
    if found is None:
        advice = "Install Claude Code, or set CLAUDEDO_CLAUDE to its path."
        return Finding("claude", "problem", f"{settings.claude} is not found", advice)
    answer = _first_line([found, "--version"])
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", answer)
    oldest = ".".join(map(str, OLDEST_CLAUDE))
    if not numbers:
        return Finding("claude", "problem", f"{found} --version says: {answer}", "Install it anew.")
    if tuple(map(int, numbers.groups())) < OLDEST_CLAUDE:
        advice = f"Update Claude Code: claudedo needs {oldest} or newer."
        return Finding("claude", "problem", f"{found} is {numbers[0]}", advice)
    return Finding("claude", "ok", f"{found}, version {numbers[0]}")


def _git(settings: Settings) -> Finding:
    found = shutil.which("git")
    if found is None:
        return Finding("git", "problem", "is not found", "Install git: worktrees need it.")
    return Finding("git", "ok", f"{found}, {_first_line([found, '--version'])}")


def _python(settings: Settings) -> Finding:
    """Sessions run their small programs with the base interpreter, which outlives upgrades."""
    base = str(getattr(sys, "_base_executable", sys.executable))
    answer = _first_line([base, "-I", "-S", "-c", "import json, socket; print('works')"])
    if answer == "works":
        return Finding("python", "ok", base)
    return Finding(
        "python", "problem", f"{base}: {answer}", "Install claudedo with another Python."
    )


def _first_line(command: list[str]) -> str:
    """The first line a command prints, or why there is none."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else f"nothing (exit status {done.returncode})"


def _channels(settings: Settings) -> Finding:
    name = "channels"
    otherwise = "Idle sessions are woken by other means: nothing is lost, it is a little slower."
    if not settings.channels:
        return Finding(name, "ok", f"switched off in {settings.config_file}")
    silent = [key for key in _SILENCES_CHANNELS if os.environ.get(key)]
    if silent:
        return Finding(name, "warning", f"off, because {', '.join(silent)} is set", otherwise)
    return Finding(name, "ok", "used where the account has them; `claudedo show T` says where")


_CHECKS = (
    Check(_home, _make_private),
    Check(_disk),
    Check(_sockets),
    Check(_database),
    Check(_worker, _renew_worker),
    Check(_port),
    Check(_claude),
    Check(_git),
    Check(_python),
    Check(_channels),
)
