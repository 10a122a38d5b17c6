"""`claudedo demo` shows what it promises with a real `claude`, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.support.claude_home import claude_params, require_claude
from tests.support.world import COMMAND

pytestmark = pytest.mark.acceptance

PATIENCE = 180.0


class Demo:
    """A running demonstration whose temporary folder is `folder`; its output as it comes."""

    def __init__(self, folder: Path, claude: str, *options: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [COMMAND, "demo", *options],
            env=surroundings(folder, claude),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                with self._came:
                    self.lines.append(line.rstrip("\n"))
                    self._came.notify_all()

    def await_line(self, fits: Callable[[str], bool]) -> str:
        """The first line that fits."""

        def found() -> str | None:
            return next((line for line in self.lines if fits(line)), None)

        with self._came:
            line = self._came.wait_for(found, PATIENCE)
        assert line is not None, "\n".join(self.lines)
        return line

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def enter(self) -> None:
        """The Enter key."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """The exit status, once everything was said."""
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return status


def surroundings(folder: Path, claude: str) -> dict[str, str]:
    """The environment of a person who never ran Claude Code; `folder` is its temporary folder."""
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(folder.parent),
        "TMPDIR": str(folder),
        "CLAUDEDO_CLAUDE": claude,
    }


def left_behind(folder: Path) -> list[str]:
    """Files and processes of the demonstration."""
    files = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("CLAUDEDO_HOME", ""):
                files.append(str(process))
        except (psutil.Error, OSError):
            continue
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty temporary folder."""
    made = tmp_path / "t"
    made.mkdir()
    return made


@pytest.mark.one_claude
def test_the_demo_shows_its_promises_stays_up_to_be_looked_at_and_leaves_nothing(
    claude: Path, folder: Path
) -> None:
    demo = Demo(folder, str(claude), "--keep")
    entering = demo.await_line(lambda line: line.startswith("  . ")).strip()
    demo.await_line(lambda line: "Enter or Ctrl-C" in line)

    told = "\n".join(demo.lines)
    assert "answered: the reply to it is stored" in told
    assert "took up the same two processes; the tool still runs" in told
    assert "read: backend's model answered with it in its context" in told
    assert "6 messages stored" in told

    link = demo.await_line(lambda line: line.strip().startswith("http://127.0.0.1")).strip()
    with urllib.request.urlopen(link, timeout=30) as page:
        assert page.status == 200

    looked = subprocess.run(
        ["sh", "-c", f"{entering} && claudedo ls --json"],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {task["name"]: task["session"]["state"] for task in json.loads(looked.stdout)}
    assert names == {"backend": "idle", "frontend": "idle"}

    demo.enter()
    assert demo.end() == 0
    assert left_behind(folder) == []


def test_ctrl_c_ends_the_demo_and_everything_it_began(folder: Path) -> None:
    demo = Demo(folder, str(require_claude(claude_params()[-1])))
    demo.await_line(lambda line: line.startswith("frontend is "))
    demo.interrupt()
    assert demo.end() == 130
    assert left_behind(folder) == []


def test_without_a_claude_the_demo_says_how_to_get_one(folder: Path) -> None:
    demo = Demo(folder, str(folder / "no-claude"))
    assert demo.end() == 1
    assert re.search(r"no-claude.*npm install", " ".join(demo.lines))
    assert left_behind(folder) == []


def test_with_a_claude_that_is_too_old_the_demo_says_so_and_where_the_logs_are(
    folder: Path, tmp_path: Path
) -> None:
    old = tmp_path / "claude"
    old.write_text("#!/bin/sh\necho '2.0.1 (Claude Code)'\n")
    old.chmod(0o755)
    demo = Demo(folder, str(old))
    assert demo.end() == 1
    assert any("is version 2.0.1; claudedo needs" in line for line in demo.lines)
    logs = demo.await_line(lambda line: "its logs are in" in line).split()[-1]
    assert left_behind(folder) == [logs]
