"""A tool's input that the person edits before allowing it: the editor, the check, the difference.

What is edited is the bare command of a shell tool and the JSON input of every other. The file lies
in a private folder only while the editor runs.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from claudedo.cli import render
from claudedo.cli.render import Cell
from claudedo.errors import ClaudedoError, RefusedError, UsageError

Input = dict[str, Any]


class UnchangedError(RefusedError):
    """Nothing was changed in the editor."""


def edit(ask: Mapping[str, Any]) -> Input:
    """Let the person edit the input of an ask's tool in their editor; returns the whole new input.

    Raises `UnchangedError`, `RefusedError` when everything was deleted, `UsageError` for what is
    no JSON object or without an editor, `ClaudedoError` when the editor fails.
    """
    is_command = _is_command(ask["input"])
    shown = ask["input"]["command"] if is_command else _json(ask["input"])
    text = edit_text("command.sh" if is_command else "input.json", shown)
    if text == shown:
        raise UnchangedError
    if not text.strip():
        raise RefusedError("Everything was deleted, so nothing was decided.")
    if is_command:
        return {**ask["input"], "command": text}
    return parse(text)


def parse(text: str) -> Input:
    """The tool input that `text` is as JSON; raises `UsageError` naming what is wrong."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"The input is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError("The input must be a JSON object.")
    return value


def difference(
    before: Mapping[str, Any], after: Mapping[str, Any], gutter: str = "  "
) -> list[Cell]:
    """What was changed, line by line behind `gutter`, neutralised; empty if nothing."""
    bare = _is_command(before) and {**before, "command": after.get("command")} == after
    old, new = (one["command"] if bare else _json(one) for one in (before, after))
    lines = difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=2)
    kept = [text for text in lines if not text.startswith(("---", "+++", "@@"))]
    return [Cell(f"{gutter}{text}", render.DIFF_STYLES.get(text[:1], "dim")) for text in kept]


def _is_command(given: Mapping[str, Any]) -> bool:
    return isinstance(given.get("command"), str)


def _json(given: Mapping[str, Any]) -> str:
    return json.dumps(given, indent=2, ensure_ascii=False)


def _lines(text: Any) -> list[str]:
    return render.neutral(str(text)).split("\n")


def edit_text(name: str, text: str) -> str:
    """Let the person edit `text` as a file called `name`; returns it without a final newline.

    The terminal must be theirs meanwhile. Raises `UsageError` without an editor, `ClaudedoError`
    when the editor fails.
    """
    with TemporaryDirectory(prefix="claudedo-") as folder:
        file = Path(folder, name)
        file.write_text(text + "\n", encoding="utf-8")
        command = [*_editor(), str(file)]
        try:
            status = _run(command)
            edited = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ClaudedoError(
                f"{command[0]} did not work, nothing was decided: {error}"
            ) from error
    if status:
        raise ClaudedoError(f"{command[0]} ended with status {status}; nothing was decided.")
    return edited.removesuffix("\n")


def _run(command: list[str]) -> int:
    """Run the editor; Ctrl-C is for it alone meanwhile."""
    with subprocess.Popen(command) as editor:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return editor.wait()
        finally:
            signal.signal(signal.SIGINT, previous)


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if chosen := os.environ.get(variable, "").strip():
            try:
                return shlex.split(chosen)
            except ValueError as error:
                raise UsageError(f"{variable} cannot be understood: {error}.") from error
    if not sys.stdin.isatty():
        raise UsageError("Without a terminal, --edit needs EDITOR; --input F needs neither.")
    return ["vi"]
