"""Messages and kills at random, from one seed, and what must be true when the dust has settled.

`Storm` sends from the shell's side through the client, as scripts do: with idempotency keys, and
again until it knows that the message is stored. Meanwhile it kills: worker, bridges, `claude`s,
holders, always with SIGKILL. It looks after the sessions as a person would: restarts what was
interrupted or failed. What really reached the models it learns from a `Truth`, never from claudedo.

The seed fixes what is sent, to whom, what is killed and after which pause; how the processes'
steps interleave is the machine's business.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from unittest import mock

import psutil

from claudedo.client import WorkerClient
from claudedo.errors import ConflictError, TimedOutError, UnavailableError
from claudedo.settings import load
from tests.support.fake_conversation import marks
from tests.support.world import World

SENDERS = 3
ON_ITS_WAY = 0.5
"""Seconds after it was stored within which a message usually is in its context."""

NO_BRIDGE_SECONDS = 6.0
"""How long a session may be without its bridge before the person restarts it."""

UNREAD_SECONDS = 4.0
"""How long an idle session keeps what it was given unread (its answer was killed) until it is told
something else, so that it answers."""

RUNGS = ("stored_at", "offered_at", "delivered_at", "read_at", "answered_at")
DEAD = ("interrupted", "failed", "stopped")

Thread = list[dict[str, Any]]


class Truth(Protocol):
    """What reached the models, by the marks of the bodies."""

    def context(self, task: str) -> Counter[str]:
        """What is in the living context of a task's session, and how often."""
        ...

    def answered(self, task: str) -> dict[str, datetime]:
        """When the model was first asked, or first answered, with what in its context."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much happens. `pause`: the longest between two kills, in seconds."""

    seed: int
    tasks: tuple[str, ...]
    messages: int
    kills: int
    pause: float
    patience: float
    kinds: tuple[str, ...] = ("worker", "worker", "claude", "claude", "bridge", "holder")


@dataclass
class Storm:
    """One run in one world, whose sessions are started already."""

    world: World
    plan: Plan
    sent: dict[str, str] = field(default_factory=dict)  # mark -> recipient, once stored
    killed: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)  # receipts that went back or changed

    def __post_init__(self) -> None:
        self._lots = random.Random(self.plan.seed)
        self._settings = load(self.world.environment)
        self._ids = {task: self.world.id(task) for task in self.plan.tasks}
        self._seen: dict[str, Mapping[str, str | None]] = {}
        self._no_bridge: dict[str, float] = {}
        self._unread: dict[str, float] = {}
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._number = 0

    def rage(self) -> None:
        """Send everything and kill meanwhile; returns when both are done."""
        # The client starts a missing worker with this process's environment.
        with mock.patch.dict(os.environ, self.world.environment, clear=True):
            senders = [threading.Thread(target=self._send_some, args=(n,)) for n in range(SENDERS)]
            for sender in senders:
                sender.start()
            for _ in range(self.plan.kills):
                time.sleep(self._lots.uniform(0, self.plan.pause))
                self._send_one_more(WorkerClient(self._settings))
                # Most that can go wrong goes wrong while a message is on its way.
                time.sleep(self._lots.uniform(0, ON_ITS_WAY))
                self._kill(self._lots.choice(self.plan.kinds))
                self._look_after()
            for sender in senders:
                sender.join()
        if self._failures:
            raise self._failures[0]

    def settle(self) -> dict[str, Thread]:
        """Look after the sessions until every message is read; returns the threads."""
        with mock.patch.dict(os.environ, self.world.environment, clear=True):
            until = time.monotonic() + self.plan.patience
            while time.monotonic() < until:
                self._look_after()
                if (threads := self._settled()) is not None:
                    return threads
                time.sleep(0.2)
        raise AssertionError(f"not everything was read in time\n{self._unsettled()}")

    # Sending

    def _send_some(self, number: int) -> None:
        lots = random.Random(f"{self.plan.seed} {number}")
        client = WorkerClient(self._settings)
        share = len(range(number, self.plan.messages - self.plan.kills, SENDERS))
        span = self.plan.kills * self.plan.pause / 2  # about as long as the killing takes
        try:
            for _ in range(share):
                time.sleep(lots.uniform(0, 2 * span / share))
                mark = f"mail-{lots.getrandbits(64):016x}"
                self._send(client, lots.choice(self.plan.tasks), mark, lots)
        except BaseException as failure:
            self._failures.append(failure)
            raise

    def _send_one_more(self, client: WorkerClient, task: str | None = None) -> None:
        """Send to `task`, or to any."""
        self._number += 1
        to = task or self._lots.choice(self.plan.tasks)
        self._send(client, to, f"mail-{self._number:016x}", self._lots)

    def _send(self, client: WorkerClient, task: str, mark: str, lots: random.Random) -> None:
        priority = lots.choice(("normal", "normal", "normal", "high"))
        body = f"{mark} from the shell. {'x' * lots.choice((0, 10, 3000, 9000))}"
        until = time.monotonic() + self.plan.patience
        while True:
            try:
                client.send(self._ids[task], body, priority=priority, reply_to=None, key=mark)
                break
            except (UnavailableError, TimedOutError):
                if time.monotonic() > until:
                    raise
        with self._lock:
            self.sent[mark] = task

    # Killing

    def _kill(self, kind: str) -> None:
        """SIGKILL one process of a kind; waits for one to be there."""
        until = time.monotonic() + self.plan.patience
        while time.monotonic() < until:
            if victims := self._processes(kind):
                victim = self._lots.choice(sorted(victims, key=lambda process: process.pid))
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
                self.killed[kind] += 1
                return
            self._look_after()
            time.sleep(0.1)
        raise AssertionError(f"no {kind} was there to be killed\n{self._unsettled()}")

    def _processes(self, kind: str) -> list[psutil.Process]:
        sign = {
            "worker": "claudedo_worker",
            "bridge": "/bridge.py",
            "holder": "/holder.py",
            "claude": str(self.world.claude),
        }[kind]
        return [p for p in self.world.processes() if self._is(p, kind, sign)]

    def _is(self, process: psutil.Process, kind: str, sign: str) -> bool:
        try:
            words = process.cmdline()
        except psutil.Error:
            return False
        if kind == "claude":
            return sign in words[:3]  # as an argument it stands in nobody's beginning
        return any(word.endswith(sign) for word in words)

    # Looking after

    def _look_after(self) -> None:
        """Do what a person does who looks at `claudedo ls` now and then; note the receipts."""
        client = WorkerClient(self._settings)
        try:
            for task in client.tasks():
                if task["name"] in self._ids:
                    self._look_at(client, task)
            self._note_receipts(self._threads(client))
        except (UnavailableError, TimedOutError, ConflictError):
            return  # the next look will do

    def _look_at(self, client: WorkerClient, task: dict[str, Any]) -> None:
        session, now = task["session"], time.monotonic()
        if session["state"] in DEAD:
            client.restart(task["id"], dict(self.world.environment))
            return
        if self._has_bridge(session["pid"]) or session["state"] == "starting":
            self._no_bridge.pop(task["name"], None)
        elif now - self._no_bridge.setdefault(task["name"], now) > NO_BRIDGE_SECONDS:
            del self._no_bridge[task["name"]]
            client.stop(task["id"])

    def _has_bridge(self, pid: int | None) -> bool:
        return any(_parent(process) == pid for process in self._processes("bridge"))

    def _note_receipts(self, threads: Mapping[str, Thread]) -> None:
        """A receipt is set once and stays; no rung is reached before the one below it."""
        for message in (message for thread in threads.values() for message in thread):
            now, before = message["receipts"], self._seen.get(message["id"], {})
            self._seen[message["id"]] = now
            for rung, at in before.items():
                if at is not None and now[rung] != at:
                    self.breaches.append(f"{message['id']} {rung}: {at} became {now[rung]}")
            reached = [now[rung] for rung in RUNGS]
            climbed = [at for at in reached if at is not None]
            if climbed != reached[: len(climbed)] or climbed != sorted(climbed):
                self.breaches.append(f"{message['id']} skipped or swapped rungs: {now}")

    # The end

    def _settled(self) -> dict[str, Thread] | None:
        client = WorkerClient(self._settings)
        try:
            threads = self._threads(client)
            states = {task["name"]: task["session"]["state"] for task in client.tasks()}
            idle = all(states[task] == "idle" for task in self.plan.tasks)
            unread = {
                message["recipient"]
                for thread in threads.values()
                for message in thread
                if not message["receipts"]["read_at"]
            }
            if idle and not unread:
                return threads
            self._poke(client, {task for task in unread if states[task] == "idle"})
        except (UnavailableError, TimedOutError):
            return None
        return None

    def _poke(self, client: WorkerClient, tasks: set[str]) -> None:
        """Say something to who sits idle over what was given before its process was killed."""
        now = time.monotonic()
        self._unread = {task: self._unread.get(task, now) for task in tasks}
        for task in [t for t, since in self._unread.items() if now - since > UNREAD_SECONDS]:
            self._send_one_more(client, task)
            self._unread[task] = now

    def _threads(self, client: WorkerClient) -> dict[str, Thread]:
        """What each task received."""
        return {
            task: [m for m in client.thread(own) if m["recipient"] == task]
            for task, own in self._ids.items()
        }

    def _unsettled(self) -> str:
        listed = self.world.run("ls", check=False).stdout
        threads = self._threads(WorkerClient(self._settings))
        left = [
            f"{message['id']} to {task}: {message['receipts']} {message['via']}"
            for task, thread in threads.items()
            for message in thread
            if not message["receipts"]["read_at"]
        ]
        return "\n".join([f"seed {self.plan.seed}, killed {dict(self.killed)}", listed, *left])


def verdict(storm: Storm, threads: Mapping[str, Thread], truth: Truth) -> list[str]:
    """Everything that is not as promised, one sentence each."""
    wrong = list(storm.breaches)
    stored = {
        task: Counter(_mark(message) for message in thread) for task, thread in threads.items()
    }
    for mark, task in storm.sent.items():
        if stored[task][mark] != 1:
            wrong.append(f"{mark} to {task} was accepted and is stored {stored[task][mark]} times")
    for task, marked in stored.items():
        context, answered = truth.context(task), truth.answered(task)
        messages = {_mark(message): message for message in threads[task]}
        wrong += [
            f"{mark} stands {context[mark]} times in the context of {task} and is stored "
            f"{marked[mark]} times: {messages.get(mark)}"
            for mark in marked.keys() | context.keys()
            if not context[mark] == marked[mark] == 1
        ]
        wrong += [
            f"{mark} is called read, but {task} had not answered with it: {message}"
            for mark, message in messages.items()
            if mark not in answered or _moment(message["receipts"]["read_at"]) < answered[mark]
        ]
    return wrong


def _mark(message: Mapping[str, Any]) -> str:
    return next(iter(marks([message["body"]])), str(message["body"]))


def _moment(text: str) -> datetime:
    """A stored moment, at the end of its millisecond."""
    return datetime.fromisoformat(text) + timedelta(milliseconds=1)


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
