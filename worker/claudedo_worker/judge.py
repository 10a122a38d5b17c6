"""The verdict on a one-shot task, from the facts of its last attempt.

Pure. The CLI says "success" of a request that the API refused and exits with 0 after tools were
denied, so its own word for the outcome is never used: what counts is the exit code together with
`is_error` (docs/claude-cli.md 1.3). What is judged first is what made the rest meaningless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from claudedo.model import Rules, RunExit, TaskStatus, Verdict

_CREDENTIAL = frozenset({401, 403})
"""What the API answers to one that it does not take."""

_SHOWN = 300
"""Characters of what a program said that go into a reason."""


@dataclass(frozen=True, kw_only=True)
class Denial:
    """A tool call that was not allowed."""

    tool: str
    about: str  # in a line


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What the API answered instead of the model."""

    text: str
    status: int | None = None  # None: it could not be reached, or nobody is logged in


@dataclass(frozen=True, kw_only=True)
class Check:
    """How the task's own check ended."""

    command: str
    exit: int | None  # None: it took too long
    log: str  # the file with what it said


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the verdict depends on.

    `exit` is that of `claude`, as a shell shows it; None if nobody can tell it any more. `ended`
    says that a result was read, `is_error` what that said of itself.
    """

    cancelled: bool = False
    trouble: str | None = None  # why it could not be run at all
    timeout: float | None = None  # the limit in seconds, once it was passed
    budget: float | None = None  # the limit in dollars, once it was spent
    refused: Refused | None = None
    exit: int | None = 0
    ended: bool = True
    is_error: bool = False
    said: str | None = None  # the result, or what came last
    complaint: str | None = None  # the last line of the error output, or of what was no JSON
    status: TaskStatus = TaskStatus.ONGOING  # what the session said of its task
    words: str | None = None  # with which it rejected it
    check: Check | None = None
    denials: Sequence[Denial] = ()
    unread: Sequence[str] = ()
    rules: Rules = field(default_factory=Rules)
    attempts: int = 1
    errors: str = "errors.log"  # the file with the error output


def judge(facts: Facts) -> Verdict:
    """The verdict. What was denied, and what was not read, is told whatever the verdict is."""
    exit_, reason = _judged(facts)
    return Verdict(
        exit=exit_,
        reason=reason,
        denied=tuple(denial.tool for denial in facts.denials),
        denials=tuple(f"{denial.tool}: {denial.about}" for denial in facts.denials),
        unread=tuple(facts.unread),
        result=facts.said,
    )


def _judged(facts: Facts) -> tuple[RunExit, str]:
    return (
        _stopped(facts)
        or _broken(facts)
        or _turned_down(facts)
        or _incomplete(facts)
        or (RunExit.DONE, "done")
    )


def _stopped(facts: Facts) -> tuple[RunExit, str] | None:
    """Ended from outside, or by a limit."""
    if facts.cancelled:
        return RunExit.CANCELLED, "cancelled"
    if facts.trouble is not None:
        return RunExit.FAILED, facts.trouble
    if facts.timeout is not None:
        return RunExit.TIMEOUT, f"ended after its time limit of {facts.timeout:g} s"
    if facts.budget is not None:
        return RunExit.BUDGET, f"ended after its budget of ${facts.budget:g} was spent"
    return None


def _broken(facts: Facts) -> tuple[RunExit, str] | None:
    """Neither right nor wrong: it did not come to an end of its own."""
    if facts.refused is not None:
        tries = f", {facts.attempts} times" if facts.attempts > 1 else ""
        code = f" ({facts.refused.status})" if facts.refused.status else ""
        what = "; check the credential" if facts.refused.status in _CREDENTIAL else ""
        return RunExit.API, f"the API refused{code}{tries}: {_short(facts.refused.text)}{what}"
    said = f": {_short(facts.complaint)}" if facts.complaint else f"; see {facts.errors}"
    if facts.exit is None:
        return RunExit.PROCESS, f"its process was lost{said}"
    if not facts.ended:
        return RunExit.PROCESS, f"claude ended with {_code(facts.exit)} and no result{said}"
    if facts.is_error or facts.exit != 0:
        said = f": {_short(facts.said)}" if facts.said else said
        return RunExit.PROCESS, f"claude ended with {_code(facts.exit)} and an error{said}"
    return None


def _turned_down(facts: Facts) -> tuple[RunExit, str] | None:
    """It came to an end, and the work is not good."""
    if facts.status in (TaskStatus.REJECTED, TaskStatus.BLOCKED):
        words = f": {_short(facts.words)}" if facts.words else ""
        return RunExit.REJECTED, f"its session says that it is {facts.status}{words}"
    if facts.check is None or facts.check.exit == 0:
        return None
    failed = f"with {_code(facts.check.exit)}" if facts.check.exit is not None else "by its time"
    command = _short(facts.check.command)
    return RunExit.REJECTED, f"its check `{command}` failed {failed}; see {facts.check.log}"


def _incomplete(facts: Facts) -> tuple[RunExit, str] | None:
    """The work may be good, but not all of what it needed or was told came to it."""
    if facts.denials and not facts.rules.allow_denied:
        first = facts.denials[0]
        more = f" and {len(facts.denials) - 1} more" if len(facts.denials) > 1 else ""
        denied = f"{first.tool}: {_short(first.about)}{more}"
        return RunExit.DENIED, f"it ended, but it had been denied {denied}"
    if facts.unread and facts.rules.fail_on_unread:
        count = len(facts.unread)
        noun = "message" if count == 1 else "messages"
        return RunExit.UNREAD, f"it ended without reading {count} {noun}"
    return None


def _code(status: int) -> str:
    return f"signal {status - 128}" if status > 128 else f"exit status {status}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
