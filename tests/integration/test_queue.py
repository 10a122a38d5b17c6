"""The queue of one-shot tasks: what is taken in, in which order it goes, what is skipped.

What happens while one runs is tried in test_one_shot.py; here the facts of each are given.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from claudedo import settings
from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, UntrustedError, UsageError
from claudedo.model import (
    QueueStatus,
    Rules,
    SessionState,
    Task,
    TaskStatus,
    Transport,
    Workspace,
)
from claudedo.task_file import parse
from claudedo_worker.attachments import Attachments
from claudedo_worker.database import Database
from claudedo_worker.judge import Denial, Facts
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.queue import Addition, Queue, Turn
from claudedo_worker.store import Store
from claudedo_worker.tasks import Tasks
from claudedo_worker.threads import Threads, session_of
from tests.support.own_git import own_git
from tests.support.records import a_session, a_task, an_attempt
from tests.support.repository import a_repository, git

pytestmark = pytest.mark.anyio


class Beginnings:
    """Stands for the part of `Tasks` that starts processes: makes the worktree, no session."""

    def __init__(self, store: Store, places: Path) -> None:
        self.store = store
        self.places = places
        self.begun: list[str] = []
        self.bases: dict[str, str | None] = {}
        self.trouble: dict[str, ClaudedoError] = {}
        self.stopped: list[str] = []
        self.lost: set[str] = set()
        self.stops: Any = None  # what it is told when it is to end one

    async def check_trust(self, tasks: Any, environ: Any, *, trust: bool) -> None: ...

    async def begin(self, task: Task, *, base: str | None, environ: Any, trust: bool) -> None:
        if task.name in self.trouble:
            raise self.trouble[task.name]
        self.begun.append(task.name)
        self.bases[task.name] = base
        place, branch = self.places / task.name, f"claudedo/{task.name}"
        git(Path(str(task.repo)), "worktree", "add", "-q", "-b", branch, str(place), base or "HEAD")
        changes = {"worktree": str(place), "branch": branch, "made_worktree": True}
        await self.store.change_task(task, made_branch=True, **changes)

    async def attends(self, task_id: str) -> bool:
        return task_id not in self.lost

    async def settled(self, task_id: str) -> None: ...

    async def stop(self, task_id: str) -> bool:
        self.stopped.append(task_id)
        await self.stops(task_id)
        return True


@dataclass
class Desk:
    """A queue on a repository, and what it would start."""

    queue: Queue
    store: Store
    threads: Threads
    repository: Path
    starts: Beginnings
    env: dict[str, str]

    async def add(self, text: str, **rest: Any) -> list[Task]:
        sections = parse(text)
        return await self.queue.add(Addition(cwd=str(self.repository), tasks=sections, **rest))

    async def next(self, jobs: int = 9, rules: Rules | None = None) -> list[str]:
        """The names of what is begun now."""
        before = len(self.starts.begun)
        await self.queue.next(Turn(env=self.env, jobs=jobs, rules=rules or Rules()))
        return self.starts.begun[before:]

    async def task(self, name: str) -> Task:
        [task] = [task for task in await self.store.tasks() if task.name == name]
        return task

    async def end(self, name: str, **facts: Any) -> None:
        await self.queue.verdict(await self.task(name), Facts(**facts))

    async def states(self) -> dict[str, str]:
        names = {task.id: task.name for task in await self.store.tasks()}
        return {names[one.task_id]: one.status.value for one in await self.store.one_shots()}

    async def reason(self, name: str) -> str:
        one_shot = await self.store.one_shot((await self.task(name)).id)
        assert one_shot is not None
        assert one_shot.verdict is not None
        return f"{int(one_shot.verdict.exit)} {one_shot.verdict.reason}"


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    own_git(tmp_path, monkeypatch)
    claude = tmp_path / "claude"
    claude.write_text("#!/bin/sh\necho '2.1.330 (Claude Code)'\n")
    claude.chmod(0o755)
    env = {"HOME": str(tmp_path), "CLAUDEDO_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    home = settings.load(env | {"CLAUDEDO_CLAUDE": str(claude)})
    database = await Database.open(tmp_path / "db.sqlite3")
    store = Store(database, lambda event: None)
    threads = Threads(store, Attachments(tmp_path / "files", store, 2**20))
    starts = Beginnings(store, tmp_path / "trees")
    tasks: Any = starts
    queue = Queue(home, store, tasks, Mailbox(store, threads), tasks)
    yield Desk(queue, store, threads, a_repository(tmp_path / "shop"), starts, env)
    await database.close()


async def deliver(store: Store, task: Task) -> None:
    """Its session got all its mail, and ended."""
    session = await store.add_session(a_session(task), "", task)
    attempt = an_attempt(session, *await store.deliverable(task.id), transport=Transport.STREAM)
    await store.confirm(await store.add_attempt(attempt))
    await store.change_session(session, state=SessionState.STOPPED)


WORKSPACE = Workspace(id="w_1", name="shop", root="/shop", created_at="2026-01-01")

CHAIN = """
[tasks.build]
prompt = "Build it"
[tasks.test]
prompt = "Test it"
needs = ["build"]
[tasks.ship]
prompt = "Ship it"
needs = ["test"]
[tasks.docs]
prompt = "Write it down"
priority = 5
"""


async def test_what_is_ready_begins_most_urgent_first_and_no_more_than_jobs(desk: Desk) -> None:
    await desk.add(CHAIN)
    assert await desk.next(jobs=1) == ["docs"]
    assert await desk.next(jobs=1) == []
    assert await desk.next(jobs=3) == ["build"]
    await desk.end("build")
    assert await desk.next(jobs=3) == ["test"]
    await desk.end("docs")
    await desk.end("test")
    assert await desk.next(jobs=3) == ["ship"]
    await desk.end("ship")
    assert set((await desk.states()).values()) == {"completed"}
    assert (await desk.task("ship")).status is TaskStatus.COMPLETED


async def test_the_prompt_is_the_first_message_and_mail_before_the_start_stands_behind_it(
    desk: Desk,
) -> None:
    [task] = await desk.add('[tasks.a]\nprompt = "Do it"')
    await desk.queue._mailbox.send(task, "And this", sender=None, key=None)
    assert [m.body for m in await desk.store.deliverable(task.id)] == ["Do it", "And this"]


async def test_a_task_begins_with_the_work_of_what_it_needs_committed_for_it(desk: Desk) -> None:
    await desk.add(
        '[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"\n'
        '[tasks.one]\nprompt = "1"\nneeds = ["a"]\n'
        '[tasks.both]\nprompt = "2"\nneeds = ["a", "b"]'
    )
    assert await desk.next() == ["a", "b"]
    for name in ("a", "b"):
        place = Path(str((await desk.task(name)).worktree))
        (place / name).write_text(name)
        await desk.end(name)
        assert git(place, "status", "--porcelain") == ""
        assert git(place, "log", "-1", "--format=%s") == f"{name}: {name.upper()}"
    assert await desk.next() == ["one", "both"]
    seen = {
        n: git(desk.repository, "ls-tree", "--name-only", desk.starts.bases[n] or "")
        for n in ("one", "both")
    }
    assert seen == {"one": "a", "both": "a\nb"}


async def test_work_that_conflicts_fails_the_task_that_needs_both(desk: Desk) -> None:
    await desk.add(
        '[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"\n'
        '[tasks.both]\nprompt = "2"\nneeds = ["a", "b"]\n'
        '[tasks.after]\nprompt = "3"\nneeds = ["both"]'
    )
    await desk.next()
    for name in ("a", "b"):
        (Path(str((await desk.task(name)).worktree)) / "same").write_text(name)
        await desk.end(name)
    assert await desk.next() == []
    assert (await desk.reason("both")).startswith("1 The work of b and of a conflicts in same")
    assert (await desk.reason("after")) == "17 both, which it needs, is failed"


async def test_what_needs_a_failure_is_skipped_at_once_and_the_rest_goes_on(desk: Desk) -> None:
    await desk.add(CHAIN)
    await desk.next(jobs=2)
    await desk.end("build", exit=1, ended=False)
    assert await desk.states() == {
        "build": "failed",
        "test": "skipped",
        "ship": "skipped",
        "docs": "running",
    }
    assert await desk.reason("ship") == "17 test, which it needs, is skipped"
    assert (await desk.task("build")).status is TaskStatus.BLOCKED
    assert (await desk.task("ship")).status is TaskStatus.NOTSTARTED
    await desk.end("docs")
    assert await desk.next() == []


async def test_a_task_that_cannot_be_begun_fails_alone(desk: Desk) -> None:
    await desk.add('[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"')
    desk.starts.trouble["a"] = ConflictError("There is a branch claudedo/a already.")
    assert await desk.next() == ["b"]
    assert await desk.reason("a") == "1 There is a branch claudedo/a already."


async def test_denied_tools_and_unread_mail_count_as_the_rules_of_the_run_say(desk: Desk) -> None:
    await desk.add('[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"')
    denied = [Denial(tool="Bash", about="rm -rf /")]
    await desk.next(rules=Rules(fail_on_unread=True, allow_denied=True))
    await desk.end("a", denials=denied)
    assert (await desk.reason("a")).startswith("14 it ended without reading 1 message")
    b = await desk.store.one_shot((await desk.task("b")).id)
    assert b is not None
    await desk.store.change_one_shot(b, rules=Rules())
    await desk.end("b", denials=denied)
    assert (await desk.reason("b")).startswith("16 it ended, but it had been denied Bash: rm -rf /")


async def test_a_session_that_rejected_its_task_is_told_with_its_words(desk: Desk) -> None:
    [task] = await desk.add('[tasks.a]\nprompt = "A"')
    await desk.next()
    await desk.store.move_task(await desk.task("a"), TaskStatus.REJECTED, f"task:{task.id}", "a")
    await desk.threads.say(session_of(task), await desk.task("a"), "There is no such file.")
    await desk.end("a")
    assert (
        await desk.reason("a") == "10 its session says that it is rejected: There is no such file."
    )


async def test_a_second_verdict_changes_nothing(desk: Desk) -> None:
    await desk.add('[tasks.a]\nprompt = "A"')
    await desk.next()
    await desk.end("a", timeout=3)
    await desk.end("a")
    assert await desk.reason("a") == "12 ended after its time limit of 3 s"


async def test_cancel_ends_for_good_and_requeue_for_now(desk: Desk) -> None:
    a, b, c = await desk.add('[tasks.a]\nprompt="A"\n[tasks.b]\nprompt="B"\n[tasks.c]\nprompt="C"')
    await desk.next(jobs=2)

    async def stop(task_id: str) -> None:
        one_shot = await desk.store.one_shot(task_id)
        assert one_shot is not None
        await desk.store.change_one_shot(one_shot, attempts=1)
        await desk.end({a.id: "a", b.id: "b"}[task_id], cancelled=True, exit=143, ended=False)

    desk.starts.stops = stop
    await desk.queue.cancel([c], requeue=True)
    await desk.queue.cancel([a], requeue=False)
    await desk.queue.cancel([b], requeue=True)
    assert desk.starts.stopped == [a.id, b.id]
    assert await desk.states() == {"a": "cancelled", "b": "queued", "c": "queued"}
    assert [one.attempts for one in await desk.store.one_shots()] == [1, 0, 0]
    await desk.queue.cancel([c], requeue=False)
    assert await desk.reason("c") == "130 cancelled"


async def test_what_a_killed_worker_had_begun_waits_again(desk: Desk) -> None:
    [task] = await desk.add('[tasks.a]\nprompt = "A"')
    await desk.next()
    desk.starts.lost.add(task.id)
    await desk.queue.recover()
    assert await desk.states() == {"a": "queued"}


async def test_an_ended_task_goes_on_with_mail_or_where_it_failed(desk: Desk) -> None:
    a, b = await desk.add('[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"')
    await desk.next()
    await deliver(desk.store, a)
    await desk.end("a")
    await desk.end("b", timeout=1)
    with pytest.raises(ConflictError, match=r"a is completed\. To go on with it, say what"):
        await desk.queue.again([b, a])
    assert await desk.states() == {"a": "completed", "b": "failed"}
    await desk.queue._mailbox.send(a, "One more thing", sender=None, key=None)
    await desk.queue.again([a, b])
    assert await desk.states() == {"a": "queued", "b": "queued"}


async def test_only_one_shots_can_be_cancelled(desk: Desk) -> None:
    [task] = await desk.add('[tasks.a]\nprompt = "A"')
    other = replace(task, id="t_other", name="other")
    await desk.store.add_task(other)
    with pytest.raises(NotFoundError, match="other is no one-shot"):
        await desk.queue.cancel([other], requeue=False)


async def test_removing_what_is_needed_skips_what_needs_it(desk: Desk) -> None:
    a, _ = await desk.add('[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"\nneeds = ["a"]')
    await desk.threads.forget(a)
    assert await desk.next() == []
    assert await desk.reason("b") == "17 a task, which it needs, was removed"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", UsageError, "There is no task in it"),
        ('[tasks.a]\ncheck = "true"', UsageError, "tasks.a: a one-shot needs a `prompt`"),
        (
            '[tasks.a]\nprompt="A"\nneeds=["b"]\n[tasks.b]\nprompt="B"\nneeds=["c"]\n'
            '[tasks.c]\nprompt="C"\nneeds=["a"]',
            UsageError,
            "The tasks wait for each other: ",
        ),
        ('[tasks.a]\nprompt="A"\nneeds=["a"]', UsageError, "a needs a"),
        ('[tasks.a]\nprompt="A"\nneeds=["no"]', UsageError, "there is no one-shot 'no'"),
        ('[tasks.a]\nprompt="A"\nbase="no"', UsageError, "tasks.a: base: there is no commit 'no'"),
        ('[tasks.a]\nprompt="A"\nrepo="../no"', UsageError, "tasks.a: "),
    ],
)
async def test_a_file_that_is_wrong_is_refused_whole(
    desk: Desk, text: str, error: type[ClaudedoError], words: str
) -> None:
    with pytest.raises(error) as caught:
        await desk.add(f'[tasks.fine]\nprompt = "x"\n{text}' if text else "")
    assert words in str(caught.value)
    assert await desk.store.tasks() == []
    assert await desk.store.workspaces() == []


async def test_a_name_that_is_taken_is_refused_whole(desk: Desk) -> None:
    await desk.add('[tasks.a]\nprompt = "A"')
    with pytest.raises(
        ConflictError, match="a is in the queue already: `claudedo rm a` removes it"
    ):
        await desk.add('[tasks.new]\nprompt = "N"\n[tasks.a]\nprompt = "A"')
    assert await desk.states() == {"a": "queued"}


async def test_a_queued_task_is_nobody_elses_to_claim(desk: Desk) -> None:
    [task] = await desk.add('[tasks.a]\nprompt = "A"')
    assert await desk.store.claim_task(task.workspace_id, "token:x", "9") is None


async def test_json_that_names_a_task_twice_is_refused() -> None:
    text = json.dumps({"tasks": {"a": {"prompt": "A"}}})
    twice = text.replace('{"a"', '{"a": {"prompt": "B"}, "a"')
    with pytest.raises(UsageError, match="'a' stands there twice"):
        parse(twice, as_json=True)


def test_every_status_is_over_or_not() -> None:
    assert [s for s in QueueStatus if not s.over] == [QueueStatus.QUEUED, QueueStatus.RUNNING]


async def test_trust_said_for_a_task_once_holds_for_its_later_runs(
    desk: Desk, tmp_path: Path
) -> None:
    untrusted = a_task(WORKSPACE, repo=str(tmp_path))
    env = {"HOME": str(tmp_path)}
    none: Any = None
    tasks = Tasks(settings.load(env), desk.store, none, none, none)
    with pytest.raises(UntrustedError):
        await tasks.check_trust([untrusted], env, trust=False)
    await tasks.check_trust([untrusted], env, trust=True)
    trusted = replace(untrusted, launch=replace(untrusted.launch, trust=True))
    await tasks.check_trust([trusted], env, trust=False)


async def test_trust_said_for_a_repository_once_holds_for_its_other_one_shots(desk: Desk) -> None:
    first, second = await desk.add('[tasks.a]\nprompt = "A"\n[tasks.b]\nprompt = "B"\n')
    none: Any = None
    env = {"HOME": str(desk.repository.parent)}
    tasks = Tasks(settings.load(env), desk.store, none, none, none)
    with pytest.raises(UntrustedError):
        await tasks.check_trust([second], env, trust=False)
    await desk.store.change_task(first, launch=replace(first.launch, trust=True))
    await tasks.check_trust([second], env, trust=False)
    elsewhere = a_task(WORKSPACE, repo=str(desk.repository.parent))
    with pytest.raises(UntrustedError):
        await tasks.check_trust([elsewhere], env, trust=False)
