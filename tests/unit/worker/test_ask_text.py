"""What a permission request asks, in words that a terminal may show."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from claudedo.model import AskKind
from claudedo_worker.ask_text import describe, visible


def body(tool: str, given: dict[str, Any], folder: Path | None = None) -> str:
    return describe(tool, given, folder)[2]


def test_a_command_is_shown_whole_with_what_the_model_says_of_it() -> None:
    command = "set -e\nmake all\n" + "x" * 500
    kind, title, text = describe("Bash", {"command": command, "description": "Build it"}, None)

    assert kind is AskKind.PERMISSION
    assert title == "Bash: set -e …"
    assert text == f"{command}\n\n# Build it"


def test_a_command_outside_the_sandbox_and_in_the_background_says_so() -> None:
    given = {"command": "make", "run_in_background": True, "dangerouslyDisableSandbox": True}
    assert body("Bash", given) == "make\n# in the background\n# outside the sandbox"


def test_a_title_is_one_line_of_bounded_length() -> None:
    _, title, _ = describe("Bash", {"command": "a\t" + "b" * 500}, None)
    assert title == f"Bash: a {'b' * 111}…"
    assert len(title) == 120


def test_an_edit_is_shown_as_a_diff_against_the_file(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("one\ntwo\nthree\n")
    given = {"file_path": str(tmp_path / "app.py"), "old_string": "two", "new_string": "2"}

    kind, title, text = describe("Edit", given, tmp_path)

    assert (kind, title) == (AskKind.PERMISSION, "Edit: app.py")
    assert text.splitlines() == [
        *("--- a/app.py", "+++ b/app.py", "@@ -1,3 +1,3 @@"),
        *(" one", "-two", "+2", " three"),
    ]


def test_an_edit_of_every_place_shows_every_place(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\na\n")
    edit = {"file_path": str(tmp_path / "f"), "old_string": "a", "new_string": "c"}

    assert body("Edit", edit, tmp_path).count("+c") == 1
    assert body("Edit", edit | {"replace_all": True}, tmp_path).count("+c") == 2


def test_several_edits_of_one_file_are_one_diff(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\n")
    edits = [{"old_string": "a", "new_string": "c"}, {"old_string": "c", "new_string": "d"}]

    text = body("MultiEdit", {"file_path": str(tmp_path / "f"), "edits": edits}, tmp_path)

    assert text.splitlines()[3:] == ["-a", "+d", " b"]


def test_an_edit_that_does_not_fit_the_file_shows_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("something else\n")
    given = {"file_path": str(tmp_path / "f"), "old_string": "a", "new_string": "b"}

    assert body("Edit", given, tmp_path).splitlines()[-2:] == ["-a", "+b"]


def test_a_new_file_is_shown_whole_and_a_replaced_one_as_a_diff(tmp_path: Path) -> None:
    given = {"file_path": str(tmp_path / "f"), "content": "one\ntwo\n"}
    assert body("Write", given, tmp_path).splitlines() == [
        *("--- /dev/null", "+++ b/f", "@@ -0,0 +1,2 @@", "+one", "+two"),
    ]

    (tmp_path / "f").write_text("one\n")
    assert body("Write", given, tmp_path).splitlines()[2:] == ["@@ -1 +1,2 @@", " one", "+two"]


def test_a_file_that_cannot_be_shown_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    for name in ("pipe", "binary", "large"):
        path = str(tmp_path / name)
        edit = {"file_path": path, "old_string": "a", "new_string": "b"}
        assert body("Edit", edit, tmp_path).splitlines()[-2:] == ["-a", "+b"]
        written = body("Write", {"file_path": path, "content": "new"}, tmp_path)
        assert written == f"replaces {name}, which cannot be shown, with:\n\nnew"


def test_a_change_of_a_large_file_is_one_hunk_and_whole(tmp_path: Path) -> None:
    before = [f"line {number * 7919 % 150}" for number in range(20_000)]
    after = ["first", *before[1:100], *before[101:19_000], "new", *before[19_000:]]
    (tmp_path / "f").write_text("\n".join(before))

    lines = body("Write", {"file_path": "f", "content": "\n".join(after)}, tmp_path).splitlines()

    assert lines[:3] == ["--- a/f", "+++ b/f", "@@ -1,19000 +1,19000 @@"]
    assert lines[3:] == [f"-{line}" for line in before[:19_000]] + [
        f"+{line}" for line in after[:19_000]
    ]


def test_what_a_large_file_gets_more_stands_where_it_comes(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one\n" * 20_000)
    content = "one\n" * 20_000 + "two\n"
    shown = body("Write", {"file_path": "f", "content": content}, tmp_path)
    assert shown.splitlines()[2:] == ["@@ -20000,0 +20001,1 @@", "+two"]


@pytest.mark.parametrize("name", ["x" * 300, "locked/file", "file/below"])
def test_a_place_that_cannot_be_looked_at_is_shown_all_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("one\n")
    (tmp_path / "locked").mkdir(mode=0)
    shown = body("Write", {"file_path": name, "content": "new"}, tmp_path)
    assert shown.splitlines()[-1].lstrip("+") == "new"


def test_an_input_that_nests_without_measure_is_not_shown_but_asked_for() -> None:
    given: dict[str, Any] = {"text": "hello"}
    for _ in range(sys.getrecursionlimit()):
        given = {"text": "hello", "more": given}
    assert describe("mcp__x__y", given, None)[1] == "mcp__x__y: hello"


def test_a_path_outside_the_worktree_is_shown_in_full(tmp_path: Path) -> None:
    given = {"file_path": "/etc/nowhere/motd", "content": "hello"}
    _, title, text = describe("Write", given, tmp_path)
    assert title == "Write: outside its folder: /etc/nowhere/motd"
    assert text.splitlines()[:2] == ["--- /dev/null", "+++ /etc/nowhere/motd"]


def test_a_path_that_leads_out_of_the_folder_is_named_where_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "wt"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "f").write_text("one\n")
    edit = {"old_string": "one", "new_string": "two"}

    _, up, text = describe("Edit", {"file_path": str(folder / "../f"), **edit}, folder)
    _, linked, _ = describe("Edit", {"file_path": "link/f", **edit}, folder)

    assert "Edit: outside its folder: " in up and "Edit: outside its folder: " in linked
    assert text.splitlines()[:2] == [f"--- {tmp_path / 'f'}", f"+++ {tmp_path / 'f'}"]
    assert describe("Edit", {"file_path": "sub/../f", **edit}, folder)[1] == "Edit: f"
    (folder / "loop").symlink_to("loop")
    assert describe("Edit", {"file_path": "loop/f", **edit}, folder)[1] == "Edit: loop/f"


def test_questions_are_shown_with_all_their_choices() -> None:
    options = [{"label": "Postgres", "description": "big"}, {"label": "SQLite"}]
    one = {"question": "Which database?", "options": options, "multiSelect": False}
    other = {"question": "Which days?", "options": options, "multiSelect": True}

    kind, title, text = describe("AskUserQuestion", {"questions": [one, other]}, None)

    assert (kind, title) == (AskKind.QUESTION, "2 questions: Which database?")
    assert describe("AskUserQuestion", {"questions": [one]}, None)[1] == "Which database?"
    assert text == (
        "Which database?\n  1. Postgres: big\n  2. SQLite\n\n"
        "Which days?  (several may be chosen)\n  1. Postgres: big\n  2. SQLite"
    )


def test_a_plan_is_shown_whole_from_the_call_or_from_its_file(tmp_path: Path) -> None:
    plan = "# Move the shop\n\n1. Pack"
    assert describe("ExitPlanMode", {"plan": plan}, None) == (AskKind.PLAN, "Move the shop", plan)

    (tmp_path / "plan.md").write_text(plan)
    named = {"planFilePath": str(tmp_path / "plan.md")}
    assert describe("ExitPlanMode", named, None)[2] == plan

    missing = {"planFilePath": str(tmp_path / "none.md")}
    assert "terminal" in describe("ExitPlanMode", missing, None)[2]


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("mcp__shop__order", {"item": "ink", "count": 3}),
        ("Bash", {"cmd": "not the input that is known"}),
        ("Bash", {}),
        ("Edit", {"file_path": 3}),
        ("MultiEdit", {"file_path": "/x", "edits": ["a"]}),
        ("AskUserQuestion", {"questions": [{"question": "a", "options": [1]}]}),
    ],
)
def test_a_tool_or_an_input_that_is_not_known_is_shown_as_it_is(
    tool: str, given: dict[str, Any]
) -> None:
    assert json.loads(body(tool, given)) == given


def test_nothing_that_a_terminal_obeys_or_hides_gets_through() -> None:
    hostile = "safe\x1b[2J\x07\r\u202eevil\u200b\x9b1m"
    _, title, text = describe("Bash", {"command": hostile}, None)

    assert text == "safe\\x1b[2J\\x07\\r\\u202eevil\\u200b\\x9b1m"
    assert title == f"Bash: {text}"
    assert visible("ä 漢 \t\n") == "ä 漢 \t\n"
