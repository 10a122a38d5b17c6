"""Workspaces renamed and removed: real repositories, worktrees and files, a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claudedo.model import Task, Workspace
from claudedo_worker.session_link import hashed
from claudedo_worker.store import Store
from tests.support.holders import Holders, holders
from tests.support.own_worker import OwnWorker
from tests.support.records import a_session, a_task
from tests.support.repository import a_repository, a_worktree, git


@dataclass
class Scene:
    """A worker with two workspaces. The first has two worktrees, a token and a file."""

    worker: OwnWorker
    held: Holders
    repository: Path
    shop: Workspace
    far: Workspace
    tasks: list[Task]

    def worktree(self, number: int) -> Path:
        return Path(str(self.tasks[number].worktree))

    def names(self) -> list[str]:
        return [one["name"] for one in self.worker.ask("GET", "/api/workspaces").json]

    def files(self) -> list[Path]:
        """The bytes that are kept beside the database."""
        kept = self.worker.settings.attachments
        return [path for path in kept.rglob("*") if path.is_file()]

    def upload(self, task: Task, content: bytes) -> None:
        path = f"/api/tasks/{task.id}/attachments?filename=a.txt"
        file = self.worker.ask("POST", path, content).json["id"]
        body = {"body": "look", "attachments": [file]}
        assert self.worker.ask("POST", f"/api/tasks/{task.id}/messages", body).status == 200

    def remove(self, named: str = "shop", query: str = "") -> Any:
        return self.worker.ask("DELETE", f"/api/workspaces/{named}{query}")

    def run_session(self, task: Task) -> None:
        """A session of the task runs when the worker is there."""
        holder = self.held.start(["/bin/sh", "-c", "sleep 600"])
        session = a_session(
            task,
            holder_socket=str(holder.socket),
            pid=holder.pid,
            config_dir=str(self.held.directory / "claude"),
        )
        self.worker.seed(lambda store: store.add_session(session, hashed("x"), task))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with holders() as held:
        repository = a_repository(held.directory / "shop")
        worker = OwnWorker(held.directory / "home", {"HOME": str(held.directory)})

        async def fill(store: Store) -> Scene:
            shop = await store.workspace_for(str(repository), "shop")
            far = await store.workspace_for("/elsewhere", "far")
            tasks = [
                await store.add_task(a_task(shop, name, **a_worktree(repository, name)))
                for name in ("backend", "frontend")
            ]
            stranger = a_task(far, "stranger", made_worktree=False)
            tasks.append(await store.add_task(stranger))
            await store.link(tasks[0], tasks[2])
            return Scene(worker, held, repository, shop, far, tasks)

        made = worker.seed(fill)
        try:
            yield made
        finally:
            worker.close()


def test_a_renamed_workspace_keeps_its_id_its_tasks_and_its_tokens(scene: Scene) -> None:
    worker = scene.worker
    worker.start()
    token = worker.ask("POST", "/api/tokens", {"workspace": "shop", "name": "t"}).json
    headers = {"Authorization": f"Bearer {token['text']}"}

    renamed = worker.ask("PATCH", "/api/workspaces/shop", {"name": "market"})

    assert renamed.json == {"id": scene.shop.id, "name": "market", "root": str(scene.repository)}
    tasks = worker.ask("GET", "/api/tasks?workspace=market").json
    assert [task["workspace"] for task in tasks] == ["market", "market"]
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    for path in (f"/mcp/{scene.shop.id}", "/mcp/market"):
        answer = worker.ask("POST", path, initialize, port=worker.port, headers=headers)
        assert answer.status == 200, answer
    assert worker.ask("PATCH", "/api/workspaces/shop", {"name": "x"}).status == 404
    assert worker.ask("PATCH", "/api/workspaces/market", {"name": "market"}).status == 200


def test_a_name_that_is_taken_or_none_is_refused(scene: Scene) -> None:
    scene.worker.start()

    for name in ("far", "", "A", "../x", "a b", "x" * 64, 7):
        answer = scene.worker.ask("PATCH", "/api/workspaces/shop", {"name": name})

        assert answer.status == (409 if name == "far" else 400), name
        assert answer.json["detail"], name
        assert scene.names() == ["far", "shop"]


def test_all_of_a_workspace_goes_and_nothing_of_another(scene: Scene) -> None:
    worker = scene.worker
    worker.start()
    scene.upload(scene.tasks[0], b"of the shop")
    scene.upload(scene.tasks[2], b"of far")
    text = worker.ask("POST", "/api/tokens", {"workspace": "shop", "name": "t"}).json["text"]
    order = {"workspace": "shop", "title": "Which colour?", "body": "Say.", "assignee": "human"}
    worker.ask("POST", "/api/tasks", order)

    answer = scene.remove()

    assert answer.status == 200, answer
    assert (answer.json["name"], answer.json["tokens"]) == ("shop", 1)
    assert len(answer.json["tasks"]) == 3
    assert scene.names() == ["far"]
    assert [task["name"] for task in worker.ask("GET", "/api/tasks").json] == ["stranger"]
    assert worker.ask("GET", "/api/asks").json == []
    assert worker.ask("GET", "/api/tokens").json == []
    assert not scene.worktree(0).exists()
    assert not scene.worktree(1).exists()
    assert git(scene.repository, "branch", "--format=%(refname:short)") == "main"
    assert [path.read_bytes() for path in scene.files()] == [b"of far"]
    headers = {"Authorization": f"Bearer {text}"}
    shown = worker.ask("POST", f"/mcp/{scene.shop.id}", {}, port=worker.port, headers=headers)
    assert shown.status == 401
    assert scene.remove().status == 404


def test_work_in_one_worktree_keeps_everything_unless_forced(scene: Scene) -> None:
    scene.worker.start()
    (scene.worktree(1) / "new.txt").write_text("mine")

    refused = scene.remove()

    assert (refused.status, refused.json["code"]) == (409, "refused")
    assert refused.json["detail"].startswith("Nothing was removed.")
    assert str(scene.worktree(1)) in refused.json["detail"]
    assert scene.worktree(0).exists()
    assert scene.names() == ["far", "shop"]
    assert len(scene.worker.ask("GET", "/api/tasks").json) == 3

    assert scene.remove(query="?force=true").status == 200
    assert not scene.worktree(1).exists()
    assert scene.repository.exists()


@pytest.mark.parametrize("query", ["", "?force=true"])
def test_a_running_session_keeps_everything_and_the_sentence_names_stop(
    scene: Scene, query: str
) -> None:
    scene.run_session(scene.tasks[0])
    scene.worker.start()

    refused = scene.remove(query=query)

    assert (refused.status, refused.json["code"]) == (409, "refused")
    assert "backend" in refused.json["detail"]
    assert "`claudedo stop --all -w shop`" in refused.json["detail"]
    assert scene.names() == ["far", "shop"]

    assert scene.worker.ask("POST", f"/api/tasks/{scene.tasks[0].id}/stop", {}).json["stopped"]
    assert scene.remove(query=query).status == 200


def test_a_page_removes_a_workspace_without_an_environment(scene: Scene) -> None:
    worker = scene.worker
    worker.start()
    headers = {"Cookie": worker.cookie()}

    answer = worker.ask("DELETE", "/api/workspaces/far", port=worker.port, headers=headers)

    assert answer.status == 200
    assert scene.names() == ["shop"]
