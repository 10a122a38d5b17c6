"""Worktrees on real repositories, with the real git."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from claudedo.errors import (
    ClaudedoError,
    ConflictError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UsageError,
)
from claudedo_worker import git as git_program
from claudedo_worker.git import GitError, discover
from claudedo_worker.work import work_in
from claudedo_worker.worktree import (
    Removal,
    Worktree,
    add_worktree,
    plan_worktree,
    remove_worktree,
)
from tests.support.own_git import own_git

pytestmark = pytest.mark.anyio

ODD_NAMES = [
    "with space.txt",
    "ünïcödé-文.txt",
    "new\nline.txt",
    'quo"te.txt',
    "-dash.txt",
    "tab\t.txt",
    "[glob]*.txt",
]


@pytest.fixture(autouse=True)
def own_configuration(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    return own_git(tmp_path_factory.mktemp("home"), monkeypatch)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "shop")


def run_git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, timeout=60
    )
    return os.fsdecode(done.stdout).removesuffix("\n")


def make_repository(path: Path, *options: str) -> Path:
    path.mkdir(parents=True)
    run_git(path, "init", "-q", *options)
    commit_file(path, "README.md", "hello\n")
    return path


def commit_file(checkout: Path, name: str, text: str) -> str:
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text(text)
    run_git(checkout, "add", "--", f":(literal){name}")
    run_git(checkout, "commit", "-q", "-m", f"Change {name!r}")
    return run_git(checkout, "rev-parse", "HEAD")


def add_hook(main: Path, script: str) -> None:
    hook = main / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


def branches(main: Path) -> set[str]:
    return set(run_git(main, "for-each-ref", "--format=%(refname:short)", "refs/heads").split())


def listed(main: Path) -> int:
    return run_git(main, "worktree", "list", "--porcelain").count("worktree ")


async def make(main: Path, name: str = "backend", branch: str | None = None) -> Worktree:
    plan = await plan_worktree(await discover(main), name, branch=branch)
    return await add_worktree(plan)


async def remove(main: Path, tree: Worktree, *, force: bool = False) -> Removal:
    return await remove_worktree(
        tree.path, tree.branch, main, force=force, made_branch=tree.made_branch
    )


async def until(path: Path, limit: float = 30) -> None:
    async with asyncio.timeout(limit):
        while not path.exists():
            await asyncio.sleep(0.02)


# Discovery


async def test_a_subdirectory_belongs_to_its_checkout(main: Path) -> None:
    (main / "a/b").mkdir(parents=True)

    found = await discover(main / "a/b")

    assert (found.main, found.top, found.branch) == (main, main, "main")
    assert found.head == run_git(main, "rev-parse", "HEAD")


async def test_a_linked_worktree_knows_its_main_checkout(main: Path, tmp_path: Path) -> None:
    run_git(main, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    (tmp_path / "linked/deep").mkdir()

    found = await discover(tmp_path / "linked/deep")

    assert (found.main, found.top, found.branch) == (main, tmp_path / "linked", None)


async def test_a_symbolic_link_to_a_checkout_is_resolved(main: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(main)

    assert (await discover(tmp_path / "link")).main == main


async def test_a_worktree_of_a_bare_repository_stands_for_the_main_checkout(
    main: Path, tmp_path: Path
) -> None:
    run_git(tmp_path, "clone", "-q", "--bare", str(main), "shop.git")
    run_git(tmp_path / "shop.git", "worktree", "add", "-q", str(tmp_path / "only"), "main")

    found = await discover(tmp_path / "only")
    tree = await add_worktree(await plan_worktree(found, "backend"))

    assert found.main == tmp_path / "only"
    assert tree.path == tmp_path / "only.worktrees/backend"
    assert (tree.path / "README.md").is_file()


async def test_a_worktree_of_a_submodule_finds_the_submodule(main: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "library")
    run_git(main, "submodule", "--quiet", "add", str(tmp_path / "library"), "library")
    linked = tmp_path / "linked"
    run_git(main / "library", "worktree", "add", "-q", "--detach", str(linked))

    assert (await discover(linked)).main == main / "library"


async def test_a_sha256_repository_works(tmp_path: Path) -> None:
    main = make_repository(tmp_path / "modern", "--object-format=sha256")

    tree = await make(main)

    assert len(tree.base_commit) == 64
    assert (await remove(main, tree)).deleted_branch == "claudedo/backend"


async def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not a directory"):
        await discover(tmp_path / "none")


async def test_a_directory_outside_any_repository_is_told_to_run_git_init(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is not inside a git repository; run `git init`"):
        await discover(tmp_path)


async def test_a_bare_repository_and_a_git_folder_are_refused(main: Path, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "--bare", "bare.git")

    for directory in (tmp_path / "bare.git", main / ".git"):
        with pytest.raises(RefusedError, match=r"bare repository or a \.git folder"):
            await discover(directory)


async def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q")

    with pytest.raises(RefusedError, match="no commit to start from"):
        await discover(tmp_path)


async def test_a_repository_of_another_owner_names_the_setting(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for this test

    with pytest.raises(RefusedError, match=r"git config --global --add safe\.directory"):
        await discover(main)


async def test_a_missing_git_is_named(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(main))

    with pytest.raises(ClaudedoError, match="git is not in PATH"):
        await discover(main)


async def test_a_home_of_nobody_for_worktrees_is_said_to_lead_nowhere(main: Path) -> None:
    with pytest.raises(UsageError, match="there is no such user"):
        await plan_worktree(await discover(main), "x", worktree_dir="~no-such-user/trees")


async def test_a_worktree_that_another_git_is_just_making_is_waited_for(main: Path) -> None:
    half = main / ".git" / "worktrees" / "half"
    half.mkdir(parents=True)
    (half / "gitdir").write_text(f"{main.parent}/half/.git\n")
    (half / "HEAD").write_text("ref: refs/heads/half\n")
    (half / "commondir").touch()  # git reads it as "failed to read …: Success"

    async def finish() -> None:
        await asyncio.sleep(0.3)
        (half / "commondir").write_text("../..\n")

    listed, _ = await asyncio.gather(git_program.checkouts(main), finish())

    assert [checkout.path for checkout in listed] == [main, main.parent / "half"]


async def test_variables_of_another_repository_mislead_nobody(
    main: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))

    found = await discover(main)
    tree = await add_worktree(await plan_worktree(found, "backend"))

    assert found.main == main
    assert tree.path == tmp_path / "shop.worktrees/backend"


# Planning


async def test_a_plan_puts_the_worktree_beside_the_repository(main: Path) -> None:
    repository = await discover(main)

    plan = await plan_worktree(repository, "backend")

    assert plan.path == main.parent / "shop.worktrees/backend"
    assert (plan.branch, plan.base_commit) == ("claudedo/backend", repository.head)
    assert plan.make_branch
    assert not plan.path.parent.exists(), "a plan makes nothing"


async def test_a_plan_follows_the_place_it_is_given(main: Path, tmp_path: Path) -> None:
    repository = await discover(main)

    elsewhere = await plan_worktree(repository, "x", worktree_dir=str(tmp_path / "trees"))
    relative = await plan_worktree(repository, "x", worktree_dir="../near")
    exact = await plan_worktree(repository, "x", path=tmp_path / "exact")

    assert elsewhere.path == tmp_path / "trees/shop.worktrees/x"
    assert relative.path == tmp_path / "near/shop.worktrees/x"
    assert exact.path == tmp_path / "exact"


async def test_a_plan_starts_from_the_checkout_it_was_asked_in(main: Path, tmp_path: Path) -> None:
    run_git(main, "worktree", "add", "-q", "-b", "feature", str(tmp_path / "linked"))
    ahead = commit_file(tmp_path / "linked", "new.txt", "new")

    plan = await plan_worktree(await discover(tmp_path / "linked"), "backend")

    assert plan.base_commit == ahead
    assert plan.path == tmp_path / "shop.worktrees/backend"


async def test_a_base_may_be_any_revision(main: Path) -> None:
    first = run_git(main, "rev-parse", "HEAD")
    run_git(main, "tag", "v1")
    commit_file(main, "b.txt", "b")
    repository = await discover(main)

    for base in ("v1", "HEAD~1", first[:10]):
        assert (await plan_worktree(repository, "x", base=base)).base_commit == first


@pytest.mark.parametrize("base", ["nowhere", "--all", "", "HEAD:README.md"])
async def test_an_unknown_base_is_not_found(main: Path, base: str) -> None:
    with pytest.raises(NotFoundError, match="There is no commit"):
        await plan_worktree(await discover(main), "x", base=base)


@pytest.mark.parametrize("branch", ["a..b", "-x", "a b", "HEAD", "x.lock", "a/", "@{-1}", "ü\n"])
async def test_an_impossible_branch_name_is_a_usage_error(main: Path, branch: str) -> None:
    with pytest.raises(UsageError, match="cannot name a branch"):
        await plan_worktree(await discover(main), "x", branch=branch)


async def test_a_branch_that_is_checked_out_names_the_place(main: Path, tmp_path: Path) -> None:
    run_git(main, "worktree", "add", "-q", "-b", "busy", str(tmp_path / "there"))
    repository = await discover(main)

    for branch, place in (("busy", tmp_path / "there"), ("main", main)):
        with pytest.raises(RefusedError, match=f"checked out in {place};"):
            await plan_worktree(repository, "x", branch=branch)


@pytest.mark.parametrize("other", ["claudedo", "claudedo/x/y"])
async def test_a_branch_that_cannot_stand_beside_another_is_refused(main: Path, other: str) -> None:
    run_git(main, "branch", other)

    with pytest.raises(RefusedError, match=f"there is a branch {other};"):
        await plan_worktree(await discover(main), "x")


async def test_a_path_in_use_is_refused(main: Path) -> None:
    repository = await discover(main)
    trees = main.parent / "shop.worktrees"
    (trees / "full").mkdir(parents=True)
    (trees / "full/mine.txt").write_text("mine")
    (trees / "file").write_text("mine")
    make_repository(trees / "foreign")

    for name, reason in (("full", "not empty"), ("file", "is a file"), ("foreign", "not empty")):
        with pytest.raises(RefusedError, match=reason):
            await plan_worktree(repository, name)
    with pytest.raises(RefusedError, match="is a file, so"):
        await plan_worktree(repository, "x", path=trees / "file/deeper/x")


async def test_a_parent_without_write_permission_is_refused(main: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")

    with pytest.raises(RefusedError, match="is not writable"):
        await plan_worktree(await discover(main), "x", worktree_dir=str(tmp_path / "closed"))


async def test_an_empty_folder_is_good_enough(main: Path) -> None:
    (main.parent / "shop.worktrees/backend").mkdir(parents=True)

    assert ((await make(main)).path / "README.md").is_file()


# Making


async def test_a_worktree_is_made_on_its_own_branch(main: Path) -> None:
    tree = await make(main)

    assert run_git(tree.path, "symbolic-ref", "--short", "HEAD") == "claudedo/backend"
    assert run_git(tree.path, "status", "--porcelain") == ""
    assert tree.made_branch
    assert tree.base_commit == run_git(main, "rev-parse", "HEAD")
    assert tree.notes == ()


async def test_odd_names_survive_everywhere(tmp_path: Path) -> None:
    main = make_repository(tmp_path / "my  shöp\n2")
    for name in ODD_NAMES:
        commit_file(main, name, name)

    tree = await make(main)
    for name in ODD_NAMES:
        assert (tree.path / name).read_text() == name
        (tree.path / name).write_text("changed")
        (tree.path / f"new {name}").write_text("new")
    work = await work_in(tree.path, tree.branch)

    assert set(work.uncommitted) == set(ODD_NAMES)
    assert set(work.untracked) == {f"new {name}" for name in ODD_NAMES}
    assert "\n" not in work.summary()
    assert (await discover(tree.path)).main == main
    await remove(main, tree, force=True)
    assert listed(main) == 1


async def test_a_dirty_main_checkout_is_not_touched(main: Path) -> None:
    commit_file(main, "a.txt", "a")
    (main / "a.txt").write_text("changed")
    (main / "staged.txt").write_text("staged")
    run_git(main, "add", "staged.txt")
    (main / "untracked.txt").write_text("untracked")
    # Older than its file, so that any refresh of the index would rewrite it.
    os.utime(main / "README.md", (time.time() + 5, time.time() + 5))
    before = (main / ".git/index").read_bytes(), (main / ".git/index").stat().st_mtime_ns

    tree = await make(main)
    await work_in(tree.path, tree.branch)
    await remove(main, tree)

    assert ((main / ".git/index").read_bytes(), (main / ".git/index").stat().st_mtime_ns) == before
    assert run_git(main, "status", "--porcelain").splitlines() == [
        " M a.txt",
        "A  staged.txt",
        "?? untracked.txt",
    ]


async def test_an_existing_worktree_on_its_branch_is_used_again(main: Path) -> None:
    first = await make(main)
    (first.path / "mine.txt").write_text("mine")

    second = await make(main)

    assert second.path == first.path
    assert not second.made_branch
    assert (first.path / "mine.txt").read_text() == "mine"


async def test_an_existing_worktree_on_another_branch_is_refused(main: Path) -> None:
    tree = await make(main)

    with pytest.raises(RefusedError, match="on the branch claudedo/backend, not on other"):
        await plan_worktree(await discover(main), "backend", branch="other")
    run_git(tree.path, "checkout", "-q", "--detach")
    with pytest.raises(RefusedError, match="on a detached HEAD, not on claudedo/backend"):
        await plan_worktree(await discover(main), "backend")


async def test_an_existing_branch_is_used_as_it_is(main: Path) -> None:
    fork = run_git(main, "rev-parse", "HEAD")
    run_git(main, "checkout", "-q", "-b", "feature")
    tip = commit_file(main, "feature.txt", "f")
    run_git(main, "checkout", "-q", "main")
    commit_file(main, "later.txt", "l")

    tree = await make(main, branch="feature")

    assert run_git(tree.path, "rev-parse", "HEAD") == tip
    assert (tree.base_commit, tree.made_branch) == (fork, False)


async def test_a_tag_with_the_branchs_name_confuses_nobody(main: Path) -> None:
    run_git(main, "tag", "claudedo/backend")
    ahead = commit_file(main, "later.txt", "l")

    tree = await make(main)

    assert run_git(tree.path, "rev-parse", "HEAD") == ahead
    assert run_git(tree.path, "symbolic-ref", "HEAD") == "refs/heads/claudedo/backend"
    assert run_git(tree.path, "status", "--porcelain") == ""


async def test_ten_worktrees_at_once_all_come_into_being(main: Path) -> None:
    for number in range(50):
        (main / f"{number}.txt").write_text("x" * 1000)
    run_git(main, "add", ".")
    run_git(main, "commit", "-q", "-m", "Fifty files")

    trees = await asyncio.gather(*(make(main, f"t{number}") for number in range(10)))

    assert len({tree.path for tree in trees}) == 10
    for tree in trees:
        assert run_git(tree.path, "status", "--porcelain") == ""
    await asyncio.gather(*(remove(main, tree) for tree in trees))
    assert listed(main) == 1
    assert branches(main) == {"main"}
    assert not (main.parent / "shop.worktrees").exists()


async def test_two_plans_for_one_place_make_one_worktree(main: Path) -> None:
    plan = await plan_worktree(await discover(main), "backend")

    results = await asyncio.gather(add_worktree(plan), add_worktree(plan), return_exceptions=True)

    assert [type(result) for result in results] == [Worktree, ConflictError]
    assert (plan.path / "README.md").is_file()
    assert "claudedo/backend" in branches(main)


async def test_a_lock_of_another_git_is_waited_for(main: Path) -> None:
    lock = main / ".git/refs/heads/claudedo/backend.lock"
    lock.parent.mkdir()
    lock.touch()
    making = asyncio.create_task(make(main))
    await asyncio.sleep(0.5)
    assert not making.done()

    lock.unlink()

    assert (await making).branch == "claudedo/backend"


async def test_a_lock_that_stays_is_named(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_program, "_BUSY_PATIENCE", 0.2)
    lock = main / ".git/refs/heads/claudedo/backend.lock"
    lock.parent.mkdir()
    lock.touch()

    with pytest.raises(GitError, match=r"backend\.lock': File exists"):
        await make(main)


async def test_the_post_checkout_hook_runs_in_the_worktree(main: Path) -> None:
    add_hook(main, 'echo "$1 $3 $(pwd)" > hooked')

    tree = await make(main)

    assert (tree.path / "hooked").read_text() == f"{'0' * 40} 1 {tree.path}\n"


async def test_a_failing_hook_is_a_note_and_keeps_the_worktree(main: Path) -> None:
    add_hook(main, "echo no node here >&2; exit 3")

    tree = await make(main)

    assert (tree.path / "README.md").is_file()
    [note] = tree.notes
    assert "post-checkout hook failed" in note
    assert "no node here" in note


async def test_a_process_that_a_hook_leaves_behind_is_not_waited_for(main: Path) -> None:
    add_hook(main, "sleep 60 & echo $! > pid")
    began = time.monotonic()

    tree = await make(main)

    os.kill(int((tree.path / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - began < 30


async def test_a_failed_checkout_leaves_nothing(main: Path) -> None:
    commit_file(main, ".gitattributes", "*.big filter=broken\n")
    commit_file(main, "x.big", "x")
    run_git(main, "config", "filter.broken.smudge", "echo disk is full >&2; false")
    run_git(main, "config", "filter.broken.required", "true")

    with pytest.raises(GitError, match="disk is full"):
        await make(main)

    assert listed(main) == 1
    assert branches(main) == {"main"}
    assert not (main.parent / "shop.worktrees").exists()


def slow_checkout(main: Path, marker: Path) -> None:
    """Make the checkout of `z.slow` wait for a minute after creating `marker`."""
    commit_file(main, ".gitattributes", "*.slow filter=slow\n")
    commit_file(main, "z.slow", "z")
    script = f"echo $$ >{shlex.quote(str(marker))}; sleep 60"
    run_git(main, "config", "filter.slow.smudge", script)
    run_git(main, "config", "filter.slow.clean", "cat")
    run_git(main, "config", "filter.slow.required", "true")


async def test_a_cancelled_making_leaves_nothing(main: Path, tmp_path: Path) -> None:
    slow_checkout(main, tmp_path / "began")
    making = asyncio.create_task(make(main))
    await until(tmp_path / "began")

    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making

    assert listed(main) == 1
    assert branches(main) == {"main"}
    assert not (main.parent / "shop.worktrees").exists()


async def test_a_making_that_takes_too_long_is_ended_and_leaves_nothing(main: Path) -> None:
    slow_checkout(main, main.parent / "began")
    plan = await plan_worktree(await discover(main), "backend")

    with pytest.raises(TimedOutError, match="took more than 1 seconds"):
        await git_program.write(
            main, "worktree", "add", "-b", "b", str(plan.path), "HEAD", limit=1.0
        )

    assert listed(main) == 1
    assert not plan.path.exists()


async def kill_a_making(main: Path, path: Path, marker: Path) -> None:
    """Leave what a power failure in the middle of `git worktree add` leaves."""
    slow_checkout(main, marker)
    process = subprocess.Popen(
        ["git", "worktree", "add", "-q", "-b", "claudedo/backend", str(path)],
        cwd=main,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    await until(marker)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    run_git(main, "config", "filter.slow.smudge", "cat")


async def test_a_half_made_worktree_is_finished_on_the_next_try(main: Path) -> None:
    path = main.parent / "shop.worktrees/backend"
    await kill_a_making(main, path, main.parent / "began")
    assert "locked initializing" in run_git(main, "worktree", "list", "--porcelain")

    plan = await plan_worktree(await discover(main), "backend")
    tree = await add_worktree(plan)

    assert plan.repair
    assert run_git(tree.path, "status", "--porcelain") == ""
    assert (tree.path / "z.slow").read_text() == "z"
    assert "locked" not in run_git(main, "worktree", "list", "--porcelain")
    with pytest.raises(ConflictError, match="try again"):
        await add_worktree(plan)


async def test_a_half_made_worktree_can_be_removed(main: Path) -> None:
    path = main.parent / "shop.worktrees/backend"
    await kill_a_making(main, path, main.parent / "began")

    await remove_worktree(path, "claudedo/backend", main, force=False, made_branch=True)

    assert listed(main) == 1
    assert not path.exists()
    assert branches(main) == {"main"}


async def test_a_hand_deleted_worktree_is_made_again(main: Path) -> None:
    first = await make(main)
    kept = commit_file(first.path, "kept.txt", "kept")
    shutil.rmtree(first.path)

    again = await make(main)
    assert run_git(again.path, "rev-parse", "HEAD") == kept

    shutil.rmtree(again.path)
    elsewhere = await plan_worktree(await discover(main), "other", branch=again.branch)
    assert (await add_worktree(elsewhere)).path.name == "other"
    assert listed(main) == 2


async def test_making_leaves_other_peoples_missing_worktrees_alone(
    main: Path, tmp_path: Path
) -> None:
    run_git(main, "worktree", "add", "-q", "-b", "usb", str(tmp_path / "usb"))
    (tmp_path / "usb").rename(tmp_path / "unplugged")

    await remove(main, await make(main))

    (tmp_path / "unplugged").rename(tmp_path / "usb")
    assert run_git(tmp_path / "usb", "symbolic-ref", "--short", "HEAD") == "usb"


async def test_a_missing_worktree_that_alone_holds_commits_is_not_forgotten(main: Path) -> None:
    tree = await make(main)
    run_git(tree.path, "checkout", "-q", "--detach")
    lonely = commit_file(tree.path, "lonely.txt", "l")
    shutil.rmtree(tree.path)

    with pytest.raises(RefusedError, match=f"branch NAME {lonely}"):
        await make(main)


async def test_a_worktree_moved_with_its_repository_is_linked_again(tmp_path: Path) -> None:
    tree = await make(make_repository(tmp_path / "old/shop"))
    (tree.path / "mine.txt").write_text("mine")
    (tmp_path / "old").rename(tmp_path / "new")

    moved = await make(tmp_path / "new/shop")

    assert moved.path == tmp_path / "new/shop.worktrees/backend"
    assert run_git(moved.path, "status", "--porcelain") == "?? mine.txt"


# .worktreeinclude


@pytest.fixture
def with_includes(main: Path) -> Path:
    commit_file(main, ".gitignore", ".env\nsecrets/\n*.local\nbuild/\nlink\n")
    commit_file(
        main, ".worktreeinclude", ".env\nsecrets/\n*.local\n!no.local\nREADME.md\nlink\nfree\n"
    )
    return main


async def test_listed_and_ignored_files_are_copied(with_includes: Path) -> None:
    main = with_includes
    (main / ".env").write_text("KEY=1")
    (main / ".env").chmod(0o600)
    (main / "secrets/deep").mkdir(parents=True)
    (main / "secrets/deep/run").write_text("#!/bin/sh\n")
    (main / "secrets/deep/run").chmod(0o750)
    (main / "secrets").chmod(0o700)
    (main / "link").symlink_to("/nowhere/at all")
    for name in ODD_NAMES:
        (main / f"{name}.local").write_text(name)
    (main / "no.local").write_text("listed with an exclamation mark")
    (main / "free").write_text("listed, not ignored")
    (main / "build").mkdir()
    (main / "build/out").write_text("ignored, not listed")
    (main / "README.md").write_text("listed, tracked, changed")

    tree = await make(main)

    assert (tree.path / ".env").read_text() == "KEY=1"
    assert (tree.path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tree.path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tree.path / "secrets/deep/run").stat().st_mode & 0o777 == 0o750
    assert (tree.path / "link").readlink() == Path("/nowhere/at all")
    assert all((tree.path / f"{name}.local").read_text() == name for name in ODD_NAMES)
    assert not any((tree.path / name).exists() for name in ("no.local", "free", "build"))
    assert (tree.path / "README.md").read_text() == "hello\n"
    assert tree.notes == ()
    assert not await work_in(tree.path, tree.branch)
    assert (await remove(main, tree)).removed


async def test_copying_never_overwrites(with_includes: Path) -> None:
    (with_includes / ".env").write_text("main's")
    tree = await make(with_includes)
    (tree.path / ".env").write_text("the session's")

    await make(with_includes)

    assert (tree.path / ".env").read_text() == "the session's"


async def test_copying_never_leaves_the_worktree(with_includes: Path, tmp_path: Path) -> None:
    main = with_includes
    (tmp_path / "outside").mkdir()
    run_git(main, "checkout", "-q", "-b", "linked")
    (main / "secrets").symlink_to(tmp_path / "outside")
    run_git(main, "add", "-f", "secrets")
    run_git(main, "commit", "-q", "-m", "A link where main has a folder")
    run_git(main, "checkout", "-q", "main")
    (main / "secrets").mkdir()
    (main / "secrets/key").write_text("k")

    tree = await make(main, branch="linked")

    assert list((tmp_path / "outside").iterdir()) == []
    [note] = tree.notes
    assert "'secrets/key' of .worktreeinclude was not copied" in note


async def test_another_repository_inside_the_checkout_is_not_copied(with_includes: Path) -> None:
    make_repository(with_includes / "secrets/nested")

    tree = await make(with_includes)

    assert not (tree.path / "secrets").exists()
    assert tree.notes == ()


async def test_a_copied_file_that_the_branch_does_not_ignore_is_no_work(main: Path) -> None:
    (main / ".gitignore").write_text(".env\n")  # not committed
    (main / ".worktreeinclude").write_text(".env\n")
    (main / ".env").write_text("KEY=1")
    tree = await make(main)
    assert run_git(tree.path, "status", "--porcelain") == "?? .env"

    assert not await work_in(tree.path, tree.branch)
    (tree.path / ".env").write_text("KEY=2")
    assert (await work_in(tree.path, tree.branch)).untracked == (".env",)


# Work, and removing


async def test_a_fresh_worktree_holds_no_work(main: Path) -> None:
    tree = await make(main)

    work = await work_in(tree.path, tree.branch)

    assert not work
    assert work.summary() == "no unsaved work"


async def test_looking_for_work_takes_no_lock_from_the_session(main: Path) -> None:
    tree = await make(main)
    index = main / ".git/worktrees/backend/index"
    os.utime(tree.path / "README.md", (1, 1))  # any refresh of the index would write it down
    before = index.read_bytes(), index.stat().st_mtime_ns

    assert not await work_in(tree.path, tree.branch)

    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


async def test_every_kind_of_work_is_named_and_keeps_the_worktree(main: Path) -> None:
    commit_file(main, "b.txt", "b")
    tree = await make(main)
    (tree.path / "README.md").write_text("stash me")
    run_git(tree.path, "stash", "-q")
    run_git(tree.path, "stash", "store", "-m", "On main: not ours", "stash@{0}")
    commit_file(tree.path, "c.txt", "c")
    (tree.path / "README.md").write_text("changed")
    (tree.path / "b.txt").unlink()
    (tree.path / "staged.txt").write_text("staged")
    run_git(tree.path, "add", "staged.txt")
    (tree.path / "new").mkdir()
    (tree.path / "new/untracked.txt").write_text("new")

    work = await work_in(tree.path, tree.branch)

    assert set(work.uncommitted) == {"README.md", "b.txt", "staged.txt"}
    assert work.untracked == ("new/untracked.txt",)
    assert (work.stashes, work.commits) == (1, 1)
    assert work.summary() == (
        "3 uncommitted files ('README.md', 'b.txt', 'staged.txt'), "
        "1 untracked file ('new/untracked.txt'), 1 stash and 1 unmerged commit"
    )
    with pytest.raises(RefusedError, match=r"3 uncommitted files .*1 stash .*--force"):
        await remove(main, tree)
    assert (tree.path / "new/untracked.txt").exists()


async def test_a_person_who_hides_untracked_files_loses_none(
    main: Path, own_configuration: Path
) -> None:
    with own_configuration.open("a") as config:
        config.write("[status]\nshowUntrackedFiles = no\n[diff]\nignoreSubmodules = all\n")
    tree = await make(main)
    (tree.path / "new.txt").write_text("new")

    assert (await work_in(tree.path, tree.branch)).untracked == ("new.txt",)


@pytest.mark.parametrize("kind", ["merge", "rebase", "cherry-pick", "revert"])
async def test_an_unfinished_operation_is_work(main: Path, kind: str) -> None:
    tree = await make(main)
    commit_file(tree.path, "README.md", "theirs\n")
    commit_file(main, "README.md", "ours\n")
    target = "HEAD~1" if kind == "revert" else "main"
    if kind == "revert":
        commit_file(tree.path, "README.md", "again\n")
    with contextlib.suppress(subprocess.CalledProcessError):
        run_git(tree.path, kind, target)

    work = await work_in(tree.path, tree.branch)

    assert work.operation == f"a {kind}"
    assert work.uncommitted == ("README.md",)
    assert f"a {kind} in progress" in work.summary()


async def test_merged_pushed_and_tagged_commits_are_safe(main: Path, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    run_git(main, "remote", "add", "origin", str(tmp_path / "origin.git"))
    merged, pushed, tagged = [await make(main, name) for name in ("merged", "pushed", "tagged")]
    for tree in (merged, pushed, tagged):
        commit_file(tree.path, f"{tree.path.name}.txt", "x")
        assert (await work_in(tree.path, tree.branch)).commits == 1
    run_git(main, "merge", "-q", "--no-edit", merged.branch)
    run_git(pushed.path, "push", "-q", "origin", "HEAD")
    run_git(tagged.path, "tag", "v2")

    for tree in (merged, pushed, tagged):
        removal = await remove(main, tree)
        assert removal.deleted_branch == tree.branch
        assert removal.dropped == ()
    assert branches(main) == {"main"}


async def test_a_branch_we_did_not_make_stays_with_its_commits(main: Path) -> None:
    run_git(main, "branch", "feature")
    tree = await make(main, branch="feature")
    commit_file(tree.path, "f.txt", "f")

    removal = await remove(main, tree)

    assert removal.deleted_branch is None
    assert branches(main) == {"main", "feature"}
    assert not tree.path.exists()


async def test_a_branch_the_session_switched_to_keeps_its_commits(main: Path) -> None:
    tree = await make(main)
    run_git(tree.path, "checkout", "-q", "-b", "its-own")
    commit_file(tree.path, "f.txt", "f")

    removal = await remove(main, tree)

    assert removal.deleted_branch == tree.branch
    assert branches(main) == {"main", "its-own"}


async def test_commits_on_a_detached_head_are_work_and_named_when_dropped(main: Path) -> None:
    tree = await make(main)
    on_branch = commit_file(tree.path, "a.txt", "a")
    run_git(tree.path, "checkout", "-q", "--detach", "HEAD~1")
    commit_file(tree.path, "b.txt", "b")
    detached = commit_file(tree.path, "c.txt", "c")

    work = await work_in(tree.path, tree.branch)
    assert work.commits == 3
    assert set(work.tips) == {on_branch, detached}
    with pytest.raises(RefusedError, match="3 unmerged commits"):
        await remove(main, tree)
    removal = await remove(main, tree, force=True)

    assert set(removal.dropped) == {on_branch, detached}
    assert all(commit in removal.summary() for commit in (on_branch, detached))
    run_git(main, "branch", "back", detached)
    assert run_git(main, "show", "back:c.txt") == "c"


async def test_another_checkout_of_the_same_commits_keeps_them(main: Path, tmp_path: Path) -> None:
    tree = await make(main)
    tip = commit_file(tree.path, "a.txt", "a")
    run_git(main, "worktree", "add", "-q", "--detach", str(tmp_path / "review"), tip)

    assert (await remove(main, tree)).dropped == ()


async def test_force_removes_all_of_it(main: Path) -> None:
    tree = await make(main)
    (tree.path / "new.txt").write_text("new")
    tip = commit_file(tree.path, "c.txt", "c")

    removal = await remove(main, tree, force=True)

    assert removal == Removal(
        path=tree.path, removed=True, deleted_branch=tree.branch, tip=tip, dropped=(tip,)
    )
    assert branches(main) == {"main"}
    assert not tree.path.parent.exists()


async def test_a_commit_that_is_only_in_a_submodule_is_work(main: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "library")
    run_git(main, "submodule", "--quiet", "add", str(tmp_path / "library"), "library")
    run_git(main, "commit", "-q", "-m", "Add library")
    tree = await make(main)
    assert not await work_in(tree.path, tree.branch)
    run_git(tree.path, "submodule", "--quiet", "update", "--init")
    assert not await work_in(tree.path, tree.branch)

    commit_file(tree.path / "library", "new.txt", "new")
    run_git(tree.path, "commit", "-q", "-a", "-m", "Use it")
    run_git(main, "merge", "-q", tree.branch)
    work = await work_in(tree.path, tree.branch)

    assert work.summary() == "1 unpushed submodule commit"
    run_git(tree.path / "library", "push", "-q", "origin", "HEAD:refs/heads/new")
    assert (await remove(main, tree)).removed


async def test_work_in_a_worktree_that_lies_inside_is_work(main: Path) -> None:
    (main / ".git/info/exclude").write_text("inner/\n")
    tree = await make(main)
    for name in ("edited", "committed", "clean"):
        run_git(tree.path, "worktree", "add", "-q", "--detach", f"inner/{name}")
    (tree.path / "inner/edited/README.md").write_text("changed")
    tip = commit_file(tree.path / "inner/committed", "new.txt", "new")

    with pytest.raises(
        RefusedError, match=r"2 worktrees that hold work \('inner/committed', 'inner/edited'"
    ):
        await remove(main, tree)

    run_git(tree.path / "inner/edited", "checkout", "-q", ".")
    run_git(main, "branch", "kept", tip)
    assert (await remove(main, tree)).removed


async def test_a_locked_worktree_needs_force(main: Path) -> None:
    tree = await make(main)
    run_git(main, "worktree", "lock", "--reason", "on my desk", str(tree.path))

    with pytest.raises(RefusedError, match=r"is locked \(on my desk\)"):
        await remove(main, tree)
    assert (await remove(main, tree, force=True)).removed


async def test_a_worktree_deleted_by_hand_is_forgotten(main: Path) -> None:
    tree = await make(main)
    shutil.rmtree(tree.path)

    assert (await remove(main, tree)).deleted_branch == tree.branch
    assert listed(main) == 1


async def test_commits_survive_a_worktree_deleted_by_hand(main: Path) -> None:
    tree = await make(main)
    commit_file(tree.path, "c.txt", "c")
    shutil.rmtree(tree.path)

    with pytest.raises(RefusedError, match="1 unmerged commit"):
        await remove(main, tree)
    assert tree.branch in branches(main)


async def test_removing_twice_is_no_error(main: Path) -> None:
    tree = await make(main)
    await remove(main, tree)

    again = await remove(main, tree)

    assert again == Removal(path=tree.path, removed=False)
    assert again.summary() == f"{tree.path} was gone already."


async def test_the_parent_stays_while_something_is_in_it(main: Path) -> None:
    one, two = await make(main, "one"), await make(main, "two")

    await remove(main, one)
    assert two.path.exists()
    await remove(main, two)
    assert not two.path.parent.exists()


async def test_what_is_no_worktree_is_left_alone_even_with_force(main: Path) -> None:
    tree = await make(main)
    await remove(main, tree)
    tree.path.mkdir(parents=True)
    (tree.path / "mine.txt").write_text("mine")

    for victim in (tree, replace(tree, path=main)):
        with pytest.raises(RefusedError, match=r"left alone|never removed"):
            await remove(main, victim, force=True)
    assert (tree.path / "mine.txt").read_text() == "mine"
    assert (main / "README.md").exists()


async def test_a_vanished_repository_is_not_found(main: Path) -> None:
    tree = await make(main)
    shutil.rmtree(main)

    with pytest.raises(NotFoundError, match=r"The repository .* is gone"):
        await remove(main, tree)


async def test_no_work_can_be_read_where_no_worktree_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no worktree"):
        await work_in(tmp_path, "main")
