"""The CLI's own telemetry: when it is ours to use, and what is read of it."""

from __future__ import annotations

import json
import plistlib
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import UsageError
from claudedo_worker import telemetry
from claudedo_worker.telemetry import Price

ENVIRON = {"PATH": "/bin", "ANTHROPIC_API_KEY": "sk"}
TEAM = {"env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example"}}


@pytest.fixture(autouse=True)
def managed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's own settings are not looked at; returns what stands for their folder."""
    folder = tmp_path / "managed"
    monkeypatch.setattr(telemetry, "_MANAGED", dict.fromkeys(("linux", "darwin"), folder))
    monkeypatch.setattr(telemetry, "_PROFILES", tmp_path / "profiles")
    return folder


def is_free(tmp_path: Path, *layers: dict[str, Any], **environ: str) -> bool:
    home = {"HOME": str(tmp_path / "home")}
    folders = [tmp_path / "worktree", tmp_path / "repo"]
    return telemetry.is_free(ENVIRON | home | environ, folders, layers)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_it_is_free_where_nobody_says_anything_about_it(tmp_path: Path) -> None:
    assert is_free(tmp_path)
    write(tmp_path / "home/.claude/settings.json", {"model": "opus", "env": {"EDITOR": "vi"}})
    write(tmp_path / "repo/.claude/settings.json", "")
    server = {"mcpServers": {"db": {"env": {"OTEL_SERVICE_NAME": "the server's own business"}}}}
    write(tmp_path / "home/.claude.json", server)
    assert is_free(tmp_path, {}, {"hooks": {"Stop": []}})


@pytest.mark.parametrize(
    "name",
    [
        "OTEL_METRICS_EXPORTER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_SERVICE_NAME",
        "CLAUDE_CODE_ENABLE_TELEMETRY",
        "CLAUDE_CODE_OTEL_SHUTDOWN_TIMEOUT_MS",
        "DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "BETA_TRACING_ENDPOINT",
        "CLAUDE_CODE_MANAGED_SETTINGS_PATH",
    ],
)
@pytest.mark.parametrize("value", ["1", "0", ""])
def test_a_variable_about_telemetry_in_the_shell_is_respected_whatever_it_says(
    tmp_path: Path, name: str, value: str
) -> None:
    assert not is_free(tmp_path, **{name: value})


@pytest.mark.parametrize(
    "place",
    [
        "home/.claude/settings.json",
        "home/.claude/remote-settings.json",
        "home/.claude.json",
        "worktree/.claude/settings.json",
        "worktree/.claude/settings.local.json",
        "repo/.claude/settings.json",
        "repo/.claude/settings.local.json",
        "managed/managed-settings.json",
        "managed/managed-settings.d/20-telemetry.json",
    ],
)
@pytest.mark.parametrize(
    "content", [TEAM, "{ torn", "[" * 100_000], ids=["telemetry", "torn", "deep"]
)
def test_every_file_of_settings_is_respected_and_so_is_one_that_cannot_be_read(
    tmp_path: Path, place: str, content: Any
) -> None:
    write(tmp_path / place, content)
    assert not is_free(tmp_path)


def test_what_is_nested_or_given_by_flag_is_respected(tmp_path: Path) -> None:
    assert not is_free(tmp_path, TEAM)
    assert not is_free(tmp_path, {}, {"otelHeadersHelper": "/bin/headers"})
    write(tmp_path / "home/.claude/remote-settings.json", {"settings": [TEAM]})
    assert not is_free(tmp_path)


def test_another_configuration_folder_is_the_one_that_counts(tmp_path: Path) -> None:
    write(tmp_path / "home/.claude/settings.json", TEAM)
    write(tmp_path / "mine/settings.json", {})
    assert is_free(tmp_path, CLAUDE_CONFIG_DIR=str(tmp_path / "mine"))
    write(tmp_path / "mine/settings.json", TEAM)
    assert not is_free(tmp_path, CLAUDE_CONFIG_DIR=str(tmp_path / "mine"))


def test_a_profile_of_a_device_management_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    profile = tmp_path / "profiles/me/com.anthropic.claudecode.plist"
    write(profile, "")
    profile.write_bytes(plistlib.dumps({"model": "opus"}, fmt=plistlib.FMT_BINARY))
    assert is_free(tmp_path)
    profile.write_bytes(plistlib.dumps(TEAM))
    assert not is_free(tmp_path)
    profile.write_bytes(b"bplist00nonsense")
    assert not is_free(tmp_path)


def test_a_session_reports_logs_only_to_an_address_of_its_own() -> None:
    one, other = (telemetry.variables("http://127.0.0.1:1", "s_1", hash_) for hash_ in "ab")
    assert one["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith("http://127.0.0.1:1/telemetry/s_1/")
    assert one["OTEL_EXPORTER_OTLP_ENDPOINT"] != other["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert not {name for name in one if "METRIC" in name or "TRACE" in name or "PROMPT" in name}


def report(*events: dict[str, Any]) -> bytes:
    """What both versions send, but for the attributes that nobody reads here."""
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}
    records = [
        {
            "body": {"stringValue": "claude_code.event"},
            "attributes": [
                {"key": key, "value": {kinds.get(type(value), "x"): value}}
                for key, value in event.items()
            ],
        }
        for event in events
    ]
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()


ASKED: dict[str, Any] = {
    "event.name": "api_request",
    "session.id": "c1",
    "request_id": "req_1",
    "cost_usd": 0.02,
}


def test_prices_of_requests_are_read_and_nothing_else() -> None:
    said = {**ASKED, "event.name": "user_prompt", "prompt": "secret"}
    unnamed = {key: value for key, value in ASKED.items() if key != "request_id"}
    unnamed |= {"event.timestamp": "2026", "event.sequence": 3, "cost_usd": 0}
    assert telemetry.prices(report(said, ASKED, unnamed)) == [
        Price("c1", "req_1", 0.02),
        Price("c1", "2026 3", 0.0),
    ]
    assert telemetry.prices(b'{"resourceLogs": []}') == []


@pytest.mark.parametrize(
    "odd",
    [
        {"cost_usd": -1},
        {"cost_usd": 10**400},
        {"cost_usd": float("nan")},
        {"cost_usd": float("inf")},
        {"cost_usd": True},
        {"cost_usd": "0.1"},
        {"cost_usd": None},
        {"session.id": ""},
        {"session.id": 7},
        {"session.id": "c" * 201},
        {"session.id": "\ud800"},
        {"request_id": "a\0b"},
        {"request_id": 7},
    ],
    ids=str,
)
def test_what_is_no_price_is_passed_over(odd: dict[str, Any]) -> None:
    assert telemetry.prices(report({**ASKED, **odd}, ASKED)) == [Price("c1", "req_1", 0.02)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"resourceLogs": 1}',
        b'{"resourceLogs": [1]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": ["x"]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [{}]}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": '
        b'[{"key": [], "value": {}}]}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": '
        b'[{"key": "a", "value": "b"}]}]}]}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError, match="no report"):
        telemetry.prices(body)
