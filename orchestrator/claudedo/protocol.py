"""What crosses a process boundary between the person's side and the worker, as plain JSON.

Contains the shapes that `--json` prints, so that the worker, the command line and the page say
the same thing. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from claudedo.model import (
    USER,
    Ask,
    AskKind,
    Assignee,
    Attachment,
    Event,
    Message,
    Move,
    OneShot,
    QueueStatus,
    Receipts,
    Session,
    Task,
    TaskStatus,
)

PROTOCOL_VERSION = 1
"""Raised when a command and a worker of different releases could misunderstand each other."""

SESSION_PROTOCOL = 1
"""Version of the JSON lines that bridges, hooks and waiters speak."""

PROTOCOL_HEADER = "X-Claudedo-Protocol"


def receipts_json(receipts: Receipts) -> dict[str, str | None]:
    """The five timestamps, ISO 8601 UTC, null where not reached."""
    return asdict(receipts)


def sent_json(message: Message) -> dict[str, Any]:
    """What `send --json` prints."""
    return {
        "id": message.id,
        "task": message.task_id,
        "priority": message.priority,
        "receipts": receipts_json(message.receipts),
        "via": message.via,
    }


def attachment_json(attachment: Attachment) -> dict[str, Any]:
    """A file that a message carries."""
    return {
        "id": attachment.id,
        "filename": attachment.filename,
        "mimeType": attachment.mime_type,
        "size": attachment.size,
    }


def move_json(move: Move) -> dict[str, Any]:
    """A change of a task's status."""
    return asdict(move)


def message_json(message: Message) -> dict[str, Any]:
    """One element of `thread --json`."""
    return {
        "id": message.id,
        "sender": message.sender,
        "sender_name": message.sender_name,
        "recipient": USER if message.party == USER else message.recipient or message.task_id,
        "body": message.body,
        "reply_to": message.reply_to,
        "priority": message.priority,
        "created_at": message.created_at,
        "receipts": receipts_json(message.receipts),
        "via": message.via,
        "thread": message.thread,
        "attachments": [attachment_json(file) for file in message.attachments],
    }


def session_json(session: Session | None) -> dict[str, Any] | None:
    """The `session` of one element of `ls --json`; null when the task never had one."""
    if session is None:
        return None
    return {
        "state": session.state,
        "waiting_for": session.waiting_for,
        "since": session.since,
        "pid": session.pid,
        "session_id": session.conversation,
        "reason": session.reason,
        "usage": asdict(session.usage) if session.usage else None,
        "failure": asdict(session.failure) if session.failure else None,
    }


def task_json(
    task: Task,
    session: Session | None,
    *,
    pending: int,
    asks: int,
    peers: list[str],
    one_shot: OneShot | None = None,
) -> dict[str, Any]:
    """One element of `ls --json`; `queue` says how far a one-shot is."""
    verdict = one_shot.verdict if one_shot else None
    queue = one_shot and {
        "status": one_shot.status,
        "exit": int(verdict.exit) if verdict else None,
        "reason": verdict.reason if verdict else None,
    }
    return {
        "id": task.id,
        "name": task.name,
        "workspace": task.workspace,
        "status": task.status,
        "assignee": task.assignee,
        "title": task.title,
        "creator": task.creator,
        "holder": task.holder,
        "pending": pending,
        "asks": asks,
        "peers": peers,
        "worktree": task.worktree,
        "branch": task.branch,
        "supervised": True,
        "session": session_json(session),
        "queue": queue,
    }


def one_shot_json(
    task: Task, one_shot: OneShot, session: Session | None, needs: Sequence[str]
) -> dict[str, Any]:
    """One element of `queue ls --json` and `queue run --json`; `needs` are names."""
    verdict, runs = one_shot.verdict, one_shot.status is QueueStatus.RUNNING
    return {
        "name": task.name,
        "task": task.id,
        "workspace": task.workspace,
        "status": one_shot.status,
        "exit": int(verdict.exit) if verdict else None,
        "reason": verdict.reason if verdict else None,
        "attempts": one_shot.attempts,
        "unread": list(verdict.unread) if verdict else [],
        "denied": list(verdict.denied) if verdict else [],
        "denials": list(verdict.denials) if verdict else [],
        "result": verdict.result if verdict else None,
        "cost_usd": one_shot.spent if one_shot.attempts else None,
        "seconds": round(one_shot.seconds, 3),
        "session_id": session.conversation if session else None,
        "needs": list(needs),
        "priority": one_shot.priority,
        "branch": task.branch,
        "worktree": task.worktree,
        "doing": session.waiting_for if runs and session and session.state.live else None,
        "not_before": one_shot.not_before,
        "started_at": one_shot.started_at,
        "ended_at": one_shot.ended_at,
        "usage": asdict(session.usage) if session and session.usage else None,
    }


def foreign_json(
    *,
    conversation: str,
    name: str,
    workspace: str,
    folder: str,
    branch: str | None,
    state: str,
    waiting_for: str | None,
    since: str | None,
    pid: int | None,
) -> dict[str, Any]:
    """An element of `ls --json` for a Claude session that is not ours."""
    return {
        "id": conversation,
        "name": name,
        "workspace": workspace,
        "status": TaskStatus.ONGOING,
        "assignee": Assignee.AGENT,
        "title": None,
        "creator": USER,
        "holder": None,
        "pending": 0,
        "asks": 0,
        "peers": [],
        "worktree": folder,
        "branch": branch,
        "supervised": False,
        "session": {
            "state": state,
            "waiting_for": waiting_for,
            "since": since,
            "pid": pid,
            "session_id": conversation,
            "reason": None,
            "usage": None,
            "failure": None,
        },
        "queue": None,
    }


def ask_json(ask: Ask, task: Task) -> dict[str, Any]:
    """One element of `asks --json`."""
    return {
        "id": ask.id,
        "kind": ask.kind,
        "task": ask.task_id,
        "task_name": task.name,
        "workspace": task.workspace,
        "title": ask.title,
        "body": ask.body,
        "tool": ask.tool,
        "input": ask.input,
        "suggestions": list(ask.suggestions),
        "agent": ask.agent,
        "editable": ask.kind is AskKind.PERMISSION and ask.session_id is not None,
        "creator": task.creator,
        "opened_at": ask.opened_at,
        "closed_at": ask.closed_at,
        "outcome": ask.outcome,
        "decided_by": ask.decided_by,
        "reason": (ask.decision or {}).get("reason") if ask.decided_by == "user" else None,
    }


def event_json(event: Event) -> dict[str, Any]:
    """An event of the long poll and of Socket.IO."""
    return {
        "seq": event.seq,
        "type": event.type,
        "workspace": event.workspace_id,
        "payload": event.payload,
        "at": event.at,
    }
