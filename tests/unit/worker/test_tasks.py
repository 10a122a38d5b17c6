"""What a task's verbs check and order; a recorder stands in for the supervisor."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from claudedo.demo.repository import make_repository
from claudedo.errors import ConflictError, NotFoundError, RefusedError, UntrustedError, UsageError
from claudedo.model import Assignee, Session, SessionState, Task, TaskStatus
from claudedo.settings import Settings
from claudedo_worker import git
from claudedo_worker.bus import Bus
from claudedo_worker.claude_binary import Claude
from claudedo_worker.database import Database
from claudedo_worker.dialogs import Kind
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Order, Supervisor
from claudedo_worker.tasks import StartRequest, TakeOver, Tasks, Wanted
from claudedo_worker.threads import PERSON, Party
from tests.support import services
from tests.support.records import a_session

pytestmark = pytest.mark.anyio


class Recorder:
    """Takes the orders of a supervisor; makes the worktree when asked to, and no process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.orders: list[Order] = []
        self.stopped: list[str] = []
        self.pid: int | None = 4711

    async def start(self, task: Task, order: Order) -> Session:
        self.orders.append(order)
        if order.prepare and self.pid:
            task = await order.prepare()
            if order.furnish:
                await order.furnish(task, "s_1")
        session = a_session(task, pid=self.pid, state=SessionState.IDLE)
        return await self.store.add_session(session, "", task)

    async def stop(self, task_id: str) -> bool:
        await asyncio.sleep(0)
        session = await self.store.latest_session(task_id)
        if session is None or not session.state.live:
            return False
        self.stopped.append(task_id)
        await self.store.change_session(session, state=SessionState.STOPPED)
        return True


class Desk:
    """Everything that `Tasks` needs, in one folder."""

    def __init__(self, root: Path, store: Store, **chosen: Any) -> None:
        self.repository = make_repository(root / "repository")
        self.store = store
        self.recorder = Recorder(store)
        claude = root / "claude"
        claude.write_text("#!/bin/sh\necho 2.1.330\n")
        claude.chmod(0o755)
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(root)}
        settings = Settings(home=root, run=root, claude=str(claude), **chosen)
        supervisor = cast(Supervisor, self.recorder)
        self.threads = services.threads(store, root)
        mailbox = Mailbox(store, self.threads)
        self.tasks = Tasks(settings, store, supervisor, mailbox, self.threads)

    async def start(self, *names: str, **changes: Any) -> Task:
        wanted = tuple(Wanted(name=name) for name in names)
        given = {"cwd": str(self.repository), "tasks": wanted, "env": self.environ, "trust": True}
        drafts = await self.tasks.start(StartRequest(**{**given, **changes}))
        return drafts[0].task


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    database = await Database.open(tmp_path / "db")
    yield Store(database, Bus().publish)
    await database.close()


@pytest.fixture
def desk(tmp_path: Path, store: Store) -> Desk:
    return Desk(tmp_path, store)


async def test_tasks_started_together_are_peers_with_a_worktree_each(desk: Desk) -> None:
    first = await desk.start("backend", "frontend")
    assert [peer.name for peer in await desk.store.peers(first.id)] == ["frontend"]
    assert Path(str(first.worktree), "README.md").exists()
    assert [order.claude for order in desk.recorder.orders] == 2 * [
        Claude(str(desk.repository.parent / "claude"), "2.1.330")
    ]


async def make(desk: Desk, assignee: Assignee = Assignee.AGENT, creator: Party = PERSON) -> Task:
    root = str((await git.discover(desk.repository)).main)
    workspace = await desk.store.workspace_for(root, "shop")
    return await desk.threads.create(
        creator, workspace.id, title="Write docs", body="All of them.", assignee=assignee
    )


async def test_a_task_that_was_made_before_is_started_once_told_and_ongoing(desk: Desk) -> None:
    made = await make(desk)
    started = await desk.start("write-docs")

    task = await desk.store.task(made.id)
    assert started.id == made.id
    assert (task.status, task.branch, task.title) == (
        "ongoing",
        "claudedo/write-docs",
        "Write docs",
    )
    assert Path(str(task.worktree), "README.md").exists()
    assert [one.body for one in await desk.store.deliverable(task.id)] == ["All of them."]
    assert [move.after for move in await desk.store.moves(task.id)] == ["ongoing"]
    assert len(desk.recorder.orders) == 1


async def test_a_prompt_comes_after_what_a_task_was_made_with(desk: Desk) -> None:
    made = await make(desk)
    await desk.start("", tasks=(Wanted(name="write-docs", prompt="Begin with the API."),))

    mail = [one.body for one in await desk.store.deliverable(made.id)]
    assert mail == ["All of them.", "Begin with the API."]


async def test_a_task_for_a_person_gets_no_session(desk: Desk) -> None:
    made = await make(desk, Assignee.HUMAN)
    with pytest.raises(RefusedError, match="claudedo answer write-docs"):
        await desk.start("write-docs")
    with pytest.raises(RefusedError, match="claudedo answer write-docs"):
        await desk.tasks.restart(made, desk.environ)
    assert desk.recorder.orders == []


async def test_a_claimed_task_is_not_started_before_it_is_taken_away(desk: Desk) -> None:
    made = await make(desk)
    client = Party(id="token:k_1", name="laptop", workspace_id=made.workspace_id)
    claimed = await desk.threads.claim(client)
    assert claimed
    await desk.threads.move(client, claimed, TaskStatus.ONGOING)
    with pytest.raises(ConflictError, match="claudedo status write-docs notstarted"):
        await desk.start("write-docs")
    with pytest.raises(ConflictError, match="was claimed"):
        await desk.tasks.restart(await desk.store.task(made.id), desk.environ)

    await desk.threads.move(PERSON, await desk.store.task(made.id), TaskStatus.NOTSTARTED)
    with pytest.raises(ConflictError, match="never started; `claudedo start write-docs`"):
        await desk.tasks.restart(await desk.store.task(made.id), desk.environ)
    await desk.start("write-docs")
    task = await desk.store.task(made.id)
    assert (task.holder, task.status) == (None, "ongoing")
    assert await desk.threads.claim(client) is None


async def test_a_task_that_is_claimed_while_it_is_being_started_is_not_started(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await make(desk)
    client = Party(id="token:k_1", name="laptop", workspace_id=task.workspace_id)
    check = desk.tasks._ports.check

    async def claimed_meanwhile(number: int) -> None:
        await check(number)
        assert await desk.threads.claim(client)

    monkeypatch.setattr(desk.tasks._ports, "check", claimed_meanwhile)
    with pytest.raises(ConflictError, match="was claimed"):
        await desk.start("new", task.name)
    [there] = await desk.store.tasks()
    assert (there.holder, there.worktree, desk.recorder.orders) == (client.id, None, [])


async def test_a_session_is_told_its_task_also_if_a_client_had_it_before(desk: Desk) -> None:
    task = await make(desk)
    client = Party(id="token:k_1", name="laptop", workspace_id=task.workspace_id)
    claimed = await desk.threads.claim(client)
    assert claimed
    [lent] = await desk.store.mail_of(client.id)
    await desk.store._db.run(  # as its next request would
        "mark_delivered", {"id": lent.message.id, "at": lent.message.created_at, "via": "channel"}
    )
    await desk.threads.move(PERSON, claimed, TaskStatus.NOTSTARTED)
    for _ in range(2):  # the second finds it begun
        await desk.start(task.name)

    [told] = await desk.store.deliverable(task.id)
    assert (told.body, told.sender) == (lent.message.body, lent.message.sender)
    assert told.id != lent.message.id


async def test_a_task_remembers_the_branch_that_its_work_is_to_be_merged_into(desk: Desk) -> None:
    await git.write(desk.repository, "branch", "release")
    await git.write(desk.repository, "tag", "v1")
    bases = {"a": None, "b": "release", "c": "v1", "d": "HEAD~0"}
    tasks = {name: await desk.start(name, base=base) for name, base in bases.items()}
    assert {name: task.base_branch for name, task in tasks.items()} == {
        "a": "main",
        "b": "release",
        "c": None,
        "d": None,
    }
    assert (await desk.store.task(tasks["b"].id)).base_branch == "release"


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": ()},
        {"tasks": (Wanted(name="a"), Wanted(name="a"))},
        {"tasks": (Wanted(name="Not A Name"),)},
        {"here": True, "worktree": "elsewhere"},
        {"claude_args": ("--resume",)},
    ],
    ids=str,
)
async def test_a_malformed_start_makes_nothing(desk: Desk, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await desk.start("backend", **changes)
    assert await desk.store.tasks() == []
    assert desk.recorder.orders == []


async def test_a_relative_claude_and_configuration_are_those_of_the_shell_that_asked(
    desk: Desk,
) -> None:
    relative = {"CLAUDEDO_CLAUDE": "../claude", "CLAUDE_CONFIG_DIR": "../config"}
    await desk.start("backend", env=desk.environ | relative)
    (order,) = desk.recorder.orders
    assert Path(order.claude.path) == desk.repository / "../claude"
    assert order.environ["CLAUDE_CONFIG_DIR"] == str(desk.repository / "../config")


async def test_a_restart_refuses_relative_paths_before_it_ends_anything(desk: Desk) -> None:
    task = await desk.start("backend")
    with pytest.raises(UsageError, match="CLAUDE_CONFIG_DIR"):
        await desk.tasks.restart(task, desk.environ | {"CLAUDE_CONFIG_DIR": "config"})
    assert desk.recorder.stopped == []


async def test_a_repository_that_was_never_trusted_starts_nothing(desk: Desk) -> None:
    with pytest.raises(UntrustedError, match="--trust"):
        await desk.start("backend", trust=False)
    assert await desk.store.tasks() == []


async def test_trust_in_a_worktree_is_no_trust_in_the_file_of_its_repository(
    desk: Desk, tmp_path: Path
) -> None:
    trusted = {"projects": {str(tmp_path / "mine"): {"hasTrustDialogAccepted": True}}}
    (tmp_path / ".claude.json").write_text(json.dumps(trusted))
    elsewhere = {"worktree": str(tmp_path / "mine/backend"), "trust": False}
    (desk.repository / "claudedo.toml").write_text("[tasks.backend]\nsetup = 'touch ran'")
    with pytest.raises(UntrustedError, match=r"repository\."):
        await desk.start("backend", **elsewhere)
    assert desk.recorder.orders == []
    (desk.repository / "claudedo.toml").unlink()
    await desk.start("backend", **elsewhere)


async def test_a_workspace_that_is_not_there_is_no_other_name_for_the_repositorys(
    desk: Desk,
) -> None:
    first = await desk.start("one", workspace="mine")
    assert first.workspace == "mine"
    with pytest.raises(NotFoundError, match=r"no workspace 'other'; .* belongs to 'mine'"):
        await desk.start("two", workspace="other")
    assert [task.name for task in await desk.store.tasks()] == ["one"]
    assert (await desk.start("two")).workspace == "mine"


async def test_without_free_ports_nothing_is_ended_or_made(tmp_path: Path, store: Store) -> None:
    desk = Desk(tmp_path, store, ports="29000-29019")
    await desk.start("one")
    with pytest.raises(ConflictError, match="29000-29019"):
        await desk.start("two", "three")
    await desk.start("two")
    ended = []

    async def end() -> None:
        ended.append(True)

    adopted = TakeOver(
        cwd=str(desk.repository),
        tasks=(Wanted(name="three"),),
        env=desk.environ,
        here=True,
        trust=True,
        conversation="c",
        end=end,
    )
    with pytest.raises(ConflictError, match="29000-29019"):
        await desk.tasks.take_over(adopted)
    assert ended == []
    assert {task.name for task in await store.tasks()} == {"one", "two"}


async def test_dialogs_are_answered_only_as_far_as_the_person_said(desk: Desk) -> None:
    await desk.start("careful")
    await desk.start("bold", permission_mode="bypassPermissions")
    grants = [order.grants for order in desk.recorder.orders]
    trusted = {Kind.TRUST, Kind.DIRECTORY}
    assert grants == [trusted, {*trusted, Kind.BYPASS}]


async def test_trust_that_was_given_counts_until_a_process_ran(desk: Desk) -> None:
    desk.recorder.pid = None  # the setup failed, say
    task = await desk.start("backend")
    desk.recorder.pid = 4711
    for _ in range(2):
        await desk.tasks.restart(task, desk.environ)
    both = {Kind.TRUST, Kind.DIRECTORY}
    assert [order.grants for order in desk.recorder.orders] == [both, both, {Kind.DIRECTORY}]


async def test_restart_goes_on_with_the_conversation_and_ends_a_running_one_first(
    desk: Desk,
) -> None:
    task = await desk.start("backend")
    before = await desk.store.latest_session(task.id)
    assert before is not None
    await desk.tasks.restart(task, desk.environ)
    assert desk.recorder.stopped == [task.id]
    order = desk.recorder.orders[-1]
    assert order.conversation == before.conversation
    assert order.prepare is None


async def test_restart_makes_a_removed_worktree_again_and_one_that_no_process_ever_saw(
    desk: Desk,
) -> None:
    desk.recorder.pid = None  # the worker was killed before it had a process
    task = await desk.start("backend")
    await desk.tasks.restart(task, desk.environ)
    desk.recorder.pid = 4711
    await desk.tasks.restart(task, desk.environ)
    worktree = Path(str(task.worktree))
    assert (worktree / "README.md").exists()
    assert all(order.prepare for order in desk.recorder.orders)

    await desk.tasks.stop(task)
    for path in sorted(worktree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    worktree.rmdir()
    await desk.tasks.restart(task, desk.environ)
    assert (worktree / "README.md").exists()


async def test_restart_in_a_folder_of_the_persons_own_that_is_gone_ends_nothing(
    desk: Desk,
) -> None:
    task = await desk.start("backend", here=True)
    gone = replace(task, worktree=str(desk.repository / "gone"))
    with pytest.raises(ConflictError, match="gone"):
        await desk.tasks.restart(gone, desk.environ)
    assert desk.recorder.stopped == []


async def test_rm_that_is_refused_ends_nothing(desk: Desk) -> None:
    task = await desk.start("backend")
    Path(str(task.worktree), "unsaved").write_text("work")
    with pytest.raises(RefusedError, match="unsaved"):
        await desk.tasks.remove(task, force=False)
    assert desk.recorder.stopped == []
    await desk.tasks.remove(task, force=True)
    assert desk.recorder.stopped == [task.id]
    assert await desk.store.tasks() == []


async def test_rm_never_takes_the_folder_from_under_another_task(desk: Desk) -> None:
    task = await desk.start("backend")
    assert task.worktree
    below = Path(task.worktree) / "below"
    below.mkdir()
    guest = await desk.start("guest", cwd=str(below), here=True)
    assert guest.worktree == task.worktree
    with pytest.raises(
        ConflictError, match=r"guest works in .*backend, too, .* `claudedo rm guest`"
    ):
        await desk.tasks.remove(task, force=False)
    assert desk.recorder.stopped == []
    assert Path(task.worktree).exists()
    await desk.tasks.remove(guest, force=False)
    await desk.tasks.remove(task, force=False)
    assert not Path(task.worktree).exists()


async def test_rm_of_a_task_whose_worktree_was_never_made_removes_the_task(desk: Desk) -> None:
    desk.recorder.pid = None
    task = await desk.start("backend")
    assert not Path(str(task.worktree)).exists()
    await desk.tasks.remove(task, force=False)
    assert await desk.store.tasks() == []


async def test_rm_and_restart_at_once_never_leave_a_session_without_a_task(desk: Desk) -> None:
    task = await desk.start("backend")
    results = await asyncio.gather(
        desk.tasks.remove(task, force=False),
        desk.tasks.restart(task, desk.environ),
        desk.tasks.restart(task, desk.environ),
        return_exceptions=True,
    )
    assert isinstance(results[0], str)
    assert await desk.store.tasks() == []
    assert await desk.store.live_sessions() == []
    for result in results[1:]:
        assert result is None or isinstance(result, NotFoundError)


async def test_a_branch_that_was_there_before_outlives_its_task(desk: Desk) -> None:
    await git.write(desk.repository, "branch", "mine")
    task = await desk.start("backend", branch="mine")

    await desk.tasks.remove(task, force=False)

    assert not Path(str(task.worktree)).exists()
    assert await git.commit(desk.repository, "refs/heads/mine")


async def test_a_branch_that_was_made_for_a_task_goes_with_it(desk: Desk) -> None:
    task = await desk.start("backend")

    await desk.tasks.remove(task, force=False)

    assert await git.commit(desk.repository, "refs/heads/claudedo/backend") is None


async def test_a_conversation_in_another_configuration_is_not_begun_anew(desk: Desk) -> None:
    task = await desk.start("backend")
    transcript = desk.repository.parent / "t.jsonl"
    transcript.write_text("{}\n")
    session = await desk.store.latest_session(task.id)
    assert session is not None
    await desk.store.change_session(session, transcript=str(transcript))

    with pytest.raises(ConflictError, match="CLAUDE_CONFIG_DIR"):
        await desk.tasks.restart(task, desk.environ)

    assert desk.recorder.stopped == []


async def test_a_start_that_broke_off_and_is_repeated_says_its_prompt_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (Wanted(name="backend", prompt="Add GET /orders"),)
    with monkeypatch.context() as patch, pytest.raises(ConflictError):
        patch.setattr(desk.recorder, "start", _break_off)
        await desk.start("backend", tasks=wanted)

    task = await desk.start("backend", tasks=wanted)

    assert [message.body for message in await desk.store.thread(task.id)] == ["Add GET /orders"]


async def _break_off(task: Task, order: Order) -> Session:
    raise ConflictError("the worker ended here")
