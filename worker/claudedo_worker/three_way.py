"""What merging two commits would give, as objects: touches no branch and nobody's files or index.

Knows nothing of tasks or worktrees. `git merge-tree --write-tree` came with git 2.38; with an older
git the merge is tried in a checkout of its own that is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import RefusedError
from claudedo_worker import git

_UNKNOWN_OPTION = 129  # how git ends when it does not know what is asked
# A try must not run anybody's hooks or remember how conflicts look.
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "rerere.enabled=false")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The files that a merge would give."""

    tree: str  # its id; with conflicts, the marked files are in it
    conflicts: tuple[str, ...] = ()  # paths


async def merged(
    directory: Path, ours: str, theirs: str, *, environ: Mapping[str, str] | None = None
) -> Merged:
    """The merge of the commit `theirs` into the commit `ours` of the repository of `directory`.

    Raises `RefusedError` if the two have no common ancestor, `GitError` if git fails.
    """
    tried = await merged_as_objects(directory, ours, theirs, environ=environ)
    return tried or await _merged_in_checkout(directory, ours, theirs, environ)


async def merged_as_objects(
    directory: Path, ours: str, theirs: str, *, environ: Mapping[str, str] | None = None
) -> Merged | None:
    """The same; None if this git is too old to do it without a checkout."""
    answer = await git.read(
        directory,
        *("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs),
        accept=(0, 1, 128, _UNKNOWN_OPTION),
        limit=git.WRITE_LIMIT,
        environ=environ,
    )
    if answer.status == _UNKNOWN_OPTION:
        return None
    if answer.status == 128:
        raise _failure(answer.err)
    tree, *conflicts = answer.fields
    return Merged(tree=tree.strip(), conflicts=tuple(dict.fromkeys(conflicts)))


async def _merged_in_checkout(
    directory: Path, ours: str, theirs: str, environ: Mapping[str, str] | None
) -> Merged:
    async with _checkout(directory, ours) as checkout:
        tried = await git.read(
            checkout,
            *(*_QUIET, "merge", "--quiet", "--no-commit", "--no-ff", "--no-stat", theirs),
            accept=(0, 1, 128),
            limit=git.WRITE_LIMIT,
            environ=environ,
        )
        if tried.status == 128:
            raise _failure(tried.err)
        unmerged = await git.read(checkout, "diff", "--name-only", "--diff-filter=U", "-z")
        if tried.status and not unmerged.fields:
            raise git.GitError(f"git cannot merge {theirs} into {ours}: {tried.err}", tried.err)
        tree = "" if unmerged.fields else (await git.write(checkout, "write-tree")).line
        return Merged(tree=tree, conflicts=tuple(unmerged.fields))


@contextlib.asynccontextmanager
async def _checkout(directory: Path, commit: str) -> AsyncIterator[Path]:
    """A throw-away worktree in the folder for temporary files."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="claudedo-merge-"))
    place = folder / "checkout"
    try:
        await git.write(
            directory, *_QUIET, "worktree", "add", "--quiet", "--detach", str(place), commit
        )
        try:
            yield place
        finally:
            await git.write(directory, "worktree", "remove", "--force", str(place))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _failure(said: str) -> RefusedError | git.GitError:
    if "unrelated histories" in said:
        return RefusedError("The two have no commit in common, so git cannot merge them.")
    return git.GitError(f"git cannot merge: {said}", said)
