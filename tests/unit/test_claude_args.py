"""The arguments of `claude`: how they are taken apart, which are refused, what a file may give."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from claudedo import claude_args
from claudedo.errors import UsageError


def walked(*arguments: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(option.name, option.values) for option in claude_args.walk(arguments)]


WALKS = {
    "a flag without a value": (["--verbose", "x"], [("--verbose", ()), ("", ("x",))]),
    "a value apart": (["--model", "opus"], [("--model", ("opus",))]),
    "a value glued": (["--model=a=b"], [("--model", ("a=b",))]),
    "a value like an option": (["--model", "-p"], [("--model", ("-p",))]),
    "several values": (["--add-dir", "/a", "/b", "-n", "x"],
                       [("--add-dir", ("/a", "/b")), ("-n", ("x",))]),
    "a glued value ends a list": (["--tools=Bash", "x"], [("--tools", ("Bash",)), ("", ("x",))]),
    "a value left out": (["--debug", "--verbose"], [("--debug", ()), ("--verbose", ())]),
    "only one such value": (["--debug", "a", "b"], [("--debug", ("a",)), ("", ("b",))]),
    "a short with its value glued": (["-nname", "-rID"], [("-n", ("name",)), ("-r", ("ID",))]),
    "shorts glued together": (["-cp"], [("-c", ()), ("-p", ())]),
    "a lone dash": (["-"], [("", ("-",))]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "options"), WALKS.values(), ids=WALKS)
def test_arguments_are_taken_apart_as_the_cli_does(
    arguments: list[str], options: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert walked(*arguments) == options
    words = [word for option in claude_args.walk(arguments) for word in option.words]
    assert words == (["-c", "-p"] if arguments == ["-cp"] else arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume"], ["--resume=x"], ["-r"], ["-rID"], ["--continue"], ["-c"], ["-cp"], ["-p"],
        ["--print"], ["--session-id", "x"], ["--session-id=x"], ["--worktree"], ["-w"], ["-wx"],
        ["--tmux"], ["--tmux=classic"], ["--bg"], ["--background"], ["--fork-session"],
        ["--from-pr", "7"], ["--teleport"], ["--cloud"], ["--help"], ["-v"], ["-hp"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_takes_the_conversation_out_of_our_hands_is_refused_by_name(
    arguments: list[str],
) -> None:
    name = arguments[0].partition("=")[0]
    name = name if name.startswith("--") else name[:2]
    with pytest.raises(UsageError, match=f"^{name} cannot be given to claude: "):
        claude_args.check(["--verbose", *arguments])
    with pytest.raises(UsageError, match=name):
        claude_args.check_from_file(arguments)


def test_a_value_is_never_taken_for_a_refused_option() -> None:
    claude_args.check(["--append-system-prompt", "-p", "--model", "--resume", "-n", "-w"])


@pytest.mark.parametrize("arguments", [["--"], ["--verbose", "--", "text"]], ids=" ".join)
def test_a_bare_double_dash_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="`--`"):
        claude_args.check(arguments)


def test_an_option_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="--model needs a value"):
        claude_args.check(["--model"])


@pytest.mark.parametrize(
    "argument",
    [
        "--dangerously-skip-permissions", "--allow-dangerously-skip-permissions",
        "--enable-auto-mode", "--permission-mode=plan", "--permission-prompt-tool=x",
        "--allowedTools=Bash", "--allowed-tools=Bash", "--add-dir=/", "--agents={}",
        "--setting-sources=user", "--bare", "--safe-mode", "--plugin-url=http://x", "--chrome",
        "--plugin-dir=x", "--dangerously-load-development-channels=server:x", "--debug-file=/x",
        "--remote-control", "--an-option-of-next-year", "-d",
    ],
)  # fmt: skip
def test_a_file_gives_claude_nothing_that_widens_what_a_session_may_do(argument: str) -> None:
    claude_args.check([argument])  # the person may
    with pytest.raises(UsageError, match=argument.partition("=")[0]):
        claude_args.check_from_file(["--verbose", argument])


def test_a_file_gives_claude_no_prompt_of_its_own() -> None:
    with pytest.raises(UsageError, match="'do it' is no option"):
        claude_args.check_from_file(["--verbose", "do it"])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"permissions": {"defaultMode": "bypassPermissions"}}, "permissions.defaultMode"),
        ({"permissions": {"allow": ["Bash"]}}, "permissions.allow"),
        ({"permissions": {"additionalDirectories": ["/"]}}, "permissions.additionalDirectories"),
        ({"skipDangerousModePermissionPrompt": True}, "skipDangerousModePermissionPrompt"),
        ({"env": {"ANTHROPIC_BASE_URL": "http://x"}}, "env"),
        ({"apiKeyHelper": "x"}, "apiKeyHelper"),
        ({"disableAllHooks": True}, "disableAllHooks"),
        ({"permissions": []}, "permissions"),
    ],
)
def test_settings_of_a_file_widen_nothing_either(
    tmp_path: Path, settings: dict[str, object], key: str
) -> None:
    with pytest.raises(UsageError, match=f"--settings: [`']{key}[`'] "):
        claude_args.settled(["--settings", json.dumps(settings)], tmp_path, tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=f"--settings: [`']{key}[`'] "):
        claude_args.settled(["--settings=s.json"], tmp_path, tmp_path)


def test_what_a_file_names_is_taken_in_at_once_so_that_nobody_changes_it_later(
    tmp_path: Path,
) -> None:
    (tmp_path / "sub").mkdir()
    rules = {"permissions": {"deny": ["Read(.env)"]}, "hooks": {}}
    (tmp_path / "sub/s.json").write_text(json.dumps(rules))
    (tmp_path / "sub/m.json").write_text('{"mcpServers": {"db": {}}}')
    (tmp_path / "sub/p.md").write_text("Be brief.")
    given = ["--settings", "s.json", "--mcp-config", "m.json", '{"mcpServers": {}}', "--verbose"]
    given += ["--append-system-prompt-file", "p.md"]
    assert claude_args.settled(given, tmp_path / "sub", tmp_path) == (
        *("--settings", json.dumps(rules)),
        *("--mcp-config", '{"mcpServers": {"db": {}}}', "--mcp-config", '{"mcpServers": {}}'),
        *("--verbose", "--append-system-prompt", "Be brief."),
    )


@pytest.mark.parametrize("flag", ["--settings", "--mcp-config", "--append-system-prompt-file"])
@pytest.mark.parametrize("way", ["../secret", "/etc/passwd", "link", "loop", "a\0b", "missing"])
def test_a_file_names_no_file_outside_its_repository(tmp_path: Path, flag: str, way: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("{}")
    (root / "link").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"leads|cannot be read"):
        claude_args.settled([flag, way], root, root)


@pytest.mark.parametrize("flag", ["--settings", "--mcp-config", "--append-system-prompt-file"])
def test_what_is_no_file_is_never_waited_for(tmp_path: Path, flag: str) -> None:
    """It would be the worker that waits, with everything that it does."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(b"{" * (claude_args.MAX_BYTES + 1))
    for name, sentence in (("pipe", "is no file"), (".", "no file|cannot"), ("huge", "larger")):
        with pytest.raises(UsageError, match=sentence):
            claude_args.settled([flag, name], tmp_path, tmp_path)
        with pytest.raises(UsageError, match=sentence):
            claude_args.read_text(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[]", '{"a":' * 100_000], ids=["half", "list", "deep"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError, match=r"--settings: .*JSON"):
        claude_args.settled(["--settings", "s.json"], tmp_path, tmp_path)


def test_the_home_of_nobody_leads_nowhere() -> None:
    with pytest.raises(UsageError, match=r"'~nobody.here/x' leads nowhere"):
        claude_args.anchored(["--settings", "~nobody.here/x"], Path("/shell"))
    with pytest.raises(UsageError, match=r"'~nobody.here/x' leads nowhere"):
        claude_args.content("~nobody.here/x", Path("/shell"), "--settings")


def test_every_other_path_is_seen_from_there_too_and_keeps_its_form() -> None:
    given = ["--add-dir", "../lib", "/x", "--add-dir=y", "go", "--plugin-dir", "p"]
    given += ["--system-prompt-file=s.md", "--debug-file", "log", "--model", "opus"]
    assert claude_args.anchored(given, Path("/shell")) == (
        *("--add-dir", "/shell/../lib", "/x", "--add-dir=/shell/y", "go"),
        *("--plugin-dir", "/shell/p", "--system-prompt-file=/shell/s.md"),
        *("--debug-file", "/shell/log", "--model", "opus"),
    )


def test_nobody_switches_off_the_hooks_by_which_messages_arrive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="disableAllHooks"):
        claude_args.content('{"disableAllHooks": true}', tmp_path, "--settings")

    assert claude_args.content('{"disableAllHooks": false}', tmp_path, "--settings")


def test_nobody_puts_a_server_in_the_place_of_ours(tmp_path: Path) -> None:
    """Joined with ours it would be neither: its arguments stand before those of the bridge."""
    given = '{"mcpServers": {"claudedo": {"args": ["-c", "pass"]}}}'
    with pytest.raises(UsageError, match="--mcp-config: the server 'claudedo'"):
        claude_args.content(given, tmp_path, "--mcp-config")
    with pytest.raises(UsageError, match="--mcp-config: the server 'claudedo'"):
        claude_args.settled(["--mcp-config", given], tmp_path, tmp_path)


def test_files_of_merged_flags_are_seen_from_the_folder_of_who_asked(tmp_path: Path) -> None:
    given = ["--mcp-config", "a.json", "b.json", "--verbose", "--settings={}", "-n", "x"]
    assert claude_args.anchored(given, Path("/shell")) == (
        *("--mcp-config", "/shell/a.json", "--mcp-config", "/shell/b.json", "--verbose"),
        *("--settings", "{}", "-n", "x"),
    )
