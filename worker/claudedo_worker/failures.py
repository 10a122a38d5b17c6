"""What it means that the API refused a turn, and when the session goes on by itself.

The CLI retries a while by itself; what is judged here is the line that it writes when it gave up
(docs/claude-cli.md 16.6, 29). Nothing here waits or acts: the courier asks whether it is time.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from claudedo.model import Failure, FailureKind, Session, Task, stamp
from claudedo_worker.transcript import Refusal

PAUSES = (1, 5, 15, 30, 60)
"""When a turn is continued that nobody said a time for, in units of the first pause."""

FIRST_PAUSE = 60.0  # seconds

TRIES = 10
"""How often a session is continued without one answer of the model between."""

SPREAD = 0.2
"""By which part of its pause a session may go on later than others, so that not all ask at once."""

SPACING = 3.0
"""Seconds between two sessions that go on, however many were due meanwhile (a laptop slept)."""

FARTHEST_RESET = timedelta(days=8)
"""A reset that is farther away was misread: the longest limit is a weekly one."""

SKEW = timedelta(minutes=10)
"""A reset that lies no farther back has just been, by a clock that differs; not tomorrow again."""

LONGEST_TEXT = 300

_KINDS = {
    "rate_limit": FailureKind.RATE_LIMIT,
    "overloaded": FailureKind.OVERLOADED,
    "server_error": FailureKind.OVERLOADED,
    "authentication_failed": FailureKind.AUTHENTICATION,
    "oauth_org_not_allowed": FailureKind.AUTHENTICATION,
    "account_on_hold": FailureKind.AUTHENTICATION,
    "verification_required": FailureKind.AUTHENTICATION,
    "cloud_credential_error": FailureKind.AUTHENTICATION,
    "billing_error": FailureKind.BILLING,
}
_PASSING = (FailureKind.RATE_LIMIT, FailureKind.OVERLOADED)

# As both versions write it: "resets 3pm (Europe/Berlin)", "resets 3:30pm", and, if that is more
# than a day away, "resets Oct 5, 2pm (Europe/Berlin)", with the year where it is another (29.4).
_RESETS = re.compile(
    r"\bresets (?:at )?(?:(?P<date>[A-Z][a-z]{2} \d{1,2})(?:, (?P<year>\d{4}))?(?:,| at) )?"
    r"(?P<hour>1[0-2]|[1-9])(?::(?P<minute>\d\d))?[ \u202f]?(?P<half>[ap]m)\b"
    r"(?: \((?P<zone>[^)]*)\))?"
)


@dataclass
class Schedule:
    """When sessions whose turns were refused go on. One for all sessions of a worker.

    `enabled`: whether they do so by themselves at all (`continue_after_limit`). `first_pause`: in
    seconds, what the other pauses are multiples of. Twice as much passes after a reset: a newer CLI
    may go on by itself, about a minute after it (29.5).
    """

    enabled: bool = True
    first_pause: float = FIRST_PAUSE
    wall: Callable[[], float] = time.time  # a laptop's sleep counts
    clock: Callable[[], float] = time.monotonic
    _went_on: float | None = None  # when a session last did

    def failure(
        self, refusal: Refusal, *, session_id: str, tries: int, waiting: bool = True
    ) -> Failure:
        """What is shown of a refused turn. The same for the same refusal, whenever it is asked.

        `tries`: how often the session was continued since the model last answered. `waiting`:
        False while another turn runs or is about to, so that nothing is planned.
        """
        kind = kind_of(refusal)
        plans = self.enabled and waiting and goes_on(kind, tries)
        at = datetime.fromisoformat(refusal.at)
        return Failure(
            kind=kind,
            text=" ".join(refusal.text.split())[:LONGEST_TEXT],
            at=stamp(at),
            continues_at=stamp(self._time(refusal, at, session_id, tries)) if plans else None,
            tries=tries,
        )

    def due(self, failure: Failure | None) -> bool:
        """True if a session with this failure may be continued at this moment."""
        if failure is None or failure.continues_at is None:
            return False
        if self._went_on is not None and self.clock() - self._went_on < SPACING:
            return False
        return self.wall() >= datetime.fromisoformat(failure.continues_at).timestamp()

    def take(self) -> None:
        """A session is being continued: the next one has to wait a little."""
        self._went_on = self.clock()

    def _time(self, refusal: Refusal, at: datetime, session_id: str, tries: int) -> datetime:
        pause = PAUSES[min(tries, len(PAUSES) - 1)] * self.first_pause
        later = at + timedelta(seconds=pause * (1 + SPREAD * _part(session_id)))
        reset = reset_of(refusal, at)
        if reset is None:
            return later
        return max(later, reset + timedelta(seconds=self.first_pause * (2 + _part(session_id))))


def goes_on(kind: FailureKind, tries: int) -> bool:
    """True if a session that was continued `tries` times is continued after such a refusal, too."""
    return kind in _PASSING and tries < TRIES


def is_past(refusal: Refusal, task: Task, session: Session) -> bool:
    """True if a session that goes on with the conversation has nothing to do with the refusal.

    A limit may hold on over a restart; other things were mended before it, one hopes. What was
    refused before the task was there (`adopt`) nobody wants continued.
    """
    at = datetime.fromisoformat(refusal.at)
    if at < datetime.fromisoformat(task.created_at):
        return True
    return kind_of(refusal) not in _PASSING and at < datetime.fromisoformat(session.started_at)


def kind_of(refusal: Refusal) -> FailureKind:
    """What sort of refusal it is; what is not known is not taken for one that passes."""
    if kind := _KINDS.get(refusal.error):
        return kind
    status = refusal.status or 0
    if status in (401, 403):
        return FailureKind.AUTHENTICATION
    if status == 429:
        return FailureKind.RATE_LIMIT
    return FailureKind.OVERLOADED if status >= 500 else FailureKind.REQUEST


def reset_of(refusal: Refusal, at: datetime) -> datetime | None:
    """When the limit ends, if the CLI said so; None if it did not, or not plainly."""
    if refusal.resets_at is not None:
        reset: datetime | None = _moment(refusal.resets_at)
    else:
        found = _RESETS.search(refusal.text)
        reset = _read(found, at) if found else None
    if reset is None or not at - SKEW <= reset <= at + FARTHEST_RESET:
        return None
    return reset


def _moment(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _read(found: re.Match[str], at: datetime) -> datetime | None:
    """The moment that a text names, seen from `at`: the next one that fits."""
    try:
        zone = ZoneInfo(found["zone"]) if found["zone"] else None
        here = at.astimezone(zone)
        hour = int(found["hour"]) % 12 + (12 if found["half"] == "pm" else 0)
        named = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["date"]:
            year = int(found["year"] or here.year)
            day = datetime.strptime(f"{found['date']} {year}", "%b %d %Y")  # noqa: DTZ007 - a date
            named = named.replace(year=year, month=day.month, day=day.day)
            if not found["year"] and named < here - timedelta(days=180):
                named = named.replace(year=year + 1)
        elif named < here - SKEW:
            # In the zone's own days, which are not all of 24 hours.
            named += timedelta(days=1)
    except (ValueError, KeyError, OSError):  # no such day, no such zone
        return None
    return named.astimezone(UTC)


def _part(session_id: str) -> float:
    """A number from 0 to 1 that belongs to a session."""
    return int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:4]) / 2**32
