"""What waits for a person, decided one at a time: asks, allow, deny, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from claudedo.cli import answers, ask_view, edited_input, options, render
from claudedo.cli.exits import Exit, common, status_of
from claudedo.cli.message import upload
from claudedo.cli.start import read_text
from claudedo.errors import (
    AmbiguousError,
    ClaudedoError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from claudedo.model import USER, AskKind, Assignee

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

app = typer.Typer()

Ask = dict[str, Any]

AskOrTask = Annotated[
    str,
    typer.Argument(
        metavar="ID|T", help="An ask's id or its beginning, or a task that has exactly one ask."
    ),
]


@app.command(rich_help_panel="Asks")
def asks(
    json_output: options.AsJson = False,
    quiet: options.Quiet = False,
    workspace: options.InWorkspace = None,
) -> None:
    """List what waits for you in all workspaces, oldest first. -q: ids only.

    Example: claudedo asks
    """
    client = options.worker()
    found = client.asks(workspace)
    if not found:
        options.check_workspace(client, workspace)
    if json_output:
        render.as_json(found)
    elif quiet:
        for ask in found:
            render.show(ask["id"])
    elif found:
        heads, rows = _table(named(client, found))
        render.table(heads, rows, cut=[len(heads) - 1])
    else:
        render.note("Nothing waits for you.")


@app.command(rich_help_panel="Asks")
def allow(
    target: AskOrTask,
    always: Annotated[
        bool,
        typer.Option("--always", help="Also for the rest of the session, as Claude Code suggests."),
    ] = False,
    same: Annotated[
        bool, typer.Option("--same", help="Also where the very same waits in other sessions.")
    ] = False,
    edit: Annotated[
        bool, typer.Option("--edit", help="Change the command, or the input, in your editor first.")
    ] = False,
    input_file: Annotated[
        str | None,
        typer.Option("--input", metavar="F", help="The tool's whole input, as JSON; - is stdin."),
    ] = None,
    workspace: options.InWorkspace = None,
) -> None:
    """Let a tool call, a plan or a task be done.

    Example: claudedo allow backend --always
    """
    changed = edit or input_file is not None
    if always and changed:
        raise UsageError("A rule is for what was asked: leave out --always, or --edit and --input.")
    if same and changed:
        raise UsageError("--same allows what waits as it is: leave out --edit and --input.")
    if edit and input_file is not None:
        raise UsageError("Either --edit or --input.")
    client = options.worker()
    ask = find_ask(client, target, workspace)
    check_allow(ask, always=always)
    decision: dict[str, Any] = {"decision": "allow"} | ({"always": True} if always else {})
    if changed:
        given = _input(ask, input_file)
        if given is not None:
            decision["input"] = given
            show_difference(ask, given)
    decided = client.decide(ask["id"], decision)
    render.show(sentence(ask, decided, decision.get("input")))
    if always:
        render.show(f"  for the rest of this session: {ask_view.rule(ask)}")
    if not changed:
        _allow_same(client, ask, decision, asked_for=same)


@app.command(rich_help_panel="Asks")
def deny(
    target: AskOrTask,
    reason: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="REASON", help="What the session is told."),
    ] = None,
    workspace: options.InWorkspace = None,
) -> None:
    """Refuse a tool call, a question, a plan or a task; the session goes on.

    Example: claudedo deny backend -m "Use the staging database"
    """
    client = options.worker()
    ask = find_ask(client, target, workspace)
    decided = client.decide(ask["id"], {"decision": "deny", "reason": reason or None})
    render.show(sentence(ask, decided))


@app.command(rich_help_panel="Asks")
def answer(
    target: AskOrTask,
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="A choice, its number, or your own words."),
    ] = None,
    keep_open: Annotated[
        bool, typer.Option("--keep-open", help="Of a task for you: say this, but it is not done.")
    ] = False,
    attach: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Of a task for you: a file that goes with it; several are possible.",
        ),
    ] = None,
    workspace: options.InWorkspace = None,
) -> None:
    """Answer a question, say what a plan lacks, or answer and so complete a task for you.

    Several choices are separated by commas. Without TEXT you are asked.
    Of several questions each is named by its number, its header or its text:
    '1=Postgres' '2=yes'.

    Example: claudedo answer backend Postgres
    """
    client = options.worker()
    ask = find_ask(client, target, workspace)
    if keep_open and ask["kind"] != AskKind.TASK:
        raise UsageError(f"--keep-open is for tasks; this is a {ask['kind']}.")
    if attach and ask["kind"] != AskKind.TASK:
        raise UsageError(f"--attach is for tasks; this is a {ask['kind']}.")
    decision = _answer(ask, text or []) | ({"keep_open": True} if keep_open else {})
    if attach:
        files = [file.expanduser() for file in attach]
        decision["attachments"] = upload(client, ask["task"], files)
    decided = client.decide(ask["id"], decision)
    render.show(sentence(ask, decided))


# Which ask is meant


def find_ask(client: WorkerClient, target: str, workspace: str | None) -> Ask:
    """The open ask that `target` names.

    Raises `NotFoundError`, `AmbiguousError` listing the candidates, and `ConflictError` saying
    what became of an ask that is closed.
    """
    if not target:
        raise UsageError("An ask's or a task's name cannot be empty.")
    found = named(client, client.asks(workspace))
    if "_" in target and "/" not in target:
        begun = [ask for ask in found if ask["id"].startswith(target)]
        if meant := [ask for ask in begun if ask["id"] == target] or begun:
            return _only(meant, f"{target} begins the ids of")
        _check_closed(client, target)
    task = _task(client, target, workspace)
    whose = (task["id"], f"task:{task['id']}")  # its own, or a task that its session made
    waiting = [ask for ask in found if ask["task"] in whose or ask.get("creator") in whose]
    if not waiting:
        raise NotFoundError(_nothing_of(task, found))
    return _only(waiting, f"{ask_view.name(waiting[0])} has")


def whole(client: WorkerClient, listed: Ask) -> Ask:
    """An ask of the list with all that is known of it.

    With the last words of its session (`said`); a task for the person with who made it (`asker`)
    and the files that stand in its thread (`files`). Raises `NotFoundError` if it is gone.
    """
    shown = {**listed, **client.ask(listed["id"])}
    if shown["kind"] != AskKind.TASK:
        return shown
    thread = client.thread(shown["task"])
    theirs = [message for message in thread if message["sender"] != USER]
    files = [file for message in theirs for file in message.get("attachments") or []]
    return {**shown, "files": files, "asker": theirs[0]["sender_name"] if theirs else ""}


def named(client: WorkerClient, found: Sequence[Ask]) -> list[Ask]:
    """The asks, each with the `name` of its task that means no other one wherever a person stands.

    A bare name means the task of the workspace they stand in (docs/architecture.md), so it is one
    only as long as all tasks are of one workspace.
    """
    if not found or len({task["workspace"] for task in client.tasks()}) < 2:
        return list(found)
    return [{**ask, "name": f"{ask['workspace']}/{ask['task_name']}"} for ask in found]


def _task(client: WorkerClient, target: str, workspace: str | None) -> dict[str, Any]:
    try:
        return options.find(client, target, workspace)
    except NotFoundError as error:
        if "_" not in target:
            raise
        raise NotFoundError(f"No ask begins with {target}. {error}") from error


def _nothing_of(task: Mapping[str, Any], found: Sequence[Ask]) -> str:
    """Says that a task asks nothing, and which of the same name do."""
    others = [ask_view.name(ask) for ask in found if ask["task_name"] == task["name"]]
    if not others and task["assignee"] == Assignee.HUMAN:
        name = render.line(task["name"])
        again = f"`claudedo status {name} ongoing` asks it again, `claudedo send {name}` says more"
        return f"{name} waits for you no more: it is {task['status']}; {again}."
    if not others:
        return f"Nothing of {task['name']} waits for you."
    meant = ", ".join(dict.fromkeys(others))
    return f"Nothing of {task['workspace']}/{task['name']} waits for you, but of {meant}."


def _only(found: Sequence[Ask], whose: str) -> Ask:
    if len(found) == 1:
        return found[0]
    listed = "".join(
        f"\n  {ask['id']}  {ask['kind']}  {render.line(ask['title'])}" for ask in found
    )
    raise AmbiguousError(f"{whose} {len(found)} asks; name one by its id:{listed}")


def _check_closed(client: WorkerClient, ask_id: str) -> None:
    """Raise `ConflictError` if there is an ask of that id: it is not open any more."""
    try:
        ask = client.ask(ask_id)
    except NotFoundError:
        return
    if ask["closed_at"] is None:
        return  # in another workspace
    raise ConflictError(f"Too late: {ask_id} of {ask['task_name']} {ask_view.outcome(ask)}.")


# What is decided


def check_allow(ask: Mapping[str, Any], *, always: bool) -> None:
    """Raise `RefusedError` if the ask cannot be allowed (for the session, with `always`)."""
    if ask["kind"] == AskKind.QUESTION:
        raise RefusedError(
            f"This is a question: claudedo answer {ask['id']} TEXT, or claudedo deny {ask['id']}"
        )
    if always and ask_view.rule(ask) is None:
        raise RefusedError(
            "Claude Code suggests no rule for this, so it can only be allowed once: "
            f"claudedo allow {ask['id']}"
        )


def sentence(
    ask: Mapping[str, Any], decided: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> str:
    """What was done, in one line: `backend: allowed: Bash: make test`.

    `given`: the input that the person made of it, which is then what is named.
    """
    name, outcome = render.line(ask_view.name(ask)), str(decided["outcome"])
    if decided["outcome"] is None:
        return f"{name}: told; it still waits for you"
    if ask["kind"] == AskKind.PLAN and outcome == "denied":
        outcome = "sent back"
    if given is not None:
        return f"{name}: {outcome}, edited: {_edited_title(ask, given)}"
    return f"{name}: {outcome}: {render.line(ask['title'])}"


def _edited_title(ask: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    tool, command = render.line(ask["tool"] or ""), given.get("command")
    return f"{tool}: {render.line(command)}" if isinstance(command, str) else tool


def show_difference(ask: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Print what the person changed in the input."""
    for line in edited_input.difference(ask["input"], given):
        render.show(line.text, line.style)


def waiting_alike(client: WorkerClient, ask: Mapping[str, Any]) -> list[Ask]:
    """The asks of other sessions, open now, for the very same tool and input."""
    alike = set(ask.get("same") or [])
    return named(client, [one for one in client.asks() if one["id"] in alike]) if alike else []


def question_of_same(others: Sequence[Mapping[str, Any]]) -> str:
    """The one question that offers to allow the same elsewhere, naming the sessions."""
    names = [render.line(ask_view.name(other)) for other in others]
    where = f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0]
    return f"The very same waits in {where}. Allow it there, too?"


def allow_alike(
    client: WorkerClient, others: Sequence[Ask], decision: Mapping[str, Any]
) -> list[Exit]:
    """Give `decision` to every one of `others`; says what became of each, returns statuses."""
    statuses = []
    for other in others:
        try:
            render.show(sentence(other, client.decide(other["id"], dict(decision))))
            statuses.append(Exit.DONE)
        except ClaudedoError as error:
            render.error(f"{ask_view.name(other)}: {error}")
            statuses.append(status_of(error))
    return statuses


def _allow_same(
    client: WorkerClient, ask: Ask, decision: Mapping[str, Any], *, asked_for: bool
) -> None:
    others = waiting_alike(client, ask) if asked_for or render.can_ask() else []
    if not others or not (asked_for or render.ask(question_of_same(others))):
        return
    if status := common(allow_alike(client, others, decision)):
        raise typer.Exit(status)


def _input(ask: Ask, file: str | None) -> dict[str, Any] | None:
    """The changed input; None to allow it unchanged, which only a person can say."""
    if ask["kind"] != AskKind.PERMISSION:
        raise RefusedError(f"A {ask['kind']} cannot be edited; claudedo answer {ask['id']} TEXT")
    if file is not None:
        return edited_input.parse(read_text(file))
    try:
        return edited_input.edit(ask)
    except edited_input.UnchangedError as error:
        if render.can_ask() and render.ask("Nothing was changed. Allow it as it is?"):
            return None
        raise RefusedError(
            f"Nothing was changed, so nothing was decided: claudedo allow {ask['id']}"
        ) from error


def _answer(ask: Ask, texts: Sequence[str]) -> dict[str, Any]:
    """The decision that `texts` are, after asking for what they leave open."""
    if ask["kind"] == AskKind.PERMISSION:
        raise RefusedError(
            "This asks for permission; to say something with a refusal: "
            f"claudedo deny {ask['id']} -m REASON"
        )
    questions = ask_view.questions(ask)
    if not questions:
        return {"decision": "answer", "text": _words(ask, texts)}
    given = answers.sort(questions, texts) if texts else {}
    missing = [question for question in questions if question.text not in given]
    if missing and not render.can_ask():
        raise UsageError(_unanswered(missing))
    for question in missing:
        given[question.text] = _interview(question)
    return {"decision": "answer", "answers": given}


def _words(ask: Ask, texts: Sequence[str]) -> str:
    words = " ".join(texts)
    if not words and render.can_ask():
        words = render.prompt(render.line(ask["title"])) or ""
    if not words.strip():
        raise UsageError(f"Say something: claudedo answer {ask['id']} TEXT")
    return words


def _interview(question: ask_view.Question) -> answers.Answer:
    """Ask one question on the terminal until there is an answer; Ctrl-D ends the command."""
    for line in ask_view.choices(question):
        render.note(line.text)
    while True:
        words = render.prompt(render.line(question.text))
        if words is None:
            raise RefusedError("Nothing was answered.")
        try:
            return answers.answer(question, words)
        except UsageError as error:
            render.note(str(error))


def _unanswered(missing: Sequence[ask_view.Question]) -> str:
    lines = [
        f"\n  {question.text}  ({' | '.join(question.labels) or 'your own words'})"
        for question in missing
    ]
    return f"Still to be answered:{''.join(lines)}"


# How the list looks


def _table(found: Sequence[Ask]) -> tuple[Sequence[str], list[list[render.Cell]]]:
    tasks = [ask["task"] for ask in found]
    with_ids = len(set(tasks)) < len(tasks)  # the names do not tell them apart
    rows = [_row(ask, with_ids) for ask in found]
    heads = ["AGE", "TASK", "KIND", *(["ID"] if with_ids else []), "WHAT"]
    return heads, rows


def _row(ask: Ask, with_id: bool) -> list[render.Cell]:
    ident = [render.Cell(ask["id"], "dim")] if with_id else []
    return [
        render.Cell(render.age(ask["opened_at"]), "dim"),
        render.Cell(ask_view.name(ask), "bold"),
        render.Cell(ask["kind"], ask_view.KIND_STYLES.get(ask["kind"], "")),
        *ident,
        render.Cell(render.line(ask["title"])),
    ]
