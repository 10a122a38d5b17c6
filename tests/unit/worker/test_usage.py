"""What a task used, counted from the lines that the CLI writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from claudedo.model import Usage
from claudedo_worker.telemetry import Price
from claudedo_worker.usage import Account, Meter, plus
from tests.support.mailroom import Mailroom

pytestmark = pytest.mark.anyio

SINCE = "2026-11-21T19:00:00.000Z"


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Mailroom]:
    made = await Mailroom(tmp_path).open()
    yield made
    await made.close()


def answered(
    message: str,
    *,
    fresh: int = 0,
    cached: int = 0,
    created: int = 0,
    said: int = 0,
    model: str = "claude-opus-4-8",
    at: str = "2026-11-21T19:44:23.085Z",
    **more: Any,
) -> str:
    """A line as both versions write it, but for the fields that nobody reads here."""
    usage = {
        "input_tokens": fresh,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": cached,
        "output_tokens": said,
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "service_tier": "standard",
    }
    content = [{"type": "text", "text": "ok"}]
    said_so = {"id": message, "model": model, "content": content, "usage": usage}
    line = {"type": "assistant", "uuid": f"u-{message}", "timestamp": at, "isSidechain": False}
    return json.dumps({**line, "message": said_so, **more}) + "\n"


def cost(dollars: float, **more: Any) -> str:
    """The line that newer versions write when a conversation is left (29.7)."""
    return json.dumps({"type": "cost-state", "totalCostUSD": dollars, **more}) + "\n"


def add(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(lines))


def test_answer_of_several_lines_counts_once_with_its_last_word(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(
        path,
        '{"type":"user","uuid":"p","message":{"content":"do it"}}\n',
        answered("m1", fresh=10, created=200, said=1),
        answered("m1", fresh=10, created=200, said=71),
        answered("m2", fresh=5, cached=210, said=9),
        answered("m1", fresh=10, created=200, said=80),
    )
    assert Meter(path, SINCE).read() == Usage(
        requests=2,
        input_tokens=15,
        output_tokens=89,
        cache_read_tokens=210,
        cache_creation_tokens=200,
        context_tokens=210,
        model="claude-opus-4-8",
    )


def test_context_is_that_of_the_newest_request(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(path, answered("m1", fresh=10, created=200, said=5))
    add(path, answered("m2", fresh=7, cached=210, created=3, said=500))
    assert Meter(path, SINCE).read().context_tokens == 220


def test_what_is_added_is_read_and_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    meter = Meter(path, SINCE)
    assert meter.read() == Usage(cost_usd=0.0)
    add(path, answered("m1", said=1))
    line = answered("m2", said=2)
    add(path, line[:40])
    assert meter.read().output_tokens == 1
    add(path, line[40:], "{torn usage\n", '["usage"]\n', answered("m3", said=4))
    assert meter.read().output_tokens == 7


@pytest.mark.parametrize(
    "line",
    [
        answered("e1", said=9, model="<synthetic>", isApiErrorMessage=True),
        '{"type":"assistant","message":{"id":"x","model":"m","usage":null}}\n',
        '{"type":"assistant","message":"usage"}\n',
        '{"type":"user","message":{"usage":{"output_tokens":9},"model":"m"}}\n',
        '{"type":"cost-state","totalCostUSD":"much"}\n',
    ],
)
def test_line_that_no_model_answered_counts_nothing(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c.jsonl"
    add(path, line)
    used = Meter(path, SINCE).read()
    assert (used.requests, used.output_tokens, used.model) == (0, 0, None)


def test_odd_numbers_count_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    odd = {"input_tokens": None, "output_tokens": "many", "cache_read_input_tokens": 4}
    said = {"id": "m1", "model": "m", "usage": odd}
    add(path, json.dumps({"type": "assistant", "uuid": "u", "message": said}) + "\n")
    used = Meter(path, SINCE).read()
    assert (used.input_tokens, used.output_tokens, used.cache_read_tokens) == (0, 0, 4)


def test_subagents_count_but_not_as_context(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(path, answered("m1", fresh=100, said=1))
    agents = tmp_path / "c" / "subagents"
    agent: dict[str, Any] = {"isSidechain": True, "agentId": "a1"}
    add(agents / "agent-a1.jsonl", answered("m2", fresh=5_000, said=10, model="haiku", **agent))
    add(agents / "flow" / "agent-a2.jsonl", answered("m3", fresh=300, said=20, **agent))
    add(path, answered("m4", fresh=7_000, said=40, model="haiku", **agent))  # as versions before
    used = Meter(path, SINCE).read()
    assert (used.requests, used.input_tokens, used.output_tokens) == (4, 12_400, 71)
    assert (used.context_tokens, used.model) == (100, "claude-opus-4-8")


def test_what_was_there_before_the_task_is_context_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(path, answered("m1", fresh=900, said=50, at="2026-11-21T18:59:59.999Z"))
    add(path, cost(1.5))
    used = Meter(path, SINCE).read()
    assert (used.requests, used.output_tokens, used.context_tokens) == (0, 0, 900)
    add(path, answered("m2", fresh=950, said=3), cost(2.5))
    used = Meter(path, SINCE).read()
    assert (used.requests, used.output_tokens, used.cost_usd) == (1, 3, None)


def test_what_a_fork_copied_counts_for_the_conversation_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    copied: dict[str, Any] = {"forkedFrom": {"sessionId": "c0", "messageUuid": "u-m1"}}
    add(path, answered("m1", fresh=900, said=50, **copied), answered("m2", fresh=950, said=3))
    used = Meter(path, SINCE).read()
    assert (used.requests, used.output_tokens, used.context_tokens) == (1, 3, 950)


def test_cost_is_told_only_while_nothing_came_after_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    meter = Meter(path, SINCE)
    add(path, answered("m1", said=1))
    assert meter.read().cost_usd is None
    add(path, cost(0.25))
    assert meter.read().cost_usd == 0.25
    add(path, answered("m1", said=1))
    assert meter.read().cost_usd == 0.25, "a line that was there before, repeated"
    add(path, answered("m2", said=1))
    assert meter.read().cost_usd is None
    add(path, cost(0.75, hasUnknownModelCost=True))
    assert meter.read().cost_usd is None


def test_cost_is_the_sum_of_the_prices_once_every_request_has_one(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    meter = Meter(path, SINCE)
    title = {"req_title": 0.001}  # asked beside the conversation
    assert meter.read(title).cost_usd == 0.001
    add(path, answered("m1", said=1, requestId="req_1"), answered("m1", said=2, requestId="req_1"))
    assert meter.read().cost_usd is None
    assert meter.read(title).cost_usd is None
    assert meter.read({**title, "req_1": 0.1}).cost_usd == 0.101
    add(path, cost(0.3))
    assert meter.read({**title, "req_1": 0.1}).cost_usd == 0.3, "the CLI's own sum wins"
    add(path, answered("m2", said=2))
    assert meter.read({**title, "req_1": 0.1}).cost_usd is None, "its request has no name"


def test_price_may_be_late_for_what_was_answered_just_now(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    meter = Meter(path, SINCE)
    before, after = (datetime(2026, 11, 21, 20, minute, tzinfo=UTC) for minute in (0, 2))
    add(path, answered("m1", requestId="req_1", at="2026-11-21T20:01:00.000Z"))
    assert meter.read({}, before).cost_usd is None, "nothing is reported at all"
    add(path, answered("m2", requestId="req_2", at="2026-11-21T20:01:01.000Z"))
    assert meter.read({"req_1": 0.1}, before).cost_usd == 0.1
    assert meter.read({"req_1": 0.1}, after).cost_usd is None
    assert meter.read({"req_1": 0.1, "req_2": 0.2}, after).cost_usd == 0.3
    add(path, answered("m3", requestId="req_3", at="some time"))
    assert meter.read({"req_1": 0.1, "req_2": 0.2}, before).cost_usd is None


def test_only_what_the_task_asked_in_an_adopted_conversation_costs_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(path, answered("m1", requestId="req_1", at="2026-11-21T18:59:59.999Z"), cost(1.5))
    add(path, answered("m2", requestId="req_2"), cost(1.75))
    assert Meter(path, SINCE).read({"req_2": 0.25}).cost_usd == 0.25


def test_prices_of_a_model_that_the_cli_does_not_know_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    add(path, answered("m1", requestId="req_1"), cost(1.5, hasUnknownModelCost=True))
    assert Meter(path, SINCE).read({"req_1": 1.5}).cost_usd is None


def test_sum_lacks_a_cost_when_one_part_does() -> None:
    known = Usage(requests=1, output_tokens=2, cost_usd=0.5, context_tokens=9, model="old")
    latest = replace(known, model="new", context_tokens=4)
    assert plus(known, latest) == Usage(
        requests=2, output_tokens=4, cost_usd=1.0, context_tokens=4, model="new"
    )
    assert plus(known, replace(latest, cost_usd=None)).cost_usd is None
    assert plus(replace(known, cost_usd=None), latest).cost_usd is None


async def test_task_keeps_its_sum_over_conversations_and_workers(
    room: Mailroom, tmp_path: Path
) -> None:
    old, new = tmp_path / "c1.jsonl", tmp_path / "c2.jsonl"
    late: dict[str, Any] = {"at": "2999-01-01T00:00:00.000Z"}
    add(old, answered("m1", fresh=900, said=5, **late))
    account = Account(room.store, room.task)
    session = room.session
    assert (used := await account.total(session)) is not None
    assert (used.output_tokens, used.context_tokens, used.cost_usd) == (5, 900, None)
    add(old, cost(0.5))  # the last word about a conversation that is left
    cleared = replace(session, conversation="c2", transcript=str(new))
    assert (used := await account.total(cleared)) is not None
    assert (used.requests, used.output_tokens, used.context_tokens) == (1, 5, 0)
    add(new, answered("m2", fresh=30, said=2, **late), cost(0.25))
    for counting in (account, Account(room.store, room.task)):
        assert (used := await counting.total(cleared)) is not None
        assert (used.requests, used.output_tokens, used.context_tokens) == (2, 7, 30)
        assert used.cost_usd == 0.75
    assert (used := await account.total(session)) is not None
    assert (used.output_tokens, used.context_tokens) == (7, 900), "each conversation once"


async def test_price_that_comes_after_a_conversation_was_left_still_counts(
    room: Mailroom, tmp_path: Path
) -> None:
    old, new = tmp_path / "c1.jsonl", tmp_path / "c2.jsonl"
    late: dict[str, Any] = {"at": "2998-01-01T00:00:00.000Z"}
    add(old, answered("m1", requestId="req_1", **late), answered("m2", requestId="req_2", **late))
    task, account = room.task.id, Account(room.store, room.task)
    before = replace(room.session, conversation="c1", transcript=str(old))
    await room.store.add_prices(task, [Price("c1", "req_1", 0.5)])
    assert (used := await account.total(before)) is not None
    assert used.cost_usd == 0.5
    cleared = replace(room.session, conversation="c2", transcript=str(new))
    await account.total(cleared)
    await room.store.add_prices(task, [Price("c1", "req_2", 0.25), Price("c1", "req_1", 0.5)])
    for counting in (account, Account(room.store, room.task)):
        assert (used := await counting.total(cleared, ended=True)) is not None
        assert (used.requests, used.cost_usd) == (2, 0.75)


async def test_session_without_a_transcript_used_nothing_yet(room: Mailroom) -> None:
    assert (
        await Account(room.store, room.task).total(replace(room.session, transcript=None)) is None
    )
