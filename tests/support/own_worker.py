"""A real worker process in a state directory of its own, and both its doors. No `claude` needed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from claudedo import settings
from claudedo.settings import Settings
from claudedo_worker.database import Database
from claudedo_worker.store import Store

PATIENCE = 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.content)


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class OwnWorker:
    """One state directory, and the worker that serves it while it is started."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return settings.load(self._environment)

    @property
    def log(self) -> str:
        """All that the workers of this directory wrote."""
        return (self.home.parent / "worker.log").read_text()

    @property
    def _environment(self) -> dict[str, str]:
        # A worker must not take itself for a part of a session that these tests may run in.
        own = {key: value for key, value in os.environ.items() if "CLAUDE" not in key}
        return {**own, "CLAUDEDO_HOME": str(self.home), **self.environment}

    def seed(self, fill: Callable[[Store], Awaitable[T]]) -> T:
        """Store something while no worker runs."""

        async def work() -> T:
            database = await Database.open(self.home / "claudedo.db")
            try:
                return await fill(Store(database, lambda event: None))
            finally:
                await database.close()

        self.home.mkdir(mode=0o700, exist_ok=True)
        return asyncio.run(work())

    def spawn(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start a worker process without waiting for it."""
        with (self.home.parent / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "claudedo_worker"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def start(self, **options: Any) -> None:
        """Start the worker; return when it takes requests. One that never does is ended."""
        self.process = self.spawn(**options)
        try:
            self.until_ready()
        except BaseException:
            self.close()
            raise

    def until_ready(self) -> None:
        """Wait until a worker takes requests."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if self.ask("GET", "/readyz").status == 200:
                    return
            except OSError as error:
                assert time.monotonic() < deadline, f"no worker: {error}\n{self.log}"
                time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> float:
        """End the worker; the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.process = None
        return time.monotonic() - began

    def close(self) -> None:
        """End the worker if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)

    # Its doors

    @property
    def port(self) -> int:
        """The port that it serves on."""
        return int(self.ask("GET", "/api/worker").json["port"])

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; on the unix socket unless a port is given. `body`: JSON, or bytes as is."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            if port
            else UnixHTTP(self.settings.worker_socket)
        )
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with closing(connection):
            connection.request(method, path, content, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers.items()), response.read())

    def link(self) -> str:
        """The path of a one-time link to the page."""
        url: str = self.ask("POST", "/api/links", {}).json["url"]
        return url[url.index("/open/") :]

    def cookie(self) -> str:
        """A page's cookie, as its browser sends it."""
        answer = self.ask("GET", self.link(), port=self.port)
        assert answer.status == 303, answer
        return answer.headers["set-cookie"].partition(";")[0]
