"""One-shots of real sessions, from a file of tasks to verdicts, branches and reports.

Judged by what reached the model, by exit statuses, files, git and the list of processes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import xmlschema

from claudedo.demo.model import Answer, Error, ModelRequest, Sequence, Text, ToolUse, ToolUses
from tests.support.repository import git
from tests.support.world import PATIENCE, World, words_of

pytestmark = pytest.mark.acceptance

Json = dict[str, Any]

SCHEMA = Path(__file__).parents[1] / "data" / "junit-10.xsd"
MAY_USE_BASH = ("--permission-mode", "acceptEdits", "--", "--allowedTools", "Bash")
UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"
WAIT = f"touch begun; {UNTIL_GO}"

EVERYTHING = f"""
[tasks.lib]
prompt = "DO-LIB"
check = "grep lib lib.txt"
priority = 9

[tasks.app]
prompt = "DO-APP"
needs = ["lib"]

[tasks.docs]
prompt = "DO-DOCS"
priority = 9

[tasks.both]
prompt = "DO-BOTH"
needs = ["app", "docs"]

[tasks.rival]
prompt = "DO-RIVAL"

[tasks.clash]
prompt = "DO-CLASH"
needs = ["lib", "rival"]

[tasks.wrong]
prompt = "DO-WRONG"
check = "echo not good enough; exit 3"

[tasks.vain]
prompt = "DO-VAIN"
needs = ["wrong"]

[tasks.vainer]
prompt = "DO-VAINER"
needs = ["vain"]

[tasks.unwilling]
prompt = "DO-UNWILLING"

[tasks.killed]
prompt = "DO-KILLED"
priority = 8

[tasks.crashed]
prompt = "DO-CRASHED"
retries = 0
priority = 8

[tasks.shaky]
prompt = "DO-SHAKY"
priority = 7

[tasks.broken]
prompt = "DO-BROKEN"
retries = 0

[tasks.stranger]
prompt = "DO-STRANGER"

[tasks.slow]
prompt = "DO-SLOW"
timeout = 25
priority = 9

[tasks.costly]
prompt = "DO-COSTLY"
budget = 0.001

[tasks.curious]
prompt = "DO-CURIOUS"

[tasks.deaf]
prompt = "DO-DEAF"
check = "touch checking; {UNTIL_GO}"
priority = 7
"""

LOOK = ToolUse("WebFetch", {"url": "http://127.0.0.1:1/", "prompt": "what"})

EXITS = {
    **dict.fromkeys(("lib", "app", "docs", "both", "rival", "killed", "shaky"), 0),
    **{"clash": 1, "wrong": 10, "unwilling": 10, "crashed": 11, "slow": 12, "costly": 13},
    **{"deaf": 14, "broken": 15, "stranger": 15, "curious": 16, "vain": 17, "vainer": 17},
}


def bash(command: str) -> ToolUse:
    return ToolUse("Bash", {"command": command})


def tool(name: str, **given: Any) -> ToolUse:
    return ToolUse(f"mcp__claudedo__{name}", given)


def refusal(status: int, kind: str) -> Error:
    return Error(status, kind, "as scripted")


def place(world: World, task: str) -> Path:
    """Where a task works, without asking the worker."""
    return world.root / "repository.worktrees" / task


def await_file(world: World, task: str, name: str) -> None:
    file = place(world, task) / name
    world.wait_for(file.exists, f"{task} makes no {name}")


def go(world: World, task: str) -> None:
    """Let the command that waits in the task's worktree end."""
    (place(world, task) / "go").touch()


def tasks_of(world: World, text: str) -> str:
    """A file with these tasks."""
    file = world.root / "tasks.toml"
    file.write_text(text)
    return str(file)


def kill(process: psutil.Process) -> None:
    process.kill()
    psutil.wait_procs([process], timeout=PATIENCE)


def left(world: World) -> list[str]:
    """What still runs for this world, and does not just end."""
    _, alive = psutil.wait_procs(world.processes(), timeout=5)
    return [" ".join(words_of(process)) for process in alive]


def ended(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit status of a command, and what it printed."""
    output, errors = command.communicate(timeout=180)
    return command.returncode, output, errors


def listed(world: World) -> dict[str, Json]:
    return {one["name"]: one for one in world.ask(lambda worker: worker.one_shots())}


def told(world: World, marker: str) -> int:
    """How often the model was told so, at most in one conversation."""
    return max((r.count(marker) for r in world.model.requests if r.is_main), default=0)


def prompt(name: str) -> str:
    """The end of the letter that gives a task its prompt; commits name the prompt, too."""
    return f"\nDO-{name.upper()}\n[end a_"


def script(world: World, **answers: Iterable[Any]) -> None:
    """What the model does for the task with this name, request by request."""
    for name, given in answers.items():
        world.model.script(prompt(name), Sequence(given))


def test_a_queue_with_every_kind_of_end_says_what_became_of_each(world: World) -> None:
    script(
        world,
        lib=[bash("echo lib > lib.txt"), Text("The lib is there.")],
        app=[bash("cat lib.txt > app.txt"), Text("The app is there.")],
        docs=[
            bash(f"{WAIT}; echo woken"),
            bash("echo docs > docs.txt"),
            Text("The docs are there."),
        ],
        both=[bash("cat app.txt docs.txt > both.txt"), Text("Both are there.")],
        rival=[bash("echo rival > lib.txt"), Text("Mine.")],
        wrong=[Text("All is fine.")],
        unwilling=[
            tool("reply", text="There is no database."),
            tool("updateTaskStatus", status="rejected"),
            Text("It cannot be done."),
        ],
        killed=[bash(WAIT), bash("echo done > killed.txt"), Text("Done after all.")],
        crashed=[bash(WAIT)],
        shaky=[*[refusal(500, "api_error")] * 3, Text("At last.")],
        slow=[bash(WAIT)],
        costly=[bash("echo 1"), bash("echo 2"), Text("Done.")],
        curious=[LOOK, Text("I could not look."), LOOK, Text("I did without.")],
    )
    world.model.script(prompt("broken"), lambda _: refusal(500, "api_error"))
    world.model.script(prompt("stranger"), lambda _: refusal(401, "authentication_error"))
    world.environment["CLAUDE_CODE_MAX_RETRIES"] = "2"
    out, origin = world.root / "out", world.root / "origin.git"
    out.mkdir()
    git(world.root, "init", "-q", "--bare", str(origin))
    git(world.repository, "remote", "add", "origin", str(origin))
    world.run("queue", "add", "--file", tasks_of(world, EVERYTHING), *MAY_USE_BASH)
    queue = world.begin(
        *("queue", "run", "--jobs", "6", "--fail-on-unread", "--json"),
        *("--junit", str(out / "junit.xml"), "--summary", str(out / "summary.md")),
        *("--artifacts", str(out / "artifacts"), "--push"),
    )

    for name in ("killed", "crashed"):
        await_file(world, name, "begun")
        kill(psutil.Process(world.session(name)["pid"]))
        go(world, name)
    await_file(world, "docs", "begun")
    mail = world.send("docs", "MAIL-MIDDLE")
    world.await_rung("docs", mail, "offered")
    world.kill_worker()
    go(world, "docs")
    await_file(world, "deaf", "checking")
    unread = world.send("deaf", "MAIL-LATE")
    go(world, "deaf")

    status, output, errors = ended(queue)
    assert status == 1, errors
    ones = {one["name"]: one for one in json.loads(output)}
    assert {name: one["exit"] for name, one in ones.items()} == EXITS, errors
    assert left(world) == []
    check_verdicts(world, ones, unread)
    check_requests(world)
    check_branches(world)
    pushed = git(origin, "for-each-ref", "--format=%(refname:lstrip=3)").split()
    assert sorted(pushed) == sorted(name for name, exit_ in EXITS.items() if not exit_)
    check_reports(out)
    check_artifacts(out / "artifacts")

    [request, *_] = world.requests_with("MAIL-MIDDLE")
    assert "woken" in request.latest, "it was not in the same turn"
    read = world.message("docs", mail)
    assert (read["via"], bool(read["receipts"]["read_at"])) == ("stream", True)
    assert world.message("deaf", unread)["receipts"]["offered_at"] is None

    again = world.run("queue", "run", "curious", "--allow-denied", "--json")
    [one] = json.loads(again.stdout)
    assert (one["status"], one["denied"], one["result"]) == (
        "completed",
        ["WebFetch"],
        "I did without.",
    )
    assert one["session_id"] == ones["curious"]["session_id"]


def check_verdicts(world: World, ones: dict[str, Json], unread: str) -> None:
    attempts = {name: one["attempts"] for name, one in ones.items()}
    assert {name for name, count in attempts.items() if count == 2} == {"killed", "shaky"}
    assert {name for name, count in attempts.items() if not count} == {"clash", "vain", "vainer"}
    assert ones["killed"]["result"] == "Done after all."
    assert ones["shaky"]["result"] == "At last."
    assert ones["deaf"]["unread"] == [unread]
    assert ones["curious"]["denials"] == ["WebFetch: http://127.0.0.1:1/"]
    assert ones["costly"]["cost_usd"] > 0.001
    for name, word in {
        "clash": "lib.txt",
        "wrong": "exit status 3",
        "unwilling": "There is no database.",
        "crashed": "signal 9",
        "broken": "(500)",
        "stranger": "(401)",
        "vain": "wrong, which it needs, is rejected",
        "vainer": "vain, which it needs, is skipped",
    }.items():
        assert word in ones[name]["reason"], ones[name]


def check_requests(world: World) -> None:
    """Each prompt was told once, in one conversation; what may not run asked nothing."""
    for name, exit_ in EXITS.items():
        ran = exit_ not in (1, 17)
        new = world.requests_with(prompt(name))
        tries = {"shaky": 4, "broken": 3, "stranger": 2}.get(name, 1)
        assert ran <= len(new) <= tries * ran, (name, new)
        assert told(world, prompt(name)) == ran, name


def check_branches(world: World) -> None:
    show = partial(git, world.repository, "show")
    assert show("claudedo/both:both.txt") == "lib\ndocs"
    assert show("claudedo/killed:killed.txt") == "done"
    assert show("-s", "--format=%s", "claudedo/lib") == "lib: DO-LIB"
    for need in ("app", "docs"):
        git(world.repository, "merge-base", "--is-ancestor", f"claudedo/{need}", "claudedo/both")


def check_reports(out: Path) -> None:
    xmlschema.XMLSchema(SCHEMA).validate(out / "junit.xml")
    told = text(out / "junit.xml")
    assert told.count("<testcase") == len(EXITS)
    assert [told.count(f"<{kind}") for kind in ("failure", "error", "skipped")] == [4, 6, 2]
    summary = text(out / "summary.md")
    assert all(f"| <code>{name}</code> |" in summary for name in EXITS)


def check_artifacts(folder: Path) -> None:
    """Each task has its own, whole; of what never began there is nothing but the verdict."""
    assert {place.name for place in folder.iterdir()} == set(EXITS)
    for name, exit_ in EXITS.items():
        own = folder / name
        verdict = json.loads((own / "verdict.json").read_text())
        assert (verdict["exit"], verdict["missing"]) == (exit_, []), verdict
        assert (own / "prompt.md").read_text() == f"DO-{name.upper()}"
        ran = exit_ not in (1, 17)
        for file in ("transcript.jsonl", "output.jsonl"):
            assert ran == (own / file).exists(), (name, file)
            assert not ran or f"DO-{name.upper()}" in text(own / file), (name, file)
        assert ran == (verdict["cost_usd"] is not None)
        assert ran == ("DO-" in text(own / "log.md"))
    assert verdict_tokens(folder / "docs") > 0
    assert text(folder / "docs" / "result.md") == "The docs are there."
    assert "\n+++ b/docs.txt\n" in text(folder / "docs" / "changes.patch")
    assert "MAIL-MIDDLE" in text(folder / "docs" / "messages.json")
    assert text(folder / "wrong" / "check.log") == "not good enough\n"


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def verdict_tokens(folder: Path) -> int:
    return int(json.loads(text(folder / "verdict.json"))["usage"]["output_tokens"])


TWO = """
[tasks.one]
prompt = "DO-ONE"

[tasks.two]
prompt = "DO-TWO"
needs = ["one"]
"""


def test_a_run_that_is_interrupted_and_then_killed_goes_on_where_it_was(world: World) -> None:
    script(
        world,
        one=[
            bash(WAIT),
            bash("touch resumed; until [ -e on ]; do sleep 0.1; done; echo one > one.txt"),
            Text("One is done."),
        ],
        two=[bash("cat one.txt"), Text("Two is done.")],
    )
    world.run("queue", "add", "--file", tasks_of(world, TWO), *MAY_USE_BASH)

    queue = world.begin("queue", "run")
    await_file(world, "one", "begun")
    queue.send_signal(signal.SIGINT)
    status, _, errors = ended(queue)
    assert (status, left(world)) == (130, []), errors
    assert "`claudedo queue run` goes on with one, two" in errors

    queue = world.begin("queue", "run")
    await_file(world, "one", "resumed")
    before = listed(world)["one"]
    assert before["status"] == "running"
    kill(psutil.Process(queue.pid))
    ended(queue)
    (place(world, "one") / "on").touch()

    world.run("queue", "run")
    ones = listed(world)
    assert {name: one["exit"] for name, one in ones.items()} == {"one": 0, "two": 0}
    assert ones["one"]["session_id"] == before["session_id"]
    for name in ones:
        assert (len(world.requests_with(prompt(name))), told(world, prompt(name))) == (1, 1)
    world.run("worker", "stop")  # the killed command could not
    assert left(world) == []


FOUR = """
[tasks.careful]
prompt = "DO-CAREFUL"

[tasks.unsure]
prompt = "DO-UNSURE"

[tasks.human]
prompt = "DO-HUMAN"

[tasks.told]
prompt = "DO-TOLD"
"""

CHOICES = {
    "question": "Which database?",
    "header": "Database",
    "multiSelect": False,
    "options": [
        {"label": "Postgres", "description": "the big one"},
        {"label": "SQLite", "description": "the small one"},
    ],
}


def asked(world: World, words: str) -> Json:
    """The open ask whose title holds these words."""

    def find() -> Json | None:
        asks = world.ask(lambda worker: worker.asks())
        return next((ask for ask in asks if words in ask["title"]), None)

    return world.wait_for(find, f"nobody asks {words!r}")


def test_a_person_reaches_what_runs_and_answers_what_it_asks(world: World) -> None:
    script(
        world,
        careful=[bash("touch allowed"), Text("It was allowed.")],
        unsure=[ToolUse("AskUserQuestion", {"questions": [CHOICES]}), Text("I know now.")],
        human=[
            tool("createTask", title="May I?", body="Say yes.", assignee="human"),
            Text("I wait."),
            Text("I was told something else."),
            Text("You said it."),
        ],
    )
    world.run("worker", "start")
    world.run("queue", "add", "--file", tasks_of(world, FOUR), "--permission-mode", "default")
    early = world.send("told", "MAIL-EARLY")
    queue = world.begin("queue", "run", "--jobs", "4", "--ask-timeout", "120", "--json")

    asked(world, "touch allowed")
    world.run("allow", "careful")
    asked(world, "Which database?")
    world.run("answer", "unsure", "SQLite")
    ask = asked(world, "May I?")
    world.wait_for(lambda: conversation_said(world, "I wait."), "its turn does not end")
    between = world.send("human", "MAIL-BETWEEN")
    world.await_rung("human", between, "read")
    world.run("answer", ask["id"], "Yes, you may.")

    status, output, errors = ended(queue)
    ones = {one["name"]: one for one in json.loads(output)}
    assert (status, {one["exit"] for one in ones.values()}) == (0, {0}), errors
    assert (place(world, "careful") / "allowed").exists()
    assert "SQLite" in world.requests_with("Which database?")[-1].latest
    assert ones["human"]["result"] == "You said it."
    answers = world.requests_with("Yes, you may.")
    assert [f"[Response to task {ask['task']}]" in request.latest for request in answers] == [True]
    assert [request.latest.count("MAIL-BETWEEN") for request in answers] == [0]

    [first] = world.requests_with("\nDO-TOLD\n")
    assert first.count("MAIL-EARLY") == 1
    assert world.message("told", early)["receipts"]["read_at"]
    later = world.send("told", "MAIL-LATER")
    [one] = json.loads(world.run("queue", "run", "told", "--json").stdout)
    assert (one["exit"], one["session_id"]) == (0, ones["told"]["session_id"])
    [last] = world.requests_with("MAIL-LATER")
    assert (last.count("\nDO-TOLD\n"), last.count("MAIL-LATER")) == (1, 1)
    assert world.message("told", later)["receipts"]["read_at"]


def conversation_said(world: World, words: str) -> bool:
    """Whether a request was answered so, as far as the output of the run tells."""
    task = listed(world)["human"]["task"]
    file = world.state / "runs" / task / "output.jsonl"
    lines = [json.loads(line) for line in file.read_bytes().split(b"\n") if line.endswith(b"}")]
    return any(line["type"] == "result" and line.get("result") == words for line in lines)


@pytest.mark.one_claude
def test_one_task_in_the_foreground_prints_its_result_and_leaves_nothing(world: World) -> None:
    script(
        world,
        it=[bash("touch made"), Text("It is made.")],
        other=[Text("Nothing to do.")],
    )
    command = ["run", "DO-IT", "--name", "first", "--check", "test -e made", *MAY_USE_BASH]
    done = world.run(*command)
    assert (done.stdout, left(world)) == ("It is made.\n", [])

    world.run("worker", "start")
    worker = world.worker_pid
    wrong = world.run("run", "--check", "test -e made", "--json", check=False, input="DO-OTHER\n")
    assert wrong.returncode == 10, wrong.stderr
    one = json.loads(wrong.stdout)
    assert (one["name"], one["exit"], one["result"]) == ("do-other", 10, "Nothing to do.")
    assert "check `test -e made` failed" in wrong.stderr
    assert world.worker_pid == worker


@pytest.mark.one_claude
def test_a_one_shot_and_a_session_at_a_terminal_write_to_each_other(world: World) -> None:
    script(
        world,
        shot=[
            tool("send_to_task", task_id="desk", body="PING-ONE"),
            tool("send_to_peer", body="PING-TWO"),
            bash(WAIT),
            Text("I have it."),
        ],
    )
    world.model.script('the task "desk"', answer_pings)
    world.start("desk")
    world.run("queue", "add", "DO-SHOT", "--name", "shot", *MAY_USE_BASH)
    world.run("link", "desk", "shot")
    queue = world.begin("queue", "run")
    await_file(world, "shot", "begun")
    for ping in ("PING-ONE", "PING-TWO"):
        world.wait_for(partial(is_stored, world, f"re: {ping}"), f"{ping} is not answered")
    go(world, "shot")
    assert ended(queue)[0] == 0
    for ping in ("PING-ONE", "PING-TWO"):
        assert told(world, f"re: {ping}") == 1
    world.await_state("desk", "idle")


def is_stored(world: World, body: str) -> bool:
    thread = world.ask(lambda worker: worker.thread(world.id("shot")))
    return any(message["body"] == body for message in thread)


def answer_pings(request: ModelRequest) -> Answer:
    """Answer each that is new: they may come together, or one by one."""
    found = re.findall(r"message (m_\w+) from the peer[^\n]*\n(PING-\w+)", request.latest)
    answers = [
        tool("send_to_task", task_id="shot", body=f"re: {ping}", reply_to=message)
        for message, ping in found
    ]
    return ToolUses(answers) if answers else Text("ok")


BAD_FILES = {
    '[tasks.a]\nprompt = "x"\nprize = 1': "prize",
    "[tasks.a]\ncheck = 'true'": "prompt",
    '[tasks.a]\nprompt = "x"\nneeds = ["b"]\n[tasks.b]\nprompt = "x"\nneeds = ["a"]': "a needs b",
    '[tasks.a]\nprompt = "x"\n[tasks.a]\nprompt = "y"': "('tasks', 'a') twice",
    '[tasks.a]\nprompt = "x"\nneeds = ["c"]': "'c'",
    "not a file of tasks": "tasks.toml",
    "[]": "tasks.toml",
}


@pytest.mark.one_claude
def test_what_cannot_be_run_is_refused_with_its_reason_and_nothing_begins(world: World) -> None:
    world.run("worker", "start")
    for text, word in BAD_FILES.items():
        refused = world.run("queue", "add", "--file", tasks_of(world, text), check=False)
        assert (refused.returncode, word in refused.stderr) == (2, True), refused.stderr
    world.run("queue", "add", "DO-IT", "--name", "it")
    taken = world.run("queue", "add", "DO-IT", "--name", "it", check=False)
    assert (taken.returncode, "it is in the queue already" in taken.stderr) == (5, True)
    elsewhere = world.run("run", "DO-IT", check=False, cwd=world.root)
    assert (elsewhere.returncode, "repository" in elsewhere.stderr) == (2, True), elsewhere.stderr

    claude = world.environment.pop("CLAUDEDO_CLAUDE")
    world.environment["CLAUDEDO_CLAUDE"] = str(world.root / "nowhere" / "claude")
    missing = world.run("queue", "run", check=False)
    assert (missing.returncode, "nowhere/claude" in missing.stderr) == (5, True), missing.stderr
    world.environment["CLAUDEDO_CLAUDE"] = claude

    known = world.home / ".claude.json"
    trusted = known.read_text()
    known.write_text(json.dumps({**json.loads(trusted), "projects": {}}))
    untrusted = world.run("queue", "run", check=False)
    assert (untrusted.returncode, "trust" in untrusted.stderr) == (5, True), untrusted.stderr
    assert (world.model.requests, place(world, "it").exists()) == ((), False)
    known.write_text(trusted)

    world.model.stop()  # nobody listens any more
    world.environment["CLAUDE_CODE_MAX_RETRIES"] = "0"
    gone = world.run("run", "DO-IT", "--name", "cut-off", "--retries", "0", check=False)
    assert (gone.returncode, "the API refused" in gone.stderr) == (15, True), gone.stderr
    world.model.start()
