"""Which moves a task's status may make, and who may make them. The one table.

MCP tools, REST, page and command line all ask `check`. Standard library only.
"""

from __future__ import annotations

from enum import StrEnum

from claudedo.errors import ConflictError, ForbiddenError
from claudedo.model import Assignee, TaskStatus

_NEW, _ON, _BLOCKED, _DONE, _NO = TaskStatus


class Role(StrEnum):
    """What somebody is to a task."""

    PERSON = "person"  #: may make every move that there is
    DOER = "doer"  #: the session, or the client, that works on it
    CREATOR = "creator"  #: the session, or the client, that made it
    OTHER = "other"  #: another one of the same workspace


_WORK = {
    (_NEW, _ON): {Role.DOER},
    (_ON, _BLOCKED): {Role.DOER},
    (_BLOCKED, _ON): {Role.DOER},
    (_ON, _DONE): {Role.DOER},
    (_ON, _NO): {Role.DOER},
    (_BLOCKED, _DONE): {Role.DOER},
    (_BLOCKED, _NO): {Role.DOER},
    (_NEW, _NO): {Role.DOER, Role.CREATOR},
    (_NEW, _DONE): set(),
    (_ON, _NEW): set(),
    (_BLOCKED, _NEW): set(),
    (_DONE, _ON): {Role.DOER},
    (_NO, _ON): set(),
    (_DONE, _NEW): set(),
    (_NO, _NEW): set(),
}
"""An agent's task. A person may make each of these moves."""

_ASKED = {
    (_NEW, _ON): set(),
    (_ON, _NEW): set(),
    (_NEW, _BLOCKED): set(),
    (_ON, _BLOCKED): set(),
    (_BLOCKED, _ON): set(),
    (_NEW, _DONE): set(),
    (_ON, _DONE): set(),
    (_BLOCKED, _DONE): set(),
    # Who asked may take the question back.
    (_NEW, _NO): {Role.CREATOR},
    (_ON, _NO): {Role.CREATOR},
    (_BLOCKED, _NO): {Role.CREATOR},
    (_DONE, _ON): set(),
    (_NO, _ON): set(),
}
"""A person's task. Only the person says that it is done."""

MOVES: dict[Assignee, dict[tuple[TaskStatus, TaskStatus], set[Role]]] = {
    Assignee.AGENT: _WORK,
    Assignee.HUMAN: _ASKED,
}


def onward(assignee: Assignee, before: TaskStatus) -> list[TaskStatus]:
    """What a person may make of a task that is `before`, in the order of the statuses."""
    return [after for after in TaskStatus if (before, after) in MOVES[assignee]]


def check(assignee: Assignee, before: TaskStatus, after: TaskStatus, role: Role) -> None:
    """Raise `ConflictError` if there is no such move, `ForbiddenError` if `role` may not make it.

    To stay as it is is no move, and allowed.
    """
    if before is after:
        return
    moves = MOVES[assignee]
    if (before, after) not in moves:
        possible = ", ".join(sorted(onward(assignee, before))) or "nothing"
        raise ConflictError(f"A task that is {before} cannot become {after}; it can: {possible}.")
    if role is Role.PERSON or role in moves[before, after]:
        return
    if assignee is Assignee.HUMAN:
        raise ForbiddenError(
            "This task is a person's: only they say how far it is. Wait for their answer, which "
            "comes to you by itself."
        )
    if role is Role.DOER:
        mine = ", ".join(
            sorted(to for (of, to), who in moves.items() if of is before and role in who)
        )
        raise ForbiddenError(
            f"Only a person may make a task {after} that is {before}; who works on it may make it: "
            f"{mine or 'nothing'}."
        )
    raise ForbiddenError(f"Only who works on this task, or a person, may make it {after}.")
