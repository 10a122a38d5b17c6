"""What is kept of a one-shot task for whoever looks at it later: a folder of plain files.

The folder of a task is written beside its place and then put there, so that one is either whole or
the earlier one. Large files are copied piece by piece. Asks no worker: what it writes is given.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from claudedo.errors import ClaudedoError, ConflictError
from claudedo.model import check_name
from claudedo.report.markdown import fenced

VERDICT = "verdict.json"

_ELSEWHERE = ("prompt", "messages", "folder", "transcript")  # have files of their own, or are of us
_PIECE = 1 << 20
_HEADS = {"message": "Message", "user": "User", "tool": "Tool", "result": "Result"}


def write(
    folder: Path,
    report: Mapping[str, Any],
    *,
    patch: Callable[[BinaryIO], None],
    log: Iterable[Mapping[str, str]],
) -> Path:
    """Write `folder`/NAME anew, and return it.

    `report` is the answer of `GET /api/queue/{task}/report`; `patch` writes what the task changed
    into a file; `log` is its conversation, as `GET /api/tasks/{task}/log` tells it. What cannot be
    had of all this is listed in `verdict.json`. Raises `ClaudedoError`, naming the file, when the
    folder cannot be written, and `ConflictError` when something else stands there.
    """
    place = folder / check_name(report["name"])
    with _writing(place):
        folder.mkdir(parents=True, exist_ok=True)
    _check_ours(place)
    with _writing(place):
        new = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=folder))
    try:
        _fill(new, report, patch, log)
        with _writing(place):
            new.chmod(0o755)
            _replace(place, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return place


def _fill(
    new: Path,
    report: Mapping[str, Any],
    patch: Callable[[BinaryIO], None],
    log: Iterable[Mapping[str, str]],
) -> None:
    missing: list[dict[str, str]] = []
    _write_text(new / "prompt.md", [report["prompt"]])
    if report["result"]:
        _write_text(new / "result.md", [report["result"]])
    _write_text(new / "messages.json", [_json(report["messages"])])
    for name, source in _sources(report).items():
        if (why := _copy(source, new / name)) is not None:
            missing.append({"file": name, "why": why})
    with _having(new / "changes.patch", missing) as target:
        _write_patch(target, patch)
    with _having(new / "log.md", missing) as target:
        _write_text(target, _log(report["name"], log))
    told = {key: value for key, value in report.items() if key not in _ELSEWHERE}
    _write_text(new / VERDICT, [_json({**told, "missing": missing})])


def _sources(report: Mapping[str, Any]) -> dict[str, Path | None]:
    """What is to be copied, where it ought to be there: of one that never began nothing is."""
    if not report["attempts"]:
        return {}
    run = Path(report["folder"])
    transcript = report["transcript"]
    return {
        "transcript.jsonl": Path(transcript) if transcript else None,
        "output.jsonl": run / "output.jsonl",
        "errors.log": run / "errors.log",
        **({"check.log": run / "check.log"} if report["check"] else {}),
    }


class _NotToBeHadError(ClaudedoError):
    """What a file is made of cannot be had."""


@contextmanager
def _having(target: Path, missing: list[dict[str, str]]) -> Iterator[Path]:
    """A file that is not kept, and listed, when what it is made of cannot be had."""
    try:
        yield target
    except _NotToBeHadError as error:
        target.unlink(missing_ok=True)
        missing.append({"file": target.name, "why": str(error)})


def _copy(source: Path | None, target: Path) -> str | None:
    """Copy a file; returns why there is nothing to copy."""
    if source is None:
        return "there is none"
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            return f"{source} is no file"
        file = source.open("rb")
    except FileNotFoundError:
        return f"there is no {source}"
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"
    with file:
        return _copy_pieces(file, source, target)


def _copy_pieces(file: BinaryIO, source: Path, target: Path) -> str | None:
    with _writing(target), target.open("wb") as copy:
        while True:
            try:
                piece = file.read(_PIECE)
            except OSError as error:
                return f"{source} cannot be read to its end: {error.strerror}"
            if not piece:
                return None
            copy.write(piece)


def _write_patch(target: Path, patch: Callable[[BinaryIO], None]) -> None:
    with _writing(target), target.open("wb") as file:
        try:
            patch(file)
        except ClaudedoError as error:
            raise _NotToBeHadError(str(error)) from error


def _log(name: str, log: Iterable[Mapping[str, str]]) -> Iterator[str]:
    yield f"# {name}\n"
    try:
        for said in log:
            role = said["role"]
            yield f"\n## {_HEADS.get(role, role.capitalize())}\n\n{fenced(said['text'])}\n"
    except ClaudedoError as error:
        raise _NotToBeHadError(str(error)) from error


def _write_text(target: Path, pieces: Iterable[str]) -> None:
    """Write text; what UTF-8 cannot hold is told by its number, which in JSON means the same."""
    with (
        _writing(target),
        target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.writelines(pieces)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClaudedoError(f"{target} cannot be written: {error.strerror}.") from error


def _check_ours(place: Path) -> None:
    """Raise `ConflictError` unless the place is free, empty, or has artifacts."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise ConflictError(f"{place} is in the way of a task's artifacts; it is no folder.")
    if place.is_dir() and any(place.iterdir()) and not (place / VERDICT).is_file():
        raise ConflictError(
            f"{place} is not a folder of artifacts, and stays as it is: choose another folder."
        )


def _replace(place: Path, new: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    place.rename(old)  # onto the empty folder
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old)
