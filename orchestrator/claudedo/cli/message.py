"""Saying something, seeing how far it came, finding it again: send, thread, search."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from claudedo.cli import options, render
from claudedo.cli.exits import Exit
from claudedo.cli.start import read_text
from claudedo.cli.task import BURST_SECONDS, latest
from claudedo.errors import (
    ClaudedoError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UnavailableError,
    UsageError,
)
from claudedo.model import (
    MOST_FILES,
    Assignee,
    Priority,
    QueueStatus,
    Rung,
    SessionState,
    check_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from claudedo.client import WorkerClient

app = typer.Typer()

_POLL_SECONDS = 20.0


@app.command(rich_help_panel="Messages")
def send(
    target: options.Target,
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What to say.", show_default=False)
    ] = None,
    message_file: Annotated[
        str | None, typer.Option(metavar="F", help="Read it here; - is standard input.")
    ] = None,
    priority: Annotated[
        Priority, typer.Option(help="high: first in line. halt: no further tool calls, then this.")
    ] = Priority.NORMAL,
    reply_to: Annotated[
        str | None, typer.Option(metavar="ID", help="The message that this answers.")
    ] = None,
    attach: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A file that goes with it; may be given several times."),
    ] = None,
    wait: Annotated[
        Rung, typer.Option(metavar="RUNG", help="Return when it came so far: " + ", ".join(Rung))
    ] = Rung.STORED,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0, help="How many seconds --wait lasts at most.")
    ] = 60.0,
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Send a message to a task. It is kept until its session has it.

    Status 6 means: accepted and safe, but --wait was not confirmed in time.

    Example: claudedo send backend "The API changed" --wait read
    """
    files = [file.expanduser() for file in attach or []]
    if files and not text and message_file is None:
        text = [f"Attached: {', '.join(file.name for file in files)}"]
    body = _body(" ".join(text) if text else None, message_file)
    client = options.worker()
    task = options.find(client, target, workspace)
    ids = upload(client, task["id"], files)
    sent = _store(client, task["id"], body, priority, reply_to, ids)
    if wait in (Rung.READ, Rung.ANSWERED) and str(task.get("holder")).startswith("token:"):
        whose = f"{render.line(task['name'])} is worked on by a client with a token"
        known = "no more is known than delivered, until it replies to the message by its id"
        render.note(f"{whose}: of it {known}.")
    if wait is not Rung.STORED:
        sent = _wait(client, sent, wait, timeout, task["name"])
    if json_output:
        render.as_json(sent)
    elif quiet:
        render.show(sent["id"])
    else:
        render.show(_how_far(task["name"], sent))
        _say_if_absent(client, task)
    if not sent["receipts"][f"{wait}_at"]:
        render.note(f"Not {wait} within {timeout:g} s. {_safe(task['name'])}")
        raise typer.Exit(Exit.UNCONFIRMED)


def _body(text: str | None, file: str | None) -> str:
    if (text is None) == (file is None):
        raise UsageError("Say something: either TEXT or --message-file F (- is standard input).")
    return check_body(text if text is not None else read_text(str(file)))


def upload(client: WorkerClient, task: str, files: Sequence[Path]) -> list[str]:
    """Give files to the task `task`, for what is said next in its thread; returns their ids.

    Raises `UsageError`, before anything is sent, for what is no file or cannot be read.
    """
    _check_files(files)
    return [_upload(client, task, file) for file in files]


def _check_files(files: Sequence[Path]) -> None:
    """Raise `UsageError` before anything is sent if not all of them can be."""
    if len(files) > MOST_FILES:
        raise UsageError(f"A message carries at most {MOST_FILES} files.")
    for file in files:
        if file.exists() and not file.is_file():  # what is read without an end, or waits for one
            raise UsageError(f"{file} is no file; --attach takes files only.")
        if not os.access(file, os.R_OK):
            why = "Permission denied" if file.exists() else "No such file or directory"
            raise UsageError(f"{file} cannot be read: {why}.")


def _upload(client: WorkerClient, task: str, file: Path) -> str:
    try:
        return str(client.upload(task, file)["id"])
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error


def _store(
    client: WorkerClient,
    task: str,
    body: str,
    priority: Priority,
    reply_to: str | None,
    files: list[str],
) -> dict[str, Any]:
    key = uuid4().hex  # the same for every try, so that a worker's death never doubles it
    try:
        return client.send(
            task, body, priority=priority, reply_to=reply_to, key=key, attachments=files
        )
    except TimedOutError as error:
        raise UnavailableError(f"{error} The message may be stored or not.") from error


def _safe(name: str) -> str:
    return f"The message is safe and will go on: claudedo thread {render.line(name)}"


def _wait(
    client: WorkerClient, sent: dict[str, Any], rung: Rung, timeout: float, name: str
) -> dict[str, Any]:
    """Look until the message reached `rung` or `timeout` seconds are over.

    A person who watches is told what is waited for, and with Ctrl-C that nothing is lost.
    """
    if render.notes_are_seen():
        known = f"stored for {render.line(name)}; waiting until it is {rung}"
        render.note(f"{known}, up to {timeout:g} s")
    try:
        return _look(client, sent, rung, timeout)
    except KeyboardInterrupt:
        render.note(_safe(name))
        raise


def _look(client: WorkerClient, sent: dict[str, Any], rung: Rung, timeout: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout
    while not sent["receipts"][f"{rung}_at"] and (left := deadline - time.monotonic()) > 0:
        try:
            sent = client.message(sent["id"], rung, min(left, _POLL_SECONDS))
        except ClaudedoError as error:
            render.note(f"Cannot see how far it came: {error}")
            break
    return sent


def _how_far(name: str, sent: dict[str, Any]) -> str:
    """One sentence: `delivered to backend after 1.2 s (by hook)`."""
    receipts = sent["receipts"]
    rung = render.rung_reached(receipts)
    if rung == "stored":
        return f"stored for {render.line(name)} ({sent['id']})"
    verb = "answered by" if rung == "answered" else f"{rung} {_TO[rung]}"
    seconds = (
        render.moment(receipts[f"{rung}_at"]) - render.moment(receipts["stored_at"])
    ).total_seconds()
    by = f" (by {render.line(sent['via'])})" if sent["via"] and rung != "answered" else ""
    return f"{verb} {render.line(name)} after {max(0.0, seconds):.1f} s{by}"


def _say_if_absent(client: WorkerClient, task: dict[str, Any]) -> None:
    """Say how to bring the session of `task` back when it does not run."""
    session = task["session"]
    if not task["supervised"] or (session and SessionState(session["state"]).live):
        return
    if task.get("assignee") == Assignee.HUMAN or task.get("holder"):
        return  # it goes to who asked, or to who claimed it
    of_queue = [one for one in client.one_shots() if one["task"] == task["id"]]
    if of_queue:
        _say_of_one_shot(of_queue[0])
        return
    command = "restart" if session else "start"
    name = render.line(task["name"])
    render.note(f"{name} does not run now and gets this when it does: claudedo {command} {name}")


def _say_of_one_shot(one: dict[str, Any]) -> None:
    """When a one-shot that has no session now gets its mail."""
    name = render.line(one["name"])
    if QueueStatus(one["status"]).over:
        again = f"claudedo queue run {name}"
        render.note(f"{name} is over ({one['status']}); to go on with it: {again}")
    else:
        render.note(f"{name} is {one['status']} and gets this with its prompt")


_TO = {"offered": "to", "delivered": "to", "read": "by"}


class _Mark(StrEnum):
    """How a message stands out in the timeline."""

    NEW = "new"
    CHANGED = "changed"


@app.command(rich_help_panel="Messages")
def thread(
    target: options.Target,
    follow: options.Follow = False,
    json_output: options.AsJson = False,
    workspace: options.InWorkspace = None,
) -> None:
    """Show what was said to and by a task, and how far each message came.

    With -f --json, every new or changed message is printed on a line of its own.

    Example: claudedo thread backend -f
    """
    client = options.worker()
    task = options.find(client, target, workspace)["id"]
    if follow:
        _follow(client, task, json_output=json_output)
        return
    messages = client.thread(task)
    if json_output:
        render.as_json(messages)
    elif not messages:
        render.note('Nothing was said yet: claudedo send T "..."')
    else:
        for message in messages:
            _print(message, _Mark.NEW)


@app.command(rich_help_panel="Messages")
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="All of them must occur.")],
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Find messages of all tasks by their words, newest first.

    A word also finds longer words that begin with it; case and accents do not matter.

    Example: claudedo search cursor pagination
    """
    found = options.worker().search(words)
    if json_output:
        render.as_json(found)
    elif quiet:
        for message in found:
            render.show(message["id"])
    elif not found:
        render.note("No message holds all of these words.")
    else:
        for message in reversed(found):  # the newest one last, where the eye is
            _print(message, _Mark.NEW)


@app.command(rich_help_panel="Messages")
def attachment(
    identity: Annotated[
        str, typer.Argument(metavar="FILE-ID", help="As `claudedo thread` shows it.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="F", help="The file or folder for it; - is standard output."
        ),
    ] = None,
) -> None:
    """Get a file that a message carries, under its own name here, or as -o says.

    Example: claudedo attachment f_01K0ABCDEF -o plan.pdf
    """
    client = options.worker()
    with tempfile.TemporaryFile() as content:
        try:
            name = client.download(identity, content)
        except NotFoundError as error:
            hint = "; `claudedo thread T` shows the ids."
            raise NotFoundError(str(error).rstrip(".") + hint) from error
        content.seek(0)
        if output == "-":
            shutil.copyfileobj(content, sys.stdout.buffer)
            return
        place = Path(options.here() if output is None else output).expanduser()
        named = not place.is_dir()
        if not named:  # Never hidden, never over another file: the name is somebody else's choice.
            place /= name.lstrip(".") or "attachment"
        try:
            with place.open("wb" if named else "xb") as kept:
                shutil.copyfileobj(content, kept)
        except FileExistsError as error:
            where = "here" if output is None else f"in {output}"
            taken = f"There is a '{render.line(place.name)}' {where} already; say where with -o."
            raise RefusedError(taken) from error
        except OSError as error:
            raise ClaudedoError(f"{place} cannot be written: {error.strerror}.") from error
    render.show(str(place))


def _follow(client: WorkerClient, task: str, *, json_output: bool) -> None:
    known: dict[str, dict[str, Any]] = {}
    for messages in _threads(client, task):
        for message in messages:
            if message == known.get(message["id"]):
                continue
            if json_output:
                render.as_json_line(message)
            else:
                _print(message, _Mark.CHANGED if message["id"] in known else _Mark.NEW)
            known[message["id"]] = message


def _threads(client: WorkerClient, task: str) -> Iterator[list[dict[str, Any]]]:
    """The thread now, and again after everything that happened to it."""
    seen = latest(client)
    while True:
        yield client.thread(task)
        time.sleep(BURST_SECONDS)
        seen = client.events(seen, _POLL_SECONDS)["next"]


def _print(message: dict[str, Any], mark: _Mark) -> None:
    rungs = render.ladder(message["receipts"], message["via"])
    if mark is _Mark.CHANGED:
        render.show(f"  ↳ {message['id']}: {rungs}", "dim")
        return
    urgent = "" if message["priority"] == Priority.NORMAL else f"  [{message['priority']}]"
    answers = f"  answers {render.line(message['reply_to'])}" if message["reply_to"] else ""
    sender, recipient = (render.line(message[who]) for who in ("sender_name", "recipient"))
    when = render.clock(message["created_at"])
    render.show(f"{when}  {sender} → {recipient}{urgent}  {message['id']}{answers}", "bold")
    # The gutter keeps a body from looking like somebody else's message.
    for text in render.neutral(message["body"]).split("\n"):
        render.show(f"  │ {text}")
    for file in message.get("attachments") or []:
        render.show(render.file(file))
    render.show(f"  {rungs}", "dim")
