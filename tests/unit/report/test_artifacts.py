"""Artifacts: all that is there, in one folder, or a sentence that says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from claudedo.errors import ClaudedoError, ConflictError, UsageError
from claudedo.model import RunExit, Verdict
from claudedo.report import artifacts
from tests.support.shown import a_report, shown

SAID = [
    {"role": "message", "text": "from the user: Build build."},
    {"role": "tool", "text": 'Bash {"command": "make"}'},
    {"role": "assistant", "text": "All is built.\n```\n# not a heading\n```"},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with all that a run leaves there."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "output.jsonl").write_bytes(b'{"type":"result"}\n')
    (folder / "errors.log").write_bytes(b"warning \xff\n")
    (folder / "check.log").write_bytes(b"ok\n")
    (folder / "conversation.jsonl").write_bytes("{}\n\u2028\n".encode())
    return folder


def a_patch(file: BinaryIO) -> None:
    file.write(b"diff --git a/x b/x\n\x00\xff")


def write(folder: Path, report: Mapping[str, Any], **more: Any) -> Path:
    return artifacts.write(folder, report, **{"patch": a_patch, "log": SAID, **more})


def verdict_of(place: Path) -> Any:
    return json.loads((place / "verdict.json").read_text())


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def missing(place: Path) -> dict[str, str]:
    return {one["file"]: one["why"] for one in verdict_of(place)["missing"]}


def test_a_task_leaves_all_of_its_files(tmp_path: Path, run: Path) -> None:
    place = write(tmp_path / "deep" / "out", a_report(run))

    assert place == tmp_path / "deep" / "out" / "build"
    assert files(place) == [
        "changes.patch",
        "check.log",
        "errors.log",
        "log.md",
        "messages.json",
        "output.jsonl",
        "prompt.md",
        "result.md",
        "transcript.jsonl",
        "verdict.json",
    ]
    for name, source in {
        "output.jsonl": "output.jsonl",
        "errors.log": "errors.log",
        "check.log": "check.log",
        "transcript.jsonl": "conversation.jsonl",
    }.items():
        assert (place / name).read_bytes() == (run / source).read_bytes()
    assert (place / "changes.patch").read_bytes() == b"diff --git a/x b/x\n\x00\xff"
    assert (place / "prompt.md").read_text() == "Build build."
    assert (place / "result.md").read_text() == "All is built."
    assert json.loads((place / "messages.json").read_text())[0]["body"] == "hello"
    told = verdict_of(place)
    assert told["missing"] == []
    assert (told["exit"], told["cost_usd"], told["attempts"]) == (0, 0.25, 1)
    assert not {"prompt", "messages", "folder", "transcript"} & told.keys()
    assert place.stat().st_mode & 0o777 == 0o755


def test_the_log_is_readable_and_nothing_that_was_said_looks_like_its_headings(
    tmp_path: Path, run: Path
) -> None:
    text = (write(tmp_path, a_report(run)) / "log.md").read_text()

    assert text.startswith("# build\n\n## Message\n\n```text\nfrom the user: Build build.\n```\n")
    assert "\n## Assistant\n\n````text\nAll is built.\n```\n# not a heading\n```\n````\n" in text


def test_what_is_not_there_is_left_out_and_named(tmp_path: Path, run: Path) -> None:
    (run / "check.log").unlink()
    (run / "output.jsonl").unlink()
    (run / "output.jsonl").mkdir()

    def no_patch(file: BinaryIO) -> None:
        file.write(b"half")
        raise ClaudedoError("`git diff` failed")

    def half_a_log() -> Iterator[dict[str, str]]:
        yield SAID[0]
        raise ClaudedoError("the worker is gone")

    report = a_report(run, transcript=None, result=None)
    place = write(tmp_path / "out", report, patch=no_patch, log=half_a_log())

    assert files(place) == ["errors.log", "messages.json", "prompt.md", "verdict.json"]
    assert missing(place) == {
        "transcript.jsonl": "there is none",
        "output.jsonl": f"{run / 'output.jsonl'} is no file",
        "check.log": f"there is no {run / 'check.log'}",
        "changes.patch": "`git diff` failed",
        "log.md": "the worker is gone",
    }


def test_a_task_that_never_began_misses_nothing(tmp_path: Path) -> None:
    report = a_report(tmp_path / "no-run") | shown(
        "build", Verdict(exit=RunExit.SKIPPED, reason="lint, which it needs, is failed")
    )

    place = write(tmp_path, report)

    assert missing(place) == {}
    assert "output.jsonl" not in files(place)


def test_what_cannot_be_read_is_named(tmp_path: Path, run: Path) -> None:
    if os.geteuid() == 0:
        report = a_report(run, transcript="/proc/self/mem")  # regular, and refuses to be read
        if not Path("/proc/self/mem").exists():
            pytest.skip("nobody keeps the administrator from reading")
    else:
        (run / "conversation.jsonl").chmod(0)
        report = a_report(run)

    assert "cannot be read" in missing(write(tmp_path, report))["transcript.jsonl"]


def test_a_second_run_takes_the_place_of_the_first_as_a_whole(tmp_path: Path, run: Path) -> None:
    place = write(tmp_path / "out", a_report(run))
    (run / "check.log").unlink()

    again = write(tmp_path / "out", a_report(run, result=None))

    assert again == place
    assert "result.md" not in files(place)
    assert "check.log" not in files(place)
    assert names(tmp_path / "out") == ["build"]


def test_a_run_that_fails_half_way_leaves_the_earlier_one_and_nothing_else(
    tmp_path: Path, run: Path
) -> None:
    place = write(tmp_path / "out", a_report(run))
    before = {name: (place / name).read_bytes() for name in files(place)}

    def full(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ClaudedoError, match=r"changes\.patch cannot be written: No space left"):
        write(tmp_path / "out", a_report(run), patch=full)

    assert {name: (place / name).read_bytes() for name in files(place)} == before
    assert names(tmp_path / "out") == ["build"]


@pytest.mark.parametrize("name", ["prompt.md", "output.jsonl", "log.md", "verdict.json"])
def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    opened = Path.open

    def open_on_a_full_disk(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        full = "w" in mode and self.name == name
        return opened(Path("/dev/full") if full else self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)

    with pytest.raises(ClaudedoError, match=rf"{name} cannot be written: No space left"):
        write(tmp_path / "out", a_report(run))

    assert names(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path, run: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ClaudedoError, match=r"file/out/build cannot be written: Not a directory"):
        write(tmp_path / "file" / "out", a_report(run))


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "/etc", "-x", "a\x00b", ".git"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, run: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write(tmp_path / "out", a_report(run) | {"name": name})

    assert not (tmp_path / "out").exists()


def a_folder(place: Path) -> None:
    place.mkdir()
    (place / "main.py").write_text("mine")


def a_file(place: Path) -> None:
    place.write_text("mine")


def a_link(place: Path) -> None:
    place.with_name("elsewhere").mkdir()
    place.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [a_folder, a_file, a_link])
def test_what_is_somebody_elses_stays(
    tmp_path: Path, run: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "build")
    before = [name for name in files(tmp_path) if not name.startswith("run")]

    with pytest.raises(ConflictError, match="build"):
        write(tmp_path, a_report(run))

    assert [name for name in files(tmp_path) if not name.startswith("run")] == before


def test_texts_that_are_not_quite_text_are_written_all_the_same(tmp_path: Path, run: Path) -> None:
    report = a_report(run, prompt="half \ud83d\r\n", result="r\x00\r", messages=["\udfff"])

    place = write(tmp_path, report)

    assert (place / "prompt.md").read_bytes() == b"half \\ud83d\r\n"
    assert (place / "result.md").read_bytes() == b"r\x00\r"
    assert json.loads((place / "messages.json").read_text()) == ["\udfff"]


def test_large_files_take_no_memory(tmp_path: Path, run: Path) -> None:
    with (run / "output.jsonl").open("wb") as file:
        file.truncate(80 << 20)
    log = ({"role": "user", "text": "x" * (1 << 20)} for _ in range(40))
    tracemalloc.start()
    try:
        place = write(tmp_path / "out", a_report(run), log=log)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 << 20
    assert (place / "output.jsonl").stat().st_size == 80 << 20
    assert (place / "log.md").stat().st_size > 40 << 20
