"""Tasks, threads and files over HTTP and by command, with a real worker and its two doors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner, Result

from claudedo.cli.app import app
from claudedo.client import WorkerClient
from claudedo.errors import ConflictError, NotFoundError, TooLargeError
from claudedo.model import Assignee, Task
from claudedo_worker.store import Store
from claudedo_worker.threads import session_of
from tests.support import services
from tests.support.own_worker import Answer, OwnWorker, UnixHTTP
from tests.support.records import a_task

PAIRS = 50
HOSTILE = '<script>alert("x")</script>'


@dataclass
class Scene:
    """A running worker with a session's task and a question that the session asked."""

    worker: OwnWorker
    backend: Task
    question: Task
    client: WorkerClient

    def kept(self) -> list[Path]:
        """All files that messages carry, or that are left of them."""
        return [p for p in self.worker.settings.attachments.glob("**/*") if p.is_file()]

    def upload(self, data: bytes, name: str, kind: str = "", *, task: str = "") -> Answer:
        query = f"filename={quote(name)}" + (f"&type={quote(kind)}" if kind else "")
        path = f"/api/tasks/{task or self.backend.id}/attachments?{query}"
        return self.worker.ask("POST", path, data)

    def send(self, task: Task, body: str, *files: str) -> Any:
        given = {"body": body, "attachments": list(files)}
        return self.worker.ask("POST", f"/api/tasks/{task.id}/messages", given)

    def decide(self, **decision: Any) -> Answer:
        [ask] = [one for one in self.client.asks() if one["task"] == self.question.id]
        return self.worker.ask("POST", f"/api/asks/{ask['id']}/decision", decision)

    def thread(self, task: Task) -> list[Any]:
        return self.client.thread(task.id)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)


async def pair(store: Store, home: Path, number: int) -> tuple[Task, Task]:
    """A session's task, and what the session asks of the person."""
    workspace = await store.workspace_for("/repository", "shop")
    task = a_task(workspace, f"backend-{number}", made_worktree=False)
    backend = await store.add_task(task)
    text = base64.b64encode(f"hello {number}".encode()).decode()
    question = await services.threads(store, home).create(
        session_of(backend),
        workspace.id,
        title=f"Drop table {number}?",
        body=HOSTILE,
        assignee=Assignee.HUMAN,
        attachments=[{"filename": "hello.txt", "mimeType": "text/plain", "data": text}],
    )
    return backend, question


@pytest.fixture(scope="module")
def worker() -> Iterator[tuple[OwnWorker, list[tuple[Task, Task]]]]:
    async def fill(store: Store) -> list[tuple[Task, Task]]:
        return [await pair(store, running.home, number) for number in range(PAIRS)]

    with TemporaryDirectory(prefix="cdo") as folder:
        running = OwnWorker(Path(folder, "home"), {"HOME": folder})
        pairs = running.seed(fill)
        running.start()
        try:
            yield running, pairs
        finally:
            running.close()


@pytest.fixture
def scene(
    worker: tuple[OwnWorker, list[tuple[Task, Task]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Scene:
    running, pairs = worker
    backend, question = pairs.pop()
    monkeypatch.setenv("CLAUDEDO_HOME", str(running.home))
    monkeypatch.chdir(tmp_path)
    client = WorkerClient(running.settings).connect(start=False)
    return Scene(running, backend, question, client)


def test_the_files_of_a_new_task_come_with_it_or_it_is_not_made(scene: Scene) -> None:
    data = os.urandom(5 * 2**20)  # more than any other request may have
    file = {"filename": "../plan.html", "mimeType": "text/html"}
    order = {"workspace": "shop", "title": "With a file", "body": "See the plan.", "key": "with"}
    for wrong in ("x", ["x"], [{**file, "data": "no base64"}], [file], [{"data": "eA=="}]):
        answer = scene.worker.ask("POST", "/api/tasks", {**order, "attachments": wrong})
        assert (answer.status, answer.json["code"]) == (400, "usage"), wrong

    files = [{**file, "data": base64.b64encode(data).decode()}]
    made = scene.client.create_task({**order, "attachments": files})
    assert made["name"] == "with-a-file"
    [message] = scene.client.thread(made["id"])
    [kept] = message["attachments"]
    assert (kept["filename"], kept["mimeType"], kept["size"]) == (
        "plan.html",
        "text/html",
        len(data),
    )
    got = scene.worker.ask("GET", f"/api/attachments/{kept['id']}")
    assert got.content == data
    assert scene.client.create_task({**order, "attachments": files})["id"] == made["id"]


def test_a_thread_is_read_in_parts_and_whole_by_those_who_know_of_no_parts(scene: Scene) -> None:
    sent = [scene.send(scene.backend, f"number {number}").json["id"] for number in range(5)]
    path = f"/api/tasks/{scene.backend.id}/messages"
    whole = scene.thread(scene.backend)
    assert [one["id"] for one in whole][-5:] == sent

    def part(query: str) -> list[str]:
        return [one["id"] for one in scene.worker.ask("GET", f"{path}?{query}").json]

    assert scene.worker.ask("GET", f"{path}?limit=2").json == whole[-2:]
    assert part(f"before={sent[3]}&limit=2") == sent[1:3]
    assert part(f"after={sent[0]}&limit=2") == sent[1:3]
    assert part(f"after={sent[0]}") == sent[1:]
    assert part("limit=9999") == [one["id"] for one in whole]
    for query in ("after=m_none", "limit=-1", "limit=x", f"after={sent[0]}&before={sent[1]}"):
        answer = scene.worker.ask("GET", f"{path}?{query}")
        assert (answer.status, answer.json["code"]) == (400, "usage"), query


def test_a_person_makes_tasks_moves_them_and_sees_how_they_moved(scene: Scene) -> None:
    order = {"workspace": "shop", "title": "Write the docs", "body": "All of them."}
    made = scene.client.create_task(order)
    assert made["name"] == "write-the-docs"
    assert (made["status"], made["assignee"]) == ("notstarted", "agent")
    assert scene.client.move(made["id"], "ongoing")["previous"] == "notstarted"
    assert scene.client.move(made["id"], "completed", "well done")["status"] == "completed"
    with pytest.raises(ConflictError, match="completed cannot become blocked; it can: "):
        scene.client.move(made["id"], "blocked")

    history = scene.client.history(made["id"])
    assert [(move["before"], move["after"], move["name"]) for move in history] == [
        ("notstarted", "ongoing", "user"),
        ("ongoing", "completed", "user"),
    ]
    assert [one["body"] for one in scene.client.thread(made["id"])] == ["All of them.", "well done"]
    events = scene.client.events(0, 0)["events"]
    mine = [event for event in events if event["payload"]["task_id"] == made["id"]]
    assert [event["type"] for event in mine].count("status.updated") == 2
    for wrong in (
        {**order, "title": ""},
        {**order, "assignee": "dog"},
        {**order, "workspace": "nowhere"},
        {"title": "x", "body": "x"},
    ):
        assert scene.worker.ask("POST", "/api/tasks", wrong).status in (400, 404)


@pytest.mark.parametrize(
    ("decision", "status", "told"),
    [
        ({"decision": "allow"}, "completed", "completed."),
        ({"decision": "deny", "reason": "Too risky."}, "rejected", "rejected: Too risky."),
        ({"decision": "answer", "text": "Keep a copy."}, "completed", "Keep a copy."),
    ],
)
def test_a_question_is_decided_once_and_its_maker_told(
    scene: Scene, decision: dict[str, Any], status: str, told: str
) -> None:
    for wrong in (
        {"decision": "allow", "always": True},
        {"decision": "allow", "keep_open": True},
        {"decision": "deny", "text": "x"},
        {"decision": "answer"},
        {"decision": "maybe"},
    ):
        assert scene.decide(**wrong).status == 400
    kept_open = scene.decide(decision="answer", text="Which one?", keep_open=True).json
    assert kept_open["outcome"] is None
    ask = kept_open
    decided = scene.decide(**decision)

    assert decided.status == 200
    assert decided.json["outcome"]
    late = scene.worker.ask("POST", f"/api/asks/{ask['id']}/decision", {"decision": "allow"})
    assert (late.status, late.json["code"]) == (409, "conflict")
    assert scene.client.task(scene.question.id)["status"] == status
    mail = [one for one in scene.thread(scene.backend) if one["sender"] == "user"]
    assert [one["body"] for one in mail] == ["Which one?", told]
    assert scene.client.task(scene.backend.id)["pending"] == 2


def test_an_answer_carries_files_and_nothing_else_that_is_decided_does(scene: Scene) -> None:
    file, other = [
        scene.upload(b"the plan", "plan.txt", task=task.id).json["id"]
        for task in (scene.question, scene.backend)
    ]
    answer = {"decision": "answer", "text": "See there."}
    for wrong in ({"decision": "allow"}, {"decision": "deny"}, {**answer, "always": True}):
        assert scene.decide(**wrong, attachments=[file]).status == 400
    assert scene.decide(**answer, attachments=[other]).status == 404
    assert scene.decide(**answer, attachments=[f"f_{n}" for n in range(21)]).status == 400
    assert scene.decide(**answer, attachments=[file]).json["outcome"] == "answered"

    [told] = [one for one in scene.thread(scene.backend) if one["sender"] == "user"]
    assert [one["id"] for one in told["attachments"]] == [file]


def test_what_a_person_sends_to_a_question_goes_to_who_asked(scene: Scene) -> None:
    sent = scene.send(scene.question, "Wait.").json

    assert sent["task"] == scene.backend.id
    assert scene.thread(scene.question)[-1]["body"] == "Wait."
    assert scene.question.id in {ask["task"] for ask in scene.client.asks()}


def test_by_command_a_question_is_listed_answered_and_shown(scene: Scene) -> None:
    name = scene.question.name
    [row] = [line for line in scene.run("ls").stdout.splitlines() if line.startswith(f"{name} ")]
    assert "waiting for you" in row
    told = scene.run("answer", scene.backend.name, "Which one?", "--keep-open")
    assert told.stdout == f"{name}: told; it still waits for you\n"
    Path("plan.txt").write_text("the plan")
    assert scene.run("answer", name, "Yes.", "--attach", "nothing here").exit_code == 2
    answered = scene.run("answer", name, "Yes.", "--attach", "plan.txt")
    assert scene.thread(scene.question)[-1]["attachments"][0]["filename"] == "plan.txt"
    assert answered.stdout == f"{name}: answered: {scene.question.title}\n"
    assert "notstarted → completed by user" in scene.run("show", name).stdout
    refused = scene.run("restart", name)
    assert refused.exit_code == 5
    assert "a task for a person" in refused.stderr


def call(scene: Scene, url: str, token: str, session: str, tool: str, **given: Any) -> Any:
    """Call a tool as a client with a token; its structured result."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        **({"Mcp-Session-Id": session} if session else {}),
    }
    method, params = "tools/call", {"name": tool, "arguments": given}
    if not session:
        about = {"name": "a test", "version": "1"}
        version = "2025-06-18"
        method = "initialize"
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": about}
    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    path = url.partition("/mcp/")[2]
    answer = scene.worker.ask(
        "POST", f"/mcp/{path}", asked, port=scene.worker.port, headers=headers
    )
    if not session:
        return answer.headers["mcp-session-id"]
    return answer.json["result"]["structuredContent"]


def test_a_client_with_a_token_asks_works_and_passes_files_by_the_same_tools(scene: Scene) -> None:
    made = scene.client.create_token({"workspace": "shop", "name": "laptop", "days": 1})
    session = call(scene, made["url"], made["text"], "", "")

    def use(tool: str, **given: Any) -> Any:
        return call(scene, made["url"], made["text"], session, tool, **given)

    file = {"filename": "a.txt", "mimeType": "text/plain", "data": "eA=="}
    asked = use("createTask", title="May I?", body="x", assignee="human", attachments=[file])
    [ask] = [one for one in scene.client.asks() if one["task"] == asked["task_id"]]
    scene.client.decide(ask["id"], {"decision": "answer", "text": "You may."})
    [answer] = use("check_inbox")["messages"]
    assert (answer["body"], answer["chat_id"]) == ("You may.", asked["task_id"])
    shown = use("getTask", taskId=asked["task_id"], includeConversation=True)
    assert shown["status"] == "completed"
    [given] = shown["attachments"]
    assert use("downloadAttachment", attachment_id=given["id"]) == file

    for left in scene.client.tasks():  # by other tests
        if (left["assignee"], left["status"]) == ("agent", "notstarted"):
            scene.client.move(left["id"], "rejected")
    order = {"workspace": "shop", "title": "Work", "body": "Do it."}
    work = scene.client.create_task(order)
    claimed = use("getTask")
    assert (claimed["task_id"], claimed["holder"]) == (work["id"], f"token:{made['id']}")
    assert use("getTask")["task_id"] is None
    assert use("updateTaskStatus", task_id=work["id"], status="ongoing")["previous"] == "notstarted"
    assert use("updateTaskStatus", status="ongoing")["code"] == "usage"
    said = use("reply", chatId=work["id"], text="Done.")
    assert scene.client.thread(work["id"])[-1]["id"] == said["message_id"]
    assert use("getWorkspace")["counts"]["ongoing"] >= 1


# Files


def test_a_file_goes_to_the_worker_and_comes_back_by_command(scene: Scene) -> None:
    data = os.urandom(3_000_000)
    plan = Path("my plan ü.bin")
    plan.write_bytes(data)
    name = scene.backend.name
    sent = json.loads(scene.run("send", name, "--attach", str(plan), "--json").stdout)
    [message] = [one for one in scene.thread(scene.backend) if one["id"] == sent["id"]]
    [file] = message["attachments"]
    assert message["body"] == "Attached: my plan ü.bin"
    assert (file["filename"], file["size"]) == (plan.name, len(data))
    listed = scene.run("thread", name).stdout
    assert f"+ {plan.name}  3.0 MB  application/octet-stream  {file['id']}" in listed

    there = scene.run("attachment", file["id"])
    assert there.exit_code == 5
    assert "say where with -o" in there.stderr
    assert scene.run("attachment", file["id"], "-o", "copy").exit_code == 0
    plan.unlink()
    assert scene.run("attachment", file["id"]).exit_code == 0
    assert Path("copy").read_bytes() == plan.read_bytes() == data
    assert scene.run("attachment", "f_none").exit_code == 4
    assert scene.run("send", name, "x", "--attach", "nothing here").exit_code == 2
    digest = hashlib.sha256(data).hexdigest()
    assert digest in {path.name for path in scene.kept()}

    scene.client.remove(scene.backend.id, force=True)
    assert digest not in {path.name for path in scene.kept()}


@pytest.mark.parametrize(
    ("name", "kind", "kept"),
    [
        ("page.html", "text/html", "page.html"),
        ("drawing.svg", "image/svg+xml", "drawing.svg"),
        ('"; filename="evil.exe', "application/pdf", '"; filename="evil.exe'),
        ("../../../../.bashrc", "text/plain", ".bashrc"),
        ("a\r\nSet-Cookie: a=b", "text/plain", "aSet-Cookie: a=b"),
        (f"{HOSTILE}.txt", "", "script>.txt"),
        ("日本語.txt", "text/plain", "日本語.txt"),
    ],
)
def test_a_browser_saves_a_file_and_never_shows_or_runs_it(
    scene: Scene, name: str, kind: str, kept: str
) -> None:
    given = scene.upload(HOSTILE.encode(), name, kind)
    assert given.json["filename"] == kept
    port, headers = scene.worker.port, {"Cookie": scene.worker.cookie()}
    path = f"/api/attachments/{given.json['id']}"

    got = scene.worker.ask("GET", path, port=port, headers=headers)

    assert got.content == HOSTILE.encode()
    disposition = got.headers["content-disposition"]
    assert disposition.startswith("attachment; filename")
    plain = kept.isascii() and quote(kept) == kept
    assert disposition.endswith(f'="{kept}"' if plain else f"utf-8''{quote(kept)}")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"].startswith("sandbox;")
    assert "set-cookie" not in got.headers
    assert got.headers["content-type"].startswith(given.json["mimeType"])
    assert scene.worker.ask("GET", path, port=port).status == 401
    into = Path("saved")
    with into.open("w+b") as file:
        assert scene.client.download(given.json["id"], file) == kept


@pytest.mark.parametrize("name", ["", "..", "a/..", "x" * 201])
def test_a_name_that_is_none_is_refused(scene: Scene, name: str) -> None:
    before = scene.kept()
    assert scene.upload(b"x", name).status == 400
    assert scene.upload(b"x", "a", "no type").status == 400
    assert scene.upload(b"x", "a", task="t_none").status == 404
    assert scene.kept() == before


@pytest.mark.parametrize("by_port", [False, True])
def test_who_still_sends_a_file_that_is_refused_hears_why(scene: Scene, by_port: bool) -> None:
    before, data = scene.kept(), bytes(3 * 2**20)  # more than any socket holds for its reader
    port = scene.worker.port if by_port else None
    headers = {"Cookie": scene.worker.cookie()}
    for task, name, status in ((scene.backend.id, "..", 400), ("t_none", "a.bin", 404)):
        path = f"/api/tasks/{task}/attachments?filename={name}"
        answer = scene.worker.ask("POST", path, data, port=port, headers=headers)
        assert (answer.status, answer.headers.get("connection")) == (status, None)
    assert scene.kept() == before


def test_files_of_another_are_not_carried_and_none_twice(scene: Scene) -> None:
    file = scene.upload(b"x", "a.txt").json["id"]
    assert scene.send(scene.question, "x", file).status == 404  # given to another task
    assert scene.send(scene.backend, "x", file).status == 200
    assert scene.send(scene.backend, "x", file).status == 404
    assert scene.send(scene.backend, "x", "f_none").status == 404
    assert len(scene.thread(scene.backend)) == 2  # the question that its session asked, and one


def test_a_gigabyte_is_refused_before_it_comes_and_leaves_nothing(scene: Scene) -> None:
    before = scene.kept()
    connection = UnixHTTP(scene.worker.settings.worker_socket)
    connection.putrequest("POST", f"/api/tasks/{scene.backend.id}/attachments?filename=a.bin")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()  # and not a byte of it
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()

    assert (response.status, problem["code"]) == (413, "too_large")
    assert "a.bin is larger than 25 MiB" in problem["detail"]
    with Path("large").open("wb") as file:
        file.truncate(10**9)
    refused = scene.run("send", scene.backend.name, "x", "--attach", "large")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "larger than 25 MiB" in refused.stderr
    assert scene.kept() == before


def test_a_command_with_a_larger_limit_hears_why_the_worker_refuses(scene: Scene) -> None:
    with Path("large").open("wb") as file:
        file.truncate(200 * 2**20)
    scene.client.settings = replace(scene.client.settings, attachment_limit=1000)
    with pytest.raises(TooLargeError, match="large is larger than 25 MiB"):
        scene.client.upload(scene.backend.id, Path("large"))


def test_a_file_that_never_says_how_large_it_is_is_cut_off(scene: Scene) -> None:
    before, sent = scene.kept(), 0
    connection = UnixHTTP(scene.worker.settings.worker_socket)
    connection.putrequest("POST", f"/api/tasks/{scene.backend.id}/attachments?filename=a.bin")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"%x\r\n%s\r\n" % (2**20, bytes(2**20))
    try:
        while sent < 1000:
            connection.send(chunk)
            sent += 1
    except (BrokenPipeError, ConnectionResetError):
        assert sent >= 25
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()

    assert (response.status, problem["code"], sent < 100) == (413, "too_large", True)
    assert scene.kept() == before


def test_an_upload_that_breaks_off_leaves_nothing(scene: Scene) -> None:
    before = scene.kept()
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(str(scene.worker.settings.worker_socket))
        path = f"/api/tasks/{scene.backend.id}/attachments?filename=a.bin"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        half.sendall(head.encode() + b"x" * 500)
    assert scene.worker.ask("GET", "/readyz").status == 200
    scene.worker.end()

    assert scene.kept() == before
    scene.worker.start()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process: Linux only")
def test_a_disk_that_fills_up_refuses_a_file_and_keeps_nothing_of_it(scene: Scene) -> None:
    before, data = scene.kept(), bytes(3 * 2**20)
    assert scene.worker.process is not None
    limits = (scene.worker.process.pid, resource.RLIMIT_FSIZE)
    soft, hard = resource.prlimit(*limits)
    resource.prlimit(*limits, (2**20, hard))
    refused = scene.upload(data, "a.bin")
    during = scene.kept()
    resource.prlimit(*limits, (soft, hard))

    assert (refused.status, refused.json["code"]) == (507, "storage")
    assert refused.json["detail"].startswith("The file a.bin cannot be kept: ")
    assert during == before
    assert scene.upload(data, "a.bin").status == 200


def test_the_limit_is_what_the_configuration_says(scene: Scene) -> None:
    scene.worker.end()
    configuration = scene.worker.home / "config.toml"
    configuration.write_text("attachment_limit = 1\n")
    scene.worker.start()
    assert scene.upload(bytes(2**20), "a.bin").status == 200
    Path("large").write_bytes(bytes(2**20 + 1))
    with pytest.raises(TooLargeError, match="than 1 MiB"):
        scene.client.upload(scene.backend.id, Path("large"))
    scene.worker.end()
    configuration.unlink()
    scene.worker.start()


def test_bytes_that_are_gone_are_an_error_with_a_sentence(scene: Scene) -> None:
    before = scene.kept()
    file = scene.upload(b"precious", "a.txt").json["id"]
    [path] = set(scene.kept()) - set(before)
    path.unlink()
    answer = scene.worker.ask("GET", f"/api/attachments/{file}")

    assert (answer.status, answer.json["code"]) == (507, "storage")
    assert "a.txt are gone" in answer.json["detail"]


def test_the_page_uploads_with_its_cookie_and_nobody_without(scene: Scene) -> None:
    path = f"/api/tasks/{scene.backend.id}/attachments?filename=a.txt"
    port, headers = scene.worker.port, {"Cookie": scene.worker.cookie()}
    assert scene.worker.ask("POST", path, b"x", port=port, headers=headers).status == 200
    assert scene.worker.ask("POST", path, b"x", port=port).status == 401
    foreign = {**headers, "Origin": "http://evil.example"}
    assert scene.worker.ask("POST", path, b"x", port=port, headers=foreign).status == 403


def test_removing_a_question_tells_who_waits(scene: Scene) -> None:
    before = scene.kept()
    scene.client.remove(scene.question.id)

    with pytest.raises(NotFoundError):
        scene.client.task(scene.question.id)
    assert scene.question.id not in {ask["task"] for ask in scene.client.asks()}
    [told] = scene.thread(scene.backend)
    assert told["body"] == "This task was removed without an answer."
    assert len(scene.kept()) == len(before) - 1
