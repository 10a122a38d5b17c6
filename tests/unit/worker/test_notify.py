"""What the person is told by their command: which facts, once each, in order, never for long."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from claudedo.model import (
    Ask,
    AskOutcome,
    DecidedBy,
    Event,
    Failure,
    FailureKind,
    Session,
    SessionState,
    Task,
)
from claudedo_worker import notify
from claudedo_worker.database import Database
from claudedo_worker.failures import TRIES
from claudedo_worker.notify import Notifier
from claudedo_worker.store import Store
from tests.support.records import a_session, a_task, an_ask

pytestmark = pytest.mark.anyio

SECONDS = 30


@dataclass
class Place:
    """A store with one session, a folder, and what was told there."""

    store: Store
    listeners: list[Any]
    folder: Path
    task: Task
    session: Session

    @property
    def command(self) -> str:
        """Keeps what it is given: the variables and standard input, a line each."""
        return f"cat >> '{self.folder}/told'; echo >> '{self.folder}/told'"

    def after(self, gate: Path) -> str:
        """The same, but not before `gate` is there."""
        return f"while ! [ -e '{gate}' ]; do sleep 0.02; done; {self.command}"

    def told(self) -> list[dict[str, Any]]:
        file = self.folder / "told"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def titles(self) -> list[str]:
        return [str(one["title"]) for one in self.told()]

    async def open(self, title: str) -> Ask:
        """Let the session ask."""
        ask = an_ask(self.session, title=title, call=f"b:{title}")
        return await self.store.add_ask(ask)

    async def change(self, **changes: Any) -> None:
        self.session = await self.store.change_session(self.session, **changes)

    async def heard(self, title: str) -> None:
        """Wait until this was told, whatever else was."""
        async with asyncio.timeout(SECONDS):
            while title not in self.titles():
                await asyncio.sleep(0.01)

    async def until(self, *titles: str) -> None:
        """Wait until exactly these were told."""
        async with asyncio.timeout(SECONDS):
            while self.titles()[: len(titles)] != list(titles):
                await asyncio.sleep(0.01)
        assert self.titles() == list(titles)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    database = await Database.open(tmp_path / "claudedo.db")
    listeners: list[Any] = []

    def publish(event: Event) -> None:
        for listener in listeners:
            listener(event)

    store = Store(database, publish)
    workspace = await store.workspace_for("/repository", "shop")
    task = await store.add_task(a_task(workspace))
    session = await store.add_session(a_session(task, state=SessionState.BUSY), "hash", task)
    yield Place(store, listeners, tmp_path, task, session)
    await database.close()


@asynccontextmanager
async def notifying(
    place: Place, command: str | None = None, *, continues: bool = True
) -> AsyncIterator[Notifier]:
    notifier = Notifier(command or place.command, place.store, continues=continues)
    await notifier.start()
    place.listeners.append(notifier.notice)
    yield notifier
    await notifier.stop()
    place.listeners.remove(notifier.notice)


LIMIT = Failure(
    kind=FailureKind.RATE_LIMIT,
    text="limit",
    at="2026-01-01T00:00Z",
    continues_at="2026-01-01T01:00Z",
)
FAILURE = Failure(kind=FailureKind.BILLING, text="Your credit is used up", at="2026-01-01T00:00Z")


async def test_an_ask_is_told_with_everything_that_is_known_of_it(place: Place) -> None:
    names = ("EVENT", "KIND", "TASK_NAME", "WORKSPACE", "TITLE", "ASK")
    listed = " ".join(f'"$CLAUDEDO_{name}"' for name in names)
    variables = f"printf '%s\\n' {listed} > '{place.folder}/variables'; "
    async with notifying(place, variables + place.command):
        ask = await place.open("Bash: make test")
        await place.until("Bash: make test")

    given = (place.folder / "variables").read_text().splitlines()
    assert given == ["ask", "permission", "backend", "shop", "Bash: make test", ask.id]
    [told] = place.told()
    assert told["task"] == place.task.id
    assert told["ask"]["id"] == ask.id
    assert told["ask"]["body"] == ask.body


async def test_facts_are_told_in_their_order_and_each_once(place: Place) -> None:
    async with notifying(place):
        await place.open("one")
        await place.open("one")  # the bridge sends its held call once more
        await place.change(failure=FAILURE)
        await place.open("two")
        for number in range(3):  # the same failure, seen again and again
            await place.change(waiting_for=f"step {number}")
        await place.change(state=SessionState.FAILED, reason="it crashed")
        await place.change(reason="it crashed badly")
        await place.open("three")
        await place.until(
            "one", "Your credit is used up", "two", "The session failed: it crashed", "three"
        )


async def test_a_session_that_lost_its_terminal_is_told_even_if_it_runs_again(place: Place) -> None:
    async with notifying(place):
        await place.change(state=SessionState.INTERRUPTED, reason="its holder is gone")
        await place.change(state=SessionState.STARTING, reason=None)
        await place.until("The session lost its terminal: its holder is gone")


async def test_a_session_that_was_stopped_and_an_ask_that_is_closed_are_not_told(
    place: Place,
) -> None:
    gate = place.folder / "gate"
    async with notifying(place, place.after(gate)):
        await place.open("first")
        await place.change(state=SessionState.STOPPED)
        closed = await place.open("closed")
        await place.store.close_ask(closed.id, AskOutcome.ALLOWED, DecidedBy.TERMINAL)
        await place.open("open")
        gate.touch()
        await place.until("first", "open")


async def limits(place: Place) -> None:
    """A rate limit that is continued again and again, until that is enough."""
    for tries in range(TRIES + 1):
        limit = replace(LIMIT, at=f"2026-01-01T{tries:02}:00Z", text=f"limit {tries}", tries=tries)
        await place.change(failure=limit)
        await place.open(f"seen {tries}")  # what was seen is told before the next comes
        await place.heard(f"seen {tries}")
        # Being continued: nothing more is planned for this refusal.
        await place.change(failure=replace(limit, continues_at=None, tries=tries + 1))
        await place.open(f"continued {tries}")
        await place.heard(f"continued {tries}")


async def test_a_limit_is_told_only_when_the_session_is_not_continued_any_more(
    place: Place,
) -> None:
    async with notifying(place):
        await limits(place)
        told = [title for title in place.titles() if title.startswith("limit")]
        assert told == [f"limit {TRIES}"]


async def test_every_limit_is_told_where_no_session_is_continued(place: Place) -> None:
    async with notifying(place, continues=False):
        await limits(place)
        told = [title for title in place.titles() if title.startswith("limit")]
        assert told == [f"limit {tries}" for tries in range(TRIES + 1)]


async def test_what_a_worker_before_this_one_knew_is_not_told_again(place: Place) -> None:
    await place.open("before")
    await place.change(failure=FAILURE)
    async with notifying(place):
        await place.open("before")
        await place.change(waiting_for="something")
        await place.open("after")
        await place.until("after")


@pytest.mark.parametrize("text", ["$(touch x)", "`touch x`", '"; touch x; "', "' ; touch x ; '"])
async def test_no_text_becomes_a_part_of_the_command(place: Place, text: str) -> None:
    harmless = f'cd \'{place.folder}\'; printf "%s" "$CLAUDEDO_TITLE" > title; {place.command}'
    async with notifying(place, harmless):
        await place.open(text)
        await place.until(text)
    assert not (place.folder / "x").exists()
    assert (place.folder / "title").read_text() == text


def test_a_variable_is_one_short_line_whatever_the_text() -> None:
    words = {
        "event": "ask",
        "kind": "permission",
        "task_name": "backend",
        "workspace": "shop",
        "title": "a\nb\x00c\x1b[31m \ud800 " + "x" * 1_000,
    }
    title = notify.environment(words)["CLAUDEDO_TITLE"]
    assert title.startswith("a b c [31m xxx") and title.endswith("x…")
    assert len(title) == notify.TEXT
    title.encode()


def processes_of(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if mark in _command_line(process)]


async def remaining(argument: str, count: int) -> list[psutil.Process]:
    """Wait until so many processes have that argument; one that begins or ends may look odd."""
    async with asyncio.timeout(SECONDS):
        while len(found := processes_of(argument)) != count:
            await asyncio.sleep(0.05)
    return found


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_a_command_that_does_not_end_is_ended_with_what_it_started(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleeping = f"86{os.getpid()}"
    began = time.monotonic()
    await notify.run(f"sleep {sleeping} & echo begun; sleep {sleeping}", WORDS, seconds=0.5)
    assert time.monotonic() - began < SECONDS
    await remaining(sleeping, 0)
    assert "ended after 0.5 s" in caplog.text and "begun" in caplog.text


async def test_a_flood_of_output_stops_nobody_and_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    await notify.run("exec yes", WORDS, seconds=0.5)
    beating.cancel()
    assert beats > 5
    assert len(caplog.text) < 2 * notify.OUTPUT


async def test_what_a_command_leaves_in_the_background_is_not_waited_for() -> None:
    sleeping = f"20.{os.getpid()}"
    began = time.monotonic()
    await notify.run(f"sleep {sleeping} & exit 0", WORDS, seconds=15)
    assert time.monotonic() - began < 10
    [left] = await remaining(sleeping, 1)
    left.terminate()


async def test_a_command_that_fails_is_logged_with_what_it_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await notify.run("echo no such bell >&2; exit 3", WORDS)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == "the notify command failed (3): no such bell"


async def test_the_output_of_a_command_that_worked_is_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger=notify.__name__)
    await notify.run("echo rang", WORDS)
    [record] = [record for record in caplog.records if record.name == notify.__name__]
    assert (record.levelno, record.getMessage()) == (logging.DEBUG, "notified: rang")


async def test_what_does_not_fit_the_queue_is_dropped_and_the_log_says_so(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "QUEUED", 2)
    gate = place.folder / "gate"
    async with notifying(place, place.after(gate)):
        await place.open("first")
        await asyncio.sleep(0)  # it is being told
        for number in range(10):
            await place.open(f"ask {number}")
        gate.touch()
        async with asyncio.timeout(SECONDS):
            while "were not told" not in caplog.text:
                await asyncio.sleep(0.01)
        told = place.titles()
        assert told[0] == "first" and len(told) <= 4
        assert caplog.text.count("too slow") == 1
        await place.open("last")
        await place.until(*told, "last")


async def test_session_news_take_no_room_from_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "QUEUED", 4)
    gate = place.folder / "gate"
    async with notifying(place, place.after(gate)):
        await place.open("first")
        for number in range(20):
            await place.change(waiting_for=f"step {number}")
        await place.open("second")
        gate.touch()
        await place.until("first", "second")


async def test_stopping_ends_the_command_that_runs(place: Place) -> None:
    sleeping = f"87{os.getpid()}"
    async with notifying(place, f"sleep {sleeping}"):
        await place.open("one")
        await remaining(sleeping, 1)
    await remaining(sleeping, 0)


async def test_a_task_that_is_removed_meanwhile_ends_nothing(place: Place) -> None:
    async with notifying(place):
        ask = an_ask(place.session, title="gone with its task")
        await place.store.add_ask(ask)
        await place.store.remove_task(place.task)
        workspace = await place.store.workspace_for("/repository", "shop")
        other = await place.store.add_task(a_task(workspace, "frontend"))
        session = await place.store.add_session(a_session(other), "hash", other)
        await place.store.add_ask(an_ask(session, title="still there"))
        await place.heard("still there")


WORDS = {"event": "ask", "kind": "permission", "task_name": "a", "workspace": "w", "title": "t"}
