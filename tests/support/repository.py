"""Small real git repositories, and worktrees in them as claudedo makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def git(folder: Path, *arguments: str) -> str:
    """What git says, as somebody who may commit."""
    done = subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def a_repository(folder: Path) -> Path:
    """A repository with one commit on `main`."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "begin")
    return folder


def a_worktree(repository: Path, name: str) -> dict[str, Any]:
    """Make one; returns what its task knows of it."""
    place, branch = repository.parent / "trees" / name, f"claudedo/{name}"
    git(repository, "worktree", "add", "-q", "-b", branch, str(place))
    return {
        "repo": str(repository),
        "worktree": str(place),
        "branch": branch,
        "base": git(repository, "rev-parse", "HEAD"),
        "base_branch": "main",
    }
