"""JUnit reports: what build servers take, whatever sessions say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

from claudedo.model import QueueStatus, RunExit, Verdict
from claudedo.report import junit
from tests.support.shown import shown

SCHEMA = xmlschema.XMLSchema10(Path(__file__).parents[2] / "data" / "junit-10.xsd")

WRONG = "a\x00b\x1b[31mc\x0b \ud800 \udfff \ufffe\uffff ]]> <!-- & \"'> \u2028 😀\r\n\tend"
"""What XML cannot hold, what it gives a meaning to, and what it can hold well."""

SAID = "a\ufffdb\ufffd[31mc\ufffd \ufffd \ufffd \ufffd\ufffd ]]> <!-- & \"'> \u2028 😀"


def parsed(*tasks: dict[str, Any], suite: str = "claudedo") -> ElementTree.Element:
    """The report of these tasks, of which the schema has nothing to say."""
    text = junit.render(tasks, suite=suite)
    SCHEMA.validate(text)
    return ElementTree.fromstring(text.encode())


def failed(code: RunExit, **more: Any) -> Verdict:
    return Verdict(exit=code, reason=f"it ended with {code.name}", **more)


def test_every_kind_of_end_has_its_kind_of_result() -> None:
    tasks = [shown(code.name.lower(), failed(code)) for code in RunExit]
    waiting = shown("waits", None)
    running = shown("runs", None, status=QueueStatus.RUNNING, attempts=1)

    root = parsed(*tasks, waiting, running)

    kinds = {
        case.get("name"): next((child.tag for child in case if child.tag != "system-out"), None)
        for case in root.iter("testcase")
    }
    assert kinds == {
        "done": None,
        "failed": "error",
        "rejected": "failure",
        "process": "error",
        "timeout": "error",
        "budget": "error",
        "unread": "failure",
        "api": "error",
        "denied": "failure",
        "skipped": "skipped",
        "cancelled": "skipped",
        "waits": "skipped",
        "runs": "skipped",
    }


def test_the_totals_are_those_of_the_cases() -> None:
    ends = (RunExit.DONE, RunExit.REJECTED, RunExit.API, RunExit.API, RunExit.SKIPPED)
    root = parsed(*[shown(f"t{n}", failed(code)) for n, code in enumerate(ends)], suite="nightly")

    suite = root[0]
    told = {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")}
    assert told == {
        "name": "nightly",
        "tests": "5",
        "failures": "1",
        "errors": "2",
        "skipped": "1",
    }
    assert suite.get("time") == "6.000"
    assert len(suite.findall("testcase")) == 5


def test_no_tasks_are_a_report_as_well() -> None:
    assert parsed()[0].get("tests") == "0"


def test_a_failure_says_why_what_was_denied_and_what_was_not_read() -> None:
    verdict = failed(RunExit.DENIED, denials=("Bash: rm -rf build",), unread=("m_7",))

    failure = parsed(shown("build", verdict)).find(".//failure")

    assert failure is not None
    assert failure.get("message") == "it ended with DENIED"
    assert failure.get("type") == "failed (16)"
    assert failure.text == "it ended with DENIED\ndenied: Bash: rm -rf build\nnot read: m_7"


def test_a_good_one_says_what_was_said_last_and_what_it_cost() -> None:
    verdict = Verdict(exit=RunExit.DONE, reason="done", result="All is built.")

    out = parsed(shown("build", verdict)).find(".//system-out")

    assert out is not None and out.text is not None
    assert out.text.splitlines() == [
        "branch: claudedo/build",
        "attempts: 1",
        "cost: $0.2500",
        "",
        "All is built.",
    ]


@pytest.mark.parametrize("code", [RunExit.DONE, RunExit.REJECTED, RunExit.API, RunExit.SKIPPED])
def test_what_xml_cannot_hold_is_replaced_wherever_it_stands(code: RunExit) -> None:
    verdict = Verdict(exit=code, reason=WRONG, result=WRONG, denials=(WRONG,), unread=(WRONG,))

    case = parsed({**shown("build", verdict), "workspace": WRONG, "branch": WRONG})[0][0]

    assert (case.get("classname") or "").startswith(SAID)
    assert all(
        SAID in text for child in case for text in [child.text, child.get("message")] if text
    )
    assert [child.tag for child in case][-1] == "system-out"


def test_the_text_of_a_result_is_the_sessions_own_letter_by_letter() -> None:
    result = "x < y && z ]]> <system-reminder>\n\ttabs, é, 😀, \u2028 and \x85 stay"

    out = parsed(shown("build", Verdict(exit=RunExit.DONE, reason="", result=result)))[0][0][0]

    assert (out.text or "").endswith(f"\n\n{result}")


def test_a_huge_result_is_cut_with_a_word_about_it_and_takes_no_time() -> None:
    result = "\x00]]>😀" * 5_000_000
    began = time.monotonic()

    text = junit.render([shown("build", Verdict(exit=RunExit.DONE, reason="", result=result))])

    assert time.monotonic() - began < 20
    assert len(text) < 20 * junit.LONGEST
    assert "characters more]" in text
    SCHEMA.validate(text)
