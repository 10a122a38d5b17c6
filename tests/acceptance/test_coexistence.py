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
from claudedo.holding import HolderClient
from claudedo_worker.terminal import screen
from tests.support.holders import holders
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
        self.first_config = _config(world)

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
    for name in ("home-agent", "project-agent", "flag-agent", "home-skill", "project-skill"):
        assert f"{name}: " in told or f"{name}** " in told, name
    for text in ("REMEMBER-HOME", "REMEMBER-PROJECT", f"{world.root}/other"):
        assert text in told
    for text in ("FLAG-TEXT", "FLAG-FILE", 'the task \\"backend\\"'):
        assert text in json.dumps(last.body["system"]), text
    assert not {"Edit", "Write"} & set(last.tool_names)

    # Hooks and status line.
    for event in (*EVENTS, "flag-hook"):
        assert last.session_id in mine.trace(event), event
    world.wait_for(lambda: mine.trace("status"), "the status line did not run")


@pytest.mark.one_claude
def test_a_session_leaves_what_a_bare_claude_leaves_and_no_more(world: World) -> None:
    mine = Belongings(world)
    at_first = _files(world.home)
    _use_bare_claude(world, "hello")
    _forget_trust(world)
    before, config_before = _files(world.home), _config(world)

    refused = world.run("start", "backend=BEGIN", check=False)
    assert refused.returncode == 5
    assert _files(world.home) == before
    world.model.script("BEGIN", Sequence([ToolUse("Bash", {"command": "touch by-home-rule"})]))
    world.run("start", "backend=BEGIN", "--trust", "--permission-mode", "default")
    world.await_rung("backend", world.json("thread", "backend")[0]["id"], "read")
    world.await_state("backend", "idle")
    worktree = Path(world.run("path", "backend").stdout.strip())
    assert _git(worktree, "status", "--porcelain") == "?? by-home-rule\n"  # the model's own file
    assert _git(world.repository, "status", "--porcelain") == ""
    (worktree / "by-home-rule").unlink()
    world.run("rm", "backend")
    assert _git(world.repository, "status", "--porcelain", "--ignored") == (
        "!! .claude/settings.local.json\n"
    )
    assert _git(world.repository, "branch", "--format", "%(refname:short)") == "main\n"
    assert not worktree.parent.exists()

    after, config_after = _files(world.home), _config(world)
    assert {path: after.get(path) for path in at_first} == at_first  # their own files
    bare, ours = _changed(at_first, before), _changed(before, after)
    assert ours - bare <= {".cache/claude-cli-nodejs/PROJECT/mcp-logs-claudedo/TIME.jsonl"}
    _check_config(mine.first_config, config_before, config_after, str(world.repository))


def _use_bare_claude(world: World, prompt: str) -> None:
    """Start `claude` as the person does, say something, leave with /exit."""
    with holders() as made:
        argv = [str(world.claude), "--permission-mode", "default"]
        held = made.start(argv, cwd=str(world.repository), env=world.environment, rows=50, cols=120)
        entry = world.home / ".claude/sessions" / f"{held.pid}.json"

        def idle() -> bool:
            text = entry.read_text() if entry.exists() else ""
            return '"status":"idle"' in text.replace(" ", "")

        with held.attach(50, 120) as terminal:
            world.wait_for(idle, "bare claude does not come up")
            _type(world, terminal, prompt)
            world.model.wait_for(lambda r: r.is_main and prompt in r.latest, PATIENCE)
            world.wait_for(idle, "the turn does not end")
            _type(world, terminal, "/exit")
        assert held.exit_file()["code"] == 0


def _type(world: World, terminal: HolderClient, line: str) -> None:
    terminal.send_input(line.encode())
    # Enter in the same breath could be taken for a pasted newline (8.2).
    world.wait_for(lambda: line in _screen(terminal), f"{line} is not on the screen")
    terminal.send_input(b"\r")


def _screen(terminal: HolderClient) -> str:
    status = terminal.status()
    return screen(terminal.snapshot(), status.rows, status.cols).text


def _forget_trust(world: World) -> None:
    config = _config(world)
    config["projects"][str(world.repository)]["hasTrustDialogAccepted"] = False
    _json(world.home / ".claude.json", config)


def _config(world: World) -> dict[str, Any]:
    return dict(json.loads((world.home / ".claude.json").read_text()))


def _check_config(
    first: dict[str, Any], before: dict[str, Any], after: dict[str, Any], repository: str
) -> None:
    """`.claude.json` changed only as a bare `claude` changes it, but for the trust."""
    assert after["projects"].keys() == before["projects"].keys() == {repository}
    project_before, project = before.pop("projects")[repository], after.pop("projects")[repository]
    project_first = first.pop("projects")[repository]
    assert project.pop("hasTrustDialogAccepted") is True
    assert project_before.pop("hasTrustDialogAccepted") is False
    assert _keys(project_before, project) <= _keys(project_first, project_before)
    own = {"promptQueueUseCount", "tipsHistoryByCommand"}  # the CLI's counters; need a longer life
    assert _keys(before, after) <= _keys(first, before) | own


def _keys(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _files(home: Path) -> dict[str, bytes]:
    """Every file below `home` but the CLI's main configuration, which it rewrites all the time."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.is_relative_to(home / "tmp") and path.name != ".claude.json"
    }


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """The paths that came, changed or went, with ids, times and projects made alike."""
    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {
        re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", _without_times(path))
        for path in paths
    }


def _without_times(path: str) -> str:
    path = re.sub(r"(projects|claude-cli-nodejs)/[^/]+", r"\1/PROJECT", path)
    return re.sub(r"\d{13}|\d{4}-\d\d-\d\dT[\d-]+Z", "TIME", path)


def _start_with_flags(world: World, mine: Belongings) -> None:
    """From another folder, so that relative paths show where they are looked up."""
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    other = world.root / "other"
    other.mkdir()
    _text(elsewhere / "more.md", "FLAG-FILE\n")
    _json(elsewhere / "servers.json", {"mcpServers": {"flagserver": mine.entry("flagserver")}})
    hook = {"type": "command", "command": f"cat >> {mine.traces}/flag-hook"}
    settings = {
        "permissions": {"allow": ["Bash(touch by-flag-rule)", "mcp__flagserver"]},
        "hooks": {"PostToolUse": [{"hooks": [hook]}]},
    }
    world.run(
        *("start", f"backend@{world.repository}=BEGIN", "--trust"),
        *("--permission-mode", "default", "--"),
        *("--settings", json.dumps(settings), "--mcp-config", "servers.json"),
        *("--append-system-prompt", "FLAG-TEXT", "--append-system-prompt-file", "more.md"),
        *("--agents", json.dumps({"flag-agent": {"description": "knows", "prompt": "Know."}})),
        *("--add-dir", str(elsewhere), str(other), "--fallback-model=haiku"),
        *("--disallowedTools", "Edit", "Write"),  # several values, and ours come right after
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
