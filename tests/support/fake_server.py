"""The session's MCP server as the stand-in for `claude` sees it: a process at the end of two pipes.

Speaks as much of MCP over stdio as the real CLI uses with claudedo (docs/claude-cli.md 4, 12, 17).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from tests.support.fake_conversation import Json

VERSION = "2.1.330"
LINE_LIMIT = 16 << 20


class Server:
    """The MCP server of the session, as its client: dead once its process is."""

    def __init__(self, entry: Json, pushed: Callable[[Json], None]) -> None:
        self._entry = entry
        self._pushed = pushed
        self._pending: dict[int, asyncio.Future[Json]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._number = 0

    async def start(self) -> None:
        """Start the process, shake hands, list the tools."""
        self._process = await asyncio.create_subprocess_exec(
            self._entry["command"],
            *self._entry["args"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_LIMIT,
        )
        self._reader = asyncio.create_task(self._read(self._process))
        await self.request("server/discover", {})  # newer versions try this first (17.6)
        about = {"protocolVersion": "2025-11-25", "capabilities": {}}
        await self.request(
            "initialize", {**about, "clientInfo": {"name": "claude", "version": VERSION}}
        )
        self._send({"method": "notifications/initialized"})
        await self.request("tools/list", {})

    async def request(self, method: str, params: Json, timeout: float | None = None) -> Json:
        """The `result` of a request; `{}` if it failed, or the server died or dies (12.2)."""
        if self._process is None or self._process.returncode is not None:
            return {}
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            self._send({"id": number, "method": method, "params": params})
            async with asyncio.timeout(timeout):
                return dict((await answer).get("result") or {})
        except (OSError, TimeoutError):
            return {}
        except asyncio.CancelledError:
            self._send({"method": "notifications/cancelled", "params": {"requestId": number}})
            raise
        finally:
            self._pending.pop(number, None)

    async def call(self, tool: str, arguments: Json, call_id: str, timeout: float | None) -> Json:
        """The result of a tool call, which says which call of the model it is (22.5)."""
        meta = {"claudecode/toolUseId": call_id}
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        return await self.request("tools/call", params, timeout)

    def end(self) -> None:
        """Close its input, which ends it (17.8)."""
        if self._process and self._process.stdin:
            self._process.stdin.close()

    def _send(self, message: Json) -> None:
        assert self._process and self._process.stdin
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            if message.get("method") == "ping":
                self._send({"id": message["id"], "result": {}})
            elif message.get("method") == "notifications/claude/channel":
                self._pushed(message["params"])
            elif "method" not in message and message["id"] in self._pending:
                _set(self._pending[message["id"]], message)
        await process.wait()
        for answer in self._pending.values():
            _set(answer, {})


def _set(answer: asyncio.Future[Json], message: Json) -> None:
    if not answer.done():  # given up meanwhile
        answer.set_result(message)
