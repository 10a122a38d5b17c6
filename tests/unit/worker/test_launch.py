"""What a session is started with: arguments, environment, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import UsageError
from claudedo.model import Launch, Recipe, Task, Workspace
from claudedo.settings import Settings
from claudedo_worker import launch, mcp_server
from claudedo_worker.dialogs import Kind
from tests.support.records import a_session, a_task

ENVIRON = {"HOME": "/nowhere", "PATH": "/bin", "ANTHROPIC_API_KEY": "sk-secret"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "state", run=tmp_path / "run", claude="claude")


def task(tmp_path: Path, **given: Any) -> Task:
    workspace = Workspace(id="w_1", name="shop", root=str(tmp_path), created_at="")
    return a_task(workspace, repo=str(tmp_path), worktree=str(tmp_path), launch=Launch(**given))


def test_our_own_tools_ask_for_no_permission_and_no_other_does() -> None:
    assert set(launch.ALLOWED) == {tool.name for tool in mcp_server.TOOLS}


def test_a_session_is_told_how_to_ask_a_person_in_few_words(
    settings: Settings, tmp_path: Path
) -> None:
    plan(settings, task(tmp_path))
    text = (settings.session_dir("s_1") / "instructions.md").read_text()

    assert 'mcp__claudedo__createTask` with `assignee: "human"' in text
    assert "mcp__claudedo__reply" in text
    assert len(text) < 2_000


def plan(settings: Settings, task: Task, **changes: Any) -> launch.Plan:
    given: dict[str, Any] = {
        "begin": ("--session-id", "c"),
        "environ": ENVIRON,
        "peers": (),
        "claude": "/bin/claude",
    }
    return launch.prepare(settings, task, "s_1", **{**given, **changes})


@pytest.mark.parametrize(
    "arguments", [("--name", "mine"), ("--name=mine",), ("-n", "mine")], ids=lambda a: " ".join(a)
)
def test_a_name_that_the_person_gives_is_the_only_one(
    settings: Settings, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    argv = plan(settings, task(tmp_path, claude_args=arguments)).argv
    assert [item for item in argv if item.partition("=")[0] in ("-n", "--name")] == [arguments[0]]


def test_a_conversation_is_begun_gone_on_with_or_forked(settings: Settings, tmp_path: Path) -> None:
    new = a_session(task(tmp_path), conversation="c", fork_of=None)
    fork = replace(new, fork_of="/c/projects/p/o.jsonl")
    going_on = replace(fork, transcript="/c/projects/p/c.jsonl")
    assert launch.beginning(new) == ("--session-id", "c")
    origin = ("--resume", "/c/projects/p/o.jsonl")
    assert launch.beginning(fork) == (*origin, "--fork-session", "--session-id", "c")
    assert launch.beginning(going_on) == ("--resume", "/c/projects/p/c.jsonl")
    argv = plan(settings, task(tmp_path), begin=launch.beginning(fork)).argv
    assert argv[:6] == ("/bin/claude", *launch.beginning(fork))


def test_without_a_name_the_session_is_named_after_its_task(
    settings: Settings, tmp_path: Path
) -> None:
    argv = plan(settings, task(tmp_path)).argv
    assert argv[argv.index("--name") + 1] == "backend"


@pytest.mark.parametrize("arguments", [["--resume=x"], ["-rx"], ["--verbose", "--", "text"]])
def test_arguments_that_would_get_in_our_way_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--resume|-r|`--`"):
        launch.split_arguments(arguments, Path())


def test_a_session_works_in_the_folder_of_its_worktree_that_the_task_file_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "wt/api").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "wt/out").symlink_to("../other")
    given = replace(task(tmp_path), worktree=str(tmp_path / "wt"))
    assert launch.workplace(given) == tmp_path / "wt"
    assert launch.workplace(replace(given, recipe=Recipe(dir="api"))) == tmp_path / "wt/api"
    for place, sentence in {"out": "leads out of", "none": "There is no folder 'none'"}.items():
        with pytest.raises(UsageError, match=sentence):
            launch.workplace(replace(given, recipe=Recipe(dir=place)))


def test_relative_paths_in_the_environment_are_seen_from_the_shell_that_asked() -> None:
    environ = {"CLAUDEDO_CLAUDE": "bin/claude", "CLAUDE_CONFIG_DIR": "config", "A": "b"}
    assert launch.anchored_environment(environ, Path("/shell")) == {
        "CLAUDEDO_CLAUDE": "/shell/bin/claude",
        "CLAUDE_CONFIG_DIR": "/shell/config",
        "A": "b",
    }
    whole = {"CLAUDEDO_CLAUDE": "claude-beta", "CLAUDE_CONFIG_DIR": "/config"}
    assert launch.anchored_environment(whole, None) == whole


@pytest.mark.parametrize("name", ["CLAUDEDO_CLAUDE", "CLAUDE_CONFIG_DIR"])
def test_a_relative_path_in_the_environment_is_refused_where_nobody_knows_the_folder(
    name: str,
) -> None:
    with pytest.raises(UsageError, match=f"{name} .*absolute"):
        launch.anchored_environment({name: "./there"}, None)


def test_telemetry_is_left_alone_where_a_layer_of_the_session_speaks_of_it(
    settings: Settings, tmp_path: Path
) -> None:
    own = json.dumps({"env": {"OTEL_LOGS_EXPORTER": "otlp"}})
    given = task(tmp_path)
    assert plan(settings, given).telemetry
    assert not plan(settings, given, environ={**ENVIRON, "DO_NOT_TRACK": "1"}).telemetry
    assert not plan(settings, task(tmp_path, claude_args=("--settings", own))).telemetry
    recipe = Recipe(env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
    assert not plan(settings, replace(given, recipe=recipe)).telemetry
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude/settings.local.json").write_text(own)
    assert not plan(settings, given).telemetry
    (tmp_path / "worktree").mkdir()
    assert not plan(settings, replace(given, worktree=str(tmp_path / "worktree"))).telemetry


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (None, "default"),
        ("{", "default"),
        ("[]", "default"),
        ('{"permissions": {"defaultMode": "acceptEdits"}}', "acceptEdits"),
        ('{"permissions": {"defaultMode": "bypassPermissions"}}', "default"),
        ('{"permissions": {"defaultMode": "auto"}}', "default"),
    ],
)
def test_the_permission_mode_by_omission_is_the_persons_own_but_never_bypass_or_auto(
    tmp_path: Path, content: str | None, mode: str
) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    assert launch.default_permission_mode({"CLAUDE_CONFIG_DIR": str(tmp_path)}) == mode


def test_a_permission_mode_that_is_asked_for_is_passed_on(
    settings: Settings, tmp_path: Path
) -> None:
    argv = plan(settings, task(tmp_path, permission_mode="bypassPermissions")).argv
    assert argv[argv.index("--permission-mode") + 1] == "bypassPermissions"


def test_bypass_is_asked_for_by_mode_or_by_flag_and_by_nothing_else(tmp_path: Path) -> None:
    assert launch.asks_for_bypass(task(tmp_path, permission_mode="bypassPermissions"))
    flag = ("--dangerously-skip-permissions",)
    assert launch.asks_for_bypass(task(tmp_path, claude_args=flag))
    assert not launch.asks_for_bypass(task(tmp_path, permission_mode="acceptEdits"))


def test_what_another_session_left_in_the_environment_does_not_reach_this_one(
    tmp_path: Path,
) -> None:
    outer = {
        **ENVIRON,
        "CLAUDECODE": "1",
        "CLAUDE_CODE_CHILD_SESSION": "1",
        "CLAUDE_CODE_SESSION_ID": "outer",
        "CLAUDEDO_TOKEN": "secret",
        "CLAUDEDO_TASK": "t_outer",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "TERM": "dumb",
    }
    env = launch.environment(outer, task(tmp_path), "s_1", ("frontend",))
    assert not {"CLAUDECODE", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_SESSION_ID"} & env.keys()
    assert "CLAUDEDO_TOKEN" not in env
    assert env["CLAUDEDO_TASK"] != "t_outer"
    assert env["CLAUDEDO_PEERS"] == "frontend"
    assert env["CLAUDE_CODE_USE_BEDROCK"] == "1"  # the provider is the shell's choice
    assert env["ANTHROPIC_API_KEY"] == "sk-secret"
    assert env["TERM"] == "xterm-256color"


def test_what_a_task_file_sets_reaches_everything_that_runs_for_the_task(tmp_path: Path) -> None:
    env = {"PORT": "$CLAUDEDO_PORT", "URL": "http://${CLAUDEDO_TASK_NAME}:$PATH/$CLAUDEDO_NONE"}
    one = replace(task(tmp_path), recipe=Recipe(env=env), port=20_010)
    assert launch.environment({"PORT": "80"}, one, "s_1", ())["PORT"] == "20010"
    found = launch.variables(one, ("frontend", "tests"))
    assert found["URL"] == "http://backend:$PATH/$CLAUDEDO_NONE"
    assert found["CLAUDEDO_PORT"] == "20010"
    assert found["CLAUDEDO_PEERS"] == "frontend,tests"
    assert launch.variables(task(tmp_path), ())["CLAUDEDO_PORT"] == ""


def test_the_environment_is_in_no_file_no_argument_and_no_text_of_the_plan(
    settings: Settings, tmp_path: Path
) -> None:
    made = plan(settings, task(tmp_path))
    assert made.env["ANTHROPIC_API_KEY"] == "sk-secret"
    assert "sk-secret" not in repr(made) + " ".join(made.argv)
    folder = settings.session_dir("s_1")
    for path in folder.iterdir():
        assert "sk-secret" not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_next_worker_knows_which_dialogs_may_be_answered(
    settings: Settings, tmp_path: Path
) -> None:
    plan(settings, task(tmp_path), grants=frozenset({Kind.TRUST, Kind.BYPASS}))
    assert launch.grants(settings, "s_1") == {Kind.TRUST, Kind.BYPASS}
    assert launch.grants(settings, "s_never_written") == frozenset()


def test_the_persons_settings_servers_and_instructions_are_merged_with_ours(
    settings: Settings, tmp_path: Path
) -> None:
    hook = {"hooks": [{"type": "command", "command": "mine"}]}
    (tmp_path / "mine.json").write_text(json.dumps({"hooks": {"Stop": [hook]}}))
    arguments = (
        *("--settings", "mine.json", "--mcp-config", '{"mcpServers": {"mine": {}}}'),
        *("--append-system-prompt", "Be brief.", "--verbose"),
    )
    argv = plan(settings, task(tmp_path, claude_args=arguments)).argv
    folder = settings.session_dir("s_1")
    stop = json.loads((folder / "settings.json").read_text())["hooks"]["Stop"]
    assert stop[0] == hook and len(stop) == 2
    servers = json.loads((folder / "mcp.json").read_text())["mcpServers"]
    assert servers.keys() == {"mine", "claudedo"}
    assert (folder / "instructions.md").read_text().endswith("Be brief.")
    assert "--verbose" in argv and "mine.json" not in argv


@pytest.mark.parametrize("content", [b"", None])
def test_a_program_that_a_power_cut_left_empty_or_out_is_written_again(
    tmp_path: Path, content: bytes | None
) -> None:
    holder = launch.install_programs(tmp_path) / "holder.py"
    whole = holder.read_bytes()
    if content is None:
        holder.unlink()
    else:
        holder.write_bytes(content)
    assert launch.install_programs(tmp_path) == holder.parent
    assert holder.read_bytes() == whole


def test_the_programs_are_copied_once_under_the_hash_of_their_content(tmp_path: Path) -> None:
    first = launch.install_programs(tmp_path)
    assert launch.install_programs(tmp_path) == first
    assert {path.name for path in first.iterdir()} == {"holder.py", "bridge.py", "shim.py"}
    assert [path.name for path in (tmp_path / "programs").iterdir()] == [first.name]
