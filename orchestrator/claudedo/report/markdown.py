"""Strangers' text in GitHub-flavoured Markdown: shown letter by letter, never as markup."""

from __future__ import annotations

import re

LINE = 500
"""Characters of a line that are shown."""

_LONE = re.compile("[\ud800-\udfff]")  # halves of characters, which no file can hold
_SAFE = re.compile(r"[^\w ]|_", re.ASCII)


def plain(text: str) -> str:
    """`text` on one line, as code: neither it nor a table around it can be changed by it.

    All but letters, digits and spaces is told by number, which keeps Markdown and autolinks away;
    in a `code` element neither names nor numbers of issues become links.
    """
    line = " ".join(text.split())
    line = line if len(line) <= LINE else f"{line[:LINE]} …"
    return f"<code>{_SAFE.sub(_by_number, line)}</code>" if line else ""


def _by_number(found: re.Match[str]) -> str:
    code = ord(found[0])
    told = code if _is_character(code) else 0xFFFD
    return chr(told) if code > 0x9F else f"&#{told};"


def _is_character(code: int) -> bool:
    return code >= 0x20 and not 0x7F <= code <= 0x9F and not 0xD800 <= code <= 0xDFFF


def fenced(text: str, longest: int | None = None) -> str:
    """`text` as it is, up to `longest` characters, in a fence that nothing in it can close."""
    shown = text if longest is None or len(text) <= longest else text[:longest]
    ticks = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, ticks + 1)
    cut = [f"[{len(text) - len(shown):,} characters more]"] if shown is not text else []
    return _LONE.sub("\ufffd", "\n".join([f"{fence}text", shown, *cut, fence]))
