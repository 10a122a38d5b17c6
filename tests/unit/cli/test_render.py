"""What is printed: safe for the terminal, right in its words."""

from __future__ import annotations

import json

import pytest

from claudedo.cli import render
from claudedo.cli.render import Cell
from tests.unit.cli.fake_worker import receipts

ATTACKS = {
    "colour": ("\x1b[31mred", "\\x1b[31mred"),
    "title": ("\x1b]0;mine\x07", "\\x1b]0;mine\\x07"),
    "8-bit control sequence": ("\x9b31m", "\\x9b31m"),
    "back over what stands there": ("safe\b\b\b\bevil", "safe\\x08\\x08\\x08\\x08evil"),
    "carriage return": ("safe\revil", "safe\\x0devil"),
    "delete": ("a\x7fb", "a\\x7fb"),
    "null": ("a\0b", "a\\x00b"),
    "reading direction": ("a\u202eb\u2066c\u200fd", "a\\u202eb\\u2066c\\u200fd"),
    "line separator": ("a\u2028b", "a\\u2028b"),
    "half a character": ("a\ud800b", "a\\ud800b"),
}


@pytest.mark.parametrize(("text", "shown"), ATTACKS.values(), ids=ATTACKS)
def test_a_text_cannot_drive_the_terminal(text: str, shown: str) -> None:
    assert render.neutral(text) == shown


def test_what_people_write_stays_as_it_is() -> None:
    text = "Grüße, 世界 👋\n\tindented [bold]no markup[/bold]"

    assert render.neutral(text) == text


def test_a_line_ending_of_another_system_is_a_line_ending() -> None:
    assert render.neutral("a\r\nb") == "a\nb"


def test_a_name_stays_on_its_line() -> None:
    assert render.line("a\nb\t c\x1b") == "a b c\\x1b"


def test_columns_fit_their_longest_field_and_are_never_cut(
    capsys: pytest.CaptureFixture[str],
) -> None:
    render.table(("NAME", "X"), [[Cell("a" * 200), Cell("")], [Cell("b\nc"), Cell("1")]])

    heads, first, second = capsys.readouterr().out.splitlines()
    assert heads == "NAME" + " " * 198 + "X"
    assert first == "a" * 200 + "  -"
    assert second == "b c" + " " * 199 + "1"


def test_json_is_ascii_and_reads_back_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    render.as_json({"body": "ü\x1b\x9b\u202e"})

    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert json.loads(printed) == {"body": "ü\x1b\x9b\u202e"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (200000, "2d")],
)
def test_an_age_is_told_in_its_largest_unit(seconds: int, words: str) -> None:
    since = "2026-07-26T10:00:00.000Z"

    assert render.age(since, render.moment(since).timestamp() + seconds) == words


def test_the_ladder_shows_each_rung_and_the_path() -> None:
    reached = receipts(offered_at="x", delivered_at="x")

    assert (
        render.ladder(reached, "hook")
        == "stored ✓ offered ✓ delivered ✓ read - answered - (by hook)"
    )
    assert render.rung_reached(reached) == "delivered"
    assert render.rung_reached(receipts()) == "stored"


def test_a_row_is_one_line_of_80_columns_also_with_a_task_for_the_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heads = ("NAME", "STATE", "WAITING FOR", "SINCE", "UNREAD", "PEERS", "BRANCH")
    rows = [
        [render.Cell(text) for text in row]
        for row in (
            ("backend", "idle", "", "13s", "", "frontend, docs", "claudedo/backend"),
            ("which-database", "waiting for you", "", "", "", "", ""),
        )
    ]

    cut = render.shortened(heads, rows, (2, 5, 6))

    widths = [
        max(len(head), *(len(row[column].text) for row in cut)) for column, head in enumerate(heads)
    ]
    assert sum(widths) + 2 * len(widths) <= 80
    assert cut[1][0].text == "which-database"
    assert cut[1][1].text == "waiting for you"
