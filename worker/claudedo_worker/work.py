"""What a worktree holds that exists nowhere else, so that removing it would lose it.

Reads only. What git ignores is no work: build outputs, and what `.worktreeinclude` copied.
"""

from __future__ import annotations

import asyncio
import filecmp
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import NotFoundError
from claudedo_worker import git
from claudedo_worker.three_way import merged_as_objects

_OPERATIONS = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
}
# In each submodule: its commits that are on no remote, stashes included.
_SUBMODULE_COMMITS = "git rev-list HEAD --branches '--glob=refs/stas[h]' --not --remotes"
_NAMED = 3  # so many files are named in a summary


@dataclass(frozen=True, kw_only=True)
class Work:
    """What removing a worktree would lose. False when that is nothing."""

    uncommitted: tuple[str, ...] = ()  # tracked files with changes, staged or not
    untracked: tuple[str, ...] = ()
    stashes: int = 0  # made on its branch; git keeps them, but without the branch to apply them to
    commits: int = 0  # on no other branch, remote branch, tag or checkout
    tips: tuple[str, ...] = ()  # the newest of these commits: their ids bring all of them back
    submodule_commits: int = 0  # in its submodules, on none of their remotes
    worktrees: tuple[str, ...] = ()  # below it, with such work of their own
    operation: str | None = None  # "a merge", "a rebase", … that is not finished

    def __bool__(self) -> bool:
        return bool(self._parts())

    def summary(self) -> str:
        """All of it in words, for a sentence: `2 uncommitted files ('a', 'b') and 1 stash`."""
        *most, last = self._parts() or ["no unsaved work"]
        return f"{', '.join(most)} and {last}" if most else last

    def _parts(self) -> list[str]:
        parts = [
            _named(self.uncommitted, "uncommitted file"),
            _named(self.untracked, "untracked file"),
            _count(self.stashes, "stash", "stashes"),
            _count(self.commits, "unmerged commit", "unmerged commits"),
            _count(self.submodule_commits, "unpushed submodule commit"),
            _named(self.worktrees, "worktree that holds work", "worktrees that hold work"),
            f"{self.operation} in progress" if self.operation else "",
        ]
        return [part for part in parts if part]


async def work_in(
    path: Path,
    branch: str | None,
    *,
    keeps_branch: bool = False,
    base: str | None = None,
    saved: str | None = None,
) -> Work:
    """What would be lost if the worktree `path` and its `branch` were removed.

    `keeps_branch`: the branch will stay, so its commits are safe. `base`, `saved`: see `unmerged`.
    Ignored files do not count, nor does an untracked file whose equal stands at the same place in
    the main checkout. Raises `NotFoundError` if there is no worktree at `path`.
    """
    if not _has_checkout(path):
        raise NotFoundError(f"There is no worktree at {path}.")
    status = await git.read(
        path,
        *("status", "--porcelain=v2", "-z", "--no-renames"),
        *("--untracked-files=all", "--ignore-submodules=none"),
    )
    main = await git.main_checkout(path)
    leaving = None if keeps_branch else branch
    commits, tips = await unmerged(path, path, leaving, base=base, saved=saved)
    return Work(
        uncommitted=tuple(_changed(status.fields)),
        untracked=await asyncio.to_thread(_only_here, path, main, status.fields),
        stashes=await _stashes(path, branch),
        commits=commits,
        tips=tips,
        submodule_commits=await _submodule_commits(path),
        worktrees=await _worktrees_below(path),
        operation=await operation_in(path),
    )


async def operation_in(path: Path) -> str | None:
    """What somebody began in the checkout `path` and did not finish: "a merge", "a rebase", …"""
    return _operation(await git.git_dir(path))


async def unmerged(
    directory: Path,
    path: Path,
    leaving: str | None,
    *,
    base: str | None = None,
    saved: str | None = None,
) -> tuple[int, tuple[str, ...]]:
    """Commits that only the HEAD of the worktree `path` and the branch `leaving` hold.

    Those up to the commit `saved` do not count, nor do those whose changes are all in the branch
    `base`, where they came as one commit. Returns how many, and the tips. Run in `directory`, any
    checkout of the repository: the folder `path` may be gone.
    """
    checkouts = await git.checkouts(directory)
    tips = {checkout.head for checkout in checkouts if checkout.path == path}
    if leaving:
        tips.add(await git.commit(directory, f"refs/heads/{leaving}"))
    others = {checkout.head for checkout in checkouts if checkout.path != path}
    kept = [f"--exclude={leaving}"] if leaving else []
    kept += ["--branches", "--remotes", "--tags", *sorted(filter(None, {*others, saved}))]
    own = [tip for tip in filter(None, tips) if await _count_commits(directory, [tip], kept)]
    own = [tip for tip in own if not (base and await _is_squashed_in(directory, tip, base))]
    return (await _count_commits(directory, own, kept) if own else 0), tuple(sorted(own))


async def _is_squashed_in(directory: Path, tip: str, base: str) -> bool:
    """Whether `tip` has changes, and merging it into the branch `base` would change nothing."""
    target = await git.commit(directory, f"refs/heads/{base}")
    if target is None:
        return False
    fork = await git.read(directory, "merge-base", target, tip, accept=(0, 1))
    if not fork.line or await _tree(directory, fork.line) == await _tree(directory, tip):
        return False
    tried = await merged_as_objects(directory, target, tip)
    if tried is None or tried.conflicts:
        return False
    return tried.tree == await _tree(directory, target)


async def _tree(directory: Path, commit: str) -> str:
    return (await git.read(directory, "rev-parse", f"{commit}^{{tree}}")).line


async def _count_commits(directory: Path, tips: Iterable[str], kept: list[str]) -> int:
    counted = await git.read(directory, "rev-list", "--count", *tips, "--not", *kept)
    return int(counted.line)


def _has_checkout(path: Path) -> bool:
    return (path / ".git").exists()


def _changed(records: list[str]) -> Iterable[str]:
    """Paths of the changed tracked files of `git status --porcelain=v2 -z --no-renames`."""
    columns = {"1": 8, "u": 10}  # before the path, which may hold spaces
    for record in records:
        if record[0] in columns:
            yield record.split(" ", columns[record[0]])[-1]


def _only_here(path: Path, main: Path, records: list[str]) -> tuple[str, ...]:
    names = [record[2:] for record in records if record.startswith("? ")]
    return tuple(name for name in names if not _same_file(path / name, main / name))


def _same_file(one: Path, other: Path) -> bool:
    if one.is_symlink() and one.readlink() == other:
        return True  # a link of the task file's `links`
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


async def _stashes(path: Path, branch: str | None) -> int:
    """Stashes made on the worktree's branch: the list is one for all worktrees."""
    current = await git.read(path, "symbolic-ref", "--quiet", "--short", "HEAD", accept=(0, 1))
    branches = {branch, current.line} - {None, ""}
    starts = tuple(f"{kind} {name}: " for name in branches for kind in ("WIP on", "On"))
    listing = await git.read(path, "stash", "list", "-z", "--format=%gs")
    return sum(message.startswith(starts) for message in listing.fields)


async def _submodule_commits(path: Path) -> int:
    """Commits in the worktree's submodules: their git folders go with it."""
    if not _is_there((await git.git_dir(path)) / "modules"):
        return 0
    listing = await git.read(
        path, "submodule", "--quiet", "foreach", "--recursive", _SUBMODULE_COMMITS
    )
    return len(listing.out.split())


async def _worktrees_below(path: Path) -> tuple[str, ...]:
    """Other worktrees in its folder that hold work; git does not see them where it ignores them."""
    below = [c.path for c in await git.checkouts(path) if c.path != path and c.present]
    below = [other for other in below if other.is_relative_to(path)]
    held = [other for other in below if await work_in(other, None)]
    return tuple(str(other.relative_to(path)) for other in held)


def _is_there(path: Path) -> bool:
    return path.exists()


def _operation(git_dir: Path) -> str | None:
    for name, operation in _OPERATIONS.items():
        if (git_dir / name).exists():
            return operation
    return None


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}" if number else ""


def _named(names: tuple[str, ...], one: str, many: str | None = None) -> str:
    if not names:
        return ""
    shown = [repr(name) for name in names[:_NAMED]] + ["…"] * (len(names) > _NAMED)
    return f"{_count(len(names), one, many)} ({', '.join(shown)})"
