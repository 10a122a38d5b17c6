"""What a run of one-shots leaves behind for people and build servers, as it was asked for."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from claudedo.cli import github
from claudedo.cli.finish import index_with
from claudedo.cli.queue_progress import note
from claudedo.cli.terminal import pages
from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, RefusedError, UsageError
from claudedo.model import QueueStatus
from claudedo.report import artifacts, junit, push, summary

if TYPE_CHECKING:
    from claudedo.client import WorkerClient

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reports:
    """Where they go; None: there is to be none."""

    junit: Path | None = None
    artifacts: Path | None = None
    summary: Path | None = None
    push: bool = False

    def check(self) -> None:
        """Raise `UsageError` for a place that cannot be written, before anything runs."""
        for file in filter(None, (self.junit, self.summary)):
            _check_folder(file.expanduser().absolute().parent)
            if file.is_dir():
                raise UsageError(f"{file} is a folder; a file is wanted.")
        if self.artifacts is not None:
            folder = self.artifacts.expanduser().absolute()
            _check_folder(folder if folder.exists() else _nearest(folder))

    def write(self, tasks: Sequence[Json]) -> list[str]:
        """Write what tells of all of them; returns what went wrong."""
        wanted = [(self.junit, junit.render), (self.summary, summary.render)]
        wrong = [
            trouble
            for file, told in wanted
            if file is not None and (trouble := _written(file.expanduser(), told(tasks)))
        ]
        if page := github.summary_file():
            wrong += filter(None, [_appended(Path(page), summary.render(tasks))])
        return wrong


@dataclass(frozen=True)
class Keeping:
    """Keeps what the tasks of one run leave; what goes wrong is added to `wrong`, and told later.

    A build that failed for a full disk is still to say what its tasks did.
    """

    client: WorkerClient
    reports: Reports
    wrong: list[str]

    def ended(self, one: Json, near: Sequence[Json]) -> None:
        """Write the artifacts of this task, if they are wanted; `near` are all of the run."""
        if self.reports.artifacts is None:
            return
        folder = self.reports.artifacts.expanduser()
        if len({other["workspace"] for other in near}) > 1:
            folder /= one["workspace"]
        task = one["task"]
        said = (line for page in pages(self.client, task) for line in page)
        try:
            report = self.client.report(task)
            artifacts.write(folder, report, patch=partial(self._patch, task), log=said)
        except ClaudedoError as error:
            self.wrong.append(f"The artifacts of {one['name']} were not kept: {error}")

    def pushed(self, tasks: Sequence[Json]) -> None:
        """Push the branches of those that are done, if that is wanted, and say so."""
        if not self.reports.push:
            return
        done = [one["task"] for one in tasks if one["status"] == QueueStatus.COMPLETED]
        for pushed in push.push(self.client.report(task) for task in done):
            if pushed.done:
                note(pushed.line)
            else:
                self.wrong.append(pushed.line)

    def _patch(self, task: str, file: BinaryIO) -> None:
        """Write all that a task changed since it left its base, for `git apply`."""
        try:
            found = self.client.changes(task)
        except (ConflictError, NotFoundError, RefusedError):
            return  # it never came so far
        what = [found["base"], *filter(None, [found["head"]])]
        with index_with(found) as env:
            done = subprocess.run(
                ["git", "diff", "--binary", "--no-color", "--no-ext-diff", *what, "--"],
                cwd=found["directory"],
                env=env,
                stdout=file,
                stderr=subprocess.PIPE,
                check=False,
            )
        if done.returncode:
            said = os.fsdecode(done.stderr).strip()
            raise ClaudedoError(f"`git diff` failed in {found['directory']}: {said}")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written.")


def _nearest(folder: Path) -> Path:
    """The first folder above that there is."""
    return next(above for above in folder.parents if above.exists())


def _written(file: Path, text: str) -> str | None:
    """Put `text` in the place of the file, whole or not at all; returns what went wrong."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False
        ) as whole:
            place = Path(whole.name)
            try:
                whole.write(text)
                whole.flush()
                place.chmod(0o644)
                place.replace(file)
            except BaseException:
                place.unlink(missing_ok=True)
                raise
    except OSError as error:
        return f"{file} cannot be written: {error.strerror}."
    return None


def _appended(file: Path, text: str) -> str | None:
    try:
        with file.open("a", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        return f"{file} cannot be written: {error.strerror}."
    return None
