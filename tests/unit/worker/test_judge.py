"""The verdict on a one-shot task."""

from __future__ import annotations

from typing import Any

import pytest

from claudedo.model import QueueStatus, Rules, RunExit, TaskStatus, Verdict
from claudedo_worker.judge import Check, Denial, Facts, Refused, judge

FAILED = Check(command="make test", exit=2, log="check.log")
DENIED = Denial(tool="Bash", about="rm -rf build")


@pytest.mark.parametrize(
    ("facts", "exit_", "words"),
    [
        (Facts(), 0, "done"),
        (Facts(cancelled=True, exit=130, ended=False), 130, "cancelled"),
        (Facts(trouble="setup failed"), 1, "setup failed"),
        (Facts(timeout=1.5, exit=143, ended=False), 12, "ended after its time limit of 1.5 s"),
        (Facts(budget=0.5, exit=1, is_error=True), 13, "ended after its budget of $0.5 was spent"),
        (
            Facts(refused=Refused(text="Invalid API key", status=401), exit=1, is_error=True),
            15,
            "the API refused (401): Invalid API key; check the credential",
        ),
        (Facts(refused=Refused(text="Not logged in"), attempts=3), 15, "3 times: Not logged in"),
        (Facts(exit=None, ended=False), 11, "its process was lost; see errors.log"),
        (
            Facts(exit=137, ended=False, complaint="oops"),
            11,
            "claude ended with signal 9 and no result: oops",
        ),
        (Facts(exit=0, ended=False), 11, "claude ended with exit status 0 and no result"),
        (Facts(exit=0, is_error=True, said="broke"), 11, "exit status 0 and an error: broke"),
        (Facts(exit=1), 11, "claude ended with exit status 1 and an error; see errors.log"),
        (
            Facts(status=TaskStatus.REJECTED, words="no such file"),
            10,
            "its session says that it is rejected: no such file",
        ),
        (Facts(status=TaskStatus.BLOCKED), 10, "its session says that it is blocked"),
        (Facts(check=FAILED), 10, "its check `make test` failed with exit status 2; see check.log"),
        (Facts(check=Check(command="x", exit=None, log="l")), 10, "failed by its time; see l"),
        (Facts(check=Check(command="x", exit=0, log="l")), 0, "done"),
        (Facts(denials=[DENIED]), 16, "it ended, but it had been denied Bash: rm -rf build"),
        (Facts(denials=[DENIED, DENIED, DENIED]), 16, "rm -rf build and 2 more"),
        (Facts(denials=[DENIED], rules=Rules(allow_denied=True)), 0, "done"),
        (Facts(unread=["m_1"]), 0, "done"),
        (Facts(unread=["m_1"], rules=Rules(fail_on_unread=True)), 14, "without reading 1 message"),
        (Facts(unread=["m", "n"], rules=Rules(fail_on_unread=True)), 14, "reading 2 messages"),
    ],
)
def test_each_end_has_its_exit_and_its_reason(facts: Facts, exit_: int, words: str) -> None:
    verdict = judge(facts)
    assert verdict.exit == exit_
    assert words in verdict.reason


def test_what_made_the_rest_meaningless_is_judged_first() -> None:
    everything: dict[str, Any] = {
        "refused": Refused(text="overloaded", status=529),
        "exit": 1,
        "is_error": True,
        "status": TaskStatus.REJECTED,
        "check": FAILED,
        "denials": [DENIED],
        "unread": ["m_1"],
        "rules": Rules(fail_on_unread=True),
        "budget": 1.0,
        "timeout": 1.0,
        "trouble": "no worktree",
        "cancelled": True,
    }
    order = []
    for key in ("cancelled", "trouble", "timeout", "budget", "refused"):
        order.append(judge(Facts(**everything)).exit)
        del everything[key]
    order.append(judge(Facts(**everything)).exit)
    del everything["exit"], everything["is_error"]
    for key in ("status", "check", "denials", "unread"):
        order.append(judge(Facts(**everything)).exit)
        del everything[key]
    assert order == [130, 1, 12, 13, 15, 11, 10, 10, 16, 14]
    assert judge(Facts(**everything)).exit is RunExit.DONE


def test_what_was_denied_and_not_read_is_told_with_every_verdict() -> None:
    verdict = judge(Facts(timeout=1, denials=[DENIED], unread=["m_1"], said="half"))
    assert (verdict.denied, verdict.denials) == (("Bash",), ("Bash: rm -rf build",))
    assert (verdict.unread, verdict.result) == (("m_1",), "half")
    assert verdict.status is QueueStatus.FAILED


def test_a_long_complaint_becomes_one_short_line() -> None:
    reason = judge(Facts(exit=1, ended=False, complaint="a\nb" * 500)).reason
    assert "\n" not in reason
    assert len(reason) < 400


@pytest.mark.parametrize("exit_", list(RunExit))
def test_every_exit_has_a_word(exit_: RunExit) -> None:
    words = {0: "completed", 10: "rejected", 17: "skipped", 130: "cancelled"}
    assert Verdict(exit=exit_, reason="x").status == words.get(exit_, "failed")
