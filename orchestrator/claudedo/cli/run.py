"""`claudedo run`: one one-shot task to its end, in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from claudedo.cli import addition, github, options, queue_reports, render
from claudedo.cli.exits import Exit, of_run
from claudedo.cli.own_worker import own_worker
from claudedo.cli.queue import follow, rules
from claudedo.cli.queue_loop import Chosen, Wishes
from claudedo.errors import RefusedError
from claudedo.model import QueueStatus

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

app = typer.Typer()


@app.command(cls=options.WithRest, rich_help_panel="Sessions")
def run(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What is to be done; - or nothing reads what is piped in.",
            show_default=False,
        ),
    ] = None,
    name: options.OneShotName = None,
    check: options.Check = None,
    needs: options.Needs = None,
    timeout: options.TimeLimit = None,
    budget: options.Budget = None,
    retries: options.Retries = None,
    base: options.Base = None,
    permission_mode: options.PermissionMode = None,
    model: options.Model = None,
    fail_on_unread: options.FailOnUnread = False,
    allow_denied: options.AllowDenied = False,
    ask_timeout: options.AskTimeout = None,
    ask_default: options.AskAnswer = options.AskDefault.DENY,
    trust: options.Trust = False,
    junit: options.Junit = None,
    artifacts: options.Artifacts = None,
    summary: options.Summary = None,
    push: options.Push = False,
    workspace: options.OfWorkspace = None,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Do one task to its end, in a git worktree of its own; print its result.

    You can write to it meanwhile: `claudedo send`. Ctrl-C ends it cleanly, and
    `claudedo queue run NAME` goes on with it. What follows -- goes to claude.

    Status 0: it is done, and its --check succeeded. Else:
    10 rejected, or its check failed; 11 process; 12 time; 13 budget;
    14 unread mail; 15 API; 16 denied tools; 17 what it needs failed.

    Example: claudedo run "Fix the failing test" --check "npm test"
    """
    order = addition.order(context, workspace, permission_mode, model)
    own = {
        "check": check,
        "needs": addition.needed(needs),
        "timeout": timeout,
        "budget": budget,
        "retries": retries,
        "base": base,
    }
    section = addition.of_options(name or "task", addition.prompt_of(prompt, piped=True), own)
    reports = queue_reports.Reports(junit=junit, artifacts=artifacts, summary=summary, push=push)
    reports.check()
    told = rules(fail_on_unread, allow_denied, ask_timeout, ask_default)
    with own_worker() as client:
        one = addition.add_one(client, order, name, section)
        chosen = Chosen(client, frozenset({one["task"]}))
        wishes = Wishes(rules=told, jobs=1, trust=trust)
        try:
            done, interrupted, whole = follow(client, chosen, wishes, reports, quiet=quiet)
        except RefusedError:  # trust, and what else keeps it from being begun
            _take_back(client, one["task"])
            raise
    for ended in done.tasks:
        if json_output:
            render.raw(github.json_text(ended))
        elif ended["result"]:
            render.raw(github.harmless(ended["result"]))
    if interrupted:
        render.note(f"Interrupted; `claudedo queue run {one['name']}` goes on with it.")
        raise typer.Exit(Exit.INTERRUPTED)
    status = of_run(done.tasks) if done.tasks else Exit.FAILED
    if status or not whole:
        raise typer.Exit(status or Exit.FAILED)


def _take_back(client: WorkerClient, task: str) -> None:
    """Remove what was added and may not begin; nobody is to find it in the next `queue run`."""
    for one in client.one_shots():
        if one["task"] == task and one["status"] == QueueStatus.QUEUED and not one["attempts"]:
            client.remove(task)
