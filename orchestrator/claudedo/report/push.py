"""Pushes the branches of one-shot tasks that completed, one by one, and never by force."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo import own_git
from claudedo.errors import ClaudedoError
from claudedo.model import QueueStatus

_SECRET = re.compile(r"(?<=://)[^/@\s]+@")  # who a URL is asked as


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What became of one branch; `line` says it to the person."""

    name: str
    branch: str | None
    done: bool
    line: str


def push(reports: Iterable[Mapping[str, Any]], *, remote: str | None = None) -> Iterator[Pushed]:
    """Push the branch of each task that completed; yields what became of it as it is done.

    `reports` are answers of `GET /api/queue/{task}/report`. Without `remote`: what `merge --pr`
    pushes to. One that fails keeps none of the others back.
    """
    for one in reports:
        if one["status"] == QueueStatus.COMPLETED:
            done, what = _push(one, remote)
            line = f"{one['name']}: {_SECRET.sub('', what)}"
            yield Pushed(name=one["name"], branch=one["branch"], done=done, line=line)


def _push(one: Mapping[str, Any], remote: str | None) -> tuple[bool, str]:
    branch, folder = one["branch"], _folder(one)
    if not branch or folder is None:
        return False, f"not pushed: it has no {'branch' if folder else 'repository any more'}"
    try:
        remote = remote or own_git.remote_of(folder)
        return _pushed(folder, remote, branch)
    except ClaudedoError as error:
        return False, f"{branch} is not pushed: {error}"


def _folder(one: Mapping[str, Any]) -> str | None:
    """Where git knows the branch: hooks and settings are those of the repository."""
    return next((str(p) for p in (one["worktree"], one["repo"]) if p and Path(p).is_dir()), None)


def _pushed(folder: str, remote: str, branch: str) -> tuple[bool, str]:
    ref = f"refs/heads/{branch}"
    try:
        ran = subprocess.run(
            ["git", "push", "--porcelain", "--no-mirror", "--", remote, f"{ref}:{ref}"],
            cwd=folder,
            env=own_git.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise ClaudedoError(f"git cannot be run in {folder}: {error.strerror}.") from error
    told = os.fsdecode(ran.stdout)
    if ran.returncode == 0:
        same = any(line.startswith("=") for line in told.splitlines())
        return True, f"{branch} is {'at' if same else 'pushed to'} {remote}{' already' * same}"
    refused = [line.split("\t")[-1] for line in told.splitlines() if line.startswith("!")]
    why = refused or [line for line in os.fsdecode(ran.stderr).splitlines() if line.strip()][:3]
    about = "; ".join(why) or f"git push ended with {ran.returncode}"
    return False, f"{branch} is not pushed to {remote}: {about}"
