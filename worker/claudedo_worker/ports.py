"""Gives each task ten ports of its own, so that the dev servers of two worktrees do not fight.

A block stays with its task, over restarts, until the task is removed. A new block is one that no
task has and in which nothing listens at the moment. Opens no port for longer than a look takes.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket

from claudedo.errors import ConflictError
from claudedo.model import Task
from claudedo.settings import BLOCK, Settings
from claudedo_worker.store import Store


class Ports:
    """The blocks of one worker."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._choosing = asyncio.Lock()

    async def give(self, task: Task) -> Task:
        """The task with its ports; those that it has, else the lowest free block.

        Raises `ConflictError` if there is none.
        """
        async with self._choosing:
            task = await self._store.task(task.id)
            if task.port is not None:
                return task
            [first] = await self._free(1)
            return await self._store.change_task(task, port=first)

    async def check(self, count: int) -> None:
        """Raise `ConflictError` if there are not free blocks for so many tasks."""
        await self._free(count)

    async def _free(self, count: int) -> list[int]:
        """The first ports of so many free blocks, the lowest ones."""
        taken = [task.port for task in await self._store.tasks() if task.port is not None]
        # The range may have been moved: blocks need not begin where others did.
        apart = (
            first
            for first in self._settings.port_range
            if not any(abs(first - port) < BLOCK for port in taken)
        )
        found = list(itertools.islice(filter(_is_quiet, apart), count))
        if len(found) == count:
            return found
        raise ConflictError(
            f"No ten ports of {self._settings.ports} are free for each task: remove tasks that "
            "are done (`claudedo rm`), or set another range as `ports` in "
            f"{self._settings.config_file}."
        )


def _is_quiet(first: int) -> bool:
    """True if nothing uses one of the ten ports from `first`, on any address."""
    families = [socket.AF_INET, *([socket.AF_INET6] if socket.has_ipv6 else [])]
    ports = range(first, first + BLOCK)
    return all(_can_bind(family, port) for port in ports for family in families)


def _can_bind(family: socket.AddressFamily, port: int) -> bool:
    try:
        probe = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return True  # a system without that family has no listener in it
    with probe:
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL  # the family is switched off
    return True
