"""Finds the `claude` to run, and makes sure that it can do what is asked of it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from claudedo.errors import RefusedError
from claudedo.settings import OLDEST_CLAUDE

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_INSTALL = "Install it with `npm install -g @anthropic-ai/claude-code`, or set CLAUDEDO_CLAUDE."

_known: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Claude:
    """A `claude` that was asked for its version."""

    path: str
    version: str


def parse(version: str) -> tuple[int, ...]:
    """The three numbers of a version; () if there are none."""
    found = _VERSION.search(version)
    return tuple(int(part) for part in found.groups()) if found else ()


async def find(configured: str, environ: Mapping[str, str]) -> Claude:
    """The `claude` for this environment. Raises `RefusedError` if missing, broken or too old."""
    name = environ.get("CLAUDEDO_CLAUDE") or configured
    path = shutil.which(name, path=environ.get("PATH"))
    if path is None:
        raise RefusedError(f"There is no `{name}` to run. {_INSTALL}")
    version = await _version(str(Path(path).absolute()), environ)
    if parse(version) < OLDEST_CLAUDE:
        oldest = ".".join(map(str, OLDEST_CLAUDE))
        raise RefusedError(
            f"{path} is version {version}; claudedo needs {oldest} or newer. Update it with "
            f"`claude update`, or set CLAUDEDO_CLAUDE to a newer one."
        )
    return Claude(path, version)


async def _version(path: str, environ: Mapping[str, str]) -> str:
    status = await asyncio.to_thread(os.stat, path)
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _known:
        _known[key] = await _ask(path, environ)
    return _known[key]


async def _ask(path: str, environ: Mapping[str, str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise RefusedError(f"{path} cannot be run: {error}. {_INSTALL}") from error
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise RefusedError(f"{path} did not tell its version within a minute.") from error
    text = output.decode(errors="replace").strip()
    if process.returncode != 0 or not parse(text):
        raise RefusedError(f"{path} is no working Claude Code: {text[:200] or 'it said nothing'}.")
    return ".".join(map(str, parse(text)))
