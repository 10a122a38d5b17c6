"""What a one-shot's session asks: answered by a person, or by what was set beforehand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import ConflictError, RefusedError
from claudedo.holding import HolderGoneError, HolderRefusedError
from claudedo.model import Ask, Rules
from claudedo_worker import stream_asks
from claudedo_worker.decision import Decision
from claudedo_worker.stream_asks import StreamAsks
from claudedo_worker.stream_json import Permission
from tests.support.mailroom import Json, Mailroom

pytestmark = pytest.mark.anyio

MAKE = Permission(
    request_id="r1",
    tool="Bash",
    input={"command": "make"},
    suggestions=({"type": "addRules", "behavior": "allow", "destination": "localSettings"},),
    tool_use_id="t1",
)
QUESTION = Permission(
    request_id="r2",
    tool="AskUserQuestion",
    input={"questions": [{"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}]},
)


class Desk:
    """A session whose asks a test watches; `read` lets the process read its answers at once."""

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.answers: list[Json] = []
        self.error: Exception | None = None
        self.asks: StreamAsks

    def open(self, **rules: Any) -> Desk:
        given = Rules(**{"ask_timeout": 60.0, **rules})
        room = self.room
        self.asks = StreamAsks(room.store, room.task, room.session.id, given, self._write)
        return self

    async def _write(self, line: bytes) -> None:
        if self.error:
            raise self.error
        response = json.loads(line)["response"]
        self.answers.append(response["response"])
        await self.asks.gone(response["request_id"])

    async def ask(self, request: Permission = MAKE) -> Ask:
        self.asks.asked(request)
        await self.asks.step()
        return (await self.room.store.open_asks())[-1]

    async def kept(self) -> list[Ask]:
        return await self.room.store.asks_of_session(self.room.session.id)


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(stream_asks, "READ_PATIENCE", 0.2)
    room = await Mailroom(tmp_path).open()
    yield Desk(room).open()
    await room.close()


async def test_a_yes_gives_the_input_back(desk: Desk) -> None:
    ask = await desk.ask()
    assert desk.asks.headline() == "permission: Bash: make"
    decided = await desk.asks.decide(ask.id, Decision(decision="allow"))
    assert (decided.outcome, decided.decided_by) == ("allowed", "user")
    assert desk.answers == [{"behavior": "allow", "updatedInput": {"command": "make"}}]
    assert desk.asks.headline() is None and not desk.asks.is_open


async def test_a_yes_may_change_the_input_or_hold_for_the_session(desk: Desk) -> None:
    ask = await desk.ask()
    await desk.asks.decide(ask.id, Decision(decision="allow", input={"command": "make test"}))
    ask = await desk.ask(Permission(**{**vars(MAKE), "request_id": "r9"}))
    await desk.asks.decide(ask.id, Decision(decision="allow", always=True))
    changed, always = desk.answers
    assert changed["updatedInput"] == {"command": "make test"}
    assert always["updatedPermissions"][0]["destination"] == "session"


async def test_a_no_tells_the_model_why(desk: Desk) -> None:
    ask = await desk.ask()
    await desk.asks.decide(ask.id, Decision(decision="deny", reason="Not now."))
    assert desk.answers == [{"behavior": "deny", "message": "Not now."}]


async def test_a_question_is_answered(desk: Desk) -> None:
    ask = await desk.ask(QUESTION)
    await desk.asks.decide(ask.id, Decision(decision="answer", text="b"))
    assert desk.answers[0]["updatedInput"]["answers"] == {"Which?": "b"}


async def test_the_first_decision_counts(desk: Desk) -> None:
    ask = await desk.ask()
    await desk.asks.decide(ask.id, Decision(decision="allow"))
    with pytest.raises(ConflictError):
        await desk.asks.decide(ask.id, Decision(decision="deny"))
    assert len(desk.answers) == 1


async def test_what_does_not_fit_decides_nothing(desk: Desk) -> None:
    ask = await desk.ask()
    with pytest.raises(RefusedError):
        await desk.asks.decide(ask.id, Decision(decision="answer", text="b"))
    assert desk.asks.headline()


async def test_with_no_time_nobody_is_asked(desk: Desk) -> None:
    desk.open(ask_timeout=0.0)
    desk.asks.asked(MAKE)
    await desk.asks.step()
    assert desk.answers[0]["behavior"] == "deny"
    assert await desk.kept() == []


@pytest.mark.parametrize(
    ("request_", "default", "outcome"),
    [(MAKE, "deny", "denied"), (MAKE, "allow", "allowed"), (QUESTION, "allow", "denied")],
)
async def test_after_its_time_the_default_holds(
    desk: Desk, request_: Permission, default: str, outcome: str
) -> None:
    desk.open(ask_timeout=0.05, ask_default=default)
    desk.asks.asked(request_)
    await desk.asks.step()
    assert desk.answers == []
    await asyncio.sleep(0.06)
    await desk.asks.step()
    [ask] = await desk.kept()
    assert (ask.outcome, ask.decided_by) == (outcome, "default")
    assert desk.answers[0]["behavior"] == ("allow" if outcome == "allowed" else "deny")
    if outcome == "denied":
        assert "Nobody was there" in desk.answers[0]["message"]


async def test_a_new_worker_gives_the_answer_that_an_old_one_could_not(desk: Desk) -> None:
    ask = await desk.ask()
    desk.error = HolderGoneError()
    await desk.asks.decide(ask.id, Decision(decision="allow"))
    assert desk.answers == []
    desk.error = None
    desk.open()
    await desk.asks.load([MAKE])
    await desk.asks.step()
    assert [answer["behavior"] for answer in desk.answers] == ["allow"]
    assert len(await desk.kept()) == 1


async def test_a_new_worker_asks_nothing_twice(desk: Desk) -> None:
    ask = await desk.ask()
    desk.open()
    await desk.asks.load([MAKE])
    await desk.asks.step()
    assert [kept.id for kept in await desk.kept()] == [ask.id]
    await desk.asks.decide(ask.id, Decision(decision="allow"))
    assert len(desk.answers) == 1


async def test_what_nothing_waits_for_any_more_is_gone(desk: Desk) -> None:
    await desk.ask()
    await desk.asks.gone("r1")
    await desk.ask(QUESTION)
    desk.open()
    await desk.asks.load([])
    assert [ask.outcome for ask in await desk.kept()] == ["gone", "gone"]


async def test_an_end_leaves_nothing_open(desk: Desk) -> None:
    await desk.ask()
    desk.error = HolderRefusedError("it has ended")
    await desk.asks.deny_all("Halted.")
    await desk.ask(QUESTION)
    await desk.asks.close()
    assert [ask.outcome for ask in await desk.kept()] == ["denied", "gone"]
    assert not desk.asks.is_open


async def test_a_halt_denies_all_of_it(desk: Desk) -> None:
    await desk.ask()
    await desk.asks.deny_all("Halted.")
    await desk.asks.step()
    assert desk.answers == [{"behavior": "deny", "message": "Halted."}]
