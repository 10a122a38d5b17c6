"""The description of the API: whole, sound, and true of what a worker answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from claudedo.model import Task
from claudedo_worker import api
from claudedo_worker.api import openapi
from claudedo_worker.api.operations import OPERATIONS
from claudedo_worker.api.routes import Rule
from claudedo_worker.session_link import hashed
from claudedo_worker.store import Store
from tests.support.holders import Holders, holders
from tests.support.own_worker import Answer, OwnWorker
from tests.support.records import a_message, a_session, a_task, an_ask
from tests.support.repository import a_repository, a_worktree, git

Json = dict[str, Any]

DOCUMENT: Json = openapi.document(api.ROUTES, "0.0", "claudedo_x")
ROUTES = [f"{rule.method} {rule.path}" for rule in api.ROUTES]


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def parts(value: Any, key: str) -> Iterator[Any]:
    """Everything that stands under `key`, however deep."""
    if isinstance(value, dict):
        yield from (value[key] for _ in [0] if key in value)
        for inner in value.values():
            yield from parts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner, key)


# Whole and sound


def test_every_route_is_described_and_nothing_else() -> None:
    assert sorted(OPERATIONS) == sorted(ROUTES)
    assert len(list(operations())) == len(ROUTES)


def test_every_operation_says_in_a_sentence_what_it_is_for() -> None:
    silent = [path for _, path, operation in operations() if not operation["summary"].strip()]

    assert silent == []
    assert all(rule.handler.__doc__ for rule in api.ROUTES)


def test_a_route_without_a_description_makes_no_document() -> None:
    unknown = Rule("GET", "/api/unknown", api.ROUTES[0].handler, frozenset())

    with pytest.raises(KeyError, match="GET /api/unknown"):
        openapi.document((unknown,), "0.0", "x")


def test_no_operation_has_another_ones_id() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]

    assert len(ids) == len(set(ids))


def test_every_parameter_of_a_path_is_described_once_and_required() -> None:
    for _, path, operation in operations():
        named = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path)
        assert ":" not in path
        assert all(one["required"] for one in operation["parameters"] if one["in"] == "path")


def test_everything_that_is_referred_to_is_there() -> None:
    for reference in parts(DOCUMENT, "$ref"):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_every_schema_is_one() -> None:
    for schema in [*parts(DOCUMENT, "schema"), *DOCUMENT["components"]["schemas"].values()]:
        Draft202012Validator.check_schema(schema)


def test_every_operation_tells_of_problems_and_of_who_may_ask() -> None:
    for _, _, operation in operations():
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        assert operation["x-claudedo-who"]
    schemes = {
        name for requirement in parts(DOCUMENT, "security") for one in requirement for name in one
    }
    assert schemes == {"page", "token"}


# True


@dataclass
class Place:
    """A running worker with something of everything."""

    worker: OwnWorker
    task: Task
    other: Task
    document: Json

    def schema(self, method: str, path: str, status: int) -> Json:
        """What a route says that it answers, with nothing besides."""
        [answer] = [
            operation["responses"]["default" if status >= 400 else str(status)]
            for verb, where, operation in operations()
            if (verb, where) == (method.lower(), path)
        ]
        if "$ref" in answer:
            answer = self.document["components"]["responses"]["Problem"]
        [content] = answer["content"].values()
        return {**content["schema"], "components": _closed(self.document["components"])}

    def check(self, method: str, path: str, answer: Answer) -> None:
        Draft202012Validator(self.schema(method, path, answer.status)).validate(answer.json)


def _closed(value: Any) -> Any:
    """The schemas, which let nothing through that they do not name."""
    if isinstance(value, list):
        return [_closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _closed(one) for key, one in value.items()}
    objects = value.get("type") == "object" and "properties" in value
    return inner | ({"additionalProperties": False} if objects else {})


async def fill(store: Store, held: Holders, repository: Path) -> Place:
    shop = await store.workspace_for(str(repository), "shop")
    task = await store.add_task(a_task(shop, **a_worktree(repository, "backend")))
    other = await store.add_task(a_task(shop, "frontend", **a_worktree(repository, "frontend")))
    await store.link(task, other)
    holder = held.start(["/bin/sh", "-c", "sleep 600"])
    transcript = held.directory / "transcript.jsonl"
    transcript.write_text("")
    live = a_session(
        task,
        holder_socket=str(holder.socket),
        pid=holder.pid,
        config_dir=str(held.directory / "claude"),
        transcript=str(transcript),
    )
    await store.add_session(live, hashed("x"), task)
    await store.add_message(a_message(task, "first words", id="m_first"), "first")
    await store.add_ask(an_ask(live, id="k_first"))
    return Place(OwnWorker(held.directory / "home"), task, other, {})


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with holders() as held:
        repository = a_repository(held.directory / "shop")
        worker = OwnWorker(held.directory / "home", {"HOME": str(held.directory)})
        made = worker.seed(lambda store: fill(store, held, repository))
        made.worker = worker
        tree = Path(str(made.other.worktree))
        (tree / "work.txt").write_text("done")
        git(tree, "add", "work.txt")
        git(tree, "commit", "-q", "-m", "work")
        worker.start()
        try:
            made.document = worker.ask("GET", "/api/openapi.json").json
            yield made
        finally:
            worker.close()


def test_the_worker_gives_the_same_document_with_its_own_version_and_cookie(place: Place) -> None:
    told = place.document

    assert told["openapi"] == "3.1.0"
    assert told["info"]["version"] == place.worker.ask("GET", "/api/worker").json["version"]
    cookie = told["components"]["securitySchemes"]["page"]["name"]
    assert place.worker.cookie().startswith(f"{cookie}=")
    assert told["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))


UNTRIED = {
    "POST /api/start",  # needs a real claude: acceptance
    "POST /api/adopt",
    "POST /api/tasks/{task}/restart",
    "POST /mcp/{workspace}",  # JSON-RPC: test_clients.py
    "GET /api/openapi.json",  # above
    "POST /telemetry/{session}/{secret}/v1/logs",  # the CLI's: test_telemetry.py
    "POST /api/worker/stop",  # last of all
}
"""Routes with an answer in JSON that are not asked here."""


def test_every_answer_has_the_shape_that_is_described(place: Place) -> None:
    ask, task, other = place.worker.ask, place.task, place.other
    body = {"env": {"PATH": "/usr/bin:/bin"}}
    asked: list[tuple[str, str, dict[str, str], Any]] = [
        ("GET", "/healthz", {}, None),
        ("GET", "/readyz", {}, None),
        ("GET", "/api/worker", {}, None),
        ("GET", "/api/worker/check", {}, None),
        ("POST", "/api/links", {}, {}),
        ("GET", "/api/workspaces", {}, None),
        ("PATCH", "/api/workspaces/{workspace}", {"workspace": "shop"}, {"name": "shop"}),
        ("GET", "/api/resolve?target=backend", {}, None),
        ("GET", "/api/tasks", {}, None),
        ("GET", "/api/foreign", {}, None),
        (
            "POST",
            "/api/queue",
            {},
            {"cwd": str(task.repo), "tasks": {"lint": {"prompt": "x"}, "fix": {"prompt": "y"}}},
        ),
        ("GET", "/api/queue", {}, None),
        ("POST", "/api/tasks", {}, {"workspace": "shop", "title": "New", "body": "Do it."}),
        (
            "POST",
            "/api/tasks",
            {},
            {"workspace": "shop", "title": "Q", "body": "?", "assignee": "human"},
        ),
        ("GET", "/api/tasks/{task}", {"task": task.id}, None),
        ("GET", "/api/tasks/{task}", {"task": other.id}, None),
        ("POST", "/api/tasks/{task}/status", {"task": other.id}, {"status": "blocked"}),
        ("GET", "/api/tasks/{task}/history", {"task": other.id}, None),
        ("POST", "/api/tasks/{task}/attachments?filename=a.txt", {"task": other.id}, b"bytes"),
        ("GET", "/api/tasks/{task}/terminal", {"task": task.id}, None),
        ("GET", "/api/tasks/{task}/log", {"task": task.id}, None),
        ("GET", "/api/tasks/{task}/variables", {"task": task.id}, None),
        ("POST", "/api/tasks/{task}/messages", {"task": task.id}, {"body": "hello"}),
        ("GET", "/api/tasks/{task}/messages", {"task": task.id}, None),
        ("GET", "/api/messages?words=first", {}, None),
        ("GET", "/api/messages/{message}", {"message": "m_first"}, None),
        ("GET", "/api/asks", {}, None),
        ("GET", "/api/asks/{ask}", {"ask": "k_first"}, None),
        ("GET", "/api/events", {}, None),
        ("POST", "/api/tokens", {}, {"workspace": "shop", "name": "t"}),
        ("GET", "/api/tokens", {}, None),
        ("POST", "/api/peers", {}, {"a": task.id, "b": other.id}),
        ("DELETE", f"/api/peers?a={task.id}&b={other.id}", {}, None),
        ("GET", "/api/tasks/{task}/changes", {"task": other.id}, None),
        ("POST", "/api/tasks/{task}/proposal", {"task": other.id}, body),
        ("POST", "/api/tasks/{task}/merge", {"task": other.id}, body),
        ("POST", "/api/tasks/{task}/stop", {"task": task.id}, {}),
    ]
    done = set()

    def try_one(method: str, template: str, values: dict[str, str], body: Any) -> Answer:
        answer = ask(method, template.format(**values), body)
        assert answer.status == 200, (method, template, answer)
        path = template.partition("?")[0]
        place.check(method, path, answer)
        done.add(f"{method} {path}")
        return answer

    for one in asked:
        try_one(*one)
    [question] = [one for one in ask("GET", "/api/asks").json if one["kind"] == "task"]
    path = "/api/asks/{ask}/decision"
    try_one("POST", path, {"ask": question["id"]}, {"decision": "answer", "text": "Blue."})
    token = ask("GET", "/api/tokens").json[0]["id"]
    try_one("POST", "/api/tokens/{token}/rotate", {"token": token}, {"days": 3})
    try_one("DELETE", "/api/tokens/{token}", {"token": token}, None)
    queued = [one["task"] for one in ask("GET", "/api/queue").json]
    try_one("POST", "/api/queue/cancel", {}, {"tasks": queued[:1]})
    try_one("GET", "/api/queue/{task}/report", {"task": queued[0]}, None)
    try_one("POST", "/api/queue/next", {}, {**body, "tasks": queued[:1]})
    try_one("POST", "/api/queue/again", {}, {"tasks": queued[:1]})
    try_one("DELETE", "/api/tasks/{task}", {"task": other.id}, None)
    try_one("DELETE", "/api/workspaces/{workspace}", {"workspace": "shop"}, None)

    in_json = {
        key
        for key, one in OPERATIONS.items()
        if one.gives is not None and one.media == "application/json"
    }
    assert in_json - done == UNTRIED


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/unknown", 404, "not_found"),
        ("GET", "/unknown", 404, "not_found"),
        ("GET", "/api/tasks/", 404, "not_found"),
        ("PUT", "/api/tasks", 405, "usage"),
        ("POST", "/api/workspaces/shop/events", 405, "usage"),
        ("DELETE", "/healthz", 405, "usage"),
        ("PATCH", "/mcp/shop", 405, "usage"),
        ("GET", "/api/tasks/none", 404, "not_found"),
        ("GET", "/api/messages/%00", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    place: Place, method: str, path: str, status: int, code: str
) -> None:
    answer = place.worker.ask(method, path)

    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"]
    if status == 405:
        assert answer.headers["allow"]
    problem = {"$ref": "#/components/schemas/Problem"}
    components = _closed(place.document["components"])
    Draft202012Validator({**problem, "components": components}).validate(answer.json)
