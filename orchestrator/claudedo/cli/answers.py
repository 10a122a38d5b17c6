"""From what a person writes to the answers of an ask's questions.

A choice is named by its label or its number; anything else counts as the person's own words. Pure:
asks nobody, prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from claudedo.cli.ask_view import Question
from claudedo.errors import UsageError

Answer = str | list[str]
"""A label or own words; several where the question takes several."""


def answer(question: Question, text: str) -> Answer:
    """What `text` answers to `question`; several choices are separated by commas.

    Raises `UsageError` for nothing at all, and for the number of a choice that there is not.
    """
    if not text.strip():
        raise UsageError("An answer cannot be empty.")
    if not question.several or _label(question, text):
        return _one(question, text)
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("An answer cannot be empty.")
    return list(dict.fromkeys(_one(question, part) for part in parts))


def sort(questions: Sequence[Question], texts: Sequence[str]) -> dict[str, Answer]:
    """The answers in `texts`, each to its question; some questions may be left without.

    A single question takes all of `texts`. Of several, each text names its own by its text,
    header or number: `1=Label`. Raises `UsageError` for a text that names none, or one twice.
    """
    if len(questions) == 1:
        gap = "," if questions[0].several else " "
        return {questions[0].text: answer(questions[0], _stripped(questions[0], gap.join(texts)))}
    given: dict[str, Answer] = {}
    for text in texts:
        question, rest = _named(questions, text)
        if question.text in given:
            raise UsageError(f"{question.text!r} is answered twice.")
        given[question.text] = answer(question, rest)
    return given


def _one(question: Question, text: str) -> str:
    """The label that `text` means, or the text itself."""
    text = text.strip()
    if label := _label(question, text):
        return label
    numbered = not any(label.isdigit() for label in question.labels)
    if not (text.isdecimal() and question.choices and numbered):
        return text
    if not 1 <= int(text) <= len(question.choices):
        count = len(question.choices)
        raise UsageError(f"There is no choice {text}: they are numbered 1 to {count}.")
    return question.labels[int(text) - 1]


def _label(question: Question, text: str) -> str | None:
    """The label that is the same as `text` but for case and space around it."""
    wanted = text.strip().casefold()
    exact = (label for label in question.labels if label.strip() == text.strip())
    alike = (label for label in question.labels if label.strip().casefold() == wanted)
    return next(exact, None) or next(alike, None)


def _stripped(question: Question, text: str) -> str:
    """`text` without the name of its only question, should it be there."""
    name, found, rest = text.partition("=")
    names = {question.text.casefold(), question.header.casefold()} - {""}
    return rest if found and name.strip().casefold() in names else text


def _named(questions: Sequence[Question], text: str) -> tuple[Question, str]:
    """The question that `text` begins with the name of, and what comes after its `=`."""
    for number, question in enumerate(questions, 1):
        for name in (question.text, question.header, str(number)):
            if name and text.casefold().startswith(f"{name.casefold()}="):
                return question, text[len(name) + 1 :]
    raise UsageError(
        f"{text!r} names none of the {len(questions)} questions. Name each by its number: "
        + " ".join(f"'{number}=...'" for number in range(1, len(questions) + 1))
    )
