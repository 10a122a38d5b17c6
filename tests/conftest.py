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
    units: dict[str, list[pytest.Item]] = {}  # the tests of a group are made for one process
    for item in long:
        group = item.get_closest_marker("xdist_group")
        units.setdefault(group.args[0] if group else item.nodeid, []).append(item)
    share = -(-len(items) // processes)
    items.clear()
    for number in range(processes):
        begin = [item for unit in list(units.values())[number::processes] for item in unit]
        fill = max(0, share - len(begin))
        items += [*begin, *short[:fill]]
        del short[:fill]
    items += short
