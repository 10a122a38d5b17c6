"""The CLI's own telemetry, for what each request cost: whose it is, and what is read of it.

It has one destination for each session. It is pointed at the worker only where nobody else, as far
as can be seen, has a say about it; what cannot be seen wins over ours (docs/claude-cli.md 29.9).
Knows nothing of tasks; stores nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import plistlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo.errors import UsageError
from claudedo_worker import registry

LARGEST = 2**20
"""Bytes of one report. The CLI sends what came about in two seconds: some ten kilobytes."""

MOST = 10_000  # dollars that one request may cost: more is no price
LONGEST_NAME = 200  # characters of an identifier that is stored

_NAMES = frozenset(
    (
        *("CLAUDE_CODE_ENABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"),
        *("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA"),
        *("ENABLE_ENHANCED_TELEMETRY_BETA", "ENABLE_BETA_TRACING_DETAILED"),
        *("BETA_TRACING_ENDPOINT", "otelHeadersHelper"),
        # The organization's settings are somewhere else then.
        "CLAUDE_CODE_MANAGED_SETTINGS_PATH",
    )
)
_PREFIXES = ("OTEL_", "ANT_OTEL_", "CLAUDE_CODE_OTEL_")

_MANAGED = {
    "darwin": Path("/Library/Application Support/ClaudeCode"),
    "linux": Path("/etc/claude-code"),
}
_PROFILES = Path("/Library/Managed Preferences")  # macOS, written by a device management


@dataclass(frozen=True)
class Price:
    """What one request of a conversation cost. `request`: the API's name for it."""

    conversation: str
    request: str
    dollars: float


def is_free(
    environ: Mapping[str, str],
    folders: Iterable[Path],
    layers: Iterable[Mapping[str, Any]],
) -> bool:
    """True if nothing says anything about telemetry, be it where to, or that there be none.

    `environ`: what the session would have. `folders`: those whose `.claude` counts. `layers`:
    further settings. A file that is there and cannot be read may say anything.
    """
    try:
        files = [_content(path) for path in _files(environ, folders) if path.exists()]
    except (OSError, ValueError, RecursionError, plistlib.InvalidFileException):
        return False
    return not any(_speaks(value) for value in (dict(environ), *layers, *files))


def variables(url: str, session_id: str, credential: str) -> dict[str, str]:
    """The environment of a session that reports to the worker at `url` (18.4).

    Not as settings: settings that we cannot see are to win over it. `credential`: the hash of the
    session's. No metrics, no traces, no texts.
    """
    return {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORT_INTERVAL": "2000",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{url}/telemetry/{session_id}/{secret(credential)}",
    }


def secret(credential: str) -> str:
    """What a session shows when it reports, made from the hash of its credential.

    Good for that alone, and the same under the next worker.
    """
    return hmac.new(credential.encode(), b"telemetry", hashlib.sha256).hexdigest()


def prices(body: bytes) -> list[Price]:
    """The priced requests in an OTLP/JSON report (18.5). Raises `UsageError` if it is none."""
    try:
        report = json.loads(body)
        records = [
            record
            for resource in report["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]
        events = [_attributes(record) for record in records]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UsageError("The request is no report of logs in OTLP/JSON.") from error
    found = (_price(event) for event in events if event.get("event.name") == "api_request")
    return [price for price in found if price is not None]


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    values = ((entry["key"], entry["value"]) for entry in record.get("attributes", ()))
    return {key: next(iter(value.values()), None) for key, value in values}


def _price(event: Mapping[str, Any]) -> Price | None:
    conversation, dollars = event.get("session.id"), event.get("cost_usd")
    request = event.get("request_id")
    if request is None:  # what the API did not name: counted, never found in a transcript
        request = f"{event.get('event.timestamp')} {event.get('event.sequence')}"
    if isinstance(dollars, bool) or not isinstance(dollars, int | float):
        return None
    if not all(_is_name(name) for name in (conversation, request)):
        return None
    if not 0 <= dollars <= MOST:
        return None
    return Price(str(conversation), str(request), float(dollars))


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        return False
    return value.isprintable()  # what is not Unicode is not, either


def _files(environ: Mapping[str, str], folders: Iterable[Path]) -> Iterator[Path]:
    config = registry.config_dir(dict(environ))
    yield config / "settings.json"
    yield config / "settings.local.json"
    yield config / "remote-settings.json"  # the organization's, as they were last fetched
    yield config / ".claude.json"
    yield config.parent / ".claude.json"
    for folder in folders:
        yield folder / ".claude" / "settings.json"
        yield folder / ".claude" / "settings.local.json"
    managed = _MANAGED.get(sys.platform)
    if managed is not None:
        yield managed / "managed-settings.json"
        yield from sorted((managed / "managed-settings.d").glob("*.json"))
    if sys.platform == "darwin":
        yield from sorted(_PROFILES.glob("**/com.anthropic.claudecode.plist"))


def _content(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix == ".plist":
        return plistlib.loads(data)
    value = json.loads(data) if data.strip() else {}
    if path.name == ".claude.json":  # not settings, but for its old way to set variables
        return value.get("env") if isinstance(value, dict) else None
    return value


def _speaks(value: Any) -> bool:
    """True if anything in there has a name that is about telemetry."""
    if isinstance(value, Mapping):
        names = (str(name) for name in value)
        if any(name in _NAMES or name.startswith(_PREFIXES) for name in names):
            return True
        return any(_speaks(inner) for inner in value.values())
    return isinstance(value, list) and any(_speaks(inner) for inner in value)
