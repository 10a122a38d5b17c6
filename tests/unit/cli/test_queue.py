"""`claudedo queue` and `claudedo run`: what they ask of the worker, what they say, how they end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from claudedo.cli import addition, queue_loop, queue_progress
from claudedo.cli.exits import of_run
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, one_shot, task

REJECTED: dict[str, Any] = {
    "status": "rejected",
    "exit": 10,
    "reason": "its check `false` failed",
    "usage": {"requests": 1},
}
API: dict[str, Any] = {"status": "failed", "exit": 15, "reason": "the API refused (401)"}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a build server, whatever runs these tests."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def added(worker: FakeWorker) -> dict[str, Any]:
    """The tasks of the only request that added some."""
    [order] = worker.requests("POST", "/api/queue")
    tasks: dict[str, Any] = order["tasks"]
    return tasks


# Adding


def test_add_sends_what_the_options_say(worker: FakeWorker, run: Run) -> None:
    options = ("--check", "make test", "--needs", "a,b", "--needs", "c", "--timeout", "60")
    more = ("--budget", "0.5", "--retries", "0", "--priority", "3", "--base", "main")
    done = run("queue", "add", "Fix it", "--name", "fix", *options, *more)
    assert done.exit_code == 0, done.output
    assert added(worker) == {
        "fix": {
            "prompt": "Fix it",
            "check": "make test",
            "needs": ["a", "b", "c"],
            "timeout": 60.0,
            "budget": 0.5,
            "retries": 0,
            "priority": 3,
            "base": "main",
        }
    }
    assert "fix is in the queue, after a, b, c" in done.stdout
    assert "claudedo queue run" in done.stderr


def test_a_task_without_a_name_gets_one_of_its_first_words_that_is_free(
    worker: FakeWorker, run: Run
) -> None:
    prompt = "Répare the  *login* page, which is broken!"
    for _ in range(2):
        assert run("queue", "add", prompt).exit_code == 0
    names = [one["name"] for one in worker.one_shots.values()]
    assert names == ["repare-the-login-page-which", "repare-the-login-page-which-2"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("你好", "task"), ("x" * 90, "x" * 40), ("../../etc", "etc"), ("--version", "version")],
)
def test_a_name_of_words_is_a_name(prompt: str, name: str) -> None:
    assert addition.slug(prompt) == name


def test_a_prompt_of_a_dash_is_standard_input(worker: FakeWorker, run: Run) -> None:
    assert run("queue", "add", "-", "--name", "fix", stdin="Fix it\nall\n").exit_code == 0
    assert added(worker)["fix"] == {"prompt": "Fix it\nall"}


TOML = '[tasks.build]\nprompt = "Build"\n[tasks.test]\nprompt = "Test"\nneeds = ["build"]\n'
JSON = json.dumps({"tasks": {"build": {"prompt": "Build"}, "test": {"prompt": "Test"}}})


@pytest.mark.parametrize("text", [TOML, JSON, f"\n {JSON}", f"\ufeff{JSON}"])
def test_toml_and_json_are_told_apart_on_standard_input(
    worker: FakeWorker, run: Run, text: str
) -> None:
    done = run("queue", "add", "--file", "-", stdin=text)
    assert done.exit_code == 0, done.output
    assert list(added(worker)) == ["build", "test"]


def test_paths_in_a_file_are_seen_from_its_folder(
    worker: FakeWorker, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tasks.toml").write_text(TOML)
    done = run("queue", "add", "--file", str(tmp_path / "tasks.toml"), "--model", "opus")
    assert done.exit_code == 0, done.output
    [order] = worker.requests("POST", "/api/queue")
    assert (order["source"], order["model"]) == (str(tmp_path), "opus")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[tasks.build]\nprompt = "B"\nneed = ["a"]', "tasks.build: unknown key 'need'"),
        ('[tasks.build]\ncheck = "true"', "tasks.build: a one-shot needs a `prompt`"),
        ('[tasks.build]\nprompt = "B"\ntimeout = -1', "tasks.build.timeout: must be"),
        ('[tasks.build]\nprompt = "B"\nargs = ["--verbose"]', "tasks.build.args: --verbose"),
        ('[tasks.build]\nprompt = "B"\nargs = ["-p"]', "tasks.build.args: -p"),
        ("tasks = 3", "tasks must be a table"),
        ("", "there is no task in it"),
        ("{", "it is no JSON"),
        ("[tasks", "it is no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(
    worker: FakeWorker, run: Run, tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(text)
    done = run("queue", "add", "--file", str(file))
    assert done.exit_code == 2
    assert f"{file}: {named}" in done.stderr
    assert not worker.requests("POST", "/api/queue")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "PROMPT"),
        (("",), "The prompt is empty"),
        (("x", "--timeout", "0"), "--timeout: must be a number above 0"),
        (("x", "--budget", "nan"), "--budget: must be a number above 0"),
        (("x", "--retries", "-1"), "--retries: must be a whole number"),
        (("x", "--name", "No Such"), "No Such"),
        (("x", "--file", "tasks.toml"), "leave out PROMPT"),
        (("--name", "x", "--check", "y", "--file", "t.toml"), "leave out --name, --check"),
        (("--file", "nosuch.toml"), "nosuch.toml cannot be read"),
        (("x", "--", "word"), "'word' is no option of claude"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(
    worker: FakeWorker, run: Run, arguments: tuple[str, ...], named: str
) -> None:
    done = run("queue", "add", *arguments)
    assert done.exit_code == 2
    assert named in done.stderr
    assert not worker.requests("POST", "/api/queue")


OURS = (
    *("-p", "--print", "--output-format=json", "--input-format=text", "--verbose"),
    *("--permission-prompt-tool=x", "--replay-user-messages", "--max-budget-usd=1"),
    *("--resume", "--continue", "-c", "--session-id=x", "--no-session-persistence"),
)


@pytest.mark.parametrize("command", [("queue", "add"), ("run",)])
@pytest.mark.parametrize("argument", OURS)
def test_arguments_of_claude_that_one_shots_set_themselves_are_refused_by_name(
    worker: FakeWorker, run: Run, command: tuple[str, ...], argument: str
) -> None:
    done = run(*command, "Fix it", "--", argument)
    assert done.exit_code == 2
    assert f"{argument.partition('=')[0]} cannot be given to claude" in done.stderr
    assert not worker.requests("POST", "/api/queue")


def test_what_the_worker_finds_wrong_is_told_of_the_option(worker: FakeWorker, run: Run) -> None:
    detail = "tasks.fix.needs: there is no one-shot 'a'; there are: none."
    worker.failures["POST /api/queue"] = {"code": "usage", "status": 400, "detail": detail}
    done = run("queue", "add", "Fix it", "--name", "fix", "--needs", "a")
    wrong = "claudedo: --needs: there is no one-shot 'a'; there are: none.\n"
    assert (done.exit_code, done.stderr) == (2, wrong)
    failure = worker.failures["POST /api/queue"]
    failure["detail"] = "tasks.fix: base: there is no commit 'a' in /src/shop."
    done = run("queue", "add", "Fix it", "--name", "fix", "--base", "a")
    assert done.stderr == "claudedo: --base: there is no commit 'a' in /src/shop.\n"


# Looking


def test_ls_lists_what_each_waits_for_and_why_it_failed(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", **API), one_shot("test", needs=["build"]))
    lines = run("queue", "ls").stdout.splitlines()
    assert lines[0].split() == list(queue_progress.HEADS)
    assert "the API refused (401)" in lines[1]
    assert lines[2].endswith("needs build")
    assert json.loads(run("queue", "ls", "--json").stdout) == list(worker.one_shots.values())


def test_an_empty_queue_is_an_empty_list(worker: FakeWorker, run: Run) -> None:
    assert json.loads(run("queue", "ls", "--json").stdout) == []
    assert "claudedo queue add" in run("queue", "ls").stderr


# Running


def test_run_begins_what_is_ready_until_there_is_a_verdict_on_each(
    worker: FakeWorker, run: Run
) -> None:
    worker.queue(one_shot("build"), one_shot("test", needs=["build"]), one_shot("docs"))
    done = run("queue", "run", "--json", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert [one["status"] for one in json.loads(done.stdout)] == ["completed"] * 3
    turns = worker.requests("POST", "/api/queue/next")
    assert {turn["jobs"] for turn in turns} == {1}
    assert turns[0]["env"]["PATH"] == os.environ["PATH"]
    assert turns[0]["rules"] == {
        "fail_on_unread": False,
        "allow_denied": False,
        "ask_timeout": 0.0,
        "ask_default": "deny",
    }
    assert done.stderr.splitlines()[:2] == [
        "build: running",
        "build: completed in 12.3 s, $0.02",
    ]
    assert not worker.stopping.is_set()  # a worker that was there before stays


def test_with_nothing_queued_nothing_is_run(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", "completed", exit=0))
    done = run("queue", "run", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert run("queue", "run").stderr == "Nothing is queued.\n"
    assert not worker.requests("POST", "/api/queue/next")


@pytest.mark.parametrize(
    ("exits", "status"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 10, 10], 10),
        ([10, 15], 1),
        ([15, 17, 17], 15),
        ([17], 17),
        ([0, None], 1),
        ([130], 130),
        ([1, 17], 1),
    ],
)
def test_the_status_is_the_one_that_all_failures_share(
    exits: list[int | None], status: int
) -> None:
    assert of_run([{"exit": one} for one in exits]) == status


def test_a_failure_says_why_and_where_to_look(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"), one_shot("docs"))
    worker.ends["build"] = REJECTED
    done = run("queue", "run")
    assert done.exit_code == 10
    why = "claudedo: build rejected (10): its check `false` failed; look: claudedo logs build"
    assert done.stderr.splitlines()[-1] == why
    assert "docs   completed" in done.stdout


def test_where_nothing_was_said_nobody_is_sent_to_the_log(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"))
    reason = "claude ended with exit status 1 and no result: no such mode."
    worker.ends["build"] = {"status": "failed", "exit": 11, "reason": reason, "usage": None}
    why = f"claudedo: build failed (11): {reason}"
    assert run("queue", "run").stderr.splitlines()[-1] == why


def test_quiet_says_how_it_went_in_a_line(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"), one_shot("docs"))
    done = run("queue", "run", "-q")
    assert (done.stdout, done.stderr) == ("2 completed, $0.04\n", "")


def test_a_task_that_needs_one_that_was_not_chosen_is_not_waited_for(
    worker: FakeWorker, run: Run
) -> None:
    worker.queue(one_shot("build"), one_shot("test", needs=["build"]))
    done = run("queue", "run", "test")
    assert done.exit_code == 1
    assert "test was not run and stays in the queue: it needs build" in done.stderr
    assert worker.one_shots["t_BUILD"]["status"] == "queued"


def test_what_somebody_else_runs_is_waited_for(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", "running"), one_shot("test", needs=["build"]))
    worker.ends["build"] = None
    looks: list[int] = []

    def soon() -> None:
        looks.append(1)
        if len(looks) > 2:
            worker.ends["build"] = {"status": "completed", "exit": 0}
            worker.announce("t_BUILD")

    worker.on_wait = soon
    assert run("queue", "run", "test").exit_code == 0


def test_named_tasks_that_are_over_are_queued_again(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", **API), one_shot("docs"))
    assert run("queue", "run", "build", "docs").exit_code == 0
    assert worker.requests("POST", "/api/queue/again") == [{"tasks": ["t_BUILD"]}]


def test_a_task_that_is_done_is_not_run_again_for_nothing(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", "completed", exit=0))
    detail = {"code": "conflict", "status": 409, "detail": "build is completed."}
    worker.failures["POST /api/queue/again"] = detail
    done = run("queue", "run", "build")
    assert (done.exit_code, done.stderr) == (5, "claudedo: build is completed.\n")


def test_a_task_at_a_terminal_is_no_one_shot(worker: FakeWorker, run: Run) -> None:
    worker.add(task("page"))
    done = run("queue", "run", "page")
    assert done.exit_code == 4
    assert "page is no one-shot" in done.stderr


def test_without_a_terminal_and_without_trust_nothing_is_begun(
    worker: FakeWorker, run: Run
) -> None:
    worker.queue(one_shot("build"))
    worker.trusted = False
    assert run("queue", "run").exit_code == 5
    assert worker.one_shots["t_BUILD"]["status"] == "queued"
    assert run("queue", "run", "--trust").exit_code == 0


def test_a_worker_that_dies_over_a_request_is_asked_again(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"))
    worker.drops = {"POST /api/queue/next": 1, "GET /api/events": 1, "GET /api/queue": 1}
    assert run("queue", "run").exit_code == 0


def test_an_ask_is_shown_with_the_way_to_answer_it(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"))
    worker.ends["build"] = None
    asked = {"task_id": "t_BUILD", "ask_id": "a_1", "title": "Bash: rm -rf /"}

    def happen() -> None:
        if worker.one_shots["t_BUILD"]["status"] != "running":
            return
        if not any(event["type"] == "ask.opened" for event in worker.events):
            worker.happen("ask.opened", asked)
        else:
            worker.ends["build"] = {"status": "completed", "exit": 0}
            worker.happen("task.updated", {"task_id": "t_BUILD", "queue": "running"})

    worker.on_wait = happen
    done = run("queue", "run", "--ask-timeout", "5", "--ask-default", "allow")
    assert "build: asks Bash: rm -rf / (`claudedo next` answers)" in done.stderr
    [rules, *_] = [turn["rules"] for turn in worker.requests("POST", "/api/queue/next")]
    assert (rules["ask_timeout"], rules["ask_default"]) == (5.0, "allow")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_puts_back_what_runs_and_says_how_to_go_on(
    worker: FakeWorker, run: Run, number: signal.Signals
) -> None:
    worker.queue(one_shot("build"), one_shot("docs"))
    worker.ends.update(build=None, docs=None)

    def interrupt() -> None:
        if worker.one_shots["t_DOCS"]["status"] == "running":
            os.kill(os.getpid(), number)

    worker.on_wait = interrupt
    before = signal.getsignal(number)
    done = run("queue", "run", "--json")
    assert done.exit_code == 130
    assert worker.requests("POST", "/api/queue/cancel") == [
        {"tasks": ["t_BUILD", "t_DOCS"], "requeue": True}
    ]
    assert {one["status"] for one in json.loads(done.stdout)} == {"queued"}
    assert "`claudedo queue run` goes on with build, docs" in done.stderr
    assert signal.getsignal(number) is before


def test_what_joins_the_queue_meanwhile_is_run_too(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build"), one_shot("old", "completed", exit=0))
    worker.ends["build"] = None

    def join() -> None:
        if "t_NEW" not in worker.one_shots and worker.one_shots["t_BUILD"]["status"] == "running":
            worker.queue(one_shot("new"))
            worker.ends["build"] = {"status": "completed", "exit": 0}
            worker.announce("t_NEW")

    worker.on_wait = join
    done = run("queue", "run", "--json")
    assert [one["name"] for one in json.loads(done.stdout)] == ["build", "new"]


def test_waits_are_long_and_nothing_is_asked_without_news(
    worker: FakeWorker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_loop, "EVENT_SECONDS", 0.4)
    worker.queue(one_shot("build"))
    worker.ends["build"] = None
    waits: list[int] = []

    def count() -> None:
        waits.append(1)
        if len(waits) > 6:
            worker.ends["build"] = {"status": "completed", "exit": 0}

    worker.on_wait = count
    assert run("queue", "run").exit_code == 0
    assert len(worker.requests("GET", "/api/queue")) < len(waits) + 4


# Reports


def test_reports_are_written_and_checked_before_anything_runs(
    worker: FakeWorker, run: Run, tmp_path: Path
) -> None:
    worker.queue(one_shot("build"))
    missing = tmp_path / "no" / "report.xml"
    done = run("queue", "run", "--junit", str(missing))
    assert (done.exit_code, done.stderr) == (2, f"claudedo: There is no folder {missing.parent}.\n")
    assert not worker.requests("POST", "/api/queue/next")
    junit, summary = tmp_path / "report.xml", tmp_path / "summary.md"
    assert run("queue", "run", "--junit", str(junit), "--summary", str(summary)).exit_code == 0
    assert 'tests="1" failures="0"' in junit.read_text()
    assert "1 completed" in summary.read_text()
    assert sorted(tmp_path.iterdir()) == [junit, summary]


def test_a_report_that_cannot_be_written_fails_the_run_but_not_its_result(
    worker: FakeWorker, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.queue(one_shot("build"))

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    done = run("queue", "run", "--json", "--junit", str(tmp_path / "report.xml"))
    assert done.exit_code == 1
    assert "report.xml cannot be written: No space left on device" in done.stderr
    assert json.loads(done.stdout)[0]["exit"] == 0
    assert list(tmp_path.iterdir()) == []


def test_artifacts_are_kept_of_each_task(worker: FakeWorker, run: Run, tmp_path: Path) -> None:
    worker.queue(one_shot("build"), one_shot("docs", workspace="shop"))
    done = run("queue", "run", "--artifacts", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "build" / "prompt.md").read_text() == "what is wanted"
    assert (tmp_path / "out" / "docs" / "verdict.json").exists()


# GitHub Actions

EVIL = "fine\n::error title=x::pwned\n  ::set-output name=a::b\n##[add-path]/tmp"


def test_on_github_actions_a_result_is_told_in_a_group_and_commands_nothing(
    worker: FakeWorker, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    worker.queue(one_shot("build"))
    worker.ends["build"] = {**API, "result": EVIL, "reason": "100% of it,\nfailed"}
    done = run("queue", "run", "--json")
    assert done.exit_code == 15
    lines = done.stderr.splitlines()
    at = lines.index("::group::build: failed in 12.3 s, $0.02")
    stop, end = lines[at + 1], lines.index("::endgroup::")
    token = stop.removeprefix("::stop-commands::")
    assert (len(token), lines[end - 1]) == (32, f"::{token}::")
    assert "::error title=x::pwned" in lines[at + 2 : end - 1]
    outside = [*lines[: at + 1], *lines[end:]]
    assert [line for line in outside if line.startswith("::error")] == [
        "::error title=build::100%25 of it, failed (exit 15)"
    ]
    assert "##[" not in done.stdout
    assert json.loads(done.stdout)[0]["result"] == EVIL
    assert page.read_text().startswith("before\n## claudedo: 1 failed")


def test_on_github_actions_the_result_of_run_commands_nothing(
    worker: FakeWorker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    worker.ends["do-it"] = {"status": "completed", "exit": 0, "result": EVIL}
    done = run("run", "Do it")
    shown = "fine\n: :error title=x::pwned\n  : :set-output name=a::b\n# #[add-path]/tmp\n"
    assert done.stdout == shown


# run


def test_run_prints_the_result_and_ends_as_its_task_did(worker: FakeWorker, run: Run) -> None:
    worker.ends["do-it"] = {**REJECTED, "result": "I could not."}
    done = run("run", "Do it", "--check", "false")
    assert (done.exit_code, done.stdout) == (10, "I could not.\n")
    assert "do-it: running" in done.stderr
    assert [turn["tasks"] for turn in worker.requests("POST", "/api/queue/next")] == [["t_DO-IT"]]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_run_reads_its_prompt_from_a_pipe(
    worker: FakeWorker, run: Run, arguments: tuple[str, ...]
) -> None:
    assert run("run", *arguments, "--json", stdin="Do it\n").exit_code == 0
    assert added(worker) == {"do-it": {"prompt": "Do it"}}


def test_run_leaves_nothing_in_the_queue_if_it_may_not_begin(worker: FakeWorker, run: Run) -> None:
    worker.trusted = False
    assert run("run", "Do it").exit_code == 5
    assert [path for method, path, _ in worker.asked if method == "DELETE"] == [
        "/api/tasks/t_DO-IT"
    ]


def test_run_leaves_the_rest_of_the_queue_alone(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("other"))
    done = run("run", "Do it", "--json")
    assert json.loads(done.stdout)["name"] == "do-it"
    assert worker.one_shots["t_OTHER"]["status"] == "queued"


# Cancelling


def test_cancel_says_what_ended(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", "running"), one_shot("docs"), one_shot("old", **REJECTED))
    worker.ends["build"] = None
    done = run("queue", "cancel", "build", "docs", "old")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["build was ended", "docs is out of the queue"]
    assert done.stderr == "old is rejected already.\n"
    [order] = worker.requests("POST", "/api/queue/cancel")
    assert order == {"tasks": ["t_BUILD", "t_DOCS"], "requeue": False}


# Mail


def test_send_to_one_that_is_over_says_how_to_go_on_with_it(worker: FakeWorker, run: Run) -> None:
    worker.queue(one_shot("build", "completed", exit=0), one_shot("docs"))
    done = run("send", "build", "And the tests")
    assert done.exit_code == 0, done.output
    again = "build is over (completed); to go on with it: claudedo queue run build\n"
    assert done.stderr == again
    assert run("send", "docs", "More").stderr == "docs is queued and gets this with its prompt\n"
