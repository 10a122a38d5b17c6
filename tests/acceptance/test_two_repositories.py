"""Two repositories with task files: started together, talking to each other, merged, removed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from claudedo.demo.repository import make_repository
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

API = """
[tasks.api]
prompt = "API-BEGIN"
permission_mode = "acceptEdits"
copy = [".env"]
links = ["node_modules"]
setup = "echo setting up $CLAUDEDO_TASK_NAME; cp .env seen-by-setup"
teardown = "echo $CLAUDEDO_TASK_NAME:$PORT >> $DOWN"
env = { PORT = "$CLAUDEDO_PORT", DOWN = "%(down)s" }
args = [
    "--append-system-prompt", "FROM-THE-API-FILE", "--settings", "more.json",
    "--disallowedTools", "Edit", "Write",
]
"""
WEB = """
[tasks.web]
prompt = "WEB-BEGIN"
permission_mode = "acceptEdits"
dir = "app"
setup = "test -e ../allowed || { echo nobody allowed it; exit 9; }"
teardown = "echo $CLAUDEDO_TASK_NAME:$PORT >> $DOWN"
env = { PORT = "$CLAUDEDO_PORT", DOWN = "%(down)s" }
"""
LOOK = "echo PORT=$PORT PEERS=$CLAUDEDO_PEERS IN=$(pwd); "
COMMIT = "echo work > work; git add work; git commit -q -m Work"


def test_two_repositories_are_set_up_linked_merged_and_removed(world: World) -> None:
    api, web, down = world.repository, world.root / "web", world.root / "down"
    _prepare(world, api, make_repository(web), down)
    read = "cat .env seen-by-setup node_modules/index; "
    tell = ToolUse("mcp__claudedo__send_to_peer", {"body": "MAIL-FROM-API"})
    bash = [ToolUse("Bash", {"command": LOOK + more + COMMIT}) for more in (read, "")]
    world.model.script("API-BEGIN", Sequence([bash[0], tell, Text("done")]))
    world.model.script("WEB-BEGIN", Sequence([bash[1], Text("done")]))

    # Nothing runs before both are trusted; only the one that is not is named.
    names = ("api", "web@../web")
    refused = world.run("start", *names, check=False)
    assert refused.returncode == 5
    assert f"to trust {web}. Sessions" in refused.stderr
    assert world.json("ls") == []

    # One setup fails: its words are the reason, the other session works.
    failed = world.run("start", *names, "--trust", "--", "--allowedTools", "Bash", check=False)
    assert failed.returncode == 1
    assert "web failed: its setup failed (exit status 9): nobody allowed it" in failed.stderr
    (world.root / "web.worktrees/allowed").touch()
    world.run("restart", "web")

    ports = {task["name"]: _port(world, task["name"]) for task in world.json("ls")}
    assert len({*ports.values()}) == 2
    _check_api(world, ports["api"])
    _check_web(world, ports["web"])

    # Mail between them, and from here to there, by names of both kinds.
    mail = world.json("thread", "web")[-1]
    assert mail["body"] == "MAIL-FROM-API" and mail["sender_name"] == "api"
    world.await_rung("web", mail["id"], "read")
    sent = world.send("web/web", "MAIL-FROM-ME")
    world.await_rung("web", sent, "read")
    world.run("unlink", "repository/api", "web")
    assert [task["peers"] for task in world.json("ls")] == [[], []]

    for name, repository in (("api", api), ("web", web)):
        world.await_state(name, "idle")
        merged = world.run("merge", name, "--rm")
        assert "Removed" in merged.stdout
        assert _git(repository, "log", "-1", "--format=%s") == "Work\n"
        assert _git(repository, "status", "--porcelain") == ""
        assert _git(repository, "branch", "--format=%(refname:short)") == "main\n"
    assert down.read_text() == f"api:{ports['api']}\nweb:{ports['web']}\n"
    assert world.json("ls") == []
    assert (api / "node_modules/index").read_text() == "a module\n"
    assert list((world.state / "setup-logs").iterdir()) == []


def _prepare(world: World, api: Path, web: Path, down: Path) -> None:
    hook = {"type": "command", "command": f"cat > {world.root}/hook-of-the-file"}
    settings = {"hooks": {"PostToolUse": [{"hooks": [hook]}]}}
    (api / "more.json").write_text(json.dumps(settings))
    (api / "claudedo.toml").write_text(API % {"down": down})
    (web / "claudedo.toml").write_text(WEB % {"down": down})
    (web / "app").mkdir()
    (web / "app/index").touch()
    for repository in (api, web):
        (repository / ".gitignore").write_text(".env\nnode_modules/\nseen-by-setup\n")
        _git(repository, "add", ".")
        _git(repository, "commit", "-q", "-m", "Prepare")
    (api / ".env").write_text("SECRET-OF-API\n")
    (api / "node_modules").mkdir()
    (api / "node_modules/index").write_text("a module\n")


def _port(world: World, name: str) -> int:
    return int(json.loads(world.run("show", name, "--json").stdout)["port"])


def _check_api(world: World, port: int) -> None:
    worktree = world.worktree("api")
    shown = f"PORT={port} PEERS=web IN={worktree}"
    seen = world.model.wait_for(lambda r: r.is_main and shown in r.latest)
    assert "SECRET-OF-API\\nSECRET-OF-API\\na module" in json.dumps(seen.body)
    assert "FROM-THE-API-FILE" in json.dumps(seen.body["system"])
    assert not {"Edit", "Write"} & set(seen.tool_names)
    world.wait_for(lambda: (world.root / "hook-of-the-file").exists(), "the hook did not run")
    assert "setting up api" in Path(world.json("show", "api")["setup_log"]).read_text()


def _check_web(world: World, port: int) -> None:
    shown = f"PORT={port} PEERS=api IN={world.root}/web.worktrees/web/app"
    seen = world.model.wait_for(lambda r: r.is_main and shown in r.latest)
    assert {"Edit", "Write"} <= set(seen.tool_names)


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout
