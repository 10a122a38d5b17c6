"""Where the branch of a task begins that builds on the work of others: one commit with all of it.

Made of objects: no branch moves and nobody's files are touched (docs/decisions/008). Knows git, and
nothing of tasks but their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import ConflictError
from claudedo_worker import git
from claudedo_worker.three_way import merged

_NAMED = 5
"""How many files in conflict are named in a sentence."""


@dataclass(frozen=True)
class Work:
    """What one task left: its name, and the commit at the tip of its branch."""

    name: str
    commit: str


async def join(main: Path, works: Sequence[Work], environ: Mapping[str, str]) -> str:
    """A commit of the repository of `main` that has all of `works` in its history.

    Where one of them has the others already, it is that one itself. Raises `ConflictError` naming
    the tasks and files that do not go together.
    """
    first, *rest = works
    names, tip = [first.name], first.commit
    for work in rest:
        if not await _has(main, tip, work.commit):
            tip = await _merge(main, names, tip, work, environ)
        names.append(work.name)
    return tip


async def _merge(
    main: Path, names: Sequence[str], ours: str, theirs: Work, environ: Mapping[str, str]
) -> str:
    if await _has(main, theirs.commit, ours):
        return theirs.commit
    variables = git.of_person(environ)
    merge = await merged(main, ours, theirs.commit, environ=variables)
    if merge.conflicts:
        files = ", ".join(merge.conflicts[:_NAMED])
        more = len(merge.conflicts) - _NAMED
        raise ConflictError(
            f"The work of {theirs.name} and of {' and '.join(names)} conflicts in {files}"
            f"{f' and {more} more' if more > 0 else ''}: merge them by hand, or let one need "
            "the other."
        )
    message = f"Join the work of {', '.join(names)} and {theirs.name}"
    made = await git.write(
        main,
        *(*(await identity(main, variables)), "commit-tree", merge.tree),
        *("-p", ours, "-p", theirs.commit, "-m", message),
        environ=variables,
    )
    return made.line


async def identity(directory: Path, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Options of git that name who commits: nothing if git knows, else claudedo itself.

    A machine of a build has no person, and git refuses to make up one.
    """
    for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        known = await git.read(directory, "var", who, accept=(0, 1, 128), environ=variables)
        if known.status != 0:
            return "-c", "user.name=claudedo", "-c", "user.email=claudedo@localhost"
    return ()


async def _has(main: Path, commit: str, other: str) -> bool:
    """Whether `other` is in the history of `commit`."""
    asked = ("merge-base", "--is-ancestor", other, commit)
    return (await git.read(main, *asked, accept=(0, 1))).status == 0
