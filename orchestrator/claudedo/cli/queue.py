"""`claudedo queue`: one-shot tasks added, listed, run, cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import addition, github, options, queue_progress, queue_reports, render
from claudedo.cli.exits import Exit, of_run
from claudedo.cli.interrupts import Interrupts
from claudedo.cli.own_worker import own_worker
from claudedo.cli.queue_loop import Chosen, Run, Wishes, put_back
from claudedo.errors import NotFoundError, UsageError
from claudedo.model import QueueStatus, RunExit
from claudedo.report.summary import headline

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

Json = dict[str, Any]

PATIENCE = 300.0
"""Seconds that an ask waits for a person who is at a terminal."""

app = typer.Typer(
    help="Tasks that a session does alone, from a prompt to a verdict, one after the other.",
    epilog="For build servers: docs/ci.md. One task in the foreground: claudedo run.",
)


@app.command(cls=options.WithRest)
def add(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What is to be done; - is standard input.", show_default=False
        ),
    ] = None,
    name: options.OneShotName = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="F", help="Tasks as TOML or JSON, each a [tasks.NAME]; - is stdin."),
    ] = None,
    check: options.Check = None,
    needs: options.Needs = None,
    timeout: options.TimeLimit = None,
    budget: options.Budget = None,
    retries: options.Retries = None,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Higher ones begin first (0).")
    ] = None,
    base: options.Base = None,
    permission_mode: options.PermissionMode = None,
    model: options.Model = None,
    workspace: options.OfWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put tasks into the queue. Nothing runs before `claudedo queue run`.

    Each gets a git worktree and a branch of its own when its turn comes.
    Everything after -- goes to claude.

    Example: claudedo queue add "Fix the failing test" --name fix --check "npm test"
    """
    order = addition.order(context, workspace, permission_mode, model)
    own = {
        "check": check,
        "needs": addition.needed(needs),
        "timeout": timeout,
        "budget": budget,
        "retries": retries,
        "priority": priority,
        "base": base,
    }
    if file is not None:
        _check_alone({"PROMPT": prompt, "--name": name, **{f"--{key}": own[key] for key in own}})
        tasks, source = addition.of_file(file)
        with own_worker() as client:
            added = client.add_one_shots({**order, "source": source, "tasks": tasks})
    else:
        section = addition.of_options(name or "task", addition.prompt_of(prompt), own)
        with own_worker() as client:
            added = [addition.add_one(client, order, name, section)]
    if json_output:
        render.raw(github.json_text(added))
        return
    for one in added:
        render.show(one["task"] if quiet else _queued(one))
    if not quiet:
        render.note("`claudedo queue run` runs what is in the queue.")


def _check_alone(given: Json) -> None:
    """Raise `UsageError` for what is said beside a file that says it of each task."""
    if said := [option for option, value in given.items() if value is not None]:
        raise UsageError(f"--file says all of each task: leave out {', '.join(said)}.")


def _queued(one: Json) -> str:
    after = f", after {', '.join(one['needs'])}" if one["needs"] else ""
    return f"{one['name']} is in the queue{after}"


@app.command("ls")
def list_(
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
    workspace: options.InWorkspace = None,
) -> None:
    """List the one-shot tasks of all workspaces, how far they are and how they ended.

    Example: claudedo queue ls --json
    """
    with own_worker() as client:
        tasks = client.one_shots(workspace)
    if json_output:
        render.raw(github.json_text(tasks))
    elif quiet:
        for one in tasks:
            render.show(one["task"])
    elif tasks:
        queue_progress.table(tasks)
    else:
        render.note('The queue is empty. In a git repository: claudedo queue add "WHAT TO DO"')


@app.command()
def run(
    targets: options.Targets = None,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="How many may run at a time.")
    ] = 2,
    fail_on_unread: options.FailOnUnread = False,
    allow_denied: options.AllowDenied = False,
    ask_timeout: options.AskTimeout = None,
    ask_default: options.AskAnswer = options.AskDefault.DENY,
    trust: options.Trust = False,
    junit: options.Junit = None,
    artifacts: options.Artifacts = None,
    summary: options.Summary = None,
    push: options.Push = False,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Run what is in the queue, until there is a verdict on each.

    By omission all that is queued for this repository. T: only these; one that
    ended before goes on with the mail that came for it.
    Ctrl-C ends what runs cleanly; the next run goes on where it was.

    Status 0: all are good. Else the one that all failures share, or 1:
    10 rejected, or its check failed; 11 process; 12 time; 13 budget;
    14 unread mail; 15 API; 16 denied tools; 17 skipped; 130 cancelled.
    Skipped tasks count only where nothing else failed.

    Example: claudedo queue run --jobs 4 --junit report.xml
    """
    reports = queue_reports.Reports(junit=junit, artifacts=artifacts, summary=summary, push=push)
    reports.check()
    wishes = Wishes(
        rules=rules(fail_on_unread, allow_denied, ask_timeout, ask_default), jobs=jobs, trust=trust
    )
    with own_worker() as client:
        chosen = _chosen(client, targets, workspace)
        done, interrupted, whole = follow(client, chosen, wishes, reports, quiet=quiet)
    if json_output:
        render.raw(github.json_text(done.tasks))
    elif quiet:
        render.show(headline(done.tasks))
    elif done.tasks:
        queue_progress.table(done.tasks)
    else:
        render.note("Nothing is queued.")
    _say_how_to_go_on(done.tasks, targets, interrupted)
    if interrupted:
        raise typer.Exit(Exit.INTERRUPTED)
    status = of_run(done.tasks)
    if status or not whole:
        raise typer.Exit(status or Exit.FAILED)


def rules(
    fail_on_unread: bool,
    allow_denied: bool,
    ask_timeout: float | None,
    ask_default: options.AskDefault,
) -> Json:
    """What counts as failed, and who is asked how long, as the worker takes it."""
    if ask_timeout is None:
        ask_timeout = PATIENCE if render.can_ask() else 0.0
    return {
        "fail_on_unread": fail_on_unread,
        "allow_denied": allow_denied,
        "ask_timeout": ask_timeout,
        "ask_default": ask_default,
    }


def _chosen(client: WorkerClient, targets: list[str] | None, workspace: str | None) -> Chosen:
    """What is to run. Those that are named and over are queued again, which may be refused."""
    if not targets:
        return Chosen(client, workspace=workspace, cwd=options.here())
    known = one_shots(client, targets, workspace)
    if over := [one["task"] for one in known if QueueStatus(one["status"]).over]:
        client.queue_again(over)
    return Chosen(client, frozenset(one["task"] for one in known))


def one_shots(client: WorkerClient, targets: list[str], workspace: str | None) -> list[Json]:
    """The one-shots that the person means. Raises `NotFoundError` for what is none."""
    tasks = [options.find(client, target, workspace) for target in targets]
    there = {one["task"]: one for one in client.one_shots()}
    if others := [task["name"] for task in tasks if task["id"] not in there]:
        raise NotFoundError(f"{others[0]} is no one-shot: `claudedo queue ls` lists those.")
    return [there[task] for task in dict.fromkeys(task["id"] for task in tasks)]


def follow(
    client: WorkerClient,
    chosen: Chosen,
    wishes: Wishes,
    reports: queue_reports.Reports,
    *,
    quiet: bool,
) -> tuple[Run, bool, bool]:
    """Run them, show how it goes, write the reports and say what failed.

    Returns the run, whether it was interrupted, and whether all of the reports could be written.
    """
    interrupted = False
    wrong: list[str] = []
    with Interrupts() as interrupts:
        keeping = queue_reports.Keeping(client, reports, wrong)
        run = Run(client, chosen, wishes, interrupts, keeping.ended)
        try:
            run.begin()
            with queue_progress.progress(quiet or not run.tasks) as progress:
                run.follow(progress, tick=isinstance(progress, queue_progress.Table))
        except KeyboardInterrupt:
            interrupted = True
            put_back(run)
        else:
            keeping.pushed(run.tasks)
        if run.tasks:
            wrong += reports.write(run.tasks)
    _say_failures(client, run, reports)
    for trouble in wrong:
        render.error(trouble)
    return run, interrupted, not wrong


def _say_failures(client: WorkerClient, run: Run, reports: queue_reports.Reports) -> None:
    """A line for each failure: why, and where to look."""
    if not github.is_here():  # where each was marked as an error when it ended
        for one in run.tasks:
            if one["exit"] not in (None, RunExit.DONE, RunExit.SKIPPED, RunExit.CANCELLED):
                render.error(f"{one['name']} {one['status']} ({one['exit']}): {_why(one)}")
    for one in run.stranded:
        left = ", ".join(one["needs"]) or "nothing"
        render.error(
            f"{one['name']} was not run and stays in the queue: it needs {left}, not all of which "
            "is done or chosen. `claudedo queue run` runs all that is queued here."
        )


def _why(one: Json) -> str:
    why = render.line(one["reason"] or "")
    if one["usage"] is None:  # it came to no request: there is nothing in its log
        return why
    return f"{why.removesuffix('.')}; look: claudedo logs {one['name']}"


def _say_how_to_go_on(tasks: list[Json], targets: list[str] | None, interrupted: bool) -> None:
    left = [one["name"] for one in tasks if not QueueStatus(one["status"]).over]
    if interrupted and left:
        command = " ".join(["claudedo queue run", *(left if targets else [])])
        render.note(f"Interrupted; `{command}` goes on with {', '.join(left)}.")


@app.command()
def cancel(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="T", help="Tasks: name, workspace/name or beginning of an id."),
    ],
    workspace: options.InWorkspace = None,
) -> None:
    """Take tasks out of the queue; one that runs is ended cleanly. What needs them is skipped.

    Their worktrees, branches and conversations stay: `claudedo queue run T` goes on with them.

    Example: claudedo queue cancel fix
    """
    with own_worker() as client:
        known = one_shots(client, targets, workspace)
        over = {one["task"] for one in known if QueueStatus(one["status"]).over}
        going = [one["task"] for one in known if one["task"] not in over]
        if going:
            client.cancel_one_shots(going)
        now = {one["task"]: one for one in client.one_shots()}
    for one in known:
        if one["task"] in over:
            render.note(f"{one['name']} is {one['status']} already.")
            continue
        ended = "was ended" if one["status"] == QueueStatus.RUNNING else "is out of the queue"
        status = now[one["task"]]["status"]
        render.show(f"{one['name']} {ended if status == QueueStatus.CANCELLED else f'is {status}'}")
