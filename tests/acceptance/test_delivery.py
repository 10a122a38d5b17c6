"""A message reaches its session once, in whatever state that session is."""

from __future__ import annotations

from functools import partial

import pytest

from claudedo.client import WorkerClient
from claudedo.demo.model import ModelRequest, Rules, Sequence, Text, ToolUse, ToolUses
from tests.support.world import World

pytestmark = pytest.mark.acceptance


def in_order(request: ModelRequest, *markers: str) -> bool:
    """True if the request tells each marker once, in this order."""
    places = [request.text.find(marker) for marker in markers]
    return places == sorted(places) and all(request.count(marker) == 1 for marker in markers)


def test_messages_come_once_to_a_session_that_runs_a_tool_or_a_batch_or_is_idle(
    world: World,
) -> None:
    batch = ToolUses(
        [
            ToolUse("Bash", {"command": "sleep 1; echo one-over"}),
            ToolUse("Bash", {"command": "until [ -e go ]; do sleep 0.1; done; echo two-over"}),
        ]
    )
    tool = ToolUse("Bash", {"command": "sleep 4; echo tool-over"})
    world.model.otherwise(Rules([("PROMPT-1", tool), ("PROMPT-2", batch)]))
    world.start("backend=PROMPT-1")

    # While a tool runs: in the very next request.
    world.await_state("backend", "busy")
    sent = world.send("backend", "MAIL-4711")
    world.await_rung("backend", sent, "read")
    first = world.model.wait_for(lambda r: r.is_main and "tool-over" in r.latest)
    assert first.count("MAIL-4711") == 1
    assert world.message("backend", sent)["via"] == "hook"
    assert [r.sequence for r in world.requests_with("MAIL-4711")] == [first.sequence]
    world.await_state("backend", "idle")

    # While a parallel batch runs: all together, the urgent first.
    world.type("backend", "PROMPT-2")
    world.wait_for(lambda: world.requests_with("PROMPT-2"), "the prompt did not come")
    world.await_state("backend", "busy")
    burst = [
        world.send("backend", "MAIL-A"),
        world.send("backend", "MAIL-B"),
        world.send("backend", "MAIL-C", "--priority", "high"),
    ]
    (world.worktree("backend") / "go").touch()
    after = world.model.wait_for(lambda r: r.is_main and "two-over" in r.latest)
    assert in_order(after, "MAIL-C", "MAIL-A", "MAIL-B")
    for message in burst:
        assert world.await_rung("backend", message, "read")["via"] == "hook"
    for marker in ("MAIL-A", "MAIL-B", "MAIL-C"):
        assert len(world.requests_with(marker)) == 1
    world.await_state("backend", "idle")

    # While it is idle: in a turn of their own.
    idle = world.send("backend", "MAIL-4712")
    assert world.await_rung("backend", idle, "read")["via"] == "channel"
    assert len(world.requests_with("MAIL-4712")) == 1
    world.await_state("backend", "idle")
    assert_burst_comes_once(world)


def test_messages_to_an_idle_session_start_a_turn_without_channels(world: World) -> None:
    world.environment["DISABLE_TELEMETRY"] = "1"
    world.start("backend")
    first = world.send("backend", "MAIL-4713")
    assert world.await_rung("backend", first, "read")["via"] == "hook"
    assert [r.count("MAIL-4713") for r in world.requests_with("MAIL-4713")] == [1]
    world.await_state("backend", "idle")
    assert_burst_comes_once(world)


def assert_burst_comes_once(world: World) -> None:
    """Six messages at once to the idle session `backend`."""
    task = world.id("backend")
    markers = [f"BURST-{number}" for number in range(6)]
    sent = [world.ask(partial(send_now, task, marker)) for marker in markers]
    for message in sent:
        world.await_rung("backend", message, "read")
    world.await_state("backend", "idle")
    for marker in markers:
        assert [r.count(marker) for r in world.requests_with(marker)] == [1]


def send_now(task: str, body: str, worker: WorkerClient) -> str:
    """Without the time that a command takes; returns the message's id."""
    sent = worker.send(task, body, priority="normal", reply_to=None, key=body)
    return str(sent["id"])


def test_message_waits_for_the_answer_to_a_permission_dialog_and_for_a_stopped_session(
    world: World,
) -> None:
    world.model.script(
        "PROMPT-1",
        Sequence([ToolUse("Bash", {"command": "touch asked; echo allowed"}), Text("ok")]),
    )
    world.start("backend=PROMPT-1", claude_args=("--verbose",), mode="default")
    assert "permission" in world.await_state("backend", "waiting")["waiting_for"]
    sent = world.send("backend", "MAIL-4714")
    world.wait_for(lambda: "Do you want to proceed?" in world.screen("backend"), "no dialog")
    assert world.json("ls")[0]["session"]["state"] == "waiting"
    assert world.message("backend", sent)["receipts"]["offered_at"] is None
    assert not (world.worktree("backend") / "asked").exists()
    world.keys("backend", "\r")
    world.await_rung("backend", sent, "read")
    after = world.model.wait_for(lambda r: r.is_main and "allowed" in r.latest)
    assert [r.sequence for r in world.requests_with("MAIL-4714")] == [after.sequence]
    world.await_state("backend", "idle")

    # Stopped by the person in the session itself: it comes right after the next start.
    world.type("backend", "/exit")
    assert world.await_state("backend", "stopped")["reason"]
    sent = world.send("backend", "MAIL-4715")
    assert world.message("backend", sent)["receipts"]["offered_at"] is None
    world.run("restart", "backend")
    world.await_rung("backend", sent, "read")
    (request,) = world.requests_with("MAIL-4715")
    assert request.count("PROMPT-1") == 1, "the conversation went on"
