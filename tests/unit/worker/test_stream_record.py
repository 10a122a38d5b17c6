"""What the output of a one-shot's processes tells of them."""

from __future__ import annotations

from typing import Any

from claudedo_worker.stream_json import (
    Answered,
    ApiRetry,
    Background,
    Began,
    Denied,
    Ended,
    Event,
    Init,
    Permission,
    Refusal,
    Result,
    Said,
)
from claudedo_worker.stream_record import Record

INIT = Init(conversation="c")
ASKED = Permission(request_id="r", tool="Bash", input={}, tool_use_id="t1")


def began(attempt: int = 1, **more: Any) -> Began:
    return Began(attempt=attempt, session="s", at=float(attempt), **more)


def ended(code: int = 0) -> Ended:
    return Ended(code=code, at=1.0, seconds=1.0, spent=0.0)


def result(cost: float = 0.0, *denied: str, error: bool = False, counts_on: bool = False) -> Result:
    denials = tuple(Denied(tool="Bash", input={}, tool_use_id=own) for own in denied)
    return Result(
        is_error=error,
        subtype="success",
        text="done",
        cost=cost,
        denials=denials,
        counts_on=counts_on,
    )


def record(*events: Event) -> Record:
    made = Record()
    made.take(events)
    return made


def test_a_turn_that_runs_has_no_result_yet() -> None:
    running = record(began(), INIT, result(), INIT, Said(text="x")).newest
    assert running.in_turn and running.result is None and not running.is_complete
    running.take(result())
    assert running.is_complete and running.said == "done"


def test_an_error_is_no_completion() -> None:
    assert not record(began(), INIT, result(error=True)).newest.is_complete


def test_a_refusal_counts_until_the_model_says_something() -> None:
    retry = ApiRetry(attempt=1, error="overloaded", status=529)
    refusal = Refusal(error="overloaded", text="x")
    refused = record(began(), INIT, retry, refusal).newest
    assert (refused.retry, refused.refusal) == (retry, refusal)
    again = record(began(), INIT, retry, refusal, Said(text="here again")).newest
    assert (again.retry, again.refusal) == (None, None)


def test_each_call_that_was_denied_is_told_once_whoever_tells_it() -> None:
    answered = Answered(request_id="r", denied=True)
    told = record(began(), INIT, ASKED, answered, result(0.0, "t1", "t2")).denials()
    assert [denied.tool_use_id for denied in told] == ["t1", "t2"]


def test_denials_of_all_processes_count_but_not_those_of_an_earlier_run() -> None:
    told = record(
        *(began(1, run="monday"), result(0.0, "old"), ended()),
        *(began(1, run="today"), result(0.0, "t1"), ended(1)),
        *(began(1, run="today"), result(0.0, "t2")),  # the one before was cut off
    ).denials()
    assert [denied.tool_use_id for denied in told] == ["t1", "t2"]


def test_an_allowed_call_is_no_denial_and_does_not_wait_any_more() -> None:
    process = record(began(), INIT, ASKED).newest
    assert list(process.waiting) == ["r"]
    process.take(Answered(request_id="r"))
    assert not process.waiting and not process.denied


def test_a_version_that_counts_on_is_not_counted_twice() -> None:
    first = (began(1), result(0.10), ended(1))
    counting = record(*first, began(2, resumes=True), result(0.15, counts_on=True))
    assert round(counting.cost(), 6) == 0.05
    anew = record(*first, began(2, resumes=True), result(0.15))
    assert anew.cost() == 0.15


def test_what_a_killed_process_spent_is_not_counted_on() -> None:
    killed = record(
        *(began(1), result(0.10), ended(137)),
        *(began(2, resumes=True), result(0.05, counts_on=True)),
    )
    assert killed.cost() == 0.05


def test_the_check_is_not_the_session() -> None:
    both = record(began(1), INIT, result(), ended(), began(1, check=True))
    assert both.newest.began.check
    assert both.session is both.processes[0]


def test_work_beside_the_turns_is_known_until_its_end() -> None:
    process = record(began(), Background(id="b", runs=True), Background(id="c", runs=True)).newest
    process.take(Background(id="b", runs=False))
    assert process.background == {"c"}
