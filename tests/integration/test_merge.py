"""Merging a task's work, on real repositories with the real git."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, RefusedError
from claudedo_worker.git import GitError, discover
from claudedo_worker.merge import Job, Merge, changes, merge, propose
from claudedo_worker.merge.target import advance
from claudedo_worker.work import work_in
from claudedo_worker.worktree import add_worktree, plan_worktree, remove_worktree
from tests.support.own_git import own_git

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def own_configuration(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    for name in ("LC_ALL", "LANGUAGE"):
        monkeypatch.delenv(name, raising=False)
    return own_git(tmp_path_factory.mktemp("home"), monkeypatch)


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, timeout=60
    )
    return os.fsdecode(done.stdout).strip()


def put(checkout: Path, **files: str) -> None:
    """Write files; in a name `_` stands for the dot."""
    for name, text in files.items():
        (checkout / name.replace("_", ".")).write_text(text)


def commit(checkout: Path, message: str, **files: str) -> str:
    put(checkout, **files)
    git(checkout, "add", "--all")
    git(checkout, "commit", "-q", "--allow-empty", "-m", message)
    return git(checkout, "rev-parse", "HEAD")


LINES = "".join(f"{number}\n" for number in range(1, 21))


class Desk:
    """A repository whose `main` is checked out, and the worktree of a task `backend`."""

    def __init__(self, root: Path, *options: str) -> None:
        self.main = root / "shop"
        self.main.mkdir()
        git(self.main, "init", "-q", *options)
        self.base = commit(self.main, "Begin", readme_md="hello\n", lines_txt=LINES)
        self.tree = root / "shop.worktrees" / "backend"

    async def start(self) -> Desk:
        plan = await plan_worktree(await discover(self.main), "backend")
        self.tree = (await add_worktree(plan)).path
        return self

    def job(self, **wanted: Any) -> Job:
        values: dict[str, Any] = {
            "name": "backend",
            "main": self.main,
            "worktree": self.tree,
            "branch": "claudedo/backend",
            "base": self.base,
            "base_branch": "main",
            "made_branch": True,
            "environ": dict(os.environ),
        }
        return Job(**{**values, **wanted})

    async def merge(self, **wanted: Any) -> Merge:
        return await merge(self.job(**wanted))

    def tip(self, branch: str = "main") -> str:
        return git(self.main, "rev-parse", f"refs/heads/{branch}")

    def show(self, what: str) -> str:
        return git(self.main, "show", what)

    def state(self) -> tuple[str, ...]:
        """Everything that must be the same after a refusal."""
        return (
            git(self.main, "for-each-ref"),
            git(self.main, "status", "--porcelain"),
            git(self.main, "diff", "HEAD"),
            git(self.tree, "status", "--porcelain") if self.tree.exists() else "",
            git(self.main, "worktree", "list"),
        )


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return await Desk(tmp_path).start()


async def refused(desk: Desk, kind: type[ClaudedoError], *words: str, **wanted: Any) -> str:
    """The sentence of a merge that is refused, and that nothing changed."""
    before = desk.state()
    with pytest.raises(kind) as caught:
        await desk.merge(**wanted)
    assert desk.state() == before
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# What is merged, and how


async def test_a_base_that_stayed_moves_forward_and_its_checkout_with_it(desk: Desk) -> None:
    commit(desk.tree, "One", one_txt="1\n")
    head = commit(desk.tree, "Two", two_txt="2\n")

    done = await desk.merge()

    assert (done.into, done.commit, done.commits, done.checkout) == ("main", head, 2, desk.main)
    assert desk.tip() == git(desk.main, "rev-parse", "HEAD") == head
    assert (desk.main / "two.txt").read_text() == "2\n"
    assert git(desk.main, "status", "--porcelain") == ""
    assert done.summary("backend") == (
        f"Merged 2 commits of backend into main ({head[:10]}). "
        f"{desk.main}, which is on main, has it."
    )


async def test_a_base_that_went_on_gets_a_merge_commit_in_gits_words(desk: Desk) -> None:
    head = commit(desk.tree, "Theirs", lines_txt=LINES.replace("20\n", "twenty\n"))
    before = commit(desk.main, "Ours", lines_txt=LINES.replace("1\n", "one\n", 1))

    done = await desk.merge()

    assert git(desk.main, "log", "-1", "--format=%P %s %an") == (
        f"{before} {head} Merge branch 'claudedo/backend' into main Test"
    )
    assert done.commits == 1
    assert (desk.main / "lines.txt").read_text() == LINES.replace("1\n", "one\n", 1).replace(
        "20\n", "twenty\n"
    )
    assert git(desk.main, "status", "--porcelain") == ""


async def test_a_base_that_nobody_has_checked_out_is_moved_without_touching_any_file(
    desk: Desk,
) -> None:
    git(desk.main, "switch", "-q", "-c", "other")
    put(desk.main, readme_md="in work\n", notes_txt="mine\n")
    head = commit(desk.tree, "Work", readme_md="theirs\n", new_txt="x\n")

    done = await desk.merge()

    assert (done.checkout, desk.tip()) == (None, head)
    assert (desk.main / "readme.md").read_text() == "in work\n"
    assert not (desk.main / "new.txt").exists()
    assert git(desk.main, "status", "--porcelain") == "M readme.md\n?? notes.txt"


async def test_what_a_person_changed_in_the_checkout_of_the_base_stays_as_it_is(
    desk: Desk,
) -> None:
    put(desk.main, readme_md="in work\n", notes_txt="mine\n")
    put(desk.main, staged_txt="staged\n")
    git(desk.main, "add", "staged.txt")
    head = commit(desk.tree, "Work", lines_txt="changed\n", new_txt="x\n")

    await desk.merge()

    assert desk.tip() == head
    assert (desk.main / "readme.md").read_text() == "in work\n"
    assert (desk.main / "notes.txt").read_text() == "mine\n"
    assert (desk.main / "lines.txt").read_text() == "changed\n"
    assert git(desk.main, "status", "--porcelain").splitlines() == [
        "M readme.md",
        "A  staged.txt",
        "?? notes.txt",
    ]


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("uncommitted", [False, True])
async def test_a_changed_file_in_the_way_is_named_and_nothing_is_changed(
    desk: Desk, squash: bool, uncommitted: bool
) -> None:
    commit(desk.tree, "Work", readme_md="theirs\n", new_txt="x\n")
    put(desk.tree, more_txt="more\n") if uncommitted else None
    (desk.main / ".git/info/exclude").write_text("new.txt\n")
    put(desk.main, readme_md="in work\n", new_txt="ignored, and mine\n")

    said = await refused(
        desk,
        ConflictError,
        "'new.txt', 'readme.md'",
        str(desk.main),
        squash=squash,
        commit=uncommitted,
        message="More" if uncommitted else None,
    )

    assert "stash" in said
    assert (desk.main / "new.txt").read_text() == "ignored, and mine\n"


async def test_a_folder_in_the_way_is_refused_by_git_itself(desk: Desk) -> None:
    commit(desk.tree, "Work", thing="a file\n")
    (desk.main / "thing").mkdir()
    put(desk.main / "thing", inside="mine\n")

    await refused(desk, ConflictError, "nothing was changed")
    assert (desk.main / "thing" / "inside").read_text() == "mine\n"


@pytest.mark.parametrize("uncommitted", [False, True])
async def test_conflicts_are_named_and_nothing_is_changed(desk: Desk, uncommitted: bool) -> None:
    commit(desk.tree, "Theirs", readme_md="theirs\n")
    put(desk.tree, two_txt="theirs\n")
    if not uncommitted:
        commit(desk.tree, "Two")
    commit(desk.main, "Ours", readme_md="ours\n", two_txt="ours\n")

    await refused(
        desk,
        ConflictError,
        "'readme.md', 'two.txt'",
        "nothing was changed",
        *(
            ("'Commit your work, then merge main into your branch'", "commit it, then `git -C")
            if uncommitted
            else ("'Merge main into your branch'", "do it yourself: `git -C")
        ),
        commit=uncommitted,
        message="More" if uncommitted else None,
    )


async def test_there_may_be_nothing_to_merge(desk: Desk) -> None:
    before = desk.tip()
    done = await desk.merge()
    assert (done.commits, desk.tip()) == (0, before)
    assert done.summary("backend") == "Nothing to merge: main has everything of backend."

    commit(desk.tree, "One", one_txt="1\n")
    await desk.merge(squash=True)
    after = desk.tip()
    assert (await desk.merge(squash=True)).commits == 0
    assert (await desk.merge()).commits == 0  # no merge commit without a change
    assert desk.tip() == after


async def test_a_squash_is_one_commit_that_lists_the_subjects(desk: Desk) -> None:
    commit(desk.main, "Ours", ours_txt="ours\n")
    before = desk.tip()
    commit(desk.tree, "One\n\nWith a body.", one_txt="1\n")
    commit(desk.tree, "Two", two_txt="2\n")

    done = await desk.merge(squash=True)

    assert git(desk.main, "log", "-1", "--format=%P") == before
    assert git(desk.main, "log", "-1", "--format=%B") == (
        "Squash branch 'claudedo/backend' into main\n\n* One\n* Two"
    )
    assert done.squashed
    assert {"ours.txt", "one.txt", "two.txt"} <= {path.name for path in desk.main.iterdir()}


async def test_a_squash_of_one_commit_keeps_its_message_and_a_message_given_wins(
    desk: Desk,
) -> None:
    commit(desk.tree, "One\n\nWith a body.", one_txt="1\n")
    await desk.merge(squash=True)
    assert git(desk.main, "log", "-1", "--format=%B") == "One\n\nWith a body."

    commit(desk.tree, "Two", two_txt="2\n")
    await desk.merge(squash=True, message="In my words")
    assert git(desk.main, "log", "-1", "--format=%B") == "In my words"


@pytest.mark.parametrize("setting", ["false", "only", "true"])
async def test_merge_ff_of_the_person_is_honoured(desk: Desk, setting: str) -> None:
    git(desk.main, "config", "merge.ff", setting)
    head = commit(desk.tree, "Work", one_txt="1\n")
    await desk.merge()
    parents = git(desk.main, "log", "-1", "--format=%P").split()
    assert parents == ([desk.base, head] if setting == "false" else [desk.base])

    commit(desk.main, "Ours", ours_txt="ours\n")
    commit(desk.tree, "More", two_txt="2\n")
    if setting == "only":
        await refused(desk, RefusedError, "merge.ff=only", "--squash")
        put(desk.tree, three_txt="3\n")
        await refused(desk, RefusedError, "merge.ff=only", commit=True, message="Three")
    else:
        await desk.merge()
        assert (desk.main / "two.txt").exists()


# Uncommitted work


async def test_uncommitted_work_is_refused_and_the_sentence_names_commit(desk: Desk) -> None:
    put(desk.tree, readme_md="changed\n", new_txt="x\n")

    said = await refused(desk, RefusedError, "--commit", "'readme.md'", "'new.txt'")
    assert "claudedo merge backend --commit -m MESSAGE" in said


async def test_commit_takes_everything_but_ignored_and_copied_files(desk: Desk) -> None:
    (desk.main / ".git/info/exclude").write_text("*.log\n")
    put(desk.main, _env="SECRET\n")  # untracked there, copied here
    put(desk.tree, readme_md="changed\n", build_log="log", _env="SECRET\n")
    (desk.tree / "lines.txt").unlink()
    (desk.tree / "deep").mkdir()
    (desk.tree / "deep" / ":(glob)*\n").write_text("odd")

    done = await desk.merge(commit=True, message="All of it")

    assert git(desk.main, "log", "-1", "--format=%s %an") == "All of it Test"
    assert done.committed == done.commit == desk.tip()
    assert done.summary("backend").startswith("Committed what was uncommitted")
    changed = git(desk.main, "show", "-z", "--name-status", "--format=", "HEAD").split("\0")
    assert changed[:-1] == ["A", "deep/:(glob)*\n", "D", "lines.txt", "M", "readme.md"]
    assert git(desk.tree, "status", "--porcelain") == "?? .env"


async def test_commit_with_nothing_uncommitted_merges(desk: Desk) -> None:
    head = commit(desk.tree, "Work", one_txt="1\n")
    done = await desk.merge(commit=True, message="Unneeded")
    assert (done.commit, done.committed) == (head, None)


def add_hook(main: Path, name: str, script: str) -> None:
    hook = main / ".git" / "hooks" / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


async def test_commit_runs_the_persons_hooks_in_the_persons_environment(desk: Desk) -> None:
    add_hook(desk.main, "pre-commit", 'echo "$TOOL $LC_ALL" > hooked.txt; git add hooked.txt')
    put(desk.tree, new_txt="x\n")

    await desk.merge(
        commit=True, message="More", environ={**os.environ, "TOOL": "mine", "LC_ALL": "C.UTF-8"}
    )

    assert (desk.main / "hooked.txt").read_text() == "mine C.UTF-8\n"


async def test_a_hook_that_refuses_the_commit_is_quoted_and_nothing_is_merged(desk: Desk) -> None:
    add_hook(desk.main, "pre-commit", "echo lint: bad >&2; exit 1")
    put(desk.tree, new_txt="x\n")

    with pytest.raises(GitError, match="lint: bad"):
        await desk.merge(commit=True, message="More")
    assert desk.tip() == desk.tip("claudedo/backend") == desk.base
    assert (desk.tree / "new.txt").exists()


async def test_files_that_change_again_while_they_are_committed_stop_the_merge(desk: Desk) -> None:
    add_hook(desk.main, "post-commit", "echo more > again.txt")
    put(desk.tree, new_txt="x\n")
    with pytest.raises(ConflictError, match=r"committed \(\w{10}\).*changed again"):
        await desk.merge(commit=True, message="More")
    assert (desk.tip(), (desk.tree / "again.txt").exists()) == (desk.base, True)


async def test_what_cannot_be_committed_is_refused_before_anything_is(
    desk: Desk, tmp_path: Path
) -> None:
    nested = desk.tree / "nested"
    nested.mkdir()
    git(nested, "init", "-q")
    commit(nested, "Own", a="a")
    await refused(desk, RefusedError, "'nested/'", commit=True, message="x")
    shutil.rmtree(nested)

    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    commit(library, "Begin", a="a")
    git(desk.tree, "submodule", "add", "-q", str(library), "sub")
    git(desk.tree, "commit", "-q", "-m", "Add sub")
    put(desk.tree / "sub", a="changed")
    await refused(desk, RefusedError, "'sub'", "submodule", commit=True, message="x")


async def test_unresolved_conflicts_are_not_committed(desk: Desk) -> None:
    put(desk.tree, readme_md="stashed\n")
    git(desk.tree, "stash")
    commit(desk.tree, "Work", readme_md="committed\n")
    assert subprocess.run(["git", "stash", "pop"], cwd=desk.tree, check=False).returncode
    await refused(desk, RefusedError, "'readme.md'", "conflicts", commit=True, message="x")


async def test_an_operation_in_progress_is_finished_first(desk: Desk) -> None:
    commit(desk.tree, "Theirs", readme_md="theirs\n")
    commit(desk.main, "Ours", readme_md="ours\n")
    assert subprocess.run(["git", "merge", "main"], cwd=desk.tree, check=False).returncode
    await refused(desk, RefusedError, "A merge is in progress", commit=True, message="x")
    git(desk.tree, "merge", "--abort")

    (desk.tree / "readme.md").write_text("hello\n")
    commit(desk.tree, "Take it back")
    assert subprocess.run(
        ["git", "merge", "claudedo/backend~1"], cwd=desk.main, check=False
    ).returncode
    await refused(desk, ConflictError, "a merge is in progress", str(desk.main))


async def test_with_rm_what_would_be_lost_is_refused_before_the_merge(desk: Desk) -> None:
    put(desk.tree, readme_md="stashed\n")
    git(desk.tree, "stash")
    commit(desk.tree, "Work", one_txt="1\n")
    await refused(desk, RefusedError, "1 stash", "--rm", leaves=True)
    assert (await desk.merge()).commits == 1


# What the worktree has checked out


async def test_a_branch_that_the_session_made_in_the_worktree_is_merged_and_named(
    desk: Desk,
) -> None:
    git(desk.tree, "switch", "-q", "-c", "feature/x")
    head = commit(desk.tree, "Work", one_txt="1\n")

    done = await desk.merge()

    assert desk.tip() == head
    assert "feature/x, not claudedo/backend" in done.summary("backend")


async def test_a_detached_head_is_merged(desk: Desk) -> None:
    git(desk.tree, "switch", "-q", "--detach")
    head = commit(desk.tree, "Work", one_txt="1\n")
    commit(desk.main, "Ours", ours_txt="ours\n")
    await desk.merge()
    assert git(desk.main, "log", "-1", "--format=%s") == (f"Merge commit '{head[:10]}' into main")


async def test_commits_on_the_tasks_branch_are_not_left_behind(desk: Desk) -> None:
    commit(desk.tree, "Work", one_txt="1\n")
    git(desk.tree, "switch", "-q", "-c", "feature/x", "main")
    commit(desk.tree, "Other work", two_txt="2\n")
    await refused(desk, RefusedError, "feature/x", "claudedo/backend")


async def test_a_worktree_that_is_gone_leaves_its_branch_to_merge(desk: Desk) -> None:
    head = commit(desk.tree, "Work", one_txt="1\n")
    shutil.rmtree(desk.tree)
    assert (await desk.merge()).commit == head == desk.tip()


async def test_without_worktree_and_branch_there_is_nothing_to_merge(desk: Desk) -> None:
    git(desk.main, "worktree", "remove", str(desk.tree))
    git(desk.main, "branch", "-D", "claudedo/backend")
    await refused(desk, ConflictError, "claudedo/backend", "gone")


async def test_a_branch_deleted_below_its_worktree_leaves_nothing_to_merge(desk: Desk) -> None:
    commit(desk.tree, "Work", one_txt="1\n")
    git(desk.main, "update-ref", "-d", "refs/heads/claudedo/backend")
    with pytest.raises(ConflictError, match="was deleted"):
        await desk.merge()
    assert desk.tip() == desk.base


async def test_a_repository_that_is_gone_is_not_found(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is gone"):
        await desk.merge(main=tmp_path / "elsewhere")


# Where it goes


async def test_another_branch_can_be_named(desk: Desk) -> None:
    git(desk.main, "branch", "release")
    head = commit(desk.tree, "Work", one_txt="1\n")
    await desk.merge(into="release")
    assert (desk.tip("release"), desk.tip()) == (head, desk.base)


@pytest.mark.parametrize("into", ["nope", "main~0", "HEAD", "--help", "v1", "refs/heads/main", ""])
async def test_only_a_branch_can_be_named(desk: Desk, into: str) -> None:
    git(desk.main, "tag", "v1")
    commit(desk.tree, "Work", one_txt="1\n")
    if not into:
        return  # no name at all: the base branch
    await refused(desk, NotFoundError, repr(into), into=into)


async def test_the_tasks_own_branch_is_no_target(desk: Desk) -> None:
    await refused(desk, RefusedError, "itself", "--into", into="claudedo/backend")
    here = {"worktree": desk.main, "branch": "main", "made_branch": False}
    await refused(desk, RefusedError, "works on main itself", "--into", **here)


async def test_a_base_branch_that_is_gone_asks_for_another(desk: Desk) -> None:
    git(desk.main, "switch", "-q", "-c", "trunk")
    git(desk.main, "branch", "-D", "main")
    commit(desk.tree, "Work", one_txt="1\n")
    await refused(desk, ConflictError, "main", "gone", "--into")
    await desk.merge(into="trunk")
    assert (desk.main / "one.txt").exists()


async def test_an_unknown_base_branch_is_the_only_one_that_has_the_base(desk: Desk) -> None:
    git(desk.main, "branch", "claudedo/other")
    commit(desk.tree, "Work", one_txt="1\n")
    unknown = {"base_branch": None, "others": frozenset({"claudedo/other"})}
    git(desk.main, "branch", "release")
    await refused(desk, RefusedError, "'main', 'release'", "--into", **unknown)
    git(desk.main, "branch", "-D", "release")
    assert (await desk.merge(**unknown)).into == "main"
    await refused(desk, RefusedError, "--into", base_branch=None, base="1" * 40)


async def test_a_target_that_cannot_be_brought_along_is_refused(desk: Desk, tmp_path: Path) -> None:
    commit(desk.tree, "Work", one_txt="1\n")
    gone = tmp_path / "gone"
    git(desk.main, "worktree", "add", "-q", "-b", "release", str(gone))
    shutil.rmtree(gone)
    await refused(desk, ConflictError, "not there", "worktree prune", into="release")
    git(desk.main, "worktree", "prune")

    twice = tmp_path / "twice"
    git(desk.main, "worktree", "add", "-q", "--force", str(twice), "main")
    await refused(desk, ConflictError, str(twice), "one of them")
    git(desk.main, "worktree", "remove", str(twice))

    commit(desk.main, "Ours", readme_md="ours\n")
    git(desk.main, "branch", "topic", "HEAD~1")
    git(desk.main, "switch", "-q", "topic")
    commit(desk.main, "Topic", readme_md="topic\n")
    rebase = subprocess.run(["git", "rebase", "-q", "main"], cwd=desk.main, check=False)
    assert rebase.returncode
    await refused(desk, ConflictError, "rebase of topic", into="topic")


async def test_a_branch_checked_out_in_another_worktree_goes_along_there(
    desk: Desk, tmp_path: Path
) -> None:
    other = tmp_path / "other place"
    git(desk.main, "worktree", "add", "-q", "-b", "release", str(other))
    git(desk.main, "worktree", "lock", str(other))
    put(other, notes_txt="mine\n")
    commit(desk.tree, "Work", one_txt="1\n")
    done = await desk.merge(into="release")
    assert done.checkout == other
    assert (other / "one.txt").exists()
    assert git(other, "status", "--porcelain") == "?? notes.txt"
    assert not (desk.main / "one.txt").exists()


async def test_unrelated_histories_are_refused(desk: Desk) -> None:
    git(desk.main, "switch", "-q", "--orphan", "island")
    git(desk.main, "commit", "-q", "--allow-empty", "-m", "Alone")
    git(desk.main, "switch", "-q", "main")
    commit(desk.tree, "Work", one_txt="1\n")
    await refused(desk, RefusedError, "no commit in common", into="island")


async def test_merges_at_the_same_time_all_arrive(desk: Desk, tmp_path: Path) -> None:
    jobs = []
    for name in ("a", "b", "c"):
        plan = await plan_worktree(await discover(desk.main), name)
        tree = (await add_worktree(plan)).path
        commit(tree, f"Work of {name}", **{f"{name}_txt": name})
        jobs.append(desk.job(name=name, worktree=tree, branch=f"claudedo/{name}"))

    await asyncio.gather(*map(merge, jobs))

    assert {"a.txt", "b.txt", "c.txt"} <= {path.name for path in desk.main.iterdir()}
    assert git(desk.main, "status", "--porcelain") == ""


@pytest.mark.parametrize("checked_out", [False, True])
async def test_a_base_moved_by_others_meanwhile_is_merged_with_again(
    desk: Desk, checked_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(desk.main, "switch", "-q", "-c", "other") if not checked_out else None
    commit(desk.tree, "Work", one_txt="1\n")
    moves: list[str] = []

    async def late(job: Job, target: Any, new: str) -> None:
        if not moves:
            moves.append(target.commit)
            at = "main" if checked_out else "other"
            commit(desk.main, "Faster", fast_txt="f\n")
            if at == "other":
                git(desk.main, "branch", "-f", "main", "other")
        await advance(job, target, new)

    monkeypatch.setattr("claudedo_worker.merge.merging.advance", late)
    await desk.merge()

    assert len(git(desk.main, "log", "-1", "--format=%P", "main").split()) == 2
    assert git(desk.main, "ls-tree", "--name-only", "main").split() == [
        "fast.txt",
        "lines.txt",
        "one.txt",
        "readme.md",
    ]


# Signing, old gits, odd repositories


async def test_merge_and_squash_are_signed_where_the_person_signs_all_commits(
    desk: Desk, tmp_path: Path
) -> None:
    signer = tmp_path / "signer"
    signer.write_text(
        "#!/bin/sh\ncat > /dev/null\n"
        'echo "[GNUPG:] SIG_CREATED $KEY" >&2\n'
        "printf -- '-----BEGIN PGP SIGNATURE-----\\n%s\\n-----END PGP SIGNATURE-----\\n' \"$KEY\"\n"
    )
    signer.chmod(0o755)
    environ = {**os.environ, "KEY": "mykey"}
    commit(desk.main, "Ours", ours_txt="ours\n")
    commit(desk.tree, "Work", one_txt="1\n")
    git(desk.main, "config", "gpg.program", str(signer))
    git(desk.main, "config", "commit.gpgSign", "true")
    for squash in (False, True):
        await desk.merge(environ=environ, squash=squash)
        assert "gpgsig -----BEGIN PGP SIGNATURE-----\n mykey" in git(
            desk.main, "cat-file", "commit", "main"
        )
        git(desk.main, "-c", "commit.gpgSign=false", "reset", "-q", "--hard", "HEAD~1")


async def test_a_signature_that_fails_leaves_everything_as_it_was(desk: Desk) -> None:
    commit(desk.main, "Ours", ours_txt="ours\n")
    commit(desk.tree, "Work", one_txt="1\n")
    git(desk.main, "config", "gpg.program", "false")
    git(desk.main, "config", "commit.gpgSign", "true")
    await refused(desk, GitError, "gpg")


@pytest.fixture
def old_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git that does not know `merge-tree --write-tree` (before 2.38)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    wrapper = folder / "git"
    wrapper.write_text(
        '#!/bin/sh\ncase " $* " in *" merge-tree --write-tree "*) exit 129;; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.usefixtures("old_git")
async def test_an_older_git_merges_in_a_checkout_that_is_thrown_away(desk: Desk) -> None:
    commit(desk.tree, "Theirs", one_txt="1\n")
    commit(desk.main, "Ours", ours_txt="ours\n")
    add_hook(desk.main, "post-checkout", "touch hooked")
    await desk.merge()
    assert (desk.main / "one.txt").exists()

    commit(desk.tree, "Theirs", readme_md="theirs\n")
    commit(desk.main, "Ours", readme_md="ours\n")
    await refused(desk, ConflictError, "'readme.md'")
    assert not (desk.main / "hooked").exists()


async def test_a_bare_repositorys_branches_are_merged(tmp_path: Path) -> None:
    seed = Desk(tmp_path)
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(seed.main), str(bare))
    tree = tmp_path / "tree"
    git(bare, "worktree", "add", "-q", "-b", "claudedo/backend", str(tree))
    head = commit(tree, "Work", one_txt="1\n")
    await merge(seed.job(main=tree, worktree=tree))
    assert git(bare, "rev-parse", "main") == head


async def test_another_kind_of_hash_works(tmp_path: Path) -> None:
    desk = await Desk(tmp_path, "--object-format=sha256").start()
    commit(desk.tree, "Work", one_txt="1\n")
    commit(desk.main, "Ours", ours_txt="ours\n")
    put(desk.tree, two_txt="2\n")
    await desk.merge(commit=True, message="More")
    assert {"one.txt", "two.txt"} <= {path.name for path in desk.main.iterdir()}


async def test_a_repository_that_cannot_be_written_stays_as_it_is(desk: Desk) -> None:
    """By a hook, because a folder's mode keeps no administrator from writing."""
    commit(desk.tree, "Work", one_txt="1\n")
    add_hook(desk.main, "reference-transaction", '[ "$1" = prepared ] && exit 1; exit 0')
    with pytest.raises(GitError):
        await desk.merge()
    assert desk.tip() == desk.base


async def test_a_merge_that_is_cancelled_leaves_the_base_alone(desk: Desk) -> None:
    commit(desk.tree, "Work", one_txt="1\n")
    put(desk.tree, two_txt="2\n")
    add_hook(desk.main, "pre-commit", "touch started; sleep 30")
    merging = asyncio.ensure_future(desk.merge(commit=True, message="More"))
    async with asyncio.timeout(20):
        while not (desk.tree / "started").exists():
            await asyncio.sleep(0.02)
    merging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await merging
    assert desk.tip() == desk.base
    (desk.main / ".git/hooks/pre-commit").unlink()
    assert (await desk.merge(commit=True, message="More")).commits == 2


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$", "sleep 30"])
async def test_a_checkout_gets_its_files_back_when_git_breaks_off_in_the_middle(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """As it does on a full disk: some files are written, the index and the branch are not."""
    put(desk.main, readme_md="in work\n")
    (desk.tree / "deep").mkdir()
    commit(desk.tree / "deep", "Deep", file_txt="deep\n")
    commit(desk.tree, "Work", lines_txt="changed\n", new_txt="new\n")
    before, real = desk.state(), shutil.which("git")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text(
        '#!/bin/sh\ncase " $* " in *" merge --ff-only "*)\n'
        "printf chan > lines.txt; printf n > new.txt; mkdir deep; echo deep > deep/file.txt\n"
        f'touch {tmp_path}/half; {end};; esac\nexec {real} "$@"\n'
    )
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    merging = asyncio.ensure_future(desk.merge())
    async with asyncio.timeout(20):
        while not (tmp_path / "half").exists():
            await asyncio.sleep(0.02)
    if end.startswith("sleep"):
        merging.cancel()
    with pytest.raises((GitError, asyncio.CancelledError)):
        await merging

    assert desk.state() == before
    assert not (desk.main / "deep").exists()
    (folder / "git").unlink()
    assert (await desk.merge()).commits == 2


# What rm makes of it


@pytest.mark.parametrize("squash", [False, True])
async def test_what_was_merged_can_be_removed_without_force(desk: Desk, squash: bool) -> None:
    commit(desk.main, "Ours", ours_txt="ours\n")
    commit(desk.tree, "One", one_txt="1\n")
    commit(desk.tree, "Two", one_txt="2\n")
    assert (await work_in(desk.tree, "claudedo/backend", base="main")).commits == 2
    await desk.merge(squash=squash)
    commit(desk.main, "More of ours", other_txt="o\n")

    removal = await remove_worktree(
        desk.tree, "claudedo/backend", desk.main, made_branch=True, base="main"
    )
    assert removal.deleted_branch == "claudedo/backend"


async def test_work_after_a_squash_is_never_lost(desk: Desk) -> None:
    commit(desk.tree, "One", one_txt="1\n")
    done = await desk.merge(squash=True)
    commit(desk.tree, "Later", later_txt="later\n")
    for saved in (None, done.head):
        with pytest.raises(RefusedError, match="unmerged commit"):
            await remove_worktree(
                desk.tree,
                "claudedo/backend",
                desk.main,
                made_branch=True,
                base="main",
                saved=saved,
            )
    git(desk.tree, "reset", "-q", "--hard", "HEAD~1")
    git(desk.main, "reset", "-q", "--hard", "HEAD~1")  # the squash is gone again
    with pytest.raises(RefusedError, match="1 unmerged commit"):
        await remove_worktree(
            desk.tree, "claudedo/backend", desk.main, made_branch=True, base="main"
        )


async def test_work_taken_back_by_its_own_branch_still_counts_as_unmerged(desk: Desk) -> None:
    commit(desk.tree, "One", one_txt="1\n")
    git(desk.tree, "revert", "--no-edit", "HEAD")
    assert (await work_in(desk.tree, "claudedo/backend", base="main")).commits == 2


# For a pull request, and to look at


async def test_a_proposal_is_a_branch_with_everything_committed(desk: Desk) -> None:
    with pytest.raises(RefusedError, match="nothing to propose"):
        await propose(desk.job())
    put(desk.tree, one_txt="1\n")
    with pytest.raises(RefusedError, match="--commit"):
        await propose(desk.job())
    made = await propose(desk.job(commit=True, message="One"))
    assert (made.branch, made.into, made.commits) == ("claudedo/backend", "main", 1)
    assert made.committed == desk.tip("claudedo/backend")
    assert desk.tip() == desk.base
    git(desk.tree, "switch", "-q", "--detach")
    with pytest.raises(RefusedError, match="switch -c"):
        await propose(desk.job())


async def test_changes_are_counted_from_where_the_branch_left_its_base(desk: Desk) -> None:
    commit(desk.tree, "One", one_txt="1\n")
    put(desk.tree, two_txt="2\n", readme_md="changed\n")
    commit(desk.main, "Ours", ours_txt="ours\n")

    found = await changes(desk.job())
    assert (found.base, found.head, found.into) == (desk.base, None, "main")
    assert (found.directory, found.untracked) == (desk.tree, ("two.txt",))

    fork = commit(desk.tree, "Two")
    await desk.merge()
    assert (await changes(desk.job())).base == fork  # nothing is left to merge


async def test_changes_of_a_task_in_place_are_those_since_it_started(desk: Desk) -> None:
    commit(desk.main, "One", one_txt="1\n")
    here = desk.job(worktree=desk.main, branch="main", made_branch=False)
    found = await changes(here)
    assert (found.base, found.into) == (desk.base, None)
    with pytest.raises(NotFoundError, match="not there any more"):
        await changes(replace(here, base="1" * 40))


async def test_changes_of_a_worktree_that_is_gone_are_those_of_its_branch(desk: Desk) -> None:
    head = commit(desk.tree, "One", one_txt="1\n")
    shutil.rmtree(desk.tree)
    found = await changes(desk.job())
    assert (found.directory, found.base, found.head) == (desk.main, desk.base, head)


def test_the_environment_is_not_shown(tmp_path: Path) -> None:
    secret: Mapping[str, str] = {"TOKEN": "s3cret"}
    shown = repr(
        Job(
            name="a",
            main=tmp_path,
            worktree=None,
            branch=None,
            base=None,
            base_branch=None,
            environ=secret,
        )
    )
    assert "s3cret" not in shown
