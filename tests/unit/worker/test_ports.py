"""Ten ports for each task: never the same twice, never where somebody listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from claudedo import settings
from claudedo.errors import ConflictError, UsageError
from claudedo.model import Task
from claudedo.settings import Settings
from claudedo_worker import ports
from claudedo_worker.bus import Bus
from claudedo_worker.database import Database
from claudedo_worker.ports import Ports
from claudedo_worker.store import Store
from tests.support.records import a_task

pytestmark = pytest.mark.anyio


class Harbour:
    """A store with tasks, and ports for them from a range of three blocks."""

    def __init__(self, root: Path, store: Store) -> None:
        self.store = store
        self.settings = Settings(home=root, run=root, claude="claude", ports="20100-20135")
        self.ports = Ports(self.settings, store)

    async def task(self, name: str) -> Task:
        workspace = await self.store.workspace_for("/repository", "shop")
        return await self.store.add_task(a_task(workspace, name))

    async def port(self, name: str) -> int | None:
        return (await self.ports.give(await self.task(name))).port


@pytest.fixture
async def harbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harbour]:
    monkeypatch.setattr(ports, "_is_quiet", lambda first: True)
    database = await Database.open(tmp_path / "db")
    yield Harbour(tmp_path, Store(database, Bus().publish))
    await database.close()


async def test_every_task_has_a_block_of_its_own_and_keeps_it(harbour: Harbour) -> None:
    tasks = [await harbour.task(name) for name in "abc"]
    given = await asyncio.gather(*(harbour.ports.give(task) for task in tasks))
    assert {task.port for task in given} == {20_100, 20_110, 20_120}
    again = await asyncio.gather(*(harbour.ports.give(task) for task in tasks))
    assert [task.port for task in again] == [task.port for task in given]


async def test_a_removed_task_gives_its_block_back(harbour: Harbour) -> None:
    first = await harbour.ports.give(await harbour.task("a"))
    await harbour.port("b")
    await harbour.store.remove_task(first)
    assert await harbour.port("c") == first.port


async def test_when_all_are_taken_the_reader_is_told_what_to_do(harbour: Harbour) -> None:
    for name in "abc":
        await harbour.port(name)
    with pytest.raises(ConflictError, match="No ten ports of 20100-20135 are free"):
        await harbour.port("d")


async def test_blocks_of_a_range_that_was_moved_do_not_overlap_older_ones(
    harbour: Harbour,
) -> None:
    await harbour.port("a")  # 20100 to 20109
    harbour.ports = Ports(replace(harbour.settings, ports="20095-20200"), harbour.store)
    assert await harbour.port("b") == 20_115


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
    ],
    ids=str,
)
async def test_a_block_in_which_somebody_listens_is_passed_over(
    tmp_path: Path, family: socket.AddressFamily, address: str
) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        listener.listen()
        port = listener.getsockname()[1]
        database = await Database.open(tmp_path / "db")
        harbour = Harbour(tmp_path, Store(database, Bus().publish))
        first = min(max(1024, port - 4), 65_400)
        given = replace(harbour.settings, ports=f"{first}-{first + 99}")
        harbour.ports = Ports(given, harbour.store)
        found = await harbour.port("a")
        await database.close()
        assert found is not None and not found <= port < found + 10


@pytest.mark.parametrize(
    "text", ["", "20000", "20000-20008", "80-90", "65530-65540", "a-b", "30000-20000", " 1-2"]
)
def test_a_range_that_is_none_is_refused_with_the_file_that_says_it(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.toml").write_text(f'ports = "{text}"\n')
    with pytest.raises(UsageError, match=r"config.toml: ports must be a range"):
        settings.load({"CLAUDEDO_HOME": str(tmp_path)})


def test_a_range_is_cut_into_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('ports = "3000-3029"\nsetup_timeout = 60\n')
    loaded = settings.load({"CLAUDEDO_HOME": str(tmp_path)})
    assert list(loaded.port_range) == [3000, 3010, 3020]
    assert loaded.setup_timeout == 60
    assert len(settings.load({"CLAUDEDO_HOME": str(tmp_path / "x")}).port_range) == 1000
