"""What the person had before keeps working, and nothing of theirs is changed.

One world holds everything that a person may have set up for `claude`; a session that claudedo
starts has to find all of it, and has to leave their files as a bare `claude` leaves them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import PATIENCE, World

pytestmark = pytest.mark.acceptance

EVENTS = ("PostToolUse", "Stop", "PermissionRequest", "SessionStart", "UserPromptSubmit")
ALLOW = {
    "hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": {"behavior": "allow"}}
}

MCP_SERVER = """\
import json, sys
name = sys.argv[1]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method = message["method"]
    if method == "initialize":
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": name, "version": "1"},
        }
    elif method == "tools/list":
        schema = {"type": "object", "properties": {}}
        tool = {"name": "greet", "description": "Greets.", "inputSchema": schema}
        result = {"tools": [tool]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "greetings from " + name}]}
    else:
        error = {"code": -32601, "message": "no such method"}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""

SUBAGENT = "---\nname: {name}\ndescription: {name} knows the moon.\n---\nYou know the moon.\n"
SKILL = "---\nname: {name}\ndescription: {name} bakes bread.\n---\nBake bread.\n"


class Belongings:
    """All that the person of this world has set up for `claude`, and traces of its use."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.traces = world.root / "traces"  # what their hooks and their status line write
        self.traces.mkdir()
        self.server = world.root / "server.py"
        self.server.write_text(MCP_SERVER)
        self._set_up_home(world.home)
        self._set_up_repository(world.repository)

    def entry(self, name: str) -> dict[str, Any]:
        """An MCP server called `name`."""
        arguments = ["-I", "-S", str(self.server), name]
        return {"type": "stdio", "command": sys.executable, "args": arguments, "alwaysLoad": True}

    def trace(self, name: str) -> str:
        """What the hook or status line of that name was told so far."""
        path = self.traces / name
        return path.read_text() if path.exists() else ""

    def _set_up_home(self, home: Path) -> None:
        ours = home / ".claude"
        hooks = {event: [{"hooks": [self._hook(event)]}] for event in EVENTS}
        status_line = {"type": "command", "command": f"cat >> {self.traces}/status; echo MY-STATUS"}
        _json(
            ours / "settings.json",
            {
                "hooks": hooks,
                "statusLine": status_line,
                "permissions": {"allow": ["Bash(touch by-home-rule)", "mcp__homeserver"]},
            },
        )
        _text(ours / "agents/home-agent.md", SUBAGENT.format(name="home-agent"))
        _text(ours / "skills/home-skill/SKILL.md", SKILL.format(name="home-skill"))
        _text(ours / "CLAUDE.md", "REMEMBER-HOME\n")
        _text(home / ".config/git/ignore", "*.mine\n")
        path = home / ".claude.json"
        _json(
            path,
            json.loads(path.read_text()) | {"mcpServers": {"homeserver": self.entry("homeserver")}},
        )

    def _set_up_repository(self, repository: Path) -> None:
        _json(
            repository / ".mcp.json", {"mcpServers": {"projectserver": self.entry("projectserver")}}
        )
        _text(repository / ".claude/agents/project-agent.md", SUBAGENT.format(name="project-agent"))
        _text(
            repository / ".claude/skills/project-skill/SKILL.md", SKILL.format(name="project-skill")
        )
        _json(
            repository / ".claude/settings.json",
            {"permissions": {"allow": ["Bash(touch by-project-rule)", "mcp__projectserver"]}},
        )
        _text(repository / "CLAUDE.md", "REMEMBER-PROJECT\n")
        _text(repository / ".gitignore", ".claude/settings.local.json\n")
        _git(repository, "add", ".")
        _git(repository, "commit", "-q", "-m", "Set up claude")
        # What `claude` writes when the person says "don't ask again" in their main checkout.
        _json(
            repository / ".claude/settings.local.json",
            {
                "permissions": {"allow": ["Bash(touch by-local-rule)"]},
                "enabledMcpjsonServers": ["projectserver"],
            },
        )

    def _hook(self, event: str) -> dict[str, Any]:
        answer = f"echo '{json.dumps(ALLOW)}'" if event == "PermissionRequest" else "true"
        return {"type": "command", "command": f"cat >> {self.traces}/{event}; {answer}"}


def test_everything_the_person_set_up_works_in_a_session(world: World) -> None:
    mine = Belongings(world)
    bash = [
        ToolUse("Bash", {"command": f"touch by-{whose}", "description": "Make a file"})
        for whose in ("home-rule", "project-rule", "local-rule", "flag-rule", "my-hook")
    ]
    servers = ("homeserver", "projectserver", "flagserver")
    calls = [ToolUse(f"mcp__{server}__greet", {}) for server in servers]
    world.model.script("BEGIN", Sequence([*bash, *calls, Text("all done")]))
    _start_with_flags(world, mine)
    worktree = Path(world.run("path", "backend").stdout.strip())
    world.await_rung("backend", world.json("thread", "backend")[0]["id"], "read")
    last = world.model.wait_for(lambda r: "greetings from flagserver" in r.latest, PATIENCE)
    world.await_state("backend", "idle")

    # Rules: each let its command pass; only the one that no rule names was asked about.
    made = {path.name for path in worktree.glob("by-*")}
    assert made == {
        f"by-{w}" for w in ("home-rule", "project-rule", "local-rule", "flag-rule", "my-hook")
    }
    asked = mine.trace("PermissionRequest")
    assert re.findall(r"touch by-[a-z-]+", asked)[0] == "touch by-my-hook"
    assert not re.search(r"by-(home|project|local|flag)-rule", asked)

    # Servers, agents, skills, instructions: the model was told of them, and they answer.
    assert {f"mcp__{server}__greet" for server in servers} <= set(last.tool_names)
    assert all(f"greetings from {server}" in last.text for server in servers)
    told = json.dumps(last.body)
    for name in ("home-agent", "project-agent", "home-skill", "project-skill"):
        assert f"{name}: " in told or f"{name}** " in told, name
    for text in ("REMEMBER-HOME", "REMEMBER-PROJECT"):
        assert text in told
    for text in ("FLAG-TEXT", "FLAG-FILE", 'the task \\"backend\\"'):
        assert text in json.dumps(last.body["system"]), text

    # Hooks and status line.
    for event in (*EVENTS, "flag-hook"):
        assert last.session_id in mine.trace(event), event
    world.wait_for(lambda: mine.trace("status"), "the status line did not run")


def _start_with_flags(world: World, mine: Belongings) -> None:
    """From another folder, so that relative paths show where they are looked up."""
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    _text(elsewhere / "more.md", "FLAG-FILE\n")
    _json(elsewhere / "servers.json", {"mcpServers": {"flagserver": mine.entry("flagserver")}})
    hook = {"type": "command", "command": f"cat >> {mine.traces}/flag-hook"}
    settings = {
        "permissions": {"allow": ["Bash(touch by-flag-rule)", "mcp__flagserver"]},
        "hooks": {"PostToolUse": [{"hooks": [hook]}]},
    }
    world.run(
        *("start", f"backend@{world.repository}=BEGIN", "--permission-mode", "default", "--"),
        *("--settings", json.dumps(settings), "--mcp-config", "servers.json"),
        *("--append-system-prompt", "FLAG-TEXT", "--append-system-prompt-file", "more.md"),
        cwd=elsewhere,
    )


def _json(path: Path, content: Any) -> None:
    _text(path, json.dumps(content))


def _text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout
