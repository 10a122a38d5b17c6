"""What joins the queue: read from the command line, standard input, TOML or JSON.

All of it is checked here before the worker hears of it, so that what is wrong is named as the
person wrote it: the file and its key, or the option.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from claudedo import claude_args, task_file
from claudedo.cli import options
from claudedo.errors import ConflictError, UsageError
from claudedo.model import check_body, check_name

if TYPE_CHECKING:
    import typer

    from claudedo.client import WorkerClient

Json = dict[str, Any]

_STDIN = "-"
_KEY = re.compile(r"[a-z]+: ")
_WORDS = 5  # of a prompt that make a name
_NAME_LENGTH = 40
_TRIES = 5  # when others take the same name at the same time


def order(
    context: typer.Context, workspace: str | None, permission_mode: str | None, model: str | None
) -> Json:
    """What holds for all that is added together, as the worker takes it.

    Raises `UsageError` for what stands after `--` and a one-shot sets itself.
    """
    given = options.rest(context)
    claude_args.check_for_one_shot(given)
    return {
        "cwd": options.here(),
        "workspace": workspace,
        "permission_mode": permission_mode,
        "model": model,
        "claude_args": given,
    }


def of_file(file: str) -> tuple[dict[str, Json], str]:
    """The sections of a task file, `-` being standard input, and the folder they are seen from.

    TOML and JSON are told apart by what stands first: only JSON can begin with a brace. Raises
    `UsageError` that names the file and the key.
    """
    told = "standard input" if file == _STDIN else file
    path = claude_args.seen_from(Path(options.here()), file)
    source = options.here() if file == _STDIN else str(path.parent)
    text = _text(None if file == _STDIN else path, told, task_file.MAX_BYTES)
    try:
        sections = task_file.parse(text, as_json=text.lstrip().startswith("{"))
        for name, section in sections.items():
            _check(name, section)
    except UsageError as error:
        raise UsageError(f"{told}: {error}") from error
    if not sections:
        raise UsageError(f"{told}: there is no task in it; each is a table [tasks.NAME].")
    return {name: _plain(section) for name, section in sections.items()}, source


def _check(name: str, section: task_file.Section) -> None:
    if section.prompt is None:
        raise UsageError(f"tasks.{name}: a one-shot needs a `prompt`.")
    try:
        claude_args.check_for_one_shot(section.args)
    except UsageError as error:
        raise UsageError(f"tasks.{name}.args: {error}") from error


def of_options(name: str, prompt: str, given: Mapping[str, Any]) -> Json:
    """One section as the command line tells it. Raises `UsageError` that names the option."""
    check_name(name)
    values = {key: value for key, value in given.items() if value is not None}
    try:
        [section] = task_file.sections({"tasks": {name: values | {"prompt": prompt}}}).values()
    except UsageError as error:
        raise _as_option(error, name) from error
    return _plain(section)


def _as_option(error: UsageError, name: str) -> UsageError:
    """What is wrong in a section, as whoever wrote options is to read it."""
    told = str(error).removeprefix(f"tasks.{name}: ")
    told = told.replace(f"tasks.{name}.", "--", 1)
    return UsageError(f"--{told}" if _KEY.match(told) else told)


def needed(given: Sequence[str] | None) -> list[str] | None:
    """The names in `--needs a,b --needs c`."""
    names = [name.strip() for text in given or () for name in text.split(",")]
    return [name for name in names if name] or None


def prompt_of(words: str | None, *, piped: bool = False) -> str:
    """The prompt, `-` being standard input; with `piped`, also when there is none and a pipe is.

    Raises `UsageError` without one.
    """
    if words is None and not (piped and sys.stdin and not sys.stdin.isatty()):
        raise UsageError("Say what is to be done: a PROMPT, or - for standard input.")
    text = _text(None, "standard input") if words in (None, _STDIN) else str(words)
    if not text.strip():
        raise UsageError("The prompt is empty: say what is to be done.")
    return check_body(text.rstrip("\n") if words in (None, _STDIN) else text)


def _text(path: Path | None, told: str, limit: int | None = None) -> str:
    """What a file says, a pipe included, or standard input. Raises `UsageError`."""
    most = -1 if limit is None else limit + 1
    try:
        if path is None:
            content = sys.stdin.buffer.read(most)
        else:
            with path.open("rb") as file:
                content = file.read(most)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{told} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{told} is not UTF-8 text (at byte {error.start}).") from error
    if limit is not None and len(content) > limit:
        raise UsageError(f"{told} is larger than {limit // 1024} KiB.")
    return text


def _plain(section: task_file.Section) -> Json:
    """What a section says, as a task file would say it."""
    silent: tuple[Any, ...] = (None, (), {})
    return {key: value for key, value in asdict(section).items() if value not in silent}


def add_one(client: WorkerClient, order: Json, name: str | None, section: Json) -> Json:
    """Put one task into the queue; without a name it gets one of its first words."""
    if name is not None:
        return _add(client, order, name, section)
    for _ in range(_TRIES):
        free = free_name(section["prompt"], {task["name"] for task in client.tasks()})
        try:
            return _add(client, order, free, section)
        except ConflictError:
            continue  # somebody was faster
    raise ConflictError("Names are taken faster than one is found: give it one with --name.")


def _add(client: WorkerClient, order: Json, name: str, section: Json) -> Json:
    try:
        [added] = client.add_one_shots({**order, "tasks": {name: section}})
    except UsageError as error:
        raise _as_option(error, name) from error
    return added


def free_name(prompt: str, taken: set[str]) -> str:
    """A name of the prompt's first words that no task has."""
    name = slug(prompt)
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def slug(text: str) -> str:
    """The first words of `text` in letters that a name can have."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    kept = ""
    for word in re.findall(r"[a-z0-9]+", plain)[:_WORDS]:
        longer = f"{kept}-{word}" if kept else word[:_NAME_LENGTH]
        if len(longer) > _NAME_LENGTH:
            break
        kept = longer
    return kept or "task"
