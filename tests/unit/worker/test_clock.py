"""Time in which something could happen."""

from __future__ import annotations

from claudedo_worker.clock import LONGEST_STEP, Clock


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
