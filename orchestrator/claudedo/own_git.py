"""git, run by a command for the person: with their environment, in the repository that is meant.

What the worker does with git is its own (`claudedo_worker.git`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from claudedo.errors import ClaudedoError, RefusedError

_KEPT = ("GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS")
"""The person's own `git -c`, which git counts among what is tied to a repository."""


def environment() -> dict[str, str]:
    """This shell's environment without what ties git to another repository, as in a git hook."""
    tied = (answer("git", "rev-parse", "--local-env-vars", cwd="/", env=os.environ) or "").split()
    return {key: value for key, value in os.environ.items() if key in _KEPT or key not in tied}


def answer(
    program: str, *arguments: str, cwd: str | Path, env: Mapping[str, str] | None = None
) -> str | None:
    """What git, or a program like it, prints, without the last newlines; None if it fails.

    Raises `ClaudedoError` if there is no such program, or no such folder.
    """
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environment() if env is None else env,
            stdout=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise ClaudedoError(f"{program} cannot be run in {cwd}: {error.strerror}.") from error
    return os.fsdecode(done.stdout).rstrip("\n") if done.returncode == 0 else None


def remote_of(folder: str | Path) -> str:
    """Where to push: `remote.pushDefault`, the only remote, or `origin`.

    Raises `RefusedError` where none of them says.
    """
    env = environment()
    if chosen := answer("git", "config", "--get", "remote.pushDefault", cwd=folder, env=env):
        return chosen
    remotes = (answer("git", "remote", cwd=folder, env=env) or "").split()
    if not remotes:
        raise RefusedError(
            f"The repository of {folder} has no remote to push to; see `git remote`."
        )
    if len(remotes) > 1 and "origin" not in remotes:
        raise RefusedError(
            f"There are several remotes ({', '.join(remotes)}); choose one: "
            "`git config remote.pushDefault NAME`."
        )
    return remotes[0] if len(remotes) == 1 else "origin"
