"""Owns the live sessions: launches them, watches them, ends them, takes them up again.

One job per session does everything that happens to it, from its launch (or from being found
running by a new worker) to its end, so nothing ever happens twice at once. Who wants a session to
end says so to its job and waits. Every end goes through `_finish`. The supervisor does not know why
a session is wanted; see `tasks`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from claudedo.errors import ClaudedoError, ConflictError, TimedOutError
from claudedo.holding import Exit, HolderError, HolderGoneError
from claudedo.model import Event, Session, SessionState, Task, new_id, now
from claudedo.settings import Settings
from claudedo_worker import asks, dialogs, launch, mcp_server, processes, registry, telemetry
from claudedo_worker.claude_binary import Claude
from claudedo_worker.clock import working_time
from claudedo_worker.failures import Schedule
from claudedo_worker.holder_link import HolderLink
from claudedo_worker.judge import Facts
from claudedo_worker.linked import Linked
from claudedo_worker.live import LiveSession
from claudedo_worker.one_shot import (
    Again,
    OneShotSession,
    Over,
    Place,
    Queue,
    RunCheck,
    announce,
    lost,
)
from claudedo_worker.pipes import PipedProcess
from claudedo_worker.receipts import Receipts
from claudedo_worker.session_link import hashed
from claudedo_worker.store import Store
from claudedo_worker.terminal import Terminal
from claudedo_worker.threads import Threads
from claudedo_worker.transcript import Transcript, locate

log = logging.getLogger(__name__)

TICK = 0.1  # seconds between two tries to reach a holder
GRACE = 5.0  # seconds between asking a process to end and killing it
STOP_PATIENCE = 60.0  # seconds for all the graces of one stop together
BACKOFF = (1.0, 5.0, 15.0)  # seconds before a crashed session is resumed
TAKE_UP_PAUSES = (1.0, 5.0, 15.0)  # seconds before a running session is taken up once more
STEADY = 600.0  # seconds of life after which a crash is the first one again
SCROLLBACK = 96 << 10  # bytes; a holder stays under 12.5 MiB with it, on every Python there is
BIRTH_PATIENCE = 5.0
"""Seconds for a holder, begun by a worker that died meanwhile, to open its socket."""
FAILED_LOOK_PAUSE = 2.0
STORE_PATIENCE = 15  # times that the end of a one-shot is tried to be stored (a full disk)
ONE_SHOT_LINGER = 7 * 86_400  # seconds that its end is remembered for a worker to come
ON_REQUEST = "on request"
OUTSIDE_ENDS = {129, 130, 143}  # what a hang-up, Ctrl-C and SIGTERM leave (9.1)

MakeCaller = Callable[[Linked], mcp_server.Caller]
Work = Callable[[asyncio.Event], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a launch needs to know. `environ` is that of the shell that asked for it."""

    claude: Claude
    environ: Mapping[str, str] = field(repr=False)
    peers: tuple[str, ...] = ()
    grants: frozenset[dialogs.Kind] = frozenset()
    conversation: str | None = None  # go on with this one
    fork_of: str | None = None  # the transcript that it forks while it has none of its own
    prepare: Callable[[], Coroutine[Any, Any, Task]] | None = None  # makes the worktree
    # gives the new worktree its files and its setup, on behalf of the session of that id
    furnish: Callable[[Task, str], Coroutine[Any, Any, None]] | None = None
    one_shot: bool = False  # without a terminal, to its end


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that happens to one session under this worker."""

    work: asyncio.Task[None]
    stop: asyncio.Event  # somebody wants it to end


class StoppedError(Exception):
    """Somebody stopped the session before it was up."""


class Supervisor:
    """All live sessions of this worker."""

    def __init__(
        self, settings: Settings, store: Store, make_caller: MakeCaller, url: str | None = None
    ) -> None:
        """`url`: where sessions report what they cost; none do without it."""
        self._settings = settings
        self._url = url if settings.telemetry else None
        self._store = store
        self._make_caller = make_caller
        self._schedule = Schedule(
            enabled=settings.continue_after_limit, first_pause=settings.limit_pause
        )
        self._live: dict[str, Linked] = {}
        self._jobs: dict[str, Job] = {}
        self._queue: Queue | None = None
        self._threads: Threads | None = None

    def serve(self, queue: Queue, threads: Threads) -> None:
        """Have one-shots, too: `queue` hears of their ends. Before `recover`."""
        self._queue = queue
        self._threads = threads

    def find(self, session_id: str) -> Linked | None:
        """The live session of that id."""
        return self._live.get(session_id)

    def expected(self, session_id: str) -> bool:
        """True if that session is being launched, taken up or resumed."""
        return session_id in self._jobs

    def of_task(self, task_id: str) -> Linked | None:
        """The live session of a task."""
        return next((live for live in self._live.values() if live.task.id == task_id), None)

    def notice(self, event: Event) -> None:
        """New mail: have its session looked at now."""
        if event.type == "message.queued" and event.task_id:
            live = self.of_task(event.task_id)
            if live:
                live.woken.set()

    async def start(self, task: Task, order: Order) -> Session:
        """Store a new session and launch it in the background.

        Raises `ConflictError` if the task has one that lives.
        """
        session_id = new_id("s")
        config_dir = registry.config_dir(dict(order.environ))
        conversation = order.conversation or str(uuid.uuid4())
        # Before its first prompt a conversation has no transcript, and its id is still free.
        resumed = locate(config_dir, conversation)
        at = now()
        session = Session(
            id=session_id,
            task_id=task.id,
            conversation=conversation,
            state=SessionState.STARTING,
            waiting_for="making the worktree" if order.prepare else "starting claude",
            since=at,
            pid=None,
            holder_socket=str(self._settings.holder_socket(session_id)),
            transcript=str(resumed) if resumed else None,
            config_dir=str(config_dir),
            cli_version=order.claude.version,
            channel=None if self._settings.channels and not order.one_shot else False,
            started_at=at,
            fork_of=order.fork_of,
            one_shot=order.one_shot,
        )
        session = await self._store.add_session(session, "", task)
        self._begin(session, lambda stop: self._launch(task, session, order, stop))
        return session

    async def stop(self, task_id: str) -> bool:
        """End a task's session, the whole process tree; False if none lives.

        Asks first (SIGTERM), kills what is left after a few seconds. May be called again meanwhile.
        Raises `TimedOutError` if something cannot be ended.
        """
        session = await self._store.latest_session(task_id)
        if session is None or not session.state.live:
            return False
        if session.id not in self._jobs:  # its job failed and could not even say so (a full disk)
            self._take_up_later(session)
        job = self._jobs[session.id]
        job.stop.set()
        await asyncio.wait([job.work], timeout=STOP_PATIENCE)
        if (await self._store.session(session.id)).state.live:
            raise TimedOutError("The session did not end; see `claudedo doctor`, or try again.")
        return True

    async def attends(self, task_id: str) -> bool:
        """True if the task's session lives; one whose job failed (a full disk) is taken up again.

        Not for a session that somebody begins at this moment.
        """
        session = await self._store.latest_session(task_id)
        if session is None or not session.state.live:
            return False
        if session.id not in self._jobs:
            self._take_up_later(session)
        return True

    async def settled(self, task_id: str) -> None:
        """Wait until the task has no live session; one that was judged is about to end."""
        if await self.attends(task_id):
            session = await self._store.latest_session(task_id)
            job = self._jobs.get(session.id) if session else None
            if job is not None:
                await asyncio.wait([job.work], timeout=STOP_PATIENCE)

    async def recover(self) -> None:
        """Take up the sessions that an earlier worker left: still running, ended, or lost.

        Returns when all are `expected`, so that their bridges are not sent away.
        """
        for session in await self._store.live_sessions():
            self._take_up_later(session)

    async def close(self) -> None:
        """Let go of the sessions; they go on without this worker."""
        jobs = [job.work for job in self._jobs.values()]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._live.clear()

    # Jobs

    def _begin(self, session: Session, work: Work) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self._do(session, work, stop))
        self._jobs[session.id] = Job(work=running, stop=stop)

    async def _do(self, session: Session, work: Work, stop: asyncio.Event) -> None:
        """Do a session's work to its end; whatever goes wrong becomes the reason of that end."""
        try:
            await work(stop)
        except StoppedError:
            await self._verdict(session, Facts(cancelled=True))
            await self._finish(session, SessionState.STOPPED, ON_REQUEST)
        except (ClaudedoError, OSError) as error:
            await self._fail(session, str(error))
        except Exception as error:
            log.exception("a session's job failed", extra={"action": "job_failed"})
            await self._fail(session, f"claudedo failed: {error!r}; see {self._settings.log}")
        finally:
            self._jobs.pop(session.id, None)

    async def _fail(self, session: Session, reason: str) -> None:
        try:
            await self._verdict(session, Facts(trouble=reason))
            await self._finish(session, SessionState.FAILED, reason)
        except Exception:
            # The session stays in the list, and the next `stop` or worker takes it up again.
            log.exception("a session's end could not be stored", extra={"action": "end_failed"})

    # Beginning

    async def _launch(
        self, task: Task, session: Session, order: Order, stop: asyncio.Event
    ) -> None:
        if order.prepare:
            task = await _unless(stop, order.prepare())
            if order.furnish:
                session = await self._store.change_session(session, waiting_for="running setup")
                await _unless(stop, order.furnish(task, session.id))
            session = await self._store.change_session(session, waiting_for="starting claude")
        holder, session = await self._spawn(task, session, order)
        try:
            live = await self._made(task, session, holder, grants=order.grants)
            await live.open()
        except BaseException:
            await holder.close()
            raise
        await self._follow(live, stop)

    async def _made(
        self,
        task: Task,
        session: Session,
        holder: HolderLink,
        *,
        grants: frozenset[dialogs.Kind] = frozenset(),
        up: bool = False,
        adopted: bool = False,
    ) -> Linked:
        """A live session of the right kind. `up`: its start is behind it."""
        if isinstance(holder, PipedProcess):
            one_shot = await self._store.one_shot(task.id)
            if one_shot is None or self._threads is None:
                raise ConflictError(f"{task.name} is no one-shot any more.")
            return OneShotSession(
                self._settings,
                self._store,
                task,
                session,
                holder,
                self._make_caller,
                one_shot=one_shot,
                threads=self._threads,
                adopted=adopted,
            )
        assert isinstance(holder, Terminal)
        return LiveSession(
            self._store,
            task,
            session,
            holder,
            self._make_caller,
            grants=grants,
            adopted=up,
            schedule=self._schedule,
        )

    async def _spawn(
        self, task: Task, session: Session, order: Order
    ) -> tuple[HolderLink, Session]:
        await asyncio.to_thread(_check_alone, session)
        plan = await asyncio.to_thread(
            launch.prepare,
            self._settings,
            task,
            session.id,
            begin=launch.beginning(session),
            environ=order.environ,
            peers=order.peers,
            claude=order.claude.path,
            grants=order.grants,
            stream=await self._stream(session),
        )
        credential, env = hashed(plan.credential), dict(plan.env)
        await self._store.set_credential(session.id, credential)
        if plan.telemetry and self._url:
            env |= telemetry.variables(self._url, session.id, credential)
        folder = self._settings.session_dir(session.id)
        spec: dict[str, Any] = {
            "socket": session.holder_socket,
            "argv": plan.argv,
            "cwd": str(plan.cwd),
            "env": env,
            "exit_file": str(folder / "exit.json"),
            "log": str(folder / "holder.log"),
        }
        program = launch.install_programs(self._settings.home) / "holder.py"
        kind: type[HolderLink] = Terminal
        if session.one_shot:
            place = Place.of(self._settings, task)
            one_shot = await self._store.one_shot(task.id)
            attempts = one_shot.attempts if one_shot else 0
            await announce(self._store, place, session, attempts + 1)
            spec |= {"files": place.files, "linger": ONE_SHOT_LINGER}
            kind = PipedProcess
        else:
            spec |= {"rows": dialogs.ROWS, "cols": dialogs.COLS, "scrollback": SCROLLBACK}
        holder = await kind.launch(launch.base_python(), program, spec)
        return holder, await self._store.change_session(session, pid=holder.hello.pid)

    async def _stream(self, session: Session) -> launch.Stream | None:
        """What is particular about the next process of a one-shot; None for a terminal's."""
        if not session.one_shot:
            return None
        one_shot = await self._store.one_shot(session.task_id)
        if one_shot is None or one_shot.budget is None:
            return launch.Stream()
        return launch.Stream(budget=max(0.0, one_shot.budget - one_shot.spent))

    # Taking up

    def _take_up_later(self, session: Session) -> None:
        self._begin(session, lambda stop: self._take_up(session, stop))

    async def _take_up(self, session: Session, stop: asyncio.Event) -> None:
        live = await self._opened(session, stop)
        if live is None:
            await self._close_attempts(session)
            await self._lost(session, stop)
        else:
            await self._follow(live, stop)

    async def _opened(self, session: Session, stop: asyncio.Event) -> Linked | None:
        """The session, ready to be watched; None if its terminal is gone.

        Tried until it works: what runs is not to suffer from what goes wrong here (a full disk,
        a holder that another version started). Raises `StoppedError`.
        """
        pauses = itertools.chain(TAKE_UP_PAUSES, itertools.repeat(TAKE_UP_PAUSES[-1]))
        while True:
            try:
                return await self._open(session.id)
            except Exception as error:
                log.exception("a session cannot be taken up", extra={"action": "take_up_failed"})
                await self._explain(session.id, f"claudedo cannot watch it: {error}")
            if stop.is_set():
                raise StoppedError
            await _first(stop.wait(), seconds=next(pauses))

    async def _open(self, session_id: str) -> Linked | None:
        session = await self._store.session(session_id)
        holder = await self._reach(session)
        if holder is None:
            return None
        starting = session.state is SessionState.STARTING or dialogs.at_start(session.waiting_for)
        try:
            live = await self._made(
                await self._store.task(session.task_id),
                await self._store.change_session(session, pid=holder.hello.pid),
                holder,
                grants=await asyncio.to_thread(launch.grants, self._settings, session.id),
                up=not starting,
                adopted=True,
            )
            await live.open()
            await live.change(reason=None)
        except BaseException:
            await holder.close()
            raise
        return live

    async def _explain(self, session_id: str, reason: str) -> None:
        """Say in a running session's record what is wrong, if it can be stored."""
        try:
            await self._store.change_session(await self._store.session(session_id), reason=reason)
        except Exception:
            log.exception("a reason could not be stored", extra={"action": "explain_failed"})

    async def _reach(self, session: Session) -> HolderLink | None:
        """The holder of a session that an earlier worker launched; None if it is gone."""
        kind: type[HolderLink] = PipedProcess if session.one_shot else Terminal
        unborn = session.state is SessionState.STARTING and session.pid is None
        deadline = time.monotonic() + (BIRTH_PATIENCE if unborn else 0.0)
        while True:
            try:
                return await kind.connect(session.holder_socket or "")
            except HolderGoneError:
                if time.monotonic() >= deadline:
                    return None
            await asyncio.sleep(TICK)

    # Watching

    async def _follow(self, live: Linked, stop: asyncio.Event) -> None:
        """Everything to the session's end, through as many processes as it takes."""
        following: Linked | None = live
        try:
            while following is not None:
                live = following
                await self._watch(live, stop)
                following = await self._after(live, stop)
        finally:
            await live.holder.close()

    async def _watch(self, live: Linked, stop: asyncio.Event) -> None:
        self._live[live.session.id] = live
        while live.holder.exited is None:
            if stop.is_set() and not live.part():
                break
            if live.holder.lost and not await self._reconnect(live):
                break
            working_time()  # goes on as long as somebody reads it
            await self._look(live)
            live.woken.clear()
            news = [live.woken.wait(), live.holder.wait_exit()]
            news += [] if stop.is_set() else [stop.wait()]
            await _first(*news, seconds=live.tick)
        await self._end_tree(live, politely=stop.is_set())
        await live.close()

    async def _look(self, live: Linked) -> None:
        try:
            await live.look()
        except HolderGoneError:
            log.info("the holder is gone", extra={"action": "holder_lost"})
        except Exception:
            # One bad step (a full disk, say) must not end a session that works; the next one
            # reads everything again.
            log.exception("a look at a session failed", extra={"action": "look_failed"})
            await asyncio.sleep(FAILED_LOOK_PAUSE)

    async def _reconnect(self, live: Linked) -> bool:
        """False if the holder is gone; a connection may be lost without it."""
        try:
            holder = await self._reach(live.session)
        except Exception:  # the holder may well be there: asked again after a while
            log.exception("not connected again", extra={"action": "reconnect_failed"})
            await asyncio.sleep(FAILED_LOOK_PAUSE)
            return True
        if holder is None:
            return False
        log.info("connected again", extra={"action": "reconnected", "session": live.session.id})
        live.connect(holder)
        await asyncio.sleep(TICK)  # or one that is lost over and over would take all the time
        return True

    # Ending

    async def _end_tree(self, live: Linked, *, politely: bool) -> None:
        """End claude if asked to, and whatever is left of its tree (9.2)."""
        holder = live.holder.hello.holder_pid  # where the orphans of its tree land, too
        tree = [] if live.holder.lost else await asyncio.to_thread(processes.descendants, holder)
        for signal in ("TERM", "KILL") if politely else ():
            await self._signal(live.holder, signal)
        await self._end_rest(live.session.id, tree)

    async def _signal(self, holder: HolderLink, signal: str) -> None:
        if holder.lost or holder.exited is not None:
            return
        try:
            async with asyncio.timeout(GRACE):
                await holder.signal(signal)
        except (ClaudedoError, TimeoutError) as error:  # it ended meanwhile, or its holder hangs
            log.info("not signalled: %s", error, extra={"action": "signal"})
        await _first(holder.wait_exit(), seconds=GRACE)

    async def _end_rest(self, session_id: str, tree: Sequence[psutil.Process] = ()) -> None:
        marked = await asyncio.to_thread(processes.of_session, session_id)
        await processes.end({*tree, *marked}, GRACE)

    async def _after(self, live: Linked, stop: asyncio.Event) -> Linked | None:
        """The one place that turns an exit into what happens next; the session if it goes on."""
        if isinstance(live, OneShotSession):
            return await self._after_one_shot(live, stop)
        assert isinstance(live, LiveSession)
        exit_ = live.terminal.exited
        starting = live.session.state is SessionState.STARTING
        if exit_ is None:
            await self._lost(live.session, stop)
        elif stop.is_set():
            await self._finish(live.session, SessionState.STOPPED, ON_REQUEST)
        elif exit_.code == 0:
            await self._finish(live.session, SessionState.STOPPED, "ended at its terminal")
        elif starting and exit_.signal is None:
            reason = f"claude ended while starting ({_code(exit_)}): {await _last_words(live)}"
            await self._finish(live.session, SessionState.FAILED, reason)
        elif exit_.shell_code in OUTSIDE_ENDS:
            reason = f"was ended from outside ({_code(exit_)}); `claudedo restart` resumes it"
            await self._finish(live.session, SessionState.INTERRUPTED, reason)
        else:
            return await self._crashed(live, exit_, stop)
        return None

    async def _crashed(
        self, live: LiveSession, exit_: Exit, stop: asyncio.Event
    ) -> LiveSession | None:
        lived = exit_.at - live.terminal.hello.started_at
        crashes = 1 if lived > STEADY else live.session.crashes + 1
        if crashes > self._settings.continue_after_crash:
            reason = (
                f"claude ended by itself ({_code(exit_)}), time {crashes} in a row: "
                f"{await _last_words(live)}; `claudedo restart` resumes it"
            )
            await self._finish(live.session, SessionState.FAILED, reason)
            return None
        pause = BACKOFF[min(crashes, len(BACKOFF)) - 1]
        await live.change(
            state=SessionState.STARTING,
            crashes=crashes,
            waiting_for=f"resuming after a crash ({_code(exit_)}), {crashes} of "
            f"{self._settings.continue_after_crash}, in {pause:.0f} s",
        )
        del self._live[live.session.id]
        await _first(stop.wait(), seconds=pause)
        if stop.is_set():
            raise StoppedError
        return await self._resumed(live)

    async def _resumed(self, live: LiveSession) -> LiveSession:
        """Go on with the same conversation, in the same holder and environment."""
        await asyncio.to_thread(_check_alone, live.session)
        # Without a first prompt there is no transcript yet, and nothing to resume.
        known = locate(Path(live.session.config_dir), live.session.conversation)
        begun = replace(live.session, transcript=str(known) if known else None)
        argv = launch.resumed(self._settings, live.task, begun)
        await live.terminal.respawn(argv, str(launch.workplace(live.task)), {})
        session = await self._store.change_session(
            live.session,
            pid=live.terminal.hello.pid,
            waiting_for="resuming after a crash",
            transcript=str(known) if known else None,
        )
        again = LiveSession(
            self._store,
            live.task,
            session,
            live.terminal,
            self._make_caller,
            grants=live.grants,
            schedule=self._schedule,
        )
        await again.open()
        return again

    # One-shots

    async def _after_one_shot(self, live: OneShotSession, stop: asyncio.Event) -> Linked | None:
        exit_ = live.holder.exited
        if exit_ is None:
            await self._lost(live.session, stop)
            return None
        next_ = await _patiently(lambda: live.ended(exit_, stopped=stop.is_set()))
        if isinstance(next_, RunCheck) and self._queue is not None:
            # Before it leaves something there itself: what is checked is what is committed.
            trouble = await self._queue.keep(live.task)
            next_ = live.failed(trouble) if trouble else next_
        if isinstance(next_, Over):
            await self._verdict(live.session, next_.facts)
            why = ON_REQUEST if stop.is_set() else "came to its end"
            await self._finish(live.session, SessionState.STOPPED, why)
            return None
        if isinstance(next_, Again):
            await live.pause(next_)
            await _first(stop.wait(), seconds=next_.pause)
            if stop.is_set():
                raise StoppedError
        return await self._next_process(live, next_)

    async def _next_process(self, live: OneShotSession, next_: Again | RunCheck) -> Linked:
        """Another process of the same one-shot, in the same holder and environment."""
        known = locate(Path(live.session.config_dir), live.session.conversation)
        session = await self._store.change_session(
            live.session, transcript=str(known) if known else None
        )
        check = isinstance(next_, RunCheck)
        attempt = next_.attempt if isinstance(next_, Again) else live.one_shot.attempts
        await announce(self._store, live.place, session, attempt, check=check)
        if isinstance(next_, RunCheck):
            argv = list(next_.argv)
            changes = {"state": SessionState.BUSY, "waiting_for": "running its check"}
        else:
            await asyncio.to_thread(_check_alone, session)
            stream = await self._stream(session)
            argv = launch.resumed(self._settings, live.task, session, stream)
            changes = {"state": SessionState.STARTING, "waiting_for": "starting claude"}
        await live.pipe.respawn(argv, str(launch.workplace(live.task)), {})
        session = await self._store.change_session(session, pid=live.holder.hello.pid, **changes)
        following = await self._made(live.task, session, live.holder)
        await following.open()
        return following

    async def _verdict(self, session: Session, facts: Facts) -> None:
        """Tell the queue that a one-shot came to its end; nothing for other sessions."""
        queue = self._queue
        if session.one_shot and queue is not None:
            task = await self._store.task(session.task_id)
            await _patiently(lambda: queue.verdict(task, facts))

    async def _cut_off(self, session: Session) -> str:
        """Tell the queue that nobody knows how a one-shot ended; returns what comes of it."""
        facts = await lost(self._settings, self._store, session)
        if facts is not None:
            await self._verdict(session, facts)
            return "it was cut off again and again (its holder was killed)"
        if self._queue is not None:
            await self._queue.requeue(await self._store.task(session.task_id))
        return "it was cut off (a reboot, or its holder was killed) and is queued again"

    async def _lost(self, session: Session, stop: asyncio.Event) -> None:
        """No holder answers: it left word of the end, or it is gone with its terminal."""
        if session.one_shot:
            if stop.is_set():
                raise StoppedError
            reason = await self._cut_off(session)
            await self._finish(session, SessionState.INTERRUPTED, reason)
            return
        exit_file = self._settings.session_dir(session.id) / "exit.json"
        word = await asyncio.to_thread(_read_exit, exit_file)
        if stop.is_set():
            await self._finish(session, SessionState.STOPPED, ON_REQUEST)
        elif word is not None and word.code == 0:
            await self._finish(session, SessionState.STOPPED, "ended at its terminal")
        elif session.pid is None:
            reason = "claudedo was killed while starting it; `claudedo restart` starts it again"
            await self._finish(session, SessionState.INTERRUPTED, reason)
        else:
            reason = (
                "its terminal is gone (a reboot, or its holder was killed); "
                "`claudedo restart` brings it back"
            )
            await self._finish(session, SessionState.INTERRUPTED, reason)

    async def _finish(self, session: Session, state: SessionState, reason: str) -> None:
        """The session is over: nothing of it runs on, nothing of it stays on disk."""
        self._live.pop(session.id, None)
        await self._end_rest(session.id)
        await asks.close_all(self._store, session.id)
        await self._dismiss_holder(Path(session.holder_socket or ""))
        await self._store.change_session(
            await self._store.session(session.id),
            state=state,
            waiting_for=None,
            reason=reason,
            failure=None,
            ended_at=now(),
        )
        folder = self._settings.session_dir(session.id)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _dismiss_holder(self, socket: Path) -> None:
        try:
            holder = await HolderLink.connect(socket)
        except HolderGoneError:
            await asyncio.to_thread(socket.unlink, missing_ok=True)
            return
        except HolderError as error:  # it goes by itself some time after its child
            log.warning("not dismissed: %s", error, extra={"action": "dismiss"})
            return
        async with holder:
            await _first(holder.wait_exit(), seconds=GRACE)
            if holder.exited is not None:
                await holder.leave()

    async def _close_attempts(self, session: Session) -> None:
        await self._end_rest(session.id)  # or it could still write what is about to be read
        path = session.transcript or locate(Path(session.config_dir), session.conversation)
        transcript = Transcript(Path(path or Path(session.config_dir) / "projects/none"))
        await (await Receipts.load(self._store, session.conversation, transcript)).close()


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """What `step` returns, which stores something; tried for a while (a full disk, say)."""
    for _ in range(STORE_PATIENCE - 1):
        try:
            return await step()
        except (OSError, sqlite3.Error):
            log.exception("an end could not be stored", extra={"action": "end_failed"})
        await asyncio.sleep(FAILED_LOOK_PAUSE)
    return await step()


async def _last_words(live: LiveSession) -> str:
    """What the screen said last, and what to do about it where that is known."""
    try:
        shown = await dialogs.look(live.terminal)
    except HolderGoneError:
        return "its screen is lost"
    return dialogs.last_words(shown)


def _check_alone(session: Session) -> None:
    """Refuse to resume a conversation that a process has open: the CLI would not (20.5)."""
    for entry in registry.running(Path(session.config_dir)):
        if entry.conversation == session.conversation:
            raise ConflictError(
                f"This conversation is open in another process ({entry.pid}); end that first."
            )


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; cancels it and raises `StoppedError` once `stop` is set."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise StoppedError
        return task.result()
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.wait([task, stopped])


async def _first(*waits: Awaitable[object], seconds: float) -> None:
    """Return when one of `waits` is done, or after `seconds`; the others are cancelled."""
    pending = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in pending:
            wait.cancel()
    results = await asyncio.gather(*pending, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ClaudedoError):
            raise result


def _code(exit_: Exit) -> str:
    return f"signal {exit_.signal}" if exit_.signal else f"exit status {exit_.code}"


def _read_exit(path: Path) -> Exit | None:
    try:
        word = json.loads(path.read_bytes())
        return Exit(code=word["code"], signal=word["signal"], at=word["at"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
