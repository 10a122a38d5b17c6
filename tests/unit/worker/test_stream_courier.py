"""Mail as lines on the input of a process: one at a time, never twice, never lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from claudedo.holding import HolderGoneError, HolderRefusedError
from claudedo.model import Priority, Transport
from claudedo_worker import receipts
from claudedo_worker.stream_courier import StreamCourier
from tests.support.mailroom import Json, Mailroom

pytestmark = pytest.mark.anyio


class Pipe:
    """An input that takes what is written, or does not."""

    def __init__(self) -> None:
        self.lines: list[Json] = []
        self.finished = False
        self.error: Exception | None = None

    async def write(self, data: bytes) -> None:
        if self.error:
            raise self.error
        assert not self.finished
        self.lines += [json.loads(line) for line in data.splitlines()]

    async def finish_input(self) -> None:
        self.finished = True

    def texts(self) -> list[str]:
        return [line["message"]["content"] for line in self.lines if line["type"] == "user"]

    def last(self) -> str:
        return str(self.lines[-1]["uuid"])


class Desk:
    """A mailroom whose session has no terminal, and the couriers that follow each other there."""

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self.pipe = Pipe()

    async def open(self, *, resumes: str | None = None, begun: bool = False) -> Desk:
        self.courier = StreamCourier(
            self.room.store,
            self.room.task,
            self.room.session,
            await self.room.load(),
            self.pipe,
            resumes=resumes,
            begun=begun,
        )
        return self

    async def step(self) -> None:
        await self.courier.step()


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(receipts, "LINE_PATIENCE", 0.0)
    room = await Mailroom(tmp_path).open()
    yield await Desk(room).open()
    await room.close()


async def test_all_that_waits_goes_in_one_line(desk: Desk) -> None:
    first = await desk.room.send("one </system-reminder>")
    await desk.room.send("two")
    await desk.step()
    [text] = desk.pipe.texts()
    assert "one </system-reminder>" in text and "two" in text
    assert await desk.room.rungs(first) == "so"


async def test_the_echo_delivers_and_an_answer_shows_that_it_was_read(desk: Desk) -> None:
    sent = await desk.room.send("one")
    await desk.step()
    await desk.courier.echoed({desk.pipe.last()})
    assert await desk.room.rungs(sent) == "sod"
    desk.room.lines.prompt(desk.pipe.texts()[0])
    desk.room.lines.answer("m1")
    await desk.step()
    assert await desk.room.rungs(sent) == "sodr"


async def test_the_transcript_delivers_where_no_echo_was_seen(desk: Desk) -> None:
    sent = await desk.room.send("one")
    await desk.step()
    desk.room.lines.queued(desk.pipe.texts()[0], "human")
    await desk.step()
    assert await desk.room.rungs(sent) == "sod"


async def test_what_comes_meanwhile_waits_until_the_line_before_is_in(desk: Desk) -> None:
    await desk.room.send("one")
    await desk.step()
    await desk.room.send("two")
    await desk.step()
    assert len(desk.pipe.lines) == 1
    await desk.courier.echoed({desk.pipe.last()})
    await desk.step()
    assert "two" in desk.pipe.texts()[1]


async def test_the_input_ends_only_with_no_mail_left(desk: Desk) -> None:
    await desk.room.send("one")
    assert not await desk.courier.finish()
    await desk.step()
    assert not await desk.courier.finish()
    await desk.courier.echoed({desk.pipe.last()})
    assert await desk.courier.finish()
    assert desk.pipe.finished and not desk.courier.takes_mail
    late = await desk.room.send("two")
    await desk.step()
    assert await desk.room.rungs(late) == "s"


async def test_the_input_can_be_ended_whatever_waits(desk: Desk) -> None:
    sent = await desk.room.send("one")
    assert await desk.courier.finish(whatever=True)
    await desk.step()
    assert await desk.room.rungs(sent) == "s"


async def test_a_new_worker_writes_the_same_line_again_and_trusts_the_transcript_alone(
    desk: Desk,
) -> None:
    sent = await desk.room.send("one")
    await desk.step()
    await desk.open()
    await desk.step()
    first, again = desk.pipe.lines
    assert first == again
    await desk.courier.echoed({again["uuid"]})
    assert await desk.room.rungs(sent) == "so"  # given back for a second copy, too
    await desk.step()
    assert len(desk.pipe.lines) == 2
    desk.room.lines.prompt(desk.pipe.texts()[0])
    await desk.step()
    assert await desk.room.rungs(sent) == "sod"


async def test_a_lost_connection_has_the_line_written_again(desk: Desk) -> None:
    sent = await desk.room.send("one")
    desk.pipe.error = HolderGoneError()
    await desk.step()
    assert await desk.room.rungs(sent) == "so"
    other = Pipe()
    desk.courier.connect(other)
    await desk.step()
    assert "one" in other.texts()[0]


async def test_a_process_that_reads_no_more_gets_nothing_and_the_mail_stays(desk: Desk) -> None:
    sent = await desk.room.send("one")
    desk.pipe.error = HolderRefusedError("it has ended")
    await desk.step()
    assert not desk.courier.takes_mail
    [waiting] = await desk.room.store.deliverable(desk.room.task.id)
    assert waiting.id == sent


async def test_what_a_process_took_along_is_given_to_the_next(desk: Desk) -> None:
    sent = await desk.room.send("one")
    await desk.step()
    desk.room.lines.enqueue(desk.pipe.texts()[0])
    await desk.courier.close()
    await desk.open(resumes="It died.")
    await desk.step()
    first, again = desk.pipe.lines
    assert first["uuid"] != again["uuid"]
    assert "one" in desk.pipe.texts()[1]
    assert await desk.room.rungs(sent) == "so"


async def test_a_conversation_that_goes_on_is_told_why_once(desk: Desk) -> None:
    await desk.open(resumes="It died.")
    await desk.step()
    [text] = desk.pipe.texts()
    assert "It died. Go on" in text
    await desk.courier.echoed({desk.pipe.last()})
    await desk.step()
    assert len(desk.pipe.lines) == 1
    await desk.open(resumes="It died.", begun=True)
    await desk.step()
    assert len(desk.pipe.lines) == 1


async def test_mail_lets_a_conversation_go_on_by_itself(desk: Desk) -> None:
    await desk.room.send("one")
    await desk.open(resumes="")
    await desk.step()
    await desk.courier.echoed({desk.pipe.last()})
    await desk.step()
    [text] = desk.pipe.texts()
    assert "one" in text


async def test_a_halt_ends_the_turn_before_its_message_goes(desk: Desk) -> None:
    await desk.open(begun=True)
    await desk.room.send("Stop.", Priority.HALT)
    await desk.step()
    await desk.step()
    kinds = [line["type"] for line in desk.pipe.lines]
    assert kinds == ["control_request", "user"]
    assert desk.pipe.lines[0]["request"] == {"subtype": "interrupt"}
    assert desk.courier.halted


async def test_a_halt_before_the_first_turn_has_none_to_end(desk: Desk) -> None:
    await desk.room.send("Stop.", Priority.HALT)
    await desk.step()
    assert [line["type"] for line in desk.pipe.lines] == ["user"]


async def test_its_messages_can_be_fetched_by_the_model_too(desk: Desk) -> None:
    await desk.room.send("one")
    await desk.step()
    await desk.room.send("two")
    messages, pending = await desk.courier.check_inbox("t1", None)
    assert ([message.body for message in messages], pending) == (["two"], 1)
    attempts = await desk.room.store.open_attempts("c1")
    assert {attempt.transport for attempt in attempts} == {Transport.STREAM, Transport.INBOX}
