"""Deciding what waits for a person: asks, allow, deny, answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, ask, problem_of, task

MAKE_RULE = {
    "type": "addRules",
    "behavior": "allow",
    "destination": "localSettings",
    "rules": [{"toolName": "Bash", "ruleContent": "make test:*"}],
}


def question(identity: str, *questions: Any, **changes: Any) -> dict[str, Any]:
    """An ask with questions, each given as (text, header, several, labels)."""
    given = [
        {
            "question": text,
            "header": header,
            "multiSelect": several,
            "options": [{"label": label, "description": f"about {label}"} for label in labels],
        }
        for text, header, several, labels in questions
    ]
    about = {"kind": "question", "tool": "AskUserQuestion", "title": "Which database?"}
    return ask(identity, "", **{**about, "input": {"questions": given}, **changes})


DATABASE = ("Which database?", "Database", False, ["Postgres", "SQLite", "None, thanks"])
PARTS = ("Which parts?", "Parts", True, ["api", "web", "docs"])


def plan(identity: str) -> dict[str, Any]:
    given = {"plan": "1. Look\n2. Leap"}
    return ask(identity, "", kind="plan", tool="ExitPlanMode", title="Look", input=given)


# The list


def test_asks_are_listed_with_age_task_kind_and_title(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make test"), plan("k_2") | {"task_name": "web", "task": "t_WEB"})

    answer = run("asks")

    rows = [line.split(maxsplit=3) for line in answer.stdout.splitlines()]
    assert rows[0] == ["AGE", "TASK", "KIND", "WHAT"]
    assert rows[1][1:] == ["backend", "permission", "Bash: make test"]
    assert rows[2][1:] == ["web", "plan", "Look"]


def test_ids_are_listed_where_names_do_not_tell_the_asks_apart(
    run: Run, worker: FakeWorker
) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "make"))

    assert "k_2" in run("asks").stdout


def test_workspaces_are_named_where_there_are_several(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "make", "web", workspace="other"))
    worker.add(task("web", workspace="other"))

    assert "shop/backend" in run("asks").stdout
    assert run("asks", "-w", "other", "-q").stdout == "k_2\n"


def test_a_name_says_its_workspace_where_it_could_mean_a_task_that_asks_nothing(
    run: Run, worker: FakeWorker
) -> None:
    worker.wait_in(ask("k_1", "make", "api"))
    worker.add(task("api", id="t_OTHER", workspace="other"))

    assert "shop/api" in run("asks").stdout
    assert run("allow", "other/api").exit_code == 4
    assert "Nothing of other/api waits for you, but of shop/api." in run("deny", "t_OTHER").stderr
    assert run("allow", "shop/api").stdout == "shop/api: allowed: Bash: make\n"
    assert worker.decided("k_1") == [{"decision": "allow"}]


def test_asks_as_json_have_what_is_promised(run: Run, worker: FakeWorker) -> None:
    assert run("asks", "--json").stdout == "[]\n"
    worker.wait_in(ask("k_1", "make"))

    [listed] = json.loads(run("asks", "--json").stdout)

    assert {"id", "kind", "task", "title", "body", "opened_at"} <= listed.keys()


def test_nothing_that_waits_is_a_note(run: Run, worker: FakeWorker) -> None:
    answer = run("asks")

    assert (answer.exit_code, answer.stdout) == (0, "")
    assert answer.stderr == "Nothing waits for you.\n"


def test_nothing_of_a_title_reaches_the_terminal_as_it_is(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "x\x1b[2J\u202ey"))

    assert "\x1b" not in run("asks").stdout
    assert "\\x1b[2J\\u202e" in run("asks").stdout


# Which one is meant


@pytest.mark.parametrize("target", ["k_12", "k_1", "backend", "shop/backend", "t_BACKEND"])
def test_an_ask_is_named_by_its_id_its_beginning_or_its_task(
    run: Run, worker: FakeWorker, target: str
) -> None:
    worker.wait_in(ask("k_12", "make"), ask("k_2", "make", "web"))

    answer = run("allow", target)

    assert answer.exit_code == 0
    assert answer.stdout == "backend: allowed: Bash: make\n"
    assert worker.decided("k_12") == [{"decision": "allow"}]


def test_an_exact_id_is_not_ambiguous_when_it_begins_others(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_12", "make"))

    assert run("allow", "k_1").exit_code == 0
    assert worker.decided("k_12") == []


@pytest.mark.parametrize("target", ["k_1", "backend"])
def test_several_asks_are_listed_and_none_is_decided(
    run: Run, worker: FakeWorker, target: str
) -> None:
    worker.wait_in(ask("k_12", "make \x1b[2J"), ask("k_13", "rm -rf /"))

    answer = run("allow", target)

    assert answer.exit_code == 4
    assert "k_12  permission  Bash: make \\x1b[2J" in answer.stderr
    assert "k_13  permission  Bash: rm -rf /" in answer.stderr
    assert worker.decided("k_12") == worker.decided("k_13") == []


def test_a_task_without_asks_and_a_name_of_nothing_are_not_found(
    run: Run, worker: FakeWorker
) -> None:
    worker.add(task("backend"))

    assert run("deny", "backend").exit_code == 4
    assert "Nothing of backend waits for you." in run("deny", "backend").stderr
    assert run("deny", "nowhere").exit_code == 4
    assert run("deny", "k_1").exit_code == 4
    assert "No ask begins with k_1. There is no task 'k_1'" in run("deny", "k_1").stderr
    assert run("deny", "").exit_code == 2


def test_another_workspace_is_left_alone(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"))

    assert run("allow", "k_1", "-w", "other").exit_code == 4
    assert worker.decided("k_1") == []


@pytest.mark.parametrize(
    ("outcome", "by", "sentence"),
    [
        ("allowed", "terminal", "was allowed in its terminal"),
        ("denied", "user", "was denied through claudedo"),
        ("gone", "session", "is gone: the session went on or ended without an answer"),
    ],
)
def test_a_closed_ask_ends_with_5_and_says_who_decided(
    run: Run, worker: FakeWorker, outcome: str, by: str, sentence: str
) -> None:
    worker.wait_in(ask("k_1", "make"))
    worker.close("k_1", outcome, by)

    answer = run("allow", "k_1")

    assert answer.exit_code == 5
    assert sentence in answer.stderr
    assert worker.decided("k_1") == []


@pytest.mark.parametrize("code", ["conflict", "forbidden"])
def test_what_the_worker_refuses_ends_with_5_and_its_sentence(
    run: Run, worker: FakeWorker, code: str
) -> None:
    worker.wait_in(ask("k_1", "make"))
    problem = problem_of(code, "This was allowed in its terminal already.", 409)
    worker.failures["POST /api/asks/k_1/decision"] = problem

    answer = run("allow", "backend")

    assert (answer.exit_code, answer.stdout) == (5, "")
    assert answer.stderr == "claudedo: This was allowed in its terminal already.\n"


# Allow


def test_always_says_which_rule_will_hold(run: Run, worker: FakeWorker) -> None:
    suggestions = [MAKE_RULE, {"type": "setMode", "mode": "acceptEdits"}]
    worker.wait_in(ask("k_1", "make", suggestions=suggestions))

    answer = run("allow", "backend", "--always")

    assert worker.decided("k_1") == [{"decision": "allow", "always": True}]
    assert "for the rest of this session: Bash(make test:*), edits of files" in answer.stdout


@pytest.mark.parametrize(
    "suggestion",
    [
        {"type": "setMode", "mode": "bypassPermissions"},
        {"type": "addRules", "behavior": "deny", "rules": [{"toolName": "Bash"}]},
        {"type": "unheard"},
    ],
)
def test_always_is_refused_where_no_rule_would_hold(
    run: Run, worker: FakeWorker, suggestion: dict[str, Any]
) -> None:
    worker.wait_in(ask("k_1", "make", suggestions=[suggestion]))

    answer = run("allow", "k_1", "--always")

    assert answer.exit_code == 5
    assert "only be allowed once: claudedo allow k_1" in answer.stderr
    assert worker.decided("k_1") == []


def three_alike(worker: FakeWorker) -> None:
    for number, name in enumerate(("backend", "web", "docs"), 1):
        same = [f"k_{other}" for other in (1, 2, 3) if other != number]
        worker.wait_in(ask(f"k_{number}", "make", name, same=same))
    worker.wait_in(ask("k_4", "make install", "other"))


def test_same_allows_it_in_the_other_sessions_and_nowhere_else(
    run: Run, worker: FakeWorker
) -> None:
    three_alike(worker)

    answer = run("allow", "web", "--same")

    assert answer.exit_code == 0
    assert len(answer.stdout.splitlines()) == 3
    assert all(worker.decided(f"k_{number}") for number in (1, 2, 3))
    assert worker.decided("k_4") == []


def test_without_same_and_without_a_terminal_only_the_one_is_allowed(
    run: Run, worker: FakeWorker
) -> None:
    three_alike(worker)

    run("allow", "web")

    assert worker.decided("k_2")
    assert worker.decided("k_1") == worker.decided("k_3") == []


def test_same_goes_on_past_one_that_was_decided_meanwhile(run: Run, worker: FakeWorker) -> None:
    three_alike(worker)
    late = problem_of("conflict", "This was denied in its terminal already.", 409)
    worker.failures["POST /api/asks/k_1/decision"] = late

    answer = run("allow", "web", "--same")

    assert answer.exit_code == 5
    assert "backend: This was denied in its terminal already." in answer.stderr
    assert worker.decided("k_3")


def test_an_input_replaces_the_whole_one(run: Run, worker: FakeWorker, tmp_path: Path) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "make", "web"))
    (tmp_path / "input").write_text('{"command": "make -n"}')

    answer = run("allow", "k_1", "--input", str(tmp_path / "input"))
    run("allow", "k_2", "--input", "-", stdin='{"command": "true"}')

    assert worker.decided("k_1") == [{"decision": "allow", "input": {"command": "make -n"}}]
    assert worker.decided("k_2")[0]["input"] == {"command": "true"}
    assert '-  "command": "make",\n' in answer.stdout
    assert '+  "command": "make -n"\n' in answer.stdout
    assert answer.stdout.endswith("backend: allowed, edited: Bash: make -n\n")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--input", "-"], 2, "not valid JSON"),
        (["--input", "/nowhere"], 2, "cannot be read"),
        (["--input", "-", "--edit"], 2, "Either --edit or --input"),
        (["--same", "--edit"], 2, "--same allows what waits as it is"),
        (["--always", "--edit"], 2, "A rule is for what was asked"),
    ],
)
def test_an_input_that_is_none_decides_nothing(
    run: Run, worker: FakeWorker, arguments: list[str], status: int, sentence: str
) -> None:
    worker.wait_in(ask("k_1", "make"))

    answer = run("allow", "k_1", *arguments, stdin="make")

    assert answer.exit_code == status
    assert sentence in answer.stderr
    assert worker.decided("k_1") == []


def test_json_that_is_no_object_is_no_input(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"))

    answer = run("allow", "k_1", "--input", "-", stdin="[1]")

    assert (answer.exit_code, worker.decided("k_1")) == (2, [])


def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Have `script` (given the file as $1) edit."""
    (tmp_path / "my editor").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "my editor").chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{tmp_path}/my editor' --wait")


def test_a_command_is_edited_bare_and_the_difference_is_shown(
    run: Run, worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.wait_in(ask("k_1", "make\ntest\x1b"))
    script = f'[ "$1" = --wait ] && cp "$2" "{tmp_path}/was" && echo "make -n" > "$2"'
    editor(monkeypatch, tmp_path, script)

    answer = run("allow", "k_1", "--edit")

    assert (tmp_path / "was").read_text() == "make\ntest\x1b\n"
    given = {"command": "make -n", "description": "what it does"}
    assert worker.decided("k_1") == [{"decision": "allow", "input": given}]
    shown = [line.lstrip(" │") for line in answer.stdout.splitlines()]
    assert shown[:3] == ["-make", "-test\\x1b", "+make -n"]
    assert shown[3:] == ["backend: allowed, edited: Bash: make -n"]


def test_other_tools_are_edited_as_json(
    run: Run, worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.wait_in(ask("k_1", "", tool="WebFetch", input={"url": "http://a", "n": 1}))
    editor(monkeypatch, tmp_path, 'sed s/http:/https:/ "$2" > "$2.x"; mv "$2.x" "$2"')

    answer = run("allow", "k_1", "--edit")

    assert worker.decided("k_1")[0]["input"] == {"url": "https://a", "n": 1}
    assert '+  "url": "https://a",' in answer.stdout
    assert answer.stdout.endswith("backend: allowed, edited: WebFetch\n")


@pytest.mark.parametrize(
    ("script", "status", "sentence"),
    [
        ("true", 5, "Nothing was changed, so nothing was decided: claudedo allow k_1"),
        (': > "$2"', 5, "Everything was deleted"),
        ('echo > "$2"', 5, "Everything was deleted"),
        ('echo x > "$2"; exit 3', 1, "ended with status 3; nothing was decided"),
        ('rm "$2"', 1, "did not work, nothing was decided"),
        ('printf "\\377" > "$2"', 1, "did not work, nothing was decided"),
    ],
)
def test_an_edit_that_came_to_nothing_decides_nothing(
    run: Run,
    worker: FakeWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    status: int,
    sentence: str,
) -> None:
    worker.wait_in(ask("k_1", "make"))
    editor(monkeypatch, tmp_path, script)

    answer = run("allow", "k_1", "--edit")

    assert answer.exit_code == status
    assert sentence in answer.stderr
    assert worker.decided("k_1") == []


@pytest.mark.parametrize("chosen", ["", "/nowhere/editor", "'"])
def test_an_editor_that_is_none_decides_nothing(
    run: Run, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    worker.wait_in(ask("k_1", "make"))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", chosen)

    assert run("allow", "k_1", "--edit").exit_code in (1, 2)
    assert worker.decided("k_1") == []


def test_a_question_cannot_be_allowed_and_a_plan_cannot_be_edited(
    run: Run, worker: FakeWorker
) -> None:
    worker.wait_in(question("k_1", DATABASE), plan("k_2"))

    assert run("allow", "k_1").exit_code == 5
    assert "claudedo answer k_1 TEXT" in run("allow", "k_1").stderr
    assert run("allow", "k_2", "--edit").exit_code == 5
    assert worker.decided("k_1") == worker.decided("k_2") == []


# Deny


def test_a_reason_goes_with_the_refusal(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"), ask("k_2", "make", "web"))

    assert run("deny", "backend", "-m", "Not on Fridays").exit_code == 0
    run("deny", "web")

    assert worker.decided("k_1") == [{"decision": "deny", "reason": "Not on Fridays"}]
    assert worker.decided("k_2") == [{"decision": "deny", "reason": None}]


# Answer


@pytest.mark.parametrize(
    ("texts", "answered"),
    [
        (["Postgres"], "Postgres"),
        (["postgres "], "Postgres"),
        (["2"], "SQLite"),
        (["None, thanks"], "None, thanks"),
        (["whatever", "is", "there"], "whatever is there"),
        (["Database=1"], "Postgres"),
        (["which database?=SQLite"], "SQLite"),
        (["a=b"], "a=b"),
    ],
)
def test_a_question_takes_a_label_a_number_or_own_words(
    run: Run, worker: FakeWorker, texts: list[str], answered: str
) -> None:
    worker.wait_in(question("k_1", DATABASE))

    answer = run("answer", "backend", *texts)

    assert (answer.exit_code, answer.stdout) == (0, "backend: answered: Which database?\n")
    expected = {"decision": "answer", "answers": {"Which database?": answered}}
    assert worker.decided("k_1") == [expected]


@pytest.mark.parametrize(
    ("texts", "answered"),
    [
        (["api,docs"], ["api", "docs"]),
        (["3, 1"], ["docs", "api"]),
        (["web", "api"], ["web", "api"]),
        (["api, 1, the tests"], ["api", "the tests"]),
        (["2"], ["web"]),
    ],
)
def test_several_choices_are_separated_by_commas(
    run: Run, worker: FakeWorker, texts: list[str], answered: list[str]
) -> None:
    worker.wait_in(question("k_1", PARTS))

    assert run("answer", "k_1", *texts).exit_code == 0
    assert worker.decided("k_1")[0]["answers"] == {"Which parts?": answered}


def test_several_questions_are_answered_each_by_its_name(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(question("k_1", DATABASE, PARTS, ("Really?", "", False, ["yes", "no"])))

    answer = run("answer", "k_1", "Really?=no", "2=1,3", "database=Postgres")

    assert answer.exit_code == 0
    given = {"Which database?": "Postgres", "Which parts?": ["api", "docs"], "Really?": "no"}
    assert worker.decided("k_1")[0]["answers"] == given


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["1=1"], "Which parts?  (api | web | docs)"),
        (["Postgres"], "names none of the 2 questions. Name each by its number: '1=...' '2=...'"),
        (["1=1", "database=2", "2=1"], "answered twice"),
        (["1=9", "2=1"], "There is no choice 9: they are numbered 1 to 3."),
        (["1=", "2=1"], "An answer cannot be empty."),
        (["1=1", "2=,"], "An answer cannot be empty."),
        ([], "Still to be answered:"),
    ],
)
def test_an_answer_that_does_not_fit_is_not_sent(
    run: Run, worker: FakeWorker, texts: list[str], sentence: str
) -> None:
    worker.wait_in(question("k_1", DATABASE, PARTS))

    answer = run("answer", "k_1", *texts)

    assert answer.exit_code == 2
    assert sentence in answer.stderr
    assert worker.decided("k_1") == []


def test_a_number_is_an_answer_of_its_own_where_the_choices_are_numbers(
    run: Run, worker: FakeWorker
) -> None:
    worker.wait_in(question("k_1", ("How many?", "", False, ["3", "5"])))

    run("answer", "k_1", "7")

    assert worker.decided("k_1")[0]["answers"] == {"How many?": "7"}


def test_a_plan_is_sent_back_with_what_it_lacks(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(plan("k_1"))

    assert run("answer", "k_1").exit_code == 2
    assert run("answer", "k_1", "Test", "first").exit_code == 0
    assert worker.decided("k_1") == [{"decision": "answer", "text": "Test first"}]


def test_a_permission_is_not_answered_and_the_way_is_shown(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "make"))

    answer = run("answer", "backend", "yes")

    assert answer.exit_code == 5
    assert "claudedo deny k_1 -m REASON" in answer.stderr
    assert worker.decided("k_1") == []


@pytest.mark.parametrize(
    "given",
    [None, 7, {}, [7], [{"question": "Which?", "options": 7}], [{"question": "", "options": []}]],
)
def test_a_question_of_any_form_can_be_shown_and_answered(
    run: Run, worker: FakeWorker, given: Any
) -> None:
    worker.wait_in(question("k_1", input={"questions": given}, body="Which?"))

    assert run("asks").exit_code == 0
    assert run("answer", "k_1", "this one").exit_code == 0
    assert worker.decided("k_1")[0]["decision"] == "answer"


def test_next_needs_a_terminal(run: Run, worker: FakeWorker) -> None:
    answer = run("next")

    assert answer.exit_code == 2
    assert "claudedo asks" in answer.stderr


def test_a_task_that_was_decided_says_so_and_what_can_be_done(run: Run, worker: FakeWorker) -> None:
    worker.add(task("may-i", None, assignee="human", status="completed"))

    answer = run("answer", "may-i", "yes")

    assert answer.exit_code == 4
    assert "may-i waits for you no more: it is completed" in answer.stderr
    assert "`claudedo status may-i ongoing` asks it again" in answer.stderr


def test_an_answer_can_leave_a_task_open(run: Run, worker: FakeWorker) -> None:
    worker.wait_in(ask("k_1", "x", "may-i", kind="task", title="May I?", tool=None))

    answer = run("answer", "may-i", "Which", "one?", "--keep-open")

    assert answer.stdout == "may-i: told; it still waits for you\n"
    assert worker.decided("k_1") == [
        {"decision": "answer", "text": "Which one?", "keep_open": True}
    ]
