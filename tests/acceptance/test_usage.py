"""What a session used is shown while it works, and summed over all that its task went through."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from claudedo.demo import reply
from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

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


def await_cost(world: World) -> float:
    """Wait until the session shows the sum of all prices, one for each request; returns it."""

    def shown() -> float:
        with closing(sqlite3.connect(world.state / "claudedo.db")) as database:
            prices = [dollars for (dollars,) in database.execute("SELECT dollars FROM prices")]
        cost = float(world.session("backend")["usage"]["cost_usd"] or 0)
        # Those beside the conversation, too.
        whole = len(prices) == len(world.model.requests)
        return cost if whole and cost == pytest.approx(sum(prices)) else 0

    return world.wait_for(shown, "the session does not show what its requests cost")


def test_task_shows_what_it_used_through_subagents_clear_and_restart(world: World) -> None:
    world.model.script("PROMPT-1", Sequence([LOOK, Text("first"), Text("second")]))
    world.start("backend=PROMPT-1")
    world.model.wait_for(lambda r: r.kind == "subagent")
    world.await_state("backend", "idle")
    usage = await_usage(world)
    assert usage["requests"] >= 3
    assert usage["model"].startswith("claude-")
    cost = await_cost(world)
    world.type("backend", "/exit")
    world.await_state("backend", "stopped")
    assert world.session("backend")["usage"]["cost_usd"] == pytest.approx(cost), (
        "by the CLI's own sum, too"
    )
    world.run("restart", "backend")
    world.await_state("backend", "idle")
    world.type("backend", "/clear")
    first = world.session("backend")["session_id"]
    world.wait_for(lambda: world.session("backend")["session_id"] != first, "not cleared")
    world.await_rung("backend", world.send("backend", "MORE"), "read")
    assert await_usage(world)["requests"] == usage["requests"] + 1
    assert await_cost(world) > cost
    assert "usage input tokens" in world.run("show", "backend").stdout
