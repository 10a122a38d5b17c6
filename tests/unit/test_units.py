"""The service files that docs/long-days.md gives to copy."""

from __future__ import annotations

import configparser
import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "long-days.md").read_text()


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_stopping_the_systemd_unit_ends_the_worker_only() -> None:
    unit = configparser.RawConfigParser()
    unit.read_string(block("ini"))
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["ExecStart"].endswith("/claudedo worker run")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    unit = tmp_path / "claudedo-worker.service"
    unit.write_text(block("ini").replace("%h/.local/bin/claudedo", "/bin/true"))
    command = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    environ = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    about_it = [line for line in done.stderr.splitlines() if "claudedo-worker" in line]
    assert (done.returncode, about_it) == (0, [])


def test_stopping_the_launch_agent_ends_the_worker_only() -> None:
    agent = plistlib.loads(block("xml").encode())
    assert agent["AbandonProcessGroup"] is True
    assert agent["ProgramArguments"][1:] == ["worker", "run"]
