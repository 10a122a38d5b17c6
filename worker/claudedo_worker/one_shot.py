"""One live session without a terminal: from a prompt to the facts that its verdict is made of.

Reads what its process writes, gives it its mail and the answers to what it asks, lets it end when
there is nothing more to do, and ends it when it takes too long. What comes after the end of a
process is decided in `ended`; `supervisor` then does it. All that is to be known is in the output
file and the store, so a new worker goes on where another one was killed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from claudedo.holding import Exit, HolderRefusedError
from claudedo.model import (
    AskKind,
    AskOutcome,
    FailureKind,
    OneShot,
    Session,
    SessionState,
    Task,
    TaskStatus,
    now,
    stamp,
)
from claudedo.settings import Settings, make_private
from claudedo_worker import ask_text, claude_binary, failures, mcp_server, transcript
from claudedo_worker.decision import ALLOW
from claudedo_worker.holder_link import HolderLink
from claudedo_worker.inbox import HALTED
from claudedo_worker.judge import Check, Denial, Facts, Refused
from claudedo_worker.linked import Linked
from claudedo_worker.pipes import PipedProcess
from claudedo_worker.session_link import Waiter
from claudedo_worker.store import Store
from claudedo_worker.stream_asks import StreamAsks
from claudedo_worker.stream_courier import WRITE_PATIENCE, StreamCourier
from claudedo_worker.stream_json import (
    Answered,
    Background,
    Began,
    Cancelled,
    Echo,
    Ended,
    Event,
    Init,
    Output,
    Permission,
    interrupt_line,
    make_file,
)
from claudedo_worker.stream_record import Process, Record
from claudedo_worker.threads import Threads, session_of
from claudedo_worker.transcript import locate

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds between two steps of ending a process: asking it to, SIGTERM, SIGKILL."""

LOSSES = 3
"""How often its holder may be lost in one run: whatever it does, it may be that which ends it."""

CHECK_TIME = 60.0
"""Seconds that a check has at least, however little its session left of the time."""

BACKGROUND_PATIENCE = 600.0
"""Seconds for which work beside the turns may go on after the last of them."""

NEWS_PATIENCE = 2.0
"""Seconds within which a turn begins that tells the model of the end of such work."""

EXIT_PATIENCE = 60.0
"""Seconds from the end of the input to the end of a process that has nothing more to do."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds until it is tried again the first time; twice as long each further time."""

RESET_MARGIN = 5.0
"""Seconds after the reset of a limit at which it is tried again."""

ACT_EVERY = 0.5
"""Seconds between two full looks while nothing is seen to happen."""

KEEPS_SIDE_LINES = (2, 1, 330)
"""The first version known to resume with what hangs beside the chain of the newest line."""

ENDED_EARLY = "Your process ended early and was started again."
REFUSED = "The API refused the last request, which ended your turn early."
UNANSWERED = (
    "(This is from claudedo, not from your user.) Nobody decided this within {time:g} s. "
    "Go on without, or end your turn."
)

_ABOUT = ("command", "file_path", "path", "pattern", "url", "description", "prompt", "query")


@dataclass(frozen=True, kw_only=True)
class Again:
    """Another process goes on with the conversation, after a pause in seconds."""

    pause: float
    attempt: int  # its number
    why: str


@dataclass(frozen=True, kw_only=True)
class RunCheck:
    """The task's check runs, in the same holder."""

    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Over:
    """No further process."""

    facts: Facts


Next = Again | RunCheck | Over


class Queue(Protocol):
    """Who wanted the one-shot, and hears of its end."""

    async def verdict(self, task: Task, facts: Facts) -> None:
        """Its last process has ended."""
        ...

    async def keep(self, task: Task) -> str | None:
        """Commit what was done, for its check; returns why that cannot be."""
        ...

    async def requeue(self, task: Task) -> None:
        """It was cut off, and nobody knows how it would have ended."""
        ...


@dataclass(frozen=True)
class Place:
    """Where the processes of one one-shot write, and the notes about them."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings, task: Task) -> Place:
        """That of a task."""
        return cls(settings.run_dir(task.id))

    @property
    def output(self) -> Path:
        """What its session said: JSON, one object a line."""
        return self.folder / "output.jsonl"

    @property
    def errors(self) -> Path:
        """The error output."""
        return self.folder / "errors.log"

    @property
    def check_log(self) -> Path:
        """What its check printed."""
        return self.folder / "check.log"

    @property
    def files(self) -> dict[str, str]:
        """The same for its holder."""
        return {"output": str(self.output), "errors": str(self.errors)}

    def make(self) -> None:
        """Raises `OSError`."""
        make_private(self.folder.parent)
        make_private(self.folder)

    def complaint(self, since: int) -> str | None:
        """The last line of the error output that was written behind the first `since` bytes."""
        try:
            with self.errors.open("rb") as file:
                file.seek(max(since, file.seek(0, 2) - 8192))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return None
        return next((line.strip() for line in reversed(lines) if line.strip()), None)


async def announce(
    store: Store, place: Place, session: Session, attempt: int, *, check: bool = False
) -> OneShot:
    """Note that a process is about to be started, in the output file and in the record."""
    one_shot = await store.one_shot(session.task_id)
    assert one_shot is not None
    place.make()
    errors = place.errors.stat().st_size if place.errors.exists() else 0
    began = Began(
        attempt=attempt,
        session=session.id,
        at=time.time(),
        errors=errors,
        check=check,
        resumes=session.transcript is not None,
        run=one_shot.started_at,
    )
    Output(place.output).add(began)
    if check:
        make_file(place.check_log)
    return await store.change_one_shot(one_shot, attempts=attempt, checking=check, not_before=None)


async def lost(settings: Settings, store: Store, session: Session) -> Facts | None:
    """Settle the accounts of a one-shot whose process was lost with its holder.

    What was tried does not count. Returns facts if it is not to be begun once more.
    """
    task, one_shot = await store.task(session.task_id), await store.one_shot(session.task_id)
    place, record = Place.of(settings, task), Record()
    output = Output(place.output)
    await asyncio.to_thread(_take_all, record, output)
    if one_shot is None or one_shot.status.over or not record.processes:
        return None
    newest = record.newest
    if newest.ended is None and newest.began.session == session.id:
        # It lived at least as long as it said something.
        at = max(place.output.stat().st_mtime, newest.began.at)
        seconds = round(one_shot.seconds + at - newest.began.at, 3)
        spent = round(one_shot.spent + (0.0 if newest.began.check else record.cost()), 6)
        output.add(Ended(code=None, at=at, seconds=seconds, spent=spent))
        record.take(output.read())
        await store.change_one_shot(
            one_shot, attempts=max(0, one_shot.attempts - 1), seconds=seconds, spent=spent
        )
    run = [p for p in record.processes if p.began.run == newest.began.run]
    losses = sum(p.ended is None or p.ended.code is None for p in run)
    if losses <= LOSSES:
        return None
    often = f"its holder was ended {losses} times, perhaps by what it did"
    return Facts(exit=None, ended=False, complaint=often, errors=str(place.errors))


class OneShotSession(Linked):
    """A session that reads and writes JSON lines. Its methods run on the worker's event loop."""

    tick: ClassVar[float] = 0.025  # it is waited for: every look late is added to its time

    _courier: StreamCourier | None

    def __init__(
        self,
        settings: Settings,
        store: Store,
        task: Task,
        session: Session,
        pipe: PipedProcess,
        make_caller: Callable[[Linked], mcp_server.Caller],
        *,
        one_shot: OneShot,
        threads: Threads,
        adopted: bool = False,
    ) -> None:
        """`adopted`: its process was started by an earlier worker."""
        super().__init__(store, task, session, pipe, make_caller)
        self.place = Place.of(settings, task)
        self.asks = StreamAsks(store, task, session.id, one_shot.rules, self._write)
        self.one_shot = one_shot
        self._settings = settings
        self._threads = threads
        self._adopted = adopted
        self._output = Output(self.place.output)
        self._record = Record()
        self._ending: float | None = None  # since when it is being ended
        self._steps: list[Callable[[], Awaitable[None]]] = []
        self._finished_at: float | None = None  # the end of its input
        self._over_at: float | None = None  # when its last turn ended
        self._news_until: float | None = None  # when the turn that tells of it has begun
        self._act_at = 0.0
        self._unheeded: deque[Event] = deque()
        self._person_at = 0.0  # when it was last looked what a person is to decide
        self._awaited: str | None = None  # that

    @property
    def pipe(self) -> PipedProcess:
        """Its input and its end."""
        assert isinstance(self.holder, PipedProcess)
        return self.holder

    @property
    def courier(self) -> StreamCourier:
        """Delivery for this process; there once `open` has run."""
        assert self._courier is not None
        return self._courier

    @property
    def decider(self) -> StreamAsks:
        """Where what it asks is decided."""
        return self.asks

    @property
    def checking(self) -> bool:
        """True if the process is the task's check."""
        return self._record.newest.began.check

    async def open(self) -> None:
        """Read what there is of it, and take up what was offered to it before."""
        await asyncio.to_thread(_take_all, self._record, self._output)
        if not self._record.processes:  # somebody removed the file
            self._record.take([self._began_unseen()])
        known = self.session.transcript or _text(self._located())
        receipts = await self._receipts(self.session.conversation, known)
        newest = self._record.newest
        drops = claude_binary.parse(self.session.cli_version) < KEEPS_SIDE_LINES
        if drops and newest.began.resumes and not self._adopted:
            await receipts.forget_side_lines()
        self._courier = StreamCourier(
            self.store,
            self.task,
            self.session,
            receipts,
            self.pipe,
            resumes=self._why_resumed() if newest.began.resumes else None,
            begun=newest.was_in_turn,
        )
        await self.asks.load(newest.waiting.values())

    def _began_unseen(self) -> Began:
        return Began(
            attempt=max(1, self.one_shot.attempts),
            session=self.session.id,
            at=self.holder.hello.started_at,
            check=self.one_shot.checking,
            resumes=self.session.transcript is not None,
            run=self.one_shot.started_at,
        )

    async def close(self) -> None:
        """The process is gone: what its transcript does not show did not happen."""
        self._record.take(self._output.read())
        if self.checking:
            return
        await self._locate()
        await self.courier.close()
        await self.asks.close()
        await self._count(ended=True)

    def connect(self, holder: HolderLink) -> None:
        """The connection to its holder was lost and is there again."""
        super().connect(holder)
        self.courier.connect(self.pipe)
        self.asks.lost()

    # What the watch does

    async def look(self) -> None:
        """One step of the watch: output, mail, asks, limits, and whether it is done."""
        if not self.checking:
            self._read()
        await self._keep_limits()  # whatever may fail below (a full disk)
        if not self.checking and (self._unheeded or self._is_due()):
            self._act_at = time.monotonic() + ACT_EVERY
            await self._heed_all()
            await self._act()

    def _is_due(self) -> bool:
        return self.woken.is_set() or time.monotonic() >= self._act_at

    def _read(self) -> None:
        events = self._output.read()
        self._record.take(events)
        self._unheeded.extend(events)

    async def _heed_all(self) -> None:
        """Heed what it wrote; what fails is heeded again."""
        while self._unheeded:
            await self._heed(self._unheeded[0])
            self._unheeded.popleft()

    async def _act(self) -> None:
        await self._locate()
        await self._keep_claims()
        await self._follow_asks()
        if self._ending is None:
            await self.courier.step()
            await self._end_if_done()
        await self._tell()
        await self._count_now_and_then()

    async def _heed(self, event: Event) -> None:
        match event:
            case Init():
                self.courier.begin()
                self._over_at = self._news_until = None
            case Background(runs=False) if self._record.newest.result is not None:
                self._news_until = time.monotonic() + NEWS_PATIENCE
            case Echo():
                await self.courier.echoed({event.uuid})
            case Permission():
                self.asks.asked(event)
            case Cancelled() | Answered():
                await self.asks.gone(event.request_id)

    async def _locate(self) -> None:
        if self.session.transcript is None and (path := self._located()):
            await self.change(transcript=str(path))
            self.courier.transcript.path = path

    def _located(self) -> Path | None:
        return locate(Path(self.session.config_dir), self.session.conversation)

    async def _follow_asks(self) -> None:
        if self.asks.headline() and await self.store.halting(self.task.id):
            await self.asks.deny_all(HALTED)
        await self.asks.step()

    async def _end_if_done(self) -> None:
        """Close its input once its last turn is over and nothing more is to come."""
        process = self._record.newest
        result = process.result
        if self._finished_at is not None:
            return
        if result is None:
            if not self.courier.begun and await self.courier.finish():
                self._finished_at = time.monotonic()  # nobody has anything to say to it
            return
        self._over_at = self._over_at or time.monotonic()
        # What was refused once would be refused again; a halted session hears why.
        hopeless = result.is_error and not (
            result.subtype == "error_during_execution" and self.courier.halted
        )
        if not hopeless and (self.asks.is_open or self._works_beside(process)):
            return
        if not hopeless and await self._awaits_person():
            return
        if await self.courier.finish(whatever=hopeless):
            self._finished_at = time.monotonic()

    def _works_beside(self, process: Process) -> bool:
        """True while something runs whose end would start a turn by itself (34.5)."""
        at = time.monotonic()
        if self._news_until is not None and at < self._news_until:
            return True
        return bool(process.background) and at - (self._over_at or 0.0) < BACKGROUND_PATIENCE

    async def _awaits_person(self) -> bool:
        """True while it may still be answered what it made a task of for a person.

        What nobody decided in time is decided as it was set beforehand, which is told to it.
        """
        if self._awaited and time.monotonic() < self._person_at:
            return True
        self._person_at = time.monotonic() + ACT_EVERY
        rules = self.one_shot.rules
        waiting = await self._threads.unanswered(session_of(self.task))
        self._awaited = f"{waiting[0][1].kind}: {waiting[0][1].title}" if waiting else None
        for _, ask in waiting:
            opened = datetime.fromisoformat(ask.opened_at)
            if (datetime.now(UTC) - opened).total_seconds() >= rules.ask_timeout:
                allowed = rules.ask_default == ALLOW
                outcome = AskOutcome.ALLOWED if allowed else AskOutcome.DENIED
                words = UNANSWERED.format(time=rules.ask_timeout)
                await self._threads.expire(ask, outcome, words)
        return bool(waiting)

    async def _tell(self) -> None:
        """Keep in the record what it does."""
        process = self._record.newest
        over = process.result is not None
        if asks := self.asks.headline() or (over and self._awaited) or None:
            await self.change(state=SessionState.WAITING, waiting_for=asks)
        elif over:
            doing = None if self._finished_at is None else "ending"
            await self.change(state=SessionState.IDLE, waiting_for=doing)
        elif process.in_turn:
            await self.change(state=SessionState.BUSY, waiting_for=_doing(process))

    # Limits

    def part(self) -> bool:
        """Somebody wants it to end; False once all was tried."""
        self.end()
        return bool(self._steps) or time.monotonic() < (self._ending or 0.0)

    def end(self) -> None:
        """Have it end: its turn is interrupted; what does not end then is killed bit by bit."""
        if self._ending is None:
            self._ending = time.monotonic()
            self._steps = [
                self._ask_to_end,
                lambda: self._signal("TERM"),
                lambda: self._signal("KILL"),
            ]

    async def _ask_to_end(self) -> None:
        """The gentlest way there is: between turns it may just go."""
        newest = self._record.newest
        if newest.in_turn:
            await self._write(interrupt_line("end"))
        elif newest.result is None or self.checking:
            await self._steps.pop(0)()

    async def _keep_limits(self) -> None:
        if self._late() or self._is_hopeless() or self._lingers():
            self.end()
        if self._ending is None:
            return
        if self._steps and time.monotonic() >= self._ending:
            self._ending = time.monotonic() + GRACE
            await self._steps.pop(0)()
        if self._record.newest.result is not None and self._finished_at is None:
            await self._finish()

    def _late(self) -> bool:
        limit = self._limit()
        return limit is not None and time.time() - self.holder.hello.started_at >= limit

    def _limit(self) -> float | None:
        """Seconds that this process has."""
        timeout = self.one_shot.timeout
        left = None if timeout is None else max(0.0, timeout - self.one_shot.seconds)
        return self._time_of_check(left) if self.checking else left

    def _time_of_check(self, left: float | None) -> float:
        return float(self._settings.setup_timeout) if left is None else max(left, CHECK_TIME)

    def _is_hopeless(self) -> bool:
        """True if the CLI tries again what will not be better then (34.6).

        Once it may: with a credential that it has just renewed.
        """
        retry = self._record.newest.retry
        if retry is None or retry.attempt < 2:
            return False
        kind = failures.kind_of(_refusal(retry.error, retry.status, ""))
        return kind in (FailureKind.AUTHENTICATION, FailureKind.BILLING)

    def _lingers(self) -> bool:
        at = self._finished_at
        idle = self._record.newest.result is not None
        return at is not None and idle and time.monotonic() - at > EXIT_PATIENCE

    async def _finish(self) -> None:
        self._finished_at = self._finished_at or time.monotonic()
        await self.courier.finish(whatever=True)

    async def _signal(self, name: str) -> None:
        try:
            await self.holder.signal(name)
        except HolderRefusedError:
            log.info("it has ended", extra={"action": "signal"})

    async def _write(self, line: bytes) -> None:
        """Raises `HolderRefusedError` and `HolderGoneError`."""
        try:
            async with asyncio.timeout(WRITE_PATIENCE):
                await self.pipe.write(line)
        except TimeoutError:
            log.info("its input is full", extra={"action": "input_full", "task": self.task.name})

    # After the end of a process

    async def ended(self, exit_: Exit, *, stopped: bool) -> Next:
        """What comes after the end of its process. The same whenever it is asked."""
        newest = self._record.newest
        if newest.began.at > self.holder.hello.started_at:
            return self._as_before(newest)  # a worker was killed before it could start that one
        await self._settle_accounts(exit_)
        process = self._record.session
        assert process is not None
        code = exit_.shell_code
        left = False
        if process.is_complete and code >= 128:
            left = self._ending is None and await self.store.pending(self.task.id) > 0
            code = 0  # it was done, and would not go by itself
        if newest.began.check:
            return self._after_check(exit_, stopped=stopped)
        if stopped:
            return self._over(cancelled=True, exit=code)
        if not process.is_complete and self._was_late():
            return self._over(timeout=self.one_shot.timeout, exit=code)
        if left and (again := self._again("claude was killed before it had its mail", None)):
            return again
        next_ = self._after_refusal(process, code) or self._after_death(process, code)
        if isinstance(next_, Again) and self._spent_all():
            return self._over(budget=self.one_shot.budget, exit=code)
        return next_ or await self._after_work(code)

    def _spent_all(self) -> bool:
        budget = self.one_shot.budget
        return budget is not None and self.one_shot.spent >= budget

    def _as_before(self, newest: Process) -> Next:
        if newest.began.check:
            return RunCheck(argv=self._check_argv())
        return Again(pause=0.0, attempt=newest.began.attempt, why="its worker was killed")

    async def _settle_accounts(self, exit_: Exit) -> None:
        """Count what the process took, once: the file says whether that was done."""
        newest = self._record.newest
        if newest.ended is None:
            lived = max(0.0, exit_.at - self.holder.hello.started_at)
            cost = 0.0 if newest.began.check else self._record.cost()
            ended = Ended(
                code=exit_.shell_code,
                at=exit_.at,
                seconds=round(self.one_shot.seconds + lived, 3),
                spent=round(self.one_shot.spent + cost, 6),
            )
            self._output.add(ended)
            self._record.take(self._output.read())
        assert newest.ended is not None
        self.one_shot = await self.store.change_one_shot(
            self.one_shot, seconds=newest.ended.seconds, spent=newest.ended.spent
        )

    def _was_late(self) -> bool:
        timeout = self.one_shot.timeout
        return timeout is not None and self.one_shot.seconds >= timeout

    def _after_check(self, exit_: Exit, *, stopped: bool) -> Next:
        late = exit_.at - self.holder.hello.started_at >= self._limit_of_check()
        check = Check(
            command=str(self.one_shot.check),
            exit=None if late else exit_.shell_code,
            log=str(self.place.check_log),
        )
        return self._over(check=check, cancelled=stopped, exit=0)

    def _limit_of_check(self) -> float:
        timeout, ended = self.one_shot.timeout, self._record.newest.ended
        if timeout is None or ended is None:
            return self._time_of_check(None)
        lived = ended.at - self.holder.hello.started_at
        return self._time_of_check(timeout - (self.one_shot.seconds - lived))

    def _after_refusal(self, process: Process, code: int) -> Next | None:
        """The API did not do its part: tried again if that may help."""
        result, hopeless = process.result, self._is_hopeless()
        if result is not None and result.subtype == "error_max_budget_usd":
            return self._over(budget=self.one_shot.budget, exit=code)
        if not hopeless and (result is None or not result.is_refusal):
            return None
        said = process.refusal
        retry = process.retry
        status = (result.status if result else None) or (retry.status if retry else None)
        word = said.error if said else retry.error if retry else "unknown"
        text = (result.text if result else None) or (said.text if said else None) or word
        refusal = _refusal(word, status, text, said.resets_at if said else None)
        again = None
        if failures.kind_of(refusal) in (FailureKind.RATE_LIMIT, FailureKind.OVERLOADED):
            again = self._again(text, failures.reset_of(refusal, datetime.now(UTC)))
        return again or self._over(refused=Refused(text=text, status=status), exit=code)

    def _after_death(self, process: Process, code: int) -> Next | None:
        """It ended without a result, by itself: tried again unless it never began to work."""
        if process.result is not None or code == 0 or not process.was_in_turn:
            return None
        return self._again(f"claude ended with {code}", None)

    def _again(self, why: str, reset: datetime | None) -> Again | None:
        done = self.one_shot.attempts
        if done > self.one_shot.retries:
            return None
        if self.one_shot.not_before:  # another worker was waiting
            at = datetime.fromisoformat(self.one_shot.not_before)
            left = max(0.0, (at - datetime.now(UTC)).total_seconds())
            return Again(pause=left, attempt=done + 1, why=why)
        pause = min(FIRST_PAUSE * 2 ** (done - 1), LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        if reset is not None:
            pause = max(pause, (reset - datetime.now(UTC)).total_seconds() + RESET_MARGIN)
        return Again(pause=pause, attempt=done + 1, why=why)

    async def _after_work(self, code: int) -> Next:
        process = self._record.session
        assert process is not None
        status = (await self.store.task(self.task.id)).status
        turned_down = status in (TaskStatus.REJECTED, TaskStatus.BLOCKED)
        if self.one_shot.check and process.is_complete and code == 0 and not turned_down:
            return RunCheck(argv=self._check_argv())
        return self._over(exit=code)

    def _check_argv(self) -> tuple[str, ...]:
        """The check in a shell, what it prints in a file of its own."""
        run = 'exec /bin/sh -c "$1" >"$0" 2>&1 </dev/null'
        return ("/bin/sh", "-c", run, str(self.place.check_log), str(self.one_shot.check))

    def failed(self, trouble: str) -> Over:
        """It cannot go on, for a reason that is not its own."""
        return self._over(trouble=trouble)

    def _over(self, **facts: Any) -> Over:
        process = self._record.session
        assert process is not None
        denials = tuple(_denial(d.tool, d.input, self.task) for d in self._record.denials())
        complaint = process.unreadable or self.place.complaint(process.began.errors)
        result = process.result
        common = {
            "ended": result is not None,
            "is_error": result is not None and result.is_error,
            "said": process.said,
            "complaint": complaint,
            "denials": denials,
            "attempts": self.one_shot.attempts,
            "errors": str(self.place.errors),
        }
        return Over(facts=Facts(**{**common, **facts}))

    def _why_resumed(self) -> str:
        before = self._record.before
        if before is None or before.is_complete:
            return ""
        return REFUSED if before.result is not None and before.result.is_refusal else ENDED_EARLY

    async def pause(self, again: Again) -> None:
        """Keep in the records that it will be tried again, and when."""
        at = datetime.fromtimestamp(time.time() + again.pause, UTC)
        self.one_shot = await self.store.change_one_shot(self.one_shot, not_before=stamp(at))
        why = " ".join(again.why.split())[:120]
        words = (
            f"trying again in {again.pause:.0f} s ({self.one_shot.attempts} of "
            f"{self.one_shot.retries + 1} times: {why})"
        )
        await self.change(state=SessionState.STARTING, waiting_for=words)

    # What its processes say (session_link.LinkedSession)

    def waiter_came(self, waiter: Waiter) -> bool:
        """It is never idle for long: none is wanted."""
        return False

    def waiter_left(self, waiter: Waiter) -> None:
        """None was taken."""

    async def hook(self, event: str, call: dict[str, Any], key: str) -> dict[str, Any]:
        """It has no hooks of ours; what asks nevertheless gets no answer."""
        return {}

    async def hook_cancelled(self, key: str) -> None:
        """None is held."""

    async def hooks_held(self, keys: frozenset[str]) -> None:
        """None is held."""

    async def session_started(self, payload: dict[str, Any]) -> dict[str, Any]:
        """It has no hooks of ours."""
        return {}

    def transports(self) -> list[str]:
        """Which ways in are open at this moment."""
        ways = {
            "stream": not self.checking and self.courier.takes_mail and not self.holder.lost,
            "check_inbox": self._bridge is not None,
        }
        return [way for way, there in ways.items() if there]


def _take_all(record: Record, output: Output) -> None:
    for events in output.pieces():
        record.take(events)


def _refusal(
    error: str, status: int | None, text: str, resets_at: float | None = None
) -> transcript.Refusal:
    return transcript.Refusal(error=error, status=status, text=text, at=now(), resets_at=resets_at)


def _doing(process: Process) -> str | None:
    """Its newest tool call in a line."""
    if process.retry is not None:
        status = f" ({process.retry.status})" if process.retry.status else ""
        return f"the API does not answer{status}: {process.retry.error}"
    if process.call is None:
        return None
    tool, given = process.call
    about = next((str(given[key]) for key in _ABOUT if given.get(key)), "")
    line = " ".join(ask_text.visible(f"{tool}: {about}" if about else tool).split())
    return line if len(line) <= ask_text.TITLE_LIMIT else f"{line[: ask_text.TITLE_LIMIT - 1]}…"


def _denial(tool: str, given: Any, task: Task) -> Denial:
    folder = task.worktree or task.repo
    kind, title, _ = ask_text.describe(tool, given, Path(folder) if folder else None)
    return Denial(
        tool=tool,
        about=title if kind is not AskKind.PERMISSION else title.removeprefix(f"{tool}: "),
    )


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
