"""Time in which something could happen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from claudedo_worker.clock import LONGEST_STEP, Clock
from claudedo_worker.courier import SETTLE, Courier
from claudedo_worker.receipts import Receipts
from claudedo_worker.transcript import Transcript
from tests.support.mailroom import Mailroom


class Machine:
    """What the system's clock says."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_what_is_read_often_goes_as_the_systems_clock() -> None:
    machine = Machine()
    clock = Clock(machine)
    began = clock()
    for _ in range(600):
        machine.at += 0.1
        clock()
    assert round(clock() - began, 3) == 60.0


def test_a_pause_in_which_everything_stood_still_does_not_count() -> None:
    machine = Machine()
    clock = Clock(machine)
    began = clock()
    machine.at += LONGEST_STEP
    assert clock() - began == LONGEST_STEP
    machine.at += 3600.0
    assert clock() - began == LONGEST_STEP
    machine.at += 0.5
    assert clock() - began == LONGEST_STEP + 0.5


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Mailroom]:
    made = await Mailroom(tmp_path).open()
    yield made
    await made.close()


@pytest.mark.anyio
async def test_a_push_whose_line_was_still_to_be_written_in_a_pause_is_not_given_again(
    room: Mailroom,
) -> None:
    clock = Clock(lambda: room.time)
    receipts = await Receipts.load(room.store, "c1", Transcript(room.lines.path), clock=clock)
    room.courier = Courier(
        room.store, room.task, room.session, room.links, receipts, room.schedule, clock=clock
    )
    mail = await room.send("BODY")
    await room.step()
    await room.step(SETTLE)  # the client answers a ping: what it was given before is on its way
    await room.step(3600.0)  # and everything stands still, before the line is written
    await room.step(SETTLE / 2)
    assert len(room.links.pushed) == 1
    room.lines.push(room.links.pushed[0].removesuffix("\n"))
    await room.step(SETTLE)
    assert (len(room.links.pushed), room.links.woken) == (1, [])
    assert await room.rungs(mail) == "sod"
