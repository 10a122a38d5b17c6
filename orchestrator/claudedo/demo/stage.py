"""The throw-away place of the demonstration: a folder, a scripted model, an environment.

Runs the installed commands in it as a person would, and takes everything away again, processes
first, however the demonstration ends. What is played there: see `run`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from claudedo.client import WorkerClient
from claudedo.demo.home import create_home, environment
from claudedo.demo.model import ScriptedModel
from claudedo.demo.repository import make_repository
from claudedo.settings import Settings, load

COMMAND_SECONDS = 120
GRACE_SECONDS = 5
_OWN_TERMINAL = ("TERM", "COLORTERM", "NO_COLOR")


class Stage:
    """A context: entering makes everything, leaving ends and removes everything."""

    def __init__(self, claude: str) -> None:
        self._claude = claude
        self.model = ScriptedModel()
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="claudedo-demo-")).resolve()
        try:
            # A closed terminal or a SIGTERM is to end the demonstration as Ctrl-C does.
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, _interrupt)
            self.repository = make_repository(self.folder / "shop")
            self.model.start()
            create_home(self.folder / "home", trusted=[self.repository])
            self.environment = {
                **environment(self.folder / "home", self.model.url),
                **{name: os.environ[name] for name in _OWN_TERMINAL if name in os.environ},
                "CLAUDEDO_HOME": str(self.folder / "state"),
                "CLAUDEDO_CLAUDE": self._claude,
            }
            self.settings: Settings = load(self.environment)
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    # What a person does

    def run(self, *arguments: str) -> int:
        """Run a command on this very terminal; returns its exit status."""
        return self._command(arguments, capture=False).returncode

    def ask(self, *arguments: str) -> str:
        """Run a command and return what it prints. Raises CalledProcessError when it fails."""
        done = self._command(arguments, capture=True)
        done.check_returncode()
        return done.stdout.strip()

    def client(self) -> WorkerClient:
        """A client of the running worker; never starts one. Raises `UnavailableError`."""
        return WorkerClient(self.settings).connect(start=False)

    def write_environment(self) -> Path:
        """A file that puts a shell into this place, for `. FILE`."""
        variables = dict(self.environment)
        if shutil.which("claudedo", path=variables["PATH"]) is None:
            variables["PATH"] += os.pathsep + str(Path(sys.executable).parent)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        file = self.folder / "enter"
        file.write_text("\n".join([*lines, f"cd {shlex.quote(str(self.repository))}", ""]))
        return file

    def save_logs(self) -> Path:
        """Copy what explains a failure to a folder that stays, and return it."""
        kept = Path(tempfile.mkdtemp(prefix="claudedo-demo-logs-"))
        for pattern in ("state/*.log", "state/sessions/*/*.log", "home/.claude/projects/*/*.jsonl"):
            for file in self.folder.glob(pattern):
                shutil.copy(file, kept / f"{file.parent.name}-{file.name}")
        return kept

    def _command(
        self, arguments: tuple[str, ...], *, capture: bool
    ) -> subprocess.CompletedProcess[str]:
        # -P: a folder `claudedo` in the present directory is not this program.
        return subprocess.run(
            [sys.executable, "-P", "-m", "claudedo.cli.app", *arguments],
            cwd=self.repository,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=capture,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    # The end

    def _clear(self) -> None:
        """End and remove everything. Cannot be interrupted, and takes bounded time."""
        numbers = (signal.SIGINT, *self._handlers)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            self._end_sessions()
        finally:
            _end([process for process in psutil.process_iter() if self._is_ours(process)])
            with suppress(Exception):  # what went wrong in the script is not to hide the end
                self.model.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            if hasattr(self, "settings"):
                shutil.rmtree(self.settings.run, ignore_errors=True)
            for number, handler in (before | self._handlers).items():
                signal.signal(number, handler)

    def _end_sessions(self) -> None:
        """Politely; what does not go is killed afterwards."""
        if not (self.folder / "state" / "sessions").is_dir():
            return
        for arguments in (("stop", "--all"), ("worker", "stop")):
            with suppress(subprocess.TimeoutExpired):
                self._command(arguments, capture=True)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("CLAUDEDO_HOME") == str(self.folder / "state")
        except (psutil.Error, OSError):
            return False


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=GRACE_SECONDS)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
