"""The queue over real processes, where several things happen at once; a script is `claude -p`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import anyio
import psutil
import pytest

from claudedo import settings
from claudedo.model import OneShot, QueueStatus, Rules, Session, Task, TaskStatus
from claudedo.settings import make_private
from claudedo.task_file import parse
from claudedo_worker import one_shot as one_shots
from claudedo_worker import worktree
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.queue import Addition, Queue, Turn
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Supervisor
from claudedo_worker.tasks import Tasks
from tests.support import services
from tests.support.fake_program import make_fake_print
from tests.support.own_git import own_git
from tests.support.repository import a_repository, git

pytestmark = pytest.mark.anyio

BOUND = 30.0


class Yard:
    """A worker's queue with all that is below it, on a repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = a_repository(root / "shop")
        config = root / "config"
        config.mkdir()
        self.env = {
            **{key: os.environ[key] for key in ("PATH", "HOME")},
            "CLAUDE_CONFIG_DIR": str(config),
        }
        environ = {"CLAUDEDO_HOME": str(root / "s"), "CLAUDEDO_CLAUDE": str(make_fake_print(root))}
        self.settings = settings.load(environ)
        for folder in (self.settings.home, self.settings.run, root / "s/sessions"):
            make_private(folder)
        make_private(root / "s/programs")
        self.bus = Bus()
        self.store: Store
        self.supervisor: Supervisor
        self.queue: Queue

    async def new_worker(self) -> None:
        threads = services.threads(self.store, self.root)
        mailbox = Mailbox(self.store, threads)
        self.supervisor = Supervisor(self.settings, self.store, lambda live: cast(Any, None))
        tasks = Tasks(self.settings, self.store, self.supervisor, mailbox, threads)
        self.queue = Queue(self.settings, self.store, tasks, mailbox, self.supervisor)
        self.supervisor.serve(self.queue, threads)
        self.bus.subscribe(self.supervisor.notice)
        await self.supervisor.recover()
        await self.queue.recover()

    async def add(self, text: str) -> list[Task]:
        return await self.queue.add(Addition(cwd=str(self.repository), tasks=parse(text)))

    async def next(self, jobs: int = 4, **rules: Any) -> list[str]:
        turn = Turn(env=self.env, jobs=jobs, trust=True, rules=Rules(**rules))
        return await self.queue.next(turn)

    async def one_shot(self, task: Task) -> OneShot:
        found = await self.store.one_shot(task.id)
        assert found is not None
        return found

    async def until(self, task: Task, *statuses: QueueStatus) -> OneShot:
        with anyio.fail_after(BOUND):
            while (one_shot := await self.one_shot(task)).status not in statuses:
                await anyio.sleep(0.005)
        return one_shot

    async def over(self, task: Task) -> OneShot:
        return await self.until(task, *(status for status in QueueStatus if status.over))

    async def session(self, task: Task) -> Session:
        session = await self.store.latest_session(task.id)
        assert session is not None
        return session

    async def exists(self, path: Path) -> None:
        with anyio.fail_after(BOUND):
            while not path.exists():
                await anyio.sleep(0.02)

    async def at_work(self, task: Task) -> Path:
        """Its worktree, once a file `began` is there."""
        with anyio.fail_after(BOUND):
            while (place := (await self.store.task(task.id)).worktree) is None:
                await anyio.sleep(0.02)
        await self.exists(Path(place) / "began")
        return Path(place)

    def running(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.root) in " ".join(process.info["cmdline"] or [])
        ]


@pytest.fixture
async def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Yard]:
    own_git(tmp_path, monkeypatch)
    monkeypatch.setattr(one_shots, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(one_shots, "GRACE", 0.5)
    made = Yard(tmp_path)
    database = await Database.open(made.settings.database)
    made.store = Store(database, made.bus.publish)
    await made.new_worker()
    yield made
    for task in await made.store.tasks():
        await made.supervisor.stop(task.id)
    await made.supervisor.close()
    await database.close()
    left = made.running()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)
    shutil.rmtree(made.settings.run)
    assert left == []


@pytest.fixture
def slow_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a verdict and the end of its session something takes its time."""
    dismiss = Supervisor._dismiss_holder

    async def slowly(self: Supervisor, socket: Path) -> None:
        await asyncio.sleep(0.5)
        await dismiss(self, socket)

    monkeypatch.setattr(Supervisor, "_dismiss_holder", slowly)


@pytest.mark.usefixtures("slow_end")
async def test_what_is_put_back_can_be_begun_at_once(yard: Yard) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "run touch began; sleep 20\\nsay done"')
    await yard.next()
    await yard.at_work(task)
    async with asyncio.TaskGroup() as both:
        both.create_task(yard.queue.cancel([task], requeue=True))
        await yard.until(task, QueueStatus.QUEUED)
        await yard.next()
    one_shot = await yard.over(task)
    assert one_shot.verdict is not None
    assert one_shot.verdict.reason == "done"


@pytest.mark.usefixtures("slow_end")
async def test_what_lost_its_holder_can_be_begun_at_once(yard: Yard) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "run touch began; sleep 20\\nsay done"')
    await yard.next()
    await yard.at_work(task)
    live = yard.supervisor.of_task(task.id)
    assert live is not None
    psutil.Process(live.holder.hello.holder_pid).kill()
    await yard.until(task, QueueStatus.QUEUED)
    await yard.next()
    one_shot = await yard.over(task)
    assert one_shot.verdict is not None
    assert one_shot.verdict.reason == "done"


@pytest.mark.usefixtures("slow_end")
async def test_what_is_over_can_go_on_at_once(yard: Yard) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "turns"')
    await yard.next()
    await yard.over(task)
    await yard.queue.again([task])
    await yard.next()
    one_shot = await yard.over(task)
    assert one_shot.verdict is not None
    assert one_shot.verdict.reason == "done"


async def test_a_cancel_while_it_is_being_begun_holds(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "say done"')
    slow, free = anyio.Event(), anyio.Event()
    planned = worktree.plan_worktree

    async def plan(*given: Any, **rest: Any) -> Any:
        slow.set()
        await free.wait()
        return await planned(*given, **rest)

    monkeypatch.setattr(worktree, "plan_worktree", plan)
    async with asyncio.TaskGroup() as both:
        both.create_task(yard.next())
        await slow.wait()
        both.create_task(yard.queue.cancel([task], requeue=False))
        await anyio.sleep(0.1)
        free.set()
    assert (await yard.over(task)).status is QueueStatus.CANCELLED


async def test_what_was_cut_off_while_its_worktree_was_made_keeps_its_base(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await yard.add(
        '[tasks.a]\nprompt = "run touch began\\nsay done"\n'
        '[tasks.b]\nprompt = "say done"\nneeds = ["a"]'
    )
    await yard.next()
    await yard.over(a)
    make, slow = worktree._check_out, anyio.Event()

    async def hang(plan: Any) -> Any:
        slow.set()
        await anyio.sleep(60)

    monkeypatch.setattr(worktree, "_check_out", hang)
    await yard.next()
    await slow.wait()
    await yard.queue.cancel([b], requeue=True)
    monkeypatch.setattr(worktree, "_check_out", make)
    assert (await yard.one_shot(b)).status is QueueStatus.QUEUED
    await yard.next()
    assert (await yard.over(b)).status is QueueStatus.COMPLETED
    place = Path(str((await yard.store.task(b.id)).worktree))
    assert (place / "began").exists()


async def test_what_failed_before_a_pause_counts_when_it_is_put_back_meanwhile(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_shots, "FIRST_PAUSE", 30.0)
    [task] = await yard.add('[tasks.a]\nprompt = "die 5 3"')
    await yard.next()
    with anyio.fail_after(BOUND):
        while (await yard.one_shot(task)).not_before is None:
            await anyio.sleep(0.02)
    await yard.queue.cancel([task], requeue=True)
    one_shot = await yard.one_shot(task)
    assert (one_shot.status, one_shot.attempts) == (QueueStatus.QUEUED, 1)


async def test_a_requeue_that_came_too_late_does_not_turn_the_next_cancel_around(
    yard: Yard,
) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "say done"')
    await yard.next()
    yard.queue._coming_back.add(task.id)  # Ctrl-C came while it ended by itself
    await yard.over(task)
    await yard.queue._mailbox.send(task, "run touch began; sleep 20", sender=None, key=None)
    await yard.queue.again([task])
    await yard.next()
    await yard.at_work(task)
    await yard.queue.cancel([task], requeue=False)
    assert (await yard.one_shot(task)).status is QueueStatus.CANCELLED


async def test_a_rejected_task_is_rejected_though_its_session_called_it_completed(
    yard: Yard,
) -> None:
    [task] = await yard.add('[tasks.a]\nprompt = "run touch began; sleep 1"\ncheck = "false"')
    await yard.next()
    await yard.at_work(task)
    there = await yard.store.task(task.id)
    await yard.store.move_task(there, TaskStatus.COMPLETED, f"task:{task.id}", "a")
    assert (await yard.over(task)).status is QueueStatus.REJECTED
    assert (await yard.store.task(task.id)).status is TaskStatus.REJECTED


async def test_work_on_another_branch_is_the_base_of_what_needs_it(yard: Yard) -> None:
    a, b = await yard.add(
        '[tasks.a]\nprompt = "run git checkout -q -b other; touch began\\nsay done"\n'
        '[tasks.b]\nprompt = "say done"\nneeds = ["a"]'
    )
    await yard.next()
    await yard.over(a)
    await yard.next()
    await yard.over(b)
    place = Path(str((await yard.store.task(b.id)).worktree))
    assert (place / "began").exists()


async def test_hooks_and_signatures_do_not_keep_work_from_being_committed(yard: Yard) -> None:
    hooks = yard.repository / ".git/hooks"
    for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {yard.root}/hooks-ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    git(yard.repository, "config", "commit.gpgsign", "true")
    git(yard.repository, "config", "gpg.program", "false")
    [task] = await yard.add('[tasks.a]\nprompt = "run touch began\\nsay done"')
    await yard.next()
    verdict = (await yard.over(task)).verdict
    assert verdict is not None
    assert verdict.reason == "done"
    assert not (yard.root / "hooks-ran").exists()


async def test_what_the_check_leaves_is_not_committed(yard: Yard) -> None:
    [task] = await yard.add(
        '[tasks.a]\nprompt = "run echo good > began\\nsay done"\n'
        'check = "grep -q good began && echo bad > began && touch left"'
    )
    await yard.next()
    assert (await yard.over(task)).status is QueueStatus.COMPLETED
    place = Path(str((await yard.store.task(task.id)).worktree))
    assert git(place, "ls-tree", "--name-only", "HEAD") == "began"
    assert git(place, "show", "HEAD:began") == "good"
