"""A list says in a few words what the API refused, and what comes next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from claudedo.cli import render
from claudedo.cli.refusal import words

NOW = render.moment("2026-11-21T12:00:00Z").timestamp()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def task(kind: str, text: str = "", *, state: str = "idle", **more: Any) -> dict[str, Any]:
    failure = {"kind": kind, "text": text, "at": "", "continues_at": None, "tries": 0, **more}
    return {"name": "backend", "session": {"state": state, "failure": failure}}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (
            task("rate_limit", continues_at="2026-11-21T14:05:09.000Z"),
            "rate limit, continues 14:05",
        ),
        (
            task("rate_limit", continues_at="2026-11-24T19:46:00.000Z", state="waiting"),
            "rate limit, continues Tue 19:46",
        ),
        (
            task("overloaded", tries=10),
            "API overloaded, gave up after 10 tries; `claudedo send backend` continues it",
        ),
        (task("rate_limit"), "rate limit; `claudedo send backend` continues it"),
        (
            task("authentication", "Not logged in · Please run /login"),
            "not logged in: run /login in `claudedo attach backend`",
        ),
        (
            task("authentication", "Invalid API key · Fix external API key"),
            "credential refused: Invalid API key · Fix external API key",
        ),
        (task("billing", "Credit balance is too low"), "billing: Credit balance is too low"),
        (task("request", "bad\x1b[2J"), r"request refused: bad\x1b[2J"),
        (task("news", ""), "news"),
        (task("rate_limit", state="busy", tries=1), ""),
        (task("rate_limit", state="stopped", tries=1), ""),
        ({"name": "backend", "session": {"state": "idle", "failure": None}}, ""),
        ({"name": "backend", "session": None}, ""),
    ],
)
def test_words_fit_the_failure(shown: dict[str, Any], expected: str) -> None:
    assert words(shown, NOW) == expected
