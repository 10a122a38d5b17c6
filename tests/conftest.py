"""What every test shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of asynchronous tests: the worker runs on asyncio, so do they."""
    return "asyncio"
