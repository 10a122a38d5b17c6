"""The installed package can be removed and replaced under busy sessions: they do not notice.

The package is built and installed as a person would do it, in a virtual environment of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import typer

from claudedo.demo.model import Answer, Sequence, Text, ToolResult, ToolUse
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

PROJECT = Path(__file__).parents[2]
CHECK, SEND = "mcp__claudedo__check_inbox", "mcp__claudedo__send_to_peer"
NAMES = ("backend", "frontend")

# Says that it is at a gate, and waits (a minute at most) until the gate is opened.
GATE = """\
touch "$1-reached-by-$CLAUDEDO_TASK_NAME"
n=0
while [ ! -e "$1-open" ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done
echo "passed $1"
"""


class Installation:
    """A virtual environment with nothing in it but the built package; libraries come from ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        run = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(run, check=True)
        self._packages = next(folder.glob("lib/python3*/site-packages"))
        # A plain line: the path files in that folder, our editable install's too, do not count.
        (self._packages / "libraries.pth").write_text(f"{Path(typer.__file__).parents[1]}\n")
        self.command = folder / "bin" / "claudedo"

    def install(self, wheel: Path, version: str) -> None:
        """Install the wheel, as if it were of that version."""
        pip = [sys.executable, "-m", "pip", "--python", str(self._folder / "bin" / "python")]
        options = ["--quiet", "--no-index", "--no-deps", "--ignore-installed"]
        subprocess.run([*pip, "install", *options, str(wheel)], check=True, capture_output=True)
        metadata = next(self._packages.glob("claudedo-*.dist-info")) / "METADATA"
        metadata.write_text(
            re.sub(r"(?m)^Version: .*$", f"Version: {version}", metadata.read_text())
        )

    def remove(self) -> None:
        """Delete every file of the package, as an upgrade does for a moment."""
        for path in self._packages.glob("claudedo*"):
            shutil.rmtree(path)
        self.command.unlink()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def upgraded(world_without_channels: World, wheel: Path) -> Iterator[tuple[World, Installation]]:
    """A world whose command is an installation of its own; waiters wake its idle sessions."""
    world = world_without_channels
    installation = Installation(world.root / "venv")
    installation.install(wheel, "1.0.0")
    ours, world.command = world.command, str(installation.command)
    yield world, installation
    world.command = ours


def test_busy_sessions_go_on_while_the_package_is_removed_and_replaced(
    upgraded: tuple[World, Installation], wheel: Path
) -> None:
    world, installation = upgraded
    gate = world.root / "gate.sh"
    gate.write_text(GATE)
    for name in NAMES:
        world.model.script(f"BEGIN {name}", Sequence(_work(gate, name)))
    world.start(*(f"{name}=BEGIN {name}" for name in NAMES))
    _await_gate(world, "first")
    assert world.json("worker", "status")["version"] == "1.0.0"
    pids = {name: world.session(name)["pid"] for name in NAMES}
    old_worker = world.worker_pid

    # Nothing of the package is left; its worker and its sessions still are.
    installation.remove()
    _send_without_command(world, "backend", "MAIL-BETWEEN")
    (world.root / "first-open").touch()
    _await_gate(world, "second")
    assert psutil.pid_exists(old_worker)
    _check_calls(world, "1")
    assert len(world.requests_with("MAIL-BETWEEN")) == 1

    # The new release is there, and for a moment no worker at all: calls wait for the next one.
    installation.install(wheel, "2.0.0")
    world.run("worker", "stop")
    (world.root / "second-open").touch()
    passed = {f"toolu_{name}_bash2" for name in NAMES}
    world.wait_for(lambda: passed <= _results(world).keys(), "the second gate is not passed")
    assert world.run("worker", "status", check=False).returncode == 1
    world.run("ls")
    assert world.json("worker", "status")["version"] == "2.0.0"
    for name in NAMES:
        world.await_state(name, "idle")
    _check_calls(world, "2")
    for name, peer in zip(NAMES, reversed(NAMES), strict=True):
        for part in "12":
            assert len(world.requests_with(f"FROM-{peer}-{part}")) == 1, (name, part)

    # The waiter that the first release left beside the session is heard by the second.
    sent = world.send("frontend", "MAIL-AFTER")
    world.await_rung("frontend", sent, "read")
    assert len(world.requests_with("MAIL-AFTER")) == 1
    assert {name: world.session(name)["pid"] for name in NAMES} == pids


def _work(gate: Path, name: str) -> list[Answer]:
    """Twice: a command that lasts, a look into the inbox, a message to the peer."""
    answers: list[Answer] = []
    for number, part in enumerate(("first", "second"), start=1):
        command = f"cd {gate.parent} && sh {gate} {part}"
        answers += [
            ToolUse("Bash", {"command": command}, id=f"toolu_{name}_bash{number}"),
            ToolUse(CHECK, {}, id=f"toolu_{name}_check{number}"),
            ToolUse(SEND, {"body": f"FROM-{name}-{number}"}, id=f"toolu_{name}_send{number}"),
        ]
    return [*answers, Text("all done")]


def _await_gate(world: World, gate: str) -> None:
    for name in NAMES:
        reached = world.root / f"{gate}-reached-by-{name}"
        world.wait_for(reached.exists, f"{name} does not come to the {gate} gate")


def _send_without_command(world: World, task: str, body: str) -> None:
    task_id = world.id(task)
    world.ask(lambda worker: worker.send(task_id, body, priority="normal", reply_to=None, key=body))


def _results(world: World) -> dict[str, ToolResult]:
    """The results of all tool calls so far, by the id of the call."""
    requests = world.model.requests
    return {key: result for request in requests for key, result in request.tool_results.items()}


def _check_calls(world: World, part: str) -> None:
    """Every tool call of that part gave what it should."""
    results = _results(world)
    for name in NAMES:
        for call, says in (("bash", "passed"), ("check", "pending"), ("send", "stored_at")):
            result = results[f"toolu_{name}_{call}{part}"]
            assert not result.is_error, result
            assert says in result.text, result
