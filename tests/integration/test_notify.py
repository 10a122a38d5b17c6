"""The notify command of a real worker: told what happens while it serves, and nothing of before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from claudedo.model import Session, SessionState
from claudedo_worker.store import Store
from tests.support.own_worker import PATIENCE, OwnWorker
from tests.support.records import a_session, a_task


@pytest.fixture
def worker() -> Iterator[OwnWorker]:
    """A state directory, short enough for sockets, whose worker keeps what it is to tell."""
    with TemporaryDirectory(prefix="cdn-", dir="/tmp") as folder:
        made = OwnWorker(Path(folder, "home"))
        made.home.mkdir(mode=0o700)
        keep = f"cat >> {folder}/told; echo >> {folder}/told"
        (made.home / "config.toml").write_text(f"notify = '{keep}'\n")
        yield made
        made.close()


def told(worker: OwnWorker, count: int) -> list[dict[str, Any]]:
    """Wait until `count` facts were told; returns all."""
    file = worker.home.parent / "told"
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or file.read_text().count("\n") < count:
        assert time.monotonic() < deadline, worker.log
        time.sleep(0.02)
    return [json.loads(line) for line in file.read_text().splitlines()]


def lost(name: str) -> Any:
    """Store a session whose holder is gone, as after a reboot."""

    async def fill(store: Store) -> Session:
        workspace = await store.workspace_for("/repository", "shop")
        task = await store.add_task(a_task(workspace, name))
        session = a_session(task, state=SessionState.BUSY, pid=None, holder_socket="/nowhere")
        return await store.add_session(session, "hash", task)

    return fill


def test_a_session_lost_while_no_worker_ran_is_told_once_over_all_restarts(
    worker: OwnWorker,
) -> None:
    worker.seed(lost("backend"))
    worker.start()
    [first] = told(worker, 1)
    assert (first["event"], first["kind"]) == ("failure", "interrupted")
    assert (first["task_name"], first["workspace"]) == ("backend", "shop")
    worker.end()

    worker.seed(lost("frontend"))
    worker.start()
    assert [one["task_name"] for one in told(worker, 2)] == ["backend", "frontend"]
    worker.end()

    worker.seed(lost("docs"))
    worker.start()
    told(worker, 3)
    worker.end()
    assert [one["task_name"] for one in told(worker, 3)] == ["backend", "frontend", "docs"]


def test_a_command_that_hangs_delays_neither_the_worker_nor_its_end(worker: OwnWorker) -> None:
    (worker.home / "config.toml").write_text("notify = 'sleep 301'\n")
    worker.seed(lost("backend"))
    worker.start()
    assert worker.ask("GET", "/api/asks").json == []
    assert worker.end() < PATIENCE / 3
