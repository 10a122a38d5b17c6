"""The client against a worker in a process of its own: started, raced for, killed, replaced."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from claudedo import client as client_module
from claudedo import settings
from claudedo.client import WorkerClient
from claudedo.errors import (
    AmbiguousError,
    ClaudedoError,
    ConflictError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UnavailableError,
    UntrustedError,
    VersionError,
)
from tests.unit.cli.fake_worker import FakeWorker, problem_of, serving, task

# Stands in for the worker's package, which is the other side of the contract.
PROGRAM = """
import fcntl, os, sys, time
from claudedo import settings
from tests.unit.cli.fake_worker import serving, task

found = settings.load()
print("pid", os.getpid(), flush=True)
mode = os.environ.get("FAKE_WORKER", "")
if mode == "crash":
    sys.exit("the database is of a newer release")
lock = found.lock.open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(0)
if mode == "silent":
    time.sleep(60)
if mode == "slow":
    time.sleep(1)
found.worker_socket.unlink(missing_ok=True)
with serving(found.worker_socket) as worker:
    worker.add(task("backend"))
    worker.stopping.wait(60)
"""


def pids(home: Path) -> list[int]:
    """The process ids of the workers that were started in `home`, from their log."""
    log = home / "worker.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("pid ")]


def end(pid: int) -> None:
    """Kill a worker and take it off the process table."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory; every worker started in it is ended afterwards."""
    with TemporaryDirectory(prefix="cdo") as folder:
        program = Path(folder, "program", "claudedo_worker")
        program.mkdir(parents=True)
        (program / "__init__.py").touch()
        (program / "__main__.py").write_text(PROGRAM)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(program.parent), *sys.path]))
        monkeypatch.setenv("CLAUDEDO_HOME", f"{folder}/home")
        monkeypatch.delenv("FAKE_WORKER", raising=False)
        yield Path(folder, "home")
        for pid in pids(Path(folder, "home")):
            end(pid)


@pytest.fixture
def worker(home: Path) -> Iterator[FakeWorker]:
    """A worker in this process."""
    with serving(settings.load().worker_socket) as running:
        yield running


@pytest.fixture
def client(home: Path) -> WorkerClient:
    return WorkerClient(settings.load())


def test_a_missing_worker_is_started_and_outlives_the_command(home: Path) -> None:
    script = "from claudedo import client, settings; "
    script += "print(client.WorkerClient(settings.load()).connect().worker()['pid'])"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=True, text=True
    )

    assert done.stderr == ""
    assert pids(home) == [int(done.stdout)]
    assert WorkerClient(settings.load()).connect(start=False).worker()["pid"] == pids(home)[0]


def test_the_worker_leaves_the_session_and_the_folder_of_the_command(
    home: Path, client: WorkerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claudedo_worker.py").write_text("raise SystemExit('the wrong worker')")
    monkeypatch.chdir(tmp_path)

    pid = client.connect().worker()["pid"]

    assert os.getsid(pid) == pid


def test_the_state_directory_and_the_log_are_private(home: Path, client: WorkerClient) -> None:
    client.connect()

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "worker.log").stat().st_mode) == 0o600


def test_a_running_worker_is_not_started_again(home: Path, client: WorkerClient) -> None:
    client.connect()
    client.connect()

    assert len(pids(home)) == 1


def test_without_start_a_missing_worker_is_an_error_and_leaves_nothing_behind(
    home: Path, client: WorkerClient
) -> None:
    with pytest.raises(UnavailableError, match="claudedo worker start"):
        client.connect(start=False)

    assert not home.exists()


def test_the_socket_file_of_a_dead_worker_does_not_stop_the_next(
    home: Path, client: WorkerClient
) -> None:
    place = client.settings.worker_socket
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place))
    assert place.exists()

    assert client.connect().worker()["pid"] == pids(home)[0]


def test_commands_that_start_the_worker_at_once_share_one(home: Path) -> None:
    script = "from claudedo import client, settings; "
    script += "print(client.WorkerClient(settings.load()).connect().worker()['pid'])"
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FAKE_WORKER": "slow"},
        )
        for _ in range(5)
    ]

    answers = [command.communicate(timeout=60) for command in commands]

    assert {(answer, errors) for answer, errors in answers} == {(f"{pids(home)[0]}\n", "")}
    assert len(pids(home)) == 1


def test_a_worker_that_somebody_else_is_starting_is_waited_for(
    home: Path, client: WorkerClient
) -> None:
    home.mkdir(parents=True)
    with (home / "worker.log").open("w") as log:
        other = subprocess.Popen(
            [sys.executable, "-m", "claudedo_worker"],
            stdout=log,
            stderr=log,
            env={**os.environ, "FAKE_WORKER": "slow"},
        )
    deadline = time.monotonic() + 30
    while not pids(home) or not client.settings.lock.exists():
        assert time.monotonic() < deadline, "the other worker never took its lock"
        time.sleep(0.01)

    assert client.connect().worker()["pid"] == other.pid

    end(other.pid)
    other.wait()


def test_a_worker_that_fails_to_start_is_quoted(
    home: Path, client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(parents=True)
    (home / "worker.log").write_text("an old line\n")
    monkeypatch.setenv("FAKE_WORKER", "crash")

    with pytest.raises(UnavailableError) as caught:
        client.connect()

    assert "exit status 1" in str(caught.value)
    assert "the database is of a newer release" in str(caught.value)
    assert "claudedo doctor" in str(caught.value)
    assert "an old line" not in str(caught.value)


def test_a_worker_that_never_answers_is_given_up_in_time(
    home: Path, client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "silent")
    monkeypatch.setattr(client_module, "START_SECONDS", 1.5)
    began = time.monotonic()

    with pytest.raises(UnavailableError, match="did not answer within"):
        client.connect()

    assert time.monotonic() - began < 15


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "home"
    client = WorkerClient(settings.Settings(home=place, run=place / "run", claude="claude"))

    with pytest.raises(ClaudedoError, match=r"file/home cannot be used: .*CLAUDEDO_HOME"):
        client.connect()


def test_a_killed_worker_is_replaced_within_the_next_call(home: Path, client: WorkerClient) -> None:
    first = client.connect().worker()["pid"]
    end(first)

    second = client.worker()["pid"]

    assert [first, second] == pids(home)


def test_a_killed_worker_is_not_replaced_when_starting_was_forbidden(
    home: Path, client: WorkerClient
) -> None:
    pid = client.connect().worker()["pid"]
    client.connect(start=False)
    end(pid)

    with pytest.raises(UnavailableError, match="not running"):
        client.worker()


def test_every_request_says_which_protocol_it_speaks(
    worker: FakeWorker, client: WorkerClient
) -> None:
    client.connect().tasks()

    assert {sent["X-Claudedo-Protocol"] for sent in worker.headers} == {"1"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("not_found", 404, NotFoundError),
        ("ambiguous", 409, AmbiguousError),
        ("refused", 403, RefusedError),
        ("untrusted", 409, UntrustedError),
        ("conflict", 409, ConflictError),
        ("timeout", 504, TimedOutError),
        ("version", 409, VersionError),
        ("unavailable", 503, UnavailableError),
        ("failed", 500, ClaudedoError),
        ("something new", 500, ClaudedoError),
    ],
)
def test_a_problem_becomes_the_error_of_its_code(
    worker: FakeWorker, client: WorkerClient, code: str, status: int, kind: type[ClaudedoError]
) -> None:
    worker.failures["GET /api/tasks"] = problem_of(code, "Because of this.", status)

    with pytest.raises(ClaudedoError, match=r"^Because of this") as caught:
        client.connect().tasks()

    assert type(caught.value) is kind


def test_a_message_whose_answer_was_lost_is_sent_again_with_the_same_key(
    worker: FakeWorker, client: WorkerClient
) -> None:
    worker.add(task("backend"))
    worker.drops["POST /api/tasks/t_BACKEND/messages"] = 2

    client.connect().send("t_BACKEND", "hello", priority="normal", reply_to=None, key="k1")

    keys = [body["key"] for body in worker.requests("POST", "/api/tasks/t_BACKEND/messages")]
    assert keys == ["k1", "k1", "k1"]


def test_a_request_that_kills_the_worker_each_time_is_given_up(
    worker: FakeWorker, client: WorkerClient
) -> None:
    worker.drops["GET /api/tasks"] = 99

    with pytest.raises(UnavailableError, match="died 3 times"):
        client.connect().tasks()


def test_an_order_whose_answer_was_lost_is_not_repeated(
    worker: FakeWorker, client: WorkerClient
) -> None:
    worker.drops["POST /api/start"] = 1

    with pytest.raises(UnavailableError, match="may be done or not"):
        client.connect().start({"tasks": []})

    assert len(worker.requests("POST", "/api/start")) == 1


def test_a_worker_that_does_not_answer_is_a_timeout(
    home: Path, client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.2)
    place = client.settings.worker_socket
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(place))
        mute.listen()

        with pytest.raises(TimedOutError, match="did not answer"):
            client.message("m_1", "read", 0.1)


def test_names_are_quoted_on_their_way(worker: FakeWorker, client: WorkerClient) -> None:
    with pytest.raises(NotFoundError):
        client.connect().resolve("a b&c=d/é", "/src/ö", None)

    assert worker.requests("GET", "/api/resolve") == [{"target": "a b&c=d/é", "cwd": "/src/ö"}]


def test_the_client_needs_only_the_standard_library() -> None:
    script = "import sys; before = set(sys.modules); import claudedo.client; "
    script += "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=True, text=True
    )

    assert set(done.stdout.split()) - sys.stdlib_module_names == {"claudedo"}


def test_a_worker_that_a_session_starts_is_no_part_of_that_session(
    home: Path, client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDEDO_SESSION", "s_1")
    monkeypatch.setenv("CLAUDEDO_TASK", "t_1")

    client.connect()

    environment = psutil.Process(pids(home)[0]).environ()
    assert not {"CLAUDEDO_SESSION", "CLAUDEDO_TASK"} & environment.keys()
