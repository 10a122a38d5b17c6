"""A throw-away home and environment in which the real Claude CLI starts without any dialog.

Touches only the directory it is given. What has to be in it: docs/claude-cli.md 3.1, 3.2 and 4.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

API_KEY = "sk-ant-api03-scripted-model-0123456789-no-real-key"
"""Opens nothing anywhere; the CLI only wants one to be there."""

APPROVED_KEY_LENGTH = 20  # the CLI remembers an approved key by its last characters
CHANNEL_FEATURES = ("tengu_harbor", "tengu_harbor_permissions")


def create_home(home: Path, *, trusted: Iterable[Path] = (), channels: bool = True) -> None:
    """Makes `home` ready for a `claude` with `API_KEY`.

    `trusted`: folders whose trust dialog counts as accepted; a repository covers its worktrees.
    `channels`: whether the CLI finds the features for channel pushes switched on (4.2).
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "tmp").mkdir(exist_ok=True)
    configuration = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [API_KEY[-APPROVED_KEY_LENGTH:]], "rejected": []},
        "projects": {str(path.resolve()): {"hasTrustDialogAccepted": True} for path in trusted},
        "cachedGrowthBookFeatures": dict.fromkeys(CHANNEL_FEATURES, channels),
    }
    (home / ".claude.json").write_text(json.dumps(configuration))


def environment(home: Path, model_url: str, *, offline: bool = False) -> dict[str, str]:
    """The whole environment of a `claude` that lives in `home` and asks the model at `model_url`.

    Nothing is taken over from the caller but PATH and LANG. `offline` keeps the CLI from reporting
    to its vendor; that also switches channels off (4.2).
    """
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "TERM": "xterm-256color",
        "HOME": str(home),
        "ANTHROPIC_API_KEY": API_KEY,
        "ANTHROPIC_BASE_URL": model_url,
        "CLAUDE_CODE_TMPDIR": str(home / "tmp"),
        "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
        "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_INSTALLATION_CHECKS": "1",
    }
    if offline:
        variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    return variables
