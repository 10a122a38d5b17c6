"""What a merge is about, and the questions to git that all its steps ask."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claudedo_worker import git

_NAMED = 5  # so many files are named in a sentence


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is known of a task, and what its person wants of its work."""

    name: str  # the task's, for sentences
    main: Path  # a checkout of the repository that outlives the task's
    worktree: Path | None
    branch: str | None
    base: str | None  # the commit that the branch started from
    base_branch: str | None
    made_branch: bool = False  # for this task
    others: frozenset[str] = frozenset()  # branches made for other tasks
    into: str | None = None  # None: the base branch
    squash: bool = False
    message: str | None = None  # for the commit of what is uncommitted, and for the squash
    commit: bool = False  # commit what is uncommitted
    leaves: bool = False  # the task is to be removed afterwards
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)  # of the person's shell

    @property
    def variables(self) -> dict[str, str]:
        """The environment for git and the person's hooks."""
        return git.of_person(self.environ)


async def tip_of(main: Path, branch: str) -> str | None:
    """The commit of the branch of exactly that name, None if there is none."""
    ref = f"refs/heads/{branch}"
    found = await git.read(main, "show-ref", "--verify", "--quiet", ref, accept=(0, 1, 128))
    return await git.commit(main, ref) if found.status == 0 else None


async def contains(job: Job, commit: str, other: str) -> bool:
    """Whether `other` is in the history of `commit`."""
    asked = ("merge-base", "--is-ancestor", other, commit)
    return (await git.read(job.main, *asked, accept=(0, 1))).status == 0


async def count(job: Job, old: str, new: str) -> int:
    """How many commits `new` has that `old` lacks."""
    return int((await git.read(job.main, "rev-list", "--count", f"{old}..{new}")).line)


async def tree_of(job: Job, commit: str) -> str:
    """The id of the files of `commit`."""
    return (await git.read(job.main, "rev-parse", f"{commit}^{{tree}}")).line


async def configured(job: Job, key: str, *options: str) -> str:
    """What the person configured for `key`, "" if nothing."""
    answer = await git.read(
        job.main, "config", *options, "--get", key, accept=(0, 1), environ=job.variables
    )
    return answer.line


@contextlib.contextmanager
def paths_file(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Options that name files to git, however many and whatever they are called.

    To be used with `GIT_LITERAL_PATHSPECS`.
    """
    with tempfile.NamedTemporaryFile(prefix="claudedo-merge-") as listing:
        listing.write(b"\0".join(os.fsencode(name) for name in names))
        listing.flush()
        yield f"--pathspec-from-file={listing.name}", "--pathspec-file-nul"


def named(names: tuple[str, ...] | list[str]) -> str:
    """Files, or the like, for a sentence: `'a', 'b'`."""
    shown = [repr(name) for name in names[:_NAMED]] + ["…"] * (len(names) > _NAMED)
    return ", ".join(shown)
