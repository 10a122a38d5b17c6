"""Plans, makes and removes the git worktrees that tasks work in.

Knows nothing about tasks, sessions or the database. Touches only the worktree it is asked about:
never `git worktree prune`, which would forget other people's worktrees on unplugged disks too.
See `git` for the program, `work` for what must not be lost, `worktree_include` for copied files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from claudedo.claude_args import seen_from
from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, RefusedError, UsageError
from claudedo_worker import git
from claudedo_worker.git import Checkout, Repository
from claudedo_worker.work import Work, unmerged, work_in
from claudedo_worker.worktree_include import copy_included

log = logging.getLogger(__name__)

# Two at a time are fastest: 20 adds took 8.0 s one by one, 4.2 s by two, 5.7 s all at once.
_ADDS_AT_ONCE = 2
_adds: WeakValueDictionary[Path, asyncio.Semaphore] = WeakValueDictionary()
_paths: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()


@dataclass(frozen=True, kw_only=True)
class WorktreePlan:
    """A worktree that can be made, as far as that can be known beforehand."""

    main: Path
    path: Path
    branch: str
    base_commit: str  # where the branch starts, or where an existing one left the base
    make_branch: bool  # False: it exists
    reuse: bool = False  # the worktree exists, on that branch
    repair: bool = False  # its making was cut short; finish it
    stale: tuple[Path, ...] = ()  # registered worktrees in the way whose folders are gone


@dataclass(frozen=True, kw_only=True)
class Worktree:
    """A worktree that is ready to work in."""

    path: Path
    branch: str
    base_commit: str
    made_branch: bool  # by this call: `remove_worktree` may delete it
    notes: tuple[str, ...] = ()  # sentences for the person: a hook failed, a file was not copied


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What `remove_worktree` did."""

    path: Path
    removed: bool  # False: it was gone already
    deleted_branch: str | None = None
    tip: str | None = None  # the newest commit of the deleted branch
    kept_branch: str | None = None  # not made by us, or checked out elsewhere
    dropped: tuple[str, ...] = ()  # newest commits that nothing holds any more

    def summary(self) -> str:
        """One sentence; names the commits from which dropped work can be brought back."""
        text = f"Removed {self.path}" if self.removed else f"{self.path} was gone already"
        if self.deleted_branch:
            text += f" and deleted the branch {self.deleted_branch} (was {(self.tip or '')[:10]})"
        if self.kept_branch:
            text += f"; the branch {self.kept_branch} stays"
        if self.dropped:
            text += f"; its commits can be brought back with `git branch NAME {self.dropped[0]}`"
            text += "".join(f", and {commit}" for commit in self.dropped[1:])
        return f"{text}."


async def plan_worktree(
    repository: Repository,
    name: str,
    *,
    worktree_dir: str | None = None,
    branch: str | None = None,
    base: str | None = None,
    path: Path | None = None,
) -> WorktreePlan:
    """Check everything that can go wrong, and say what `add_worktree` will do.

    The worktree will be `<repository's parent>/<repository>.worktrees/<name>`; `worktree_dir` (may
    begin with ~; relative to the main checkout) takes the parent's place, `path` the whole one's.
    `branch` defaults to `claudedo/<name>`; an existing one is used as it is. `base` (any revision)
    defaults to the commit checked out where the caller stands. Changes nothing, except that a
    worktree moved together with its repository is linked to it again. Raises `UsageError` for a
    bad branch name, `NotFoundError` for an unknown base, `RefusedError` for all that is in the way.
    """
    main = repository.main
    target = _target(main, name, worktree_dir, path)
    branch = branch or f"claudedo/{name}"
    await _check_branch_name(main, branch)
    start = await _base_commit(repository, base)
    checkouts = await _relinked(main, target, await git.checkouts(main))
    here = _at(checkouts, target)
    stale = [here] if here and not here.present else []
    if here and here.present:
        _check_reusable(here, branch)
    else:
        _check_free(target)
    stale += _check_branch_free(checkouts, branch, target)
    for checkout in stale:
        await _check_stale(main, checkout)
    tip = await git.commit(main, f"refs/heads/{branch}")
    if tip is None:
        await _check_no_branch_in_the_way(main, branch)
    return WorktreePlan(
        main=main,
        path=target,
        branch=branch,
        base_commit=start if tip is None else await _fork_point(main, tip, start),
        make_branch=tip is None,
        reuse=bool(here and here.present and not here.half_made),
        repair=bool(here and here.present and here.half_made),
        stale=tuple(checkout.path for checkout in stale),
    )


async def add_worktree(plan: WorktreePlan) -> Worktree:
    """Make the planned worktree (hooks run as git runs them) and copy `.worktreeinclude` files.

    At most two are made in one repository at a time. After a failure nothing of it is left.
    Raises `ConflictError` if something changed since it was planned, `GitError` and
    `TimedOutError` if git fails. A failing post-checkout hook is a note, as it is for git.
    """
    async with _turn(plan):
        notes = await _make(plan)
        notes += await copy_included(plan.main, plan.path)
    return Worktree(
        path=plan.path,
        branch=plan.branch,
        base_commit=plan.base_commit,
        made_branch=plan.make_branch,
        notes=tuple(notes),
    )


async def remove_worktree(
    path: Path,
    branch: str | None,
    main: Path,
    *,
    force: bool = False,
    made_branch: bool = False,
    base: str | None = None,
    saved: str | None = None,
) -> Removal:
    """Remove the worktree `path` of the repository `main`, and its `branch` if `made_branch`.

    Without `force` raises `RefusedError`, naming it, if work would be lost (see `work_in`, also for
    `base` and `saved`) or the worktree is locked. A folder that is gone already is only forgotten;
    calling twice is no error.
    """
    path = _resolved(path)
    if not _is_directory(main):
        raise NotFoundError(f"The repository {main} is gone; what is left is in {path}.")
    checkouts = await _relinked(main, path, await git.checkouts(main))
    here = _at(checkouts, path)
    _check_removable(here, path, main, checkouts, force=force)
    leaving = branch if made_branch and _only_at(checkouts, branch, path) else None
    commits, tips = await unmerged(main, path, leaving, base=base, saved=saved)
    work = Work(commits=commits, tips=tips)
    if not force and here and here.present and not here.half_made:
        work = await work_in(path, branch, keeps_branch=leaving is None, base=base, saved=saved)
    if work and not force:
        raise RefusedError(
            f"{path} holds {work.summary()}, which would be lost; save it, or use --force."
        )
    _remove_if_empty(path)  # git does not take an empty folder for one that is gone
    if here:
        # Our check stands for git's, which would also refuse copied files and any submodule.
        await git.write(main, "worktree", "remove", "--force", "--force", str(path))
    _remove_if_empty(path.parent, only=f"{main.name}.worktrees")
    tip = await git.commit(main, f"refs/heads/{branch}") if branch else None
    if leaving and tip:
        await git.write(main, "branch", "--delete", "--force", "--quiet", leaving)
    return Removal(
        path=path,
        removed=bool(here),
        deleted_branch=leaving if tip else None,
        tip=tip if leaving else None,
        kept_branch=branch if tip and not leaving else None,
        dropped=work.tips,
    )


# Planning


def _target(main: Path, name: str, worktree_dir: str | None, path: Path | None) -> Path:
    if path is not None:
        return seen_from(main, str(path)).resolve()
    parent = seen_from(main, worktree_dir) if worktree_dir else main.parent
    return (parent / f"{main.name}.worktrees" / name).resolve()


async def _check_branch_name(main: Path, branch: str) -> None:
    checked = await git.read(main, "check-ref-format", f"refs/heads/{branch}", accept=(0, 1))
    if checked.status or branch.startswith("-") or branch == "HEAD":
        raise UsageError(
            f"{branch!r} cannot name a branch; see `git help check-ref-format` for what can."
        )


async def _base_commit(repository: Repository, base: str | None) -> str:
    if base is None:
        return repository.head
    if found := await git.commit(repository.top, base):
        return found
    raise NotFoundError(
        f"There is no commit {base!r} in {repository.top}; name a branch, tag or commit "
        "(`git fetch` brings those of a remote)."
    )


async def _fork_point(main: Path, tip: str, start: str) -> str:
    common = await git.read(main, "merge-base", tip, start, accept=(0, 1))
    return common.line or tip


def _at(checkouts: list[Checkout], path: Path) -> Checkout | None:
    return next((checkout for checkout in checkouts if checkout.path == path), None)


async def _relinked(main: Path, path: Path, checkouts: list[Checkout]) -> list[Checkout]:
    """`checkouts`, read again after a worktree moved along with its repository was linked again."""
    lost = any(not checkout.present for checkout in checkouts[1:])
    if _at(checkouts, path) or not lost or not _is_file(path / ".git"):
        return checkouts
    await git.write(main, "worktree", "repair", str(path))
    return await git.checkouts(main)


def _check_reusable(here: Checkout, branch: str) -> None:
    if here.branch != branch and not (here.half_made and here.branch is None):
        there = f"on the branch {here.branch}" if here.branch else "on a detached HEAD"
        raise RefusedError(
            f"{here.path} is already a worktree, {there}, not on {branch}; "
            "name that branch with --branch, or another place."
        )


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        if not path.is_dir():
            raise RefusedError(f"{path} is a file; a worktree needs a folder. Name another place.")
        if any(path.iterdir()):
            raise RefusedError(
                f"{path} exists, is not empty, and is no worktree of this repository; "
                "move it away, or name another place."
            )
    existing = next(parent for parent in path.parents if os.path.lexists(parent))
    if not existing.is_dir():
        raise RefusedError(f"{existing} is a file, so {path} cannot be made; name another place.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RefusedError(
            f"{existing} is not writable, so {path} cannot be made; name another place "
            "(`worktree_dir` in config.toml)."
        )


def _check_branch_free(checkouts: list[Checkout], branch: str, path: Path) -> list[Checkout]:
    """The registered worktrees on `branch` whose folders are gone; refuses if one is there."""
    taken = [other for other in checkouts if other.branch == branch and other.path != path]
    for other in taken:
        if other.present:
            raise RefusedError(
                f"The branch {branch} is checked out in {other.path}; a branch can be in one place "
                "only. Name another one with --branch."
            )
    return taken


async def _check_stale(main: Path, checkout: Checkout) -> None:
    """Refuses if forgetting a worktree whose folder is gone could do harm."""
    if checkout.locked is not None and not checkout.half_made:
        raise RefusedError(
            f"The worktree {checkout.path} is locked{_reason(checkout)}, and its folder is not "
            f"there; bring it back, or `git -C {main} worktree unlock {checkout.path}`."
        )
    _, tips = await unmerged(main, checkout.path, None)
    if tips:
        raise RefusedError(
            f"The folder {checkout.path} is gone, but its worktree still holds commits that are "
            f"nowhere else; keep them with `git -C {main} branch NAME {tips[0]}`."
        )


async def _check_no_branch_in_the_way(main: Path, branch: str) -> None:
    """git cannot have a branch `a` beside a branch `a/b`."""
    first = branch.split("/", 1)[0]
    listing = await git.read(main, "for-each-ref", "--format=%(refname)", f"refs/heads/{first}")
    for other in (line.removeprefix("refs/heads/") for line in listing.out.splitlines()):
        if branch.startswith(f"{other}/") or other.startswith(f"{branch}/"):
            raise RefusedError(
                f"The branch {branch} cannot be made because there is a branch {other}; "
                "name another one with --branch."
            )


# Making


@contextlib.asynccontextmanager
async def _turn(plan: WorktreePlan) -> AsyncIterator[None]:
    """One at a time for the path, two for the repository."""
    path = _paths.setdefault(plan.path, asyncio.Lock())
    adds = _adds.setdefault(plan.main, asyncio.Semaphore(_ADDS_AT_ONCE))
    async with path, adds:
        yield


async def _make(plan: WorktreePlan) -> list[str]:
    here = _at(await git.checkouts(plan.main), plan.path)
    if plan.reuse and here and here.present and here.branch == plan.branch:
        return []
    if plan.repair and here and here.half_made:
        await _finish(plan)
        return []
    if plan.reuse or plan.repair or (here and here.path not in plan.stale):
        raise ConflictError(f"{plan.path} was changed by somebody else meanwhile; try again.")
    for stale in plan.stale:
        _remove_if_empty(stale)  # git does not take an empty folder for one that is gone
        await git.write(plan.main, "worktree", "remove", "--force", "--force", str(stale))
    if plan.make_branch:
        start = plan.base_commit
        await git.write(plan.main, "branch", "--no-track", "--quiet", plan.branch, start)
    try:
        return await _check_out(plan)
    except BaseException:
        await asyncio.shield(_undo(plan))
        raise


async def _check_out(plan: WorktreePlan) -> list[str]:
    try:
        await git.write(plan.main, "worktree", "add", "--quiet", str(plan.path), plan.branch)
    except git.GitError as error:
        # A worktree that git calls finished: only its post-checkout hook failed.
        here = _at(await git.checkouts(plan.main), plan.path)
        if here is None or not here.present or here.half_made:
            raise
        return [f"The post-checkout hook failed in {plan.path}: {error.stderr or 'no output'}"]
    return []


async def _finish(plan: WorktreePlan) -> None:
    """Check out what a killed `git worktree add` had not; the index shows how far it came."""
    (await git.git_dir(plan.path) / "index.lock").unlink(missing_ok=True)
    await git.write(plan.path, "checkout", "--quiet", "--force", plan.branch, "--")
    await git.write(plan.main, "worktree", "unlock", str(plan.path))


async def _undo(plan: WorktreePlan) -> None:
    """Take back what a failed `_make` left; the path was free and the branch new before it."""
    try:
        if _at(await git.checkouts(plan.main), plan.path):
            await git.write(plan.main, "worktree", "remove", "--force", "--force", str(plan.path))
        _remove_if_empty(plan.path.parent, only=f"{plan.main.name}.worktrees")
        if plan.make_branch:
            ref = f"refs/heads/{plan.branch}"
            await git.write(plan.main, "update-ref", "-d", ref, plan.base_commit)
    except ClaudedoError as error:  # the failure that led here is the one to report
        log.warning(
            "A half-made worktree is left",
            extra={"action": "worktree_undo_failed", "path": str(plan.path), "error": str(error)},
        )


# Removing


def _check_removable(
    here: Checkout | None, path: Path, main: Path, checkouts: list[Checkout], *, force: bool
) -> None:
    if path == main or path == checkouts[0].path:
        raise RefusedError(f"{path} is the main checkout; it is never removed.")
    if here is None and os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise RefusedError(
            f"{path} is no worktree of {main} (any more), so it is left alone; "
            "look into it and delete it yourself."
        )
    if here and here.locked is not None and not here.half_made and not force:
        raise RefusedError(
            f"The worktree {path} is locked{_reason(here)}; "
            f"`git -C {main} worktree unlock {path}`, or use --force."
        )


def _only_at(checkouts: list[Checkout], branch: str | None, path: Path) -> bool:
    return all(checkout.path == path for checkout in checkouts if checkout.branch == branch)


def _reason(checkout: Checkout) -> str:
    return f" ({checkout.locked})" if checkout.locked else ""


def _remove_if_empty(folder: Path, *, only: str | None = None) -> None:
    """Remove `folder` (if it is named `only`), unless it holds something or is gone."""
    if (only is None or folder.name == only) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _resolved(path: Path) -> Path:
    return path.resolve()


def _is_directory(path: Path) -> bool:
    return path.is_dir()


def _is_file(path: Path) -> bool:
    return path.is_file()
