"""`claudedo uninstall`: what is removed, what is kept, what is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, problem_of, task


@pytest.fixture
def home(home: Path) -> Path:
    """A state directory as a worker leaves it, with something of the person in it."""
    for folder in ("sessions/s_1", "setup-logs", "runs/t_1", "programs/abc", "run"):
        (home / folder).mkdir(parents=True)
    for file in ("claudedo.db", "claudedo.db-wal", "worker.lock", "worker.json", "worker.log"):
        (home / file).touch()
    (home / "config.toml").touch()
    return home


def test_a_dry_run_lists_everything_and_does_nothing(
    run: Run, home: Path, worker: FakeWorker
) -> None:
    worker.add(task("a"), task("b", "stopped"))
    before = sorted(home.rglob("*"))

    answer = run("uninstall", "--dry-run")

    assert answer.exit_code == 0
    assert "stop the session of a\n" in answer.stdout
    assert "stop the session of b\n" not in answer.stdout
    assert f"remove {home}/claudedo.db\n" in answer.stdout
    assert "config.toml" not in answer.stdout
    assert answer.stdout.count(f"remove {home}/run\n") == 1
    assert sorted(home.rglob("*")) == before
    assert {method for method, _, _ in worker.asked} == {"GET"}


def test_a_dry_run_starts_no_worker(run: Run, home: Path) -> None:
    answer = run("uninstall", "--dry-run")

    assert answer.exit_code == 0
    assert "claudedo worker start" in answer.stderr
    assert (home / "worker.log").read_text() == ""


def test_without_a_terminal_it_wants_a_yes(run: Run, home: Path, worker: FakeWorker) -> None:
    answer = run("uninstall")

    assert answer.exit_code == 5
    assert "--yes" in answer.stderr
    assert (home / "claudedo.db").exists()


def test_everything_of_ours_goes_and_the_rest_is_named(
    run: Run, home: Path, worker: FakeWorker
) -> None:
    worker.add(task("a"), task("b", "stopped"), task("c", supervised=False))
    detail = "/src/shop.worktrees/b holds 1 uncommitted file."
    worker.failures["DELETE /api/tasks/t_B"] = problem_of("refused", detail, 403)

    answer = run("uninstall", "--yes")

    assert answer.exit_code == 0, answer.stderr
    assert worker.requests("POST", "/api/tasks/t_A/stop") == [{}]
    assert worker.requests("POST", "/api/tasks/t_B/stop") == []
    assert [one.keys() for one in worker.requests("DELETE", "/api/tasks/t_A")] == [{"env"}]
    assert worker.stopping.is_set()
    assert [entry.name for entry in home.iterdir()] == ["config.toml"]
    rest = answer.stdout.partition("This stays:")[2]
    assert f"b: {detail}" in rest
    assert f"{home}/config.toml" in rest
    assert "c" in worker.tasks["t_C"]["name"]


def test_a_state_directory_that_becomes_empty_goes_too(
    run: Run, home: Path, worker: FakeWorker
) -> None:
    (home / "config.toml").unlink()

    assert run("uninstall", "--yes").exit_code == 0
    assert not home.exists()


def test_a_session_that_cannot_be_stopped_keeps_everything_in_place(
    run: Run, home: Path, worker: FakeWorker
) -> None:
    worker.add(task("a"))
    worker.failures["POST /api/tasks/t_A/stop"] = problem_of("failed", "It does not end.", 500)

    answer = run("uninstall", "--yes")

    assert answer.exit_code == 1
    assert (home / "claudedo.db").exists()
    assert not worker.stopping.is_set()


def test_where_nothing_was_ever_made_nothing_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDEDO_HOME", str(tmp_path / "never"))

    answer = run("uninstall", "--yes")

    assert answer.exit_code == 0
    assert not (tmp_path / "never").exists()
