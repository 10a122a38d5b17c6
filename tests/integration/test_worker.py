"""The worker as a process: both doors, news as it happens, restarts, and what can be in its way."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import socketio

from claudedo.model import Task
from claudedo_worker.__main__ import main
from claudedo_worker.store import Store
from tests.support.own_worker import PATIENCE, OwnWorker
from tests.support.records import a_task

BOUND = 5.0  # seconds within which a worker ends, whoever waits for an answer


@dataclass
class Scene:
    """A state directory with one task, and a worker that may serve it."""

    worker: OwnWorker
    task: Task

    @property
    def messages(self) -> str:
        """The route of the task's messages."""
        return f"/api/tasks/{self.task.id}/messages"

    def send(self, body: str, key: str | None = None) -> dict[str, Any]:
        answer = self.worker.ask("POST", self.messages, {"body": body, "key": key})
        assert answer.status == 200, answer
        sent: dict[str, Any] = answer.json
        return sent

    def ids(self) -> list[str]:
        """The messages that are stored."""
        return [message["id"] for message in self.worker.ask("GET", self.messages).json]

    def last_event(self) -> int:
        return int(self.worker.ask("GET", f"/api/events?after={2**62}").json["next"])


@contextmanager
def a_short_folder() -> Iterator[Path]:
    """Sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="cdw-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def a_scene() -> Iterator[Scene]:
    async def fill(store: Store) -> Task:
        return await store.add_task(a_task(await store.workspace_for("/repository", "shop")))

    with a_short_folder() as folder:
        worker = OwnWorker(folder / "home")
        try:
            yield Scene(worker, worker.seed(fill))
        finally:
            worker.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_short_folder() as path:
        yield path


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A worker for all tests that leave it running."""
    with a_scene() as made:
        made.worker.start()
        yield made


@pytest.fixture(scope="module")
def quiet() -> Iterator[Scene]:
    """A worker for all requests that must leave it as it was."""
    with a_scene() as made:
        made.worker.start()
        yield made


@pytest.fixture
def stopped() -> Iterator[Scene]:
    """A worker's state directory, for a test that starts and ends the worker itself."""
    with a_scene() as made:
        yield made


# Serving


def test_both_doors_tell_the_same_and_say_who_serves(scene: Scene) -> None:
    worker = scene.worker
    on_socket = worker.ask("GET", "/api/worker").json
    cookie = worker.cookie()
    on_port = worker.ask("GET", "/api/worker", port=worker.port, headers={"Cookie": cookie}).json

    assert on_socket == on_port
    assert worker.process is not None
    told = {"pid", "port", "url", "version", "protocol", "sessions", "attachment_limit"}
    assert on_socket.keys() == told
    assert on_socket["pid"] == worker.process.pid
    assert on_socket["url"] == f"http://127.0.0.1:{worker.port}"
    assert worker.ask("GET", "/api/worker/check").json == {"database": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "{messages}", b"{", 400, "usage"),
        ("POST", "{messages}", b"[]", 400, "usage"),
        ("POST", "{messages}", b"", 400, "usage"),
        ("POST", "{messages}", b"\xff\xfe{", 400, "usage"),
        ("POST", "{messages}", b"[" * 100_000, 400, "usage"),
        ("POST", "{messages}", b'{"body": "\\ud800"}', 400, "usage"),
        ("POST", "{messages}", b'{"body": "x", "key": "\\udfff"}', 400, "usage"),
        ("POST", "{messages}", {"body": ""}, 400, "usage"),
        ("POST", "{messages}", {"body": 7}, 400, "usage"),
        ("POST", "{messages}", {"body": "x", "priority": ["high"]}, 400, "usage"),
        ("POST", "{messages}", {"body": "x", "priority": "urgent"}, 400, "usage"),
        ("POST", "{messages}", {"body": "x", "reply_to": "m_none"}, 404, "not_found"),
        ("POST", "{messages}", {"body": "x", "attachments": ["f_none"] * 21}, 400, "usage"),
        ("POST", "{messages}", {"body": "x" * (256 * 1024 + 1)}, 400, "usage"),
        ("POST", "{messages}", b" " * (4 * 1024 * 1024 + 1), 413, "too_large"),
        ("POST", "/api/tasks/t_none/messages", {"body": "x"}, 404, "not_found"),
        ("GET", "/api/tasks/t%00%ff", None, 404, "not_found"),
        ("GET", "/api/messages/m_none", None, 404, "not_found"),
        ("GET", "/api/messages/m_none?rung=seen", None, 400, "usage"),
        ("GET", "/api/messages/m_none?rung=read&wait=soon", None, 400, "usage"),
        ("GET", "/api/events?after=-1", None, 400, "usage"),
        ("GET", "/api/events?after=%C2%B2", None, 400, "usage"),
        ("GET", "/api/events?after=" + "9" * 5000, None, 400, "usage"),
        ("GET", "/api/events?after=" + "9" * 19, None, 200, None),
        ("GET", "/api/resolve?target=nobody", None, 404, "not_found"),
        ("GET", "/api/resolve?target=x&cwd=%00", None, 400, "usage"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PUT", "/api/tasks", {}, 405, "usage"),
        ("GET", "/static/../api.py", None, 404, "not_found"),
        ("GET", "/static/%00", None, 404, "not_found"),
        ("POST", "/api/peers", {"a": 1, "b": 2}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/", "tasks": "x", "env": {}}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/", "tasks": [], "env": {}, "links": "ab"}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/", "tasks": [], "env": {}, "here": "no"}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/", "tasks": [], "env": {"A": "\0"}}, 400, "usage"),
        ("POST", "/api/start", {"cwd": ".", "tasks": [], "env": {}}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/", "tasks": [], "env": {}, "colour": 1}, 400, "usage"),
        ("POST", "/api/start", {"cwd": "/\0", "tasks": [], "env": {}}, 400, "usage"),
    ],
)
def test_what_is_wrong_is_a_problem_with_a_code_and_nothing_changes(
    quiet: Scene, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    answer = quiet.worker.ask(method, path.replace("{messages}", quiet.messages), body)

    assert answer.status == status
    if code:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json.keys() == {"type", "title", "status", "detail", "code"}
        assert (answer.json["code"], answer.json["status"]) == (code, status)
        assert len(answer.json["detail"]) > 10
    assert quiet.ids() == []
    assert "Traceback" not in quiet.worker.log


# News


@pytest.mark.parametrize(("route", "status"), [("/api/links", b"200"), ("/api/peers", b"400")])
def test_a_request_is_answered_when_its_body_comes_after_its_head(
    scene: Scene, route: str, status: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(scene.worker.settings.worker_socket))
        head = f"POST {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        client.sendall(head.encode())
        time.sleep(0.3)  # long enough for an answer that does not wait for the body
        client.sendall(b"{}")
        answer = client.recv(4096)

    assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_long_poll_is_answered_by_the_next_event_and_after_replays(scene: Scene) -> None:
    start = scene.last_event()
    assert scene.worker.ask("GET", f"/api/events?after={start}").json == {
        "events": [],
        "next": start,
    }
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(scene.worker.ask, "GET", f"/api/events?after={start}&wait=25")
        sent = scene.send("news")
        told = waiting.result(20).json

    [event] = told["events"]
    assert (event["seq"], event["type"]) == (start + 1, "message.queued")
    assert event["payload"]["message_id"] == sent["id"]
    assert event["payload"]["task_id"] == scene.task.id
    assert event["payload"]["pending"] >= 1
    assert told["next"] == start + 1
    assert scene.worker.ask("GET", f"/api/events?after={start}").json == told
    # Who names a number that never was (of a removed state directory) goes on from the newest.
    assert scene.worker.ask("GET", "/api/events?after=999999").json["next"] == start + 1


def test_no_event_is_missed_between_two_polls(scene: Scene) -> None:
    after = scene.last_event()
    sending = threading.Thread(target=lambda: [scene.send(str(n)) for n in range(60)])
    sending.start()
    seen: list[int] = []
    began = time.monotonic()
    while len(seen) < 60 and time.monotonic() - began < 20:
        told = scene.worker.ask("GET", f"/api/events?after={after}&wait=10").json
        seen += [event["seq"] for event in told["events"]]
        after = told["next"]
    sending.join()

    assert seen == list(range(seen[0], seen[0] + 60))


def test_waiting_for_a_rung_ends_in_time_and_tells_how_far_it_came(scene: Scene) -> None:
    sent = scene.send("x")
    stored = scene.worker.ask("GET", f"/api/messages/{sent['id']}?rung=stored&wait=20").json
    began = time.monotonic()
    waited = scene.worker.ask("GET", f"/api/messages/{sent['id']}?rung=read&wait=0.5").json

    assert stored == waited == sent
    assert 0.5 <= time.monotonic() - began < 10


@pytest.mark.anyio
async def test_a_page_hears_what_happens_and_is_caught_up_with_what_it_missed(
    scene: Scene,
) -> None:
    worker = scene.worker
    url, headers = f"http://127.0.0.1:{worker.port}", {"Cookie": worker.cookie()}
    before = scene.last_event()
    early = scene.send("before the page came")
    heard: list[dict[str, Any]] = []
    badges: list[tuple[Any, ...]] = []
    client = socketio.AsyncClient(reconnection=False)
    client.on("event", heard.append)
    client.on("TaskMessageQueued", lambda *given: badges.append(given))
    await client.connect(url, headers=dict(headers), auth={"after": before})
    own = await client.call("SendTaskMessage", (scene.task.id, "by the page"), timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE):
        while len(heard) < 2:
            await asyncio.sleep(0.01)
    await client.disconnect()

    assert [event["seq"] for event in heard] == [before + 1, before + 2]
    assert [event["payload"]["message_id"] for event in heard] == [early["id"], own["id"]]
    assert [task for task, _ in badges] == [scene.task.id] * 2
    assert badges[1][1] == badges[0][1] + 1
    assert own["receipts"]["stored_at"] is not None


@pytest.mark.anyio
async def test_a_page_that_comes_while_much_happens_hears_everything_once(scene: Scene) -> None:
    worker = scene.worker
    url, headers = f"http://127.0.0.1:{worker.port}", {"Cookie": worker.cookie()}
    before = scene.last_event()
    sending = asyncio.create_task(
        asyncio.to_thread(lambda: [scene.send(str(number)) for number in range(80)])
    )
    clients, all_heard = [], []
    for _ in range(3):
        heard: list[int] = []
        client = socketio.AsyncClient(reconnection=False)
        client.on("event", lambda event, heard=heard: heard.append(event["seq"]))
        await client.connect(url, headers=dict(headers), auth={"after": before})
        clients.append(client)
        all_heard.append(heard)
    await sending
    async with asyncio.timeout(PATIENCE):
        while any(not heard or heard[-1] < before + 80 for heard in all_heard):
            await asyncio.sleep(0.01)
    for client in clients:
        await client.disconnect()

    assert all_heard == [list(range(before + 1, before + 81))] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process: Linux only")
def test_a_full_disk_refuses_a_message_clearly_loses_none_and_ends_with_the_shortage(
    scene: Scene,
) -> None:
    kept = [*scene.ids(), scene.send("before")["id"]]
    assert scene.worker.process is not None
    limits = (scene.worker.process.pid, resource.RLIMIT_FSIZE)
    soft, hard = resource.prlimit(*limits)
    resource.prlimit(*limits, (1, hard))
    refused = scene.worker.ask("POST", scene.messages, {"body": "during", "key": "k"})
    during = scene.ids()
    resource.prlimit(*limits, (soft, hard))
    again = scene.send("during", "k")

    assert (refused.status, refused.json["code"]) == (507, "storage")
    assert "Nothing was stored" in refused.json["detail"]
    assert during == kept
    assert scene.ids() == [*kept, again["id"]]
    assert scene.worker.ask("GET", "/api/worker/check").json == {"database": "ok"}


def test_a_command_of_another_release_is_told_which_side_is_old(scene: Scene) -> None:
    old = {"X-Claudedo-Protocol": "0"}
    answer = scene.worker.ask("GET", "/api/tasks", headers=old)

    assert (answer.status, answer.json["code"]) == (409, "version")
    assert "claudedo worker stop" in answer.json["detail"]


def test_the_worker_leaves_word_of_where_it_serves(scene: Scene) -> None:
    word = json.loads(scene.worker.settings.worker_file.read_text())

    assert scene.worker.process is not None
    assert word["pid"] == scene.worker.process.pid
    assert word["url"] == f"http://127.0.0.1:{scene.worker.port}"


# Ending and coming back


def test_a_killed_worker_leaves_nothing_in_the_way_and_the_next_one_knows_all(
    stopped: Scene,
) -> None:
    worker = stopped.worker
    worker.start()
    port, cookie, link = worker.port, worker.cookie(), worker.link()
    sent = stopped.send("one", "k")
    worker.end(signal.SIGKILL)
    left = [worker.settings.worker_socket.exists(), worker.settings.session_socket.exists()]
    worker.start()

    assert left == [True, True]
    modes = {path.name: path.stat().st_mode & 0o777 for path in worker.settings.run.iterdir()}
    assert modes == {"worker.sock": 0o600, "session.sock": 0o600}
    assert worker.port == port
    headers = {"Cookie": cookie}
    assert worker.ask("GET", "/api/tasks", port=port, headers=headers).status == 200
    assert worker.ask("GET", link, port=port).status == 401  # a link is of one worker
    assert stopped.send("one", "k") == sent
    other = worker.ask("POST", stopped.messages, {"body": "two", "key": "k"})
    assert (other.status, other.json["code"]) == (409, "conflict")
    assert stopped.ids() == [sent["id"]]


def test_sigterm_ends_it_within_bounds_and_the_next_one_goes_round_a_taken_port(
    stopped: Scene,
) -> None:
    worker = stopped.worker
    worker.start()
    port, after = worker.port, stopped.last_event()
    process = worker.process
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(worker.settings.worker_socket))
        request = f"GET /api/events?after={after}&wait=25 HTTP/1.1\r\nHost: x\r\n\r\n"
        waiting.sendall(request.encode())
        assert worker.ask("GET", "/readyz").status == 200  # it has come to the request before
        took = worker.end(signal.SIGTERM)

    assert took < BOUND
    assert process is not None
    assert process.returncode == 0
    settings = worker.settings
    for gone in (settings.worker_socket, settings.session_socket, settings.worker_file):
        assert not gone.exists()

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        worker.start()
        assert worker.port != port


def test_of_workers_started_at_once_one_serves_and_the_others_leave_in_peace(
    stopped: Scene,
) -> None:
    worker = stopped.worker
    started = [worker.spawn() for _ in range(3)]
    worker.until_ready()
    serving = worker.ask("GET", "/api/worker").json["pid"]
    worker.process = next(process for process in started if process.pid == serving)
    ended = [process.wait(PATIENCE) for process in started if process.pid != serving]

    assert ended == [0, 0]
    assert worker.ask("GET", "/readyz").status == 200  # the others took nothing away
    assert "Traceback" not in worker.log
    old = {"X-Claudedo-Protocol": "0"}  # a command of any release may stop it
    stop = worker.ask("POST", "/api/worker/stop", {}, headers=old)
    assert stop.json == {"stopping": True}
    assert worker.process.wait(BOUND) == 0


def test_a_very_long_state_directory_has_its_sockets_in_a_short_one_for_every_shell(
    stopped: Scene,
) -> None:
    folder = stopped.worker.home.parent
    worker = OwnWorker(folder.joinpath(*["very-long-name" * 4] * 4, "home"))
    worker.home.parent.mkdir(parents=True)
    elsewhere = OwnWorker(worker.home, {"TMPDIR": str(folder)})
    run = worker.settings.run
    try:
        worker.start()

        assert elsewhere.ask("GET", "/readyz").status == 200
        assert len(str(run)) < 60
        assert run.stat().st_mode & 0o777 == 0o700
    finally:
        worker.close()
        shutil.rmtree(run, ignore_errors=True)


# What can be in its way


def refusal(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> str:
    """What a worker says that cannot serve; it must end by itself with status 1."""
    monkeypatch.setenv("CLAUDEDO_HOME", str(home))
    assert main() == 1
    [record] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.exc_info is None
    return record.getMessage()


@pytest.mark.parametrize("name", ["worker.lock", "claudedo.db", "run", "config.toml"])
def test_a_thing_of_the_wrong_kind_in_the_state_directory_is_named(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thing = folder / name
    if name == "run":
        thing.write_text("")
    else:
        thing.mkdir()

    assert str(folder if name == "run" else thing) in refusal(folder, monkeypatch, caplog)


def test_a_damaged_database_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "claudedo.db").write_bytes(b"no database" * 1000)

    assert "claudedo.db: file is not a database" in refusal(folder, monkeypatch, caplog)


def test_a_file_where_the_state_directory_should_be_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "home").write_text("")

    assert "Set CLAUDEDO_HOME" in refusal(folder / "home" / "x", monkeypatch, caplog)


@pytest.mark.skipif(os.getuid() == 0, reason="the system refuses root nothing")
def test_a_state_directory_without_write_permission_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "worker.lock").touch(mode=0o400)

    assert str(folder) in refusal(folder, monkeypatch, caplog)
