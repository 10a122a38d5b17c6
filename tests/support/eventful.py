"""A worker with two workspaces, of which the first has told of many things, and who hears of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo.model import Task, Workspace, now
from claudedo_worker.store import Store
from tests.support.own_worker import OwnWorker
from tests.support.records import a_task

_SEED = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :many)
INSERT INTO events (type, workspace_id, task_id, payload, at)
SELECT 'message.queued', :workspace_id, :task_id,
       json_object('task_id', :task_id, 'number', n, 'pending', n,
                   'filling', hex(zeroblob(:filling))), :at FROM numbers
"""


@dataclass
class Place:
    """A running worker with two workspaces, `shop` and `far`, each with a task."""

    worker: OwnWorker
    shop: Workspace
    far: Workspace
    task: Task
    stranger: Task
    port: int = 0

    @property
    def path(self) -> str:
        """The event bus of the shop."""
        return f"/api/workspaces/{self.shop.id}/events"

    def token(self, workspace: str = "shop") -> dict[str, Any]:
        order = {"workspace": workspace, "name": "listener"}
        answer = self.worker.ask("POST", "/api/tokens", order)
        assert answer.status == 200, answer
        return dict(answer.json)

    def last(self) -> int:
        """The number of the newest event."""
        return int(self.worker.ask("GET", f"/api/events?after={2**62}").json["next"])

    def say(self, body: str, task: Task | None = None) -> str:
        path = f"/api/tasks/{(task or self.task).id}/messages"
        return str(self.worker.ask("POST", path, {"body": body}).json["id"])

    def change(self, statement: str, *values: Any, **named: Any) -> None:
        """Change the database behind the worker's back."""
        with closing(sqlite3.connect(self.worker.settings.database)) as database, database:
            database.execute(statement, named or values)


@contextmanager
def eventful(root: Path, many: int, *, filling: int = 0) -> Iterator[Place]:
    """Such a place below `root`, with `many` events of which each holds `filling` zero bytes."""
    worker = OwnWorker(root / "home", {"HOME": str(root)})

    async def fill(store: Store) -> Place:
        shop = await store.workspace_for("/repository", "shop")
        far = await store.workspace_for("/elsewhere", "far")
        task = await store.add_task(a_task(shop))
        return Place(worker, shop, far, task, await store.add_task(a_task(far, "stranger")))

    place = worker.seed(fill)
    place.change(
        _SEED,
        many=many,
        filling=filling,
        workspace_id=place.shop.id,
        task_id=place.task.id,
        at=now(),
    )
    worker.start()
    try:
        place.port = worker.port
        yield place
    finally:
        worker.close()
