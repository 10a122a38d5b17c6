"""Task files under a real worker: setup before the session, its failure, its end, its return.

A script stands in for `claude`: it says what it was started with, and stays.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from claudedo.demo.repository import make_repository
from tests.support.own_worker import PATIENCE, OwnWorker

CLAUDE = f"""#!{sys.executable}
import json, os, pathlib, sys, time
if "--version" in sys.argv:
    print("2.1.330")
    sys.exit()
config = pathlib.Path(os.environ["CLAUDE_CONFIG_DIR"])
word = {{"cwd": os.getcwd(), "env": dict(os.environ), "argv": sys.argv[1:]}}
(config / os.environ["CLAUDEDO_TASK_NAME"]).write_text(json.dumps(word))
time.sleep(300)
"""


class Studio:
    """A state directory with a worker, and two repositories."""

    def __init__(self, root: Path) -> None:
        self.config = root / "config"
        self.config.mkdir()
        program = root / "claude"
        program.write_text(CLAUDE)
        program.chmod(0o755)
        self.api, self.web = (make_repository(root / name) for name in ("api", "web"))
        self.worker = OwnWorker(root / "home", {"CLAUDEDO_CLAUDE": str(program)})
        self.env = {"PATH": os.environ["PATH"], "CLAUDE_CONFIG_DIR": str(self.config)}

    def start(self, *tasks: dict[str, Any]) -> list[str]:
        """Start tasks; their ids."""
        order = {"cwd": str(self.api), "tasks": tasks, "env": self.env, "trust": True}
        answer = self.worker.ask("POST", "/api/start", order)
        assert answer.status == 200, answer
        return [task["id"] for task in answer.json["tasks"]]

    def restart(self, task: str) -> None:
        answer = self.worker.ask("POST", f"/api/tasks/{task}/restart", {"env": self.env})
        assert answer.status == 200, answer

    def show(self, task: str) -> Any:
        return self.worker.ask("GET", f"/api/tasks/{task}").json

    def until(self, task: str, state: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The session of a task once it is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while not state(session := self.show(task)["session"]):
            assert time.monotonic() < deadline, (session, self.worker.log[-3000:])
            time.sleep(0.05)
        return dict(session)

    def running(self, task: str) -> dict[str, Any]:
        """What the task's `claude` was started with."""
        name = self.show(task)["name"]
        self.until(task, lambda session: session["pid"] and (self.config / name).exists())
        word: dict[str, Any] = json.loads((self.config / name).read_text())
        return word

    def processes(self, mark: str) -> list[psutil.Process]:
        """The processes that have `mark` on their command line."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if mark in (process.info["cmdline"] or [])]


@pytest.fixture
def studio() -> Iterator[Studio]:
    with tempfile.TemporaryDirectory(prefix="cdw-", dir="/tmp") as root:  # sockets lie in it
        made = Studio(Path(root).resolve())
        made.worker.start()
        try:
            yield made
            for task in made.worker.ask("GET", "/api/tasks").json:
                made.worker.ask("POST", f"/api/tasks/{task['id']}/stop", {})
        finally:
            made.worker.close()


def _is(state: str) -> Callable[[dict[str, Any]], bool]:
    return lambda session: bool(session["state"] == state)


def test_each_task_works_in_its_own_repository_with_its_own_setup_ports_and_variables(
    studio: Studio,
) -> None:
    file = """
    [tasks.{name}]
    dir = "src"
    copy = [".env"]
    links = ["node_modules"]
    setup = 'mkdir -p src && cat .env node_modules/x >&2 && echo $PORT $FROM_SHELL > src/made'
    teardown = "echo $CLAUDEDO_TASK_NAME $PORT > {out}"
    env = {{ PORT = "$CLAUDEDO_PORT" }}
    args = ["--append-system-prompt", "FROM-THE-FILE", "--effort", "low"]
    """
    for repository in (studio.api, studio.web):
        out = studio.config / f"{repository.name}.out"
        (repository / "claudedo.toml").write_text(file.format(name=repository.name, out=out))
        (repository / ".env").write_text(f"I am {repository.name}.\n")
        (repository / "node_modules").mkdir()
        (repository / "node_modules/x").write_text("a module\n")
    studio.env["FROM_SHELL"] = "hello"
    ids = studio.start({"name": "api"}, {"name": "web", "dir": str(studio.web)})

    ports = {}
    for task, other in zip(ids, ("web", "api"), strict=True):
        word, shown = studio.running(task), studio.show(task)
        worktree = Path(shown["worktree"])
        port = word["env"]["PORT"]
        assert word["cwd"] == str(worktree / "src")
        assert (worktree / "src/made").read_text() == f"{port} hello\n"
        assert (worktree / ".env").read_text() == f"I am {shown['name']}.\n"
        assert word["env"]["CLAUDEDO_PORT"] == port == str(shown["port"])
        assert word["env"]["CLAUDEDO_PEERS"] == other
        assert word["argv"][word["argv"].index("--effort") + 1] == "low"
        instructions = word["argv"][word["argv"].index("--append-system-prompt-file") + 1]
        assert "FROM-THE-FILE" in Path(instructions).read_text()
        assert f"I am {shown['name']}.\na module\n" in Path(shown["setup_log"]).read_text()
        ports[shown["name"]] = port
    assert len({*ports.values()}) == 2

    # Again: the same ports, and no second setup.
    made = Path(studio.show(ids[0])["worktree"]) / "src/made"
    made.write_text("kept")
    (studio.config / "api").unlink()
    studio.restart(ids[0])
    assert studio.running(ids[0])["env"]["PORT"] == ports["api"]
    assert made.read_text() == "kept"

    answer = studio.worker.ask("DELETE", f"/api/tasks/{ids[0]}?force=true", {"env": studio.env})
    assert answer.status == 200, answer
    assert (studio.config / "api.out").read_text() == f"api {ports['api']}\n"
    assert not made.exists()


def test_a_setup_that_fails_is_the_reason_and_a_restart_runs_it_again(studio: Studio) -> None:
    (studio.api / "claudedo.toml").write_text(
        "[tasks.api]\nsetup = 'echo run >> runs; test -e repaired || { echo no database; exit 3; }'"
    )
    [task] = studio.start({"name": "api"})
    session = studio.until(task, _is("failed"))
    assert session["reason"].startswith("its setup failed (exit status 3): no database (all of it")
    assert studio.show(task)["setup_log"] in session["reason"]
    worktree = Path(studio.show(task)["worktree"])
    assert (worktree / "runs").read_text() == "run\n"

    (worktree / "repaired").touch()
    studio.restart(task)
    studio.running(task)
    assert (worktree / "runs").read_text() == "run\nrun\n"


def test_a_setup_is_shown_while_it_runs_and_a_stop_ends_all_of_it(studio: Studio) -> None:
    (studio.api / "claudedo.toml").write_text(
        "[tasks.api]\nsetup = 'setsid sleep 1111.1 & sleep 1111.1; true'"
    )
    [task] = studio.start({"name": "api"})
    studio.until(task, lambda session: session["waiting_for"] == "running setup")
    studio.until(task, lambda _: len(studio.processes("1111.1")) == 2)
    answer = studio.worker.ask("POST", f"/api/tasks/{task}/stop", {})
    assert answer.json == {"stopped": True}
    assert studio.show(task)["session"]["state"] == "stopped"
    assert studio.processes("1111.1") == []
    assert not (studio.config / "api").exists()


def test_a_setup_that_a_killed_worker_left_is_ended_and_run_anew(studio: Studio) -> None:
    (studio.api / "claudedo.toml").write_text(
        "[tasks.api]\nsetup = 'test -e ready || { touch ready; exec sleep 2222.2; }'"
    )
    [task] = studio.start({"name": "api"})
    studio.until(task, lambda _: studio.processes("2222.2"))
    studio.worker.end(signal.SIGKILL)
    assert studio.processes("2222.2")
    studio.worker.start()
    session = studio.until(task, _is("interrupted"))
    assert "claudedo was killed while starting it" in session["reason"]
    assert studio.processes("2222.2") == []
    studio.restart(task)
    studio.running(task)


def test_a_setup_acts_as_its_session_and_not_as_the_person(studio: Studio) -> None:
    command = str(Path(sys.executable).with_name("claudedo"))
    (studio.api / "claudedo.toml").write_text(
        f"[tasks.api]\nsetup = '{command} stop web; env -u CLAUDEDO_TASK {command} stop web'"
    )
    studio.env["CLAUDEDO_HOME"] = str(studio.worker.home)
    [web] = studio.start({"name": "web", "dir": str(studio.web)})
    studio.running(web)
    [task] = studio.start({"name": "api"})
    session = studio.until(task, _is("failed"))
    assert session["reason"].count("a session cannot take it") == 2
    assert studio.show(web)["session"]["pid"]
