"""The nouns of claudedo: workspace, task, session, ask, message, receipt, attempt, event.

Records are frozen; a change makes a new one. Statuses are defined once, with the legal moves
beside them. Standard library only; knows nothing about storage, HTTP or processes.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

from claudedo.errors import UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MOST_FILES = 20  # that one message carries
MAX_BODY_BYTES = 256 * 1024
MAX_ENCODED_BODY = 385_000
"""UTF-16 units of a body in JSON: what one `check_inbox` result (400,000) has room for, beside the
longest names of as many files as a message may carry."""

USER = "user"

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(kind: str) -> str:
    """A new identifier: `kind`, an underscore and a ULID, so that identifiers sort by age."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return f"{kind}_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def now() -> str:
    """The present moment as the text that is stored everywhere."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A moment in UTC as text that sorts by age: ISO 8601 with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_name(name: str) -> str:
    """Return `name` if it can name a task or a workspace; raises `UsageError` otherwise."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a name: use a-z, 0-9, '.', '_' and '-', at most 63 characters, "
            "beginning with a letter or a digit."
        )
    return name


def check_body(body: str) -> str:
    """Return `body` if it can be sent; raises `UsageError` if empty, too large or not Unicode."""
    if not body:
        raise UsageError("The message is empty: say something, or name a file with --message-file.")
    try:
        size = len(body.encode())
    except UnicodeEncodeError as error:
        raise UsageError("The message is not valid Unicode text (unpaired surrogate).") from error
    if size > MAX_BODY_BYTES:
        raise UsageError(
            f"The message has {size:,} bytes; at most {MAX_BODY_BYTES:,} are possible. "
            "Put the long part in a file of the worktree and send its name."
        )
    encoded = len(json.dumps(body, ensure_ascii=False).encode("utf-16-le")) // 2
    if encoded > MAX_ENCODED_BODY:
        raise UsageError(
            f"The message has {encoded:,} characters once its line breaks, quotes and control "
            f"characters are escaped; at most {MAX_ENCODED_BODY:,} are possible. "
            "Put the long part in a file of the worktree and send its name."
        )
    return body


class TaskStatus(StrEnum):
    """How far the work on a task is."""

    NOTSTARTED = "notstarted"  #: nobody works on it yet
    ONGOING = "ongoing"  #: somebody does
    BLOCKED = "blocked"  #: waits for somebody else
    COMPLETED = "completed"  #: done
    REJECTED = "rejected"  #: will not be done; the thread says why

    @property
    def over(self) -> bool:
        """True once nothing more is to be done."""
        return self in (TaskStatus.COMPLETED, TaskStatus.REJECTED)


class SessionState(StrEnum):
    """What a session is doing, as its registry file and its holder tell it."""

    STARTING = "starting"  #: launched, not yet past its start-up dialogs
    IDLE = "idle"  #: its turn is over; it takes input
    BUSY = "busy"  #: a turn is running
    WAITING = "waiting"  #: a dialog is open; see `waiting_for`
    STOPPED = "stopped"  #: ended on purpose, by us or by /exit
    INTERRUPTED = "interrupted"  #: its terminal is gone (reboot, lost holder); can be restarted
    FAILED = "failed"  #: did not start, or ended by itself with an error

    @property
    def live(self) -> bool:
        """True while there is (or should be) a process."""
        return self in _LIVE


_LIVE = {SessionState.STARTING, SessionState.IDLE, SessionState.BUSY, SessionState.WAITING}


class Assignee(StrEnum):
    """Who is to do a task."""

    AGENT = "agent"
    HUMAN = "human"


class Priority(StrEnum):
    """How urgently a message is to reach its session."""

    NORMAL = "normal"  #: at the next boundary, in order
    HIGH = "high"  #: at the next boundary, first in line
    HALT = "halt"  #: nothing new starts, then it opens the next turn; only from a person


class Rung(StrEnum):
    """The receipt ladder: how far a message came. Each rung has one timestamp, set once."""

    STORED = "stored"  #: the row is committed
    OFFERED = "offered"  #: a transport took it, or a reminder of it
    DELIVERED = "delivered"  #: its context line is in the transcript
    READ = "read"  #: the model answered with it in context
    ANSWERED = "answered"  #: a message that replies to it came back


class Transport(StrEnum):
    """A path by which a message can reach a session."""

    HOOK = "hook"  #: additional context of a PostToolBatch, UserPromptSubmit or Stop hook
    CHANNEL = "channel"  #: a `notifications/claude/channel` push
    WAITER = "waiter"  #: the idle process whose exit wakes the session; carries a reminder
    TYPED = "typed"  #: a line typed into the idle terminal; carries a reminder
    STREAM = "stream"  #: a user message on the standard input of a one-shot's session
    INBOX = "check_inbox"  #: the result of a `check_inbox` call


class Outcome(StrEnum):
    """What became of an attempt."""

    OPEN = "open"  #: given to the transport; the transcript has not shown it yet
    CONFIRMED = "confirmed"  #: its context line was found
    VOID = "void"  #: proven not to be in the context; its messages may be given again
    NOTICE = "notice"  #: in the context, but framed as untrusted; its messages are given again


class AskKind(StrEnum):
    """What is asked of a person."""

    TASK = "task"  #: a human-assigned task
    PERMISSION = "permission"  #: may this tool call be made
    QUESTION = "question"  #: the model asks with choices
    PLAN = "plan"  #: may this plan be carried out


class AskOutcome(StrEnum):
    """What became of an ask."""

    ALLOWED = "allowed"
    DENIED = "denied"
    ANSWERED = "answered"
    GONE = "gone"  #: nobody decided: the turn was interrupted, or the session ended


class DecidedBy(StrEnum):
    """Where an ask was decided."""

    USER = "user"  #: through claudedo: the command line, the page
    TERMINAL = "terminal"  #: in the dialog of the session itself
    SESSION = "session"  #: nobody decided; the session went on or ended without an answer
    DEFAULT = "default"  #: nobody decided in time; the answer that was set beforehand holds


class QueueStatus(StrEnum):
    """How far a one-shot task is."""

    QUEUED = "queued"  #: waits for its turn
    RUNNING = "running"  #: its session works, or its check runs
    COMPLETED = "completed"
    REJECTED = "rejected"  #: by its session, or by its check
    FAILED = "failed"  #: no verdict on the work: process, time, budget, API, denied tools, mail
    SKIPPED = "skipped"  #: a task that it needs did not complete
    CANCELLED = "cancelled"  #: by a person; can be taken up again

    @property
    def over(self) -> bool:
        """True once there is a verdict."""
        return self not in (QueueStatus.QUEUED, QueueStatus.RUNNING)


class RunExit(IntEnum):
    """How a one-shot task ended, as the exit status of the command that ran it."""

    DONE = 0
    FAILED = 1  #: it could not be run at all: worktree, setup, bases that conflict
    REJECTED = 10  #: its session said so, or its check failed
    PROCESS = 11  #: `claude` failed, or said nothing that can be read
    TIMEOUT = 12
    BUDGET = 13
    UNREAD = 14  #: mail that it never read, where that counts
    API = 15  #: authentication, or the API could not be used
    DENIED = 16  #: it ended, and had been denied tools
    SKIPPED = 17
    CANCELLED = 130


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """When a message reached each rung; None where it has not."""

    stored_at: str
    offered_at: str | None = None
    delivered_at: str | None = None
    read_at: str | None = None
    answered_at: str | None = None

    def reached(self, rung: Rung) -> bool:
        """True once the message came as far as `rung`."""
        return getattr(self, f"{rung}_at") is not None


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A project: one repository root, its tasks and tokens."""

    id: str
    name: str
    root: str
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a task's session is started; kept so that `restart` starts it the same way."""

    model: str | None = None
    permission_mode: str | None = None
    claude_args: tuple[str, ...] = ()
    trust: bool = False  # the person said so, which counts until a process of it ran


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a task file says about the surroundings of a task's session.

    `setup` and `teardown` are shell commands, run in the worktree after it is made and before it
    is removed. `copy` and `links` name paths of the main checkout that the worktree gets, too.
    """

    setup: str | None = None
    teardown: str | None = None
    copy: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    dir: str | None = None  # where in the worktree the session works


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is wanted. An agent's task has at most one live session at a time."""

    id: str
    workspace_id: str
    workspace: str  # the workspace's name
    name: str
    body: str
    status: TaskStatus
    assignee: Assignee
    repo: str | None  # main checkout that the worktree belongs to
    worktree: str | None
    branch: str | None  # None with --here
    base: str | None  # the commit that the branch started from
    made_worktree: bool  # by us: `rm` removes it
    made_branch: bool  # likewise; one that was there before outlives the task
    launch: Launch
    created_at: str
    recipe: Recipe = Recipe()
    port: int | None = None  # the first of ten; None until a session was launched
    title: str | None = None  # what a person sees, where it was not a person who named it
    creator: str = USER  # a party
    holder: str | None = None  # the party that claimed it
    held_until: str | None = None  # until when, unless it shows signs of life
    base_branch: str | None = None  # where `base` was found, and where the work is to be merged


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a session's conversation used so far, as its transcript tells it."""

    requests: int = 0
    input_tokens: int = 0  # not from the cache
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    context_tokens: int = 0  # in the model's context at the newest answer
    model: str | None = None
    cost_usd: float | None = None  # None: the CLI did not tell


class FailureKind(StrEnum):
    """Why the last turn of a session ended without an answer of the model."""

    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"  #: or any other fault of the server
    AUTHENTICATION = "authentication"
    BILLING = "billing"
    REQUEST = "request"  #: the request itself was refused


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A turn that ended on an error of the API, and what will be done about it."""

    kind: FailureKind
    text: str  # what the CLI said
    at: str
    continues_at: str | None = None  # None: not by itself
    tries: int = 0  # how often it was continued since the model last answered


@dataclass(frozen=True, kw_only=True)
class Session:
    """One Claude process working on a task, and all that is needed to find it again."""

    id: str
    task_id: str
    conversation: str  # the CLI's own session id; changes with /clear and /resume
    state: SessionState
    waiting_for: str | None  # what the open dialog asks, or the start-up step that is running
    since: str
    pid: int | None
    holder_socket: str | None
    transcript: str | None
    config_dir: str
    cli_version: str
    channel: bool | None  # None until known
    started_at: str
    ended_at: str | None = None
    reason: str | None = None  # why it ended, in words
    crashes: int = 0
    usage: Usage | None = None
    failure: Failure | None = None
    fork_of: str | None = None  # the transcript that it forks while it has none of its own
    one_shot: bool = False  # it has no terminal: it reads and writes JSON lines, and ends by itself


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds for a run of one-shot tasks; set by who runs them."""

    fail_on_unread: bool = False
    allow_denied: bool = False  # denied tools are listed only
    ask_timeout: float = 0.0  # seconds that a person has for an ask; 0: nobody is there
    ask_default: str = "deny"  # or "allow": what holds afterwards


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a one-shot task, and why."""

    exit: RunExit
    reason: str  # one sentence
    denied: tuple[str, ...] = ()  # names of tools, one for each call that was denied
    denials: tuple[str, ...] = ()  # what they were to do, a line each
    unread: tuple[str, ...] = ()  # ids of messages that it never read
    result: str | None = None  # what the model said last

    @property
    def status(self) -> QueueStatus:
        """The word for it."""
        named = {
            RunExit.DONE: QueueStatus.COMPLETED,
            RunExit.REJECTED: QueueStatus.REJECTED,
            RunExit.SKIPPED: QueueStatus.SKIPPED,
            RunExit.CANCELLED: QueueStatus.CANCELLED,
        }
        return named.get(self.exit, QueueStatus.FAILED)


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """A task that one session does from a prompt to a verdict, with nobody at a terminal.

    `spent` and `seconds` are of all its processes until now, the present one's not included.
    """

    task_id: str
    needs: tuple[str, ...] = ()  # ids of tasks that must complete before
    base: str | None = None  # what its branch begins at, where it needs no other task
    check: str | None = None  # a shell command, run in the worktree, that must succeed
    timeout: float | None = None  # seconds of work, all attempts together
    budget: float | None = None  # US dollars, likewise
    retries: int = 2  # how often it is tried again after trouble that is not its own
    priority: int = 0  # higher first
    status: QueueStatus = QueueStatus.QUEUED
    rules: Rules = Rules()
    attempts: int = 0
    not_before: str | None = None  # when the next attempt may begin
    started_at: str | None = None
    ended_at: str | None = None
    spent: float = 0.0  # US dollars
    seconds: float = 0.0
    checking: bool = False  # its session is done, and its check runs
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What only a person can decide. A session's ask belongs to one held call of its hook."""

    id: str
    task_id: str
    session_id: str | None
    kind: AskKind
    title: str  # one line
    body: str  # everything the person needs to see: the command, the diff, the plan, the choices
    tool: str | None
    input: Mapping[str, Any]  # the tool's whole input
    suggestions: tuple[Mapping[str, Any], ...]  # permission updates that the CLI suggested (13.3)
    agent: str | None  # the subagent that asks
    call: str | None
    opened_at: str
    tool_use_id: str | None = None  # the tool call that it is about, where that is known
    closed_at: str | None = None
    outcome: AskOutcome | None = None
    decided_by: DecidedBy | None = None
    decision: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of a task's status."""

    at: str
    before: TaskStatus
    after: TaskStatus
    party: str
    name: str  # the party's


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A file that a message carries. Its bytes lie beside the database, under their hash."""

    id: str
    task_id: str  # kept as long as that task
    message_id: str | None  # None until a message carries it
    filename: str
    mime_type: str
    size: int  # bytes
    sha256: str
    party: str  # who gave it
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """What an MCP client that claudedo did not start shows; its text is kept by nobody else."""

    id: str
    workspace_id: str
    name: str
    created_at: str
    expires_at: str
    last_used_at: str | None = None
    revoked_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The MCP session of a client with a token. It outlives the worker, not its token."""

    id: str  # the client's `Mcp-Session-Id`: random, since it opens the session's streams
    token_id: str
    client: str  # how the program calls itself
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something said in a task's thread: one sender, one recipient, never changed once stored.

    A party is "user", "task:<id>" (the session of that task) or "token:<id>" (a client's).
    """

    id: str
    task_id: str  # whose session must act on it, unless `party` says otherwise
    sender: str  # a party
    sender_name: str  # "user" or the peer's name
    body: str
    priority: Priority
    reply_to: str | None
    created_at: str
    receipts: Receipts
    via: str | None = None
    recipient: str = ""  # the recipient's name
    thread_id: str | None = None  # None: the thread of `task_id`
    party: str | None = None  # who must act on it, if not the session of `task_id`
    attachments: tuple[Attachment, ...] = ()
    response_to: str | None = None  # the person's task, made by the recipient, that this answers

    @property
    def thread(self) -> str:
        """The task in whose thread it stands."""
        return self.thread_id or self.task_id


@dataclass(frozen=True, kw_only=True)
class Lent:
    """Mail of a client with a token, and who has it unconfirmed."""

    message: Message
    connection_id: str | None  # None: nobody now
    pushed: bool
    before: bool  # it was given before, so it may have been seen


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try to put messages into a session's context by one transport.

    `id` is random and stands in the rendered text, so a context line is matched to its attempt
    and nobody who writes a body can forge one. `reminder` attempts carry no bodies.
    """

    id: str
    session_id: str
    conversation: str
    transport: Transport
    reminder: bool
    message_ids: tuple[str, ...]
    created_at: str
    tool_use_id: str | None = None
    outcome: Outcome = Outcome.OPEN


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact that is already stored. `seq` grows by one for each."""

    seq: int
    type: str
    workspace_id: str
    task_id: str | None
    payload: dict[str, Any] = field(default_factory=dict)
    at: str = ""
