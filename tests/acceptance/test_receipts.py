"""A receipt says what happened and never more: `read` needs an answer with the message in it."""

from __future__ import annotations

import re
import subprocess
import threading
from functools import partial
from typing import Any

import psutil
import pytest

from claudedo.demo.model import (
    Answer,
    Error,
    Held,
    ModelRequest,
    Rules,
    Text,
    ToolUse,
    ToolUses,
)
from tests.support.world import World

pytestmark = pytest.mark.acceptance

RUNGS = ("stored_at", "offered_at", "delivered_at", "read_at", "answered_at")


def test_reply_of_a_peer_answers_a_message_and_a_request_that_fails_reads_nothing(
    world: World,
) -> None:
    world.environment["CLAUDE_CODE_MAX_RETRIES"] = "1"
    world.model.script('the task "frontend"', Rules([("GO-4721", to_peer("PING-4721"))]))
    world.model.script('the task "backend"', Rules([("PING-4721", answer_peer)]))
    world.start("backend", "frontend")
    world.send("frontend", "GO-4721")
    received = world.wait_for(lambda: world.requests_with("PING-4721"), "nothing came")[0]
    assert "the peer session 'frontend' (not your user)" in received.latest
    sent = world.wait_for(lambda: written(world, "PING-4721"), "not stored")
    message = world.await_rung("backend", sent["id"], "answered")
    times = [message["receipts"][rung] for rung in RUNGS]
    assert times == sorted(times)
    reply = world.wait_for(lambda: written(world, "PONG-4721"), "not stored")
    assert reply["reply_to"] == sent["id"]
    world.await_rung("frontend", reply["id"], "read")
    assert [r.count("PONG-4721") for r in world.requests_with("PONG-4721")] == [1]
    assert_a_request_that_fails_reads_nothing_until_it_is_made_again(world)


def to_peer(body: str, **more: str) -> ToolUse:
    return ToolUse("mcp__claudedo__send_to_peer", {"body": body, **more})


def answer_peer(request: ModelRequest) -> Answer:
    found = re.search(r"message (m_\w+) from the peer", request.latest)
    assert found, request.latest
    return to_peer("PONG-4721", reply_to=found.group(1))


def written(world: World, body: str) -> dict[str, Any] | None:
    thread = world.ask(lambda worker: worker.thread(world.id("backend")))
    return next((message for message in thread if message["body"] == body), None)


def assert_a_request_that_fails_reads_nothing_until_it_is_made_again(world: World) -> None:
    """Two kinds of failure in the session `backend`, which is about to be idle."""
    script = partial(world.model.script, 'the task "backend"')
    refused = Error(400, "invalid_request_error", "no")
    broken = Error(500, "api_error", "broken")
    for marker, failure in (("MAIL-4722", refused), ("MAIL-4723", broken)):
        world.await_state("backend", "idle")
        script(Rules([], failure))
        sent = world.send("backend", marker)
        world.await_rung("backend", sent, "delivered")
        world.wait_for(partial(failed_after, world, marker), "the failure is not on record")
        world.await_state("backend", "idle")
        assert world.message("backend", sent)["receipts"]["read_at"] is None
        script(Rules([]))
        before = len(world.model.requests)
        world.type("backend", "continue")
        world.await_rung("backend", sent, "read")
        again = world.model.wait_for(lambda r: r.is_main, after=before)
        assert again.count(marker) == 1


def failed_after(world: World, marker: str) -> bool:
    lines = world.transcript("backend")
    places = [n for n, line in enumerate(lines) if marker in str(line)]
    return bool(places) and any(line.get("isApiErrorMessage") for line in lines[places[0] :])


def test_neither_a_fork_nor_a_process_killed_before_it_took_a_message_in_has_read_it(
    world: World,
) -> None:
    gate = threading.Event()
    held = Held(Text("read"), gate)
    world.model.otherwise(Rules([("FORKED-4724", Text("a fork")), ("MAIL-4724", held)]))
    world.start("backend")
    sent = world.send("backend", "MAIL-4724")
    world.await_rung("backend", sent, "delivered")
    conversation = world.session("backend")["session_id"]
    copy = ["--resume", conversation, "--fork-session", "-p", "--", "FORKED-4724"]
    subprocess.run(
        [world.claude, *copy],
        cwd=world.worktree("backend"),
        env=world.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    fork = world.model.wait_for(lambda r: "FORKED-4724" in r.latest)
    assert fork.count("MAIL-4724") == 1, "the fork has the message in its history"
    assert world.message("backend", sent)["receipts"]["read_at"] is None
    gate.set()
    world.await_rung("backend", sent, "read")
    world.await_state("backend", "idle")

    # What the killed process never took in is given to the next one.
    claude = psutil.Process(world.session("backend")["pid"])
    (bridge,) = [child for child in claude.children() if "bridge.py" in " ".join(child.cmdline())]
    bridge.suspend()  # what is pushed goes no further
    sent = world.send("backend", "MAIL-4725")
    world.await_rung("backend", sent, "offered")
    for process in (claude, bridge):
        process.kill()
    world.await_rung("backend", sent, "read")
    assert world.session("backend")["pid"] != claude.pid
    assert [r.count("MAIL-4725") for r in world.requests_with("MAIL-4725")] == [1]


def test_message_fetched_in_a_batch_that_a_kill_cut_is_in_the_next_request_once(
    world: World,
) -> None:
    cut = ToolUses(
        [
            ToolUse("mcp__claudedo__check_inbox", {}),
            ToolUse("Bash", {"command": "touch begun; until [ -e go ]; do sleep 0.1; done"}),
        ]
    )
    world.model.otherwise(Rules([("PROMPT-1", cut), ("LAST", Text("fine"))]))
    world.start("backend")
    large = "MAIL-4726 " + "x" * 9_000
    world.run("stop", "backend")
    sent = world.send("backend", large)
    world.send("backend", "PROMPT-1", "--priority", "high")
    world.run("restart", "backend")
    world.await_rung("backend", sent, "delivered")
    world.wait_for(lambda: (world.worktree("backend") / "begun").exists(), "no call ran")
    psutil.Process(world.session("backend")["pid"]).kill()
    fetch = ToolUse("mcp__claudedo__check_inbox", {})
    world.model.otherwise(Rules([("check_inbox` now", fetch)], Text("fine")))
    world.send("backend", "LAST")
    world.await_rung("backend", sent, "read")
    last = [r for r in world.model.requests if r.is_main][-1]
    assert last.count("MAIL-4726") == 1
