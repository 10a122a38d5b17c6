"""Runs the person's `notify` command when something waits for them or failed (docs/notify.md).

Listens to what is stored and keeps nobody waiting: what is to be told stands in a short queue, and
one command at a time tells it. Texts reach the command by its environment and standard input only,
never by its command line. What happened before this worker is not told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import tempfile
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from claudedo import protocol
from claudedo.errors import ClaudedoError, NotFoundError
from claudedo.model import Event, Failure, Session, SessionState
from claudedo_worker import failures
from claudedo_worker.store import Store

log = logging.getLogger(__name__)

QUEUED = 100
"""How many facts wait to be told at most; further ones are dropped, and the log says so."""

SECONDS = 10.0
"""How long one command may take before it is ended with everything that it started."""

TOLD = 1_000
"""How many facts are remembered so that none is told twice."""

TEXT = 500
"""Characters of a text in the environment; standard input has all of it."""

OUTPUT = 4_000
"""Bytes of a command's output that the log may show."""

_BROKEN = frozenset({SessionState.FAILED, SessionState.INTERRUPTED})


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One fact that the person is told."""

    key: tuple[str, ...]  # the same for the same fact
    event: str  # "ask" or "failure"
    kind: str  # of ask; or failed, interrupted, or the kind of failure
    task: str
    title: str
    more: Mapping[str, Any] = field(default_factory=dict)


class Notifier:
    """Tells what happens from now on, by running `command`.

    `continues`: whether sessions go on by themselves after a rate limit or overload.
    """

    def __init__(self, command: str, store: Store, *, continues: bool) -> None:
        self._command = command
        self._store = store
        self._continues = continues
        self._queue: deque[Event] = deque()
        self._news = asyncio.Event()
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._dropped = 0
        self._teller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell what is not stored yet."""
        for session in (await self._store.latest_sessions()).values():
            self._remember(_broken_key(session.id, session.since))
            if session.failure:
                self._remember(_failure_key(session.id, session.failure))
        self._teller = asyncio.create_task(self._tell_all())

    async def stop(self) -> None:
        """Tell nothing more; ends the command that runs."""
        if self._teller:
            self._teller.cancel()
            await asyncio.wait([self._teller])

    def notice(self, event: Event) -> None:
        """Take note of a fact that may have to be told; returns at once."""
        if event.type not in ("ask.opened", "session.updated") or self._is_queued(event):
            return
        if len(self._queue) >= QUEUED:
            self._dropped += 1
            if self._dropped == 1:
                log.warning(
                    "the notify command is too slow: what comes now is not told",
                    extra={"action": "notify_full", "queued": QUEUED},
                )
            return
        self._queue.append(event)
        self._news.set()

    def _is_queued(self, event: Event) -> bool:
        """True if the queue leads to a look at the same session anyway.

        Sessions change all the time, and only a look at one tells whether its turn failed; a
        session that broke is told by what the event itself says, however it went on since.
        """
        if event.type == "ask.opened" or event.payload.get("state") in _BROKEN:
            return False
        session = event.payload.get("session_id")
        return any(
            waiting.type == event.type and waiting.payload.get("session_id") == session
            for waiting in self._queue
        )

    async def _tell_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                event = self._queue.popleft()
                try:
                    for notice in await self._notices(event):
                        await self._tell(notice)
                except NotFoundError:
                    continue  # removed meanwhile: nobody wants to know any more
                except (ClaudedoError, OSError):
                    log.exception("cannot notify", extra={"action": "notify_failed"})
            if self._dropped:
                log.warning("%d facts were not told", self._dropped)
                self._dropped = 0

    # What there is to tell

    async def _notices(self, event: Event) -> list[Notice]:
        if event.type == "ask.opened":
            return await self._ask(str(event.payload["ask_id"]))
        session = await self._store.session(str(event.payload["session_id"]))
        broken = _broken(event)
        return [notice for notice in (broken, self._failed(session)) if notice]

    def _failed(self, session: Session) -> Notice | None:
        """A turn that ended on an error and will not go on by itself.

        What counts is how the refusal was seen first: once it is being continued, nothing more
        is planned for it, and that is no reason to call anybody.
        """
        failure = session.failure
        if failure is None:
            return None
        key = _failure_key(session.id, failure)
        if self._continues and failures.goes_on(failure.kind, failure.tries):
            self._remember(key)
            return None
        return Notice(
            key=key,
            event="failure",
            kind=failure.kind,
            task=session.task_id,
            title=failure.text,
            more={"failure": asdict(failure)},
        )

    async def _ask(self, ask_id: str) -> list[Notice]:
        ask = await self._store.ask(ask_id)
        if ask.closed_at is not None:
            return []  # somebody was faster
        task = await self._store.task(ask.task_id)
        shown = protocol.ask_json(ask, task)
        notice = Notice(
            key=("ask", ask.id),
            event="ask",
            kind=ask.kind,
            task=ask.task_id,
            title=ask.title,
            more={"ask": shown},
        )
        return [notice]

    async def _tell(self, notice: Notice) -> None:
        """Run the command for a fact that was not told before."""
        if notice.key in self._told:
            return
        self._remember(notice.key)
        task = await self._store.task(notice.task)
        words = {
            "event": notice.event,
            "kind": notice.kind,
            "task": task.id,
            "task_name": task.name,
            "workspace": task.workspace,
            "title": notice.title,
            **notice.more,
        }
        await run(self._command, words)

    def _remember(self, key: tuple[str, ...]) -> None:
        self._told[key] = None
        if len(self._told) > TOLD:
            self._told.popitem(last=False)


def _broken_key(session_id: str, since: str) -> tuple[str, ...]:
    return ("broken", session_id, since)


def _failure_key(session_id: str, failure: Failure) -> tuple[str, ...]:
    return ("failure", session_id, failure.at)


def _broken(event: Event) -> Notice | None:
    """A session that failed or lost its terminal, as the event tells it."""
    state, session = event.payload["state"], str(event.payload["session_id"])
    if state not in _BROKEN:
        return None
    reason = event.payload.get("reason")
    what = {SessionState.FAILED: "The session failed"}.get(state, "The session lost its terminal")
    return Notice(
        key=_broken_key(session, str(event.payload["since"])),
        event="failure",
        kind=state,
        task=str(event.task_id),
        title=f"{what}: {reason}" if reason else what,
        more={"reason": reason},
    )


# The command


async def run(command: str, words: Mapping[str, Any], *, seconds: float = SECONDS) -> None:
    """Run the shell `command` with `words` in its environment and, as JSON, on standard input.

    Returns when it ended; after `seconds` its whole process group is ended. Its output goes to the
    log. Raises `OSError` if there is no shell to run it.
    """
    with tempfile.TemporaryFile() as given, _Output() as output:
        given.write(json.dumps(words).encode())
        given.seek(0)
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=given,
            stdout=output.inlet,
            stderr=output.inlet,
            env={**os.environ, **environment(words)},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                status: int | str = await process.wait()
        except TimeoutError:
            status = f"ended after {seconds:g} s"
        finally:
            if process.returncode is None:
                _end(process.pid)
                await process.wait()
        output.close_inlet()
        _log(status, output.text())


def environment(words: Mapping[str, Any]) -> dict[str, str]:
    """`words` as variables: one line of printable characters each, and not too long.

    Without `CLAUDEDO_TASK`, which would make what the command calls pass for a session.
    """
    ask = words.get("ask") or {}
    values = {
        "CLAUDEDO_EVENT": words["event"],
        "CLAUDEDO_KIND": words["kind"],
        "CLAUDEDO_TASK_NAME": words["task_name"],
        "CLAUDEDO_WORKSPACE": words["workspace"],
        "CLAUDEDO_TITLE": words["title"],
        "CLAUDEDO_ASK": ask.get("id", ""),
    }
    return {name: _line(str(value)) for name, value in values.items()}


def _line(text: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in text)
    words = " ".join(shown.split())
    return words if len(words) <= TEXT else f"{words[: TEXT - 1]}…"


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; on macOS: a zombie
        os.killpg(pid, signal.SIGKILL)


def _log(status: int | str, output: str) -> None:
    extra = {"action": "notified", "status": status}
    if status == 0:
        log.debug("notified: %s", output, extra=extra)
    else:
        log.warning("the notify command failed (%s): %s", status, output, extra=extra)


class _Output:
    """What a command prints: its beginning is kept, the rest is read and dropped.

    A pipe of our own, because asyncio's waits until everything that the command left running in
    the background has closed it, too.
    """

    def __enter__(self) -> _Output:
        self._loop = asyncio.get_running_loop()
        self._outlet, self.inlet = os.pipe()
        self._kept = bytearray()
        os.set_blocking(self._outlet, False)
        self._loop.add_reader(self._outlet, self._read)
        return self

    def __exit__(self, *ending: object) -> None:
        self._loop.remove_reader(self._outlet)
        self.close_inlet()
        os.close(self._outlet)

    def close_inlet(self) -> None:
        """Our copy of the end that the command writes to is needed no more."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    def text(self) -> str:
        """The beginning of what was printed so far, on one line."""
        self._read()
        return _line(self._kept.decode(errors="replace"))

    def _read(self) -> None:
        try:
            chunk = os.read(self._outlet, 65_536)  # once: one that never ends must stop nobody
        except BlockingIOError:
            return
        self._kept += chunk[: max(0, OUTPUT - len(self._kept))]
        if not chunk:  # everybody closed it
            self._loop.remove_reader(self._outlet)
