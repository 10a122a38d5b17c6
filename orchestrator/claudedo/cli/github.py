"""What GitHub Actions understands of a step's output, and what it must not misunderstand.

Its runner takes lines that begin with `::`, and `##[` anywhere, for commands of the workflow,
whoever wrote them (docs.github.com, "Workflow commands for GitHub Actions"). What sessions say is a
stranger's text.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from typing import Any

_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)


def is_here() -> bool:
    """True in a step of a workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def summary_file() -> str | None:
    """The file whose Markdown the page of the run shows."""
    return os.environ.get("GITHUB_STEP_SUMMARY") if is_here() else None


def error(title: str, message: str) -> str:
    """A line that marks an error on the page of the run."""
    return f"::error title={_property(title)}::{_data(message)}"


def group(title: str, text: str) -> list[str]:
    """Lines that fold `text` away under `title`; none of it is a command."""
    token = secrets.token_hex(16)
    return [
        f"::group::{_data(title)}",
        f"::stop-commands::{token}",
        *text.split("\n"),
        f"::{token}::",
        "::endgroup::",
    ]


def harmless(text: str) -> str:
    """`text`, on GitHub Actions with a space in what would be a command there."""
    if not is_here():
        return text
    return _COMMAND.sub(r"\1: :", text).replace("##[", "# #[")


def json_text(value: Any) -> str:
    """`value` as JSON in which the runner finds no command."""
    return json.dumps(value, indent=2).replace("##[", r"#\u0023[")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
