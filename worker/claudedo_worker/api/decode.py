"""Takes requests apart. Whatever does not fit is a `UsageError` that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from starlette.requests import Request

from claudedo.errors import UsageError
from claudedo.model import Priority

LONGEST_WAIT = 30.0  # seconds that one request may wait for news
LARGEST_NUMBER = 2**63 - 1  # what the database can count to


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the request. Raises `UsageError` for anything else.

    Texts are Unicode, but for those of `env`: an environment holds bytes.
    """
    try:
        value = json.loads(request.state.body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The request is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError("The request must be a JSON object.")
    texts = {key: given for key, given in value.items() if key != "env"}
    try:
        json.dumps(texts, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "The request holds text that is not Unicode (a lone surrogate)."
        ) from error
    return value


def text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise UsageError(f"`{key}` must be a text.")
    return value


def line(data: Mapping[str, Any], key: str) -> str:
    """A text that can be a name, a path or an argument."""
    value = text(data, key)
    if "\0" in value:
        raise UsageError(f"`{key}` must not hold a NUL character.")
    return value


def optional(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else line(data, key)


def lines(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = data.get(key)
    if not isinstance(values, list | None):
        raise UsageError(f"`{key}` must be a list of texts.")
    return tuple(line({key: value}, key) for value in values or ())


def objects(data: Mapping[str, Any], key: str) -> tuple[dict[str, Any], ...]:
    values = data.get(key)
    if not isinstance(values, list | None) or not all(isinstance(v, dict) for v in values or ()):
        raise UsageError(f"`{key}` must be a list of objects.")
    return tuple(values or ())


def flag(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key)
    if not isinstance(value, bool | None):
        raise UsageError(f"`{key}` must be true or false.")
    return bool(value)


def check_keys(data: Mapping[str, Any], known: type[Any]) -> None:
    if unknown := set(data) - {field.name for field in fields(known)}:
        raise UsageError(f"Unknown key {min(unknown)!r}.")


def priority(data: Mapping[str, Any]) -> Priority:
    value = optional(data, "priority") or Priority.NORMAL
    if value not in set(Priority):
        raise UsageError(f"{value!r} is no priority; there are {', '.join(Priority)}.")
    return Priority(value)


def number(request: Request, key: str) -> int:
    value = request.query_params.get(key, "0")
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(LARGEST_NUMBER))):
        raise UsageError(f"`{key}` must be a number.")
    return min(int(value), LARGEST_NUMBER)


def wait_seconds(request: Request) -> float:
    """The seconds that a request is ready to wait for news."""
    try:
        seconds = float(request.query_params.get("wait", "0"))
    except ValueError as error:
        raise UsageError("`wait` must be a number of seconds.") from error
    return min(seconds, LONGEST_WAIT) if seconds > 0 else 0.0


def announced(request: Request) -> int:
    """The size of the body in bytes, 0 if the client does not say."""
    size = request.headers.get("content-length", "0")
    return int(size) if size.isascii() and size.isdigit() and len(size) < 19 else 0


def environment(data: Mapping[str, Any]) -> dict[str, str]:
    env = data.get("env")
    if not isinstance(env, dict) or not all(map(_is_variable, env.items())):
        raise UsageError("`env` must be the environment of the shell, texts by name.")
    return env


def _is_variable(pair: tuple[str, Any]) -> bool:
    name, value = pair
    return bool(name) and "=" not in name and isinstance(value, str) and "\0" not in name + value
