"""Makes the stand-in for `claude` a program that can be named in CLAUDEDO_CLAUDE."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PROGRAM = """\
#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from tests.support.fake_claude import main
sys.exit(main())
"""


def make_fake_claude(folder: Path) -> Path:
    """Write the program `fake-claude` into `folder`, which must exist; returns its path."""
    program = folder / "fake-claude"
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    return program
