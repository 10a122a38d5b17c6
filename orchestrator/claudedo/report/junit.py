"""A run of one-shot tasks as JUnit XML, the form in which build servers read test results.

In the dialect of Jenkins' xunit plugin (junit-10.xsd), which others read as well:
what is not good work is a failure, what never came to a verdict on the work is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from claudedo.model import QueueStatus, RunExit

LONGEST = 100_000
"""Characters of a text that are told; the artifacts have all of a result."""

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""

_FAILURES = frozenset({RunExit.REJECTED, RunExit.DENIED, RunExit.UNREAD})
_NEVER_JUDGED = frozenset({QueueStatus.SKIPPED, QueueStatus.CANCELLED})


def render(shown: Sequence[Mapping[str, Any]], *, suite: str = "claudedo") -> str:
    """The whole file. `shown` are elements of `queue run --json`, also such as are not over."""
    counts = {kind: sum(_kind(one) == kind for one in shown) for kind in _KINDS}
    seconds = sum(one["seconds"] for one in shown)
    totals = {
        "name": _clean(suite),
        "tests": str(len(shown)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", totals)
    told = ElementTree.SubElement(root, "testsuite", {**totals, "skipped": str(counts["skipped"])})
    for one in shown:
        _add_case(told, one)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


_KINDS = ("passed", "skipped", "failure", "error")


def _kind(one: Mapping[str, Any]) -> str:
    if one["exit"] == RunExit.DONE:
        return "passed"
    if one["status"] in _NEVER_JUDGED or one["exit"] is None:
        return "skipped"
    return "failure" if one["exit"] in _FAILURES else "error"


def _add_case(suite: ElementTree.Element, one: Mapping[str, Any]) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": _clean(one["workspace"]),
            "name": _clean(one["name"]),
            "time": f"{one['seconds']:.3f}",
        },
    )
    kind, reason = _kind(one), _clean(one["reason"] or one["status"])
    if kind == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": reason})
    elif kind != "passed":
        words = {"message": reason, "type": f"{one['status']} ({one['exit']})"}
        ElementTree.SubElement(case, kind, words).text = _clean(_details(one))
    ElementTree.SubElement(case, "system-out").text = _clean(_said(one))


def _details(one: Mapping[str, Any]) -> str:
    lines = [str(one["reason"])]
    lines += [f"denied: {denial}" for denial in one["denials"]]
    lines += [f"not read: {message}" for message in one["unread"]]
    return "\n".join(lines)


def _said(one: Mapping[str, Any]) -> str:
    """What the model said last, after the facts that have no place of their own in the format."""
    facts = {
        "session": one["session_id"],
        "branch": one["branch"],
        "attempts": one["attempts"],
        "cost": None if one["cost_usd"] is None else f"${one['cost_usd']:.4f}",
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value is not None]
    return "\n".join([*lines, "", one["result"] or ""]).rstrip()


def _clean(text: str) -> str:
    """`text` without what XML cannot hold, and cut where it is too long to be read there."""
    kept = _FORBIDDEN.sub("\ufffd", text[:LONGEST])
    more = len(text) - LONGEST
    return kept if more <= 0 else f"{kept}\n[{more:,} characters more]"
