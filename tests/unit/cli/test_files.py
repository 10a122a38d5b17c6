"""Files that go with messages: `send --attach` gives them, `attachment` gets them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from claudedo.client import WorkerClient
from claudedo.errors import NotFoundError
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, task

CONTENT = b"the plan"


@pytest.fixture
def worker(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWorker:
    """One that has a file called `the plan.md`."""

    def download(self: WorkerClient, attachment: str, into: BinaryIO) -> str:
        if attachment != "f_1":
            raise NotFoundError(f"There is no attachment {attachment!r}.")
        into.write(CONTENT)
        return "the plan.md"

    monkeypatch.setattr(WorkerClient, "download", download)
    monkeypatch.chdir(tmp_path)
    worker.add(task("backend"))
    return worker


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were given to the worker."""
    given: list[Path] = []

    def upload(self: WorkerClient, task: str, file: Path) -> dict[str, str]:
        given.append(file)
        return {"id": f"f_{len(given)}"}

    monkeypatch.setattr(WorkerClient, "upload", upload)
    return given


def test_a_file_comes_under_its_own_name_into_the_folder_that_is_named(
    run: Run, worker: FakeWorker, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()

    answer = run("attachment", "f_1", "-o", "folder")
    again = run("attachment", "f_1", "-o", "folder")

    assert (tmp_path / "folder/the plan.md").read_bytes() == CONTENT
    assert answer.stdout == "folder/the plan.md\n"
    assert again.exit_code == 5
    assert "There is a 'the plan.md' in folder already; say where with -o." in again.stderr


def test_a_file_takes_the_place_of_the_one_that_is_named_and_of_no_other(
    run: Run, worker: FakeWorker, tmp_path: Path
) -> None:
    (tmp_path / "old").write_text("longer than the plan")

    assert run("attachment", "f_1", "-o", "old").exit_code == 0
    assert (tmp_path / "old").read_bytes() == CONTENT
    assert run("attachment", "f_1").exit_code == 0
    refused = run("attachment", "f_1")
    assert refused.exit_code == 5
    assert "There is a 'the plan.md' here already" in refused.stderr


def test_a_file_that_there_is_not_says_where_its_id_stands(run: Run, worker: FakeWorker) -> None:
    answer = run("attachment", "f_2")

    assert answer.exit_code == 4
    assert "There is no attachment 'f_2'; `claudedo thread T` shows the ids." in answer.stderr


@pytest.mark.parametrize("wrong", ["missing", ".", "pipe"])
def test_nothing_is_sent_when_one_of_the_files_is_none(
    run: Run, worker: FakeWorker, uploaded: list[Path], tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "good").write_text("good")
    os.mkfifo(tmp_path / "pipe")

    answer = run("send", "backend", "hello", "--attach", "good", "--attach", wrong)

    assert answer.exit_code == 2
    assert wrong in answer.stderr
    assert uploaded == []
    assert worker.requests("POST", "/api/tasks/t_BACKEND/messages") == []


def test_more_files_than_a_message_carries_are_refused(
    run: Run, worker: FakeWorker, uploaded: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "good").write_text("good")

    answer = run("send", "backend", "hello", *(["--attach", "good"] * 21))

    assert answer.exit_code == 2
    assert "at most 20 files" in answer.stderr
    assert uploaded == []
