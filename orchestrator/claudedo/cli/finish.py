"""Finishing a task: what it changed, a command in its folder, its work merged or proposed.

`diff` and `exec` run here, with this terminal; merging is the worker's part, pushing is not.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo import own_git
from claudedo.cli import options, render
from claudedo.cli.exits import Exit
from claudedo.errors import ClaudedoError, NotFoundError, RefusedError, UsageError

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

app = typer.Typer()

_CANNOT_RUN, _NO_COMMAND = 126, 127  # as a shell ends
_LEFT = 128 + signal.SIGPIPE  # how git ends when its pager is left before the end


@app.command(cls=options.WithRest, rich_help_panel="Sessions")
def diff(
    context: typer.Context,
    target: options.Target,
    stat: Annotated[
        bool, typer.Option("--stat", help="Only how much changed in each file.")
    ] = False,
    json_output: options.AsJson = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Show all that a task changed since it left its base, committed or not.

    What git ignores is not shown. Paths after -- narrow it down.
    --json: how many lines of each file.

    Example: claudedo diff backend -- src
    """
    client = options.worker()
    task = options.find_place(client, target, workspace)
    found = client.changes(task["id"])
    what = [found["base"], *filter(None, [found["head"]]), "--", *options.rest(context)]
    looks = [*(["--stat"] if stat else []), *_looks()]
    with index_with(found) as env:
        if json_output:
            render.as_json(_counts(what, found["directory"], env))
            return
        status = _wait("git", "diff", "--quiet", *what, cwd=found["directory"], env=env)
        if status == 0:
            since = f"left {render.line(found['into'])}" if found["into"] else "started"
            render.note(f"{task['name']} changed nothing since it {since}.")
        elif status == 1:  # shown apart: asked for its exit status, git leaves out the pager
            status = _wait("git", "diff", *looks, *what, cwd=found["directory"], env=env)
    if status == Exit.INTERRUPTED:
        raise typer.Exit(status)
    if status not in (0, _LEFT):
        raise ClaudedoError(f"`git diff` failed in {found['directory']} (exit status {status}).")


@app.command("exec", cls=options.WithRest, rich_help_panel="Sessions")
def execute(
    context: typer.Context,
    target: options.Target,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD", help="What to run.", show_default=False)
    ] = None,
    workspace: options.InWorkspace = None,
) -> None:
    """Run a command in a task's folder, with the variables that its session has.

    Ends with the command's own exit status.

    Example: claudedo exec backend -- npm test
    """
    words = [*(command or []), *options.rest(context)]
    if not words or not words[0]:
        raise UsageError(f"Say what to run: claudedo exec {target} -- COMMAND.")
    client = options.worker()
    task = options.find_place(client, target, workspace)
    folder = task["worktree"]
    if not folder or not Path(folder).is_dir():
        raise NotFoundError(
            f"The folder of {task['name']} is not there; "
            f"`claudedo restart {task['name']}` makes it again."
        )
    _become(words, folder, own_git.environment() | client.variables(task["id"]))


@app.command(rich_help_panel="Sessions")
def merge(
    target: options.Target,
    into: Annotated[
        str | None, typer.Option(metavar="B", help="The branch, instead of the task's base.")
    ] = None,
    squash: Annotated[bool, typer.Option("--squash", help="As a single commit.")] = False,
    commit: Annotated[
        bool, typer.Option("--commit", help="First commit what is not, untracked files, too.")
    ] = False,
    message: Annotated[
        str | None,
        typer.Option(
            "--message", "-m", metavar="MSG", help="What that commit, or the squash, says."
        ),
    ] = None,
    pr: Annotated[
        bool, typer.Option("--pr", help="Push the branch and open a pull request with gh instead.")
    ] = False,
    rm: Annotated[bool, typer.Option("--rm", help="Then remove the task.")] = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Merge a task's work into the branch it started from.

    All or nothing: with uncommitted work or conflicts nothing is changed.
    A checkout that is on the branch follows; your own changes there stay.

    Example: claudedo merge backend --commit -m "Add the API" --rm
    """
    _check_words(squash=squash, commit=commit, message=message, pr=pr)
    client = options.worker()
    task = options.find_place(client, target, workspace)
    order = {"env": dict(os.environ), "into": into, "commit": commit, "message": message}
    if pr:
        _propose(client, task, order)
        if rm:
            render.show(client.remove(task["id"]))
        return
    done = client.merge(task["id"], {**order, "squash": squash, "remove": rm})
    render.show(done["summary"])
    if done["removed"]:
        render.show(done["removed"])


def _check_words(*, squash: bool, commit: bool, message: str | None, pr: bool) -> None:
    if message is not None and not message.strip():
        raise UsageError("The message is empty.")
    if commit and message is None:
        raise UsageError("--commit needs a message: --commit -m MESSAGE.")
    if message is not None and not (commit or squash):
        raise UsageError("-m is what --commit or --squash says: add the one you mean.")
    if pr and squash:
        raise UsageError("How a pull request is merged is decided there: leave out --squash.")


def _counts(what: list[str], folder: str, env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each changed file with its added and deleted lines; null for one that is not text."""
    told = own_git.answer(
        "git", "diff", "--numstat", "--no-renames", "-z", *what, cwd=folder, env=env
    )
    if told is None:
        raise ClaudedoError(f"git cannot tell what changed in {folder}.")
    files = [entry.split("\t", 2) for entry in told.split("\0") if entry]
    return [
        {"path": path, "added": _number(added), "deleted": _number(deleted)}
        for added, deleted, path in files
    ]


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


# A pull request


def _propose(client: WorkerClient, task: dict[str, Any], order: dict[str, Any]) -> None:
    if shutil.which("gh") is None:
        raise RefusedError(
            "--pr needs GitHub's `gh`, which is not in PATH (https://cli.github.com). "
            f"`git -C {task['worktree']} push -u REMOTE {task['branch']}` pushes without it."
        )
    remote = own_git.remote_of(client.task(task["id"])["repo"] or ".")
    made = client.propose(task["id"], order)
    place, branch = made["directory"], made["branch"]
    known = own_git.answer("gh", *_list_of(branch, made["into"]), cwd=place)
    if known is None:
        raise ClaudedoError("`gh` could not look for pull requests; nothing was pushed.")
    if _wait(
        "git", "push", "--set-upstream", remote, f"refs/heads/{branch}", cwd=place, notes=True
    ):
        raise ClaudedoError(f"`git push` to {remote} failed; no pull request was opened.")
    if known:
        render.show(known.splitlines()[0])
        return
    new = ("pr", "create", "--head", branch, "--base", made["into"], "--fill")
    if _wait("gh", *new, cwd=place):
        raise ClaudedoError(f"{branch} is pushed to {remote}, but `gh` opened no pull request.")


def _list_of(branch: str, into: str) -> tuple[str, ...]:
    which = ("--head", branch, "--base", into, "--state", "open")
    return ("pr", "list", *which, "--json", "url", "--jq", ".[].url")


# Other programs


def _looks() -> list[str]:
    """As the person configured git on a terminal; elsewhere a patch that programs can read."""
    if not render.out_is_terminal():
        return ["--no-color", "--no-ext-diff"]
    return ["--no-color"] if os.environ.get("NO_COLOR") else []


@contextmanager
def index_with(found: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """An environment in which git knows the untracked files, too; the real index stays as it is."""
    env = own_git.environment() | {"GIT_OPTIONAL_LOCKS": "0"}
    names = [name for name in found["untracked"] if not name.endswith("/")]
    for name in set(found["untracked"]) - set(names):
        render.note(f"{render.line(name)} is a repository of its own and not shown.")
    if not names or found["head"]:
        yield env
        return
    place = found["directory"]
    index = own_git.answer(
        "git", "rev-parse", "--path-format=absolute", "--git-path", "index", cwd=place
    )
    with tempfile.TemporaryDirectory(prefix="claudedo-diff-") as folder:
        env["GIT_INDEX_FILE"] = str(Path(folder, "index"))
        if index and Path(index).exists():
            shutil.copyfile(index, env["GIT_INDEX_FILE"])
        subprocess.run(
            ["git", "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul"],
            cwd=place,
            env=env | {"GIT_LITERAL_PATHSPECS": "1"},
            input=b"\0".join(os.fsencode(name) for name in names),
            stderr=subprocess.DEVNULL,  # a file that is gone again is simply not shown
            check=False,
        )
        yield env


def _wait(
    program: str,
    *arguments: str,
    cwd: str,
    env: Mapping[str, str] | None = None,
    notes: bool = False,
) -> int:
    """Run a program at this terminal; its exit status. `notes`: it has no result to print."""
    try:
        running = subprocess.Popen(
            [program, *arguments],
            cwd=cwd,
            env=env or own_git.environment(),
            stdout=2 if notes else None,
        )
    except OSError as error:
        raise ClaudedoError(f"{program} cannot be run in {cwd}: {error.strerror}.") from error
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, or its pager
    try:
        status = running.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def _become(words: list[str], folder: str, env: Mapping[str, str]) -> None:
    """Replace this process, so that terminal, signals and exit status are the command's own."""
    os.chdir(folder)
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)  # which Python ignores
    try:
        os.execvpe(words[0], words, {**env, "PWD": folder})
    except OSError as error:
        render.error(f"{render.line(words[0])}: {error.strerror}")
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise typer.Exit(_NO_COMMAND if missing else _CANNOT_RUN) from error
