"""What there is, and what is done with it: ls, show, path, stop, restart, rm, link, unlink."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import options, progress, refusal, render
from claudedo.cli.exits import Exit, common, status_of
from claudedo.errors import ClaudedoError, NotFoundError, RefusedError, UsageError
from claudedo.model import Assignee, SessionState, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from claudedo.client import WorkerClient

app = typer.Typer()

_EVENT_SECONDS = 20.0
_REDRAW_SECONDS = 1.0
BURST_SECONDS = 0.1
"""Events that come this close together are looked at together."""

All = Annotated[bool, typer.Option("--all", help="All that this can apply to.")]


# What there is


@app.command(rich_help_panel="Sessions")
def ls(
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing as things change; Ctrl-C ends.")
    ] = False,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
    workspace: options.InWorkspace = None,
) -> None:
    """List the tasks of all workspaces and what their sessions are doing.

    The machine's other Claude sessions follow, marked "not ours"; `claudedo adopt` brings one in.

    Example: claudedo ls --json
    """
    client = options.worker()
    if watch:
        _watch(client, workspace, json_output=json_output)
        return
    if quiet:
        for task in client.tasks(workspace):
            render.show(task["id"])
        return
    tasks = options.everything(client, workspace)
    if not tasks:
        options.check_workspace(client, workspace)
    if json_output:
        render.as_json(tasks)
    elif tasks:
        render.table(_HEADS, _rows(tasks), cut=_CUT)
    elif workspace:
        render.note(f"No tasks in the workspace {workspace}.")
    else:
        render.note("No tasks yet. In a git repository, start one: claudedo start NAME")


_HEADS = ("NAME", "STATE", "WAITING FOR", "SINCE", "UNREAD", "PEERS", "BRANCH")
_CUT = (2, 5, 6)  # the columns that may be cut; `show` has all of them


def _rows(tasks: list[dict[str, Any]]) -> list[list[render.Cell]]:
    several = len({task["workspace"] for task in tasks}) > 1
    return [_row(task, several) for task in tasks]


def _row(task: dict[str, Any], several_workspaces: bool) -> list[render.Cell]:
    session = task["session"] or {}
    state = _state(task)
    name = f"{task['workspace']}/{task['name']}" if several_workspaces else task["name"]
    return [
        render.Cell(name if task["supervised"] else f"{name} (not ours)", "bold"),
        render.Cell(state, render.STATE_STYLES.get(state, "dim")),
        render.Cell(_why(task, session)),
        render.Cell(render.age(session["since"]) if session.get("since") else ""),
        render.Cell(str(task["pending"] or ""), "bold yellow"),
        render.Cell(", ".join(task["peers"])),
        render.Cell(task["branch"] or "", "dim"),
    ]


def _why(task: dict[str, Any], session: dict[str, Any]) -> str:
    """What the session waits for, or why it does not go on."""
    if stands := render.in_queue(task):
        return stands[1]
    words = refusal.words(task) or session.get("waiting_for") or session.get("reason")
    if words or not session or task["status"] in (TaskStatus.NOTSTARTED, TaskStatus.ONGOING):
        return words or ""
    return f"its task is {task['status']}"


def _state(task: dict[str, Any]) -> str:
    """What the session does, or how far a task is that has none."""
    if stands := render.in_queue(task):
        return stands[0]
    if task["session"]:
        return str(task["session"]["state"])
    status = TaskStatus(task["status"])
    if status.over or task.get("holder"):
        return "claimed" if status is TaskStatus.NOTSTARTED else str(status)
    human = task["assignee"] == Assignee.HUMAN
    return render.WAITING_FOR_YOU if human else "not started"


def _watch(client: WorkerClient, workspace: str | None, *, json_output: bool) -> None:
    """Show the list, and show it again whenever it changed."""
    on_terminal = render.out_is_terminal() and not json_output
    with render.live(on_terminal) as draw:
        shown = None
        for tasks in _states(client, workspace, _REDRAW_SECONDS if draw else _EVENT_SECONDS):
            if draw is not None:
                draw(render.rich_table(_HEADS, render.shortened(_HEADS, _rows(tasks), _CUT)))
            elif tasks != shown and json_output:
                render.as_json_line(tasks)
            elif tasks != shown:
                render.table(_HEADS, _rows(tasks), cut=_CUT)
            shown = tasks


def _states(
    client: WorkerClient, workspace: str | None, pause: float
) -> Iterator[list[dict[str, Any]]]:
    """The list now, after every event, and after `pause` seconds without one."""
    seen = latest(client)
    while True:
        yield options.everything(client, workspace)
        time.sleep(BURST_SECONDS)
        seen = client.events(seen, pause)["next"]


def latest(client: WorkerClient) -> int:
    """The sequence number of the last event there is."""
    seen = 0
    while (page := client.events(seen, 0))["events"]:
        seen = page["next"]
    return seen


@app.command(rich_help_panel="Sessions")
def show(
    target: options.Target,
    json_output: options.AsJson = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Show all that is known about one task.

    Example: claudedo show backend
    """
    client = options.worker()
    task = client.task(options.find(client, target, workspace)["id"])
    history = client.history(task["id"])
    if json_output:
        render.as_json({**task, "history": history})
        return
    task = {**task, **{role: _party(client, task.get(role)) for role in ("creator", "holder")}}
    facts = [(label, text) for label, value in _facts(task) if (text := _said(label, value))]
    width = max(len(label) for label, _ in facts) + 2
    for label, text in facts:
        render.show(f"{label:<{width}}{render.line(text)}")
    for move in history:
        moved = f"{move['before']} → {move['after']} by {render.line(move['name'])}"
        render.show(f"{'moved':<{width}}{render.clock(move['at'])}  {moved}")


def _party(client: WorkerClient, party: str | None) -> str | None:
    """Who made a task, or has it, by name."""
    kind, _, identity = (party or "").partition(":")
    if kind == "task":
        found = next((one for one in client.tasks() if one["id"] == identity), None)
        return str(found["name"]) if found else "a task that is removed"
    if kind == "token":
        found = next((one for one in client.tokens() if one["id"] == identity), None)
        return f"the client {found['name']}" if found else "a client whose token is removed"
    return party


def _facts(task: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is known of a task, each with a label in words."""
    task = {key: value for key, value in task.items() if key != "supervised"}
    branch, base = task.pop("base_branch", None), task.get("base")
    if base:
        task["base"] = f"{branch} at {base[:12]}" if branch else base
    session = task.pop("session") or {}
    parts = {"queue": task.pop("queue", None) or {}, "work": task.pop("work", None) or {}}
    parts |= {part: session.pop(part, None) or {} for part in ("usage", "failure")}
    for key, value in (
        *task.items(),
        *((f"{part} {key}", value) for part in parts for key, value in parts[part].items()),
        *((f"session {key.removeprefix('session_')}", session[key]) for key in session),
    ):
        yield key.replace("_", " "), value


def _said(label: str, value: Any) -> str:
    """A fact in words; "" for one that tells nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, str) and label.endswith((" since", " at")):
        return render.clock(value)
    return str(value or "")


@app.command(rich_help_panel="Sessions")
def status(
    target: options.Target,
    to: Annotated[
        TaskStatus, typer.Argument(metavar="STATUS", help="One of " + ", ".join(TaskStatus))
    ],
    words: Annotated[
        str | None,
        typer.Option(
            "--message", "-m", metavar="WORDS", help="Words for who works on it, or asked."
        ),
    ] = None,
    workspace: options.InWorkspace = None,
) -> None:
    """Set how far a task is. Its session goes on; `claudedo show` tells, with the history.

    Example: claudedo status backend completed
    """
    client = options.worker()
    task = options.find(client, target, workspace)
    moved = client.move(task["id"], to, words)
    render.show(f"{task['name']}: {moved['previous']} → {moved['status']}")


@app.command(rich_help_panel="Sessions")
def path(target: options.Target, workspace: options.InWorkspace = None) -> None:
    """Print a task's folder: its worktree, or with --here the checkout that it uses.

    Example: cd "$(claudedo path backend)"
    """
    task = options.find_place(options.worker(), target, workspace)
    if not task["worktree"]:
        raise NotFoundError(f"{task['name']} has no folder yet; it gets one when it begins.")
    render.raw(task["worktree"])


# What is done with it


@app.command(rich_help_panel="Sessions")
def stop(
    targets: options.Targets = None,
    everything: All = False,
    workspace: options.InWorkspace = None,
) -> None:
    """End sessions, politely, then firmly. Worktrees, branches and messages stay.

    --all: every session that runs.

    Example: claudedo stop backend frontend
    """
    client = options.worker()
    tasks = _chosen(client, targets, workspace, everything, live=True)
    _for_each(tasks, lambda task: f"{task['name']} {_STOPPED[client.stop(task['id'])]}")


_STOPPED = {True: "stopped", False: "was not running"}


@app.command(rich_help_panel="Sessions")
def restart(
    targets: options.Targets = None,
    everything: All = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Resume conversations in new processes, with the environment of this shell.

    --all: every session that does not run, after a reboot for example.

    Example: claudedo restart backend
    """
    client = options.worker()
    tasks = _chosen(client, targets, workspace, everything, live=False)
    env = dict(os.environ)
    failed = _attempt(tasks, lambda task: client.restart(task["id"], env))
    going = [task["id"] for task in tasks if task["id"] not in failed]
    if going:
        listed, status = progress.follow(client, going)
        failed["sessions"] = status
        for one in map(progress.sight, listed):
            if not one.failed:  # which was said with its reason
                render.show(f"{one.name} is {one.state}")
    _end(failed)


@app.command(rich_help_panel="Sessions")
def rm(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="T", help="Tasks: name, workspace/name or beginning of an id."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Also remove work that exists nowhere else.")
    ] = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Remove tasks with their worktrees and branches.

    Uncommitted, untracked, stashed or unmerged work is never removed without --force.
    On a terminal it asks before it cuts a turn short, too.

    Example: claudedo rm backend
    """
    client = options.worker()
    tasks = _chosen(client, targets, workspace, everything=False, live=None)
    if not force:
        _check_at_work(tasks)
    _for_each(tasks, lambda task: client.remove(task["id"], force=force))


def _check_at_work(tasks: list[dict[str, Any]]) -> None:
    """Let a person who is there confirm that turns are cut short; raises `RefusedError` if not."""
    busy = [task for task in tasks if task["session"] and task["session"]["state"] in _AT_WORK]
    if not busy or not render.can_ask():
        return
    names = ", ".join(task["name"] for task in busy)
    what = ("are", "turns", "them") if busy[1:] else ("is", "a turn", "it")
    if not render.ask(f"{names} {what[0]} in the middle of {what[1]}. Remove {what[2]} now?"):
        raise RefusedError("Nothing was removed.")


_AT_WORK = (SessionState.BUSY, SessionState.WAITING)


A = Annotated[str, typer.Argument(metavar="A", help="One task.")]
B = Annotated[str, typer.Argument(metavar="B", help="The other.")]


@app.command(rich_help_panel="Sessions")
def link(a: A, b: B, workspace: options.InWorkspace = None) -> None:
    """Make two tasks peers: each can then send to the other.

    Example: claudedo link backend frontend
    """
    client = options.worker()
    one, other = _pair(client, a, b, workspace)
    client.link(one["id"], other["id"])
    render.show(f"{one['name']} and {other['name']} are peers")


@app.command(rich_help_panel="Sessions")
def unlink(a: A, b: B, workspace: options.InWorkspace = None) -> None:
    """Let two tasks be peers no longer.

    Example: claudedo unlink backend frontend
    """
    client = options.worker()
    one, other = _pair(client, a, b, workspace)
    client.unlink(one["id"], other["id"])
    render.show(f"{one['name']} and {other['name']} are no peers any more")


def _pair(
    client: WorkerClient, a: str, b: str, workspace: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    one, other = (options.find(client, target, workspace) for target in (a, b))
    if one["id"] == other["id"]:
        raise UsageError("A task cannot be its own peer: name two.")
    return one, other


def _chosen(
    client: WorkerClient,
    targets: list[str] | None,
    workspace: str | None,
    everything: bool,
    live: bool | None,
) -> list[dict[str, Any]]:
    """The tasks that the person means; a name that fits nothing stops before anything is done."""
    if everything == bool(targets):
        raise UsageError("Name tasks, or say --all.")
    if targets:
        found = [options.find(client, target, workspace) for target in targets]
        return list({task["id"]: task for task in found}.values())
    tasks = [
        task
        for task in client.tasks(workspace)
        if task["supervised"]
        and task["session"]
        and SessionState(task["session"]["state"]).live is live
    ]
    if not tasks:
        render.note("No session runs." if live else "Every session runs already.")
    return tasks


def _for_each(tasks: list[dict[str, Any]], action: Callable[[dict[str, Any]], str]) -> None:
    """Apply `action` to every task, whatever happens to the others, and print what it says."""
    _end(_attempt(tasks, lambda task: render.show(action(task))))


def _attempt(
    tasks: list[dict[str, Any]], action: Callable[[dict[str, Any]], None]
) -> dict[str, Exit]:
    failed = {}
    for task in tasks:
        try:
            action(task)
        except ClaudedoError as error:
            render.error(f"{task['name']}: {error}")
            failed[task["id"]] = status_of(error)
    return failed


def _end(failed: dict[str, Exit]) -> None:
    if status := common(list(failed.values())):
        raise typer.Exit(status)
