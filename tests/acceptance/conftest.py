"""A world for an acceptance test: real `claude`, worker and git; only the model is scripted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.claude_home import claude_params, require_claude
from tests.support.world import World


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
