"""Merges, proposes and shows the work of a task. What is refused is refused before any change."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from claudedo.errors import ConflictError, NotFoundError, RefusedError
from claudedo_worker import git
from claudedo_worker.merge.job import Job, configured, contains, count, named, tip_of, tree_of
from claudedo_worker.merge.source import Source, commit_all, find_source, snapshot
from claudedo_worker.merge.target import (
    MovedError,
    Target,
    advance,
    check_way,
    find_target,
    target_branch,
)
from claudedo_worker.three_way import merged

_TRIES = 5  # so often may the branch be moved by others while a merge is made
_turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What was done."""

    into: str
    commit: str  # the newest of `into`
    head: str  # the task's commit that was merged
    commits: int  # how many of them `into` lacked; 0: there was nothing to merge
    squashed: bool = False
    committed: str | None = None  # what had been uncommitted
    checkout: Path | None = None  # that was brought along
    notes: tuple[str, ...] = ()

    def summary(self, name: str) -> str:
        """What was done in words; `name` is the task's."""
        parts = []
        if self.committed:
            parts.append(f"Committed what was uncommitted ({self.committed[:10]}).")
        if not self.commits:
            parts.append(f"Nothing to merge: {self.into} has everything of {name}.")
        elif self.squashed:
            parts.append(f"Merged {name} into {self.into} as one commit ({self.commit[:10]}).")
        else:
            several = f"{self.commits} commit{'s' * (self.commits > 1)}"
            parts.append(f"Merged {several} of {name} into {self.into} ({self.commit[:10]}).")
        if self.checkout:
            parts.append(f"{self.checkout}, which is on {self.into}, has it.")
        return " ".join([*parts, *self.notes])


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A branch that can be pushed and proposed for `into`."""

    directory: Path
    branch: str
    into: str
    commits: int
    committed: str | None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a task changed: from `base` to `head`, or to the files in `directory` if None."""

    directory: Path
    base: str
    head: str | None
    into: str | None
    untracked: tuple[str, ...]


async def merge(job: Job) -> Merge:
    """Merge the task's work into its base branch, or `job.into`.

    Raises `RefusedError` for uncommitted work without `job.commit`, `ConflictError` if the merge
    has conflicts or the target cannot be moved, `NotFoundError` if `job.into` is no branch; nothing
    has changed then. `GitError` when git fails: a hook, a signature, a disk that is full.
    """
    async with _turn(job.main):
        source = await find_source(job)
        into = await target_branch(job, source)
        before = source.head
        if source.unsaved:
            await _rehearse(job, source, into)
            source = await _committed(job, source)
        committed = source.head if source.head != before else None
        for _ in range(_TRIES):
            with contextlib.suppress(MovedError):
                done = await _merge(job, source, await find_target(job, into))
                return replace(done, committed=committed, notes=_notes(job, source))
    raise ConflictError(f"{into} changes all the time; merge again when nobody else works on it.")


async def propose(job: Job) -> Proposal:
    """See that everything is committed on a branch that has something for the base branch.

    Raises as `merge` does, and `RefusedError` if there is nothing to propose.
    """
    async with _turn(job.main):
        source = await find_source(job)
        branch = source.branch
        if branch is None:
            raise RefusedError(
                f"{source.directory} is on a detached HEAD; a pull request needs a branch: "
                f"`git -C {source.directory} switch -c NAME`."
            )
        into = await target_branch(job, source)
        before = source.head
        if source.unsaved:
            source = await _committed(job, source)
        committed = source.head if source.head != before else None
        commits = await count(job, f"refs/heads/{into}", source.head)
        if not commits:
            raise RefusedError(f"{into} has every commit of {job.name}: nothing to propose.")
        return Proposal(
            directory=source.directory,
            branch=branch,
            into=into,
            commits=commits,
            committed=committed,
        )


async def changes(job: Job) -> Changes:
    """What merging would bring, as far as it is there: committed, uncommitted, untracked.

    Raises `NotFoundError` if the commit that the task started from is gone.
    """
    source = await find_source(replace(job, commit=True), anything=True)
    into = job.base_branch
    tip = await tip_of(job.main, into) if into and into != source.branch else None
    start = tip or (job.base and await git.commit(job.main, job.base))
    if not start:
        raise NotFoundError(f"The commit that {job.name} started from is not there any more.")
    fork = await git.read(source.directory, "merge-base", start, source.head, accept=(0, 1))
    return Changes(
        directory=source.directory,
        base=fork.line or start,
        head=None if source.present else source.head,
        into=into if tip else None,
        untracked=source.work.untracked,
    )


async def _committed(job: Job, source: Source) -> Source:
    """Commit everything. Raises `ConflictError` if there is more to commit at once."""
    await commit_all(job, source)
    after = await find_source(job)
    if after.unsaved:
        raise ConflictError(
            f"Everything was committed ({after.head[:10]}), but files of {job.name} changed again "
            "meanwhile, so nothing else was done; try again when its session rests."
        )
    return after


async def _rehearse(job: Job, source: Source, into: str) -> None:
    """Refuse what would be refused once everything is committed, before it is."""
    target = await find_target(job, into)
    everything = replace(source, head=await snapshot(job, source))
    await check_way(job, target, await _merged_tree(job, everything, target))
    if not job.squash:
        await _can_forward(job, everything, target)


def _notes(job: Job, source: Source) -> tuple[str, ...]:
    if not source.present or job.branch in (None, source.branch):
        return ()
    there = source.branch or "a detached HEAD"
    return (f"That is what {source.directory} had checked out: {there}, not {job.branch}.",)


# Merging


async def _merge(job: Job, source: Source, target: Target) -> Merge:
    nothing = Merge(into=target.branch, commit=target.commit, head=source.head, commits=0)
    if await contains(job, target.commit, source.head):
        return nothing
    tree = await _merged_tree(job, source, target)
    if tree == await tree_of(job, target.commit):
        return nothing
    await check_way(job, target, tree)
    commits = await count(job, target.commit, source.head)
    forward = not job.squash and await _can_forward(job, source, target)
    new = source.head if forward else await _new_commit(job, source, target, tree)
    await advance(job, target, new)
    return replace(
        nothing, commit=new, commits=commits, squashed=job.squash, checkout=target.checkout
    )


async def _merged_tree(job: Job, source: Source, target: Target) -> str:
    """The files that the target will have. Raises `ConflictError` naming what conflicts."""
    if await contains(job, source.head, target.commit):
        return await tree_of(job, source.head)
    made = await merged(source.directory, target.commit, source.head, environ=job.variables)
    if made.conflicts:
        raise ConflictError(
            f"{job.name} and {target.branch} conflict in {named(made.conflicts)}; nothing was "
            f"changed. {_way_out(job, source, target)}"
        )
    return made.tree


def _way_out(job: Job, source: Source, target: Target) -> str:
    """What to do about a conflict; git merges into no worktree whose own changes it would touch."""
    wanted = f"merge {target.branch} into your branch"
    wanted = (
        f"Commit your work, then {wanted}" if source.unsaved else wanted[0].upper() + wanted[1:]
    )
    if not source.present:
        return f"Its folder is gone: `claudedo restart {job.name}` makes it again to merge there."
    itself = "commit it, then" if source.unsaved else "do it yourself:"
    return (
        f"Let its session do it: `claudedo send {job.name} {shlex.quote(wanted)}`; or "
        f"{itself} `git -C {source.directory} merge {target.branch}`."
    )


async def _can_forward(job: Job, source: Source, target: Target) -> bool:
    """Whether the target can simply move on, as the person's `merge.ff` allows."""
    possible = await contains(job, source.head, target.commit)
    wanted = (await configured(job, "merge.ff")).lower()
    if wanted == "only" and not possible:
        raise RefusedError(
            f"{target.branch} went on meanwhile, and your merge.ff=only allows no merge commit; "
            f"rebase {job.name} on it, or use --squash."
        )
    return possible and wanted not in ("false", "no", "off", "0")


async def _new_commit(job: Job, source: Source, target: Target, tree: str) -> str:
    signed = await configured(job, "commit.gpgSign", "--type=bool") == "true"
    parents = [target.commit] if job.squash else [target.commit, source.head]
    made = await git.write(
        source.directory,
        "commit-tree",
        *(["-S"] if signed else []),
        *(word for parent in parents for word in ("-p", parent)),
        *("-m", await _message(job, source, target), tree),
        environ=job.variables,
    )
    return made.line


async def _message(job: Job, source: Source, target: Target) -> str:
    if not job.squash:
        suffix = "" if target.branch == "master" else f" into {target.branch}"  # git's own words
        return f"Merge {source.label}{suffix}"
    if job.message:
        return job.message
    since = f"{target.commit}..{source.head}"
    listing = ("log", "--no-merges", "--reverse", "-z")
    subjects = (await git.read(source.directory, *listing, "--format=%s", since)).fields
    if len(subjects) == 1:
        return (await git.read(source.directory, *listing, "--format=%B", since)).fields[0].strip()
    lines = "\n".join(f"* {subject}" for subject in subjects)
    return f"Squash {source.label} into {target.branch}\n\n{lines}".strip()


# Asking git


@contextlib.asynccontextmanager
async def _turn(main: Path) -> AsyncIterator[None]:
    """One merge after the other in a repository."""
    lock = _turns.setdefault(main, asyncio.Lock())
    async with lock:
        yield
