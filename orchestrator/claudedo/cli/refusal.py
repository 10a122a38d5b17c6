"""How a session's failure (`failure` of `ls --json`) is put into words: one place for all lists."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from claudedo.cli import render
from claudedo.model import FailureKind

_WORDS = {
    FailureKind.RATE_LIMIT: "rate limit",
    FailureKind.OVERLOADED: "API overloaded",
    FailureKind.AUTHENTICATION: "credential refused",
    FailureKind.BILLING: "billing",
    FailureKind.REQUEST: "request refused",
}
_PASSING = (FailureKind.RATE_LIMIT, FailureKind.OVERLOADED)


def words(task: Mapping[str, Any], now: float | None = None) -> str:
    """What a task's session waits for since the API refused its last turn; "" if it did not.

    `now`: Unix time, the present by default. "" also while another turn runs, or nothing does.
    """
    session = task["session"] or {}
    failure = session.get("failure")
    if not failure or session.get("state") not in ("idle", "waiting"):
        return ""
    kind, said = failure["kind"], render.line(failure.get("text") or "")
    what = _WORDS.get(kind, render.line(str(kind)))
    if failure.get("continues_at"):
        return f"{what}, continues {_clock(failure['continues_at'], now)}"
    if kind in _PASSING:
        tries = failure.get("tries")
        gave_up = f", gave up after {tries} tries" if tries else ""
        return f"{what}{gave_up}; `claudedo send {task['name']}` continues it"
    if kind == FailureKind.AUTHENTICATION and "/login" in said:
        return f"not logged in: run /login in `claudedo attach {task['name']}`"
    return f"{what}: {said}".rstrip(": ")


def _clock(moment: str, now: float | None) -> str:
    """The time of day, here; with the day when it is another one."""
    at = render.moment(moment).astimezone()
    today = datetime.fromtimestamp(time.time() if now is None else now, UTC).astimezone()
    return at.strftime("%H:%M" if at.date() == today.date() else "%a %H:%M")
