"""A session asks a person and goes on with the answer, whatever dies or stops in between."""

from __future__ import annotations

import base64
import os
import re
from typing import Any

import pytest

from claudedo.demo.model import Answer, ModelRequest, Rules, Text, ToolUse
from tests.support.world import World

pytestmark = pytest.mark.acceptance

PLAN = b"the plan\0\xff"


def tool(name: str, **given: Any) -> ToolUse:
    return ToolUse(f"mcp__claudedo__{name}", given)


def ask_person(title: str) -> ToolUse:
    data = base64.b64encode(PLAN).decode()
    files = [{"filename": "plan.bin", "mimeType": "application/x-plan", "data": data}]
    body = "May I go on?"
    return tool("createTask", title=title, body=body, assignee="human", attachments=files)


def fetch(request: ModelRequest) -> Answer:
    found = re.search(r"attachments (f_\w+)\]", request.latest)
    assert found, request.latest
    return tool("downloadAttachment", attachmentId=found[1])


BRAIN = Rules(
    [
        ("ASK-ONE", ask_person("One")),
        ("ASK-TWO", ask_person("Two")),
        ("ASK-THREE", ask_person("Three")),
        ("FETCH-IT", fetch),
        ("HOW-FAR", tool("reply", text="Half of it is done.")),
        ("DELEGATE", tool("createTask", title="Helper", body="HELP-ME now", assignee="agent")),
    ],
    default=Text("ok"),
)


class Person:
    """What the person sees of the questions, and says to them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def question(self, title: str) -> dict[str, Any]:
        """Wait until it is asked; returns the ask."""
        return self.world.wait_for(lambda: self._open(title), f"nobody asks {title}")

    def _open(self, title: str) -> dict[str, Any] | None:
        asks = self.world.ask(lambda worker: worker.asks())
        return next((ask for ask in asks if ask["title"] == title), None)

    def arrives(self, ask: dict[str, Any], words: str) -> None:
        """Wait until the answer is in a request of the session, once, and said to be one."""
        text = f"[Response to task {ask['task']}]\n\n{words}\n"
        found = self.world.wait_for(lambda: self.world.requests_with(words), f"no {words}")
        assert text in found[0].latest
        assert found[-1].count(text) == 1


def test_a_session_asks_a_person_whatever_happens_between_and_hands_on_a_task(world: World) -> None:
    person = Person(world)
    world.model.otherwise(BRAIN)
    world.start("backend=ASK-ONE")
    first = person.question("One")
    [file] = world.ask(lambda worker: worker.thread(first["task"]))[0]["attachments"]
    saved = world.root / "saved"
    world.run("attachment", file["id"], "-o", str(saved))
    assert saved.read_bytes() == PLAN
    assert "waiting for you" in world.run("ls").stdout
    world.run("answer", "backend", "YES-ONE")
    person.arrives(first, "YES-ONE")

    world.send("backend", "ASK-TWO")
    second = person.question("Two")
    world.kill_worker()
    world.run("answer", second["id"], "YES-TWO")
    person.arrives(second, "YES-TWO")

    world.send("backend", "ASK-THREE")
    third = person.question("Three")
    world.await_state("backend", "idle")
    world.run("stop", "backend")
    world.run("deny", third["id"], "-m", "NO-THREE")
    assert world.json("show", "backend")["pending"] == 1
    world.run("restart", "backend")
    person.arrives(third, "rejected: NO-THREE")

    world.run("send", "backend", "HOW-FAR", "--wait", "answered", "--timeout", "60")
    said = world.ask(lambda worker: worker.thread(world.id("backend")))[-1]
    assert said["body"] == "Half of it is done."

    data = os.urandom(4000)
    (world.root / "noise.bin").write_bytes(data)
    world.send("backend", "FETCH-IT", "--attach", str(world.root / "noise.bin"))
    encoded = base64.b64encode(data).decode()
    got = world.wait_for(lambda: world.requests_with(encoded), "the file did not come")[0]
    assert '"filename":"noise.bin"' in got.latest.replace(" ", "")

    world.send("backend", "DELEGATE")
    made = world.wait_for(
        lambda: next((t for t in world.ask(lambda w: w.tasks()) if t["name"] == "helper"), None),
        "no task was made",
    )
    assert (made["status"], made["session"], made["assignee"]) == ("notstarted", None, "agent")
    world.start("helper")
    told = world.wait_for(lambda: world.requests_with("HELP-ME now"), "it was not told")
    assert "the peer session 'backend' (not your user)" in told[0].latest
    assert world.worktree("helper").name == "helper"
    shown = world.json("show", "helper")
    assert (shown["status"], shown["branch"]) == ("ongoing", "claudedo/helper")
    assert [move["after"] for move in shown["history"]] == ["ongoing"]
    assert [one["body"] for one in world.json("thread", "helper")] == ["HELP-ME now"]
