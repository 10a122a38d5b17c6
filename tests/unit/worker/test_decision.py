"""How a person's decision is said to the CLI, and what is refused because it does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from claudedo.errors import ClaudedoError, RefusedError, UsageError
from claudedo.model import Ask, AskKind, AskOutcome, Workspace, now
from claudedo_worker.decision import Decision, of_kept, rule
from tests.support.records import a_session, a_task, an_ask

Json = dict[str, Any]
Answers = dict[str, str | list[str]]

RULE: Json = {
    "type": "addRules",
    "rules": [{"toolName": "Bash", "ruleContent": "make"}],
    "behavior": "allow",
    "destination": "localSettings",
}
DATABASE: Json = {
    "question": "Which database?",
    "options": [{"label": "Postgres"}, {"label": "SQLite"}],
    "multiSelect": False,
}
DAYS: Json = {
    "question": "Which days?",
    "options": [{"label": "Mon"}, {"label": "Tue"}],
    "multiSelect": True,
}
BOTH: Answers = {"Which database?": "SQLite", "Which days?": ["Mon", "Tue"]}


def ask(kind: AskKind = AskKind.PERMISSION, **changes: Any) -> Ask:
    workspace = Workspace(id="w_1", name="shop", root="/repository", created_at=now())
    return an_ask(a_session(a_task(workspace)), kind=kind, **changes)


def question(*questions: dict[str, Any]) -> Ask:
    return ask(AskKind.QUESTION, tool="AskUserQuestion", input={"questions": list(questions)})


def said(ask: Ask, **decision: Any) -> dict[str, Any]:
    """What the CLI is told."""
    ruling = rule(ask, Decision(**decision))
    assert ruling.output["hookSpecificOutput"]["hookEventName"] == "PermissionRequest"
    told: dict[str, Any] = ruling.output["hookSpecificOutput"]["decision"]
    return told


def test_a_bare_yes_says_nothing_more() -> None:
    assert said(ask(), decision="allow") == {"behavior": "allow"}
    assert rule(ask(), Decision(decision="allow")).outcome is AskOutcome.ALLOWED


def test_a_no_says_exactly_the_reason() -> None:
    told = said(ask(), decision="deny", reason="Not on main.")
    assert told == {"behavior": "deny", "message": "Not on main."}


def test_a_no_without_a_reason_says_that_it_was_the_user() -> None:
    assert said(ask(), decision="deny") == {
        "behavior": "deny",
        "message": "The user said no to this.",
    }


def test_an_edited_input_replaces_the_whole_input() -> None:
    given = {"command": "make -n"}
    assert said(ask(), decision="allow", input=given)["updatedInput"] == given


def test_always_is_the_suggested_rule_for_this_session_only() -> None:
    told = said(ask(suggestions=(RULE,)), decision="allow", always=True)
    assert told["updatedPermissions"] == [{**RULE, "destination": "session"}]


def test_always_never_switches_to_a_mode_that_asks_nothing_nor_takes_a_right_away() -> None:
    modes = ("bypassPermissions", "auto", "dontAsk")
    wide: list[Json] = [{"type": "setMode", "mode": mode} for mode in modes]
    wide += [{**RULE, "behavior": "deny"}, {"type": "replaceRules", "rules": []}, {}]
    edits = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}

    told = said(ask(suggestions=(*wide, edits)), decision="allow", always=True)

    assert told["updatedPermissions"] == [edits]
    with pytest.raises(RefusedError, match="suggested no rule"):
        rule(ask(suggestions=tuple(wide)), Decision(decision="allow", always=True))


def test_a_rule_for_what_was_asked_does_not_come_with_an_edited_input() -> None:
    edited = Decision(decision="allow", always=True, input={"command": "make test"})

    with pytest.raises(RefusedError, match="leave out --always"):
        rule(ask(suggestions=(RULE,)), edited)


def test_always_without_a_suggestion_is_refused() -> None:
    with pytest.raises(RefusedError, match="leave out --always"):
        rule(ask(), Decision(decision="allow", always=True))


def test_a_plan_is_approved_with_its_own_input_and_edits_are_accepted_only_if_asked_for() -> None:
    plan = ask(AskKind.PLAN, tool="ExitPlanMode", input={"plan": "1."})

    assert said(plan, decision="allow") == {"behavior": "allow", "updatedInput": {"plan": "1."}}
    assert said(plan, decision="allow", always=True)["updatedPermissions"] == [
        {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    ]


def test_words_about_a_plan_send_it_back() -> None:
    ruling = rule(ask(AskKind.PLAN), Decision(decision="answer", text="Tests are missing."))

    assert ruling.outcome is AskOutcome.DENIED
    assert ruling.message == "Tests are missing."
    assert ruling.kept == {"decision": "deny", "reason": "Tests are missing."}


def test_an_answer_is_the_label_whatever_its_case() -> None:
    ruling = rule(question(DATABASE), Decision(decision="answer", text=" sqlite "))

    updated = ruling.output["hookSpecificOutput"]["decision"]["updatedInput"]
    assert updated == {"questions": [DATABASE], "answers": {"Which database?": "SQLite"}}
    assert ruling.outcome is AskOutcome.ANSWERED
    assert ruling.kept["own_words"] == []


def test_own_words_are_an_answer_too_and_kept_as_such() -> None:
    ruling = rule(question(DATABASE), Decision(decision="answer", text="None, a file."))

    assert ruling.kept["answers"] == {"Which database?": "None, a file."}
    assert ruling.kept["own_words"] == ["Which database?"]


def test_several_questions_are_answered_each_by_its_text() -> None:
    answers: Answers = {"Which database?": "Postgres", "Which days?": ["mon", "Tue"]}
    ruling = rule(question(DATABASE, DAYS), Decision(decision="answer", answers=answers))

    assert ruling.kept["answers"] == {"Which database?": "Postgres", "Which days?": "Mon, Tue"}


@pytest.mark.parametrize(
    ("asked", "decision", "error", "says"),
    [
        (ask(), {"decision": "maybe"}, UsageError, "no decision"),
        (ask(), {"decision": "answer", "text": "yes"}, RefusedError, "deny -m"),
        (ask(), {"decision": "allow", "reason": "why"}, UsageError, "`reason`"),
        (ask(), {"decision": "allow", "text": "why"}, UsageError, "`text`"),
        (ask(), {"decision": "deny", "always": True}, UsageError, "`always`"),
        (ask(), {"decision": "deny", "input": {"a": 1}}, UsageError, "`input`"),
        (question(DATABASE), {"decision": "allow"}, RefusedError, "claudedo answer"),
        (question(DATABASE), {"decision": "answer"}, UsageError, "either"),
        (
            question(DATABASE),
            {"decision": "answer", "text": "a", "answers": {}},
            UsageError,
            "either",
        ),
        (question(DATABASE), {"decision": "answer", "text": "  "}, UsageError, "empty"),
        (
            question(DATABASE),
            {"decision": "answer", "answers": {"Which database?": ["SQLite", "Postgres"]}},
            UsageError,
            "Only one",
        ),
        (question(DATABASE, DAYS), {"decision": "answer", "text": "a"}, UsageError, "2 questions"),
        (
            question(DATABASE, DAYS),
            {"decision": "answer", "answers": {"Which days?": "Mon"}},
            UsageError,
            "no answer to: Which database",
        ),
        (
            question(DATABASE),
            {"decision": "answer", "answers": {"Who?": "I"}},
            UsageError,
            "does not ask 'Who",
        ),
        (ask(AskKind.PLAN), {"decision": "answer"}, UsageError, "what the plan lacks"),
        (ask(AskKind.PLAN), {"decision": "allow", "input": {"plan": "x"}}, RefusedError, "edited"),
    ],
)
def test_a_decision_that_does_not_fit_is_refused(
    asked: Ask, decision: dict[str, Any], error: type[ClaudedoError], says: str
) -> None:
    with pytest.raises(error, match=says):
        rule(asked, Decision(**decision))


@pytest.mark.parametrize(
    ("asked", "decision"),
    [
        (ask(), {"decision": "allow"}),
        (ask(suggestions=(RULE,)), {"decision": "allow", "always": True}),
        (ask(), {"decision": "allow", "input": {"command": "ls"}}),
        (ask(), {"decision": "deny", "reason": "no"}),
        (question(DATABASE), {"decision": "answer", "text": "mine"}),
        (question(DATABASE, DAYS), {"decision": "answer", "answers": BOTH}),
        (ask(AskKind.PLAN), {"decision": "answer", "text": "more"}),
        (ask(AskKind.PLAN), {"decision": "allow", "always": True}),
    ],
)
def test_what_was_stored_says_the_same_once_more(asked: Ask, decision: dict[str, Any]) -> None:
    ruling = rule(asked, Decision(**decision))

    again = of_kept(replace(asked, decision=ruling.kept))

    assert (again.outcome, again.output) == (ruling.outcome, ruling.output)


@pytest.mark.parametrize(
    ("tool", "asked", "given", "missing"),
    [
        ("Bash", {"command": "make"}, {"cmd": "ls"}, "command"),
        ("Bash", {"command": "make"}, {"command": ["ls"]}, "command"),
        ("Bash", {"command": "make"}, {"command": " \n"}, "command"),
        ("Write", {"file_path": "/a", "content": "x"}, {"file_path": "/a"}, "content"),
        ("Edit", {"file_path": "/a", "old_string": "x", "new_string": ""}, {}, "file_path"),
        ("MultiEdit", {"file_path": "/a", "edits": [{}]}, {"file_path": "/a"}, "edits"),
        ("WebFetch", {"url": "http://a", "prompt": "x"}, {"url": 7, "prompt": "x"}, "url"),
    ],
)
def test_an_edited_input_that_its_tool_would_reject_is_refused(
    tool: str, asked: Json, given: Json, missing: str
) -> None:
    with pytest.raises(UsageError, match=f"`{missing}`"):
        rule(ask(tool=tool, input=asked), Decision(decision="allow", input=given))


def test_an_edited_input_may_leave_out_what_its_tool_can_do_without() -> None:
    asked = ask(tool="Bash", input={"command": "make", "description": "Make it"})
    emptied = ask(tool="Edit", input={"file_path": "/a", "old_string": "x", "new_string": "y"})
    given = {"file_path": "/a", "old_string": "x", "new_string": ""}

    assert said(asked, decision="allow", input={"command": "ls"})["updatedInput"]
    assert said(emptied, decision="allow", input=given)["updatedInput"] == given
    assert said(ask(tool="mcp__x", input={"a": 1}), decision="allow", input={"b": 2})
