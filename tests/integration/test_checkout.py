"""What `show` says of a task's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from claudedo.demo.repository import make_repository
from claudedo_worker import git
from claudedo_worker.checkout import Checkout, look

pytestmark = pytest.mark.anyio


async def test_commits_and_changed_files_since_the_base_are_counted(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "shop")
    base = (await git.discover(repository)).head
    (repository / "one").write_text("1")
    await git.write(repository, "add", "one")
    await git.write(repository, "commit", "-q", "-m", "one")
    (repository / "two").write_text("2")

    there = Checkout(branch="main", commits=1, changed=1)
    assert await look(str(repository), base) == there
    (repository / "deep").mkdir()  # where a session that was adopted may work
    assert await look(str(repository / "deep"), base) == there


async def test_a_folder_that_is_gone_or_no_checkout_has_nothing_to_say(tmp_path: Path) -> None:
    assert await look(str(tmp_path / "gone"), "HEAD") is None
    assert await look(str(tmp_path), "HEAD") is None
