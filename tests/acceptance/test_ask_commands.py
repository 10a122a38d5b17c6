"""A person decides what a session asks: by a command, and in `claudedo next` on a terminal."""

from __future__ import annotations

import json
from typing import Any

import pexpect
import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import COMMAND, PATIENCE, World

pytestmark = [pytest.mark.acceptance, pytest.mark.one_claude]


def touch(name: str) -> ToolUse:
    return ToolUse("Bash", {"command": f"touch {name}"}, text=f"I will make {name}.")


def asks_for(world: World, name: str) -> dict[str, Any]:
    """Wait until the session asks whether it may make the file `name`."""
    return world.wait_for(
        lambda: next((ask for ask in world.ask(lambda w: w.asks()) if name in ask["title"]), None),
        f"nobody asks for {name}",
    )


def test_asks_are_told_allowed_by_command_and_edited_in_next(world: World) -> None:
    told = world.root / "told"
    world.state.mkdir(mode=0o700)
    (world.state / "config.toml").write_text(f"notify = 'cat >> {told}; echo >> {told}'\n")
    world.model.script("MAKE", Sequence([touch("one"), touch("two"), touch("four"), Text("over")]))
    world.start("backend", mode="default", claude_args=("--verbose",))
    made = world.worktree("backend")
    world.send("backend", "MAKE")

    ask = asks_for(world, "one")
    listed = world.run("asks").stdout.splitlines()
    assert listed[1].split(maxsplit=3)[1:] == ["backend", "permission", "Bash: touch one"]
    assert world.run("allow", "backend").stdout == "backend: allowed: Bash: touch one\n"
    world.wait_for((made / "one").exists, "what was allowed was not done")
    late = world.run("deny", ask["id"], check=False)
    assert (late.returncode, late.stdout) == (5, "")
    assert "was allowed through claudedo" in late.stderr

    asks_for(world, "two")
    editor = world.root / "editor"
    editor.write_text('#!/bin/sh\nsed s/two/three/ "$1" > "$1.new" && mv "$1.new" "$1"\n')
    editor.chmod(0o755)
    person = pexpect.spawn(
        COMMAND,
        ["next", "--watch"],
        cwd=str(world.repository),
        env={**world.environment, "VISUAL": str(editor), "TERM": "xterm-256color"},
        dimensions=(24, 80),
        timeout=int(PATIENCE),
        encoding="utf-8",
    )
    try:
        person.expect("I will make two.")
        person.expect(r"\[\?\] > ")
        person.send("e")
        person.expect(r"\+touch three")
        person.expect(r"changed like this\? \[y/N\] ")
        person.send("y")
        person.expect("allowed, edited: Bash: touch three")
        person.expect("I will make four.")
        person.expect(r"\[\?\] > ")
        world.keys("backend", "\x1b")  # the person changes their mind at the session's terminal
        person.expect("It was denied in its terminal")
        person.expect("Waiting for the next ask")
        person.send("q")
        person.expect(pexpect.EOF)
    finally:
        person.close(force=True)
    assert person.exitstatus == 0
    assert sorted(path.name for path in made.iterdir() if not path.name.startswith(".")) == [
        "README.md",
        "one",
        "three",
    ]
    world.wait_for(lambda: told.read_text().count("\n") == 3, "not all asks were told")
    titles = [json.loads(line)["title"] for line in told.read_text().splitlines()]
    assert titles == ["Bash: touch one", "Bash: touch two", "Bash: touch four"]
