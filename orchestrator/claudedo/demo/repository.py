"""A small git repository to work in, independent of the user's git configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

IDENTITY = {"user.name": "Demo", "user.email": "demo@localhost", "commit.gpgsign": "false"}


def make_repository(path: Path) -> Path:
    """Creates a repository with one commit on `main` at `path`, and returns `path` resolved.

    The identity is set in the repository itself, so that later commits need nobody's. Raises
    CalledProcessError when git refuses.
    """
    path.mkdir(parents=True, exist_ok=True)
    _git(path, "init", "--quiet", "--initial-branch=main")
    for name, value in IDENTITY.items():
        _git(path, "config", name, value)
    (path / "README.md").write_text("# Scripted\n")
    _git(path, "add", "README.md")
    _git(path, "commit", "--quiet", "--message=Begin")
    return path.resolve()


def _git(path: Path, *arguments: str) -> None:
    # GIT_DIR and its like would lead elsewhere when we run inside somebody's git hook.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["git", "-C", str(path), *arguments], check=True, env=clean, capture_output=True, text=True
    )
