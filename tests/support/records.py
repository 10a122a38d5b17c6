"""Records for tests of the worker: whole ones, of which a test names only what it is about."""

from __future__ import annotations

from typing import Any

from claudedo.model import (
    USER,
    Ask,
    AskKind,
    Assignee,
    Attempt,
    Launch,
    Message,
    Priority,
    Receipts,
    Session,
    SessionState,
    Task,
    TaskStatus,
    Transport,
    Workspace,
    new_id,
    now,
)


def a_task(workspace: Workspace, name: str = "backend", **changes: Any) -> Task:
    """A task that an agent works on."""
    values: dict[str, Any] = {
        "id": new_id("t"),
        "workspace_id": workspace.id,
        "workspace": workspace.name,
        "name": name,
        "body": "Make it work.",
        "status": TaskStatus.ONGOING,
        "assignee": Assignee.AGENT,
        "repo": "/repository",
        "worktree": f"/repository.worktrees/{name}",
        "branch": f"claudedo/{name}",
        "base": "1" * 40,
        "made_worktree": True,
        "made_branch": True,
        "launch": Launch(model="opus", claude_args=("--verbose",)),
        "created_at": now(),
    }
    return Task(**{**values, **changes})


def a_session(task: Task, **changes: Any) -> Session:
    """A session of a task that is just starting."""
    at = now()
    values: dict[str, Any] = {
        "id": new_id("s"),
        "task_id": task.id,
        "conversation": "11111111-1111-4111-8111-111111111111",
        "state": SessionState.STARTING,
        "waiting_for": "starting claude",
        "since": at,
        "pid": 4711,
        "holder_socket": "/run/holder.sock",
        "transcript": None,
        "config_dir": "/home/user/.claude",
        "cli_version": "2.1.330",
        "channel": None,
        "started_at": at,
    }
    return Session(**{**values, **changes})


def a_message(task: Task, body: str = "Hello.", **changes: Any) -> Message:
    """A message of the person to a task."""
    at = now()
    values: dict[str, Any] = {
        "id": new_id("m"),
        "task_id": task.id,
        "sender": USER,
        "sender_name": USER,
        "body": body,
        "priority": Priority.NORMAL,
        "reply_to": None,
        "created_at": at,
        "receipts": Receipts(stored_at=at),
    }
    return Message(**{**values, **changes})


def an_attempt(session: Session, *messages: Message, **changes: Any) -> Attempt:
    """A try to give messages by the hook."""
    values: dict[str, Any] = {
        "id": new_id("a"),
        "session_id": session.id,
        "conversation": session.conversation,
        "transport": Transport.HOOK,
        "reminder": False,
        "message_ids": tuple(message.id for message in messages),
        "created_at": now(),
    }
    return Attempt(**{**values, **changes})


def an_ask(session: Session, **changes: Any) -> Ask:
    """A permission prompt of a session."""
    values: dict[str, Any] = {
        "id": new_id("k"),
        "task_id": session.task_id,
        "session_id": session.id,
        "kind": AskKind.PERMISSION,
        "title": "Bash: make",
        "body": "make",
        "tool": "Bash",
        "input": {"command": "make"},
        "suggestions": (),
        "agent": None,
        "call": "4711:1",
        "opened_at": now(),
    }
    return Ask(**{**values, **changes})
