"""Prompts, questions and plans of real sessions, decided from afar or at the terminal."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from claudedo.demo.model import Answer, ModelRequest, RequestKind, Sequence, Text, ToolUse
from claudedo.errors import ClaudedoError, ConflictError
from tests.support.world import COMMAND, World

pytestmark = pytest.mark.acceptance

ENTER, ESCAPE = "\r", "\x1b"
Json = dict[str, Any]

DATABASE = {
    "question": "Which database?",
    "header": "Database",
    "multiSelect": False,
    "options": [
        {"label": "Postgres", "description": "the big one"},
        {"label": "SQLite", "description": "the small one"},
    ],
}
DAYS = {
    "question": "Which days?",
    "header": "Days",
    "multiSelect": True,
    "options": [
        {"label": "Monday", "description": "first"},
        {"label": "Tuesday", "description": "second"},
    ],
}
PLAN = ToolUse("ExitPlanMode", {"plan": "# Move the shop\n1. Pack"})


def bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command, "description": "a test"})


def begin(world: World, *calls: ToolUse, name: str = "backend") -> None:
    """One turn in which the model makes these calls, one after the other."""
    world.model.otherwise(Sequence([*calls, *[Text("done")] * 20]))
    world.send(name, "begin")


def start(world: World, *names: str) -> None:
    """Start sessions that ask a person for nearly everything."""
    world.start(*names, claude_args=("--allowedTools", "Agent"), mode="default")


def asked(world: World, words: str = "") -> Json:
    """The open ask whose title holds these words."""

    def find() -> Json | None:
        asks = world.ask(lambda worker: worker.asks())
        return next((ask for ask in asks if words in ask["title"]), None)

    return world.wait_for(find, f"nobody asks {words!r}")


def decide(world: World, ask: Json, decision: str, **more: Any) -> Json:
    return world.ask(lambda worker: worker.decide(ask["id"], {"decision": decision, **more}))


def fate(world: World, ask: Json) -> tuple[str | None, str | None]:
    now = world.ask(lambda worker: worker.ask(ask["id"]))
    return now["outcome"], now["decided_by"]


def closed(world: World, ask: Json) -> tuple[str | None, str | None]:
    world.wait_for(lambda: fate(world, ask)[0], "the ask stays open")
    return fate(world, ask)


def told(world: World, words: str) -> str:
    """What the model was told next, once it holds these words."""
    world.wait_for(lambda: world.requests_with(words), f"the model is not told {words!r}")
    return world.requests_with(words)[-1].latest


def exists(world: World, name: str) -> bool:
    return (world.worktree("backend") / name).exists()


def test_a_person_decides_from_afar_and_the_session_does_just_that(world: World) -> None:
    start(world, "backend")
    probe = "python3 -c 'print(4711*1000+2)'"
    begin(
        world,
        bash("touch allowed"),
        bash("touch denied"),
        bash("touch original"),
        bash(probe),
        bash(probe),
        bash(probe.replace("+2", "+1")),
        ToolUse("AskUserQuestion", {"questions": [DATABASE, DAYS]}),
        bash("touch twice"),
        bash("touch halted"),
    )

    ask = asked(world, "touch allowed")
    assert (ask["kind"], ask["tool"], ask["task_name"]) == ("permission", "Bash", "backend")
    assert ask["input"] == {"command": "touch allowed", "description": "a test"}
    waiting = "permission: Bash: touch allowed"
    world.wait_for(lambda: world.session("backend")["waiting_for"] == waiting, "not named")
    assert (world.json("ls")[0]["asks"], exists(world, "allowed")) == (1, False)
    done = decide(world, ask, "allow")
    assert (done["outcome"], done["decided_by"]) == ("allowed", "user")
    world.wait_for(lambda: exists(world, "allowed"), "it did not run")

    reason = 'Not today:\n"quoted", ümlaut & <tags>.'
    decide(world, asked(world, "touch denied"), "deny", reason=reason)
    assert told(world, "Not today") == reason
    assert not exists(world, "denied")

    edited = {"command": "touch edited", "description": "a test"}
    decide(world, asked(world, "touch original"), "allow", input=edited)
    world.wait_for(lambda: exists(world, "edited"), "the edited command did not run")
    assert not exists(world, "original")

    ask = asked(world, "1000+2")
    [rule] = ask["suggestions"]
    assert rule["rules"] == [{"toolName": "Bash", "ruleContent": probe}]
    decide(world, ask, "allow", always=True)
    # The second one just like it was not asked: this is the third, which is another command.
    decide(world, asked(world, "1000+1"), "deny")
    assert len(world.requests_with("4711002")) == 2
    assert not (world.repository / ".claude" / "settings.local.json").exists()

    ask = asked(world, "Which database?")
    assert ask["kind"] == "question"
    with pytest.raises(ClaudedoError, match="claudedo answer"):
        decide(world, ask, "allow")
    answers = {"Which database?": "Neither: a file.", "Which days?": ["Monday", "Tuesday"]}
    assert decide(world, ask, "answer", answers=answers)["outcome"] == "answered"
    words = told(world, "Neither: a file.")
    assert '"Which database?"="Neither: a file."' in words
    assert '"Which days?"="Monday, Tuesday"' in words

    ask = asked(world, "touch twice")
    results: list[Json | ConflictError] = []
    both = [threading.Thread(target=try_to_allow, args=(world, ask, results)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [isinstance(result, ConflictError) for result in results].count(True) == 1
    assert closed(world, ask) == ("allowed", "user")

    ask = asked(world, "touch halted")
    world.send("backend", "STOP-4711", "--priority", "halt")
    assert closed(world, ask) == ("denied", "user")
    told(world, "STOP-4711")
    assert not exists(world, "halted")

    world.await_state("backend", "idle")
    plan_on(world)


def try_to_allow(world: World, ask: Json, results: list[Json | ConflictError]) -> None:
    try:
        results.append(decide(world, ask, "allow"))
    except ConflictError as error:
        results.append(error)


def plan_on(world: World) -> None:
    """A plan is sent back, then approved from afar; another one at the terminal."""
    begin(world, ToolUse("EnterPlanMode", {}), PLAN, PLAN)
    ask = planned(world)
    decide(world, ask, "answer", text="LACKS-TESTS")
    assert told(world, "LACKS-TESTS")
    decide(world, planned(world), "allow")
    told(world, "approved")
    world.await_state("backend", "idle")
    assert "accept edits on" not in world.screen("backend")

    begin(world, ToolUse("EnterPlanMode", {}), PLAN)
    ask = planned(world)
    at_terminal(world, ENTER)
    assert closed(world, ask) == ("allowed", "terminal")
    world.await_state("backend", "idle")


def planned(world: World) -> Json:
    """The ask for the plan; where entering plan mode is asked first, that is allowed."""

    def find() -> Json | None:
        for ask in world.ask(lambda worker: worker.asks()):
            if ask["kind"] == "plan":
                return ask
            decide(world, ask, "allow")
        return None

    return world.wait_for(find, "no plan is asked for")


def at_terminal(world: World, keys: str) -> None:
    """Press keys once the dialog has been there for a moment."""
    world.await_state("backend", "waiting")
    time.sleep(0.5)  # what is typed while a dialog is being drawn goes to the input box
    world.keys_before("backend", keys)


def test_the_terminal_answers_the_worker_dies_and_the_session_ends(world: World) -> None:
    start(world, "backend")
    question = ToolUse("AskUserQuestion", {"questions": [DATABASE]})
    begin(
        world,
        bash("touch yes; sleep 3"),
        question,
        bash("touch over"),
        bash("touch meanwhile; sleep 3"),
        bash("touch no"),
    )

    ask = asked(world, "touch yes")
    at_terminal(world, ENTER)
    began = time.monotonic()
    assert closed(world, ask) == ("allowed", "terminal")
    assert time.monotonic() - began < 3, "it closes when the dialog does, not when the tool ends"
    with pytest.raises(ConflictError, match="allowed in its terminal"):
        decide(world, ask, "deny")

    ask = asked(world, "Which database?")
    at_terminal(world, ENTER)
    assert closed(world, ask) == ("answered", "terminal")
    assert '"Which database?"="Postgres"' in told(world, "Postgres")

    ask = asked(world, "touch over")
    world.kill_worker()
    assert decide(world, ask, "allow")["decided_by"] == "user"
    world.wait_for(lambda: exists(world, "over"), "it did not run")

    ask = asked(world, "touch meanwhile")
    world.await_state("backend", "waiting")
    with world.terminal("backend") as terminal:
        time.sleep(0.5)
        world.kill_worker()
        terminal.send_input(ENTER.encode())
        terminal.status()
    world.wait_for(lambda: exists(world, "meanwhile"), "it did not run")
    assert closed(world, ask) == ("allowed", "terminal")

    ask = asked(world, "touch no")
    at_terminal(world, ESCAPE)
    assert closed(world, ask) == ("denied", "terminal")
    world.await_state("backend", "idle")

    begin(world, bash("touch gone"))
    ask = asked(world, "touch gone")
    world.await_state("backend", "waiting")
    world.run("stop", "backend")
    assert fate(world, ask) == ("gone", "session")
    with pytest.raises(ConflictError, match="Nobody can answer this any more"):
        decide(world, ask, "allow")
    assert not exists(world, "gone")


@pytest.mark.one_claude
def test_a_session_decides_nothing_whatever_it_takes_out_of_its_environment(world: World) -> None:
    state = f"CLAUDEDO_HOME={world.state} HOME={world.home} PATH=$PATH"
    bare = f"env -i {state} {COMMAND}"
    unset = "env " + " ".join(
        f"-u CLAUDEDO_{name}" for name in ("SESSION", "TASK", "TASK_NAME", "PEERS", "WORKTREE")
    )
    ways = [COMMAND, f"setsid -w {bare}", f"nohup {unset} {COMMAND}"]
    ways.append(f"sh -c '{bare} \"$@\" & wait $!' sh")

    def brain(request: ModelRequest) -> Answer:
        if "GO-ASK" in request.latest:
            return bash("touch wanted")
        if "GO-TRY" in request.latest:
            ask = world.ask(lambda worker: worker.asks())[0]["id"]
            tries = [f"{way} allow {ask}; echo status=$?" for way in ways]
            tries += [f"{way} send backend x --priority halt; echo status=$?" for way in ways[1:3]]
            return bash("\n".join(f"({line}) 2>&1 </dev/null" for line in tries))
        return Text("done")

    start(world, "backend")
    world.start("thief")
    world.model.otherwise(brain)
    world.send("backend", "GO-ASK")
    ask = asked(world, "touch wanted")

    world.send("thief", "GO-TRY")

    words = told(world, "status=")
    assert words.count("status=5") == 4 + 2, words
    assert words.count("a session cannot take it") == 4, words
    assert words.count("Only a person may halt") == 2, words
    assert fate(world, ask) == (None, None)
    assert decide(world, ask, "allow")["outcome"] == "allowed"


def test_what_subagents_and_other_sessions_ask_is_told_apart(world: World) -> None:
    prompt = {"description": "a helper", "prompt": "START", "subagent_type": "general-purpose"}
    world.model.otherwise(
        Sequence([bash("touch by-helper"), bash("touch by-helper-too"), *[Text("done")] * 9]),
        kind=RequestKind.SUBAGENT,
    )

    def brain(request: ModelRequest) -> Answer:
        if "GO-AGENT" in request.latest:
            return ToolUse("Agent", prompt)
        return bash("touch by-helper") if "GO-SAME" in request.latest else Text("done")

    world.model.otherwise(brain)
    start(world, "backend", "frontend")
    world.send("backend", "GO-AGENT")
    helpers = asked(world, "touch by-helper")
    world.send("frontend", "GO-SAME")
    world.wait_for(lambda: len(world.ask(lambda worker: worker.asks())) == 2, "one asks only")
    helpers, mine = world.ask(lambda worker: worker.asks())

    assert (bool(helpers["agent"]), mine["agent"]) == (True, None)
    assert (helpers["same"], mine["same"]) == ([mine["id"]], [helpers["id"]])
    assert decide(world, helpers, "allow")["decided_by"] == "user"
    decide(world, mine, "deny")
    world.wait_for(lambda: exists(world, "by-helper"), "it did not run")
    assert not (world.worktree("frontend") / "by-helper").exists()

    ask = asked(world, "touch by-helper-too")
    assert ask["same"] == []
    decide(world, ask, "deny", reason="HELPER-NO")
    world.model.wait_for(lambda r: not r.is_main and "HELPER-NO" in r.latest)
    assert fate(world, ask) == ("denied", "user")
    assert not exists(world, "by-helper-too")
