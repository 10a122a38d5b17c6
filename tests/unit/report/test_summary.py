"""The Markdown summary: a table, what went wrong, and no markup but ours."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from claudedo.model import RunExit, Verdict
from claudedo.report import markdown, summary
from tests.support.shown import shown

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = [
    "a | b | c",
    "a \\| b \\\\| c",
    "`code` and ``more`` ` \\`",
    "</code><img src=x onerror=alert(1)><script>alert(1)</script>",
    "<!-- hidden",
    "[link](javascript:alert(1)) ![image](http://example.org/x.png)",
    "http://example.org www.example.org <http://example.org>",
    "@everyone see #1 and shop/shop#2",
    "**bold** _em_ ~~gone~~ # heading",
    "&lt;b&gt; &amp; &#42;",
    "\\",
    "1. one",
    "- [x] done",
    "> quoted",
    "---",
    "$x^2$ :tada:",
    "[^1]: note",
    "| a |\n|---|\n| b |",
    "\n\n# heading\n\n```\nfence\n```\n",
    "    indented",
    "tab\tand \x1b[31m and \u202e",
]


def tokens(text: str) -> list[Token]:
    """All of them, those of a line, too."""
    found = MARKDOWN.parse(text)
    return [*found, *(child for token in found for child in token.children or [])]


def kinds(text: str) -> set[str]:
    return {token.type.removesuffix("_open").removesuffix("_close") for token in tokens(text)}


def words(line: str) -> str:
    """What a reader sees of a line."""
    return html.unescape(re.sub(r"<[^>]*>", "", MARKDOWN.renderInline(line)))


def test_all_tasks_stand_in_a_table_and_only_what_went_wrong_below() -> None:
    done = Verdict(exit=RunExit.DONE, reason="its check passed", result="Built.")
    wrong = Verdict(exit=RunExit.REJECTED, reason="make test failed", result="I tried.")
    skipped = Verdict(exit=RunExit.SKIPPED, reason="build, which it needs, is rejected")

    text = summary.render([shown("a", done), shown("b", wrong), shown("c", skipped)])

    head, _, rest = text.partition("\n\n")
    table, _, details = rest.partition("\n\n")
    assert head == "## claudedo: 1 completed, 1 rejected, 1 skipped, $0.50"
    assert [words(cell) for cell in table.splitlines()[3].strip("| ").split(" | ")] == [
        "b",
        "❌ rejected",
        "10",
        "1.5 s",
        "$0.25",
        "make test failed",
    ]
    assert len(table.splitlines()) == 5
    assert "Built." not in details
    assert "I tried." in details


def test_what_has_not_ended_is_shown_as_such() -> None:
    assert "… queued" in summary.render([shown("waits", None)])
    assert summary.render([]) == "No tasks.\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_shows_a_strangers_text_letter_by_letter(text: str) -> None:
    line = markdown.plain(text)

    inline = tokens(line)
    assert {token.type for token in inline} <= {
        *("paragraph_open", "inline", "paragraph_close"),
        *("text", "html_inline", "text_special"),
    }
    assert [t.content for t in inline if t.type == "html_inline"] == ["<code>", "</code>"]
    assert words(line) == re.sub(r"[\x00-\x1f]", "\ufffd", " ".join(text.split()))
    assert not re.search(r"[|:@#.](?!\d+;)", line.replace("&#", ""))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_task_changes_what_the_summary_is_made_of(text: str) -> None:
    def made(said: str) -> str:
        verdict = Verdict(
            exit=RunExit.DENIED, reason=said, denials=(said,), unread=(said,), result=said
        )
        return summary.render([{**shown("build", verdict), "name": said}])

    def parts(rendered: str) -> list[tuple[str, str]]:
        return [(t.type, t.tag) for t in MARKDOWN.parse(rendered)]

    assert parts(made(text)) == parts(made("words"))
    assert kinds(made(text)) == kinds(made("words")) | ({"text_special"} & kinds(made(text)))


def test_a_result_is_shown_as_it_is_in_a_fence_that_it_cannot_close() -> None:
    result = "```\n````` | <b>\n~~~\n# no heading\n\t<img src=x>"

    [fence] = [t for t in MARKDOWN.parse(markdown.fenced(result)) if t.type == "fence"]

    assert fence.content == result + "\n"


def test_a_half_of_a_character_keeps_no_summary_from_being_written() -> None:
    verdict = Verdict(exit=RunExit.REJECTED, reason="no \udc80", result="half \ud83d of it")

    text = summary.render([shown("build", verdict)])

    assert "half \ufffd of it" in text.encode().decode()


def test_long_texts_are_cut_with_a_word_about_it() -> None:
    verdict = Verdict(
        exit=RunExit.DENIED,
        reason="r" * 10_000,
        denials=tuple(f"Bash: {n}" for n in range(500)),
        result="`" * 100_000,
    )

    text = summary.render([shown("build", verdict)])

    assert "- and 480 more" in text
    assert "[96,000 characters more]" in text
    assert len(text) < 20_000


def test_the_whole_stays_below_what_github_shows() -> None:
    verdict = Verdict(exit=RunExit.REJECTED, reason="é" * 2_000, result="😀" * 10_000)
    many: list[dict[str, Any]] = [shown(f"t{n}", verdict) for n in range(400)]

    text = summary.render(many)

    assert summary.LARGEST // 2 < len(text.encode()) < 2**20
    assert text.endswith("There is more than fits here.\n")
    assert text.count("\n| <code>t") == 400
