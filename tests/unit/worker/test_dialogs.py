"""Reading start-up dialogs off the screen, as the versions draw them (docs/claude-cli.md 19)."""

from __future__ import annotations

import pytest

from claudedo_worker import dialogs
from claudedo_worker.dialogs import Dialog, Kind
from claudedo_worker.terminal import Screen, screen

MARK = "\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}"

TRUST_OLD = f"""
────────────────────────────────
 Accessing workspace:

 /home/user/shop

 Quick safety check: Is this a project you created or one you trust?

 {MARK} 1. Yes, I trust this folder
   2. No, exit

 Enter to confirm · Esc to cancel
"""
TRUST_NEW = f"""
 Quick safety check: Is this a project you created or one you trust?

 {MARK} No, exit
   Yes, I trust this folder

 Enter to confirm · Esc to cancel
"""
DIRECTORY = f"""
 Adding a new directory:

 /src/shared

 This session hasn't worked here before. Is this a directory you created or one you trust?

 {MARK} No, exit
   Yes, add it

 Enter to confirm · Esc to cancel
"""
CHANNEL = f"""
 WARNING: Loading development channels

 {MARK} 1. I am using this for local development
   2. Exit

 Enter to confirm · Esc to cancel
"""
SET_UP = f"""
 Let's get started.

 Choose the text style that looks best with your terminal
 To change this later, run /theme

 {MARK} Auto (match terminal)
   Dark mode
"""
INPUT_BOX = f"""
────────────────────────────────
{MARK} \x1b[2mTry "fix the tests"\x1b[22m
────────────────────────────────
  ? for shortcuts
"""
DRAFT = f"""
────────────────────────────────
{MARK} half a sentence
  and a second line
────────────────────────────────
"""


def drawn(text: str) -> Screen:
    return screen(text.replace("\n", "\r\n").encode(), 30, 80)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TRUST_OLD, Dialog(Kind.TRUST, ("Yes, I trust this folder", "No, exit"), 0)),
        (TRUST_NEW, Dialog(Kind.TRUST, ("No, exit", "Yes, I trust this folder"), 0)),
        (CHANNEL, Dialog(Kind.CHANNEL, ("I am using this for local development", "Exit"), 0)),
        (DIRECTORY, Dialog(Kind.DIRECTORY, ("No, exit", "Yes, add it"), 0)),
        (SET_UP, Dialog(Kind.SET_UP, (), 0)),
        (INPUT_BOX, None),
        ("", None),
    ],
    ids=["trust, older", "trust, newer", "channel", "directory", "set-up", "input box", "nothing"],
)
def test_a_dialog_is_read_with_its_options_in_their_order(
    text: str, expected: Dialog | None
) -> None:
    assert dialogs.find(drawn(text)) == expected


def test_a_dialog_that_nobody_knows_is_a_question() -> None:
    found = dialogs.find(drawn(TRUST_NEW.replace("Quick safety check", "Something new")))
    assert found is not None and found.kind is Kind.OTHER


@pytest.mark.parametrize(
    ("text", "draft"),
    [(INPUT_BOX, ""), (DRAFT, "half a sentence\nand a second line"), (TRUST_OLD, None)],
    ids=["a suggestion is no draft", "two lines", "a dialog"],
)
def test_the_input_box_is_read_for_drafts(text: str, draft: str | None) -> None:
    assert dialogs.input_box(drawn(text)) == draft


def test_the_last_words_of_a_screen_come_with_advice_where_there_is_some() -> None:
    said = dialogs.last_words(drawn("one\ntwo\nUnable to connect to Anthropic services\n"))
    assert said.startswith("one / two / Unable to connect")
    assert said.endswith("run `claude` once in a terminal to finish its set-up")
    assert dialogs.last_words(drawn("error: unknown option\n")) == "error: unknown option"
    assert dialogs.last_words(drawn("")) == "it showed nothing"


@pytest.mark.parametrize(
    ("waiting_for", "is_start"),
    [(None, False), ("permission prompt", False), (f"start-up dialog: {Kind.TRUST}", True)],
)
def test_a_start_up_dialog_is_told_from_others(waiting_for: str | None, is_start: bool) -> None:
    assert dialogs.at_start(waiting_for) is is_start
