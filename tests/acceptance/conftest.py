"""A world for an acceptance test: real `claude`, worker and git; only the model is scripted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.support.claude_home import claude_params, require_claude
from tests.support.world import World


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `one_claude` runs on one of the versions, about half of it on each."""
    if os.environ.get("CLAUDEDO_TEST_EVERY_CLAUDE"):
        return
    left_out = [item for item in items if _is_anothers_turn(item)]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


def _is_anothers_turn(item: pytest.Item) -> bool:
    claudes = claude_params()
    given = getattr(item, "callspec", None)
    if item.get_closest_marker("one_claude") is None or given is None:
        return False
    turn = crc32(item.originalname.encode()) if isinstance(item, pytest.Function) else 0
    return bool(given.params.get("claude") != claudes[turn % len(claudes)])


@pytest.fixture(params=claude_params())
def claude(request: pytest.FixtureRequest) -> Path:
    return require_claude(request.param)


@pytest.fixture
def world(claude: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(claude, tmp_path_factory.mktemp("w")) as made:
        yield made


@pytest.fixture
def world_without_channels(
    claude: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with World(claude, tmp_path_factory.mktemp("w"), channels=False) as made:
        yield made
