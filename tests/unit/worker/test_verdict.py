"""What a transcript tells of who decided, whatever else stands in it."""

from __future__ import annotations

from pathlib import Path

from claudedo_worker.verdict import Verdicts
from tests.support.mailroom import Lines

LONG_AGO = "2020-01-01T00:00:00.000Z"


def test_a_line_that_nests_too_deep_hides_no_other(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "c1.jsonl")
    with lines.path.open("a") as file:
        deep = '{"tool_result":' * 10_000 + "1" + "}" * 10_000
        file.write(f'{{"type":"user","uuid":"d","toolUseResult":{deep}}}\n')
    lines.result("t1", "done")

    assert Verdicts(lines.path).of("t1", LONG_AGO).result == "ran"
