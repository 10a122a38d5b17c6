"""Makes the stand-in for `claude` a program that can be named in CLAUDEDO_CLAUDE."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PROGRAM = """\
#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from tests.support.{module} import main
sys.exit(main())
"""


def make_fake_claude(folder: Path) -> Path:
    """Write the program `fake-claude` into `folder`, which must exist; returns its path."""
    return _make(folder / "fake-claude", "fake_claude")


def make_fake_print(folder: Path) -> Path:
    """The same for the stand-in for `claude -p`: `fake-print`."""
    return _make(folder / "fake-print", "fake_print")


def _make(program: Path, module: str) -> Path:
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(ROOT), module=module))
    program.chmod(0o755)
    return program
