"""An independent `claude`, connected only by a token: pushes, replies, prompts, a new worker."""

from __future__ import annotations

import json
import signal
import time
from datetime import datetime, timedelta
from typing import Any

import pexpect
import pytest

from claudedo.demo.model import ModelRequest, Rules, ToolUse
from tests.support.world import PATIENCE, World

pytestmark = pytest.mark.acceptance

FLAG = "--dangerously-load-development-channels"
WARNING = "Loading development channels"


class Independent:
    """A `claude` in a terminal of its own, with what `token create --mcp-json` printed."""

    def __init__(self, world: World, name: str, *options: str) -> None:
        self.world = world
        self.name = name
        created = world.run("token", "create", "--name", name, "--mcp-json", *options)
        self.configuration = world.root / f"{name}.json"
        self.configuration.write_text(created.stdout)
        environment = {k: v for k, v in world.environment.items() if "CLAUDEDO" not in k}
        self._terminal: Any = pexpect.spawn(
            str(world.claude),
            [
                *("--mcp-config", str(self.configuration), FLAG, "server:claudedo"),
                *("--allowedTools", "mcp__claudedo", "--permission-mode", "default"),
            ],
            cwd=str(world.repository),
            env=environment,
            dimensions=(40, 100),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        self.pid = self._terminal.pid

    def begin(self) -> None:
        """Get past the warning about channels, and wait until it is idle."""
        self._terminal.expect(WARNING.replace(" ", r".{1,8}?"))
        time.sleep(0.4)  # newer versions take no key right after drawing (19.4)
        self._terminal.send("\r")
        self.world.wait_for(self.is_idle, f"{self.name} is not idle")

    def is_idle(self) -> bool:
        """True while its registry file says so."""
        self.drain()
        entry = self.world.home / ".claude/sessions" / f"{self.pid}.json"
        if not entry.exists():
            return False
        try:
            return bool(json.loads(entry.read_text()).get("status") == "idle")
        except ValueError:
            return False  # it is being written

    def drain(self) -> str:
        """What it drew since; unread, it would stand still."""
        text = ""
        while True:
            try:
                text += self._terminal.read_nonblocking(65536, timeout=0)
            except (pexpect.TIMEOUT, pexpect.EOF):
                return text

    def ask_to(self, word: str, command: str) -> dict[str, Any]:
        """Let its person say a word at which it wants to run a command; the ask of that."""
        self._terminal.send(word)
        self._terminal.expect_exact(word)
        self._terminal.send("\r")
        return self.world.wait_for(lambda: self._asked(command), f"{self.name} does not ask")

    def _asked(self, command: str) -> dict[str, Any] | None:
        self.drain()
        asks = self.world.ask(lambda worker: worker.asks())
        return next((ask for ask in asks if command in ask["title"]), None)

    def tell(self, word: str) -> str:
        """Send it a word; returns the message's id."""
        task, key = self.world.id(self.name), f"{self.name}-{word}"
        sent = self.world.ask(
            lambda worker: worker.send(task, word, priority="normal", reply_to=None, key=key)
        )
        return str(sent["id"])

    def await_answer(self, word: str, message: str) -> ModelRequest:
        """Wait until it answered a word by a tool call; returns the request with the word."""
        request = self.world.wait_for(lambda: self._heard(word), f"{self.name} heard no {word}")
        answer = self.world.wait_for(lambda: self._answered(word), f"{self.name} did not answer")
        assert answer["sender"] == f"token:{self.token}"
        self.world.await_rung(self.name, message, "delivered")
        return request

    def _heard(self, word: str) -> ModelRequest | None:
        self.drain()
        return next(iter(self.world.requests_with(word)), None)

    def _answered(self, word: str) -> dict[str, Any] | None:
        self.drain()
        thread = self.world.ask(lambda worker: worker.thread(self.world.id(self.name)))
        return next((one for one in thread if one["body"] == f"heard {word}"), None)

    @property
    def token(self) -> str:
        tokens = self.world.ask(lambda worker: worker.tokens())
        return str(next(one["id"] for one in tokens if one["name"] == self.name))

    def close(self) -> None:
        self._terminal.kill(signal.SIGKILL)
        self._terminal.wait()
        self._terminal.close()


def brain(name: str) -> Rules:
    """Wants to run a command at `BEGIN-NAME`; answers each word that it is told."""
    hear = "mcp__claudedo__send_to_task"
    heard = [
        (f"{word}-{name}", ToolUse(hear, {"task_id": name, "body": f"heard {word}-{name}"}))
        for word in ("ONE", "TWO")
    ]
    begin = (f"BEGIN-{name}", ToolUse("Bash", {"command": f"touch by-{name}"}))
    return Rules([begin, *heard])


def test_an_independent_claude_is_pushed_to_answers_and_asks_until_its_token_ends(
    world: World,
) -> None:
    world.run("worker", "start")
    laptop, desk = Independent(world, "laptop"), Independent(world, "desk", "--sse")
    try:
        for one in (laptop, desk):
            world.model.script(f"BEGIN-{one.name}", brain(one.name))
            one.begin()

        # Its permission prompts are asks here.
        ask = laptop.ask_to("BEGIN-laptop", "touch by-laptop")
        assert world.run("allow", "laptop").stdout == "laptop: allowed: Bash: touch by-laptop\n"
        world.wait_for((world.repository / "by-laptop").exists, "it was not allowed")
        assert world.run("allow", ask["id"], check=False).returncode == 5
        desk.ask_to("BEGIN-desk", "touch by-desk")
        world.run("deny", "desk", "-m", "REASON")
        world.model.wait_for(lambda r: r.is_main and "REASON" in r.latest, PATIENCE)
        for one in (laptop, desk):
            world.wait_for(one.is_idle, f"{one.name} is not idle")
        assert not (world.repository / "by-desk").exists()

        # Pushed while idle, over HTTP and over SSE, and again by the next worker.
        for one in (laptop, desk):
            message = one.tell(f"ONE-{one.name}")
            request = one.await_answer(f"ONE-{one.name}", message)
            offered = world.message(one.name, message)["receipts"]["offered_at"]
            assert request.time - datetime.fromisoformat(offered) < timedelta(seconds=3)
            assert '<channel source="claudedo" chat_id="t_' in request.latest
            assert 'sender="user" user="human"' in request.latest
        world.kill_worker()
        world.run("worker", "start")
        sent = {one.name: one.tell(f"TWO-{one.name}") for one in (laptop, desk)}
        for one in (laptop, desk):
            one.await_answer(f"TWO-{one.name}", sent[one.name])

        # Cut off.
        world.run("token", "revoke", "laptop")
        rotated = world.run("token", "rotate", "desk", "-q").stdout.strip()
        assert rotated not in desk.configuration.read_text()
        sent = {one.name: one.tell("THREE") for one in (laptop, desk)}
        time.sleep(1)  # for a push that must not come
        for name, message in sent.items():
            assert world.message(name, message)["receipts"]["offered_at"] is None
        assert world.requests_with("THREE") == []
    finally:
        for one in (laptop, desk):
            one.close()
