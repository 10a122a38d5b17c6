"""What the tests of the command line share: a state directory, a worker, a way to run commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner, Result

from claudedo import settings
from claudedo.cli.app import app
from tests.unit.cli.fake_worker import FakeWorker, serving

Run = Callable[..., Result]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of its own, with a path short enough for sockets; nobody is in SSH."""
    with TemporaryDirectory(prefix="cdo") as folder:
        monkeypatch.setenv("CLAUDEDO_HOME", f"{folder}/home")
        for name in ("CLAUDEDO_DEBUG", "SSH_CONNECTION", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        yield Path(folder, "home")


@pytest.fixture
def worker(home: Path) -> Iterator[FakeWorker]:
    """A fake worker that answers the commands."""
    found = settings.load()
    settings.make_private(found.home)
    settings.make_private(found.run)
    with serving(found.worker_socket) as running:
        yield running


@pytest.fixture
def run() -> Run:
    """Run `claudedo ARGUMENTS...` without a terminal."""

    def command(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="claudedo")

    return command
