"""What a session costs beside `claude` itself, and what of it is written to the disk."""

from __future__ import annotations

import stat
from pathlib import Path

import psutil
import pytest

from claudedo.demo.home import API_KEY
from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

MIB = 2**20
LIMITS = {"holder.py": 12 * MIB, "bridge.py": 15 * MIB, "shim.py": 15 * MIB}
FILES = {"session.json", "settings.json", "mcp.json", "instructions.md"}
SECRET = "correct-horse-battery-staple"


def test_helpers_are_small_and_no_secret_of_the_environment_is_on_the_disk(world: World) -> None:
    world.environment |= {"DATABASE_PASSWORD": SECRET}
    world.model.script(
        "BEGIN", Sequence([ToolUse("Bash", {"command": "seq 2000"}), Text("x" * 20_000)])
    )
    world.start("backend=BEGIN", "frontend")
    world.await_rung("backend", world.json("thread", "backend")[0]["id"], "read")
    world.await_state("backend", "idle")
    # A turn is over: the waiter that sits beside the idle session is there.
    helpers = world.wait_for(lambda: _helpers(world), "holder, bridge and waiter are not all there")

    for name, processes in helpers.items():
        for process in processes:
            size = process.memory_info().rss
            assert size < LIMITS[name], f"{name} takes {size / MIB:.1f} MiB"
    assert all(SECRET not in " ".join(p.cmdline()) for p in world.processes())
    world.run("restart", "backend")

    files = [path for path in world.state.rglob("*") if path.is_file()]
    assert {path.name for path in world.state.glob("sessions/*/*")} >= FILES
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert API_KEY.encode() not in content, path
    for path in [world.state, *world.state.rglob("*")]:
        mode = path.stat().st_mode
        if path.parent.name != "programs" and "programs" in path.parts:
            continue  # code, the same for everybody, in a folder that is closed
        assert not mode & 0o077, f"{path} has mode {stat.filemode(mode)}"


def _helpers(world: World) -> dict[str, list[psutil.Process]] | None:
    """Our processes of the two sessions by program; None until each has all three."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in LIMITS}
    for process in world.processes():
        try:
            script = Path(next((a for a in process.cmdline() if a.endswith(".py")), "")).name
        except psutil.Error:
            continue
        if script in found:
            found[script].append(process)
    return found if all(len(processes) >= 2 for processes in found.values()) else None
