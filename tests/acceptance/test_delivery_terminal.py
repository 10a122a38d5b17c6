"""What a person does at the session's terminal loses no mail, and mail disturbs no person."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from claudedo.demo.model import Held, Rules, Text, ToolUse
from tests.support.world import World

pytestmark = pytest.mark.acceptance

ESCAPE, CLEAR_LINE = "\x1b", "\x15"


def test_mail_follows_clear_compact_and_resume(world: World) -> None:
    world.start("backend")
    first = world.session("backend")["session_id"]
    arrives(world, "MAIL-BEFORE")

    cut_off(world, "MAIL-CLEARED")
    world.type("backend", "/clear")
    given_again(world, "MAIL-CLEARED")
    assert world.session("backend")["session_id"] != first
    arrives(world, "MAIL-AFTER-CLEAR")

    cut_off(world, "MAIL-COMPACTED")
    world.type("backend", "/compact")
    world.wait_for(lambda: is_compacted(world), "not compacted")
    arrives(world, "MAIL-AFTER-COMPACT")
    # A compaction may keep the last messages as they are: then it must not come a second time.
    (request,) = world.requests_with("MAIL-AFTER-COMPACT")
    assert request.count("MAIL-COMPACTED") == 1
    world.wait_for(lambda: mail(world, "MAIL-COMPACTED")["receipts"]["read_at"], "not read")

    world.type("backend", f"/resume {first}")
    world.wait_for(lambda: world.session("backend")["session_id"] == first, "not resumed")
    arrives(world, "MAIL-RESUMED")
    (request,) = world.requests_with("MAIL-RESUMED")
    assert request.count("MAIL-BEFORE") == 1
    assert request.count("MAIL-AFTER-CLEAR") == 0


def is_compacted(world: World) -> bool:
    return any(line.get("isCompactSummary") for line in world.transcript("backend"))


def arrives(world: World, marker: str) -> None:
    """The marker is read, and was told once."""
    world.await_state("backend", "idle")
    world.await_rung("backend", world.send("backend", marker), "read")
    assert [r.count(marker) for r in world.requests_with(marker)] == [1]
    world.await_state("backend", "idle")


def cut_off(world: World, marker: str) -> None:
    """The marker is in the context, and an Esc cuts off the answer."""
    world.await_state("backend", "idle")
    world.model.otherwise(Rules([(marker, Held(Text("late"), threading.Event(), timeout=180))]))
    world.await_rung("backend", world.send("backend", marker), "delivered")
    world.model.wait_for(lambda r: r.is_main and marker in r.latest)
    world.keys_before("backend", ESCAPE)
    world.await_state("backend", "idle")
    assert mail(world, marker)["receipts"]["read_at"] is None
    world.model.otherwise(Rules([]))


def given_again(world: World, marker: str) -> None:
    """A second request tells the marker, once, and is answered."""
    world.wait_for(lambda: mail(world, marker)["receipts"]["read_at"], f"{marker} is not read")
    assert [r.count(marker) for r in world.requests_with(marker)] == [1, 1]


def mail(world: World, marker: str) -> dict[str, Any]:
    thread = world.ask(lambda worker: worker.thread(world.id("backend")))
    return next(message for message in thread if message["body"] == marker)


@pytest.mark.one_claude
def test_line_is_typed_where_no_other_way_is_and_never_into_a_draft(world: World) -> None:
    world.environment["DISABLE_TELEMETRY"] = "1"
    world.start("backend")
    cut_off(world, "MAIL-WOKEN")  # spends the waiter, and an Esc lets no Stop hook start another
    world.keys_before("backend", "a draft")
    world.wait_for(lambda: "a draft" in world.screen("backend"), "nothing was typed")
    held = world.send("backend", "MAIL-HELD")
    time.sleep(6)  # twice as long as a line would take
    assert world.message("backend", held)["receipts"]["offered_at"] is None
    assert "a draft" in world.screen("backend")
    world.keys_before("backend", CLEAR_LINE)
    world.await_rung("backend", held, "read")
    (request,) = world.requests_with("MAIL-HELD")
    assert request.count("call `mcp__claudedo__check_inbox` now") == 2, "the wake and this line"
    assert request.count("MAIL-WOKEN") == 1
    assert "a draft" not in request.latest


@pytest.mark.one_claude
def test_reminders_of_mail_that_the_model_ignores_are_bounded(world: World) -> None:
    large = "LARGE-4740 " + "x" * 9_000
    world.start("backend")
    sent = world.send("backend", large)
    reminded = "call `mcp__claudedo__check_inbox` now"
    world.wait_for(lambda: len(world.requests_with(reminded)) == 3, "push and two at the end")
    world.await_state("backend", "idle")
    time.sleep(5)  # the next one is due after thirty
    assert len(world.model.requests) == len([r for r in world.model.requests if not r.is_main]) + 3
    assert world.message("backend", sent)["receipts"]["delivered_at"] is None
    fetch = ToolUse("mcp__claudedo__check_inbox", {})
    world.model.otherwise(Rules([("GO-4740", fetch)]))
    world.send("backend", "GO-4740")
    assert world.await_rung("backend", sent, "read")["via"] == "check_inbox"
    told = [r for r in world.requests_with("LARGE-4740")]
    assert [r.count("LARGE-4740") for r in told] == [1]
