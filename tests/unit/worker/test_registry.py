"""The CLI's registry of running sessions, and the files that the dead leave in it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from claudedo.model import SessionState
from claudedo_worker import processes, registry

ME = os.getpid()


def write(config_dir: Path, pid: int, **fields: Any) -> Path:
    path = config_dir / "sessions" / f"{pid}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "sessionId": "c1", "status": "idle", **fields}))
    return path


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("idle", SessionState.IDLE),
        ("shell", SessionState.IDLE),
        ("busy", SessionState.BUSY),
        ("waiting", SessionState.WAITING),
        ("a status of a later version", None),
    ],
)
def test_a_status_is_told_in_our_words(
    tmp_path: Path, status: str, state: SessionState | None
) -> None:
    write(tmp_path, 7, status=status, waitingFor="permission prompt")
    entry = registry.read(tmp_path, 7, since=time.time())
    assert entry is not None
    assert (entry.state, entry.waiting_for) == (state, "permission prompt")


@pytest.mark.parametrize("content", ["", '{"sessionId": "c', "[]", '{"status": "idle"}'])
def test_a_file_that_is_being_written_says_nothing(tmp_path: Path, content: str) -> None:
    write(tmp_path, 7).write_text(content)
    assert registry.read(tmp_path, 7, since=0) is None


def test_a_missing_file_says_nothing(tmp_path: Path) -> None:
    assert registry.read(tmp_path, 7, since=0) is None


def test_a_file_older_than_the_process_is_not_about_it(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    os.utime(path, (1000, 1000))
    assert registry.read(tmp_path, 7, since=999) is not None
    assert registry.read(tmp_path, 7, since=1010) is None


def test_only_what_runs_is_listed_and_no_number_that_somebody_else_has_now(tmp_path: Path) -> None:
    assert list(registry.running(tmp_path)) == []
    write(tmp_path, ME)
    write(tmp_path, 2**22 + 1)  # above every pid
    write(tmp_path, 1).rename(tmp_path / "sessions" / "notes.json")
    assert [entry.pid for entry in registry.running(tmp_path)] == [ME]
    began = psutil.Process(ME).create_time()
    os.utime(write(tmp_path, ME), (began - 60, began - 60))
    assert list(registry.running(tmp_path)) == []


def test_a_clock_that_was_set_changes_nothing_where_the_kernels_count_is_known(
    tmp_path: Path,
) -> None:
    mark = processes.start_mark(ME)
    if mark is None:
        pytest.skip("the kernel's count of a start is only told in /proc")
    path = write(tmp_path, ME, procStart=mark)
    os.utime(path, (1000, 1000))  # written before the process began, as the clock now has it
    assert registry.read(tmp_path, ME, since=time.time()) is not None
    assert [entry.pid for entry in registry.running(tmp_path)] == [ME]
    write(tmp_path, ME, procStart="1")  # of an earlier boot, or of a container beside
    assert registry.read(tmp_path, ME, since=0) is None
    write(tmp_path, ME, procStart="Sat Nov 21 19:00:00 2026")  # as other systems may have it
    assert registry.read(tmp_path, ME, since=time.time()) is not None
    assert processes.start_mark(2**22 + 1) is None


def test_an_entry_tells_who_and_where_as_far_as_the_file_does(tmp_path: Path) -> None:
    whole = {"name": "deep-6f", "cwd": "/shop/deep", "statusUpdatedAt": 1_700_000_000_000}
    write(tmp_path, 7, **whole, status="shell", entrypoint="cli")
    entry = registry.read(tmp_path, 7, since=0)
    assert entry is not None
    assert (entry.name, entry.cwd, entry.background) == ("deep-6f", "/shop/deep", True)
    assert (entry.since, entry.at_terminal) == ("2023-11-14T22:13:20.000Z", True)
    write(tmp_path, 7, name=["odd"], cwd=7, statusUpdatedAt=1e300, status=[], entrypoint="sdk-cli")
    entry = registry.read(tmp_path, 7, since=0)
    assert entry is not None
    assert (entry.name, entry.cwd, entry.since) == (None, None, None)
    assert (entry.state, entry.background, entry.at_terminal) == (None, False, False)


@pytest.mark.parametrize(
    ("folder", "environ", "chosen"),
    [
        ("/home/u/.claude", {"HOME": "/home/u"}, None),
        ("/home/u/.claude", {"HOME": "/home/u", "CLAUDE_CONFIG_DIR": "/other"}, None),
        ("/other", {"HOME": "/home/u"}, "/other"),
        ("/other", {"HOME": "/home/u", "CLAUDE_CONFIG_DIR": "/other"}, "/other"),
    ],
)
def test_an_environment_names_a_configuration_folder_only_where_it_has_to(
    folder: str, environ: dict[str, str], chosen: str | None
) -> None:
    made = registry.environment_for(Path(folder), environ)
    assert registry.config_dir(made) == Path(folder)
    assert made.get("CLAUDE_CONFIG_DIR") == chosen


def test_trust_of_a_folder_covers_what_is_below_it(tmp_path: Path) -> None:
    projects = {"/a": {"hasTrustDialogAccepted": True}, "/b": {"hasTrustDialogAccepted": False}}
    (tmp_path / ".claude.json").write_text(json.dumps({"projects": projects}))
    environ = {"CLAUDE_CONFIG_DIR": str(tmp_path)}
    assert registry.trusts(environ, Path("/a/deep/down"))
    assert not registry.trusts(environ, Path("/b"))
    assert not registry.trusts({"HOME": str(tmp_path / "none")}, Path("/a"))


def test_what_is_no_text_in_an_entry_is_left_out(tmp_path: Path) -> None:
    odd = {"waitingFor": ["a"], "version": 2, "name": {}, "cwd": None}
    write(tmp_path, ME, **odd)

    entry = registry.read(tmp_path, ME, since=0)

    assert entry is not None
    assert (entry.waiting_for, entry.version, entry.name, entry.cwd) == (None, None, None, None)
