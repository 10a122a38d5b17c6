"""A run of one-shot tasks as Markdown, for the page of a build or a comment.

What tasks and sessions say is a stranger's text: it is shown letter by letter, never as markup.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from claudedo.model import QueueStatus, RunExit

LONGEST = 4_000
"""Characters of a result that are shown; the artifacts have all of it."""

_MARKS = {
    QueueStatus.COMPLETED: "✅",
    QueueStatus.REJECTED: "❌",
    QueueStatus.FAILED: "❌",
    QueueStatus.SKIPPED: "⏭️",
    QueueStatus.CANCELLED: "🚫",
}
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~@:&])")


def render(shown: Sequence[Mapping[str, Any]]) -> str:
    """The whole text. `shown` are elements of `queue run --json`."""
    rows = [
        "| task | status | exit | time | cost | reason |",
        "|---|---|---:|---:|---:|---|",
        *(_row(one) for one in shown),
    ]
    parts = [f"## claudedo: {headline(shown)}", "\n".join(rows)] if shown else ["No tasks."]
    parts += [_details(one) for one in shown if one["exit"] not in (None, RunExit.DONE)]
    return "\n\n".join(parts) + "\n"


def headline(shown: Sequence[Mapping[str, Any]]) -> str:
    """How it went, in a line: how many of each, and what it cost where that is known."""
    counts = Counter(str(one["status"]) for one in shown)
    words = [f"{counts[status]} {status}" for status in QueueStatus if counts[status]]
    priced = [one["cost_usd"] for one in shown if one["cost_usd"] is not None]
    return ", ".join([*words, *([f"${sum(priced):.2f}"] if priced else [])]) or "no tasks"


def _row(one: Mapping[str, Any]) -> str:
    cost = "" if one["cost_usd"] is None else f"${one['cost_usd']:.2f}"
    exit_ = "" if one["exit"] is None else str(one["exit"])
    status = f"{_MARKS.get(one['status'], '…')} {one['status']}"
    cells = [plain(one["name"]), status, exit_, f"{one['seconds']:.1f} s", cost]
    return f"| {' | '.join([*cells, plain(one['reason'] or '')])} |"


def _details(one: Mapping[str, Any]) -> str:
    told = [f"### {plain(one['name'])}: {one['status']}", plain(one["reason"] or "")]
    told += [f"- denied: {plain(denial)}" for denial in one["denials"]]
    told += [f"- not read: {plain(message)}" for message in one["unread"]]
    if one["result"]:
        told.append(f"\n{fenced(one['result'])}")
    return "\n".join(told)


def plain(text: str) -> str:
    """`text` on one line, in which nothing is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str) -> str:
    """`text` as it is, in a fence that nothing in it can close."""
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[more in the artifacts]"
    ticks = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}text\n{shown}\n{fence}"
