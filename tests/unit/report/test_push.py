"""Pushing what completed: a line for each branch, and never by force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claudedo.model import RunExit, Verdict
from claudedo.report.push import Pushed, push
from tests.support.own_git import own_git
from tests.support.repository import a_repository, a_worktree, git
from tests.support.shown import shown

REFUSING = """#!/bin/sh
read ref rest
case $ref in *first) echo "not this" >&2; exit 1;; esac
"""
DONE = Verdict(exit=RunExit.DONE, reason="done")


@pytest.fixture(autouse=True)
def _git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_git(tmp_path, monkeypatch)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the remote `origin`, to which it was pushed."""
    made = a_repository(tmp_path / "shop")
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(made, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(made, "push", "-q", "origin", "main")
    return made


def a_done(repository: Path, name: str, verdict: Verdict = DONE, **more: Any) -> dict[str, Any]:
    """The report of a task that made a commit on its branch."""
    made = a_worktree(repository, name)
    commit(Path(made["worktree"]), name)
    return {**shown(name, verdict), **made, **more}


def commit(worktree: Path, name: str) -> None:
    (worktree / f"{name}.txt").write_text(name)
    git(worktree, "add", ".")
    git(worktree, "commit", "-q", "-m", f"add {name}")


def there(repository: Path) -> dict[str, str]:
    """The branches of the remote, and their commits."""
    told = git(repository, "ls-remote", "--heads", "origin")
    lines = (line.split("\t") for line in told.splitlines())
    return {ref.removeprefix("refs/heads/"): head for head, ref in lines}


def lines(pushed: list[Pushed]) -> list[str]:
    return [one.line for one in pushed]


def test_only_completed_tasks_are_pushed(repository: Path) -> None:
    rejected = Verdict(exit=RunExit.REJECTED, reason="no")
    reports = [
        a_done(repository, "good"),
        a_done(repository, "bad", rejected),
        {**shown("late", None), "repo": str(repository)},
    ]

    pushed = list(push(reports))

    assert lines(pushed) == ["good: claudedo/good is pushed to origin"]
    assert pushed[0].done
    assert there(repository).keys() == {"main", "claudedo/good"}
    tip = git(repository, "rev-parse", "claudedo/good")
    assert there(repository)["claudedo/good"] == tip


def test_what_is_there_already_is_said_and_good(repository: Path) -> None:
    report = a_done(repository, "good")
    list(push([report]))

    assert [(one.done, one.line) for one in push([report])] == [
        (True, "good: claudedo/good is at origin already")
    ]


def test_what_others_pushed_there_is_never_overwritten(repository: Path, tmp_path: Path) -> None:
    report = a_done(repository, "good")
    other = a_worktree(repository, "other")["worktree"]
    git(Path(other), "commit", "-q", "--allow-empty", "-m", "somebody else's")
    git(Path(other), "push", "-q", "origin", "claudedo/other:claudedo/good")
    before = there(repository)
    git(repository, "config", "remote.origin.push", "+refs/heads/*:refs/heads/*")

    [pushed] = push(
        [
            report,
        ]
    )

    assert not pushed.done
    assert pushed.line.startswith("good: claudedo/good is not pushed to origin: [rejected]")
    assert there(repository) == before


def test_a_mirroring_remote_is_not_mirrored(repository: Path) -> None:
    report = a_done(repository, "good")
    git(repository, "push", "-q", "origin", "main:theirs")
    git(repository, "config", "remote.origin.mirror", "true")

    [pushed] = push([report])

    assert "theirs" in there(repository)
    assert pushed.done == ("claudedo/good" in there(repository))


def test_one_that_fails_keeps_none_of_the_others_back(repository: Path) -> None:
    first, last = a_done(repository, "first"), a_done(repository, "last")
    hook = repository / ".git" / "hooks" / "pre-push"
    hook.write_text(
        '#!/bin/sh\nread ref rest\ncase $ref in *first) echo "not this" >&2; exit 1;; esac\n'
    )
    hook.chmod(0o755)

    pushed = list(push([first, last]))

    assert [one.done for one in pushed] == [False, True]
    assert "claudedo/first is not pushed to origin" in pushed[0].line
    assert "not this" in pushed[0].line
    assert "claudedo/last" in there(repository)


def test_a_repository_whose_worktree_is_gone_is_pushed_all_the_same(repository: Path) -> None:
    report = a_done(repository, "good")
    git(repository, "worktree", "remove", "--force", report["worktree"])

    assert [one.done for one in push([report])] == [True]


def test_without_anything_to_push_there_is_a_sentence(repository: Path, tmp_path: Path) -> None:
    gone = a_done(repository, "gone", worktree=None, repo=str(tmp_path / "no"))
    bare = a_done(repository, "bare", branch=None)
    lost = a_done(repository, "lost", branch="claudedo/never")

    pushed = list(push([gone, bare, lost]))

    assert [one.done for one in pushed] == [False, False, False]
    assert pushed[0].line == "gone: not pushed: it has no repository any more"
    assert pushed[1].line == "bare: not pushed: it has no branch"
    assert "claudedo/never is not pushed to origin: error: src refspec" in pushed[2].line


def test_a_repository_without_a_remote_says_so(tmp_path: Path) -> None:
    alone = a_repository(tmp_path / "alone")

    [pushed] = push([a_done(alone, "good")])

    assert not pushed.done
    assert "no remote to push to" in pushed.line


def test_the_remote_that_is_named_is_taken(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "mine.git")
    git(repository, "remote", "add", "mine", str(tmp_path / "mine.git"))

    [pushed] = push([a_done(repository, "good")], remote="mine")

    assert pushed.line == "good: claudedo/good is pushed to mine"
    assert "claudedo/good" not in there(repository)


def test_no_secret_of_a_url_is_told(repository: Path) -> None:
    git(repository, "remote", "set-url", "origin", "https://me:s3cret@127.0.0.1:9/shop.git")

    [pushed] = push([a_done(repository, "good")])

    assert not pushed.done
    assert "s3cret" not in pushed.line


def test_a_git_hook_around_the_command_ties_it_to_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = a_done(repository, "good")
    other = a_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))

    assert [one.done for one in push([report])] == [True]
