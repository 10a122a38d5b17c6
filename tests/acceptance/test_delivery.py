"""A message reaches its session once, in whatever state that session is."""

from __future__ import annotations

import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import World

pytestmark = pytest.mark.acceptance


def test_message_sent_while_a_tool_runs_is_in_the_very_next_request_once(world: World) -> None:
    world.model.script(
        "FIRST",
        Sequence([ToolUse("Bash", {"command": "sleep 4; echo tool-over"}), Text("done")]),
    )
    world.start("backend=FIRST")
    world.await_state("backend", "busy")
    sent = world.send("backend", "MAIL-4711")
    world.await_rung("backend", sent, "read")
    first = world.model.wait_for(lambda r: r.is_main and "tool-over" in r.latest)
    assert first.count("MAIL-4711") == 1
    assert world.message("backend", sent)["via"] == "hook"
    assert [r.sequence for r in world.requests_with("MAIL-4711")] == [first.sequence]


def test_message_to_an_idle_session_starts_a_turn(world: World) -> None:
    world.start("backend")
    sent = world.send("backend", "MAIL-4712")
    message = world.await_rung("backend", sent, "read")
    assert len(world.requests_with("MAIL-4712")) == 1
    assert message["via"] == "channel"


def test_message_to_an_idle_session_starts_a_turn_without_channels(
    world_without_channels: World,
) -> None:
    world = world_without_channels
    world.start("backend")
    sent = world.send("backend", "MAIL-4713")
    message = world.await_rung("backend", sent, "read")
    requests = world.requests_with("MAIL-4713")
    assert len(requests) == 1
    assert requests[0].count("MAIL-4713") == 1
    assert message["via"] == "hook"
