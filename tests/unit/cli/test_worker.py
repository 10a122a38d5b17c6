"""The worker and its page: worker run, start, stop, status; open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from getpass import getuser
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker

LINK = "http://127.0.0.1:8123/open/once"


def test_status_of_a_worker_that_runs(run: Run, worker: FakeWorker) -> None:
    answer = run("worker", "status", "--json")

    assert answer.exit_code == 0
    assert {"pid", "port", "url", "version", "sessions"} <= set(json.loads(answer.stdout))
    assert run("worker", "status", "-q").stdout == f"{os.getpid()}\n"
    assert "http://127.0.0.1:8123/" in run("worker", "status").stdout


def test_status_without_a_worker_ends_with_1_and_starts_none(run: Run, home: Path) -> None:
    answer = run("worker", "status")

    assert answer.exit_code == 1
    assert "not running" in answer.stderr
    assert not home.exists()
    assert run("worker", "status", "--json").stdout == "null\n"


def test_start_names_the_worker_that_runs(run: Run, worker: FakeWorker) -> None:
    assert run("worker", "start", "-q").stdout == f"{os.getpid()}\n"


def test_stop_returns_when_the_worker_is_gone(run: Run, worker: FakeWorker) -> None:
    answer = run("worker", "stop")

    assert answer.exit_code == 0
    assert answer.stdout == "The worker stopped. Sessions that run go on.\n"
    assert not worker.socket.exists()
    assert run("worker", "status").exit_code == 1


def test_stop_without_a_worker_is_done_already(run: Run, home: Path) -> None:
    answer = run("worker", "stop")

    assert (answer.exit_code, answer.stderr) == (0, "The worker is not running.\n")
    assert not home.exists()


def test_run_becomes_the_worker_in_the_foreground(home: Path, tmp_path: Path) -> None:
    package = tmp_path / "claudedo_worker"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import os; print(os.environ['CLAUDEDO_HOME'])")
    command = [sys.executable, "-m", "claudedo.cli.app", "worker", "run"]

    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )

    assert done.stdout == f"{home}\n"


def test_open_prints_the_link(run: Run, worker: FakeWorker) -> None:
    answer = run("open", "--print")

    assert (answer.exit_code, answer.stdout, answer.stderr) == (0, f"{LINK}\n", "")


def test_open_shows_the_link_in_a_browser(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def take(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setenv("BROWSER", "firefox")
    monkeypatch.setattr("webbrowser.open", take)

    answer = run("open")

    assert opened == [LINK]
    assert (answer.stdout, answer.stderr) == (f"{LINK}\n", "")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac always has a desktop")
def test_open_without_a_desktop_leaves_the_link_to_the_person(run: Run, worker: FakeWorker) -> None:
    answer = run("open")

    assert answer.stdout == f"{LINK}\n"
    assert "open the link yourself" in answer.stderr


def test_open_over_ssh_prints_the_tunnel_and_opens_nothing(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.8 22")
    monkeypatch.setenv("BROWSER", "firefox")

    answer = run("open")

    assert answer.stdout == f"{LINK}\n"
    assert f"ssh -N -L 8123:127.0.0.1:8123 {getuser()}@192.0.2.8" in answer.stderr
