"""A run of one-shot tasks as Markdown, for the page of a build or a comment.

What tasks and sessions say is a stranger's text: it is shown letter by letter, never as markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from claudedo.model import QueueStatus, RunExit
from claudedo.report.markdown import fenced, plain

LONGEST = 4_000
"""Characters of a result that are shown; the artifacts have all of it."""

LARGEST = 900_000
"""Bytes of the whole: GitHub shows nothing of a step's summary above 1 MiB."""

_LISTED = 20  # denied tools, or messages, of one task
_MARKS = {
    QueueStatus.COMPLETED: "✅",
    QueueStatus.REJECTED: "❌",
    QueueStatus.FAILED: "❌",
    QueueStatus.SKIPPED: "⏭️",
    QueueStatus.CANCELLED: "🚫",
}


def render(shown: Sequence[Mapping[str, Any]]) -> str:
    """The whole text. `shown` are elements of `queue run --json`."""
    if not shown:
        return "No tasks.\n"
    table = ["| task | status | exit | time | cost | reason |", "|---|---|---:|---:|---:|---|"]
    wrong = [one for one in shown if one["exit"] not in (None, RunExit.DONE)]
    text, whole = _bounded(f"## claudedo: {headline(shown)}\n\n" + "\n".join(table), _rows(shown))
    if whole:
        text, whole = _bounded(text, (f"\n\n{_details(one)}" for one in wrong))
    return text + ("\n" if whole else "\n\nThere is more than fits here.\n")


def headline(shown: Sequence[Mapping[str, Any]]) -> str:
    """How it went, in a line: how many of each, and what it cost where that is known."""
    counts = Counter(str(one["status"]) for one in shown)
    words = [f"{counts[status]} {status}" for status in QueueStatus if counts[status]]
    priced = [one["cost_usd"] for one in shown if one["cost_usd"] is not None]
    return ", ".join([*words, *([f"${sum(priced):.2f}"] if priced else [])]) or "no tasks"


def _bounded(text: str, parts: Iterator[str]) -> tuple[str, bool]:
    """`text` with as many of the parts as there is room for, and whether those are all."""
    kept, room = [text], LARGEST - len(text.encode())
    for part in parts:
        room -= len(part.encode(errors="replace"))
        if room < 0:
            return "".join(kept), False
        kept.append(part)
    return "".join(kept), True


def _rows(shown: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in shown:
        cost = "" if one["cost_usd"] is None else f"${one['cost_usd']:.2f}"
        exit_ = "" if one["exit"] is None else str(one["exit"])
        status = f"{_MARKS.get(one['status'], '…')} {one['status']}"
        cells = [plain(one["name"]), status, exit_, f"{one['seconds']:.1f} s", cost]
        yield f"\n| {' | '.join([*cells, plain(one['reason'] or '')])} |"


def _details(one: Mapping[str, Any]) -> str:
    told = [f"### {plain(one['name'])}: {one['status']}", "", plain(one["reason"] or ""), ""]
    told += _listed("denied", one["denials"])
    told += _listed("not read", one["unread"])
    if one["result"]:
        told += ["", fenced(one["result"], LONGEST)]
    return "\n".join(told).rstrip("\n")


def _listed(what: str, lines: Sequence[str]) -> list[str]:
    more = [f"- and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [*(f"- {what}: {plain(line)}" for line in lines[:_LISTED]), *more]
