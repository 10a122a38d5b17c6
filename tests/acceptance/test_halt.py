"""Nothing new starts once a person halts a session; subagents take nobody's mail."""

from __future__ import annotations

import pytest

from claudedo.demo.model import RequestKind, Rules, Sequence, Text, ToolUse, ToolUses
from tests.support.world import World

pytestmark = pytest.mark.acceptance

UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"


def test_halt_lets_no_further_call_start_until_it_is_answered(world: World) -> None:
    world.start("backend")
    worktree = world.worktree("backend")
    world.model.script(
        lambda request: "START-SUB" in request.text,
        Sequence(
            [
                ToolUse("Bash", {"command": f"touch sub-1; {UNTIL_GO}"}),
                ToolUse("Bash", {"command": "touch sub-2"}),
            ]
        ),
        kind=RequestKind.SUBAGENT,
    )
    three = [
        ToolUse("Bash", {"command": f"touch main-1; {UNTIL_GO}"}),
        ToolUse("Bash", {"command": "touch main-2"}),
        ToolUse("Bash", {"command": "touch main-3"}),
    ]
    obedient = ToolUse("Bash", {"command": "touch after-halt"})
    first = Sequence([subagent(), ToolUses(three)])
    world.model.otherwise(
        Rules([("HALT-4716", obedient), ("task-notification", Text("ok"))], first)
    )
    world.send("backend", "START-4716")
    world.wait_for(lambda: (worktree / "main-1").exists(), "the main call did not start")
    world.wait_for(lambda: (worktree / "sub-1").exists(), "the subagent's call did not start")

    halt = world.send("backend", "HALT-4716", "--priority", "halt")
    (worktree / "go").touch()
    world.await_rung("backend", halt, "read")
    assert not [p.name for p in worktree.iterdir() if p.name in ("main-2", "main-3", "sub-2")]
    assert [r.count("HALT-4716") for r in world.requests_with("HALT-4716")] == [1]

    world.wait_for(lambda: (worktree / "after-halt").exists(), "its own answer was refused")
    world.await_state("backend", "idle")
    world.model.otherwise(
        Rules([("MORE-4716", ToolUse("Bash", {"command": "touch usual"}))], Text("ok"))
    )
    world.send("backend", "MORE-4716")
    world.wait_for(lambda: (worktree / "usual").exists(), "the session stayed halted")


@pytest.mark.one_claude
def test_subagent_takes_no_mail_of_its_session(world: World) -> None:
    world.start("backend")
    worktree = world.worktree("backend")
    subagents = Sequence(
        [
            ToolUse("Bash", {"command": f"touch sub-1; {UNTIL_GO}"}),
            ToolUse("mcp__claudedo__check_inbox", {}, id="toolu_by_subagent"),
            Text("sub is done"),
        ]
    )
    world.model.script(
        lambda request: "START-SUB" in request.text, subagents, kind=RequestKind.SUBAGENT
    )
    world.model.otherwise(Sequence([subagent(in_background=False)]))
    world.send("backend", "START-4717")
    world.wait_for(lambda: (worktree / "sub-1").exists(), "the subagent's call did not start")
    small = world.send("backend", "MAIL-4717")
    large = world.send("backend", "LARGE-4717 " + "x" * 9_000)
    (worktree / "go").touch()
    world.await_rung("backend", small, "read")
    asked = world.model.wait_for(lambda r: "toolu_by_subagent" in r.tool_results)
    assert asked.tool_results["toolu_by_subagent"].is_error
    assert [r.count("MAIL-4717") for r in world.requests_with("MAIL-4717")] == [1]
    for request in world.model.requests:
        if request.kind is RequestKind.SUBAGENT:
            assert "MAIL-4717" not in request.text
            assert "LARGE-4717" not in request.text
    assert world.message("backend", large)["receipts"]["delivered_at"] is None


def subagent(*, in_background: bool = True) -> ToolUse:
    given = {"description": "a helper", "prompt": "START-SUB", "subagent_type": "general-purpose"}
    return ToolUse("Agent", {**given, "run_in_background": True} if in_background else given)
