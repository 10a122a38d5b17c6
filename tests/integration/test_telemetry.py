"""The address at which the CLI of a session reports what its requests cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from claudedo.model import Session, SessionState, Task
from claudedo_worker import telemetry
from claudedo_worker.session_link import hashed
from claudedo_worker.store import Store
from tests.support.holders import holders
from tests.support.own_worker import Answer, OwnWorker
from tests.support.records import a_session, a_task

CREDENTIAL = hashed("the session's credential")


@dataclass
class Scene:
    """A worker with a session that has ended: its last report may come late."""

    worker: OwnWorker
    task: Task
    session: Session
    beginning: Session  # has no credential yet
    port: int = 0

    def report(self, body: Any, *, session: str | None = None, secret: str | None = None) -> Answer:
        secret = telemetry.secret(CREDENTIAL) if secret is None else secret
        path = f"/telemetry/{session or self.session.id}/{secret}/v1/logs"
        return self.worker.ask("POST", path, body, port=self.port)


async def fill(store: Store) -> tuple[Task, Session, Session]:
    workspace = await store.workspace_for("/repository", "shop")
    tasks = [await store.add_task(a_task(workspace, name)) for name in ("backend", "frontend")]
    sessions = []
    for task, credential in zip(tasks, (CREDENTIAL, ""), strict=True):
        session = await store.add_session(a_session(task), credential, task)
        sessions.append(await store.change_session(session, state=SessionState.STOPPED))
    return tasks[0], sessions[0], sessions[1]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with holders() as held:
        worker = OwnWorker(held.directory / "home", {"HOME": str(held.directory)})
        made = Scene(worker, *worker.seed(fill))
        worker.start()
        try:
            made.port = worker.port
            yield made
        finally:
            worker.close()


def priced(request: str, dollars: float, **more: Any) -> dict[str, Any]:
    attributes = [
        {"key": "event.name", "value": {"stringValue": "api_request"}},
        {"key": "session.id", "value": {"stringValue": "c1"}},
        {"key": "request_id", "value": {"stringValue": request}},
        {"key": "cost_usd", "value": {"doubleValue": dollars}},
    ]
    records = [{"attributes": attributes}]
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}], **more}


def test_a_price_is_kept_once_whatever_is_repeated(scene: Scene) -> None:
    answers = [
        scene.report(priced("req_1", 0.25)),
        scene.report(priced("req_1", 0.25)),
        scene.report(priced("req_2", 0.5)),
    ]
    assert [(answer.status, answer.json) for answer in answers] == [(200, {})] * 3

    async def kept(store: Store) -> dict[str, float]:
        return (await store.prices(scene.task.id, "c1", 0))[1]

    assert scene.worker.seed(kept) == {"req_1": 0.25, "req_2": 0.5}


def test_only_who_knows_the_secret_of_that_session_reports(scene: Scene) -> None:
    other = scene.beginning.id
    refused = [
        scene.report(priced("req_9", 1), secret="wrong"),
        scene.report(priced("req_9", 1), secret="%C3%A9"),
        scene.report(priced("req_9", 1), session="s_unknown"),
        scene.report(priced("req_9", 1), session="s_unknown", secret=telemetry.secret("")),
        scene.report(priced("req_9", 1), session=other),
        scene.report(priced("req_9", 1), session=other, secret=telemetry.secret("")),
    ]
    assert {(answer.status, answer.json["code"]) for answer in refused} == {(401, "unauthorized")}


def test_what_is_no_report_or_too_large_is_refused_and_the_secret_is_in_no_log(
    scene: Scene,
) -> None:
    large = priced("req_9", 1, padding="x" * telemetry.LARGEST)
    bodies: list[Any] = [[], {"resourceLogs": [7]}, large]
    for body in bodies:
        answer = scene.report(body)
        assert (answer.status, answer.json["code"]) == (400, "usage"), json.dumps(body)[:80]
    assert "larger than 1 MiB" in answer.json["detail"]
    assert scene.report(priced("req_3", 0.1)).status == 200
    assert telemetry.secret(CREDENTIAL) not in scene.worker.log
