"""`start` with task files and in several repositories: which file counts, and for whom."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from claudedo.demo.repository import make_repository
from claudedo.errors import NotFoundError, RefusedError, UntrustedError, UsageError
from claudedo.model import Task
from claudedo_worker import git, ports
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from claudedo_worker.tasks import Wanted
from tests.unit.worker.test_tasks import Desk

pytestmark = pytest.mark.anyio


class Office(Desk):
    """A desk with a second repository, `web`, beside the first."""

    def __init__(self, root: Path, store: Store) -> None:
        super().__init__(root, store)
        self.web = make_repository(root / "web")

    async def start(self, *names: str, **changes: Any) -> Task:
        return await self.store.task((await super().start(*names, **changes)).id)

    def file(self, text: str, folder: Path | None = None) -> None:
        ((folder or self.repository) / "claudedo.toml").write_text(text)

    def trust(self, *folders: Path) -> None:
        projects = {str(folder): {"hasTrustDialogAccepted": True} for folder in folders}
        path = Path(self.environ["HOME"], ".claude.json")
        path.write_text(json.dumps({"projects": projects}))

    async def said(self, task: Task) -> list[str]:
        return [message.body for message in await self.store.thread(task.id)]


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    monkeypatch.setattr(ports, "_is_quiet", lambda first: True)
    database = await Database.open(tmp_path / "db")
    yield Office(tmp_path, Store(database, Bus().publish))
    await database.close()


async def test_a_section_gives_a_new_task_all_that_it_says(office: Office) -> None:
    await git.write(office.repository, "branch", "release")
    office.file(
        """
        [tasks.api]
        prompt = "Build it."
        base = "release"
        setup = "true"
        copy = [".env"]
        env = { PORT = "$CLAUDEDO_PORT" }
        model = "opus"
        permission_mode = "acceptEdits"
        args = ["--verbose"]
        """
    )
    task = await office.start("api", claude_args=("--effort", "low"))
    assert await office.said(task) == ["Build it."]
    assert task.base_branch == "release"
    assert (task.launch.model, task.launch.permission_mode) == ("opus", "acceptEdits")
    assert task.launch.claude_args == ("--verbose", "--effort", "low")
    assert (task.recipe.setup, task.recipe.copy) == ("true", (".env",))
    assert task.port == 20_000
    assert Path(str(task.worktree)).is_dir()


async def test_the_command_line_wins_over_the_file(office: Office) -> None:
    await git.write(office.repository, "branch", "release")
    office.file(
        "[tasks.api]\nprompt = 'From the file.'\nbase = 'none'\nmodel = 'opus'\n"
        "permission_mode = 'plan'\n"
    )
    wanted = (Wanted(name="api", prompt="Mine."),)
    given = {"base": "release", "model": "haiku", "permission_mode": "bypassPermissions"}
    task = await office.start(tasks=wanted, **given)
    assert await office.said(task) == ["Mine."]
    assert (task.launch.model, task.launch.permission_mode) == ("haiku", "bypassPermissions")


async def test_names_that_the_file_does_not_know_start_as_without_it(office: Office) -> None:
    office.file("[tasks.api]\nsetup = 'false'")
    task = await office.start("other")
    assert task.recipe.setup is None


async def test_what_the_file_said_when_the_task_was_made_counts_for_good(office: Office) -> None:
    office.file("[tasks.api]\nprompt = 'Go.'\nsetup = 'true'\n")
    first = await office.start("api")
    await office.tasks.stop(first)
    office.file("[tasks.api]\nprompt = 'Go again.'\nsetup = 'rm -rf /'\nnonsense = 1\n")
    again = await office.start("api")
    assert again.id == first.id
    assert again.recipe.setup == "true"
    assert await office.said(again) == ["Go."]
    await office.tasks.restart(again, office.environ)


async def test_the_copy_in_the_main_checkout_counts_wherever_the_person_stands(
    office: Office,
) -> None:
    folder = office.repository / "services/api"
    folder.mkdir(parents=True)
    (folder / ".keep").touch()
    for arguments in (("add", "."), ("commit", "-q", "-m", "Services")):
        await git.write(office.repository, *arguments)
    office.file("[tasks.api]\nsetup = 'echo root'\n[tasks.web]\nsetup = 'echo root'")
    office.file("[tasks.api]\nsetup = 'echo deep'\n", folder)
    first = await office.start("web", cwd=str(folder))
    assert first.recipe.setup is None  # the nearest file is the one that counts
    inside = Path(str(first.worktree), "services/api")
    Path(str(first.worktree), "claudedo.toml").write_text("nonsense = 1")
    task = await office.start("api", cwd=str(inside))
    assert task.recipe.setup == "echo deep"
    assert task.repo == str(office.repository)


async def test_a_wrong_file_starts_nothing_and_is_named(office: Office) -> None:
    office.file("[tasks.api]\npermission_mode = 'bypassPermissions'\n")
    with pytest.raises(UsageError, match=r"claudedo.toml: tasks.api.permission_mode: "):
        await office.start("api")
    office.file("[tasks.api]\nargs = ['--settings', 'x.json']\n")
    (office.repository / "x.json").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"claudedo.toml: tasks.api.args: .* leads out of"):
        await office.start("api")
    office.file("[tasks.api]\nneeds = ['web']\n")
    with pytest.raises(UsageError, match=r"tasks.api.needs is for one-shots"):
        await office.start("api")
    assert await office.store.tasks() == []
    assert await office.store.workspaces() == []
    assert office.recorder.orders == []


# Trust


async def test_nothing_of_a_file_runs_before_its_repository_is_trusted(office: Office) -> None:
    office.file("[tasks.api]\nsetup = 'touch ran'\n")
    with pytest.raises(UntrustedError, match=str(office.repository)):
        await office.start("api", trust=False)
    assert not (office.repository.parent / "repository.worktrees").exists()
    assert await office.store.workspaces() == []
    office.trust(office.repository)
    task = await office.start("api", trust=False)
    assert (Path(str(task.worktree)) / "ran").exists()


async def test_every_repository_is_named_once_that_nobody_trusted(office: Office) -> None:
    wanted = tuple(
        Wanted(name=name, dir=str(place))
        for name, place in (("a", office.repository), ("b", office.web), ("c", office.web))
    )
    with pytest.raises(UntrustedError) as refused:
        await office.start(tasks=wanted, trust=False)
    assert f"to trust {office.repository} and {office.web}. Sessions" in str(refused.value)
    office.trust(office.repository)
    with pytest.raises(UntrustedError) as refused:
        await office.start(tasks=wanted, trust=False)
    assert f"to trust {office.web}. Sessions" in str(refused.value)
    assert await office.store.tasks() == []


async def test_a_file_that_sends_a_task_to_another_repository_must_be_trusted_as_well(
    office: Office,
) -> None:
    office.file("[tasks.page]\nrepo = '../web'\nsetup = 'touch ran'\n")
    for trusted, missing in ((office.web, office.repository), (office.repository, office.web)):
        office.trust(trusted)
        with pytest.raises(UntrustedError, match=f"to trust {missing}. Sessions"):
            await office.start("page", trust=False)
    office.trust(office.repository, office.web)
    task = await office.start("page", trust=False)
    assert (task.repo, task.workspace) == (str(office.web), "web")
    assert (Path(str(task.worktree)) / "ran").exists()
    again = await office.start("page")
    assert again.id == task.id


# Several repositories


async def test_tasks_of_several_repositories_are_peers_in_workspaces_of_their_own(
    office: Office,
) -> None:
    office.file("[tasks.page]\nprompt = 'From web.'\n", office.web)
    wanted = (Wanted(name="api"), Wanted(name="page", dir="../web"))
    api = await office.start(tasks=wanted)
    [page] = await office.store.peers(api.id)
    assert (api.workspace, page.workspace) == ("repository", "web")
    assert page.worktree == str(office.web.parent / "web.worktrees/page")
    assert await office.said(page) == ["From web."]
    assert {api.port, page.port} == {20_000, 20_010}
    resolved = await office.tasks.resolve("page", cwd=str(office.repository))
    assert resolved.id == page.id


async def test_one_name_in_two_repositories_is_two_tasks(office: Office) -> None:
    wanted = (Wanted(name="api"), Wanted(name="api", dir="../web"))
    first = await office.start(tasks=wanted)
    [second] = await office.store.peers(first.id)
    assert (await office.tasks.resolve("api", cwd=str(office.web))).id == second.id
    assert (await office.tasks.resolve("repository/api", cwd=str(office.web))).id == first.id
    with pytest.raises(UsageError, match="named twice"):
        await office.start(tasks=(Wanted(name="x"), Wanted(name="x", dir=".")))


@pytest.mark.parametrize(
    ("dir", "error"), [("../nothing", NotFoundError), ("..", RefusedError)], ids=str
)
async def test_a_folder_that_is_no_repository_starts_nothing_and_is_named(
    office: Office, dir: str, error: type[Exception]
) -> None:
    wanted = (Wanted(name="api"), Wanted(name="x", dir=str(office.repository / dir)))
    with pytest.raises(error, match=str(office.repository / dir)):
        await office.start(tasks=wanted)
    assert await office.store.tasks() == []
    assert await office.store.workspaces() == []


# Teardown


async def test_a_teardown_runs_in_the_worktree_before_it_goes(office: Office) -> None:
    office.file(
        "[tasks.api]\nteardown = 'echo $CLAUDEDO_TASK_NAME $CLAUDEDO_PORT $SHELL_SAYS > $OUT'\n"
        f"env = {{ OUT = '{office.web}/out' }}\n"
    )
    task = await office.start("api")
    environ = {**office.environ, "SHELL_SAYS": "hello"}
    summary = await office.tasks.remove(task, force=False, environ=environ)
    assert "Removed" in summary
    assert (office.web / "out").read_text() == "api 20000 hello\n"
    assert not Path(str(task.worktree)).exists()
    assert list((office.repository.parent / "setup-logs").iterdir()) == []


async def test_a_teardown_that_fails_keeps_the_worktree_unless_forced(office: Office) -> None:
    office.file("[tasks.api]\nteardown = 'echo still in use; exit 7'\n")
    task = await office.start("api")
    with pytest.raises(RefusedError) as refused:
        await office.tasks.remove(task, force=False)
    assert "its teardown failed (exit status 7): still in use" in str(refused.value)
    assert "--force" in str(refused.value)
    assert Path(str(task.worktree)).is_dir()
    assert office.recorder.stopped == [task.id]
    summary = await office.tasks.remove(task, force=True)
    assert "But its teardown failed" in summary
    assert await office.store.tasks() == []


async def test_without_a_worktree_of_ours_nothing_is_set_up_or_torn_down(office: Office) -> None:
    office.file("[tasks.api]\nsetup = 'touch up'\nteardown = 'touch down'\n")
    changes: dict[str, Any] = {"here": True}
    task = await office.start("api", **changes)
    await office.tasks.remove(task, force=False)
    assert not (office.repository / "up").exists()
    assert not (office.repository / "down").exists()
