"""Owns the live sessions: launches them, watches them, ends them, takes them up again.

Everything that is known of a process comes through one watch per session, and every end of a
process goes through `_ended`. It does not know why a session is wanted; see `tasks`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from claudedo.errors import ClaudedoError, ConflictError
from claudedo.holding import Exit
from claudedo.model import Event, Session, SessionState, Task, new_id, now
from claudedo.settings import Settings
from claudedo_worker import dialogs, launch, mcp_server, processes, registry
from claudedo_worker.claude_binary import Claude
from claudedo_worker.live import LiveSession
from claudedo_worker.receipts import Receipts
from claudedo_worker.session_link import hashed
from claudedo_worker.store import Store
from claudedo_worker.terminal import LaunchError, Terminal, TerminalLostError
from claudedo_worker.transcript import Transcript, locate

log = logging.getLogger(__name__)

TICK = 0.1  # seconds; the CLI writes registry and transcript about as often
GRACE = 5.0  # seconds between asking a process to end and killing it
BACKOFF = (1.0, 5.0, 15.0)  # seconds before a crashed session is resumed
POLITE_ENDS = {0, 129, 130, 143}  # /exit, and what a hang-up, Ctrl-C or SIGTERM leave (9.1)

MakeCaller = Callable[[LiveSession], mcp_server.Caller]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a launch needs to know. `environ` is that of the shell that asked for it."""

    claude: Claude
    environ: Mapping[str, str] = field(repr=False)
    peers: tuple[str, ...] = ()
    grants: frozenset[dialogs.Kind] = frozenset()
    conversation: str | None = None  # resume this one
    prepare: Callable[[], Awaitable[Task]] | None = None  # makes the worktree


class Supervisor:
    """All live sessions of this worker."""

    def __init__(self, settings: Settings, store: Store, make_caller: MakeCaller) -> None:
        self._settings = settings
        self._store = store
        self._make_caller = make_caller
        self._live: dict[str, LiveSession] = {}
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def find(self, session_id: str) -> LiveSession | None:
        """The live session of that id."""
        return self._live.get(session_id)

    def expected(self, session_id: str) -> bool:
        """True if that session is being launched, taken up or resumed."""
        return session_id in self._jobs

    def of_task(self, task_id: str) -> LiveSession | None:
        """The live session of a task."""
        return next((live for live in self._live.values() if live.task.id == task_id), None)

    def notice(self, event: Event) -> None:
        """New mail: have its session looked at now."""
        if event.type == "message.queued" and event.task_id:
            live = self.of_task(event.task_id)
            if live:
                live.woken.set()

    async def start(self, task: Task, order: Order) -> Session:
        """Store a new session and launch it in the background. Raises `ConflictError` if one lives."""
        session_id = new_id("s")
        config_dir = registry.config_dir(dict(order.environ))
        resumed = order.conversation and locate(config_dir, order.conversation)
        at = now()
        session = Session(
            id=session_id,
            task_id=task.id,
            conversation=order.conversation if order.conversation and resumed else str(uuid.uuid4()),
            state=SessionState.STARTING,
            waiting_for="making the worktree" if order.prepare else "starting claude",
            since=at,
            pid=None,
            holder_socket=str(self._settings.holder_socket(session_id)),
            transcript=str(resumed) if resumed else None,
            config_dir=str(config_dir),
            cli_version=order.claude.version,
            channel=None if self._settings.channels else False,
            started_at=at,
        )
        session = await self._store.add_session(session, "", task)
        self._run(session.id, self._launch(task, session, order))
        return session

    async def stop(self, task_id: str) -> bool:
        """End a task's session, the whole process tree; False if none lives.

        Asks first (SIGTERM), kills what is left after a few seconds.
        """
        session = await self._store.latest_session(task_id)
        if session is None or not session.state.live:
            return False
        live = self._live.get(session.id)
        if live is None:
            await self._cancel(session.id)
            await self._store.change_session(
                session, state=SessionState.STOPPED, ended_at=now(), waiting_for=None
            )
            return True
        live.stopping = True
        tree = processes.descendants(live.session.pid or 0)
        await self._end_process(live)
        await processes.end([*tree, *processes.of_session(session.id)], GRACE)
        await self._finished(session.id)
        return True

    async def recover(self) -> None:
        """Take up the sessions that an earlier worker left: still running, ended, or lost."""
        for session in await self._store.live_sessions():
            task = await self._store.task(session.task_id)
            self._run(session.id, self._take_up(task, session))
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Let go of the sessions; they go on without this worker."""
        for session_id in list(self._jobs):
            await self._cancel(session_id)
        for live in self._live.values():
            await live.terminal.close()
        self._live.clear()

    # Beginning

    async def _launch(self, task: Task, session: Session, order: Order) -> None:
        try:
            if order.prepare:
                task = await order.prepare()
                session = await self._store.change_session(session, waiting_for="starting claude")
            terminal, session = await self._spawn(task, session, order)
        except (ClaudedoError, OSError) as error:
            await self._store.change_session(
                session,
                state=SessionState.FAILED,
                waiting_for=None,
                reason=str(error),
                ended_at=now(),
            )
            return
        live = LiveSession(
            self._store, task, session, terminal, self._make_caller, grants=order.grants
        )
        await self._watch(live)

    async def _spawn(
        self, task: Task, session: Session, order: Order
    ) -> tuple[Terminal, Session]:
        plan = await asyncio.to_thread(
            launch.prepare,
            self._settings,
            task,
            session.id,
            conversation=session.conversation,
            resume=session.transcript is not None,
            environ=order.environ,
            peers=order.peers,
            claude=order.claude.path,
        )
        self._check_alone(session)
        await self._store.set_credential(session.id, hashed(plan.credential))
        folder = self._settings.session_dir(session.id)
        spec = {
            "socket": session.holder_socket,
            "argv": plan.argv,
            "cwd": str(plan.cwd),
            "env": plan.env,
            "rows": dialogs.ROWS,
            "cols": dialogs.COLS,
            "exit_file": str(folder / "exit.json"),
            "log": str(folder / "holder.log"),
        }
        holder = launch.install_programs(self._settings.home) / "holder.py"
        terminal = await Terminal.launch(launch.base_python(), holder, spec)
        pid = terminal.hello.pid
        return terminal, await self._store.change_session(session, pid=pid)

    def _check_alone(self, session: Session) -> None:
        """Refuse to resume a conversation that a process has open: the CLI would not (20.5)."""
        for path in (Path(session.config_dir) / "sessions").glob("*.json"):
            if not path.stem.isdigit() or not processes.alive(int(path.stem)):
                continue
            entry = registry.read(Path(session.config_dir), int(path.stem))
            if entry and entry.conversation == session.conversation:
                raise ConflictError(
                    f"This conversation is open in another process ({entry.pid}); end that first."
                )

    async def _take_up(self, task: Task, session: Session) -> None:
        try:
            terminal = await Terminal.connect(session.holder_socket or "")
        except (TerminalLostError, OSError):
            await self._lost(session)
            return
        session = await self._store.change_session(session, pid=terminal.hello.pid)
        live = LiveSession(
            self._store, task, session, terminal, self._make_caller, adopted=True
        )
        await self._watch(live)

    # Watching

    async def _watch(self, live: LiveSession) -> None:
        await live.open()
        self._live[live.session.id] = live
        while live.terminal.exited is None and not live.terminal.lost:
            await self._look(live)
            live.woken.clear()
            await _first(live.woken.wait(), live.terminal.wait_exit(), seconds=TICK)
        if live.terminal.exited is None:
            await self._lost(live.session)
        else:
            await self._ended(live, live.terminal.exited)

    async def _look(self, live: LiveSession) -> None:
        try:
            await live.look()
        except TerminalLostError:
            log.info("the holder is gone", extra={"action": "holder_lost"})
        except ClaudedoError:
            # One bad step (a full disk, say) must not end the watch; the next one tries again.
            log.exception("a look at a session failed", extra={"action": "look_failed"})

    # Ending

    async def _ended(self, live: LiveSession, exit_: Exit) -> None:
        """The one place that turns an exit into a state."""
        last = await self._last_words(live)
        starting = live.session.state is SessionState.STARTING
        await live.courier.close()
        await self._end_rest(live.session.id)
        polite = exit_.shell_code in POLITE_ENDS
        if live.stopping or (polite and not (starting and exit_.shell_code)):
            reason = "stopped" if live.stopping else "ended at its terminal"
            await live.change(
                state=SessionState.STOPPED, waiting_for=None, reason=reason, ended_at=now()
            )
        elif starting:
            await live.change(
                state=SessionState.FAILED,
                waiting_for=None,
                reason=f"claude ended while starting ({_code(exit_)}): {last}",
                ended_at=now(),
            )
        elif live.session.crashes < self._settings.continue_after_crash:
            await self._resume(live, exit_)
            return
        else:
            await live.change(
                state=SessionState.FAILED,
                waiting_for=None,
                reason=f"claude ended by itself ({_code(exit_)}), {live.session.crashes + 1} times",
                ended_at=now(),
            )
        await live.terminal.leave()
        self._live.pop(live.session.id, None)

    async def _resume(self, live: LiveSession, exit_: Exit) -> None:
        """A crash: go on with the same conversation, in the same holder and environment."""
        crashes = live.session.crashes + 1
        pause = BACKOFF[min(crashes, len(BACKOFF)) - 1]
        await live.change(
            state=SessionState.STARTING,
            crashes=crashes,
            waiting_for=f"resuming after a crash ({_code(exit_)}), {crashes} of "
            f"{self._settings.continue_after_crash}, in {pause:.0f} s",
        )
        await asyncio.sleep(pause)
        self._live.pop(live.session.id, None)
        known = locate(Path(live.session.config_dir), live.session.conversation)
        argv = launch.resumed(self._settings, live.task, live.session, resume=known is not None)
        try:
            await live.terminal.respawn(argv, live.task.worktree or live.task.repo or ".", {})
        except (LaunchError, ClaudedoError) as error:
            await live.change(
                state=SessionState.FAILED, waiting_for=None, reason=str(error), ended_at=now()
            )
            return
        session = await self._store.change_session(
            live.session,
            pid=live.terminal.hello.pid,
            waiting_for="resuming after a crash",
            transcript=str(known) if known else None,
        )
        again = LiveSession(
            self._store, live.task, session, live.terminal, self._make_caller, grants=live.grants
        )
        await self._watch(again)

    async def _lost(self, session: Session) -> None:
        """No holder answers: it left word of the end, or it is gone with its terminal."""
        live = self._live.pop(session.id, None)
        exit_file = self._settings.session_dir(session.id) / "exit.json"
        word = await asyncio.to_thread(_read_exit, exit_file)
        await self._end_rest(session.id)
        if live:
            await live.courier.close()
        else:
            await self._close_attempts(session)
        session = await self._store.session(session.id)
        if word is not None and word.shell_code in POLITE_ENDS:
            await self._store.change_session(
                session, state=SessionState.STOPPED, waiting_for=None, ended_at=now()
            )
            return
        await self._store.change_session(
            session,
            state=SessionState.INTERRUPTED,
            waiting_for=None,
            reason="its terminal is gone (a reboot, or its holder was killed); "
            "`claudedo restart` brings it back",
            ended_at=now(),
        )

    async def _close_attempts(self, session: Session) -> None:
        path = session.transcript or locate(Path(session.config_dir), session.conversation)
        transcript = Transcript(Path(path or Path(session.config_dir) / "projects/none"))
        await (await Receipts.load(self._store, session.conversation, transcript)).close()

    async def _end_process(self, live: LiveSession) -> None:
        for signal in ("TERM", "KILL"):
            if live.terminal.lost or live.terminal.exited is not None:
                return
            await live.terminal.signal(signal)
            await _first(live.terminal.wait_exit(), seconds=GRACE)

    async def _end_rest(self, session_id: str) -> None:
        """End what is left of a session's tree: older versions leave commands running (9.2)."""
        rest = await asyncio.to_thread(processes.of_session, session_id)
        await processes.end(rest, GRACE)

    async def _last_words(self, live: LiveSession) -> str:
        try:
            shown = await dialogs.look(live.terminal)
        except TerminalLostError:
            return "its screen is lost"
        lines = [line.strip() for line in shown.lines if line.strip(" ─│╭╮╰╯")]
        return " / ".join(lines[-4:]) or "it showed nothing"

    # Jobs

    def _run(self, session_id: str, job: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded(session_id, job))
        self._jobs[session_id] = task

    async def _guarded(self, session_id: str, job: Awaitable[None]) -> None:
        try:
            await job
        except Exception:
            log.exception("a session's watch failed", extra={"action": "watch_failed"})
            self._live.pop(session_id, None)
            raise
        finally:
            if self._jobs.get(session_id) is asyncio.current_task():
                self._jobs.pop(session_id)

    async def _finished(self, session_id: str) -> None:
        job = self._jobs.get(session_id)
        if job:
            await asyncio.wait([job], timeout=4 * GRACE)

    async def _cancel(self, session_id: str) -> None:
        job = self._jobs.pop(session_id, None)
        if job:
            job.cancel()
            await asyncio.wait([job])


async def _first(*waits: Awaitable[object], seconds: float) -> None:
    """Return when one of `waits` is done, or after `seconds`; the others are cancelled."""
    pending = [asyncio.ensure_future(wait) for wait in waits]
    _, unfinished = await asyncio.wait(
        pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
    )
    for wait in unfinished:
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
