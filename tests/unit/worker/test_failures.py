"""What a refusal of the API means, and when a session whose turn it ended goes on."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from claudedo.model import FailureKind
from claudedo_worker.failures import (
    FIRST_PAUSE,
    PAUSES,
    SPACING,
    SPREAD,
    TRIES,
    Schedule,
    is_past,
    kind_of,
    reset_of,
)
from claudedo_worker.transcript import Answer, Refusal, Transcript
from tests.support.mailroom import Mailroom

pytestmark = pytest.mark.anyio

AT = "2026-11-21T19:45:25.113+00:00"
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

# What both versions write, but for the fields that nobody reads (docs/claude-cli.md 29.1).
RECORDED: dict[str, dict[str, Any]] = {
    "429, old": {
        "text": "API Error: Request rejected (429) · Too many requests for you",
        "error": "rate_limit",
        "apiErrorStatus": 429,
    },
    "429, new": {
        "text": "API Error: Server is temporarily limiting requests (not your usage limit)",
        "apiErrorIsTransient": True,
        "error": "rate_limit",
        "apiErrorStatus": 429,
        "apiErrorType": "rate_limit_error",
    },
    "5 hours, old": {
        "text": "You've hit your session limit · resets 9:15pm (UTC)",
        "error": "rate_limit",
        "apiErrorStatus": 429,
    },
    "a week, new": {
        "text": "You've hit your weekly limit · resets Nov 24, 7:45pm (UTC)",
        "apiError": "usage_limit_reached",
        "quotaLimits": {
            "status": "rejected",
            "resetsAt": 1795549517,
            "rateLimitType": "seven_day",
        },
        "error": "rate_limit",
        "apiErrorStatus": 429,
    },
    "529, old": {
        "text": "API Error: Repeated 529 Overloaded errors. The API is at capacity",
        "error": "server_error",
    },
    "unreachable, new": {
        "text": "API Error: Connection refused — a firewall or proxy may be blocking it",
        "apiError": "connection_failed",
        "error": "server_error",
    },
    "401": {
        "text": "Invalid API key · Fix external API key",
        "error": "authentication_failed",
        "apiErrorStatus": 401,
    },
    "no login": {"text": "Not logged in · Please run /login", "error": "authentication_failed"},
    "credit": {
        "text": "Credit balance is too low",
        "error": "billing_error",
        "apiErrorStatus": 400,
        "resendCannotCure": True,
    },
    "400": {"text": "API Error: 400 something is odd", "error": "unknown", "apiErrorStatus": 400},
}
KINDS = {
    "429, old": FailureKind.RATE_LIMIT,
    "429, new": FailureKind.RATE_LIMIT,
    "5 hours, old": FailureKind.RATE_LIMIT,
    "a week, new": FailureKind.RATE_LIMIT,
    "529, old": FailureKind.OVERLOADED,
    "unreachable, new": FailureKind.OVERLOADED,
    "401": FailureKind.AUTHENTICATION,
    "no login": FailureKind.AUTHENTICATION,
    "credit": FailureKind.BILLING,
    "400": FailureKind.REQUEST,
}


def recorded(folder: Path, name: str, **more: Any) -> Refusal:
    """The refusal that a transcript with this line tells of."""
    line = {**RECORDED[name], **more}
    text = line.pop("text")
    message = {"model": "<synthetic>", "content": [{"type": "text", "text": text}]}
    line |= {"type": "assistant", "uuid": "u1", "parentUuid": None, "isApiErrorMessage": True}
    path = folder / "c.jsonl"
    path.write_text(json.dumps({"timestamp": AT, **line, "message": message}) + "\n")
    (fact,) = Transcript(path).read()
    assert isinstance(fact, Answer)
    assert fact.refusal is not None
    return fact.refusal


def refusal(
    text: str = "", *, error: str = "rate_limit", status: int | None = 429, at: str = AT
) -> Refusal:
    return Refusal(error=error, status=status, text=text, at=at)


def moment(text: str | None) -> datetime:
    assert text is not None
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_line_is_known_for_what_it_is(tmp_path: Path, name: str) -> None:
    assert kind_of(recorded(tmp_path, name)) is KINDS[name]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        ("new word", 429, FailureKind.RATE_LIMIT),
        ("new word", 503, FailureKind.OVERLOADED),
        ("new word", 403, FailureKind.AUTHENTICATION),
        ("new word", 404, FailureKind.REQUEST),
        ("new word", None, FailureKind.REQUEST),
    ],
)
def test_word_that_is_not_known_is_judged_by_the_status(
    error: str, status: int | None, kind: FailureKind
) -> None:
    assert kind_of(refusal(error=error, status=status)) is kind


@pytest.mark.parametrize("name", ["5 hours, old", "a week, new"])
def test_reset_of_a_subscription_is_read(tmp_path: Path, name: str) -> None:
    expected = {
        "5 hours, old": datetime(2026, 11, 21, 21, 15, tzinfo=UTC),
        "a week, new": datetime.fromtimestamp(1795549517, UTC),
    }
    found = recorded(tmp_path, name)
    assert reset_of(found, moment(found.at)) == expected[name]
    planned = Schedule().failure(found, session_id="s_1", tries=0).continues_at
    late = (moment(planned) - expected[name]).total_seconds()
    assert 2 * FIRST_PAUSE <= late <= 3 * FIRST_PAUSE, "newer versions may go on before"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resets 3pm (UTC)", datetime(2026, 11, 21, 15, 0, tzinfo=UTC)),
        ("resets at 3:30pm (UTC)", datetime(2026, 11, 21, 15, 30, tzinfo=UTC)),
        ("resets 12am (UTC)", datetime(2026, 11, 22, 0, 0, tzinfo=UTC)),
        ("resets 12:05pm (UTC)", datetime(2026, 11, 21, 12, 5, tzinfo=UTC)),
        ("resets 12pm (UTC)", NOON),
        ("resets 11:51am (UTC)", datetime(2026, 11, 21, 11, 51, tzinfo=UTC)),
        ("resets 11:49am (UTC)", datetime(2026, 11, 22, 11, 49, tzinfo=UTC)),
        ("resets 11am (UTC)", datetime(2026, 11, 22, 11, 0, tzinfo=UTC)),
        ("resets 3pm (Europe/Berlin)", datetime(2026, 11, 21, 14, 0, tzinfo=UTC)),
        ("resets 9\u202fpm (America/New_York)", datetime(2026, 11, 22, 2, 0, tzinfo=UTC)),
        ("resets Nov 24, 7:45pm (UTC)", datetime(2026, 11, 24, 19, 45, tzinfo=UTC)),
        ("resets Nov 28, 2026, 7pm (UTC)", datetime(2026, 11, 28, 19, 0, tzinfo=UTC)),
        ("resets 3pm (Nowhere/Atlantis)", None),
        ("resets 3pm (../../etc/passwd)", None),
        ("resets Feb 30, 3pm (UTC)", None),
        ("resets Dec 24, 3pm (UTC)", None),
        ("resets Nov 1, 3pm (UTC)", None),
        ("resets 33pm (UTC)", None),
        ("resets Oct 5", None),
        ("resets soon", None),
        ("try again in 5 minutes", None),
    ],
)
def test_reset_is_taken_from_the_text_only_where_it_is_plain(
    text: str, expected: datetime | None
) -> None:
    assert reset_of(refusal(f"You've hit your limit · {text}"), NOON) == expected


def test_reset_without_a_zone_is_in_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        found = reset_of(refusal("resets 10pm"), NOON)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == datetime(2026, 11, 21, 13, 0, tzinfo=UTC)


def test_reset_at_the_turn_of_the_year_is_in_the_next_one() -> None:
    at = datetime(2026, 12, 30, 12, 0, tzinfo=UTC)
    found = reset_of(refusal("resets Jan 2, 3pm (UTC)"), at)
    assert found == datetime(2027, 1, 2, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize("resets_at", [0, -1e30, float("nan"), 1e30, 4_000_000_000])
def test_reset_that_cannot_be_is_not_believed(tmp_path: Path, resets_at: float) -> None:
    limits = {"resetsAt": resets_at}
    found = recorded(tmp_path, "429, new", quotaLimits=limits)
    assert reset_of(found, moment(found.at)) is None


@pytest.mark.parametrize("timestamp", [None, 7, "yesterday", "2026-11-21T19:45:25.113"])
def test_line_without_a_time_that_can_be_read_is_taken_all_the_same(
    tmp_path: Path, timestamp: object
) -> None:
    found = recorded(tmp_path, "401", timestamp=timestamp)
    assert Schedule().failure(found, session_id="s_1", tries=0).at.endswith("Z")


def test_pauses_grow_and_are_bounded() -> None:
    schedule = Schedule()
    for tries in range(TRIES):
        failure = schedule.failure(refusal(), session_id="s_1", tries=tries)
        pause = (moment(failure.continues_at) - moment(AT)).total_seconds()
        base = FIRST_PAUSE * PAUSES[min(tries, len(PAUSES) - 1)]
        assert base <= pause <= base * (1 + SPREAD)
    assert schedule.failure(refusal(), session_id="s_1", tries=TRIES).continues_at is None


def test_sessions_refused_at_one_moment_do_not_go_on_at_one_moment() -> None:
    schedule = Schedule()
    times = {
        schedule.failure(refusal(), session_id=f"s_{number}", tries=0).continues_at
        for number in range(20)
    }
    assert len(times) == 20


def test_those_that_are_due_together_take_turns() -> None:
    at = [moment(AT).timestamp() + 10 * FIRST_PAUSE]
    schedule = Schedule(wall=lambda: at[0], clock=lambda: at[0])
    failure = schedule.failure(refusal(), session_id="s_1", tries=0)
    assert schedule.due(failure)
    schedule.take()
    assert not schedule.due(failure)
    at[0] += SPACING
    assert schedule.due(failure)


@pytest.mark.parametrize(
    ("error", "at", "past"),
    [
        ("rate_limit", "2026-11-21T09:00:00+00:00", True),  # before the task
        ("rate_limit", "2026-11-21T11:00:00+00:00", False),  # before the restart
        ("server_error", "2026-11-21T11:00:00+00:00", False),
        ("authentication_failed", "2026-11-21T11:00:00+00:00", True),
        ("billing_error", "2026-11-21T11:00:00+00:00", True),
        ("authentication_failed", "2026-11-21T13:00:00+00:00", False),
    ],
)
async def test_session_that_goes_on_takes_over_only_what_may_still_hold(
    tmp_path: Path, error: str, at: str, past: bool
) -> None:
    room = await Mailroom(tmp_path).open()
    await room.close()
    task = replace(room.task, created_at="2026-11-21T10:00:00.000Z")
    session = replace(room.session, started_at="2026-11-21T12:00:00.000Z")
    assert is_past(refusal(error=error, status=None, at=at), task, session) is past


def test_text_of_the_cli_is_kept_short_and_on_one_line() -> None:
    failure = Schedule().failure(refusal("bad\n" * 500), session_id="s_1", tries=0)
    assert len(failure.text) <= 300
    assert "\n" not in failure.text
