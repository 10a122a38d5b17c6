"""Copies what `.worktreeinclude` lists from the main checkout into a new worktree.

The CLI does this only for worktrees that it makes itself (docs/claude-cli.md 20.1), so we do it
the same way: gitignore-style lines; a file is copied if it matches and git ignores it. git itself
does the matching.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

from claudedo_worker import git

NAME = ".worktreeinclude"


async def copy_included(main: Path, worktree: Path) -> list[str]:
    """Copy the listed, ignored files of the checkout `main` to the same places in `worktree`.

    Modes and times are kept, symbolic links stay links. Nothing is overwritten, nothing is written
    through a symbolic link to a place outside `worktree`. Returns a sentence for each file that
    could not be copied.
    """
    if not _is_file(main / NAME):
        return []
    listed = await git.read(main, "ls-files", "-o", "-i", f"--exclude-from={NAME}", "-z")
    if not listed.fields:
        return []
    ignored = await git.read(main, "ls-files", "-o", "-i", "--exclude-standard", "-z")
    names = sorted(set(listed.fields) & set(ignored.fields))
    return await asyncio.to_thread(_copy_all, names, main, worktree)


def _is_file(path: Path) -> bool:
    return path.is_file()


def _copy_all(names: list[str], main: Path, worktree: Path) -> list[str]:
    notes = []
    for name in names:
        try:
            copy_file(main, worktree, Path(name))
        except OSError as error:
            notes.append(f"{name!r} of {NAME} was not copied: {error.strerror or error}.")
    return notes


def copy_file(main: Path, worktree: Path, name: Path) -> bool:
    """Copy one file or symbolic link to its place in the worktree; False if it was not copied.

    Nothing that is there is overwritten. Raises `OSError`.
    """
    source, target = main / name, worktree / name
    mode = source.lstat().st_mode
    # A folder here is another repository inside the checkout: git does not look into it.
    if os.path.lexists(target) or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        return False
    make_parents(main, worktree, name)
    try:
        shutil.copy2(source, target, follow_symlinks=False)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def make_parents(main: Path, worktree: Path, name: Path) -> None:
    """Make the folders in the worktree that `name` needs, with the modes that they have in `main`.

    Raises `OSError` where a symbolic link stands: it may lead out of the worktree.
    """
    for parent in reversed(name.parents[:-1]):
        folder = worktree / parent
        if folder.is_symlink():
            raise OSError(f"{str(parent)!r} is a symbolic link there")
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(stat.S_IMODE((main / parent).stat().st_mode) | stat.S_IRWXU)
