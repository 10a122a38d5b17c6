"""Runs the `git` program; finds a directory's repository and the checkouts of a repository.

Knows nothing of tasks or sessions. Needs git 2.31 or newer. Reads go through the program too, not
through GitPython: that cannot resolve a reference in a SHA-256 repository and does not check
`safe.directory`, while a `git rev-parse` takes 2 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import ClaudedoError, NotFoundError, RefusedError, TimedOutError

log = logging.getLogger(__name__)

READ_LIMIT = 60.0  # seconds; a status of a very large checkout on a slow disk
WRITE_LIMIT = 1800.0  # seconds; a checkout runs the user's filters and hooks
_BUSY_PATIENCE = 15.0  # seconds to wait for another git
_END_PATIENCE = 5.0  # seconds between the polite and the firm signal
_STDERR_KEPT = 16 * 1024  # bytes

# What ties a git process to one repository (`git rev-parse --local-env-vars`): set while a hook
# runs, and wrong for every other repository. Configuration by GIT_CONFIG_COUNT is the user's: kept.
_REPOSITORY_VARIABLES = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}
# Somebody else's lock, or a worktree that another git is just making: over in a moment.
_BUSY = re.compile(r"\.lock': File exists|failed to read \S*worktrees/\S+/(?:commondir|gitdir)")


class GitError(ClaudedoError):
    """git failed; the message quotes what it said."""

    def __init__(self, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.stderr = stderr


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one run of git gave: exit status, standard output, the end of standard error."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The output without its final newline; a path may contain others."""
        return self.out.removesuffix("\n")

    @property
    def fields(self) -> list[str]:
        """The parts of an output made with `-z`."""
        return [field for field in self.out.split("\0") if field]


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Where a directory stands: all paths absolute, symbolic links resolved."""

    main: Path  # root of the main checkout; `top` where there is none (worktrees of a bare one)
    top: Path  # root of the checkout that contains the directory
    head: str  # the commit checked out in `top`
    branch: str | None  # None: `top` is on a detached HEAD


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A line of `git worktree list`: what the repository believes is there."""

    path: Path
    head: str | None  # None: bare, or on a branch without a commit
    branch: str | None  # without refs/heads/; None: bare or a detached HEAD
    locked: str | None = None  # the reason, perhaps empty; None: not locked

    @property
    def present(self) -> bool:
        """Whether its folder is there and says that it is a checkout."""
        return os.path.lexists(self.path / ".git")

    @property
    def half_made(self) -> bool:
        """Whether `git worktree add` was killed in it (it holds this lock while it works)."""
        return self.locked == "initializing"


_CHECKOUT = re.compile(
    r"worktree (?P<path>(?s:.*?))\n"
    r"(?:bare|HEAD (?P<head>[0-9a-f]+)\n(?:detached|branch refs/heads/(?P<branch>.+)))\n"
    r"(?:locked(?: (?P<locked>.*))?\n|(?P<unlocked>))(?:prunable.*\n)?(?:\n|\Z)"
)


async def discover(directory: Path) -> Repository:
    """The repository that `directory` lies in; linked worktrees and subdirectories count.

    Raises `NotFoundError` if there is no such directory, `RefusedError` if it is in no repository,
    in a bare one, in one without a commit, or in one that git refuses to trust.
    """
    if not _is_directory(directory):
        raise NotFoundError(f"{directory} is not a directory.")
    inside = await read(directory, "rev-parse", "--is-inside-work-tree", accept=(0, 128))
    if inside.status:
        raise _no_repository(directory, inside.err)
    if inside.line != "true":
        raise RefusedError(
            f"{directory} is a bare repository or a .git folder, without files to work on; "
            "start in a checkout of it (`git worktree add` makes one)."
        )
    top = Path((await read(directory, "rev-parse", "--show-toplevel")).line)
    head = await commit(top, "HEAD")
    if head is None:
        raise RefusedError(
            f"The repository {top} has no commit to start from on this branch; make one: "
            f'`git -C {top} commit --allow-empty -m "First commit"`.'
        )
    branch = await read(top, "symbolic-ref", "--quiet", "--short", "HEAD", accept=(0, 1))
    main = await main_checkout(top)
    return Repository(main=main, top=top, head=head, branch=branch.line or None)


async def commit(directory: Path, revision: str) -> str | None:
    """The id of the commit that `revision` names in the checkout `directory`, None if no such."""
    answer = await read(
        directory,
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"),
        accept=(0, 1, 128),
    )
    return answer.line if answer.status == 0 else None


async def branch_of(directory: Path, revision: str) -> str | None:
    """The local branch that `revision` names in the checkout `directory`, None if it names none."""
    answer = await read(
        directory,
        *("rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", revision),
        accept=(0, 1, 128),
    )
    name = answer.line
    return name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None


async def git_dir(directory: Path, *, common: bool = False) -> Path:
    """The git folder of the checkout `directory`; `common`: the one its worktrees share."""
    option = "--git-common-dir" if common else "--git-dir"
    return Path((await read(directory, "rev-parse", "--path-format=absolute", option)).line)


async def main_checkout(top: Path) -> Path:
    """The checkout that owns the git folder; `top` itself if none does, or none can be found."""
    common = await git_dir(top, common=True)
    if common == await git_dir(top):
        return top
    bare = await read(common, f"--git-dir={common}", "rev-parse", "--is-bare-repository")
    if bare.line == "true":
        return top
    # A submodule's git folder is elsewhere and names its checkout relative to itself.
    configured = await read(
        common, *("config", "--file", str(common / "config"), "core.worktree"), accept=(0, 1)
    )
    if configured.line:
        return _resolved(common / configured.line)
    return common.parent if common.name == ".git" else top


async def checkouts(directory: Path) -> list[Checkout]:
    """All checkouts of the repository of `directory`, the main one (or the bare one) first."""
    listing = await read(directory, "worktree", "list", "--porcelain")
    return [
        Checkout(
            path=Path(entry["path"]),
            head=entry["head"] if (entry["head"] or "").strip("0") else None,
            branch=entry["branch"],
            locked=(entry["locked"] or "") if entry["unlocked"] is None else None,
        )
        for entry in _CHECKOUT.finditer(listing.out)
    ]


async def read(
    directory: Path,
    *arguments: str,
    accept: tuple[int, ...] = (0,),
    limit: float = READ_LIMIT,
    environ: Mapping[str, str] | None = None,
) -> Answer:
    """Run `git ARGUMENTS` in `directory`, taking no lock that it can do without.

    `environ`: made by `environment` or `of_person`, instead of this process's own. Raises
    `GitError` for an exit status not in `accept`, `TimedOutError` after `limit` seconds.
    """
    variables = environment(os.environ) if environ is None else environ
    variables = {**variables, "GIT_OPTIONAL_LOCKS": "0"}
    answer = await _settled(directory, arguments, limit, variables, accept)
    return _checked(answer, directory, arguments, accept)


async def write(
    directory: Path,
    *arguments: str,
    limit: float = WRITE_LIMIT,
    environ: Mapping[str, str] | None = None,
) -> Answer:
    """Run `git ARGUMENTS`, which changes something, in `directory`; `environ` as for `read`.

    Waits and tries again, for at most 15 seconds, while another git is in the way. Raises
    `GitError` if it fails, `TimedOutError` after `limit` seconds (git is ended, and cleans up).
    """
    variables = environment(os.environ) if environ is None else environ
    answer = await _settled(directory, arguments, limit, variables, (0,))
    return _checked(answer, directory, arguments, (0,))


async def _settled(
    directory: Path,
    arguments: tuple[str, ...],
    limit: float,
    variables: Mapping[str, str],
    accept: tuple[int, ...],
) -> Answer:
    """What git says once no other git is in its way, or after `_BUSY_PATIENCE` all the same."""
    loop = asyncio.get_running_loop()
    patience = loop.time() + _BUSY_PATIENCE
    pause = 0.05
    while True:
        answer = await _run(directory, arguments, limit, variables)
        if answer.status in accept or not _BUSY.search(answer.err) or loop.time() > patience:
            return answer
        log.info("git waits for another", extra={"action": "git_busy", "stderr": answer.err})
        await asyncio.sleep(pause)
        pause = min(2 * pause, 1.0)


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` without what ties git to another repository, in English, and never asking."""
    kept = {key: value for key, value in inherited.items() if key not in _REPOSITORY_VARIABLES}
    return kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


def of_person(inherited: Mapping[str, str]) -> dict[str, str]:
    """The same for what runs a person's hooks: their text keeps the encoding of their shell."""
    kept = {key: value for key, value in environment(inherited).items() if key != "LC_ALL"}
    locale = {"LC_ALL": inherited["LC_ALL"]} if "LC_ALL" in inherited else {}
    return kept | locale | {"LANGUAGE": "en"}  # which leaves git speaking English


def _checked(
    answer: Answer, directory: Path, arguments: tuple[str, ...], accept: tuple[int, ...]
) -> Answer:
    if answer.status in accept:
        return answer
    said = answer.err or f"exit status {answer.status}, without a word"
    raise GitError(f"`{_title(arguments)}` failed in {directory}: {said}", answer.err)


def _title(arguments: tuple[str, ...]) -> str:
    words = [word for word in arguments[:2] if not word.startswith(("-", "/"))]
    return " ".join(["git", *words])


async def _run(
    directory: Path, arguments: tuple[str, ...], limit: float, variables: Mapping[str, str]
) -> Answer:
    async with _stderr() as (stderr, err):
        process = await _spawn(directory, arguments, stderr, variables)
        try:
            async with asyncio.timeout(limit):
                assert process.stdout is not None  # asked for with PIPE
                out = await process.stdout.read()
                status = await process.wait()
        except TimeoutError as error:
            await _end(process)
            raise TimedOutError(
                f"`{_title(arguments)}` in {directory} took more than {limit:g} seconds "
                "and was ended."
            ) from error
        except BaseException:
            await _end(process)
            raise
    said = err.decode(errors="replace").strip()
    return Answer(status=status, out=os.fsdecode(out), err=said)


async def _spawn(
    directory: Path, arguments: tuple[str, ...], stderr: int, variables: Mapping[str, str]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *("git", "-c", "core.quotePath=false", *arguments),
            cwd=directory,
            env=variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # so that its hooks and filters can be ended with it
        )
    except OSError as error:
        if shutil.which("git") is None:
            raise ClaudedoError("git is not in PATH; install git 2.31 or newer.") from error
        raise GitError(f"git cannot be run in {directory}: {error}") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    """End git and what it started. The polite signal lets it remove locks and half-made trees."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_PATIENCE)
            return


@contextlib.asynccontextmanager
async def _stderr() -> AsyncIterator[tuple[int, bytearray]]:
    """A file descriptor for a child's standard error, and what was written there.

    Not asyncio's own pipe: a hook may leave a process in the background that keeps standard error
    open, and we would wait for that one instead of git.
    """
    loop = asyncio.get_running_loop()
    text, ended = bytearray(), asyncio.Event()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def collect() -> None:
        chunk = os.read(reading, 65536)
        text.extend(chunk)
        del text[:-_STDERR_KEPT]
        if not chunk:
            loop.remove_reader(reading)
            ended.set()

    loop.add_reader(reading, collect)
    try:
        try:
            yield writing, text
        finally:
            os.close(writing)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.2)
    finally:
        loop.remove_reader(reading)
        os.close(reading)


def _is_directory(path: Path) -> bool:
    return path.is_dir()


def _no_repository(directory: Path, said: str) -> ClaudedoError:
    if "dubious ownership" in said or "unsafe repository" in said:
        return RefusedError(
            f"git does not trust the repository of {directory}, which belongs to another user. "
            f"If you do: `git config --global --add safe.directory {directory}`. git says: {said}"
        )
    if "not a git repository" in said:
        return RefusedError(
            f"{directory} is not inside a git repository; run `git init` and make a first commit, "
            "or name another directory."
        )
    return GitError(f"The repository of {directory} cannot be read: {said}", said)


def _resolved(path: Path) -> Path:
    return path.resolve()
