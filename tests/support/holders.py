"""Holders for tests: real ones, on short socket paths, ended by pid."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from claudedo.holding import Exit, HolderClient, Kind, decode_exit

PATIENCE = 30.0  # s; far more than anything here takes


def find_holder() -> Path:
    """The holder's file, as the installed package has it."""
    found = importlib.util.find_spec("claudedo_hooks")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))) / "holder.py"


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fail naming what never came true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its new parent may take a while to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def python(code: str) -> list[str]:
    """A command line that runs Python code, quick to start."""
    return [sys.executable, "-I", "-S", "-c", code]


@dataclass
class Held:
    """A running holder and what it was started with."""

    spec: dict[str, Any]
    holder_pid: int
    pid: int

    @property
    def socket(self) -> Path:
        return Path(self.spec["socket"])

    def connect(self) -> HolderClient:
        return HolderClient.connect(self.socket, timeout=PATIENCE)

    def attach(self, rows: int = 24, cols: int = 80, *, read_only: bool = False) -> HolderClient:
        client = self.connect()
        client.attach(rows, cols, read_only=read_only)
        return client

    def exit_file(self) -> dict[str, Any]:
        """The content of the exit file, once it is there."""
        path = Path(self.spec["exit_file"])
        eventually(path.exists, "the exit file is written")
        content: dict[str, Any] = json.loads(path.read_text())
        return content


@dataclass
class Holders:
    """Starts holders in one short temporary directory."""

    directory: Path
    pids: list[int] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=itertools.count)

    def spec(self, argv: list[str], **changes: Any) -> dict[str, Any]:
        name = next(self.names)
        return {
            "socket": str(self.directory / f"{name}.sock"),
            "argv": argv,
            "cwd": str(self.directory),
            "env": {"PATH": os.environ["PATH"], "TERM": "xterm-256color"},
            "rows": 24,
            "cols": 80,
            "exit_file": str(self.directory / f"{name}.exit"),
            "log": str(self.directory / f"{name}.log"),
        } | changes

    def start(self, argv: list[str], **changes: Any) -> Held:
        spec = self.spec(argv, **changes)
        answer = self.run(spec)
        assert "error" not in answer, answer
        return Held(spec, answer["holder_pid"], answer["pid"])

    def run(self, spec: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run holder.py with a specification; its answer, an error included."""
        command = [sys.executable, "-I", "-S", str(find_holder())]
        stdin = json.dumps(spec).encode()
        done = subprocess.run(
            command, input=stdin, stdout=subprocess.PIPE, timeout=PATIENCE, check=False, **options
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if "error" in answer else 0)
        if "error" not in answer:
            self.pids.append(answer["holder_pid"])
        return answer


@contextmanager
def holders() -> Iterator[Holders]:
    """Whatever is started through it is ended with it."""
    directory = Path(tempfile.mkdtemp(prefix="cdo-"))
    started = Holders(directory)
    try:
        yield started
    finally:
        for pid in started.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        eventually(lambda: not any(directory.glob("*.sock")), "every holder has gone")
        shutil.rmtree(directory, ignore_errors=True)  # one that ends may just rename its last word


def read_until(client: HolderClient, text: bytes) -> bytes:
    """All output from now on, up to and with a text."""
    output = b""
    while text not in output:
        kind, payload = client.receive()
        assert kind is not Kind.EXITED, f"ended without {text!r}: {output!r}"
        output += payload if kind is Kind.OUTPUT else b""
    return output


def read_to_end(client: HolderClient) -> tuple[bytes, Exit]:
    """All output from now on, and how the child ended."""
    output = bytearray()
    while True:
        kind, payload = client.receive()
        if kind is Kind.EXITED:
            return bytes(output), decode_exit(payload)
        if kind is Kind.OUTPUT:
            output += payload
