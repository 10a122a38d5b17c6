"""The life of sessions under real holders; a script stands in for `claude`.

The script keeps to what the supervisor looks at: the registry file, the screen, how it ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import psutil
import pytest

from claudedo import holding, settings
from claudedo.demo.repository import make_repository
from claudedo.model import Launch, Session, SessionState, Task, now
from claudedo.settings import make_private
from claudedo_worker import holder_link, live, supervisor, telemetry
from claudedo_worker.bus import Bus
from claudedo_worker.claude_binary import Claude
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Order, Supervisor
from tests.support.own_worker import OwnWorker
from tests.support.records import a_session, a_task

pytestmark = pytest.mark.anyio

BOUND = 30.0
CLAUDE = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys, time
if "--version" in sys.argv:
    print("2.1.330")
    sys.exit()
if "--refuse" in sys.argv:
    sys.exit("error: this cannot work")
config = pathlib.Path(os.environ["CLAUDE_CONFIG_DIR"])
given = sys.argv[1:]
own = "--session-id" if "--session-id" in given else "--resume"
conversation = pathlib.Path(given[given.index(own) + 1]).stem
(config / "calls").open("a").write(given[0] + "\\n")
(config / "begun").open("a").write(given[1] + "\\n")
if "--loud" in given:
    for _ in range(500):
        print("x" * 8000)
if "--mute" not in given:
    entry = {{"sessionId": conversation, "status": "idle"}}
    (config / "sessions" / f"{{os.getpid()}}.json").write_text(json.dumps(entry))
for _ in range(3000):
    if (config / "order").exists():
        (config / "order").rename(config / "taken")
        subprocess.Popen(["/bin/sh", str(config / "taken")], start_new_session=True)
    time.sleep(0.1)
"""


URL = "http://127.0.0.1:9"  # where a worker would listen


class Place:
    """A state directory, a task, and as many supervisors, one after the other, as a test wants."""

    def __init__(self, root: Path) -> None:
        self.config = root / "config"
        (self.config / "sessions").mkdir(parents=True)
        self.program = root / "claude"
        self.program.write_text(CLAUDE)
        self.program.chmod(0o755)
        environ = {"CLAUDEDO_HOME": str(root / "s"), "CLAUDEDO_CLAUDE": str(self.program)}
        # Loaded, not made by hand: the sockets must fit however long the path of `root` is.
        self.settings = replace(settings.load(environ), channels=False)
        for folder in (self.settings.home, self.settings.run, root / "s/sessions"):
            make_private(folder)
        make_private(root / "s/programs")
        self.store: Store
        self.task: Task
        self.now: Supervisor

    def order(self, **changes: Any) -> Order:
        environ = {"PATH": os.environ["PATH"], "CLAUDE_CONFIG_DIR": str(self.config)}
        return Order(
            **{"claude": Claude(str(self.program), "2.1.330"), "environ": environ, **changes}
        )

    async def start(self, *arguments: str, **changes: Any) -> None:
        launch = Launch(claude_args=arguments)
        self.task = await self.store.change_task(self.task, launch=launch)
        await self.now.start(self.task, self.order(**changes))

    async def restart_worker(self) -> None:
        await self.now.close()
        await self.next_worker()

    async def next_worker(self) -> None:
        self.now = Supervisor(self.settings, self.store, lambda live: cast(Any, None), URL)
        await self.now.recover()

    async def session(self) -> Session:
        session = await self.store.latest_session(self.task.id)
        assert session is not None
        return session

    async def until(self, *states: SessionState, also: Callable[[Session], Any] = bool) -> Session:
        try:
            with anyio.fail_after(BOUND):
                while (session := await self.session()).state not in states or not also(session):
                    await anyio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never {states}: {await self.session()}") from None
        return session

    async def until_nothing_is_kept(self) -> None:
        """The folder goes last, after the end is stored: without it the reason would be lost."""
        with anyio.fail_after(BOUND):
            while any((self.settings.home / "sessions").iterdir()):
                await anyio.sleep(0.02)

    async def kill(self, number: int) -> int:
        pid = (await self.session()).pid
        assert pid is not None
        os.kill(pid, number)
        return pid

    async def crash(self) -> None:
        """Kill the program once it is up, and wait until that is seen."""
        pid = (await self.until(SessionState.IDLE)).pid
        await self.kill(signal.SIGKILL)
        gone = [state for state in SessionState if state is not SessionState.IDLE]
        await self.until(*gone)
        assert not psutil.pid_exists(pid or 0)

    def run_inside(self, command: str) -> None:
        """Have the session run a shell command, detached from it."""
        draft = self.config / "order.new"
        draft.write_text(command)
        draft.rename(self.config / "order")

    def calls(self) -> list[str]:
        return (self.config / "calls").read_text().split()

    def begun(self) -> list[str]:
        """The conversation that each process was told to begin with."""
        return [Path(line).stem for line in (self.config / "begun").read_text().split()]

    def running(self) -> list[psutil.Process]:
        """Holders and programs of this place."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.settings.home.parent) in " ".join(process.info["cmdline"] or [])
        ]


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Place]:
    place = Place(root)
    database = await Database.open(place.settings.database)
    place.store = Store(database, Bus().publish)
    workspace = await place.store.workspace_for(str(root), "shop")
    place.task = a_task(workspace, repo=str(root), worktree=str(root), launch=Launch())
    await place.store.add_task(place.task)
    await place.next_worker()
    try:
        yield place
    finally:
        await place.now.stop(place.task.id)
        await place.now.close()
        await database.close()
        left = place.running()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
    shutil.rmtree(place.settings.run)
    assert left == []


def _says(words: str) -> Callable[[Session], bool]:
    return lambda session: words in str(session.reason)


_tools_missing = _says("/mcp reconnect claudedo")  # what a session that is looked after says here


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(supervisor, "BACKOFF", (0.1,))
    monkeypatch.setattr(supervisor, "TAKE_UP_PAUSES", (0.1,))
    monkeypatch.setattr(live, "BRIDGE_PATIENCE", 0.5)
    monkeypatch.setattr(live, "START_PATIENCE", 1.0)
    async with opened(tmp_path) as made:
        yield made


async def test_a_session_reports_its_costs_unless_the_person_has_telemetry_of_their_own_or_says_no(
    place: Place,
) -> None:
    async def destination() -> str | None:
        pid = (await place.until(SessionState.IDLE)).pid
        return psutil.Process(pid).environ().get("OTEL_EXPORTER_OTLP_ENDPOINT")

    await place.start()
    session = await place.until(SessionState.IDLE)
    secret = telemetry.secret(await place.store.session_credential(session.id) or "")
    assert await destination() == f"{URL}/telemetry/{session.id}/{secret}"
    await place.now.stop(place.task.id)
    theirs = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    await place.start(environ={**place.order().environ, **theirs})
    assert await destination() == "http://127.0.0.1:4318"
    await place.now.stop(place.task.id)
    place.settings = replace(place.settings, telemetry=False)
    await place.restart_worker()
    await place.start()
    assert await destination() is None


async def test_a_session_whose_tools_never_connect_does_not_stay_in_starting(place: Place) -> None:
    await place.start()
    session = await place.until(SessionState.IDLE)
    assert session.waiting_for is None
    session = await place.until(SessionState.IDLE, also=lambda session: session.reason)
    assert "/mcp reconnect claudedo" in str(session.reason)


async def test_a_start_that_nobody_can_read_asks_for_a_person(place: Place) -> None:
    await place.start("--mute")
    session = await place.until(SessionState.WAITING)
    assert str(session.waiting_for).startswith("start-up dialog")


async def test_a_claude_that_refuses_to_start_has_failed_with_its_own_words(place: Place) -> None:
    await place.start("--refuse")
    session = await place.until(SessionState.FAILED)
    assert "exit status 1" in str(session.reason)
    assert "error: this cannot work" in str(session.reason)
    assert place.running() == []


async def test_a_claude_that_cannot_be_run_has_failed_with_the_reason(place: Place) -> None:
    await place.start(claude=Claude("/no/such/claude", "2.1.330"))
    session = await place.until(SessionState.FAILED)
    assert "/no/such/claude" in str(session.reason)


async def test_whatever_goes_wrong_while_starting_ends_in_a_reason(place: Place) -> None:
    async def prepare() -> Task:
        raise KeyError("nobody expected this")

    await place.start(prepare=prepare)
    session = await place.until(SessionState.FAILED)
    assert "nobody expected this" in str(session.reason)
    assert str(place.settings.log) in str(session.reason)


async def test_stop_does_not_wait_for_a_worktree_that_is_being_made(place: Place) -> None:
    cancelled = asyncio.Event()

    async def prepare() -> Task:
        try:
            await asyncio.sleep(BOUND)
        finally:
            cancelled.set()
        raise AssertionError

    await place.start(prepare=prepare)
    with anyio.fail_after(BOUND / 2):
        assert await place.now.stop(place.task.id)
    assert cancelled.is_set()
    assert (await place.session()).state is SessionState.STOPPED


async def test_stop_right_after_start_leaves_nothing_running(place: Place) -> None:
    await place.start()
    assert await place.now.stop(place.task.id)
    assert (await place.session()).state is SessionState.STOPPED
    assert place.running() == []
    assert not await place.now.stop(place.task.id)


async def test_a_crash_is_resumed_a_few_times_and_then_told(place: Place) -> None:
    place.settings = replace(place.settings, continue_after_crash=2)
    await place.restart_worker()
    await place.start()
    for _ in range(3):
        await place.crash()
    session = await place.until(SessionState.FAILED)
    assert "signal 9" in str(session.reason) and "3 in a row" in str(session.reason)
    # Without a prompt there is no transcript: nothing to resume, and the id is still free.
    assert place.calls() == ["--session-id"] * 3
    assert place.running() == []


async def test_a_fork_forks_again_until_it_has_a_transcript_and_then_goes_on(place: Place) -> None:
    projects = place.config / "projects" / "p"
    projects.mkdir(parents=True)
    (projects / "original.jsonl").touch()
    await place.start(fork_of=str(projects / "original.jsonl"))
    await place.crash()
    session = await place.until(SessionState.IDLE, also=lambda session: session.crashes)
    (projects / f"{session.conversation}.jsonl").touch()
    await place.crash()
    again = await place.until(SessionState.IDLE, also=lambda session: session.crashes == 2)
    assert again.conversation == session.conversation != "original"
    assert again.transcript == str(projects / f"{session.conversation}.jsonl")
    assert place.calls() == ["--resume"] * 3
    assert place.begun() == ["original", "original", session.conversation]


async def test_a_crash_after_a_long_life_counts_as_the_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STEADY", 0.0)
    await place.start()
    for _ in range(5):
        await place.crash()
    assert (await place.until(SessionState.IDLE)).crashes == 1
    gc.collect()
    kept = [item for item in gc.get_objects() if isinstance(item, live.LiveSession)]
    assert len(kept) <= 2  # this one and the first: nothing piles up


async def test_stop_during_the_pause_after_a_crash_ends_the_session(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (BOUND,))
    await place.start()
    await place.until(SessionState.IDLE)
    await place.kill(signal.SIGKILL)
    session = await place.until(SessionState.STARTING)
    assert "1 of 3, in 30 s" in str(session.waiting_for)
    with anyio.fail_after(BOUND / 2):
        stops = [place.now.stop(place.task.id) for _ in range(2)]
        assert await asyncio.gather(*stops) == [True, True]
    assert (await place.session()).state is SessionState.STOPPED
    assert place.running() == []


async def test_a_worker_that_dies_during_that_pause_is_followed_by_one_that_resumes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (BOUND,))
    await place.start()
    await place.until(SessionState.IDLE)
    await place.kill(signal.SIGKILL)
    await place.until(SessionState.STARTING)
    monkeypatch.setattr(supervisor, "BACKOFF", (0.1,))
    await place.restart_worker()
    await place.until(SessionState.IDLE)


async def test_the_next_worker_takes_up_what_runs_and_can_stop_it_at_once(place: Place) -> None:
    await place.start()
    first = await place.until(SessionState.IDLE)
    await place.restart_worker()
    assert place.now.expected(first.id)
    assert await place.now.stop(place.task.id)  # while it is being taken up
    assert (await place.session()).state is SessionState.STOPPED
    assert place.running() == []


@pytest.mark.parametrize(
    ("number", "state", "reason"),
    [
        (signal.SIGTERM, SessionState.INTERRUPTED, "from outside"),
        (signal.SIGHUP, SessionState.INTERRUPTED, "from outside"),
    ],
)
async def test_a_process_ended_from_outside_is_interrupted_whoever_sees_it(
    place: Place, number: int, state: SessionState, reason: str
) -> None:
    for away in (False, True):
        await place.start()
        await place.until(SessionState.IDLE)
        if away:
            await place.now.close()
        await place.kill(number)
        if away:
            await place.next_worker()
        session = await place.until(state)
        assert reason in str(session.reason)
        await place.until_nothing_is_kept()


async def test_a_session_whose_launcher_died_before_it_had_a_holder_is_interrupted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BIRTH_PATIENCE", 0.2)
    session = a_session(place.task, pid=None, config_dir=str(place.config), holder_socket="/none")
    await place.store.add_session(session, "", place.task)
    await place.restart_worker()
    ended = await place.until(SessionState.INTERRUPTED)
    assert "killed while starting it" in str(ended.reason)


async def test_a_holder_that_comes_to_life_after_its_worker_died_is_taken_up(
    place: Place,
) -> None:
    await place.start()
    running = await place.until(SessionState.IDLE)
    await place.now.close()
    socket = Path(str(running.holder_socket))
    hidden = socket.with_suffix(".later")
    socket.rename(hidden)
    unborn = replace(running, state=SessionState.STARTING, pid=None, since=now())
    await place.store.change_session(running, state=unborn.state, pid=None)
    await place.next_worker()
    await anyio.sleep(0.3)
    hidden.rename(socket)
    session = await place.until(SessionState.IDLE)
    assert session.pid == running.pid


async def test_a_lost_holder_means_interrupted_and_nothing_left(place: Place) -> None:
    await place.start()
    session = await place.until(SessionState.IDLE)
    holder = psutil.Process(session.pid).parent()
    assert holder is not None
    holder.kill()
    session = await place.until(SessionState.INTERRUPTED)
    assert "its terminal is gone" in str(session.reason)
    assert place.running() == []
    assert not Path(str(session.holder_socket)).exists()


async def test_a_holder_stays_small_after_much_output(place: Place) -> None:
    await place.start("--loud")
    holder = psutil.Process((await place.until(SessionState.IDLE)).pid).parent()
    assert holder is not None
    assert holder.memory_info().rss < 25 << 19


async def test_stopping_the_session_that_a_worker_was_started_in_ends_no_other(
    place: Place,
) -> None:
    repository = make_repository(place.config.parent / "repository")
    environ = {"PATH": os.environ["PATH"], "CLAUDE_CONFIG_DIR": str(place.config)}
    worker = OwnWorker(place.settings.home, {"CLAUDEDO_CLAUDE": str(place.program)})
    await place.start()
    first = await place.until(SessionState.IDLE)
    await place.now.close()
    chosen = f"CLAUDEDO_HOME={place.settings.home} CLAUDEDO_CLAUDE={place.program}"
    log = place.settings.home.parent / "worker.log"
    place.run_inside(f"{chosen} exec {sys.executable} -P -m claudedo_worker >{log} 2>&1")
    await asyncio.to_thread(worker.until_ready)
    pid = worker.ask("GET", "/api/worker").json["pid"]
    start = {"cwd": str(repository), "tasks": [{"name": "second"}], "env": environ, "trust": True}
    answer = worker.ask("POST", "/api/start", start).json
    first_task, place.task = place.task, await place.store.task(answer["tasks"][0]["id"])
    second = await place.until(SessionState.IDLE)
    try:
        worker.ask("POST", f"/api/tasks/{first_task.id}/stop", {})
        assert not psutil.pid_exists(first.pid or 0)
        assert psutil.pid_exists(second.pid or 0)
        assert worker.ask("GET", "/api/worker").json["pid"] == pid
    finally:
        os.kill(pid, signal.SIGKILL)
    await place.next_worker()
    assert (await place.until(SessionState.IDLE)).pid == second.pid


async def test_what_goes_wrong_while_a_session_is_taken_up_does_not_end_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.start()
    running = await place.until(SessionState.IDLE)
    await place.now.close()

    async def full(_: live.LiveSession) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(live.LiveSession, "open", full)
        await place.next_worker()
        await place.until(SessionState.IDLE, also=_says("no space left"))
    assert (await place.until(SessionState.IDLE, also=_tools_missing)).pid == running.pid

    with monkeypatch.context() as broken:
        broken.setattr(live.LiveSession, "open", full)
        await place.restart_worker()
        await place.until(SessionState.IDLE, also=_says("no space left"))
        assert await place.now.stop(place.task.id)
    assert (await place.session()).state is SessionState.STOPPED
    assert place.running() == []


async def test_a_holder_of_another_protocol_keeps_its_session(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.start()
    running = await place.until(SessionState.IDLE)
    await place.now.close()
    with monkeypatch.context() as newer:
        newer.setattr(holding, "PROTOCOL", 2)
        await place.next_worker()
        await place.until(SessionState.IDLE, also=_says("speaks protocol 1"))
    assert (await place.until(SessionState.IDLE, also=_tools_missing)).pid == running.pid


async def test_a_holder_that_does_not_answer_in_time_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_link, "ANSWER_PATIENCE", 0.3)
    await place.start()
    running = await place.until(SessionState.IDLE)
    holder = psutil.Process(running.pid).parent()
    assert holder is not None
    await place.now.close()
    holder.suspend()
    try:
        await place.next_worker()
        await place.until(SessionState.IDLE, also=_says("did not answer"))
    finally:
        holder.resume()
    assert (await place.until(SessionState.IDLE, also=_tools_missing)).pid == running.pid


async def test_a_session_survives_the_loss_of_its_connection(place: Place) -> None:
    await place.start()
    running = await place.until(SessionState.IDLE)
    found = place.now.find(running.id)
    assert found is not None
    for _ in range(2):
        lost = found.holder
        await lost.close()
        with anyio.fail_after(BOUND):
            while found.holder is lost:
                await anyio.sleep(0.02)
    assert not found.holder.lost
    assert (await place.session()).state is SessionState.IDLE
    assert psutil.pid_exists(running.pid or 0)


async def test_an_end_that_cannot_be_stored_is_stored_by_the_next_stop(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.start()
    await place.until(SessionState.IDLE)
    change = place.store.change_session

    async def full(*_: Any, **__: Any) -> Session:
        raise OSError("no space left")

    monkeypatch.setattr(place.store, "change_session", full)
    pid = await place.kill(signal.SIGTERM)
    with anyio.fail_after(BOUND):
        while place.now.expected((await place.session()).id):
            await anyio.sleep(0.05)
    monkeypatch.setattr(place.store, "change_session", change)
    assert (await place.session()).state is SessionState.IDLE
    assert not psutil.pid_exists(pid)
    assert await place.now.stop(place.task.id)
    assert (await place.session()).state is SessionState.STOPPED
