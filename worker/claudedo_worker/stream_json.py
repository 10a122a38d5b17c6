"""What a `claude -p` says and hears, one JSON object a line.

Turns lines of its output into events and orders into lines of its input. Its output file holds,
between the lines of the CLI, a few of our own that say where a process began and ended: whoever
reads the file knows all that happened, a new worker first of all. Decides nothing.
The formats are those of docs/claude-cli.md 2 and 34.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_NAMESPACE = uuid.UUID("6f1bd4a3-8f0e-4b7f-9e0b-0d6f6b9a2c11")
_OURS = "claudedo"
LONGEST_UNREADABLE = 300
PIECE = 4 << 20  # bytes that are read at a time
_PRINTED = (b'{"type":"user"', b'"isReplay":true')


@dataclass(frozen=True, kw_only=True)
class Began:
    """A line of ours: a process is about to be started. Times are Unix times in seconds."""

    attempt: int
    session: str
    at: float
    errors: int = 0  # bytes of error output that others wrote before
    check: bool = False  # the task's check, not its session
    resumes: bool = False  # a conversation that has a transcript
    run: str | None = None  # the same for all processes up to one verdict


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A line of ours: that process ended, and what all of them used up to then."""

    code: int | None  # as a shell shows it
    at: float
    seconds: float
    spent: float  # US dollars

    @property
    def is_orderly(self) -> bool:
        """True unless a signal ended it."""
        return self.code is not None and self.code < 128


@dataclass(frozen=True, kw_only=True)
class Init:
    """A turn begins."""

    conversation: str
    failed_servers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Echo:
    """A line of input is in the context, or about to be: the CLI gives it back."""

    uuid: str


@dataclass(frozen=True, kw_only=True)
class Permission:
    """The process waits for a decision on a tool call."""

    request_id: str
    tool: str
    input: Mapping[str, Any]
    suggestions: tuple[dict[str, Any], ...] = ()
    tool_use_id: str | None = None
    agent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The process does not wait for that decision any more."""

    request_id: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer of ours was read. `denied`: it was a no."""

    request_id: str
    denied: bool = False


@dataclass(frozen=True, kw_only=True)
class ApiRetry:
    """The API did not answer as hoped, and the CLI tries again by itself."""

    attempt: int
    error: str  # the CLI's word for it
    status: int | None  # None: it was not reached


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The CLI gave up: what the API said, as a line of the conversation."""

    error: str
    text: str
    resets_at: float | None = None  # Unix time at which a limit ends


@dataclass(frozen=True, kw_only=True)
class Said:
    """The model said something, or called tools; not a subagent."""

    text: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Background:
    """Work beside the turns began or ended; its end starts a turn by itself."""

    id: str
    runs: bool


@dataclass(frozen=True, kw_only=True)
class Denied:
    """A tool call that was not allowed."""

    tool: str
    input: Mapping[str, Any]
    tool_use_id: str | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A turn ended. `cost`: US dollars, of this process until now."""

    is_error: bool
    subtype: str
    text: str | None
    status: int | None = None  # of the API, if that refused
    cost: float = 0.0
    denials: tuple[Denied, ...] = ()
    errors: tuple[str, ...] = ()
    counts_on: bool = False  # `cost` holds what the conversation cost before it was resumed

    @property
    def is_refusal(self) -> bool:
        """True if the API did not do its part: that looks like a success but for the error."""
        return self.is_error and self.subtype == "success"


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A line that is no JSON object."""

    text: str


Event = (
    Began
    | Ended
    | Init
    | Echo
    | Permission
    | Cancelled
    | Answered
    | ApiRetry
    | Refusal
    | Said
    | Background
    | Result
    | Unreadable
)


class Output:
    """One growing output file, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event]:
        """The events of the complete lines that were added since; a missing file has none."""
        return [event for events in self.pieces() for event in events]

    def pieces(self) -> Iterator[list[Event]]:
        """The same piece by piece: of a long run the file has hundreds of megabytes."""
        try:
            if os.stat(self.path).st_size == self._offset:  # noqa: PTH116 - asked many times a second
                return
            with self.path.open("rb") as file:
                file.seek(self._offset)
                while data := file.read(PIECE):
                    self._offset += len(data)
                    *lines, self._rest = (self._rest + data).split(b"\n")  # a line may hold U+2028
                    yield [event for line in lines for event in read_line(line)]
        except FileNotFoundError:
            return

    def add(self, note: Began | Ended) -> None:
        """Write a line of ours, while no process writes. Raises `OSError`."""
        make_file(self.path)
        with self.path.open("ab") as file:
            torn = file.tell() > 0 and not _ends_line(self.path)
            word = {"type": _OURS, "event": type(note).__name__.lower(), **asdict(note)}
            file.write((b"\n" if torn else b"") + _line(word))


def read_line(line: bytes) -> Iterator[Event]:
    """What one line says: mostly one event, or none that is of interest."""
    if not line.strip():
        return
    kind, echoed = _PRINTED
    if line.startswith(kind) and echoed not in line:
        return  # what a tool said: most of a long output, and nothing of interest
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        yield Unreadable(text=line[:LONGEST_UNREADABLE].decode(errors="replace"))
        return
    match value.get("type"):
        case "system":
            yield from _system(value)
        case "user" if value.get("isReplay"):
            yield Echo(uuid=str(value.get("uuid")))
        case "assistant" if not value.get("parent_tool_use_id"):
            yield from _assistant(value)
        case "control_request":
            yield from _request(value)
        case "control_cancel_request":
            yield Cancelled(request_id=str(value.get("request_id")))
        case "control_response":
            yield _response(_object(value.get("response")))
        case "result":
            yield _result(value)
        case "claudedo":
            yield from _ours(value)


def _ours(value: dict[str, Any]) -> Iterator[Event]:
    kinds: dict[Any, type[Began | Ended]] = {"began": Began, "ended": Ended}
    kind = kinds.get(value.get("event"))
    if kind is not None:
        fields = {name: value[name] for name in kind.__dataclass_fields__ if name in value}
        yield kind(**fields)


def _system(value: dict[str, Any]) -> Iterator[Event]:
    match value.get("subtype"):
        case "init":
            servers = value.get("mcp_servers")
            listed = [s for s in servers if isinstance(s, dict)] if servers else []
            failed = [str(s.get("name")) for s in listed if s.get("status") == "failed"]
            yield Init(conversation=str(value.get("session_id")), failed_servers=tuple(failed))
        case "api_retry":
            yield ApiRetry(
                attempt=_int(value.get("attempt")) or 0,
                error=str(value.get("error")),
                status=_int(value.get("error_status")),
            )
        case "task_started":
            yield Background(id=str(value.get("task_id")), runs=True)
        case "task_notification":
            yield Background(id=str(value.get("task_id")), runs=False)


def _assistant(value: dict[str, Any]) -> Iterator[Event]:
    message = _object(value.get("message"))
    blocks = [block for block in _list(message.get("content")) if isinstance(block, dict)]
    text = "".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text")
    if value.get("error"):  # written by the CLI, in place of an answer
        resets_at = _object(value.get("quotaLimits")).get("resetsAt")
        moment = float(resets_at) if isinstance(resets_at, int | float) else None
        yield Refusal(error=str(value["error"]), text=text, resets_at=moment)
        return
    calls = tuple(
        (str(block.get("name")), _object(block.get("input")))
        for block in blocks
        if block.get("type") == "tool_use"
    )
    yield Said(text=text, calls=calls)


def _request(value: dict[str, Any]) -> Iterator[Event]:
    request = _object(value.get("request"))
    if request.get("subtype") != "can_use_tool":
        return
    suggestions = _list(request.get("permission_suggestions"))
    yield Permission(
        request_id=str(value.get("request_id")),
        tool=str(request.get("tool_name")),
        input=_object(request.get("input")),
        suggestions=tuple(item for item in suggestions if isinstance(item, dict)),
        tool_use_id=_text(request.get("tool_use_id")),
        agent=_text(request.get("agent_id")),
    )


def _response(response: dict[str, Any]) -> Answered:
    behavior = _object(response.get("response")).get("behavior")
    return Answered(request_id=str(response.get("request_id")), denied=behavior == "deny")


def _result(value: dict[str, Any]) -> Result:
    cost = value.get("total_cost_usd")
    denials = [item for item in _list(value.get("permission_denials")) if isinstance(item, dict)]
    return Result(
        is_error=bool(value.get("is_error")),
        subtype=str(value.get("subtype")),
        text=_text(value.get("result")),
        status=_int(value.get("api_error_status")),
        cost=float(cost) if isinstance(cost, int | float) else 0.0,
        denials=tuple(
            Denied(
                tool=str(item.get("tool_name")),
                input=_object(item.get("tool_input")),
                tool_use_id=_text(item.get("tool_use_id")),
            )
            for item in denials
        ),
        errors=tuple(str(item) for item in _list(value.get("errors"))),
        counts_on="result_index" in value,
    )


# Input


def line_id(attempt_id: str) -> str:
    """The uuid of the line that makes an attempt: the CLI takes each only once."""
    return str(uuid.uuid5(_NAMESPACE, attempt_id))


def user_line(text: str, own_id: str) -> bytes:
    """Say something to the model; `own_id` comes back with the echo."""
    message = {"role": "user", "content": text}
    return _line({"type": "user", "message": message, "uuid": own_id})


def response_line(request_id: str, answer: Mapping[str, Any]) -> bytes:
    """Decide a tool call: `behavior` with `updatedInput` or `message`."""
    response = {"subtype": "success", "request_id": request_id, "response": dict(answer)}
    return _line({"type": "control_response", "response": response})


def interrupt_line(request_id: str) -> bytes:
    """End the turn that runs; its result is then an error."""
    request = {"subtype": "interrupt"}
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def _line(value: Mapping[str, Any]) -> bytes:
    # ASCII: a lone surrogate in a text could not be written otherwise.
    return json.dumps(value).encode() + b"\n"


def make_file(path: Path) -> None:
    """Make a file, if there is none, that is for nobody else's eyes. Raises `OSError`."""
    path.touch(mode=0o600)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _object(value: Any) -> dict[str, Any]:
    """The format is not ours: what is not as known says nothing, and breaks nothing."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
