"""Sessions that are not ours: found, and taken over, with real processes, git and database.

A script stands in for `claude`: it writes the registry file of docs/claude-cli.md 8.4 and 33.1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import psutil
import pytest

from claudedo import settings
from claudedo.demo.repository import make_repository
from claudedo.errors import (
    AmbiguousError,
    BusyError,
    ClaudedoError,
    ConflictError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UntrustedError,
)
from claudedo.model import SessionState, Task
from claudedo_worker import adoption, processes
from claudedo_worker.adoption import Adopted, Adoption, AdoptRequest
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.foreign import Foreign, ForeignSessions, place_of
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Order, Supervisor
from claudedo_worker.tasks import Tasks
from tests.support import services
from tests.support.records import a_session, a_task

pytestmark = pytest.mark.anyio

FIRST = "aaaaaaaa-0000-4000-8000-000000000001"
SECOND = "aaaaaaaa-0000-4000-8000-000000000002"
CLAUDE = """
import json, os, pathlib, signal, subprocess, sys
entry, deaf, child = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
if deaf == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if child:
    subprocess.Popen(["sh", "-c", child], start_new_session=True)
file = pathlib.Path(sys.argv[4]) / "sessions" / f"{os.getpid()}.json"
file.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), **entry}))
file.with_suffix(".new").rename(file)
signal.pause() if deaf != "deaf" else [signal.pause() for _ in range(9)]
"""


class RecordingSupervisor:
    """Launches nothing; remembers what it was to launch."""

    def __init__(self) -> None:
        self.started: list[tuple[Task, Order]] = []

    async def start(self, task: Task, order: Order) -> None:
        self.started.append((task, order))


class Machine:
    """A home with a repository in it, sessions that somebody runs there, and a store of ours."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.store = root, store
        self.config = root / "home" / ".claude"
        (self.config / "sessions").mkdir(parents=True)
        self.repository = make_repository(root / "shop")
        (self.repository / "deep").mkdir()
        self.trust(self.repository)
        program = root / "claude"
        program.write_text("#!/bin/sh\necho 2.1.330\n")
        program.chmod(0o755)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "CLAUDEDO_CLAUDE": str(program),
        }
        self.settings = settings.load({**self.environ, "CLAUDEDO_HOME": str(root / "state")})
        self.supervisor = RecordingSupervisor()
        self.foreign = ForeignSessions(store)
        threads = services.threads(store, root)
        supervisor = cast(Supervisor, self.supervisor)
        self.tasks = Tasks(self.settings, store, supervisor, Mailbox(store, threads), threads)
        self.adoption = Adoption(store, self.foreign, self.tasks)
        self.running: list[subprocess.Popen[bytes]] = []

    def trust(self, *folders: Path) -> None:
        projects = {str(folder): {"hasTrustDialogAccepted": True} for folder in folders}
        (self.root / "home" / ".claude.json").write_text(json.dumps({"projects": projects}))

    async def runs(
        self,
        conversation: str = FIRST,
        *,
        folder: Path | None = None,
        config: Path | None = None,
        said: bool = True,
        deaf: bool = False,
        child: str = "",
        env: dict[str, str] | None = None,
        **entry: Any,
    ) -> int:
        """Somebody starts a session; returns its process once the registry has it."""
        place = folder or self.repository / "deep"
        config = config or self.config
        given = {"sessionId": conversation, "cwd": str(place), "status": "idle", "name": "deep-6f"}
        command = [sys.executable, "-I", "-S", "-c", CLAUDE, json.dumps({**given, **entry})]
        process = subprocess.Popen(
            [*command, "deaf" if deaf else "", child, str(config)],
            env={**self.environ, **(env or {})},
        )
        self.running.append(process)
        if said:
            self.says(conversation, place, config)
        with anyio.fail_after(20):
            while not (config / "sessions" / f"{process.pid}.json").exists():
                await anyio.sleep(0.01)
        return process.pid

    def says(self, conversation: str, folder: Path, config: Path | None = None) -> Path:
        """A conversation's transcript."""
        path = (config or self.config) / "projects" / "-shop-deep" / f"{conversation}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"cwd": "/elsewhere"}, {"cwd": str(folder)}, {"type": "mode"}, ["odd"]]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "{torn")
        return path

    async def adopt(self, target: object, **changes: Any) -> Adopted:
        given = {"target": str(target), "cwd": str(self.root), "env": self.environ}
        return await self.adoption.adopt(AdoptRequest(**{**given, **changes}))

    def lives(self, pid: int) -> bool:
        return next(process for process in self.running if process.pid == pid).poll() is None

    async def untouched(self, pid: int | None = None) -> bool:
        """Nothing was ended, nothing was made."""
        tasks = [task for task in await self.store.tasks() if task.name != "given"]
        worktrees = (self.root / "shop.worktrees").exists()
        return not (tasks or worktrees or self.supervisor.started) and (not pid or self.lives(pid))


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    database = await Database.open(tmp_path / "db")
    made = Machine(tmp_path, Store(database, Bus().publish))
    monkeypatch.setenv("HOME", made.environ["HOME"])
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    yield made
    await database.close()
    for process in made.running:
        process.kill()
        process.wait()


@pytest.fixture
def leftover(tmp_path: Path) -> Iterator[Path]:
    """Where a session's child notes its number; it is ended afterwards."""
    note = tmp_path / "child"
    yield note
    if note.exists() and psutil.pid_exists(pid := int(note.read_text())):
        os.kill(pid, signal.SIGKILL)


async def names(machine: Machine, config_dir: Path | None = None) -> list[str]:
    return [
        one.name for one in await machine.foreign.running(str(config_dir) if config_dir else None)
    ]


# Which there are


async def test_what_runs_is_told_as_the_registry_tells_it(machine: Machine) -> None:
    pid = await machine.runs(
        status="waiting", waitingFor="permission prompt", statusUpdatedAt=1_700_000_000_000
    )
    assert await machine.foreign.running() == [
        Foreign(
            conversation=FIRST,
            config_dir=machine.config,
            pid=pid,
            name="deep-6f",
            folder=str(machine.repository / "deep"),
            state=SessionState.WAITING,
            waiting_for="permission prompt",
            since="2023-11-14T22:13:20.000Z",
        )
    ]


async def test_what_has_no_terminal_or_does_not_run_is_not_listed(machine: Machine) -> None:
    await machine.runs(entrypoint="sdk-cli", name="headless")
    await machine.runs(entrypoint="cli", name="here", status=None)
    stale = await machine.runs(procStart="1", name="of another boot")
    alive = await machine.runs(name="counted", procStart=processes.start_mark(os.getpid()))
    file = machine.config / "sessions" / f"{alive}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"procStart": _mark(alive)}))
    os.utime(file, (1000, 1000))  # whatever the clock says
    (machine.config / "sessions" / "4194305.json").write_bytes(file.read_bytes())
    for odd in ("99999999999999999999", "\u00b2", "-1", ""):
        (machine.config / "sessions" / f"{odd}.json").write_bytes(file.read_bytes())
    assert machine.lives(stale)
    assert await names(machine) == ["counted", "here"]


def _mark(pid: int) -> str | None:
    if not Path("/proc").exists():
        pytest.skip("the kernel's count of a start is only told in /proc")
    return processes.start_mark(pid)


async def test_our_own_sessions_and_what_runs_in_them_are_not_listed(machine: Machine) -> None:
    workspace = await machine.store.workspace_for("/repository", "shop")
    task = await machine.store.add_task(a_task(workspace, "given"))
    session = await machine.store.add_session(a_session(task), "", task)
    await machine.runs(env={"CLAUDEDO_SESSION": session.id}, name="ours")
    other = await machine.runs(env={"CLAUDEDO_SESSION": "s_of_another_home"}, name="theirs")
    assert await names(machine) == ["theirs"]
    with pytest.raises(RefusedError, match="another state directory"):
        await machine.adopt(other)
    assert machine.lives(other)


async def test_configuration_folders_of_the_shell_and_of_known_sessions_are_looked_at(
    machine: Machine, tmp_path: Path
) -> None:
    asked, known, closed = (tmp_path / name for name in ("asked", "known", "closed"))
    for number, config in enumerate((asked, known, closed)):
        (config / "sessions").mkdir(parents=True)
        conversation = f"{number}{FIRST[1:]}"
        await machine.runs(conversation, config=config, name=config.name)
    workspace = await machine.store.workspace_for("/repository", "shop")
    task = await machine.store.add_task(a_task(workspace, "given"))
    await machine.store.add_session(a_session(task, config_dir=str(known)), "", task)
    (machine.config / "sessions").rmdir()  # nobody ever ran one there
    assert await names(machine) == ["known"]
    assert await names(machine, asked) == ["asked", "known"]
    assert await names(machine, tmp_path / "none") == ["known"]
    adopted = await machine.adopt("known", trust=True)
    [(_, order)] = machine.supervisor.started
    assert adopted.task.name == "known"
    assert order.environ["CLAUDE_CONFIG_DIR"] == str(known)


async def test_a_folder_tells_its_repository_and_branch(machine: Machine) -> None:
    place = await place_of(str(machine.repository / "deep"))
    assert (place.repository, place.branch) == (str(machine.repository), "main")
    beside = machine.root / "beside"
    for arguments in (("worktree", "add", "-q", "-b", "b", str(beside)), ("checkout", "--detach")):
        subprocess.run(["git", *arguments], cwd=machine.repository, check=True, capture_output=True)
    place = await place_of(str(beside))
    assert (place.repository, place.branch) == (str(machine.repository), "b")
    assert (await place_of(str(machine.repository))).branch is None
    for folder in (machine.root, machine.root / "none"):
        assert (await place_of(str(folder))).repository is None


# Which one is meant


async def test_a_process_an_id_the_beginning_of_one_or_a_name_says_which_is_meant(
    machine: Machine,
) -> None:
    pid = await machine.runs()
    for target in (str(pid), FIRST, FIRST[:4], "deep-6f"):
        assert (await machine.foreign.find(target)).pid == pid
    await machine.runs(SECOND)
    for target in (FIRST[:8], "deep-6f"):
        with pytest.raises(AmbiguousError, match=str(pid)):
            await machine.foreign.find(target)
    assert (await machine.foreign.find(SECOND)).conversation == SECOND


async def test_one_that_ended_is_found_by_its_id_in_the_folder_it_was_in_last(
    machine: Machine,
) -> None:
    machine.says(FIRST, machine.repository)
    found = await machine.foreign.find(FIRST[:8])
    assert (found.pid, found.folder) == (None, str(machine.repository))
    with pytest.raises(NotFoundError, match="running: none"):
        await machine.foreign.find(FIRST[:3])
    for target in ("*", "", "..", "/"):
        with pytest.raises(NotFoundError):
            await machine.foreign.find(target)
    machine.says(SECOND, machine.repository).write_text("{}\n")
    with pytest.raises(RefusedError, match="in which folder"):
        await machine.adopt(SECOND)


async def test_a_conversation_of_a_task_is_that_tasks(machine: Machine) -> None:
    workspace = await machine.store.workspace_for("/repository", "shop")
    task = await machine.store.add_task(a_task(workspace, "given"))
    session = await machine.store.add_session(a_session(task, conversation=FIRST), "", task)
    for target in (FIRST, FIRST[:9], str(session.pid)):
        with pytest.raises(ConflictError, match="the session of the task given already"):
            await machine.adopt(target)
    await machine.store.change_session(session, state=SessionState.STOPPED)
    pid = await machine.runs()  # a person went on with it by hand
    for target in (FIRST, str(pid)):
        with pytest.raises(ConflictError, match="claudedo restart given"):
            await machine.adopt(target)
    assert await machine.untouched(pid)


# Taking over


async def test_a_session_ends_and_goes_on_in_its_own_folder_and_configuration(
    machine: Machine,
) -> None:
    pid = await machine.runs()
    elsewhere = {**machine.environ, "CLAUDE_CONFIG_DIR": str(machine.root / "other")}
    adopted = await machine.adopt(pid, env=elsewhere, model="opus")
    assert (adopted.ended, adopted.left, machine.lives(pid)) == (pid, (), False)
    [(task, order)] = machine.supervisor.started
    assert (task.name, task.worktree) == ("deep-6f", str(machine.repository / "deep"))
    assert (task.repo, task.branch, task.made_worktree) == (str(machine.repository), "main", False)
    assert (order.conversation, order.fork_of, task.launch.model) == (FIRST, None, "opus")
    assert "CLAUDE_CONFIG_DIR" not in order.environ
    assert [one.id for one in await machine.store.tasks()] == [task.id]


async def test_a_fork_leaves_the_session_running_and_works_in_a_worktree(machine: Machine) -> None:
    pid = await machine.runs(status="busy")
    adopted = await machine.adopt(pid, fork=True)
    assert (adopted.ended, machine.lives(pid)) == (None, True)
    [(task, order)] = machine.supervisor.started
    assert task.worktree == str(machine.root / "shop.worktrees" / "deep-6f")
    assert (task.branch, task.made_worktree) == ("claudedo/deep-6f", True)
    assert (order.conversation, Path(order.fork_of or "").stem) == (None, FIRST)
    again = await machine.adopt(pid, fork=True, worktree=False)
    assert (again.task.name, again.task.worktree) == ("deep-6f-2", str(machine.repository / "deep"))


async def test_a_conversation_whose_process_is_gone_is_taken_up_as_well(machine: Machine) -> None:
    machine.says(FIRST, machine.repository / "deep")
    adopted = await machine.adopt(FIRST, name="again")
    assert (adopted.ended, adopted.task.name) == (None, "again")
    [(_, order)] = machine.supervisor.started
    assert order.conversation == FIRST


async def test_one_that_does_not_end_is_left_as_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, leftover: Path
) -> None:
    monkeypatch.setattr(adoption, "END_PATIENCE", 0.5)
    pid = await machine.runs(deaf=True, child=f"echo $$ > {leftover}; exec sleep 60")
    with pytest.raises(TimedOutError, match="nothing was changed: end it yourself"):
        await machine.adopt(pid)
    assert await machine.untouched(pid)
    assert psutil.pid_exists(int(leftover.read_text()))
    assert await names(machine) == ["deep-6f"]


async def test_one_that_is_suspended_is_not_asked_for_it_could_not_answer(machine: Machine) -> None:
    pid = await machine.runs()
    os.kill(pid, signal.SIGSTOP)
    [listed] = await machine.foreign.running()
    assert "Ctrl-Z" in str(listed.waiting_for)
    assert "suspended" in str(await refused(machine, pid, now=True))
    os.kill(pid, signal.SIGCONT)
    assert machine.lives(pid)
    assert (await machine.adopt(pid)).ended == pid


async def test_what_a_session_leaves_running_is_asked_to_end_too_and_named_if_it_does_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, leftover: Path
) -> None:
    pid = await machine.runs(child=f"echo $$ > {leftover}; exec sleep 60")
    with anyio.fail_after(20):
        while not (leftover.exists() and leftover.read_text().strip()):
            await anyio.sleep(0.01)
    first = int(leftover.read_text())
    assert (await machine.adopt(pid)).left == ()
    assert processes.started_at(first) is None

    monkeypatch.setattr(adoption, "END_PATIENCE", 0.5)
    leftover.unlink()
    pid = await machine.runs(SECOND, child=f"trap '' TERM; echo $$ > {leftover}; sleep 60 & wait")
    with anyio.fail_after(20):
        while not (leftover.exists() and leftover.read_text().strip()):
            await anyio.sleep(0.01)
    assert int(leftover.read_text()) in (await machine.adopt(pid)).left


async def test_a_conversation_that_two_processes_have_open_is_only_forked(
    machine: Machine,
) -> None:
    one, other = await machine.runs(), await machine.runs(name="again")
    assert str(other) in str(await refused(machine, one))
    assert (await machine.adopt(one, fork=True)).ended is None
    assert machine.lives(one) and machine.lives(other)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"status": "busy"}, "is busy"),
        ({"status": "waiting", "waitingFor": "permission prompt"}, r"\(permission prompt\)"),
        ({"status": "shell"}, "a command in the background"),
        ({"status": None}, "is busy"),
    ],
)
async def test_one_at_work_is_ended_only_if_that_is_said(
    machine: Machine, entry: dict[str, Any], words: str
) -> None:
    pid = await machine.runs(**entry)
    with pytest.raises(BusyError, match=words):
        await machine.adopt(pid)
    assert await machine.untouched(pid)
    assert (await machine.adopt(pid, now=True)).ended == pid


async def refused(machine: Machine, pid: int, **changes: Any) -> ClaudedoError:
    with pytest.raises(ClaudedoError) as caught:
        await machine.adopt(pid, **changes)
    assert await machine.untouched(pid)
    return caught.value


async def test_whatever_is_in_the_way_is_found_before_anything_is_ended(machine: Machine) -> None:
    nowhere = machine.root / "nowhere"
    nowhere.mkdir()
    in_none = await machine.runs(folder=nowhere, name="in no repository")
    error = await refused(machine, in_none)
    assert (type(error), "repository" in str(error)) == (RefusedError, True)
    in_gone = await machine.runs(SECOND, folder=machine.root / "gone", name="gone")
    assert "is gone" in str(await refused(machine, in_gone))

    silent = await machine.runs(f"b{FIRST[1:]}", said=False)
    assert "Nothing was said" in str(await refused(machine, silent))

    pid = await machine.runs(f"c{FIRST[1:]}")
    workspace = await machine.store.workspace_for(str(machine.repository), "shop")
    repo, root = str(machine.repository), str(machine.root)
    standing = {"repo": repo, "worktree": root, "made_worktree": False}
    given = await machine.store.add_task(a_task(workspace, "given", **standing))
    assert "--name" in str(await refused(machine, pid, name="given"))
    wrong = {**machine.environ, "CLAUDEDO_CLAUDE": "/no/such/claude"}
    assert "/no/such/claude" in str(await refused(machine, pid, env=wrong))
    error = await refused(machine, pid, claude_args=("--resume", "x"))
    assert "--resume" in str(error)
    machine.trust()
    assert type(await refused(machine, pid)) is UntrustedError
    place = str(machine.repository / "deep")
    await machine.store.remove_task(given)
    await machine.store.add_task(replace(given, worktree=place, made_worktree=True))
    error = await refused(machine, pid, trust=True)
    assert "the worktree of the task given" in str(error)
    assert (await machine.adopt(pid, trust=True, worktree=True)).ended == pid


async def test_one_that_went_over_to_another_conversation_is_looked_at_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await machine.runs()
    find = machine.foreign.find

    async def find_then_move(target: str, config_dir: str | None = None) -> Foreign:
        found = await find(target, config_dir)
        file = machine.config / "sessions" / f"{pid}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"sessionId": SECOND}))
        return found

    monkeypatch.setattr(machine.foreign, "find", find_then_move)
    assert "another conversation" in str(await refused(machine, pid))


async def test_one_that_ends_by_itself_meanwhile_is_taken_up_all_the_same(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await machine.runs()
    find = machine.foreign.find

    async def find_then_end(target: str, config_dir: str | None = None) -> Foreign:
        found = await find(target, config_dir)
        machine.running[0].kill()
        machine.running[0].wait()
        return found

    monkeypatch.setattr(machine.foreign, "find", find_then_end)
    await machine.adopt(pid)
    [(_, order)] = machine.supervisor.started
    assert order.conversation == FIRST
