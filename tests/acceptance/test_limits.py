"""A session whose turn the API refused says so, and goes on by itself when that can help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from claudedo.demo.model import Answer, Error, ModelRequest, Text
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]

GO_ON = "Go on with what you were doing"
LIMITED = Error(429, "rate_limit_error", "Too many requests", {"retry-after": "1"})
OVERLOADED = Error(529, "overloaded_error", "Overloaded")
BAD_KEY = Error(401, "authentication_error", "invalid x-api-key")


class Gate:
    """A model that refuses until it is opened."""

    def __init__(self, refuse: Callable[[], Error]) -> None:
        self.refuse = refuse
        self.opened = False

    def __call__(self, request: ModelRequest) -> Answer:
        return Text("done") if self.opened else self.refuse()

    def open(self) -> None:
        self.opened = True


def weekly(seconds: int) -> Error:
    """A subscription's weekly limit that ends in some seconds (docs/claude-cli.md 29.4)."""
    headers = {
        "retry-after": str(seconds),
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-representative-claim": "seven_day",
        "anthropic-ratelimit-unified-reset": str(int(time.time()) + seconds),
        "anthropic-ratelimit-unified-overage-status": "rejected",
        "anthropic-ratelimit-unified-overage-disabled-reason": "overage_not_provisioned",
    }
    return Error(429, "rate_limit_error", "This request would exceed your limit.", headers)


@pytest.fixture
def quick(world: World) -> World:
    """A world whose CLI gives up soon and whose worker goes on after two seconds, then ten."""
    world.state.mkdir(mode=0o700)
    (world.state / "config.toml").write_text("limit_pause = 2\n")
    world.environment["CLAUDE_CODE_MAX_RETRIES"] = "1"
    return world


def failure(world: World, task: str, **wanted: Any) -> dict[str, Any]:
    """Wait until a task's session shows a failure with these values; returns it."""

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = world.session(task)["failure"] or {}
        return found if found and wanted.items() <= found.items() else {}

    return world.wait_for(shown, f"{task} shows no failure with {wanted}")


def until_fine(world: World, task: str) -> None:
    world.wait_for(
        lambda: (s := world.session(task))["state"] == "idle" and not s["failure"],
        f"{task} is not fine again",
    )


def asked(world: World, task: str) -> list[ModelRequest]:
    """The main requests of a task's session, in order."""
    return [r for r in world.model.requests if r.is_main and f"PROMPT-{task}" in r.text]


def test_what_the_api_refused_goes_on_when_that_can_help_and_is_shown_meanwhile(
    quick: World,
) -> None:
    world = quick
    gates = {
        "limited": Gate(lambda: LIMITED),
        "loaded": Gate(lambda: OVERLOADED),
        "keyless": Gate(lambda: BAD_KEY),
        "mailed": Gate(lambda: LIMITED),
    }
    for task, gate in gates.items():
        world.model.script(f"PROMPT-{task}", gate)
    world.start(*[f"{task}=PROMPT-{task}" for task in gates])
    goes_on_once(world, "limited", "rate_limit", gates["limited"])
    goes_on_once(world, "loaded", "overloaded", gates["loaded"])
    outlives_the_worker_and_is_continued_by_mail(world, "mailed", gates["mailed"])
    waits_for_a_person(world, "keyless", gates["keyless"])
    forgets_with_its_conversation(world, "keyless", gates["keyless"])


def goes_on_once(world: World, task: str, kind: str, gate: Gate) -> None:
    shown = failure(world, task, kind=kind)
    assert shown["continues_at"] or shown["tries"]
    gate.open()
    until_fine(world, task)
    answered = [r for r in asked(world, task) if GO_ON in r.text]
    assert answered, "it was continued"
    assert answered[-1].count(f"PROMPT-{task}") == 1, "the prompt was not given again"
    (prompt,) = world.ask(lambda worker: worker.thread(world.id(task)))
    assert prompt["receipts"]["read_at"]


def outlives_the_worker_and_is_continued_by_mail(world: World, task: str, gate: Gate) -> None:
    failure(world, task, kind="rate_limit")
    world.kill_worker()
    (world.state / "config.toml").write_text("limit_pause = 3600\n")
    world.wait_for(
        lambda: (f := world.session(task)["failure"]) and f["continues_at"],
        "the next worker plans nothing",
    )
    before = len(asked(world, task))
    tried = asked(world, task)[-1].count(GO_ON)
    gate.open()
    sent = world.send(task, "MAIL-meanwhile")
    world.await_rung(task, sent, "read")
    until_fine(world, task)
    assert [r.count(GO_ON) for r in asked(world, task)[before:]] == [tried], "the mail did it"


def waits_for_a_person(world: World, task: str, gate: Gate) -> None:
    shown = failure(world, task, kind="authentication")
    assert (shown["continues_at"], shown["tries"]) == (None, 0)
    assert [r for r in asked(world, task) if GO_ON in r.text] == [], "nobody mended it"
    gate.open()
    world.send(task, "the key is mended")
    until_fine(world, task)


def forgets_with_its_conversation(world: World, task: str, gate: Gate) -> None:
    gate.opened = False
    world.send(task, "once more")
    failure(world, task, kind="authentication")
    world.type(task, "/clear")
    until_fine(world, task)


def test_limit_of_a_subscription_is_waited_for_and_its_question_is_closed(quick: World) -> None:
    world = quick
    world.environment.pop("ANTHROPIC_API_KEY")
    world.environment["CLAUDE_CODE_OAUTH_TOKEN"] = "sk-ant-oat01-scripted-no-real-token"
    gate = Gate(lambda: weekly(4))
    world.model.script("PROMPT-plan", gate)
    world.start("plan=PROMPT-plan")
    assert "weekly limit" in failure(world, "plan", kind="rate_limit")["text"]
    gate.open()
    until_fine(world, "plan")
    assert asked(world, "plan")[-1].count(GO_ON) == 1
