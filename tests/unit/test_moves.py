"""The one table of moves: which there are, and whose each is."""

from __future__ import annotations

from itertools import product

import pytest

from claudedo import moves
from claudedo.errors import ConflictError, ForbiddenError
from claudedo.model import Assignee, TaskStatus
from claudedo.moves import Role

NEW, ON, BLOCKED, DONE, NO = TaskStatus

# Besides the person, who may make every move of the table.
AGENTS = {
    (NEW, ON): "doer",
    (NEW, DONE): "",
    (NEW, NO): "doer creator",
    (ON, NEW): "",
    (ON, BLOCKED): "doer",
    (ON, DONE): "doer",
    (ON, NO): "doer",
    (BLOCKED, NEW): "",
    (BLOCKED, ON): "doer",
    (BLOCKED, DONE): "doer",
    (BLOCKED, NO): "doer",
    (DONE, ON): "doer",
    (DONE, NEW): "",
    (NO, ON): "",
    (NO, NEW): "",
}
PERSONS = {
    (NEW, ON): "",
    (NEW, BLOCKED): "",
    (NEW, DONE): "",
    (NEW, NO): "creator",
    (ON, NEW): "",
    (ON, BLOCKED): "",
    (ON, DONE): "",
    (ON, NO): "creator",
    (BLOCKED, ON): "",
    (BLOCKED, DONE): "",
    (BLOCKED, NO): "creator",
    (DONE, ON): "",
    (NO, ON): "",
}


def verdict(assignee: Assignee, before: TaskStatus, after: TaskStatus, role: Role) -> str:
    try:
        moves.check(assignee, before, after, role)
    except ConflictError:
        return "no such move"
    except ForbiddenError:
        return "not yours"
    return "yes"


@pytest.mark.parametrize(
    ("assignee", "table"), [(Assignee.AGENT, AGENTS), (Assignee.HUMAN, PERSONS)]
)
def test_every_move_by_everybody_is_as_the_table_says(
    assignee: Assignee, table: dict[tuple[TaskStatus, TaskStatus], str]
) -> None:
    for before, after, role in product(TaskStatus, TaskStatus, Role):
        expected = "no such move"
        if before is after:
            expected = "yes"
        elif (before, after) in table:
            mine = role is Role.PERSON or role in table[before, after].split()
            expected = "yes" if mine else "not yours"
        assert verdict(assignee, before, after, role) == expected, (before, after, role)


def test_a_refused_move_says_what_can_be_done_instead() -> None:
    with pytest.raises(ConflictError, match="it can: notstarted, ongoing"):
        moves.check(Assignee.AGENT, DONE, BLOCKED, Role.PERSON)
    with pytest.raises(ForbiddenError, match="comes to you by itself"):
        moves.check(Assignee.HUMAN, NEW, DONE, Role.CREATOR)
    with pytest.raises(ForbiddenError, match="who works on it may make it: ongoing, rejected"):
        moves.check(Assignee.AGENT, NEW, DONE, Role.DOER)


def test_a_person_is_offered_exactly_the_moves_that_the_table_lets_them_make() -> None:
    for assignee in Assignee:
        for before in TaskStatus:
            offered = moves.onward(assignee, before)
            for after in set(TaskStatus) - {before}:
                if after in offered:
                    moves.check(assignee, before, after, Role.PERSON)
                else:
                    with pytest.raises(ConflictError):
                        moves.check(assignee, before, after, Role.PERSON)
