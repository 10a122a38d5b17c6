"""Reads the CLI's own registry of running sessions.

`<config>/sessions/<pid>.json` is written by every interactive `claude` within 0.1 s of each
change and removed at a clean exit (docs/claude-cli.md 8.4, 16.1-16.3).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from claudedo.model import SessionState, stamp
from claudedo_worker import processes

CLOCK_SLACK = 2.0
"""Seconds by which a process's start time and a file's time may differ for the same moment."""

_SHELL = "shell"  # the turn is over, a background command still runs; input is accepted (16.2)
_STATES = {
    "idle": SessionState.IDLE,
    _SHELL: SessionState.IDLE,
    "busy": SessionState.BUSY,
    "waiting": SessionState.WAITING,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the CLI says of one of its processes."""

    pid: int
    conversation: str
    state: SessionState | None  # None for a few milliseconds after the start
    waiting_for: str | None
    version: str | None
    name: str | None = None  # given by a person, or made of its folder's name (33.1)
    cwd: str | None = None
    since: str | None = None  # when its status became what it is
    background: bool = False  # a command runs in its background
    at_terminal: bool = True  # False: started by `-p`, an editor or another program


def read(config_dir: Path, pid: int, since: float) -> Entry | None:
    """The registry entry of process `pid`, which began at `since` (Unix time).

    None while there is none or it is being written, and for a file that an earlier process of
    this number left: one that is killed, or was running at a reboot, does not remove its own.
    """
    path = config_dir / "sessions" / f"{pid}.json"
    try:
        written = path.stat().st_mtime
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("sessionId"), str):
        return None
    if not _is_about(data, pid, written, since):
        return None
    status = data.get("status")
    return Entry(
        pid=pid,
        conversation=data["sessionId"],
        state=_STATES.get(status) if isinstance(status, str) else None,
        waiting_for=_text(data.get("waitingFor")),
        version=_text(data.get("version")),
        name=_text(data.get("name")),
        cwd=_text(data.get("cwd")),
        since=_moment(data.get("statusUpdatedAt") or data.get("updatedAt")),
        background=status == _SHELL,
        at_terminal=data.get("entrypoint", "cli") == "cli",
    )


def _is_about(data: dict[str, Any], pid: int, written: float, since: float) -> bool:
    """True if the file is of the process that has this number now.

    The kernel's own count of a process's start (33.1) stays what it is when
    the clock is set; times of day, the file's or a process's, do not.
    """
    begun = data.get("procStart")
    now = processes.start_mark(pid) if isinstance(begun, str) and begun.isdigit() else None
    return written >= since - CLOCK_SLACK if now is None else begun == now


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _moment(milliseconds: Any) -> str | None:
    if not isinstance(milliseconds, int | float):
        return None
    try:
        return stamp(datetime.fromtimestamp(milliseconds / 1000, UTC))
    except (OverflowError, OSError, ValueError):
        return None  # not a time that there is


def running(config_dir: Path) -> Iterator[Entry]:
    """The entries of all processes that run now, whoever started them."""
    for path in (config_dir / "sessions").glob("*.json"):
        since = processes.started_at(int(path.stem)) if path.stem.isdecimal() else None
        if since is not None and (entry := read(config_dir, int(path.stem), since)):
            yield entry


def config_dir(environ: dict[str, str]) -> Path:
    """Where a `claude` with this environment keeps its files (16.1)."""
    if chosen := environ.get("CLAUDE_CONFIG_DIR"):
        return Path(chosen)
    return Path(environ.get("HOME") or "~").expanduser() / ".claude"


def environment_for(folder: Path, environ: dict[str, str]) -> dict[str, str]:
    """`environ` with which a `claude` keeps its files in that folder.

    Named only where it has to be: the variable also moves `.claude.json` into the folder (16.1).
    """
    if config_dir(environ) == folder:
        return environ
    plain = {key: value for key, value in environ.items() if key != "CLAUDE_CONFIG_DIR"}
    if config_dir(plain) == folder:
        return plain
    return plain | {"CLAUDE_CONFIG_DIR": str(folder)}


def global_config(environ: dict[str, str]) -> Path:
    """The file with onboarding, trust and approvals (`.claude.json`)."""
    if chosen := environ.get("CLAUDE_CONFIG_DIR"):
        return Path(chosen) / ".claude.json"
    return Path(environ.get("HOME") or "~").expanduser() / ".claude.json"


def trusts(environ: dict[str, str], folder: Path) -> bool:
    """True if the person accepted the trust dialog for `folder` or one of its parents (3.2)."""
    try:
        projects = json.loads(global_config(environ).read_bytes()).get("projects", {})
    except (FileNotFoundError, ValueError, AttributeError):
        return False
    return any(
        (projects.get(str(candidate)) or {}).get("hasTrustDialogAccepted") is True
        for candidate in (folder, *folder.parents)
    )
