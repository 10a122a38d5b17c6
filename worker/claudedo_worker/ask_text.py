"""What a held permission request asks, in words: its kind, one line, and everything to decide on.

Reads at most the one file that an edit would change, to show the change. What a model wrote is
shown with its control characters spelt out: a terminal must not obey it.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claudedo.model import AskKind

TITLE_LIMIT = 120
FILE_LIMIT = 1024 * 1024
"""Bytes of the largest file that is read for a diff."""

DIFF_LINES = 10_000
"""Lines, before and after together, up to which a diff is worked out: the time grows as their
square, and until then nobody is told of the ask."""

QUESTION, PLAN = "AskUserQuestion", "ExitPlanMode"

_KINDS = {QUESTION: AskKind.QUESTION, PLAN: AskKind.PLAN}

# What would reorder or hide text on a screen without being a control character.
_INVISIBLE = frozenset("\u200b\u200e\u200f\u2028\u2029\ufeff") | frozenset(
    map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080)])
)

Input = Mapping[str, Any]


def describe(tool: str, given: Input, folder: Path | None) -> tuple[AskKind, str, str]:
    """The kind, the title (one line) and the body of an ask for `tool` with the input `given`.

    `folder` is where the session works: paths below it are shown from there.
    """
    kind = _KINDS.get(tool, AskKind.PERMISSION)
    writer = _WRITERS.get(tool, _other)
    try:
        line, body = writer(given, folder)
        if folder and tool in _FILE_TOOLS and _is_outside(given, folder):
            line = f"outside its folder: {line}"
    except (AttributeError, KeyError, TypeError, ValueError):
        # Not the input that this tool is known to take: shown as it is.
        line, body = _other(given, folder)
    line = " ".join(visible(line).split())
    title = line if kind is not AskKind.PERMISSION else f"{tool}: {line}" if line else tool
    return kind, _short(title), visible(body)


def visible(text: str) -> str:
    """`text` with everything spelt out that a terminal would obey, or show as nothing."""
    return "".join(character if _is_plain(character) else _spelt(character) for character in text)


def questions(given: Input) -> list[dict[str, Any]]:
    """The questions of an `AskUserQuestion` call, without what is none."""
    listed = given.get("questions")
    found = listed if isinstance(listed, list) else []
    return [q for q in found if isinstance(q, dict) and isinstance(q.get("question"), str)]


def labels(question: Mapping[str, Any]) -> list[str]:
    """The choices of one question."""
    options = question.get("options")
    found = options if isinstance(options, list) else []
    return [option["label"] for option in found if isinstance(option, dict) and "label" in option]


def _command(given: Input, folder: Path | None) -> tuple[str, str]:
    command = str(given["command"])
    body = command
    if given.get("description"):
        body += f"\n\n# {given['description']}"
    if given.get("run_in_background"):
        body += "\n# in the background"
    if given.get("dangerouslyDisableSandbox"):
        body += "\n# outside the sandbox"
    return command.strip().split("\n", 1)[0] + (" …" if "\n" in command.strip() else ""), body


def _is_outside(given: Input, folder: Path) -> bool:
    """Whether a file tool would leave the folder, be it through a symbolic link."""
    path = given.get("notebook_path") or given.get("file_path")
    if not isinstance(path, str):
        return False
    real = os.path.realpath(_path({"file_path": path}, folder))  # of a loop of links, itself
    return not Path(real).is_relative_to(os.path.realpath(folder))


def _edit(given: Input, folder: Path | None) -> tuple[str, str]:
    return _changed(given, folder, [given])


def _multi_edit(given: Input, folder: Path | None) -> tuple[str, str]:
    return _changed(given, folder, list(given["edits"]))


def _changed(given: Input, folder: Path | None, edits: list[Input]) -> tuple[str, str]:
    name = _name(given, folder)
    before = _read(_path(given, folder))
    after = before
    for edit in edits:
        old, new = str(edit["old_string"]), str(edit["new_string"])
        if after is None or (old and old not in after):
            # The file is not as the model believes, or cannot be shown: the edits by themselves.
            parts = [_diff(str(e["old_string"]), str(e["new_string"]), name) for e in edits]
            return name, "\n".join(parts)
        after = after.replace(old, new, -1 if edit.get("replace_all") else 1)
    return name, _diff(before or "", after or "", name)


def _write(given: Input, folder: Path | None) -> tuple[str, str]:
    name, path = _name(given, folder), _path(given, folder)
    before = _read(path)
    if before is None:
        return name, f"replaces {name}, which cannot be shown, with:\n\n{given['content']}"
    return name, _diff(before or "", str(given["content"]), name, new=not before)


def _notebook(given: Input, folder: Path | None) -> tuple[str, str]:
    name = _name({"file_path": given["notebook_path"]}, folder)
    mode, cell = given.get("edit_mode") or "replace", given.get("cell_id") or ""
    return name, f"{mode} cell {cell} of {name}:\n\n{given.get('new_source', '')}"


def _question(given: Input, folder: Path | None) -> tuple[str, str]:
    asked = questions(given)
    first = str(asked[0]["question"]) if asked else ""
    line = f"{len(asked)} questions: {first}" if asked[1:] else first
    return line, "\n\n".join(map(_one_question, asked))


def _one_question(question: Input) -> str:
    many = "  (several may be chosen)" if question.get("multiSelect") else ""
    lines = [f"{question['question']}{many}"]
    for number, option in enumerate(question.get("options") or [], start=1):
        described = f": {option['description']}" if option.get("description") else ""
        lines.append(f"  {number}. {option['label']}{described}")
    return "\n".join(lines)


def _plan(given: Input, folder: Path | None) -> tuple[str, str]:
    plan = given.get("plan")
    if not isinstance(plan, str) and isinstance(given.get("planFilePath"), str):
        plan = _read(Path(given["planFilePath"]))
    if not isinstance(plan, str) or not plan.strip():
        return "a plan", "The plan is shown in the session's terminal only."
    return plan.strip().split("\n", 1)[0].lstrip("# "), plan


def _fetch(given: Input, folder: Path | None) -> tuple[str, str]:
    return str(given["url"]), f"{given['url']}\n\n{given.get('prompt', '')}".strip()


def _other(given: Input, folder: Path | None) -> tuple[str, str]:
    texts = (str(value) for value in given.values() if isinstance(value, str) and value.strip())
    line = next(texts, "").strip().split("\n", 1)[0]
    try:
        return line, json.dumps(given, indent=2, ensure_ascii=False)
    except RecursionError:
        return line, "The input nests too deep to be shown; the session's terminal may show it."


_WRITERS: dict[str, Callable[[Input, Path | None], tuple[str, str]]] = {
    "Bash": _command,
    "PowerShell": _command,
    "Edit": _edit,
    "MultiEdit": _multi_edit,
    "Write": _write,
    "NotebookEdit": _notebook,
    "WebFetch": _fetch,
    QUESTION: _question,
    PLAN: _plan,
}


_FILE_TOOLS = frozenset({"Edit", "MultiEdit", "Write", "NotebookEdit", "Read"})


def _diff(before: str, after: str, name: str, *, new: bool = False) -> str:
    old, now = before.splitlines(), after.splitlines()
    if old == now:
        return "(no line changes; only the end of the file, or nothing)"
    source, target = (name, name) if name.startswith("/") else (f"a/{name}", f"b/{name}")
    source = "/dev/null" if new else source
    if len(old) + len(now) > DIFF_LINES:
        return "\n".join([f"--- {source}", f"+++ {target}", *_one_hunk(old, now)])
    return "\n".join(difflib.unified_diff(old, now, source, target, lineterm=""))


def _one_hunk(old: list[str], now: list[str]) -> list[str]:
    """All between what both begin and end with: no less than the change, found in one pass."""
    begin = _common(old, now)
    end = _common(old[begin:][::-1], now[begin:][::-1])
    gone, come = old[begin : len(old) - end], now[begin : len(now) - end]
    where = f"@@ -{begin + bool(gone)},{len(gone)} +{begin + bool(come)},{len(come)} @@"
    return [where, *(f"-{line}" for line in gone), *(f"+{line}" for line in come)]


def _common(old: list[str], now: list[str]) -> int:
    """With how many equal lines both begin."""
    pairs = zip(old, now, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _path(given: Input, folder: Path | None) -> Path:
    return Path(os.path.normpath((folder or Path("/")) / str(given["file_path"])))


def _name(given: Input, folder: Path | None) -> str:
    path = _path(given, folder)
    return str(path.relative_to(folder)) if folder and path.is_relative_to(folder) else str(path)


def _read(path: Path) -> str | None:
    """The text of a file; "" if there is none, None if it cannot be shown.

    Only regular files: another kind (a pipe, a device) could be read without end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_LIMIT:
            return None
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):  # not ours to read, a name too long for the system, no text
        return None


def _is_plain(character: str) -> bool:
    if character in "\n\t":
        return True
    return (character.isprintable() or character == "\u00ad") and character not in _INVISIBLE


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _short(line: str) -> str:
    return line if len(line) <= TITLE_LIMIT else line[: TITLE_LIMIT - 1] + "…"
