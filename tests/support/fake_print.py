"""A small process that stands in for `claude -p` with stream-json both ways.

It keeps to docs/claude-cli.md 2 and 34 in what claudedo relies on: when what is said is given back,
what is joined, what enters the context in the middle of a turn, permission requests, interrupts,
refusals of the API, exit codes, and the transcript. Its model does what the texts that it gets
tell it: each line of them that is an order, one after the other; `TIMES` counts over all processes
of the conversation, and what a process did not come to is done by the next one.

    say TEXT                 answer with this text
    run COMMAND              use Bash, which needs no permission
    ask COMMAND              use Bash, which does
    question TEXT            ask the user
    call TOOL {JSON}         use a tool of claudedo
    cost DOLLARS             have spent that much more
    background SECONDS       begin work beside the turns; its end starts one
    refuse TIMES STATUS WORD the API refuses (STATUS 0: it cannot be reached)
    retry STATUS WORD        the CLI goes on trying, and says so, until it is interrupted
    die TIMES CODE           end at once; above 128 by that signal
    vanish FILE              be killed before a line is written, unless FILE is there (it is made)
    stubborn                 from here on only SIGKILL ends it
    hang                     wait until it is interrupted
    garbage TEXT             write a line that is no JSON
    complain TEXT            write a line to the error output
    turns                    end with the error of --max-turns
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.fake_conversation import Json, Transcript
from tests.support.fake_server import VERSION, Server

ORDERS = (
    *("say", "run", "ask", "question", "call", "cost", "background", "refuse", "retry", "die"),
    *("vanish", "stubborn", "hang", "garbage", "complain", "turns"),
)
ORDER = re.compile(rf"^({'|'.join(ORDERS)})\b ?(.*)$", re.MULTILINE)
FLUSH = 0.1  # seconds for which a transcript line stays in memory (11.3)
REJECTED = "The user doesn't want to proceed with this tool use."


class Refused(Exception):
    """The API does not answer."""


class Print:
    """One process of one conversation."""

    def __init__(self, given: argparse.Namespace) -> None:
        config = Path(os.environ["CLAUDE_CONFIG_DIR"])
        self._conversation = Path(given.resume or given.session_id).stem
        self.transcript = Transcript(config, self._conversation)
        self._folder = config / "fake-print"
        self._budget = float(given.max_budget_usd) if given.max_budget_usd else None
        self._mcp = given.mcp_config
        self._server: Server | None = None
        self._waiting: list[tuple[str, str]] = []  # uuid, text
        self._arrived = asyncio.Event()
        self._eof = False
        self._seen: set[str] = set()
        self._requests: dict[str, asyncio.Future[Json]] = {}
        self._denials: list[Json] = []
        self._cost = 0.0
        self._failed = False
        self._stubborn = False
        self._turn: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Take turns until the input ends; the exit code is that of the last one."""
        reading = asyncio.create_task(self._read())
        flushing = asyncio.create_task(self._flush_always())
        while True:
            while not self._waiting and not (self._eof and not self._beside):
                self._arrived.clear()
                await self._arrived.wait()
            if not self._waiting:
                break
            self._turn = asyncio.create_task(self._take_turn())
            with suppress(asyncio.CancelledError):
                await self._turn
        reading.cancel()
        flushing.cancel()
        self.transcript.flush()
        return 1 if self._failed else 0

    # Input

    async def _read(self) -> None:
        reader = asyncio.StreamReader(limit=64 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if line.strip():
                self._take(json.loads(line))
        self._eof = True
        self._arrived.set()

    def _take(self, value: Json) -> None:
        match value["type"]:
            case "user":
                self._take_text(value.get("uuid") or str(uuid.uuid4()), value["message"]["content"])
            case "control_response":
                response = value["response"]
                answer = self._requests.pop(response["request_id"], None)
                self._write(value)
                if answer is not None and not answer.done():
                    answer.set_result(response["response"])
            case "control_request":
                self._interrupt(value["request_id"])

    def _take_text(self, own: str, text: str) -> None:
        if own in self._seen:
            self._echo(own, text)
            return
        self._seen.add(own)
        if self._turn is not None and not self._turn.done():
            self.transcript.queue("enqueue", text)
        self._waiting.append((own, text))
        self._arrived.set()

    def _interrupt(self, request_id: str) -> None:
        if self._stubborn:
            return
        response = {"subtype": "success", "request_id": request_id, "response": {}}
        self._write({"type": "control_response", "response": response})
        for pending in self._requests:
            self._write({"type": "control_cancel_request", "request_id": pending})
        self._requests.clear()
        if self._turn is not None and not self._turn.done():
            self._turn.cancel()

    # Turns

    async def _take_turn(self) -> None:
        taken, self._waiting = self._waiting, []
        self._denials = []
        self._system("init", mcp_servers=[{"name": "claudedo", "status": "connected"}])
        text = "\n".join(text for _, text in taken)
        for own, single in taken[:-1]:
            self._echo(own, single)
        self._echo(taken[-1][0], text)
        message = {"role": "user", "content": text}
        self.transcript.chained("user", message=message, promptSource="sdk")
        self._plan(text)
        said = "done"
        try:
            while todo := self._todo():
                said = await self._do(todo) or said
                self._absorb()
            self._answer([{"type": "text", "text": said}])
        except Refused as refusal:
            self._refuse(*refusal.args)
        except asyncio.CancelledError:
            self.transcript.chained("user", message={"content": "[Request interrupted by user]"})
            self._result(subtype="error_during_execution", is_error=True)
            raise
        else:
            self._end_turn(said)

    def _end_turn(self, said: str) -> None:
        self._cost += 0.01
        if self._budget is not None and self._cost > self._budget:
            self._result(subtype="error_max_budget_usd", is_error=True, errors=["budget"])
        elif said == "turns":
            self._result(subtype="error_max_turns", is_error=True, errors=["turns"])
        else:
            self._result(subtype="success", is_error=False, result=said)

    def _absorb(self) -> None:
        """What came while a tool ran enters with the next request of the turn."""
        waiting, self._waiting = self._waiting, []
        for own, text in waiting:
            queued = {"type": "queued_command", "prompt": text, "source_uuid": own}
            self.transcript.chained("attachment", attachment=queued)
            self._echo(own, text)
            self._plan(text)

    async def _do(self, todo: str) -> str | None:
        """Carry out one order; returns what the model says at the end because of it."""
        order, _, rest = todo.partition(" ")
        match order:
            case "say":
                return rest
            case "run":
                await self._use("Bash", {"command": rest})
            case "ask":
                await self._use("Bash", {"command": rest}, ask=True)
            case "question":
                options = [{"label": "yes"}, {"label": "no"}]
                questions = [{"question": rest, "header": "x", "options": options}]
                await self._use("AskUserQuestion", {"questions": questions}, ask=True)
            case "call":
                tool, _, given = rest.partition(" ")
                await self._use(f"mcp__claudedo__{tool}", json.loads(given))
            case "cost":
                self._cost += float(rest)
            case "background":
                self._beside.add(asyncio.create_task(self._work_beside(float(rest))))
            case "refuse" if (words := self._counted("refuse", rest)) is not None:
                raise Refused(*words)
            case "retry":
                await self._retry(*rest.split())
            case "die" if (words := self._counted("die", rest)) is not None:
                self._die(int(words[0]))
            case "vanish" if not Path(rest).exists():
                Path(rest).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "stubborn":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._stubborn = True
            case "hang":
                await asyncio.sleep(3600)
            case "garbage":
                sys.stdout.write(f"{rest}\n")
                sys.stdout.flush()
            case "complain":
                sys.stderr.write(f"{rest}\n")
                sys.stderr.flush()
            case "turns":
                return "turns"
        return None

    def _counted(self, order: str, rest: str) -> list[str] | None:
        """The words behind the number of times, of which one is over; None if it was the last."""
        times, *words = rest.split()
        if int(times) <= 0:
            return None
        self._keep([f"{order} {int(times) - 1} {' '.join(words)}", *self._kept()])
        return words

    def _die(self, code: int) -> None:
        self.transcript.flush()
        if code > 128:
            signal.signal(code - 128, signal.SIG_DFL) if code != 137 else None
            os.kill(os.getpid(), code - 128)
        os._exit(code)

    async def _retry(self, status: str, word: str) -> None:
        for attempt in range(1, 1000):
            fields = {"attempt": attempt, "max_retries": 10, "retry_delay_ms": 200.5}
            self._system("api_retry", error_status=int(status) or None, error=word, **fields)
            await asyncio.sleep(0.2)

    async def _work_beside(self, seconds: float) -> None:
        own = uuid.uuid4().hex[:8]
        self._system("task_started", task_id=own)
        await asyncio.sleep(seconds)
        self._system("task_notification", task_id=own, status="completed")
        self._beside.clear()
        self._take_text(str(uuid.uuid4()), "<task-notification>")

    # Tools

    async def _use(self, tool: str, given: Json, *, ask: bool = False) -> None:
        own = f"toolu_{uuid.uuid4().hex[:24]}"
        call = {"type": "tool_use", "id": own, "name": tool, "input": given}
        line = self._answer([call])
        decision: Json = {"behavior": "allow"}
        if ask:
            decision = await self._permission(call)
        if decision["behavior"] == "deny":
            self._denials.append({"tool_name": tool, "tool_use_id": own, "tool_input": given})
            self._give(own, line, decision["message"], failed=True)
            return
        given = decision.get("updatedInput", given)
        if tool == "Bash":
            shell = await asyncio.create_subprocess_shell(
                given["command"], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            said, _ = await shell.communicate()
            text, failed = said.decode(), shell.returncode != 0
        elif tool.startswith("mcp__"):
            text, failed = await self._use_server(tool.rpartition("__")[2], given, own)
        else:
            text, failed = json.dumps(given.get("answers", given)), False
        self._give(own, line, text, failed=failed)

    async def _permission(self, call: Json) -> Json:
        request_id = str(uuid.uuid4())
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._requests[request_id] = answer
        request = {"subtype": "can_use_tool", "tool_name": call["name"], "input": call["input"]}
        rule = {"toolName": call["name"], "ruleContent": "x"}
        suggested = [{"type": "addRules", "rules": [rule], "behavior": "allow"}]
        request |= {"tool_use_id": call["id"], "permission_suggestions": suggested}
        self._write({"type": "control_request", "request_id": request_id, "request": request})
        return await answer

    async def _use_server(self, tool: str, given: Json, call_id: str) -> tuple[str, bool]:
        if self._server is None:
            [entry] = json.loads(Path(self._mcp).read_text())["mcpServers"].values()
            self._server = Server(entry, lambda _pushed: None)
            await self._server.start()
        result = await self._server.call(tool, given, call_id, 20)
        if structured := result.get("structuredContent"):
            return json.dumps(structured), bool(result.get("isError"))
        return "".join(part["text"] for part in result.get("content", [])), True

    def _give(self, own: str, line: str, text: str, *, failed: bool) -> None:
        content = [{"type": "text", "text": text}]
        result = {"type": "tool_result", "tool_use_id": own, "is_error": failed}
        message = {"role": "user", "content": [{**result, "content": content}]}
        self.transcript.chained("user", line, message=message)
        self._write({"type": "user", "message": message})

    # Output

    def _answer(self, blocks: list[Json]) -> str:
        message: Json = {"id": f"msg_{uuid.uuid4().hex[:24]}", "role": "assistant", "model": "fake"}
        message |= {"content": blocks}
        self._write({"type": "assistant", "message": message, "parent_tool_use_id": None})
        return self.transcript.chained("assistant", message=message)

    def _refuse(self, status: str, word: str) -> None:
        text = f"API Error: {status} {word}"
        message: Json = {"id": str(uuid.uuid4()), "role": "assistant", "model": "<synthetic>"}
        message |= {"content": [{"type": "text", "text": text}]}
        self._write({"type": "assistant", "message": message, "error": word})
        self.transcript.chained("assistant", message=message, isApiErrorMessage=True, error=word)
        code = int(status) or None
        self._result(subtype="success", is_error=True, result=text, api_error_status=code)

    def _result(self, **fields: Any) -> None:
        self._failed = fields["is_error"]
        fields |= {"total_cost_usd": round(self._cost, 6), "permission_denials": self._denials}
        self._write({"type": "result", **fields})

    def _system(self, subtype: str, **fields: Any) -> None:
        self._write({"type": "system", "subtype": subtype, **fields})

    def _echo(self, own: str, text: str) -> None:
        message = {"role": "user", "content": text}
        self._write({"type": "user", "message": message, "uuid": own, "isReplay": True})

    def _write(self, value: Json) -> None:
        sys.stdout.write(json.dumps({**value, "session_id": self._conversation}) + "\n")
        sys.stdout.flush()

    async def _flush_always(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            self.transcript.flush()

    # What is to be done, over all processes

    def _plan(self, text: str) -> None:
        self._keep([*self._kept(), *(found[0] for found in ORDER.finditer(text))])

    def _todo(self) -> str | None:
        kept = self._kept()
        self._keep(kept[1:])
        return kept[0] if kept else None

    @property
    def _file(self) -> Path:
        return self._folder / f"{self._conversation}.json"

    def _kept(self) -> list[str]:
        return list(json.loads(self._file.read_text())) if self._file.exists() else []

    def _keep(self, orders: list[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(orders))


async def _run(given: argparse.Namespace) -> int:
    process = Print(given)
    exists = process.transcript.path.exists()
    if given.resume and not exists:
        sys.stderr.write(f"No conversation found with session ID: {given.resume}\n")
        return 1
    if given.session_id and exists:
        sys.stderr.write(f"Error: Session ID {given.session_id} is already in use.\n")
        return 1
    if given.resume:
        process.transcript.resume()

    def terminate() -> None:
        process.transcript.flush()
        os._exit(143)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    return await process.run()


def main() -> int:
    """Read the flags that claudedo passes, and live."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{VERSION} (Claude Code)\n")
        return 0
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--session-id", "--resume", "--settings", "--append-system-prompt-file"):
        parser.add_argument(flag)
    for flag in ("--permission-mode", "--name", "--model", "--mcp-config", "--allowedTools"):
        parser.add_argument(flag)
    for flag in ("--input-format", "--output-format", "--permission-prompt-tool"):
        parser.add_argument(flag, required=True)
    for flag in ("-p", "--verbose", "--replay-user-messages"):
        parser.add_argument(flag, action="store_true", required=True)
    parser.add_argument("--max-budget-usd")
    given, unknown = parser.parse_known_args()
    if unknown:
        sys.stderr.write(f"error: unknown option '{unknown[0]}'\n")
        return 1
    return asyncio.run(_run(given))
