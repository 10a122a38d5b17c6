"""Where a task's work is; commits what is not committed yet."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from claudedo.errors import ConflictError, NotFoundError, RefusedError
from claudedo_worker import git
from claudedo_worker.joined import identity
from claudedo_worker.merge.job import Job, contains, named, paths_file, tip_of
from claudedo_worker.work import Work, work_in


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a task's work is."""

    directory: Path  # its worktree; the main checkout if that is gone
    present: bool  # whether the worktree is there
    branch: str | None  # checked out there; None: a detached HEAD
    head: str
    work: Work = field(default_factory=Work)

    @property
    def unsaved(self) -> bool:
        """Whether something is not committed."""
        return bool(self.work.uncommitted or self.work.untracked)

    @property
    def label(self) -> str:
        """How git names it in a merge's message."""
        return f"branch '{self.branch}'" if self.branch else f"commit '{self.head[:10]}'"


async def find_source(job: Job, *, anything: bool = False) -> Source:
    """Where the task's work is: what its worktree has checked out, else its branch.

    Raises `RefusedError` for uncommitted work, unless `job.commit`, and, unless `anything`, for
    what must be finished before.
    """
    if not job.main.is_dir():
        raise NotFoundError(f"The repository {job.main} is gone.")
    if job.worktree is None or not (job.worktree / ".git").exists():
        return await _branch_alone(job)
    head = await git.commit(job.worktree, "HEAD")
    if head is None:
        raise ConflictError(
            f"The branch that {job.worktree} is on has no commit, or was deleted: "
            "there is nothing to merge."
        )
    source = Source(
        directory=job.worktree,
        present=True,
        branch=await git.branch_of(job.worktree, "HEAD"),
        head=head,
        work=await work_in(job.worktree, job.branch, keeps_branch=True),
    )
    if not anything:
        await _check_source(job, source)
    return source


async def _branch_alone(job: Job) -> Source:
    if job.branch is None and job.worktree is None:
        raise ConflictError(f"{job.name} has not begun: it has no folder and no branch yet.")
    head = await tip_of(job.main, job.branch) if job.branch else None
    if head is None:
        raise ConflictError(
            f"The folder of {job.name} is gone, and so is its branch {job.branch}: "
            "there is nothing to merge."
        )
    return Source(directory=job.main, present=False, branch=job.branch, head=head)


async def _check_source(job: Job, source: Source) -> None:
    work = source.work
    if work.operation:
        raise RefusedError(f"{work.operation.capitalize()} is in progress in {source.directory}.")
    unsaved = Work(uncommitted=work.uncommitted, untracked=work.untracked)
    if unsaved and not job.commit:
        raise RefusedError(
            f"{job.name} has {unsaved.summary()}; commit what is to be merged, or let it all be "
            f"committed: `claudedo merge {job.name} --commit -m MESSAGE`."
        )
    if left := replace(work, uncommitted=(), untracked=(), operation=None) if job.leaves else None:
        raise RefusedError(
            f"{source.directory} holds {left.summary()}, which --rm would lose; "
            "nothing was merged. Save it, or leave out --rm."
        )
    await _check_own_branch(job, source)


async def _check_own_branch(job: Job, source: Source) -> None:
    """What is checked out counts; but then the task's own branch must have nothing besides."""
    if job.branch in (None, source.branch) or not (tip := await tip_of(job.main, job.branch)):
        return
    if not await contains(job, source.head, tip):
        there = f"on {source.branch}" if source.branch else "on a detached HEAD"
        raise RefusedError(
            f"{source.directory} is {there}, and {job.branch} has commits that are not there: "
            "merge one into the other first, so that nothing is left behind."
        )


# Committing


async def snapshot(job: Job, source: Source) -> str:
    """A commit of everything, on no branch, that leaves the worktree's index as it is."""
    broken = await git.read(source.directory, "diff", "--name-only", "--diff-filter=U", "-z")
    if broken.fields:
        raise RefusedError(
            f"{named(broken.fields)} in {source.directory} still has conflicts; resolve them first."
        )
    if nested := [name for name in source.work.untracked if name.endswith("/")]:
        raise RefusedError(
            f"{named(nested)} in {source.directory} is a repository of its own, whose files cannot "
            "be committed here; move it away, or add it as a submodule."
        )
    index = await git.read(
        source.directory, "rev-parse", "--path-format=absolute", "--git-path", "index"
    )
    with tempfile.TemporaryDirectory(prefix="claudedo-merge-") as folder:
        copy = Path(folder, "index")
        if Path(index.line).exists():
            await asyncio.to_thread(shutil.copyfile, index.line, copy)
        aside = {**job.variables, "GIT_INDEX_FILE": str(copy)}
        await stage(source, aside)
        left = await git.read(
            source.directory,
            *("diff", "--name-only", "-z", "--ignore-submodules=none"),
            environ=aside,
        )
        if left.fields:
            raise RefusedError(
                f"{named(left.fields)} in {source.directory} cannot be committed as it is: a "
                "submodule with changes of its own, or a file that is being written."
            )
        tree = await git.write(source.directory, "write-tree", environ=aside)
    made = await git.write(
        source.directory,
        *("commit-tree", tree.line, "-p", source.head, "-m", "What is uncommitted"),
        environ=job.variables,
    )
    return made.line


async def stage(source: Source, variables: Mapping[str, str]) -> None:
    """Put everything uncommitted into the index; not what git ignores, nor files merely copied."""
    literal = {**variables, "GIT_LITERAL_PATHSPECS": "1"}
    await git.write(source.directory, "add", "--update", "--", ".", environ=literal)
    if not source.work.untracked:
        return
    with paths_file(source.work.untracked) as options:
        await git.write(source.directory, "add", *options, environ=literal)


async def commit_all(job: Job, source: Source) -> None:
    """Commit everything, as the person would: with hooks, identity and signature."""
    assert job.message is not None  # asked for together with `commit`
    await stage(source, job.variables)
    staged = await git.read(source.directory, "diff", "--cached", "--quiet", accept=(0, 1))
    if staged.status:  # else the session took its changes back a moment ago
        await git.write(
            source.directory, "commit", "--quiet", "-m", job.message, environ=job.variables
        )


async def keep(job: Job) -> bool:
    """Commit what a one-shot left, on its branch: without hooks or signature, as nobody is there.

    Where git knows no name, as claudedo.

    False if nothing was left. Raises what `find_source` does: `RefusedError` for what cannot be
    committed as it is.
    """
    assert job.message is not None
    source = await find_source(replace(job, commit=True))
    if not source.unsaved:
        return False
    await stage(source, job.variables)
    staged = await git.read(source.directory, "diff", "--cached", "--quiet", accept=(0, 1))
    if staged.status == 0:
        return False
    # Not all hooks are left out by --no-verify; and to sign may need somebody.
    alone = (*await identity(source.directory, job.variables), "-c", f"core.hooksPath={os.devnull}")
    await git.write(
        source.directory,
        *(*alone, "commit", "--quiet", "--no-verify", "--no-gpg-sign", "-m", job.message),
        environ=job.variables,
    )
    return True


async def newest(job: Job) -> str:
    """The commit that has all that was committed for a task, wherever its session did that.

    Raises `ConflictError` and `NotFoundError` if nothing is left of it.
    """
    source = await find_source(job, anything=True)
    tip = await tip_of(job.main, job.branch) if job.branch else None
    return source.head if tip is None or await contains(job, source.head, tip) else tip
