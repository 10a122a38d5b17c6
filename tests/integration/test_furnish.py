"""Furnishing a worktree with real git and real shells: copies, links, setup, and their limits."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from claudedo.demo.repository import make_repository
from claudedo.errors import RefusedError
from claudedo.model import Recipe
from claudedo_worker import furnish, git
from claudedo_worker.furnish import Place, ScriptError
from claudedo_worker.processes import SESSION_VARIABLE
from claudedo_worker.work import work_in
from claudedo_worker.worktree import WorktreePlan, add_worktree, plan_worktree

pytestmark = pytest.mark.anyio

MARK = "s_of_this_test"


class Site:
    """A repository with a worktree of it."""

    def __init__(self, main: Path, plan: WorktreePlan, log: Path) -> None:
        self.main, self.worktree, self.log = main, plan.path, log

    def place(self, **changes: Any) -> Place:
        env = {"PATH": os.environ["PATH"], SESSION_VARIABLE: MARK}
        given = {"main": self.main, "worktree": self.worktree, "log": self.log, "env": env}
        return Place(**{"name": "api", "limit": 30.0, **given, **changes})

    async def furnish(self, **recipe: Any) -> str:
        """Furnish; returns the log."""
        await furnish.furnish(Recipe(**recipe), self.place())
        return self.log.read_text()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    main = make_repository(tmp_path / "shop")
    (main / ".gitignore").write_text(".env\nnode_modules/\n*.local\n")
    for arguments in (("add", "."), ("commit", "-q", "-m", "Ignore")):
        subprocess.run(["git", *arguments], cwd=main, check=True)
    plan = await plan_worktree(await git.discover(main), "api")
    await add_worktree(plan)
    yield Site(main, plan, tmp_path / "state/logs/t_1.log")


async def test_copies_and_links_of_the_main_checkout_are_there_before_the_setup(
    site: Site,
) -> None:
    (site.main / ".env").write_text("KEY=1")
    (site.main / ".env").chmod(0o600)
    for name in ("config/a.local", "config/deep/b.local", "config/c.txt", "node_modules/x/i.js"):
        (site.main / name).parent.mkdir(parents=True, exist_ok=True)
        (site.main / name).write_text(name)
    await site.furnish(
        copy=(".env", "config/*.local", "config/deep"),
        links=("node_modules",),
        setup="cat .env config/a.local config/deep/b.local node_modules/x/i.js > seen",
    )
    there = site.worktree
    seen = "KEY=1config/a.localconfig/deep/b.localnode_modules/x/i.js"
    assert (there / "seen").read_text() == seen
    assert (there / ".env").stat().st_mode & 0o777 == 0o600
    assert not (there / ".env").is_symlink()
    assert (there / "node_modules").readlink() == site.main / "node_modules"
    assert not (there / "config/c.txt").exists()


async def test_what_is_there_is_kept_what_is_missing_is_said_and_twice_changes_nothing(
    site: Site,
) -> None:
    for name in (".env", "x.local"):
        (site.main / name).write_text("main")
    (site.worktree / ".env").write_text("own")
    recipe: dict[str, Any] = {"copy": (".env", "none"), "links": ("x.local", "README.md")}
    for _ in range(2):
        said = await site.furnish(**recipe)
        assert ".env: is there already; kept as it is." in said
        assert f"none: there is no such file in {site.main}." in said
        assert "README.md: is there already" in said
        assert "x.local" not in said
    assert (site.worktree / ".env").read_text() == "own"
    assert site.log.stat().st_mode & 0o777 == 0o600
    assert site.log.parent.stat().st_mode & 0o777 == 0o700


async def test_neither_copies_nor_links_are_work_that_removal_would_lose(site: Site) -> None:
    (site.main / "node_modules").mkdir()  # "node_modules/" does not cover a symbolic link of it
    (site.main / "notes.txt").write_text("not ignored")
    await site.furnish(copy=("notes.txt",), links=("node_modules",))
    assert not await work_in(site.worktree, "claudedo/api")
    (site.worktree / "notes.txt").write_text("changed")
    assert (await work_in(site.worktree, "claudedo/api")).untracked == ("notes.txt",)


@pytest.mark.parametrize("kind", ["copy", "links"])
@pytest.mark.parametrize("pattern", ["out", "dir/secret", "o*", "**/secret", "/etc", "../secret"])
async def test_a_path_that_leads_out_of_the_repository_gives_nothing(
    site: Site, kind: str, pattern: str
) -> None:
    (site.main.parent / "secret").write_text("secret")
    (site.main / "out").symlink_to("../secret")
    (site.main / "dir").symlink_to("..")
    (site.main / "deep").mkdir()
    (site.main / "deep/secret").symlink_to("../../secret")
    with pytest.raises(RefusedError, match=r"leads out of|is no path"):
        await site.furnish(**{kind: (pattern,)})
    assert not any(path.name == "secret" for path in site.worktree.rglob("*"))


@pytest.mark.parametrize("kind", ["copy", "links"])
async def test_what_belongs_to_git_is_given_to_nobody(site: Site, kind: str) -> None:
    (site.main / "sub/.git/hooks").mkdir(parents=True)
    (site.main / "sub/config").touch()
    (site.main / "other").symlink_to(".git/hooks")
    before = (site.worktree / ".git").read_text()
    said = await site.furnish(**{kind: (".gi?", "*/.git", ".git/hooks", "other", "sub/*")})
    assert said.count("belongs to git; left out.") == 5
    assert (site.worktree / ".git").read_text() == before
    assert [path.name for path in (site.worktree / "sub").iterdir()] == ["config"]
    assert not (site.worktree / "other").exists()


async def test_a_pattern_for_everything_gives_everything_but_what_is_gits(site: Site) -> None:
    (site.main / "a/b").mkdir(parents=True)
    (site.main / "a/b/c.local").write_text("c")
    (site.main / "a/.git").mkdir()
    await site.furnish(copy=("*",))
    assert (site.worktree / "a/b/c.local").read_text() == "c"
    assert not (site.worktree / "a/.git").exists()


async def test_nothing_is_written_through_a_link_that_the_repository_holds(site: Site) -> None:
    target = site.main.parent / "target"
    target.mkdir()
    (site.worktree / "sub").symlink_to(target)
    (site.main / "sub").mkdir()
    (site.main / "sub/x").write_text("x")
    for recipe in ({"copy": ("sub/x",)}, {"links": ("sub/x",)}, {"copy": ("sub",)}):
        with pytest.raises(OSError, match="symbolic link"):
            await site.furnish(**recipe)
    assert list(target.iterdir()) == []


async def test_a_folder_that_holds_the_worktree_is_not_copied_into_it(tmp_path: Path) -> None:
    main = make_repository(tmp_path / "shop")
    plan = await plan_worktree(await git.discover(main), "api", worktree_dir="in")
    await add_worktree(plan)
    site = Site(main, plan, tmp_path / "log/x")
    for recipe in ({"copy": ("in",)}, {"links": ("in",)}):
        with pytest.raises(RefusedError, match="holds the worktree"):
            await site.furnish(**recipe)


async def test_odd_files_are_left_out_and_named(site: Site) -> None:
    (site.main / "odd").mkdir()
    os.mkfifo(site.main / "odd/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(site.main / "odd/socket"))  # short enough everywhere
        (site.main / "odd/link").symlink_to("nowhere")
        said = await site.furnish(copy=("odd",))
    assert "odd/pipe: neither" in said and "odd/socket: neither" in said
    assert [path.name for path in (site.worktree / "odd").iterdir()] == ["link"]


async def test_a_setup_that_fails_says_its_last_words_and_where_the_rest_is(site: Site) -> None:
    setup = "for i in 1 2 3 4 5; do echo line $i; done; echo no database >&2; exit 3"
    with pytest.raises(ScriptError) as failed:
        await site.furnish(setup=setup)
    words = "its setup failed (exit status 3): line 4 / line 5 / no database"
    rest = f"(all of it: {site.log}); `claudedo restart api` runs it again"
    assert str(failed.value) == f"{words} {rest}"
    assert site.log.read_text().startswith(f"$ {setup}\nline 1\n")
    with pytest.raises(ScriptError, match=r"^its setup failed \(exit status 4\) \(all of it: "):
        await site.furnish(setup="exit 4")


async def test_a_setup_may_leave_something_running_and_is_not_waited_for(site: Site) -> None:
    with anyio.fail_after(20):
        await site.furnish(setup="sleep 100 & echo $! > pid")
    left = psutil.Process(int((site.worktree / "pid").read_text()))
    assert left.is_running()
    left.kill()


async def test_a_setup_that_takes_too_long_or_is_cancelled_goes_with_its_whole_tree(
    site: Site,
) -> None:
    recipe = Recipe(setup="setsid sleep 100 & sleep 100 & echo $! $$ > pids; wait")
    with pytest.raises(ScriptError, match="its setup took more than 1 seconds"):
        await furnish.furnish(recipe, site.place(limit=1.0))
    assert _marked() == []
    (site.worktree / "pids").unlink()
    running = asyncio.create_task(furnish.furnish(recipe, site.place()))
    with anyio.fail_after(20):
        while not ((site.worktree / "pids").exists() and len(_marked()) >= 3):
            await anyio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert _marked() == []


async def test_a_setup_that_says_too_much_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(furnish, "LOG_LIMIT", 100_000)
    with pytest.raises(ScriptError, match="wrote more than"):
        await site.furnish(setup="while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
    assert _marked() == []


def _marked() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION_VARIABLE) == MARK:
                found.append(process)
        except psutil.Error:
            continue
    return found
