"""Furnishes a new worktree as its task file says: copies, links, setup; and teardown at its end.

Knows nothing of sessions or the database. Whatever is done here may be done again: nothing that is
there is overwritten, and a setup that was cut short is run anew. Paths come from a file in the
repository, so each is looked at, symbolic links resolved, at the moment of its use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from claudedo.errors import ClaudedoError, RefusedError
from claudedo.model import Recipe
from claudedo.settings import make_private
from claudedo_worker import processes
from claudedo_worker.worktree_include import copy_file, make_parents

LOG_LIMIT = 64 << 20  # bytes; a setup that says more than that goes round in circles
GRACE = 5.0  # seconds between asking its processes to end and killing them
_LOOK = 0.2  # seconds between two looks at its log and the clock
_TAIL = 4096  # bytes of the log that its last lines are looked for in
_LAST_LINES = 3


class ScriptError(ClaudedoError):
    """A setup or a teardown failed; the message ends with what it said last."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A worktree, the main checkout that it belongs to, and where to write what happens."""

    main: Path
    worktree: Path
    log: Path
    env: Mapping[str, str] = field(repr=False)  # what its commands run with
    limit: float  # seconds for each of them
    name: str  # the task's, for sentences


async def furnish(recipe: Recipe, place: Place) -> None:
    """Give the worktree its copies and links, then run the setup in it.

    Raises `RefusedError` for a path that leads out of the repository, `OSError` if one cannot be
    made, `ScriptError` for the setup.
    """
    make_private(place.log.parent)
    place.log.unlink(missing_ok=True)
    notes = await asyncio.to_thread(_fill, recipe, place)
    _write(place.log, *notes)
    if recipe.setup:
        try:
            await run("setup", recipe.setup, place)
        except ScriptError as error:
            raise ScriptError(f"{error}; `claudedo restart {place.name}` runs it again") from error


async def run(name: str, command: str, place: Place) -> None:
    """Run a shell command in the worktree; its output goes to the log.

    All that it started is ended with it if it takes too long, says too much, or is cancelled.
    Raises `ScriptError`.
    """
    make_private(place.log.parent)
    _write(place.log, f"$ {command}")
    began = place.log.stat().st_size
    with place.log.open("ab") as log:
        try:
            script = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", command),
                cwd=place.worktree,
                env=dict(place.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise ScriptError(f"its {name} cannot be run: {error}") from error
    try:
        what = await _wait(script, place, began)
    except BaseException:
        await asyncio.shield(_end(script, place.env))
        raise
    if what:
        await _end(script, place.env)
    elif script.returncode:
        what = f"failed ({_status(script.returncode)})"
    if what:
        raise ScriptError(f"its {name} {what}{_said(place.log, began)} (all of it: {place.log})")


# Copies and links


def _fill(recipe: Recipe, place: Place) -> list[str]:
    """Make all copies, then all links. Returns sentences about what was not made."""
    main, worktree = place.main.resolve(), place.worktree.resolve()
    notes: list[str] = []
    for pattern in recipe.copy:
        for name in _matches(pattern, main, notes):
            _copy(main, worktree, name, notes)
    for pattern in recipe.links:
        for name in _matches(pattern, main, notes):
            _link(main, worktree, name, notes)
    return notes


def _matches(pattern: str, main: Path, notes: list[str]) -> list[Path]:
    """The paths in the main checkout that a pattern names, each checked. Raises `RefusedError`."""
    try:
        found = sorted(path.relative_to(main) for path in main.glob(pattern))
    except (ValueError, NotImplementedError, IndexError) as error:
        raise RefusedError(f"{pattern!r} of its task file is no path: {error}.") from error
    if not found:
        notes.append(f"{pattern}: there is no such file in {main}.")
    return [name for name in found if not _is_gits(name, main, notes)]


def _is_gits(name: Path, main: Path, notes: list[str]) -> bool:
    """Whether a path belongs to git, links resolved. Raises `RefusedError` if it leads out."""
    real = (main / name).resolve()
    if not real.is_relative_to(main):
        raise RefusedError(
            f"{str(name)!r}, which its task file names, leads out of the repository {main}."
        )
    parts = {part.lower() for part in (*name.parts, *real.relative_to(main).parts)}
    if ".git" in parts:
        notes.append(f"{name}: belongs to git; left out.")
    return ".git" in parts


def _copy(main: Path, worktree: Path, name: Path, notes: list[str]) -> None:
    source = main / name
    if worktree.is_relative_to(source):
        raise RefusedError(f"{str(name)!r} holds the worktree itself, so it cannot be copied.")
    mode = source.lstat().st_mode
    if stat.S_ISDIR(mode):
        make_parents(main, worktree, name / "any")
        for path in _below(source):
            _copy(main, worktree, path.relative_to(main), notes)
    elif not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        notes.append(f"{name}: neither file, folder nor symbolic link; not copied.")
    elif not copy_file(main, worktree, name):
        notes.append(f"{name}: is there already; kept as it is.")


def _below(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower() != ".git")


def _link(main: Path, worktree: Path, name: Path, notes: list[str]) -> None:
    source, target = main / name, worktree / name
    if worktree.is_relative_to(source):
        raise RefusedError(f"{str(name)!r} holds the worktree itself, so it cannot be linked.")
    if os.path.lexists(target):
        if not (target.is_symlink() and target.readlink() == source):
            notes.append(f"{name}: is there already; kept as it is.")
        return
    make_parents(main, worktree, name)
    target.symlink_to(source)


# Commands


async def _wait(script: asyncio.subprocess.Process, place: Place, began: int) -> str:
    """Return "" once the command is over; else what is wrong with letting it go on."""
    until = time.monotonic() + place.limit
    waiting = asyncio.create_task(script.wait())
    try:
        while not (await asyncio.wait([waiting], timeout=_LOOK))[0]:
            if time.monotonic() > until:
                return f"took more than {place.limit:g} seconds (`setup_timeout` in config.toml)"
            if place.log.stat().st_size > began + LOG_LIMIT:
                return f"wrote more than {LOG_LIMIT >> 20} MiB"
    finally:
        waiting.cancel()
    return ""


async def _end(script: asyncio.subprocess.Process, env: Mapping[str, str]) -> None:
    """End the command and all that it started: below it, or carrying its session's mark."""
    tree = await asyncio.to_thread(_tree, script.pid, env.get(processes.SESSION_VARIABLE))
    # The command itself is ours to wait for: psutil would take its exit status away.
    await asyncio.gather(_end_child(script), processes.end(tree, GRACE))


async def _end_child(script: asyncio.subprocess.Process) -> None:
    for signal in (script.terminate, script.kill):
        with contextlib.suppress(ProcessLookupError):
            signal()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(script.wait(), GRACE)
            return


def _tree(pid: int, mark: str | None) -> list[psutil.Process]:
    found = {*processes.descendants(pid), *(processes.of_session(mark) if mark else ())}
    return [process for process in found if process.pid != pid]


def _status(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"signal {-code}"


def _said(log: Path, began: int) -> str:
    """The last lines that a command wrote, which began at byte `began`; "" if it was silent."""
    with log.open("rb") as file:
        file.seek(max(began, log.stat().st_size - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    said = " / ".join([line for line in lines if line][-_LAST_LINES:])
    return f": {said}" if said else ""


def _write(log: Path, *lines: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a") as file:
        file.writelines(f"{line}\n" for line in lines)
