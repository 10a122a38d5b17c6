"""Reads task files (`claudedo.toml`), and refuses what a file in a repository must not say.

A task file is a stranger's text: whoever can commit can write it. So it is checked as a whole
before anything of it is used: unknown keys and wrong types are errors that name the key, paths
stay inside the repository, and nothing raises what a session may do (docs/task-files.md).
Standard library only; runs nothing.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from claudedo import claude_args
from claudedo.errors import ClaudedoError, UsageError
from claudedo.model import check_body, check_name

NAME = "claudedo.toml"
MAX_BYTES = 256 * 1024
MODES = ("acceptEdits", "default", "dontAsk", "manual", "plan")
"""The permission modes that a file may choose: none that lets everything pass."""

ONE_SHOT = ("needs", "check", "timeout", "budget", "retries", "priority")
"""Keys that only `queue add` makes use of."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# A key `a.a.a…` of 16,000 parts kept tomllib busy for 4 seconds, one of 32,000 for 42.
# Everything here is bounded or possessive, so that the search itself takes no time to speak of.
_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.){0,99}+"|'[^'\n]{0,99}+')[ \t]*+\.[ \t]*+){100}"""
)

# What steers claude, claudedo, git or the network, or has programs load code. Compared in capitals.
_STEERING_PREFIXES = (
    *("ANTHROPIC_", "AWS_", "AZURE_", "BASH_", "BUN_", "CLAUDE", "CLOUDSDK_", "DISABLE_", "DYLD_"),
    *("GCE_", "GCLOUD_", "GIT_", "GOOGLE_", "LD_", "MCP_", "NODE_EXTRA_", "NODE_TLS_", "OTEL_"),
    *("PYTHON", "SSL_", "VERTEX_", "XDG_"),
)
_STEERING = frozenset(
    (
        *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "HOSTALIASES", "SSLKEYLOGFILE"),
        *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "BROWSER", "EDITOR", "PAGER", "VISUAL"),
        *("LESSOPEN", "ENV", "HOME", "IFS", "LOGNAME", "PATH", "SHELL", "TMPDIR", "USER"),
        *("GCONV_PATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"),
        *("NODE_OPTIONS", "NODE_PATH", "PERL5LIB", "PERL5OPT", "PROMPT_COMMAND", "PS4"),
        *("RUBYLIB", "RUBYOPT", "SHELLOPTS", "SSH_ASKPASS", "SSH_AUTH_SOCK", "SUDO_ASKPASS"),
        "ZDOTDIR",
    )
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a file says about one task; None, or nothing, where it is silent."""

    prompt: str | None = None
    dir: str | None = None  # where in the worktree the session works
    repo: str | None = None  # the task's repository, seen from the file
    base: str | None = None
    setup: str | None = None
    teardown: str | None = None
    copy: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    model: str | None = None
    permission_mode: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    check: str | None = None
    timeout: float | None = None  # seconds
    budget: float | None = None  # US dollars
    retries: int | None = None
    priority: int | None = None

    def one_shot_keys(self) -> list[str]:
        """The keys in use that say nothing to a session at a terminal."""
        return [key for key in ONE_SHOT if getattr(self, key) not in (None, ())]


def find(root: Path, below: Path = Path()) -> Path | None:
    """The task file for the folder `below` of the checkout `root`: there, or nearest above it.

    Raises `UsageError` for one that is a symbolic link out of the repository.
    """
    for folder in (below, *below.parents):
        path = root / folder / NAME
        if os.path.lexists(path):
            return claude_args.inside(path, root)
    return None


def load(path: Path) -> dict[str, Section]:
    """The sections of a task file by the tasks' names. Raises `UsageError` naming the file."""
    text = claude_args.read_text(path, MAX_BYTES)
    try:
        return parse(text, as_json=path.suffix == ".json")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parse(text: str, *, as_json: bool = False) -> dict[str, Section]:
    """The sections in the text of a task file. Raises `UsageError` naming the key that is wrong."""
    return sections(_decoded(text, as_json))


def sections(data: Mapping[str, Any]) -> dict[str, Section]:
    """The sections of a task file's content. Raises `UsageError` naming the key that is wrong."""
    if unknown := sorted(data.keys() - {"tasks"}):
        raise UsageError(f"unknown key {unknown[0]!r}; a task file holds [tasks.NAME] only.")
    tasks = data.get("tasks", {})
    if not isinstance(tasks, dict):
        raise UsageError("tasks must be a table: [tasks.NAME].")
    return {name: _section(name, values) for name, values in tasks.items()}


def _section(name: str, values: Any) -> Section:
    check_name(name)
    where = f"tasks.{name}"
    if not isinstance(values, dict):
        raise UsageError(f"{where} must be a table: [{where}].")
    if unknown := sorted(values.keys() - _KEYS.keys()):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}.")
    return Section(**{key: _checked(where, key, value) for key, value in values.items()})


def _checked(where: str, key: str, value: Any) -> Any:
    try:
        return _KEYS[key](value)
    except ClaudedoError as error:
        raise UsageError(f"{where}.{key}: {error}") from error


# Values


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError("must be a text that is not empty.")
    if "\0" in value:
        raise UsageError("must not hold a NUL character.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError("must be Unicode text (a lone surrogate).") from error
    return value


def _prompt(value: Any) -> str:
    return check_body(_text(value))


def _word(value: Any) -> str:
    if _text(value).startswith("-"):
        raise UsageError(f"{value!r} must not begin with a dash.")
    return str(value)


def _name(value: Any) -> str:
    return check_name(_text(value))


def _mode(value: Any) -> str:
    if _text(value) not in MODES:
        raise UsageError(
            f"{value!r} is not for a file that comes with a repository, which may choose "
            f"{', '.join(MODES)}; others only with --permission-mode on the command line."
        )
    return str(value)


def _place(value: Any) -> str:
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or value.startswith("~"):
        raise UsageError(f"{value!r} must be a path inside the repository, relative to its root.")
    return str(value)


def _path(value: Any) -> str:
    """A path of the checkout that a worktree can get, too; may hold wild cards."""
    parts = PurePosixPath(_place(value)).parts
    if not parts:
        raise UsageError(f"{value!r} is the whole repository; name what is in it.")
    if ".git" in (part.lower() for part in parts):
        raise UsageError(f"{value!r} belongs to git.")
    return str(PurePosixPath(*parts))


def _list(item: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise UsageError("must be a list of texts.")
        return tuple(item(one) for one in value)

    return check


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UsageError("must be a table of texts by name.")
    return dict(_variables(value))


def _variables(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a variable.")
        if name.upper() in _STEERING or name.upper().startswith(_STEERING_PREFIXES):
            raise UsageError(
                f"{name} steers programs that a task file must not steer; set it in your shell."
            )
        if not isinstance(value, str):
            raise UsageError(f'{name} must be a text: "{value}".')
        yield name, _text(value) if value else value


def _arguments(value: Any) -> tuple[str, ...]:
    arguments = _list(_argument)(value)
    claude_args.check_from_file(arguments)
    return arguments


def _argument(value: Any) -> str:
    return value if value == "" else _text(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise UsageError("must be a number above 0.")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 1000:
        raise UsageError("must be a whole number from 0 to 1000.")
    return value


_KEYS: Mapping[str, Callable[[Any], Any]] = {
    "prompt": _prompt,
    "dir": _place,
    "repo": _text,
    "base": _word,
    "setup": _text,
    "teardown": _text,
    "copy": _list(_path),
    "links": _list(_path),
    "model": _word,
    "permission_mode": _mode,
    "env": _environment,
    "args": _arguments,
    "needs": _list(_name),
    "check": _text,
    "timeout": _number,
    "budget": _number,
    "retries": _count,
    "priority": _count,
}


# The whole


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which would keep the last of two members of one name (TOML refuses)."""
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise UsageError(f"{name!r} stands there twice.")
        seen[name] = value
    return seen


def _decoded(text: str, as_json: bool) -> dict[str, Any]:
    if not as_json and _LONG_KEY.search(text):
        raise UsageError("it is no TOML of tasks: a key has more than 100 parts.")
    try:
        data = json.loads(text, object_pairs_hook=_once) if as_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UsageError(f"it is no {'JSON' if as_json else 'TOML'}: {error}.") from error
    if not isinstance(data, dict):
        raise UsageError("it must be an object.")
    return data
