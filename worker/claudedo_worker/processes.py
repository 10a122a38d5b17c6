"""Processes of this machine: who lives, who descends from whom, how a whole tree ends.

The only module that looks at other processes; psutil does so alike on Linux and macOS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

from claudedo.errors import RefusedError

SESSION_VARIABLE = "CLAUDEDO_SESSION"
"""In the environment of every process of a session: orphans are found by it."""


def started_at(pid: int) -> float | None:
    """When the process began (Unix time, within about a second); None if it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def start_mark(pid: int) -> str | None:
    """When the process began, in the kernel's ticks since the boot, as the CLI writes it down.

    Setting the clock does not change it. None if the process is gone, and where there is no /proc.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return status.rpartition(")")[2].split()[19]


def suspended(pid: int) -> bool:
    """True if the process is stopped, by Ctrl-Z in its terminal for example: it cannot act."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below `pid`, without itself and without what `stands_alone` and its tree.

    On Linux a worker that a session's own shell started ends up below that session's holder, and
    so does every holder that this worker starts: none of them is a part of that session.
    """
    below = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        below[process.info["ppid"]].append(process)
    found: list[psutil.Process] = []
    todo = [pid]
    while todo:
        part = [process for process in below[todo.pop()] if not stands_alone(process)]
        found += part
        todo += [process.pid for process in part]
    return found


def of_session(session_id: str) -> list[psutil.Process]:
    """Every process that carries the session's mark, whoever its parent is by now."""
    marked = [process for process in psutil.process_iter() if _mark(process) == session_id]
    return [process for process in marked if not stands_alone(process)]


def stands_alone(process: psutil.Process) -> bool:
    """True for a worker and for a holder: wherever it was started, it belongs to no session."""
    if process.pid == os.getpid():
        return True
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    worker = "claudedo_worker" in command[2:4] and "-m" in command[1:3]
    return worker or (command[1:3] == ["-I", "-S"] and command[-1].endswith("/holder.py"))


def sessions_above(pid: int) -> list[str] | None:
    """The sessions that process `pid` and its ancestors belong to, nearest first.

    Looks at the environment each was started with, so removing the variable hides nothing. None
    if the process is gone or a zombie: nobody can say what it belonged to.
    """
    try:
        process = psutil.Process(pid)
        marks = [mark for mark in map(_mark, [process, *process.parents()]) if mark]
        gone = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return None if gone else list(dict.fromkeys(marks))


async def end(processes: Iterable[psutil.Process], grace: float) -> None:
    """End the processes: SIGTERM, up to `grace` seconds, then SIGKILL."""
    await asyncio.to_thread(_end, list(processes), grace)


async def dismiss(pid: int, patience: float) -> list[int]:
    """Ask a process to end, then what it leaves running; kill nothing.

    Waits up to `patience` seconds for itself, and as long for the rest. Returns what still runs:
    if that is the process itself, the rest was not asked. Raises `RefusedError` if it belongs to
    somebody else.
    """
    return await asyncio.to_thread(_dismiss, pid, patience)


def _dismiss(pid: int, patience: float) -> list[int]:
    try:
        process = psutil.Process(pid)
        below = descendants(pid)
        process.terminate()
    except psutil.NoSuchProcess:
        return []
    except psutil.AccessDenied as error:
        raise RefusedError(f"Process {pid} belongs to another user.") from error
    if _outlives([process], patience):
        return [pid]
    for left in below:
        with contextlib.suppress(psutil.Error):  # gone, or run as somebody else: it may stay
            left.terminate()
    return _outlives(below, patience)


def _outlives(processes: Iterable[psutil.Process], patience: float) -> list[int]:
    """Which of them still run after that many seconds; returns as soon as none does."""
    until = time.monotonic() + patience
    while living := [process.pid for process in processes if _runs(process)]:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return living


def _runs(process: psutil.Process) -> bool:
    """False for a zombie: it has ended, only its parent has not asked how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _end(processes: list[psutil.Process], grace: float) -> None:
    for process in processes:
        _signal(process, "terminate")
    _, living = psutil.wait_procs(processes, timeout=grace)
    for process in living:
        _signal(process, "kill")
    psutil.wait_procs(living, timeout=grace)


def _signal(process: psutil.Process, verb: str) -> None:
    # psutil compares start times, so a recycled pid is never hit; gone is what we want.
    try:
        getattr(process, verb)()
    except psutil.NoSuchProcess:
        return


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(SESSION_VARIABLE)
    except (psutil.Error, OSError):
        return None
