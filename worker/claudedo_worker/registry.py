"""Reads the CLI's own registry of running sessions.

`<config>/sessions/<pid>.json` is written by every interactive `claude` within 0.1 s of each
change and removed at a clean exit (docs/claude-cli.md 8.4, 16.1-16.3).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from claudedo.model import SessionState
from claudedo_worker import processes

CLOCK_SLACK = 2.0
"""Seconds by which a process's start time and a file's time may differ for the same moment."""

# `shell`: the turn is over, a background command still runs; input is accepted (16.2).
_STATES = {
    "idle": SessionState.IDLE,
    "shell": SessionState.IDLE,
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


def read(config_dir: Path, pid: int, since: float) -> Entry | None:
    """The registry entry of process `pid`, which began at `since` (Unix time).

    None while there is none or it is being written, and for a file that an earlier process of
    this number left: one that is killed, or was running at a reboot, does not remove its own.
    """
    path = config_dir / "sessions" / f"{pid}.json"
    try:
        if path.stat().st_mtime < since - CLOCK_SLACK:
            return None
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("sessionId"), str):
        return None
    return Entry(
        pid=pid,
        conversation=data["sessionId"],
        state=_STATES.get(data.get("status", "")),
        waiting_for=data.get("waitingFor"),
        version=data.get("version"),
    )


def running(config_dir: Path) -> Iterator[Entry]:
    """The entries of all processes that run now, whoever started them."""
    for path in (config_dir / "sessions").glob("*.json"):
        since = processes.started_at(int(path.stem)) if path.stem.isdigit() else None
        if since is not None and (entry := read(config_dir, int(path.stem), since)):
            yield entry


def config_dir(environ: dict[str, str]) -> Path:
    """Where a `claude` with this environment keeps its files (16.1)."""
    if chosen := environ.get("CLAUDE_CONFIG_DIR"):
        return Path(chosen)
    return Path(environ.get("HOME") or "~").expanduser() / ".claude"


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
