"""The arguments of `claude` that a person or a task file gives: walked, refused, or merged.

The one table of what is refused by name and why, for the command line and the worker alike.
Standard library only; reads the files that merged flags name, and starts nothing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo.errors import UsageError

MAX_BYTES = 1 << 20
"""The largest file that an argument can name; a session could not use more of it either."""

SERVER = "claudedo"
"""The name of our own MCP server in every session."""

MERGED = ("--settings", "--mcp-config", "--append-system-prompt", "--append-system-prompt-file")
"""What reaches the session joined with claudedo's own (cli contract)."""

# Others that name files or folders; the CLI would see them from the session's folder.
_PATHS = ("--add-dir", "--plugin-dir", "--system-prompt-file", "--debug-file")

_RESTART = "`claudedo restart` resumes a conversation"
_TERMINAL = "claudedo runs sessions in a terminal"
_WORKTREE = "claudedo makes the worktree; see its own --worktree and --here"
_BACKGROUND = "a session of claudedo runs on without a terminal as it is"
_ELSEWHERE = "the conversation would be somewhere else than here"
_ENDS = "claude would print something and end"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("-r", "--resume", "-c", "--continue"), _RESTART),
    **dict.fromkeys(("-p", "--print"), _TERMINAL),
    **dict.fromkeys(("-w", "--worktree", "--tmux"), _WORKTREE),
    **dict.fromkeys(("--bg", "--background"), _BACKGROUND),
    **dict.fromkeys(("--cloud", "--remote", "--teleport", "--desktop"), _ELSEWHERE),
    **dict.fromkeys(("-h", "--help", "-v", "--version"), _ENDS),
    "--session-id": "claudedo chooses the conversation's id",
    "--fork-session": "`claudedo adopt --fork` forks a conversation",
    "--from-pr": "claudedo begins conversations; name the pull request in the prompt",
}
"""What would take the conversation out of our hands, and what to do instead."""

_READS = "claudedo reads what a one-shot prints, in its own form"
_GIVES = "claudedo gives a one-shot its messages"

REFUSED_OF_ONE_SHOTS: Mapping[str, str] = {
    **REFUSED,
    **dict.fromkeys(("-p", "--print"), "claudedo sets it for every one-shot"),
    **dict.fromkeys(("-r", "--resume", "-c", "--continue"), "`claudedo queue run` resumes it"),
    **dict.fromkeys(("--output-format", "--verbose", "--include-partial-messages"), _READS),
    **dict.fromkeys(("--include-hook-events", "--forward-subagent-text"), _READS),
    **dict.fromkeys(("--input-format", "--replay-user-messages"), _GIVES),
    **dict.fromkeys(
        ("--permission-prompt-tool", "--permission-prompts"), "its asks are claudedo's"
    ),
    **dict.fromkeys(("--remote-control", "--ide"), "nobody sits at a one-shot"),
    "--max-budget-usd": "say it with --budget, or as `budget` in the task file",
    "--no-session-persistence": "claudedo reads what a session keeps",
}
"""The same for a one-shot, whose streams are ours, too."""

# How many values an option takes, as the help of the CLI says (2.1.197 and 2.1.330): exactly one,
# whatever it looks like; one and then all up to the next option; or one that may be left out.
# What is not here takes none, so that a word behind it counts as standing alone.
_ONE = frozenset(
    (
        *("--settings", "--append-system-prompt", "--append-system-prompt-file", "--session-id"),
        *("--agent", "--agents", "--autocompact", "--debug-file", "--effort", "--environment"),
        *("--fallback-model", "--input-format", "--json-schema", "--max-budget-usd", "--model"),
        *("--max-turns", "-n", "--name", "--output-format", "--permission-mode", "--plugin-dir"),
        *("--permission-prompts", "--permission-prompt-tool", "--plugin-url", "--setting-sources"),
        *("--remote-control-session-name-prefix", "--system-prompt", "--system-prompt-file"),
        *("--system-prompt-snapshot", "--max-thinking-tokens", "--thinking"),
    )
)
_MANY = frozenset(
    (
        *("--mcp-config", "--add-dir", "--allowedTools", "--allowed-tools", "--betas"),
        *("--disallowedTools", "--disallowed-tools", "--file", "--tools", "--channels"),
        "--dangerously-load-development-channels",
    )
)
_MAYBE = frozenset(
    (
        *("-r", "--resume", "-w", "--worktree", "-d", "--debug", "--from-pr", "--teleport"),
        *("--cloud", "--remote", "--remote-control", "--prompt-suggestions"),
    )
)

# What a file that comes with a repository may give to `claude`. All else is for the person.
_FROM_FILES = frozenset(
    (
        *MERGED,
        *("--agent", "--autocompact", "--ax-screen-reader", "--betas", "--disable-slash-commands"),
        *("--disallowedTools", "--disallowed-tools", "--effort", "--fallback-model", "--model"),
        *("--exclude-dynamic-system-prompt-sections", "-n", "--name", "--no-chrome", "--tools"),
        *("--strict-mcp-config", "--system-prompt-snapshot", "--verbose"),
    )
)
_FILE_SETTINGS = (
    *("alwaysThinkingEnabled", "attribution", "effortLevel", "hooks", "includeCoAuthoredBy"),
    *("language", "model", "outputStyle", "permissions"),
)
_FILE_RULES = ("ask", "deny")


@dataclass(frozen=True)
class Option:
    """One option with its values, or one word that stands alone (`name` is then empty)."""

    name: str
    values: tuple[str, ...]
    words: tuple[str, ...]  # as they were given


def walk(arguments: Sequence[str]) -> Iterator[Option]:
    """Take the arguments apart as the CLI's parser (commander) does.

    A short option may have its value, or further short options, glued to it. Raises `UsageError`
    for an option without the value that it needs, and for `--`.
    """
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            raise UsageError("`--` cannot be passed to claude: it would hide claudedo's options.")
        if not _is_option(word):
            yield Option("", (word,), (word,))
        elif word.startswith("--"):
            yield _long(word, words)
        else:
            yield _short(word, words)


def check(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for the first argument that claudedo must refuse, by its name."""
    for option in walk(arguments):
        if reason := REFUSED.get(option.name):
            raise UsageError(f"{option.name} cannot be given to claude: {reason}.")


def check_for_one_shot(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for the first argument that a one-shot cannot take, by its name."""
    for option in walk(arguments):
        if reason := REFUSED_OF_ONE_SHOTS.get(option.name):
            raise UsageError(f"{option.name} cannot be given to claude: {reason}.")
        if not option.name:
            raise UsageError(f"{option.values[0]!r} is no option of claude; see PROMPT, `prompt`.")


def check_from_file(arguments: Sequence[str]) -> None:
    """The same for what a repository's file gives: nothing that widens what a session may do.

    Raises `UsageError` naming the argument.
    """
    check(arguments)
    for option in walk(arguments):
        if not option.name:
            raise UsageError(f"{option.values[0]!r} is no option of claude; see `prompt`.")
        if option.name not in _FROM_FILES:
            raise UsageError(
                f"{option.name} is not for a file that comes with a repository; "
                "whoever wants it gives it on the command line, after `--`."
            )


def anchored(arguments: Sequence[str], folder: Path) -> tuple[str, ...]:
    """`arguments` with every file and folder named by its absolute path, seen from `folder`.

    A session starts elsewhere than the command that asked for it. Raises `UsageError`.
    """
    found: list[str] = []
    for option in walk(arguments):
        if option.name in MERGED:
            for value in option.values:
                found += [option.name, _anchored(option.name, value, folder)]
        elif option.name in _PATHS:
            paths = [str(seen_from(folder, value)) for value in option.values]
            glued = option.words[0] != option.name
            found += [f"{option.name}={paths[0]}"] if glued else [option.name, *paths]
        else:
            found += option.words
    return tuple(found)


def settled(arguments: Sequence[str], folder: Path, root: Path) -> tuple[str, ...]:
    """The arguments of a task file in `folder`, with the content of the files that they name.

    What was checked is what will be used, however the files change. Files must lie in the
    repository at `root`, symbolic links resolved. Raises `UsageError`.
    """
    check_from_file(arguments)
    found: list[str] = []
    for option in walk(arguments):
        if option.name == "--append-system-prompt-file":
            path = inside(folder / option.values[0], root)
            found += ["--append-system-prompt", read_text(path)]
        elif option.name in ("--settings", "--mcp-config"):
            for value in option.values:
                text = value if _is_json(value) else read_text(inside(folder / value, root))
                data = decoded(text, option.name)
                if option.name == "--settings":
                    _check_settings(data)
                found += [option.name, json.dumps(data)]
        else:
            found += option.words
    return tuple(found)


def seen_from(folder: Path, value: str) -> Path:
    """The path that a person in `folder` means; `~` is a home. Raises `UsageError`."""
    try:
        return folder / Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{value!r} leads nowhere: there is no such user.") from error


def inside(path: Path, root: Path) -> Path:
    """`path`, if it lies in `root` once symbolic links are resolved. Raises `UsageError`."""
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; a NUL
        raise UsageError(f"{str(path)!r} leads nowhere: {error}.") from error
    if not real.is_relative_to(home):
        raise UsageError(f"{str(path)!r} leads out of the repository {root}.")
    return path


def decoded(text: str, flag: str) -> dict[str, Any]:
    """The JSON object in `text`, which was given for `flag`. Raises `UsageError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{flag}: {text[:80]} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{flag}: {text[:80]} is not a JSON object.")
    if flag == "--settings" and data.get("disableAllHooks"):
        raise UsageError(
            f"{flag}: `disableAllHooks` would switch off claudedo's own, by which messages arrive; "
            "leave it out, or run `claude` without claudedo."
        )
    servers = data.get("mcpServers") if flag == "--mcp-config" else None
    if isinstance(servers, dict) and SERVER in servers:
        raise UsageError(f"{flag}: the server {SERVER!r} is claudedo's own; name yours otherwise.")
    return data


def content(value: str, folder: Path, flag: str) -> dict[str, Any]:
    """A flag's value as the CLI takes it: JSON itself, or the path of a file with JSON."""
    text = value if _is_json(value) else read_text(seen_from(folder, value))
    return decoded(text, flag)


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a regular file of at most `limit` bytes, which an argument names.

    A pipe or a device is never waited for. Raises `UsageError` naming the file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{path} is no file: a pipe or a device cannot be used.")
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{str(path)!r} cannot be read: {reason}.") from error
    if len(content) > limit:
        raise UsageError(f"{path} is larger than {limit // 1024} KiB.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (at byte {error.start}).") from error


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _long(word: str, words: list[str]) -> Option:
    name, glued, value = word.partition("=")
    return Option(name, (value,), (word,)) if glued else _with_values(name, words)


def _short(word: str, words: list[str]) -> Option:
    name, rest = word[:2], word[2:]
    if not rest:
        return _with_values(name, words)
    if name in _ONE or name in _MAYBE:
        return Option(name, (rest,), (word,))
    words.insert(0, f"-{rest}")
    return Option(name, (), (name,))


def _with_values(name: str, words: list[str]) -> Option:
    """The option with what it takes from the front of `words`."""
    values: list[str] = []
    if name in _ONE or name in _MANY:
        if not words:
            raise UsageError(f"{name} needs a value.")
        values.append(words.pop(0))
    while words and not _is_option(words[0]) and (name in _MANY or (name in _MAYBE and not values)):
        values.append(words.pop(0))
    return Option(name, tuple(values), (name, *values))


def _anchored(flag: str, value: str, folder: Path) -> str:
    is_text = flag == "--append-system-prompt" or _is_json(value)
    return value if is_text else str(seen_from(folder, value))


def _is_json(value: str) -> bool:
    return value.lstrip().startswith("{")


def _check_settings(data: Mapping[str, Any]) -> None:
    rules = data.get("permissions", {})
    if not isinstance(rules, dict):
        raise UsageError("--settings: `permissions` must be an object.")
    wrong = [key for key in data if key not in _FILE_SETTINGS]
    wrong += [f"permissions.{key}" for key in rules if key not in _FILE_RULES]
    if wrong:
        raise UsageError(
            f"--settings: {wrong[0]!r} is not for a task file, which may not widen what a session "
            "is allowed; whoever wants it gives it on the command line, after `--`."
        )
