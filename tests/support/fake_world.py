"""A world whose sessions are the stand-in for `claude`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fake_program import make_fake_claude
from tests.support.world import World


@contextmanager
def fake_world(root: Path) -> Iterator[World]:
    """What entered its sessions' contexts is written down in `root`/truth."""
    truth = root / "truth"
    truth.mkdir()
    with World(make_fake_claude(root), root) as made:
        made.environment |= {"FAKE_CLAUDE_SEED": "1", "FAKE_CLAUDE_TRUTH": str(truth)}
        yield made
