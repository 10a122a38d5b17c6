"""Where the branch of a task begins that needs several others, on real repositories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from claudedo.errors import ConflictError
from claudedo_worker.joined import Work, join
from tests.support.own_git import own_git
from tests.support.repository import a_repository, git

pytestmark = pytest.mark.anyio


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own_git(tmp_path, monkeypatch)
    return a_repository(tmp_path / "shop")


def branch(repository: Path, name: str, *, start: str = "main", **files: str) -> Work:
    git(repository, "switch", "-q", "-c", name, start)
    for file, text in files.items():
        (repository / file).write_text(text)
        git(repository, "add", file)
    git(repository, "commit", "-q", "--allow-empty", "-m", name)
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "switch", "-q", "main")
    return Work(name, commit)


async def test_the_work_of_three_comes_together_and_no_branch_moves(repository: Path) -> None:
    works = [branch(repository, name, **{name: name}) for name in ("api", "web", "docs")]
    before = git(repository, "for-each-ref")
    tip = await join(repository, works, os.environ)
    assert git(repository, "ls-tree", "--name-only", tip).split() == ["api", "docs", "web"]
    history = git(repository, "rev-list", tip).split()
    assert {work.commit for work in works} <= set(history)
    assert git(repository, "for-each-ref") == before
    assert git(repository, "status", "--porcelain") == ""


async def test_one_alone_and_one_that_has_the_other_are_taken_as_they_are(repository: Path) -> None:
    api = branch(repository, "api", api="1")
    web = branch(repository, "web", start="api", web="1")
    assert await join(repository, [api], os.environ) == api.commit
    assert await join(repository, [api, web], os.environ) == web.commit
    assert await join(repository, [web, api], os.environ) == web.commit


async def test_a_conflict_names_the_tasks_and_the_files(repository: Path) -> None:
    works = [branch(repository, name, same=name) for name in ("api", "web")]
    with pytest.raises(ConflictError, match="The work of web and of api conflicts in same: merge"):
        await join(repository, works, os.environ)


async def test_a_machine_without_a_person_commits_as_claudedo(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [branch(repository, name, **{name: name}) for name in ("api", "web")]
    git(repository, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_{name}_{what}", raising=False)
    tip = await join(repository, works, os.environ)
    assert (
        git(repository, "show", "-s", "--format=%an <%ae>", tip) == "claudedo <claudedo@localhost>"
    )
