"""Real `claude` binaries for tests, and the throw-away surroundings they run in.

The binaries come from CLAUDEDO_TEST_CLAUDES, a colon-separated list that the Makefile prepares.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from claudedo.demo.home import create_home, environment
from claudedo.demo.repository import make_repository

__all__ = ["ClaudeHome", "claude_params", "create_claude_home", "make_repository", "require_claude"]

BINARIES = "CLAUDEDO_TEST_CLAUDES"


@dataclass(frozen=True, kw_only=True)
class ClaudeHome:
    """A home, a trusted repository beside it, and the whole environment for a `claude` in them."""

    path: Path
    repository: Path
    environment: dict[str, str]


def create_claude_home(
    directory: Path,
    model_url: str,
    *,
    trusted: bool = True,
    channels: bool = True,
    also_trusted: Iterable[Path] = (),
) -> ClaudeHome:
    """Makes `directory`/home and `directory`/repository; asks the model at `model_url`.

    `trusted`: whether the repository's trust dialog is already answered.
    """
    home, repository = directory / "home", make_repository(directory / "repository")
    folders = [*also_trusted, *([repository] if trusted else [])]
    create_home(home, trusted=folders, channels=channels)
    return ClaudeHome(path=home, repository=repository, environment=environment(home, model_url))


def claude_params() -> list[str]:
    """Parameters for a fixture that gives each binary in turn; see `require_claude`."""
    return [name for name in os.environ.get(BINARIES, "").split(os.pathsep) if name] or [""]


def require_claude(param: str) -> Path:
    """The binary `param` names. Without any: skips on a developer's machine, fails in CI."""
    if param:
        return Path(param)
    if os.environ.get("CI"):
        pytest.fail(f"{BINARIES} is not set: CI has to run the real Claude CLI")
    pytest.skip(f"{BINARIES} is not set")
