"""A small process that stands in for `claude` where numbers matter: many kills, many turns.

It keeps to docs/claude-cli.md in what claudedo relies on: start-up dialog and registry file (3,
8.4, 16), MCP handshake over stdio (4, 17), hooks as calls of a hidden tool and as commands (6, 15,
22), what is queued and when it enters the context (4.5-4.7, 8.1), the transcript (9.3, 11), what a
`kill -9` loses (11.6) and what `--resume` brings back. Its model decides by lot, seeded. It knows
nothing of claudedo's protocol but the arguments of two tools.

A line `ask TOOL {INPUT}` in a text lets its model call that tool, and the call need permission: the
held hook and the dialog are asked at once (13, 28). Enter in the terminal allows, Esc refuses and
ends the turn. An allowed tool does nothing and gives back its input.

Environment: FAKE_CLAUDE_TRUTH (see `fake_conversation`), FAKE_CLAUDE_SEED, FAKE_CLAUDE_LETTERS (how
many messages it may write to its peers), FAKE_CLAUDE_DEAF (names of tasks whose session has no
channels, separated by commas).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import termios
import time
import tty
import uuid
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tests.support.fake_conversation import Json, Transcript, Truth, marks
from tests.support.fake_server import VERSION, Server

T = TypeVar("T")
ASKED = re.compile(r"message (m_[0-9A-Z]{26}) from the peer session")
ASKS = re.compile(r"^ask (\w+) (\{.*\})$", re.MULTILINE)
REJECTED = "The user doesn't want to proceed with this tool use. The tool use was rejected."
REMINDED = "call `mcp__claudedo__check_inbox` now"
FLUSH = 0.1  # seconds for which a transcript line stays in memory (11.3)
STOP_LIMIT = 8  # how often the end of one turn may be put off (6.9)
POINTER = "\u276f"  # marks the chosen option, and the input box
DIALOG = f"""\
WARNING: Loading development channels\r
Channels: server:claudedo\r
\r
{POINTER} 1. I am using this for local development\r
  2. Exit\r
\r
Enter to confirm · Esc to cancel\r
"""
BOX = f"{'─' * 40}\r\n{POINTER} \r\n{'─' * 40}\r\n"


class Claude:
    """One process: a conversation, a queue, a terminal, a server, hooks."""

    def __init__(self, given: argparse.Namespace) -> None:
        config = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path(os.environ["HOME"], ".claude"))
        self._transcript = Transcript(config, Path(given.resume or given.session_id).stem)
        self._registry = config / "sessions" / f"{os.getpid()}.json"
        self._name = given.name
        self._hooks = json.loads(Path(given.settings).read_bytes())["hooks"]
        servers = json.loads(Path(given.mcp_config).read_bytes())["mcpServers"]
        self._server = Server(servers["claudedo"], self._channel_message)
        self._channels = given.name not in os.environ.get("FAKE_CLAUDE_DEAF", "").split(",")
        self._truth = Truth(given.name)
        self._lots = random.Random(
            f"{os.environ['FAKE_CLAUDE_SEED']} {given.name} {self._truth.count('began')}"
        )
        self._letters = int(os.environ.get("FAKE_CLAUDE_LETTERS", "0"))
        self._letters -= self._truth.count("sending")
        self._queue: list[tuple[str, str]] = []  # origin, text
        self._queued = asyncio.Event()
        self._typed = bytearray()
        self._confirmed = asyncio.Event()
        self._dialog: asyncio.Future[bool] | None = None  # a permission prompt that is open
        self._new: list[str] = []  # texts that the next request tells for the first time
        self._unanswered: list[str] = []  # marks in the context, until the next answer
        self._jobs: set[asyncio.Task[Any]] = set()
        self._waiters: set[asyncio.subprocess.Process] = set()
        self._ending = asyncio.Event()
        self._status = 0

    async def run(self, resume: bool) -> int:
        """Live until told to end; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number, status in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            loop.add_signal_handler(number, self._end, status)
        loop.add_reader(0, self._read_keys)
        told = self._transcript.resume() if resume else []
        self._unanswered = marks(told)
        self._truth.record("began", bodies=self._unanswered)
        life = asyncio.create_task(self._live(resume))
        life.add_done_callback(lambda _: self._end(1))  # only an error ends it
        await self._ending.wait()
        if not life.done():
            life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        self._transcript.flush()
        self._registry.unlink(missing_ok=True)
        self._server.end()
        for waiter in self._waiters:  # as newer versions do (15.5)
            with suppress(ProcessLookupError):
                waiter.kill()
        return self._status

    def _end(self, status: int) -> None:
        if not self._ending.is_set():
            self._status = status
            self._ending.set()

    async def _live(self, resume: bool) -> None:
        if self._channels:
            _show(DIALOG)
            await self._confirmed.wait()
        self._job(self._flush_always())
        _show(
            "\x1b[2J\x1b[H" + ("" if self._channels else "Channels are not currently available\r\n")
        )
        _show(BOX)
        starting = self._job(self._server.start())
        self._say("idle")
        await self._session_start("resume" if resume else "startup")
        await starting
        while True:
            await self._queued.wait()
            await self._turn()

    # What comes in

    def _read_keys(self) -> None:
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        if not data:
            return self._end(129)
        for byte in data:
            if self._dialog is not None and byte in (0x0D, 0x1B):
                _set(self._dialog, byte == 0x0D)
            elif byte == 0x15:
                self._typed.clear()
            elif byte != 0x0D:
                self._typed.append(byte)
            else:
                text = self._typed.decode(errors="replace")
                self._typed.clear()
                self._submit(text)
        return None

    def _submit(self, text: str) -> None:
        if not self._confirmed.is_set() and self._channels:
            self._confirmed.set()
        elif text == "/exit":
            self._end(0)
        elif text == "/mcp reconnect claudedo":
            self._job(self._server.start())
        elif text:
            self._enqueue("human", text)

    def _channel_message(self, params: Json) -> None:
        if not self._channels:
            return  # dropped silently (4.2)
        meta = "".join(f' {key}="{value}"' for key, value in params.get("meta", {}).items())
        body = params["content"].replace("</channel", "<\\/channel")
        text = f'<channel source="claudedo"{meta}>\n{body}\n</channel>'
        self._enqueue("channel", text)

    def _enqueue(self, origin: str, text: str) -> None:
        self._transcript.queue("enqueue", text)
        self._queue.append((origin, text))
        self._queued.set()

    # A turn

    async def _turn(self) -> None:
        self._say("busy")
        for origin, text in self._take_queue():
            self._transcript.queue("dequeue")
            source = "typed" if origin == "human" else "system"
            self._tell(text)
            self._transcript.chained(
                "user",
                message={"role": "user", "content": text},
                origin={"kind": origin},
                promptSource=source,
                isMeta=origin != "human",
            )
            self._attach("UserPromptSubmit", await self._hook("UserPromptSubmit"))
        await self._answer_until_done()
        self._say("idle")

    async def _answer_until_done(self) -> None:
        steps, stops = self._lots.choice((0, 0, 1, 1, 2, 3)), 0
        while True:
            await self._request()
            calls = self._choose(steps)
            steps -= 1
            if calls:
                ended = await self._batch(calls)
                if ended:
                    return
                self._absorb_queue()
                continue
            self._assistant([{"type": "text", "text": "Done."}])
            output = await self._hook("Stop", stop_hook_active=stops > 0)
            self._start_waiters("Stop")
            if not self._attach("Stop", output) or stops == STOP_LIMIT:
                return
            stops += 1

    async def _request(self) -> None:
        """Ask the model; what is new in the context is told to it now."""
        self._obey = any(REMINDED in text for text in self._new)
        self._latest = "\n".join(self._new)
        bodies = marks(self._new)
        self._new.clear()
        self._truth.record("request", bodies=bodies)
        self._unanswered += bodies
        await asyncio.sleep(self._lots.uniform(0.02, 0.3))
        self._truth.record("answered", bodies=self._unanswered)
        self._unanswered = []

    def _choose(self, steps: int) -> list[Json]:
        """The calls of the model's answer; none ends the turn."""
        if asked := ASKS.findall(self._latest):
            return [_call(tool, json.loads(given)) | {"asks": True} for tool, given in asked]
        calls = []
        if self._obey and self._lots.random() < 0.9:
            calls.append(_call("check_inbox", {}))
        if steps > 0:
            calls += [self._one_call() for _ in range(self._lots.choice((1, 1, 2, 3)))]
        self._lots.shuffle(calls)
        return calls

    def _one_call(self) -> Json:
        lot = self._lots.random()
        peers = [peer for peer in os.environ.get("CLAUDEDO_PEERS", "").split(",") if peer]
        if lot < 0.45 and peers and self._letters > 0:
            self._letters -= 1
            asked = ASKED.findall(self._latest)
            reply = {"reply_to": asked[-1]} if asked and self._lots.random() < 0.5 else {}
            mark = f"mail-{self._lots.getrandbits(64):016x}"
            body = {"body": f"{mark} written by {self._name}", "peer": self._lots.choice(peers)}
            return _call("send_to_peer", body | reply)
        return _call("check_inbox", {}) if lot < 0.55 else _call("Bash", {"command": "sleep"})

    async def _batch(self, calls: list[Json]) -> bool:
        """Run calls side by side; True if a hook ends the turn after them (14.2)."""
        lines = self._assistant([{k: v for k, v in call.items() if k != "asks"} for call in calls])
        if any("asks" in call for call in calls):
            return await self._ask_and_run(calls, lines)
        runs = (self._run(call, line) for call, line in zip(calls, lines, strict=True))
        await asyncio.gather(*runs)
        output = await self._hook("PostToolBatch")
        self._attach("PostToolBatch", output)
        return output.get("continue") is False

    async def _run(self, call: Json, line: str) -> None:
        decision = (
            await self._hook("PreToolUse", tool_name=call["name"], tool_use_id=call["id"])
        ).get("hookSpecificOutput") or {}
        failed = decision.get("permissionDecision") == "deny"
        if failed:
            text = decision["permissionDecisionReason"]
        elif call["name"] == "Bash":
            await asyncio.sleep(self._lots.uniform(0.02, 0.4))
            text = ""
        else:
            text, failed = await self._use_server(call)
        self._give(call, line, text, failed=failed)

    async def _ask_and_run(self, calls: list[Json], lines: list[str]) -> bool:
        """Calls that need permission, one after the other (13.11); True if the turn ends."""
        for call, line in zip(calls, lines, strict=True):
            about = {"tool_name": call["name"], "tool_input": json.dumps(call["input"])}
            before = await self._hook("PreToolUse", tool_use_id=call["id"], **about)
            decided = before.get("hookSpecificOutput") or {}
            if decided.get("permissionDecision") == "deny":
                self._give(call, line, decided["permissionDecisionReason"], failed=True)
                continue
            text, failed = await self._permission(call, about)
            self._give(call, line, text, failed=failed)
            if text == REJECTED:
                return True
        output = await self._hook("PostToolBatch")
        self._attach("PostToolBatch", output)
        return output.get("continue") is False

    async def _permission(self, call: Json, about: Json) -> tuple[str, bool]:
        """Ask hook and terminal at once; what the model is told, and whether it was refused."""
        dialog: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._dialog = dialog
        suggested = '[{"type":"addRules","rules":[{"toolName":"Bash"}],"behavior":"allow"}]'
        held = self._job(self._hold(about | {"permission_suggestions": suggested}))
        self._say("waiting", "permission prompt")
        waits: list[asyncio.Future[Any]] = [held, dialog]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        self._dialog = None
        self._say("busy")
        if dialog.done():
            if not dialog.result():
                held.cancel()  # an allowed one stays open (13.5)
            return (json.dumps(call["input"]), False) if dialog.result() else (REJECTED, True)
        decision = held.result()
        if not decision:  # nobody decided: the dialog stays
            return await self._permission(call, about)
        allowed = decision["behavior"] == "allow"
        told = {"type": "hook_permission_decision", "decision": decision["behavior"]}
        told |= {"toolUseID": call["id"], "hookEvent": "PermissionRequest"}
        self._transcript.chained("attachment", attachment=told)
        given = decision.get("updatedInput", call["input"])
        return (json.dumps(given), False) if allowed else (decision["message"], True)

    async def _hold(self, about: Json) -> Json:
        """The decision of the held hook; `{}` if it has none."""
        output = await self._hook("PermissionRequest", **about)
        return dict((output.get("hookSpecificOutput") or {}).get("decision") or {})

    def _give(self, call: Json, line: str, text: str, *, failed: bool) -> None:
        self._tell(text)
        result = {"type": "tool_result", "tool_use_id": call["id"], "is_error": failed}
        content = [{**result, "content": [{"type": "text", "text": text}]}]
        # Results hang on their own calls: of a parallel batch only the last is on the chain.
        self._transcript.chained("user", line, message={"role": "user", "content": content})

    async def _use_server(self, call: Json) -> tuple[str, bool]:
        tool = call["name"].rpartition("__")[2]
        if tool == "send_to_peer":
            self._truth.record("sending", body=marks([call["input"]["body"]])[0])
        result = await self._server.call(tool, call["input"], call["id"], None)
        if not result:
            return "The connection to the MCP server was closed.", True
        if tool == "send_to_peer" and not result.get("isError"):
            self._truth.record("sent", body=marks([call["input"]["body"]])[0])
        if structured := result.get("structuredContent"):
            return json.dumps(structured), bool(result.get("isError"))  # what the model gets (12.0)
        return "".join(part["text"] for part in result["content"]), bool(result.get("isError"))

    def _absorb_queue(self) -> None:
        """What came while the tools ran is told in the next request of the turn (4.6, 8.1)."""
        for origin, text in self._take_queue():
            self._transcript.queue("remove")
            if origin != "channel":  # framed as untrusted, not to be acted on: no body
                self._tell(text)
            queued = {"type": "queued_command", "prompt": text, "origin": {"kind": origin}}
            self._transcript.chained("attachment", attachment=queued)

    def _take_queue(self) -> list[tuple[str, str]]:
        taken, self._queue = self._queue, []
        self._queued.clear()
        return taken

    # Hooks

    async def _hook(self, event: str, **fields: Any) -> Json:
        """The answer of the event's hook, `{}` if it has nothing to say (22)."""
        fields |= {"hook_event_name": event, "session_id": self._transcript.conversation}
        fields["transcript_path"] = str(self._transcript.path)
        answer: Json = {}
        for entry in self._entries(event):
            if entry["type"] == "mcp_tool":
                given = {key: _filled(value, fields) for key, value in entry["input"].items()}
                timeout = entry.get("timeout", 60)
                result = await self._server.call(entry["tool"], given, "", timeout)
                for part in result.get("content") or []:
                    answer |= json.loads(part["text"])
        return answer

    def _attach(self, event: str, output: Json) -> bool:
        text = (output.get("hookSpecificOutput") or {}).get("additionalContext")
        if not text:
            return False
        self._tell(text)
        context = {"type": "hook_additional_context", "content": [text], "hookEvent": event}
        attachment = {**context, "toolUseID": str(uuid.uuid4())}
        self._transcript.chained("attachment", attachment=attachment)
        return True

    async def _session_start(self, source: str) -> None:
        payload = {"hook_event_name": "SessionStart", "source": source}
        for entry in self._entries("SessionStart"):
            if entry["type"] == "command" and not entry.get("asyncRewake"):
                await (await self._command(entry, payload)).communicate()
        self._start_waiters("SessionStart")

    def _start_waiters(self, event: str) -> None:
        for entry in self._entries(event):
            if entry.get("asyncRewake"):
                self._job(self._wait_beside(entry, event))

    async def _wait_beside(self, entry: Json, event: str) -> None:
        process = await self._command(entry, {"hook_event_name": event})
        self._waiters.add(process)
        _, words = await process.communicate()
        self._waiters.discard(process)
        if process.returncode == 2:  # anything else is silent (15.3)
            self._enqueue("task-notification", f"<task-notification>\n{words.decode()}")

    async def _command(self, entry: Json, payload: Json) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            entry["command"],
            *entry["args"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        known = {"session_id": self._transcript.conversation}
        known["transcript_path"] = str(self._transcript.path)
        assert process.stdin is not None
        process.stdin.write(json.dumps(payload | known).encode())
        process.stdin.close()
        return process

    def _entries(self, event: str) -> Iterable[Json]:
        return (entry for group in self._hooks.get(event, []) for entry in group["hooks"])

    # What goes out

    def _assistant(self, blocks: list[Json]) -> list[str]:
        """One answer, a line for each of its blocks; returns their uuids."""
        message = {"id": f"msg_{uuid.uuid4().hex[:24]}", "role": "assistant", "model": "fake"}
        return [
            self._transcript.chained("assistant", message={**message, "content": [block]})
            for block in blocks
        ]

    def _tell(self, text: str) -> None:
        self._new.append(text)

    def _say(self, status: str, waiting_for: str | None = None) -> None:
        """Write the registry file (8.4)."""
        entry = {"pid": os.getpid(), "sessionId": self._transcript.conversation}
        entry |= {"cwd": str(Path.cwd()), "status": status, "version": VERSION, "name": self._name}
        entry |= {"waitingFor": waiting_for} if waiting_for else {}
        self._registry.parent.mkdir(parents=True, exist_ok=True)
        self._registry.write_text(json.dumps({**entry, "updatedAt": int(time.time() * 1000)}))

    async def _flush_always(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            self._transcript.flush()

    def _job(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job


def _call(tool: str, given: Json) -> Json:
    name = tool if tool[0].isupper() else f"mcp__claudedo__{tool}"
    own = f"toolu_{uuid.uuid4().hex[:24]}"
    return {"type": "tool_use", "id": own, "name": name, "input": given}


def _set(answer: asyncio.Future[bool], value: bool) -> None:
    if not answer.done():
        answer.set_result(value)


def _filled(value: str, fields: Json) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: str(fields.get(found[1], "")), value)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"{sentence}\n")
    raise SystemExit(1)


def main() -> int:
    """Read the flags that claudedo passes, refuse what the real one refuses (1.3, 1.4), live."""
    if sys.argv[1:] == ["--version"]:
        _show(f"{VERSION} (Claude Code)\n")
        return 0
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for flag in ("--session-id", "--resume", "--settings", "--append-system-prompt-file"):
        parser.add_argument(flag)
    for flag in ("--permission-mode", "--name", "--model", "--mcp-config", "--allowedTools"):
        parser.add_argument(flag)
    parser.add_argument("--dangerously-load-development-channels")
    given = parser.parse_args()
    claude = Claude(given)
    exists = claude._transcript.path.exists()
    if given.resume and not exists:
        _fail(f"No conversation found with session ID: {given.resume}")
    if given.session_id and exists:
        _fail(f"Error: Session ID {given.session_id} is already in use.")
    tty.setraw(0, termios.TCSANOW)
    return asyncio.run(claude.run(resume=bool(given.resume)))
