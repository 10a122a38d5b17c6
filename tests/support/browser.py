"""The browser of the tests: Debian's chromium, driven through Playwright."""

from __future__ import annotations

import os
import shutil

import pytest

BINARY = "CLAUDEDO_TEST_CHROMIUM"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def require_chromium() -> str:
    """The path of a chromium. Without one: skips on a developer's machine, fails in CI."""
    path = os.environ.get(BINARY) or shutil.which("chromium")
    if path:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"There is no chromium and {BINARY} is not set: CI has to run a real browser")
    pytest.skip(f"There is no chromium: install it, or name one in {BINARY}")
