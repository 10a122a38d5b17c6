"""What can go wrong, worded for the person who reads it.

Every error carries a stable `code`. The edges translate it once: HTTP status in the worker's
API, exit status in the command line, tool error over MCP. Nothing here knows those edges.
"""

from __future__ import annotations


class ClaudedoError(Exception):
    """Something failed. The message says what, and what to do about it."""

    code = "failed"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").split("\n", 1)[0])


class UsageError(ClaudedoError):
    """The request is malformed."""

    code = "usage"


class TooLargeError(UsageError):
    """It is larger than what is taken."""

    code = "too_large"


class NotFoundError(ClaudedoError):
    """There is no such thing."""

    code = "not_found"


class AmbiguousError(ClaudedoError):
    """The name fits more than one thing."""

    code = "ambiguous"


class RefusedError(ClaudedoError):
    """The rules do not allow it."""

    code = "refused"


class UntrustedError(RefusedError):
    """The person never told Claude Code to trust this repository."""

    code = "untrusted"


class ConflictError(ClaudedoError):
    """The present state does not allow it."""

    code = "conflict"


class BusyError(ConflictError):
    """It is at work, which this would cut short."""

    code = "busy"


class TimedOutError(ClaudedoError):
    """It did not happen in time."""

    code = "timeout"


class UnauthorizedError(ClaudedoError):
    """No valid credential was shown."""

    code = "unauthorized"


class ForbiddenError(ClaudedoError):
    """This credential may not do that."""

    code = "forbidden"


class VersionError(ClaudedoError):
    """Command and worker are of different versions."""

    code = "version"


class StorageError(ClaudedoError):
    """The state cannot be read or written: a full disk, a damaged or foreign file."""

    code = "storage"


class UnavailableError(ClaudedoError):
    """The worker cannot be reached."""

    code = "unavailable"


KINDS: dict[str, type[ClaudedoError]] = {
    kind.code: kind
    for kind in (
        ClaudedoError,
        UsageError,
        TooLargeError,
        NotFoundError,
        AmbiguousError,
        RefusedError,
        UntrustedError,
        ConflictError,
        BusyError,
        TimedOutError,
        UnauthorizedError,
        ForbiddenError,
        VersionError,
        StorageError,
        UnavailableError,
    )
}


def from_code(code: str, message: str) -> ClaudedoError:
    """The error that another process reported as `code` and `message`."""
    return KINDS.get(code, ClaudedoError)(message)
