"""What every test shares."""

import os

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of asynchronous tests: the worker runs on asyncio, so do they."""
    return "asyncio"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that run beside each other begin with the long ones; nobody waits for one at the end.

    pytest-xdist gives each process the next so many tests, which lie beside each other here.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    long = [item for item in items if item.get_closest_marker("acceptance")]
    short = [item for item in items if not item.get_closest_marker("acceptance")]
    share = -(-len(items) // processes)
    items.clear()
    for number in range(processes):
        begin = long[number::processes]
        items += [*begin, *short[: share - len(begin)]]
        del short[: share - len(begin)]
