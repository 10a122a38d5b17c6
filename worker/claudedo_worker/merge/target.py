"""The branch that is merged into: finds it, sees what is in the way, moves it.

A checkout that has it checked out is moved as `git merge --ff-only` moves it, and only if no file
with changes of its person is in the way; no other checkout is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import ConflictError, NotFoundError, RefusedError
from claudedo_worker import git
from claudedo_worker.merge.job import Job, named, paths_file, tip_of
from claudedo_worker.merge.source import Source
from claudedo_worker.work import operation_in


@dataclass(frozen=True, kw_only=True)
class Target:
    """The branch that is merged into, as it was when it was looked at."""

    branch: str
    commit: str
    checkout: Path | None  # where it is checked out


_NAMES = ("diff", "--name-only", "--no-renames")
_IN_THE_WAY = ("would be overwritten", "would lose untracked")


class MovedError(Exception):
    """Somebody else moved the target meanwhile."""


async def target_branch(job: Job, source: Source) -> str:
    """Which branch the work goes to. Raises `NotFoundError`, `ConflictError`, `RefusedError`."""
    into = job.into or job.base_branch or await _likely_base(job)
    if into == source.branch:
        raise RefusedError(
            f"{job.name} works on {into} itself, so there is nothing to merge; "
            "name another branch with --into."
        )
    if await tip_of(job.main, into) is None:
        if job.into:
            raise NotFoundError(f"There is no branch {into!r} in {job.main}.")
        raise ConflictError(
            f"The branch {into}, from which {job.name} started, is gone; "
            "name another one with --into."
        )
    return into


async def _likely_base(job: Job) -> str:
    """For a task that did not start from a branch: the only one that has its base."""
    names: set[str] = set()
    if job.made_branch and job.base and await git.commit(job.main, job.base):
        listed = await git.read(
            job.main,
            *("for-each-ref", "--format=%(refname)", f"--contains={job.base}", "refs/heads"),
        )
        names = {line.removeprefix("refs/heads/") for line in listed.out.splitlines()}
        names -= {job.branch, *job.others}
    if len(names) == 1:
        return names.pop()
    choice = f" ({named(sorted(names))} have its first commit)" if names else ""
    raise RefusedError(
        f"Which branch {job.name} is for is not known{choice}; name it with --into BRANCH."
    )


async def find_target(job: Job, into: str) -> Target:
    """Raises `ConflictError` if somebody is in the middle of something with it."""
    commit = await tip_of(job.main, into)
    if commit is None:
        raise ConflictError(f"The branch {into} is gone; name another one with --into.")
    places = [c for c in await git.checkouts(job.main) if c.branch == into]
    if len(places) > 1:
        there = named([str(place.path) for place in places])
        raise ConflictError(f"{into} is checked out in {there}; leave it in one of them.")
    for place in places:
        if not place.present:
            raise ConflictError(
                f"{into} is checked out in {place.path}, which is not there; bring it back, or "
                f"forget it: `git -C {job.main} worktree prune`."
            )
        if operation := await operation_in(place.path):
            raise ConflictError(
                f"{into} is checked out in {place.path}, where {operation} is in progress; "
                "finish it first."
            )
    if await asyncio.to_thread(_is_rebased, await git.git_dir(job.main, common=True), into):
        raise ConflictError(f"A rebase of {into} is in progress; finish it first.")
    return Target(branch=into, commit=commit, checkout=places[0].path if places else None)


def _is_rebased(common: Path, branch: str) -> bool:
    """Whether a checkout is in the middle of rebasing `branch`: it says so in its git folder."""
    names = [
        folder / kind / "head-name"
        for folder in (common, *common.glob("worktrees/*"))
        for kind in ("rebase-merge", "rebase-apply")
    ]
    return any(n.is_file() and n.read_text().strip() == f"refs/heads/{branch}" for n in names)


# Moving the branch


async def check_way(job: Job, target: Target, tree: str) -> None:
    """Refuse to touch a file of the target's checkout that has changes of its own."""
    if target.checkout is None:
        return
    changing, added = await _differences(target.checkout, target.commit, tree)
    dirty = await git.read(
        target.checkout, *_NAMES, "--ignore-submodules=dirty", "-z", target.commit
    )
    staged = await git.read(target.checkout, *_NAMES, "--cached", "-z", target.commit)
    theirs = {*dirty.fields, *staged.fields}
    there = {name for name in added if os.path.lexists(target.checkout / name)}
    if blocked := sorted((theirs & changing) | there):
        raise ConflictError(
            f"{target.branch} is checked out in {target.checkout}, where {named(blocked)} has "
            f"changes of yours that the merge would overwrite; nothing was changed. "
            "Commit or stash them there first."
        )


async def _differences(checkout: Path, old: str, new: str) -> tuple[set[str], set[str]]:
    """The files that differ between two commits or trees, and those that `old` lacks."""
    listed = await git.read(checkout, *_NAMES, "-z", old, new)
    added = await git.read(checkout, *_NAMES, "--diff-filter=A", "-z", old, new)
    return {*listed.fields}, {*added.fields}


async def advance(job: Job, target: Target, new: str) -> None:
    """Put the target on the commit `new`, which is a descendant. Raises `MovedError`.

    If git breaks off in the middle, a checkout of the target gets its files back.
    """
    try:
        await _move(job, target, new)
    except git.GitError as error:
        now = await tip_of(job.main, target.branch)
        if now == new:
            return
        if now != target.commit:
            raise MovedError from error
        if any(words in error.stderr for words in _IN_THE_WAY):
            raise ConflictError(
                f"{target.branch} is checked out in {target.checkout}, where files are in the "
                f"way; nothing was changed. git says: {error.stderr}"
            ) from error
        await _put_back(job, target, new)
        raise
    except BaseException:  # cancelled, or it took too long: git was ended
        await asyncio.shield(_put_back(job, target, new))
        raise


async def _move(job: Job, target: Target, new: str) -> None:
    if target.checkout is None:
        change = (f"refs/heads/{target.branch}", new, target.commit)
        reason = f"claudedo: merge {job.name}"
        await git.write(job.main, "update-ref", "-m", reason, *change, environ=job.variables)
        return
    await git.write(
        target.checkout,
        *("merge", "--ff-only", "--no-squash", "--no-verify-signatures", "--no-autostash"),
        *("--no-overwrite-ignore", "--no-stat", "--quiet", new),
        environ=job.variables,
    )


async def _put_back(job: Job, target: Target, new: str) -> None:
    """Undo what a broken off update did to files; all of them were as committed before it.

    The index is written last, so it still has them as they were.
    """
    if target.checkout is None or await tip_of(job.main, target.branch) != target.commit:
        return
    changed, added = await _differences(target.checkout, target.commit, new)
    for name in added:
        await asyncio.to_thread(_remove, target.checkout, Path(name))
    if not changed - added:
        return
    literal = {**job.variables, "GIT_LITERAL_PATHSPECS": "1"}
    with paths_file(rest := sorted(changed - added)) as options:
        try:
            await git.write(target.checkout, "restore", "--worktree", *options, environ=literal)
        except git.GitError as error:
            raise git.GitError(
                f"git broke off while it updated {target.checkout}, and {named(rest)} could not be "
                f"put back: `git -C {target.checkout} restore -- FILE` does it. {error}"
            ) from error


def _remove(checkout: Path, name: Path) -> None:
    """Remove a file, and the folders that are empty without it."""
    (checkout / name).unlink(missing_ok=True)
    for folder in list(name.parents)[:-1]:
        with contextlib.suppress(OSError):  # it holds something, or is gone already
            (checkout / folder).rmdir()
