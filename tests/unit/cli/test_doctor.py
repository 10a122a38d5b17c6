"""`claudedo doctor`: what it finds, and what it repairs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from claudedo import settings
from claudedo.cli import doctor
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker


def claude_that_says(folder: Path, text: str) -> Path:
    """A program that answers --version with `text`."""
    program = folder / "claude"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is wrong."""
    program = claude_that_says(tmp_path, "2.1.330 (Claude Code)")
    monkeypatch.setenv("CLAUDEDO_CLAUDE", str(program))
    monkeypatch.setattr(doctor, "version", lambda _: "0.1.0")
    for name in doctor._SILENCES_CHANNELS:
        monkeypatch.delenv(name, raising=False)


def findings(run: Run, *arguments: str, status: int = 0) -> dict[str, Any]:
    """What `doctor --json` found, by check."""
    answer = run("doctor", "--json", *arguments)
    assert answer.exit_code == status, answer.output
    return {finding["check"]: finding for finding in json.loads(answer.stdout)}


def test_on_a_healthy_machine_everything_is_well_and_nothing_is_made(run: Run, home: Path) -> None:
    found = findings(run)

    assert {one["health"] for one in found.values()} == {"ok"}
    assert list(found) == [
        "state directory", "disk space", "socket paths", "database", "worker", "port", "claude",
        "git", "python", "channels",
    ]  # fmt: skip
    assert not home.exists()


def test_it_reads_well_without_json(run: Run, home: Path) -> None:
    lines = run("doctor").stdout.splitlines()

    assert len(lines) == 10
    assert all(text.startswith("✓ ") for text in lines)


def test_a_worker_that_runs_is_named(run: Run, worker: FakeWorker) -> None:
    assert f"process {os.getpid()}, version 0.1.0" in findings(run)["worker"]["detail"]


def test_a_worker_of_another_release_is_a_warning(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: "0.2.0")

    found = findings(run)["worker"]

    assert found["health"] == "warning"
    assert "this command is 0.2.0" in found["detail"]
    assert "--fix" in found["advice"]


def test_a_worker_that_did_not_end_by_itself_is_noticed(run: Run, home: Path) -> None:
    place = settings.load().worker_socket
    place.parent.mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place))

    assert findings(run)["worker"]["health"] == "warning"


def test_a_worker_that_does_not_answer_is_a_problem(run: Run, worker: FakeWorker) -> None:
    worker.failures["GET /readyz"] = {"status": 503}

    found = findings(run, status=1)["worker"]

    assert found["health"] == "problem"
    assert "does not answer" in found["detail"]


def test_a_state_directory_that_others_can_read_is_repaired(run: Run, home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    found = findings(run, status=1)["state directory"]
    assert (found["health"], found["advice"]) == ("problem", f"chmod 700 {home}, or --fix")

    repaired = findings(run, "--fix")["state directory"]

    assert repaired["health"] == "ok"
    assert repaired["detail"].startswith("repaired: ")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("says", "sentence"),
    [("2.1.196 (Claude Code)", "2.1.196"), ("1.99.999", "1.99.999"), ("Oops", "says: Oops")],
)
def test_a_claude_that_is_too_old_or_broken_is_a_problem(
    run: Run, home: Path, tmp_path: Path, says: str, sentence: str
) -> None:
    claude_that_says(tmp_path, says)

    found = findings(run, status=1)["claude"]

    assert found["health"] == "problem"
    assert sentence in found["detail"]


def test_the_oldest_claude_that_we_support_is_well(run: Run, home: Path, tmp_path: Path) -> None:
    claude_that_says(tmp_path, "2.1.197 (Claude Code)")

    assert findings(run)["claude"]["health"] == "ok"


def test_a_missing_claude_is_a_problem(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDEDO_CLAUDE", "/nowhere/claude")

    found = findings(run, status=1)["claude"]

    assert "CLAUDEDO_CLAUDE" in found["advice"]


def test_a_missing_git_is_a_problem(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name == "git" else real(name))

    assert findings(run, status=1)["git"]["health"] == "problem"


@pytest.mark.parametrize("name", doctor._SILENCES_CHANNELS)
def test_what_switches_channels_off_is_named(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")

    found = findings(run)["channels"]

    assert found["health"] == "warning"
    assert name in found["detail"]


def test_a_sound_database_is_well_and_a_damaged_one_a_problem(run: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    database = settings.load().database
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("CREATE TABLE t (a)")
        opened.commit()
    assert findings(run)["database"]["detail"] == "is sound"

    database.write_bytes(b"not a database at all" * 100)

    assert findings(run, status=1)["database"]["health"] == "problem"


@pytest.mark.parametrize(("says", "health"), [("ok", "ok"), ("row 3 is missing", "problem")])
def test_a_worker_that_runs_is_asked_about_its_database(
    run: Run, worker: FakeWorker, says: str, health: str
) -> None:
    settings.load().database.touch()
    worker.database = says

    found = findings(run, status=1 if health == "problem" else 0)["database"]

    assert found["health"] == health
    assert worker.requests("GET", "/api/worker/check") == [{}]


def test_a_port_that_somebody_else_has_is_a_problem(run: Run, home: Path) -> None:
    home.mkdir(mode=0o700)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        (home / "config.toml").write_text(f"port = {other.getsockname()[1]}")

        assert findings(run, status=1)["port"]["health"] == "problem"


@pytest.mark.parametrize(("free", "health"), [(10, "problem"), (200, "warning"), (9999, "ok")])
def test_a_full_disk_is_noticed(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, free: int, health: str
) -> None:
    usage = shutil.disk_usage("/")._replace(free=free * 1024 * 1024)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    assert findings(run, status=1 if health == "problem" else 0)["disk space"]["health"] == health


def test_a_socket_path_that_is_too_long_is_a_problem(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MAX_SOCKET_PATH", 20)

    assert findings(run, status=1)["socket paths"]["health"] == "problem"
