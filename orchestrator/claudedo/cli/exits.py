"""What a command's exit status means: the one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from claudedo.errors import ClaudedoError
from claudedo.model import RunExit


class Exit(IntEnum):
    """Exit statuses of the commands."""

    DONE = 0  #: it is as was asked
    FAILED = 1  #: it is not, for a reason that has no status of its own
    USAGE = 2  #: the command line is wrong
    TIMED_OUT = 3  #: it did not happen in time (never of `send`)
    NOT_FOUND = 4  #: a name fits nothing, or more than one thing
    REFUSED = 5  #: the rules or the present state do not allow it
    UNCONFIRMED = 6  #: `send --wait`: accepted and safe, not confirmed in time
    INTERRUPTED = 130  #: Ctrl-C


_BY_CODE = {
    "usage": Exit.USAGE,
    "too_large": Exit.USAGE,
    "timeout": Exit.TIMED_OUT,
    "not_found": Exit.NOT_FOUND,
    "ambiguous": Exit.NOT_FOUND,
    "refused": Exit.REFUSED,
    "untrusted": Exit.REFUSED,
    "conflict": Exit.REFUSED,
    "busy": Exit.REFUSED,
    "unauthorized": Exit.REFUSED,
    "forbidden": Exit.REFUSED,
}


def status_of(error: ClaudedoError) -> Exit:
    """The exit status of a command that ends with `error`."""
    return _BY_CODE.get(error.code, Exit.FAILED)


def common(statuses: list[Exit]) -> Exit:
    """The status that all failures share, else `FAILED`; `DONE` without failures."""
    failures = {status for status in statuses if status is not Exit.DONE}
    if not failures:
        return Exit.DONE
    return failures.pop() if len(failures) == 1 else Exit.FAILED


def of_run(tasks: Sequence[Mapping[str, Any]]) -> int:
    """The status of a run of one-shots (elements of `queue run --json`).

    `DONE`, or the one that all failures share, else `FAILED`. One that was skipped is no failure of
    its own beside the one that it is skipped for; one without a verdict is `FAILED`.
    """
    exits = {Exit.FAILED if one["exit"] is None else int(one["exit"]) for one in tasks}
    exits -= {Exit.DONE}
    if exits != {RunExit.SKIPPED}:
        exits -= {RunExit.SKIPPED}
    if not exits:
        return Exit.DONE
    return exits.pop() if len(exits) == 1 else Exit.FAILED
