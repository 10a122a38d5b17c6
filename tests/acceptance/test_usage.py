"""What a session used is shown while it works, and summed over all that its task went through."""

from __future__ import annotations

from typing import Any

import pytest

from claudedo.demo import reply
from claudedo.demo.model import Sequence, Text, ToolUse
from claudedo_worker import claude_binary
from tests.support.world import World

pytestmark = pytest.mark.acceptance

TELLS_COST = (2, 1, 330)
"""The first version known to write what a conversation cost (docs/claude-cli.md 29.7)."""

LOOK = ToolUse(
    "Agent",
    {"description": "look", "prompt": "SUBTASK look", "subagent_type": "general-purpose"},
)


def expected(world: World) -> dict[str, Any]:
    """What the model charged for, by its own record; side requests stand in no transcript."""
    charged = [r for r in world.model.requests if r.kind in ("main", "subagent")]
    inputs = [reply.tokens(r.body.get("system"), r.body["messages"]) for r in charged]
    main = [tokens for r, tokens in zip(charged, inputs, strict=True) if r.is_main]
    return {"requests": len(charged), "input_tokens": sum(inputs), "context_tokens": main[-1]}


def await_usage(world: World) -> dict[str, Any]:
    """Wait until the session shows what the model charged for; returns it."""

    def shown() -> dict[str, Any]:
        usage: dict[str, Any] = world.session("backend")["usage"] or {}
        return usage if expected(world).items() <= usage.items() else {}

    return world.wait_for(shown, f"the session does not show {expected(world)}")


def test_task_shows_what_it_used_through_subagents_clear_and_restart(world: World) -> None:
    world.model.script("PROMPT-1", Sequence([LOOK, Text("first"), Text("second")]))
    world.start("backend=PROMPT-1")
    world.model.wait_for(lambda r: r.kind == "subagent")
    world.await_state("backend", "idle")
    usage = await_usage(world)
    assert usage["requests"] >= 3
    assert usage["model"].startswith("claude-")
    assert usage["cost_usd"] is None, "the CLI did not tell it yet"
    world.type("backend", "/exit")
    world.await_state("backend", "stopped")
    session = world.session("backend")
    tells = claude_binary.parse(session["version"]) >= TELLS_COST
    assert (session["usage"]["cost_usd"] is not None) is tells
    world.run("restart", "backend")
    world.await_state("backend", "idle")
    world.type("backend", "/clear")
    first = world.session("backend")["session_id"]
    world.wait_for(lambda: world.session("backend")["session_id"] != first, "not cleared")
    world.await_rung("backend", world.send("backend", "MORE"), "read")
    assert await_usage(world)["requests"] == usage["requests"] + 1
    assert "usage input tokens" in world.run("show", "backend").stdout
