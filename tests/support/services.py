"""Services of the worker on a test's own store."""

from __future__ import annotations

from pathlib import Path

from claudedo_worker.attachments import Attachments
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store
from claudedo_worker.task_tools import TaskTools
from claudedo_worker.threads import Party, Threads

LIMIT = 1000
"""Bytes of one attached file."""


def attachments(store: Store, folder: Path) -> Attachments:
    """Files below `folder`, of at most `LIMIT` bytes each."""
    return Attachments(folder / "attachments", store, LIMIT)


def threads(store: Store, folder: Path) -> Threads:
    """What can be done with tasks and said in their threads."""
    return Threads(store, attachments(store, folder))


def mailbox(store: Store, folder: Path) -> Mailbox:
    """What a person or a session says by command."""
    return Mailbox(store, threads(store, folder))


def tools(store: Store, folder: Path, party: Party) -> TaskTools:
    """The tools about tasks of one party."""
    return TaskTools(store, threads(store, folder), attachments(store, folder), party)
