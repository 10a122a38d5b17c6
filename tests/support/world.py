"""A throw-away place in which the installed commands run against a real `claude`.

Everything a test needs to say what a person does (`run`, `start`, `send`) and to see what became
of it (`receipts`, `model.requests`, `session`). Leaving it ends every session and the worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil

from claudedo.client import WorkerClient
from claudedo.demo.model import ModelRequest, ScriptedModel
from claudedo.errors import UnavailableError
from claudedo.holding import HolderClient, Kind, encode_input
from claudedo.settings import Settings, load
from claudedo_worker.terminal import screen
from tests.support.claude_home import create_claude_home
from tests.support.prepared_command import prepared_command

COMMAND = str(Path(sys.executable).with_name("claudedo"))
PATIENCE = 60.0

T = TypeVar("T")


class World:
    """One home, one repository, one scripted model, one claudedo state directory."""

    def __init__(self, claude: Path, root: Path, *, channels: bool = True) -> None:
        self.root = root
        self.claude = claude
        self.command = COMMAND
        self.model = ScriptedModel()
        self._channels = channels
        self._begun: list[subprocess.Popen[str]] = []
        self._client: tuple[Settings, WorkerClient] | None = None
        self._ids: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.model.start()
        made = create_claude_home(self.root, self.model.url, channels=self._channels)
        self.home, self.repository = made.path, made.repository
        self.state = self.root / "state"
        self.environment = {
            **made.environment,
            "CLAUDEDO_HOME": str(self.state),
            "CLAUDEDO_CLAUDE": str(self.claude),
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._end_all()
        finally:
            self.model.stop()
        if kind is not None and self.log.exists():
            sys.stderr.write(self.log.read_text()[-4000:])

    @property
    def log(self) -> Path:
        return self.state / "worker.log"

    @property
    def _settings(self) -> Settings:
        return load(self.environment)

    # What a person does

    def run(
        self, *arguments: str, check: bool = True, cwd: Path | None = None, input: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; with `check` it must succeed."""
        self._ids.clear()  # the command may give a name to another task
        cwd = cwd or self.repository
        if self.command == COMMAND:
            done = prepared_command().run(
                arguments, cwd=cwd, env=self.environment, input=input, timeout=180
            )
        else:
            done = subprocess.run(
                [self.command, *arguments],
                cwd=cwd,
                env=self.environment,
                input=input,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        if check and done.returncode:
            raise AssertionError(
                f"claudedo {' '.join(arguments)} -> {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Run a command beside the test; its output is there with `communicate`."""
        command = subprocess.Popen(
            [self.command, *arguments],
            cwd=self.repository,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._begun.append(command)
        return command

    def json(self, *arguments: str) -> Any:
        """Run a reading command with --json."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(
        self, *tasks: str, claude_args: tuple[str, ...] = (), mode: str = "acceptEdits"
    ) -> None:
        """Start tasks whose Bash calls need no permission (unless `claude_args` say otherwise)."""
        given = claude_args or ("--allowedTools", "Bash,Agent")
        self.run("start", *tasks, "--permission-mode", mode, "--", *given)

    def send(self, task: str, body: str, *options: str) -> str:
        """Send a message; returns its id."""
        sent = json.loads(self.run("send", task, body, "--json", *options).stdout)
        return str(sent["id"])

    # What became of it

    def ask(self, question: Callable[[WorkerClient], T]) -> T:
        """Ask the worker directly, which costs less than a command; a dead one is started again."""
        settings = self._settings
        try:
            if self._client is None or self._client[0] != settings:
                self._client = settings, WorkerClient(settings).connect(start=False)
            return question(self._client[1])
        except UnavailableError:
            self.run("worker", "start")
            return question(WorkerClient(settings).connect(start=False))

    def id(self, task: str) -> str:
        """The id of the task that a person here means."""
        if task not in self._ids:
            found = self.ask(lambda worker: worker.resolve(task, str(self.repository)))
            self._ids[task] = str(found["id"])
        return self._ids[task]

    def message(self, task: str, message_id: str) -> dict[str, Any]:
        """One message of a task's thread."""
        thread = self.ask(lambda worker: worker.thread(self.id(task)))
        return next(message for message in thread if message["id"] == message_id)

    def await_rung(self, task: str, message_id: str, rung: str) -> dict[str, Any]:
        """Wait until a message reached a rung; returns it."""
        return self.wait_for(
            lambda: (m := self.message(task, message_id))["receipts"][f"{rung}_at"] and m,
            f"{message_id} is not {rung}",
        )

    def session(self, task: str) -> dict[str, Any]:
        """The session of a task, as `show --json` tells it."""
        return dict(self.ask(lambda worker: worker.task(self.id(task)))["session"] or {})

    def worktree(self, task: str) -> Path:
        """Where a task's session works."""
        return Path(self.ask(lambda worker: worker.task(self.id(task)))["worktree"])

    def transcript(self, task: str) -> list[dict[str, Any]]:
        """The lines of the transcript of a task's present conversation."""
        name = f"{self.session(task)['session_id']}.jsonl"
        path = next((self.home / ".claude" / "projects").glob(f"*/{name}"))
        return [json.loads(line) for line in path.read_text().splitlines()]

    # What a person does at the session's terminal

    def keys(self, task: str, keys: str) -> None:
        """Type as somebody who is attached."""
        with self.terminal(task) as terminal:
            terminal.send_input(keys.encode())
            terminal.status()  # answered in order: the keys are there

    def keys_before(self, task: str, keys: str) -> None:
        """The same keys as if typed long ago: nothing is held back because somebody types."""
        with self.terminal(task) as terminal:
            terminal.send(encode_input(Kind.WORKER_INPUT, keys.encode()))
            terminal.status()

    def type(self, task: str, line: str) -> None:
        """Type a line at the idle session, and Enter once it stands in the input box."""
        self.keys(task, line)
        self.wait_for(lambda: line in self.screen(task).replace("\xa0", " "), "nothing was typed")
        self.keys(task, "\r")

    def screen(self, task: str) -> str:
        """What the session's terminal shows."""
        with self.terminal(task) as terminal:
            status = terminal.status()
            return screen(terminal.snapshot(), status.rows, status.cols).text

    def terminal(self, task: str) -> HolderClient:
        """A connection to the holder of a task's session."""
        socket = self.ask(lambda worker: worker.terminal(self.id(task)))
        return HolderClient.connect(socket)

    def await_state(self, task: str, *states: str) -> dict[str, Any]:
        """Wait until a session is in one of these states; returns it."""
        return self.wait_for(
            lambda: (s := self.session(task)).get("state") in states and s,
            f"{task} is not {' or '.join(states)}",
        )

    def wait_for(self, condition: Callable[[], T | bool | None], never: str) -> T:
        """Poll a condition until it is true; fails with `never` after a generous bound."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if value := condition():
                return value  # type: ignore[return-value]  # truthy, so not None or False
            time.sleep(0.05)
        raise AssertionError(f"{never} after {PATIENCE:.0f} s\n{self._situation()}")

    def requests_with(self, text: str) -> list[ModelRequest]:
        """Main requests whose new part holds `text`."""
        return [r for r in self.model.requests if r.is_main and text in r.latest]

    def _situation(self) -> str:
        shown = self.run("ls", "--json", check=False).stdout
        lines = [
            f"{r.sequence} {r.kind} {r.session_id[:6]} …{r.latest[-200:]!r}"
            for r in self.model.requests
        ]
        log = self.log.read_text()[-3000:] if self.log.exists() else ""
        return "\n".join([shown, *lines, log])

    # Processes

    @property
    def worker_pid(self) -> int:
        return int(json.loads(self._settings.worker_file.read_text())["pid"])

    def kill_worker(self) -> None:
        """SIGKILL, as a crash would; the next command starts another."""
        process = psutil.Process(self.worker_pid)
        process.send_signal(signal.SIGKILL)
        self.wait_for(lambda: is_gone(process), "the worker does not die")

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for this world: below its sessions, or from its state directory."""
        mine = f"{self.root}/"
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and mine in " ".join(
                    [*process.cmdline(), *process.environ().values()]
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _end_all(self) -> None:
        """The worker first, or it would start again what ends; then all that is left."""
        for command in self._begun:
            command.kill()
            command.communicate()
        workers = [p for p in self.processes() if "claudedo_worker" in words_of(p)]
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.terminate()
        psutil.wait_procs(workers, timeout=PATIENCE)
        for _ in range(5):  # one that just ends may begin another
            left = self.processes()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
            if not left:
                return
        raise AssertionError(f"these do not end: {left}")


def is_gone(process: psutil.Process) -> bool:
    """True once it has ended, even if a parent that goes on never asks how."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty for one that ends just now."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
