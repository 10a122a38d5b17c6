"""What the routes take and give, as types: the description of the API is made of these.

The JSON itself is made elsewhere (`claudedo.protocol`, the handlers); tests hold every answer to
its shape here. Field names are those on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from claudedo.model import (
    AskKind,
    AskOutcome,
    Assignee,
    DecidedBy,
    Failure,
    Priority,
    QueueStatus,
    Receipts,
    Rules,
    SessionState,
    TaskStatus,
    Usage,
)
from claudedo_worker.checkout import Checkout

# What comes back


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What went wrong, as `application/problem+json`. `detail` is a sentence for a person."""

    type: str
    title: str
    status: int
    detail: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """The process answers."""

    ok: bool


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who serves here."""

    pid: int
    port: int
    url: str
    version: str
    protocol: int
    sessions: int  # that run
    attachment_limit: int


@dataclass(frozen=True, kw_only=True)
class Database:
    """ "ok", or what is wrong."""

    database: str


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """The worker will end."""

    stopping: bool


@dataclass(frozen=True, kw_only=True)
class Link:
    """A one-time link to the page, and how long it is good."""

    url: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much there is in a workspace; `sessions` are those that run."""

    tasks: int
    sessions: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A project: one repository."""

    id: str
    name: str
    root: str


@dataclass(frozen=True, kw_only=True)
class ListedWorkspace(Workspace):
    """A project with what is in it."""

    counts: Counts


@dataclass(frozen=True, kw_only=True)
class RemovedWorkspace:
    """What went with a workspace: a sentence about each task, and the number of its tokens."""

    name: str
    tasks: list[str]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the session of a task does; `session_id` is Claude Code's own."""

    state: SessionState
    waiting_for: str | None
    since: str
    pid: int | None
    session_id: str
    reason: str | None
    usage: Usage | None
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class SessionInFull(Session):
    """The session with how it is connected, and where its conversation is kept."""

    version: str
    channel: bool | None
    transports: list[str]
    crashes: int
    started_at: str
    ended_at: str | None
    transcript: str | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a one-shot is; `exit` and `reason` once there is a verdict."""

    status: QueueStatus
    exit: int | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, or a Claude session that is not ours (`supervised` false, `id` its session's)."""

    id: str
    name: str
    workspace: str
    status: TaskStatus
    assignee: Assignee
    title: str | None
    creator: str
    holder: str | None
    pending: int
    asks: int
    peers: list[str]
    worktree: str | None
    branch: str | None
    supervised: bool
    session: Session | None
    queue: Standing | None


@dataclass(frozen=True, kw_only=True)
class TaskInFull(Task):
    """A task with all that is known of it; `moves` are the statuses that can follow."""

    body: str
    repo: str | None
    base: str | None
    base_branch: str | None
    port: int | None
    setup_log: str | None
    moves: list[TaskStatus]
    work: Checkout | None
    session: SessionInFull | None


@dataclass(frozen=True, kw_only=True)
class MadeTask:
    """What a new task is called."""

    id: str
    name: str
    workspace: str
    title: str | None
    status: TaskStatus
    assignee: Assignee
    moves: list[TaskStatus]


@dataclass(frozen=True, kw_only=True)
class MovedTask(MadeTask):
    """A task and the status that it had before."""

    previous: TaskStatus


@dataclass(frozen=True, kw_only=True)
class Move:
    """A change of a task's status."""

    at: str
    before: TaskStatus
    after: TaskStatus
    party: str
    name: str


@dataclass(frozen=True, kw_only=True)
class StartedTask:
    """A task of a `start`; `created` is false for one that was there."""

    id: str
    name: str
    created: bool


@dataclass(frozen=True, kw_only=True)
class Started:
    """What was started, or is on its way."""

    tasks: list[StartedTask]


@dataclass(frozen=True, kw_only=True)
class AdoptedTask:
    """The task that a session was made."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A session that was taken over: which process ended, which of its children go on."""

    task: AdoptedTask
    ended: int | None
    left: list[int]


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """False: no session ran."""

    stopped: bool


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """The session is on its way."""

    restarted: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A sentence about what was done."""

    summary: str


@dataclass(frozen=True, kw_only=True)
class Linked:
    """Whether the two tasks are peers now."""

    linked: bool


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """The socket of the program that owns the session's terminal."""

    socket: str


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One thing that happened in a conversation."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Log:
    """A piece of a conversation; ask again with `next` as `after`."""

    lines: list[LogEntry]
    next: int
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Where a task's changes are: from `base` to `head`, or to the files in `directory`."""

    directory: str
    base: str
    head: str | None
    into: str | None
    untracked: list[str]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge did."""

    summary: str
    into: str
    commit: str
    commits: int
    committed: str | None
    checkout: str | None
    removed: str | None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A branch that can be pushed."""

    directory: str
    branch: str
    into: str
    commits: int
    committed: str | None


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A file that a message carries, or is to carry."""

    id: str
    filename: str
    mimeType: str
    size: int


@dataclass(frozen=True, kw_only=True)
class SentMessage:
    """How far a message came."""

    id: str
    task: str
    priority: Priority
    receipts: Receipts
    via: str | None


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something said in a thread."""

    id: str
    sender: str
    sender_name: str
    recipient: str
    body: str
    reply_to: str | None
    priority: Priority
    created_at: str
    receipts: Receipts
    via: str | None
    thread: str
    attachments: list[Attachment]


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """A one-shot task: how far it is, and the verdict once there is one."""

    name: str
    task: str
    workspace: str
    status: QueueStatus
    exit: int | None
    reason: str | None
    attempts: int
    unread: list[str]  # ids of messages
    denied: list[str]  # names of tools, one for each call
    denials: list[str]  # what they were to do
    result: str | None  # what the model said last
    cost_usd: float | None
    seconds: float
    session_id: str | None
    needs: list[str]  # names of tasks
    priority: int
    branch: str | None
    worktree: str | None
    doing: str | None
    not_before: str | None
    started_at: str | None
    ended_at: str | None
    usage: Usage | None


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What was begun just now, and how far all of it is."""

    begun: list[str]
    tasks: list[OneShot]


@dataclass(frozen=True, kw_only=True)
class Report(OneShot):
    """The same with what its artifacts are made of. `folder` holds what its processes said."""

    prompt: str
    check: str | None
    folder: str
    transcript: str | None
    repo: str | None
    base: str | None
    messages: list[Message]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What waits for a person. `same`: open asks of other tasks for the very same."""

    id: str
    kind: AskKind
    task: str
    task_name: str
    workspace: str
    title: str
    body: str
    tool: str | None
    input: Mapping[str, Any]
    suggestions: list[Mapping[str, Any]]
    agent: str | None
    editable: bool
    creator: str
    opened_at: str
    closed_at: str | None
    outcome: AskOutcome | None
    decided_by: DecidedBy | None
    reason: str | None
    same: list[str]


@dataclass(frozen=True, kw_only=True)
class AskInFull(Ask):
    """An ask with the session's last sentence."""

    said: str | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact that is stored. `payload.task_id` names the task."""

    seq: int
    type: str
    workspace: str
    payload: Mapping[str, Any]
    at: str


@dataclass(frozen=True, kw_only=True)
class Events:
    """Facts in order; ask again with `next` as `after`."""

    events: list[Event]
    next: int


@dataclass(frozen=True, kw_only=True)
class Token:
    """What an MCP client shows, without its text."""

    id: str
    name: str
    workspace: str
    created_at: str
    expires_at: str
    last_used_at: str | None
    revoked_at: str | None
    valid: bool


@dataclass(frozen=True, kw_only=True)
class ListedToken(Token):
    """A token and the number of MCP sessions that were opened with it."""

    sessions: int


@dataclass(frozen=True, kw_only=True)
class ToldToken(Token):
    """A token with its text, which nobody is told again, and the address that it opens."""

    text: str
    url: str


# What is taken, where the handlers have no type of their own for it


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """An empty object."""


@dataclass(frozen=True, kw_only=True)
class NewName:
    """What it is to be called."""

    name: str


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A file that comes with what carries it; `data` is base64."""

    filename: str
    data: str
    mimeType: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A task for an agent or for the person, in a workspace, or in the one of the folder `cwd`."""

    title: str
    body: str
    assignee: Assignee = Assignee.AGENT
    workspace: str | None = None
    cwd: str | None = None
    attachments: list[GivenFile] = field(default_factory=list)
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewStatus:
    """How far a task is now; `words` go to whoever must know."""

    status: TaskStatus
    words: str | None = None


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """Something to say. The same `key` never stores it twice. `attachments` are ids of files."""

    body: str
    priority: Priority = Priority.NORMAL
    reply_to: str | None = None
    key: str | None = None
    attachments: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """A token for a workspace, or for the one of the folder `cwd`."""

    name: str
    workspace: str | None = None
    cwd: str | None = None
    days: int = 30


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """For how long the new text is good."""

    days: int = 30


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The environment that programs are to run in."""

    env: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The ids of two tasks."""

    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class ProposalOrder(Surroundings):
    """What is to be made ready to be pushed."""

    into: str | None = None
    commit: bool = False
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class MergeOrder(ProposalOrder):
    """What is to be merged, and whether the task is to be removed then."""

    squash: bool = False
    remove: bool = False


@dataclass(frozen=True, kw_only=True)
class NewOneShots:
    """Tasks that join the queue together: by name, what a task file says of each."""

    cwd: str
    tasks: Mapping[str, Mapping[str, Any]]
    source: str | None = None
    workspace: str | None = None
    permission_mode: str | None = None
    model: str | None = None
    claude_args: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class QueueTurn(Surroundings):
    """What is to be begun: of one workspace, or of these tasks, or of all."""

    cwd: str | None = None
    workspace: str | None = None
    tasks: list[str] | None = None
    jobs: int = 1
    trust: bool = False
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, kw_only=True)
class ChosenTasks:
    """Ids of one-shot tasks."""

    tasks: list[str]


@dataclass(frozen=True, kw_only=True)
class Cancellation(ChosenTasks):
    """What is to end. `requeue`: it waits for its turn again afterwards."""

    requeue: bool = False
