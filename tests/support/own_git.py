"""A git that knows nothing of the account that runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest


def own_git(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let git find its configuration in `home` only, and no repository by the environment.

    Returns the configuration file.
    """
    config = home / "gitconfig"
    config.write_text(
        "[user]\nname = Test\nemail = test@example.invalid\n"
        '[init]\ndefaultBranch = main\n[protocol "file"]\nallow = always\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return config
