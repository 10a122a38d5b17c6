"""`claudedo demo`: plays the scenario on a stage, and says what it sees.

Every line that claims something comes from the worker's own receipts, from the list of processes,
or from the requests that the scripted model got. Waits are bounded; what does not come true ends
the demonstration with status 1 and the place of the logs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import psutil
from rich.console import Console

from claudedo.demo import scenario
from claudedo.demo.scenario import BACKEND, FRONTEND, SlowTool
from claudedo.demo.stage import Stage
from claudedo.errors import ClaudedoError
from claudedo.model import Rung

PATIENCE = 60.0
"""Seconds that anything may take to come true; it takes one or two on an idle machine."""

LOOK_SECONDS = 0.05
INSTALL = (
    "Install Claude Code with `npm install -g @anthropic-ai/claude-code`, "
    "or set CLAUDEDO_CLAUDE to its path."
)

T = TypeVar("T")


class Failure(Exception):
    """Something that was to be shown did not come true."""


def run(keep: bool) -> int:
    """Play the demonstration; with `keep`, leave it up until Enter or Ctrl-C.

    Returns the exit status: 1 without a `claude` that runs, and if something did not come true.
    Nothing of it is left when this returns or raises, but the logs of a failure.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        claude, version = _claude()
    except Failure as failure:
        _complain(str(failure))
        return 1
    with Stage(claude) as stage:
        show = Show(console, stage)
        try:
            show.play(version)
        except (Failure, ClaudedoError, subprocess.SubprocessError, psutil.Error) as failure:
            show.fail(failure)
            return 1
        if keep:
            show.keep()
        show.end()
    return 0


def _claude() -> tuple[str, str]:
    """The path and the version of the `claude` to show. Raises `Failure`."""
    name = os.environ.get("CLAUDEDO_CLAUDE") or "claude"
    path = shutil.which(name)
    if path is None:
        raise Failure(f"There is no `{name}` to show. {INSTALL}")
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(f"{path} does not run: {error}. {INSTALL}") from error
    return os.path.abspath(path), answer.strip().split(" ")[0]  # noqa: PTH100 - keeps links


class Show:
    """One performance."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console = console
        self._stage = stage
        self._began = time.monotonic()
        self._tool = SlowTool(stage.folder)
        self._ids: dict[str, str] = {}  # name of a task -> its id
        scenario.script(stage.model, self._tool)

    def play(self, version: str) -> None:
        """Everything, in order. Raises `Failure`."""
        self._console.print("claudedo demo", style="bold")
        self._tell(f"Two real Claude Code sessions ({version}) and a scripted model behind them:")
        self._tell("no account, no key, no network. Everything lives in a throw-away folder,")
        self._tell(f"{self._stage.folder}.")
        self._start()
        self._ask_a_peer()
        self._kill_the_worker()
        self._print_threads()
        self._conclude()

    # The acts

    def _start(self) -> None:
        self._act("Two linked sessions start, each in a git worktree of its own")
        tasks = [
            f"{BACKEND}={scenario.BACKEND_PROMPT}",
            f"{FRONTEND}={scenario.FRONTEND_PROMPT}",
        ]
        given = ["--permission-mode", "acceptEdits", "--", "--allowedTools", "Bash"]
        self._command("start", *tasks, *given)
        listed = self._stage.client().tasks()
        self._ids = {task["name"]: task["id"] for task in listed}

    def _ask_a_peer(self) -> None:
        self._act("frontend asks its peer, and backend answers")
        question = self._message(BACKEND, scenario.QUESTION)
        self._say(question)
        self._climb(question, Rung.READ)
        answer = self._message(FRONTEND, scenario.ANSWER)
        if answer["reply_to"] != question["id"]:
            raise Failure("backend's message does not name the question that it answers")
        self._say(answer)
        self._climb(question, Rung.ANSWERED, above=Rung.READ)
        self._climb(answer, Rung.READ)

    def _kill_the_worker(self) -> None:
        self._act("A message from this shell, while a tool runs and the worker is killed")
        self._command("send", BACKEND, scenario.WORK)
        self._until(lambda: self._tool.running, "backend did not run its tool")
        self._fact("backend's model runs a tool that takes its time")
        self._command("send", BACKEND, scenario.CORRECTION)
        sent = self._message(BACKEND, scenario.CORRECTION)
        before = self._sessions()
        old = self._kill()
        _check_alive(before)
        self._fact(f"the worker is gone; both sessions go on: claude is {_pids(before)}")
        self._tell("Any command brings another worker:")
        self._command("ls")
        new = int(self._stage.client().worker()["pid"])
        if new == old or self._sessions() != before:
            raise Failure("the sessions did not survive the worker's death")
        self._fact(f"worker {new} took up the same two processes; the tool still runs")
        self._tool.let_go()
        self._tell("The tool ends now, and in the middle of backend's turn:")
        self._climb(sent, Rung.READ)

    def _print_threads(self) -> None:
        self._act("The timeline, with a receipt for every step of every message")
        for task in (BACKEND, FRONTEND):
            self._command("thread", task)

    def _conclude(self) -> None:
        said = [self._stage.client().thread(task) for task in self._ids.values()]
        messages = {message["id"]: message for thread in said for message in thread}
        for message in messages.values():
            self._check(message)
        seconds = time.monotonic() - self._began
        self._console.print()
        self._console.print(
            f"Proven in {seconds:.0f} s: {len(messages)} messages stored, each of them in its "
            "model's context exactly once, and read; the question answered; one worker killed, "
            "nothing lost, nothing doubled.",
            style="bold green",
        )
        self._console.print(
            "Next, in a repository of yours, with your own account:\n"
            "  claudedo start backend frontend\n"
            "  claudedo attach backend        (Ctrl-] leaves it running)"
        )

    def _check(self, message: dict[str, Any]) -> None:
        """Compare a message's receipts with what the scripted model was told."""
        if not message["receipts"]["read_at"]:
            raise Failure(f"{message['id']} to {message['recipient']} was not read")
        words = f'task "{message["recipient"]}"'
        requests = [r for r in self._stage.model.requests if r.is_main and words in r.system_text]
        count = requests[-1].count(message["body"]) if requests else 0
        if count != 1:
            raise Failure(f"{message['id']} stands {count} times in the model's context")

    def keep(self) -> None:
        """Leave it up, say how to look around, and wait for Enter or Ctrl-C."""
        file = self._stage.write_environment()
        self._act("It stays up for you to look around")
        self._tell("The page (this link works once, for 60 seconds):")
        self._console.print(f"  {self._stage.ask('open', '--print')}", soft_wrap=True)
        self._tell("In another terminal:")
        self._console.print(f"  . {shlex.quote(str(file))}", soft_wrap=True)
        for line in ("claudedo ls", f"claudedo attach {FRONTEND}   (Ctrl-] leaves)"):
            self._console.print(f"  {line}")
        self._console.print(f'  claudedo send {BACKEND} "Anything" --wait read')
        self._console.print("  claudedo open --print      (another link to the page)")
        self._tell("Enter or Ctrl-C here ends everything and removes the folder.")
        try:
            sys.stdin.readline()
        except KeyboardInterrupt:
            self._console.print()

    def end(self) -> None:
        """Say what happens while the stage is cleared."""
        self._console.print("Ending the sessions and removing the folder …", style="dim")

    def fail(self, failure: Exception) -> None:
        """Say what did not come true and where to look."""
        _complain(f"the demonstration failed: {failure}")
        _complain(f"its logs are in {self._stage.save_logs()}")

    # What is looked at

    def _message(self, task: str, body: str) -> dict[str, Any]:
        """Wait for the message to `task` that says `body`."""
        client = self._stage.client()

        def there() -> dict[str, Any] | None:
            thread = client.thread(self._ids[task])
            received = (m for m in thread if m["recipient"] == task and m["body"] == body)
            return next(received, None)

        return self._until(there, f"no message {body!r} came for {task}")

    def _climb(self, message: dict[str, Any], rung: Rung, above: Rung = Rung.STORED) -> None:
        """Follow a message from one rung to another, and tell of each as it is reached."""
        client = self._stage.client()
        rungs = list(Rung)
        for step in rungs[rungs.index(above) + 1 : rungs.index(rung) + 1]:
            now = client.message(message["id"], step, PATIENCE)
            if not now["receipts"][f"{step}_at"]:
                raise Failure(f"{message['id']} was not {step} within {PATIENCE:.0f} s")
            if step is not Rung.OFFERED:
                self._fact(_reached(message, now, step))

    def _sessions(self) -> dict[str, int]:
        """The process of each session that is really running."""
        pids = {task["name"]: task["session"]["pid"] for task in self._stage.client().tasks()}
        _check_alive(pids)
        return pids

    def _kill(self) -> int:
        worker = psutil.Process(int(self._stage.client().worker()["pid"]))
        self._shell("kill", "-9", str(worker.pid))
        worker.send_signal(signal.SIGKILL)
        self._until(lambda: not _lives(worker), f"the worker {worker.pid} survived SIGKILL")
        return worker.pid

    def _until(self, condition: Callable[[], T | None], never: str) -> T:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(LOOK_SECONDS)
        raise Failure(f"{never} within {PATIENCE:.0f} s")

    # What is told

    def _act(self, title: str) -> None:
        self._console.print()
        self._console.print(f"── {title}", style="bold cyan")

    def _tell(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _fact(self, text: str) -> None:
        self._console.print(f"✓ {text}", style="green")

    def _say(self, message: dict[str, Any]) -> None:
        self._console.print(f"{message['sender_name']} → {message['recipient']}", style="bold")
        self._console.print(f"  │ {message['body']}")

    def _shell(self, *words: str) -> None:
        """Print a command so that it can be copied, broken between its words where it is long."""
        lines = ["$"]
        for word in words:
            if len(lines[-1]) + len(word) + 3 > self._console.width and lines[-1] != "$":
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += f" {word}"
        for line in lines:
            self._console.print(line, style="bold", soft_wrap=True)

    def _command(self, *arguments: str) -> None:
        """Run a command as a person would, its output on this terminal."""
        self._shell("claudedo", *map(_quoted, arguments))
        if status := self._stage.run(*arguments):
            raise Failure(f"`claudedo {arguments[0]}` ended with status {status}")


def _complain(sentence: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(f"claudedo: {sentence}", style="bold red", soft_wrap=True)


def _quoted(argument: str) -> str:
    """An argument as a person would type it: `backend='Add the API'`."""
    name, equals, value = argument.partition("=")
    return f"{name}={shlex.quote(value)}" if equals else shlex.quote(argument)


def _reached(message: dict[str, Any], now: dict[str, Any], rung: Rung) -> str:
    recipient, receipts = message["recipient"], now["receipts"]
    words = {
        Rung.DELIVERED: f"delivered: in the context of {recipient}'s model, by {now['via']}",
        Rung.READ: f"read: {recipient}'s model answered with it in its context",
        Rung.ANSWERED: "answered: the reply to it is stored",
    }
    moments = [datetime.fromisoformat(receipts[f"{step}_at"]) for step in (Rung.STORED, rung)]
    return f"{words[rung]} (+{(moments[1] - moments[0]).total_seconds():.1f} s)"


def _check_alive(sessions: dict[str, int]) -> None:
    """Raise `Failure` if one of these processes, by session, is gone."""
    for name, pid in sessions.items():
        if not psutil.pid_exists(pid) or not _lives(psutil.Process(pid)):
            raise Failure(f"the process of {name} is gone")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pids(sessions: dict[str, int]) -> str:
    return ", ".join(f"{pid} ({name})" for name, pid in sessions.items())
