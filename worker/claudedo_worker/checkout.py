"""Looks at the checkout that a task works in: what came since its base, what is not committed.

Reads only, through GitPython in a thread; what writes or takes long goes through `git`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from git import GitError, Repo


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The state of a task's folder. `changed` counts files, untracked ones included."""

    branch: str | None  # None on a detached HEAD
    commits: int  # since the base
    changed: int


async def look(folder: str | None, base: str | None) -> Checkout | None:
    """The state of `folder`; None if it is gone or no checkout (any more)."""
    if folder is None or base is None or not Path(folder).is_dir():
        return None
    return await asyncio.to_thread(_look, folder, base)


def _look(folder: str, base: str) -> Checkout | None:
    try:
        with Repo(folder, search_parent_directories=True) as repo:
            return Checkout(
                branch=repo.git.branch("--show-current") or None,
                commits=int(repo.git.rev_list("--count", f"{base}..HEAD")),
                changed=len(repo.git.status("--porcelain").splitlines()),
            )
    except GitError:
        # A base that was pruned, a folder that is no checkout any more: there is nothing to say.
        return None
