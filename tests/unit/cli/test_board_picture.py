"""What the live list looks like: which rows, which columns, how wide, and how safe."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.text import Text

from claudedo import model
from claudedo.cli import render
from claudedo.cli.board.picture import Row, Situation, details, rows, summary
from tests.unit.cli.fake_worker import STORED, ask, task

NOW = render.moment(STORED).timestamp() + 125
HOSTILE = "\x1b[2J\x9b2J[red]x[/red] :smile:\nsecond\u202eline\ttab " + "wide 日本語 " * 40
SIZES = (200, 120, 80, 60, 40, 20, 5, 1)


def eight(**changes: Any) -> Situation:
    """Eight sessions and three asks."""
    states = ("waiting", "waiting", "waiting", "busy", "idle", "failed", "stopped", "starting")
    tasks = [task(f"service-{number}", state) for number, state in enumerate(states)]
    asks = [
        ask("k_1", "npm test", "service-0"),
        ask("k_2", "make", "service-1", title="Which colour?", kind="question"),
        ask("k_3", "rm -rf build", "service-2"),
    ]
    return Situation(tuple({**one, **changes} for one in tasks), tuple(asks))


def text_of(drawn: list[Row]) -> str:
    return "\n".join(row.text.plain for row in drawn)


@pytest.mark.parametrize("width", SIZES)
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    hostile = ask("k_4", HOSTILE, title=HOSTILE, body=HOSTILE, task_name=HOSTILE)
    odd = task(HOSTILE, "waiting", branch=HOSTILE, pending=10**12, peers=[HOSTILE])
    odd["session"]["waiting_for"] = HOSTILE
    situation = Situation((*eight().tasks, odd), (*eight().asks, hostile))

    drawn = rows(situation, width, NOW)

    lines: list[Text] = [summary(situation, width)]
    for row in drawn:
        lines += [row.text, row.chosen(), *details(row, width)]
    assert max(line.cell_len for line in lines) <= width
    assert not any("\n" in line.plain for line in lines)


def test_text_of_sessions_cannot_drive_the_terminal_and_is_no_markup() -> None:
    named = ask("k_4", "x", title=HOSTILE, body=HOSTILE)
    odd = task("backend", "waiting", branch=HOSTILE)
    odd["session"]["waiting_for"] = HOSTILE
    drawn = rows(Situation((odd,), (named,)), 2000, NOW)

    for text in [text_of(drawn), *(line.plain for row in drawn for line in details(row, 2000))]:
        assert not set(text) & {"\x1b", "\x9b", "\u202e", "\t"}
    assert "\\x1b[2J\\x9b2J[red]x[/red] :smile: second\\u202eline tab" in text_of(drawn)


def test_eight_sessions_and_three_asks_fit_on_the_smallest_usual_terminal() -> None:
    drawn = rows(eight(), 80, NOW)

    assert len(drawn) <= 24 - 5  # a line on top, two of details, what was said, the keys
    text = text_of(drawn)
    for seen in ("npm test", "Which colour?", "rm -rf build", "service-7", "interrupted"):
        assert (seen in text) == (seen != "interrupted")
    assert "2m" in text


def test_asks_come_first_and_tell_who_what_and_how_long() -> None:
    first = rows(eight(), 80, NOW)[1]

    assert first.ask is not None
    assert first.task is not None
    assert first.text.plain.split() == ["2m", "service-0", "permission", "Bash:", "npm", "test"]


def test_what_is_less_important_is_dropped_on_a_narrow_terminal() -> None:
    tasks = []
    for name in ("backend", "frontend"):
        one = task(name, "waiting", pending=3)
        one["session"] |= {"waiting_for": "permission prompt", "since": STORED}
        one["session"]["usage"] = {"context_tokens": 81_234, "cost_usd": 1.239}
        tasks.append(one)
    situation = Situation(tuple(tasks))
    heads = {
        width: " ".join(rows(situation, width, NOW)[0].text.plain.split())
        for width in (120, 60, 30)
    }

    assert heads[120] == "SESSION STATE FOR MAIL CTX COST WAITS FOR BRANCH"
    assert heads[60] == "SESSION STATE FOR MAIL WAITS FOR"
    assert heads[30] == "SESSION STATE FOR"
    wide = rows(situation, 120, NOW)[1].text.plain
    told = "backend waiting 2m 3 81k $1.24 permission prompt claudedo/backend"
    assert " ".join(wide.split()) == told


def test_a_column_with_nothing_to_tell_is_not_there() -> None:
    assert "MAIL" not in text_of(rows(eight(), 200, NOW))
    assert "CTX" not in text_of(rows(eight(), 200, NOW))


def test_a_failure_tells_when_it_goes_on() -> None:
    one = task("backend", "idle")
    at = render.moment(moment := model.now()).astimezone().strftime("%H:%M")
    one["session"]["failure"] = {"kind": "rate_limit", "text": "x", "continues_at": moment}
    other = task("frontend", "idle")
    other["session"]["failure"] = {"kind": "billing", "text": "Credit is\nlow"}

    text = text_of(rows(Situation((one, other)), 80, NOW))

    assert f"rate limit, continues {at}" in text
    assert "billing: Credit is low" in text


def test_a_session_that_ended_says_why() -> None:
    one = task("backend", "failed")
    one["session"]["reason"] = "claude ended with status 1"

    assert "claude ended with status 1" in text_of(rows(Situation((one,)), 80, NOW))


def test_a_one_shot_says_how_it_stands_in_the_queue() -> None:
    queue = {"status": "failed", "exit": 16, "reason": "it had been denied Bash"}
    over = task("backend", "stopped", queue=queue)
    waits = task("docs", None, id="t_2", queue={"status": "queued", "exit": None, "reason": None})

    head = summary(Situation((over, waits)), 80).plain.rstrip()
    assert head == "claudedo  2 tasks: 1 queued, 1 failed"
    text = text_of(rows(Situation((over, waits)), 80, NOW))
    assert re.search(r"backend +failed .*it had been denied Bash", text)
    assert re.search(r"docs +queued .*claudedo queue run starts it", text)


def test_the_names_of_workspaces_stand_there_only_where_there_are_several() -> None:
    one, other = task("backend"), task("backend", workspace="blog", id="t_2")
    asks = (ask("k_1", "ls"),)

    assert "shop/backend" not in text_of(rows(Situation((one,), asks), 80, NOW))
    both = text_of(rows(Situation((one, other), asks), 80, NOW))
    assert both.count("shop/backend") == 2
    assert both.count("blog/backend") == 1


def test_sessions_that_are_not_ours_are_marked() -> None:
    other = task("notes", "busy", supervised=False, id=None)
    drawn = rows(Situation((task("backend"), other)), 80, NOW)

    assert drawn[2].text.plain.split()[:4] == ["(notes)", "busy", "2m", "not"]
    assert drawn[2].key is not None
    assert "1 task:" in summary(Situation((task("backend"), other)), 80).plain


def test_the_chosen_row_is_marked_without_colour() -> None:
    first = rows(eight(), 80, NOW)[1]

    assert first.chosen().plain == "> " + first.text.plain[2:]


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, True),
        ({"input": {"command": "npm test", "run_in_background": True}}, False),
        ({"input": {"command": "npm test\nrm -rf /"}}, False),
        ({"title": "Bash: npm test …"}, False),
        ({"kind": "plan"}, False),
        ({"tool": "Write", "input": {"file_path": "a", "content": "b"}}, False),
    ],
)
def test_only_a_command_that_the_row_shows_in_full_counts_as_seen(
    changes: dict[str, Any], whole: bool
) -> None:
    situation = Situation((task("backend"),), (ask("k_1", "npm test", **changes),))

    assert rows(situation, 80, NOW)[1].whole is whole


def test_a_command_that_is_cut_off_does_not_count_as_seen() -> None:
    situation = Situation((task("backend"),), (ask("k_1", "echo " + "x" * 60),))

    assert rows(situation, 120, NOW)[1].whole
    assert not rows(situation, 80, NOW)[1].whole


@pytest.mark.parametrize("width", [80, 60, 50])
def test_a_long_command_is_cut_and_not_how_many_ask_the_same(width: int) -> None:
    long = ask("k_1", "npm test " + "x" * 100, same=["k_2"])

    line = rows(Situation((task("backend"),), (long,)), width, NOW)[1].text.plain

    assert "Bash: npm test " in line
    assert line.endswith("… (+1 the same)")
    assert len(line) == width


def test_of_an_edit_the_first_changed_lines_are_told() -> None:
    body = "--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n same\n---x\n+  y = 1\n+z"
    one = ask("k_1", "", title="Edit: x.py", tool="Edit", body=body)
    row = rows(Situation((task("backend"),), (one,)), 80, NOW)[1]

    assert [line.plain.rstrip() for line in details(row, 80)] == ["---x", "+  y = 1"]


def test_an_edit_that_shows_no_difference_tells_what_there_is() -> None:
    one = ask("k_1", "", title="Edit: x.py", tool="Edit", body="x.py\nis too large")
    row = rows(Situation((task("backend"),), (one,)), 80, NOW)[1]

    assert details(row, 80)[0].plain.rstrip() == "x.py is too large"


def test_without_tasks_the_list_says_how_to_begin() -> None:
    assert "claudedo start NAME" in text_of(rows(Situation(), 80, NOW))
