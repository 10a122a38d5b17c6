"""Claude sessions started elsewhere: seen, taken over, forked, with their conversations intact."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from claudedo.demo.model import Sequence, Text, ToolUse
from tests.support.world import PATIENCE, World

pytestmark = pytest.mark.acceptance


class Plain:
    """A `claude` that a person started in a terminal of their own."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._terminal: Any = pexpect.spawn(
            str(world.claude),
            ["--permission-mode", "default"],
            cwd=str(folder),
            env=plain_environment(world),
            dimensions=(24, 80),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        pid = self._terminal.pid
        assert pid is not None
        self.pid: int = pid
        self.await_state("idle")

    def listed(self) -> dict[str, Any]:
        """What `ls` says of it; an empty object once it does not."""
        config = str(self._world.home / ".claude")
        found = self._world.ask(lambda worker: worker.foreign(config_dir=config))
        return next((one for one in found if one["session"]["pid"] == self.pid), {})

    def await_state(self, state: str) -> dict[str, Any]:
        return self._world.wait_for(
            lambda: (one := self.listed()) and one["session"]["state"] == state and one,
            f"the plain session is not {state}",
        )

    def say(self, line: str) -> None:
        """Type a line, and Enter once the box has taken it in."""
        self._terminal.send(line)
        self._terminal.expect_exact(line)
        self._terminal.send("\r")
        self._world.model.wait_for(lambda r: r.is_main and line in r.latest)

    def press(self, keys: str) -> None:
        self._terminal.send(keys)

    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self._terminal.isalive() else self._terminal.exitstatus

    def close(self) -> None:
        self._terminal.close(force=True)


def plain_environment(world: World) -> dict[str, str]:
    return {key: value for key, value in world.environment.items() if "CLAUDEDO" not in key}


@contextmanager
def plain(world: World, folder: Path) -> Iterator[Plain]:
    world.run("worker", "start")
    session = Plain(world, folder)
    try:
        yield session
    finally:
        session.close()


@pytest.mark.one_claude
def test_a_session_of_somebodys_own_is_listed_forked_and_taken_over_with_its_conversation(
    world: World,
) -> None:
    folder = world.repository / "deep"
    folder.mkdir()
    call = ToolUse("Bash", {"command": "touch made-by-nobody"})
    world.model.script("FIRST-WORDS", Sequence([call, *map(Text, ["one", "two", "three"])]))
    with plain(world, folder) as session:
        refused = world.run("adopt", str(session.pid), check=False)
        assert (refused.returncode, "Nothing was said" in refused.stderr) == (5, True)
        session.say("FIRST-WORDS")
        asking = session.await_state("waiting")
        listed = next(one for one in world.json("ls") if not one["supervised"])
        assert listed["session"]["waiting_for"] == "permission prompt"
        assert (listed["worktree"], listed["branch"]) == (str(folder), "main")
        assert listed["workspace"] == world.repository.name
        refused = world.run("adopt", asking["name"], check=False)
        assert (refused.returncode, "permission prompt" in refused.stderr) == (5, True)
        assert session.ended() is None
        session.press("\x1b")
        session.await_state("idle")
        conversation = asking["session"]["session_id"]

        # A copy goes on in a worktree; the original runs on.
        forked = world.json("adopt", conversation[:8], "--fork", "--name", "forked")
        own = forked["session"]["session_id"]
        assert own != conversation
        assert Path(forked["worktree"]) == world.worktree("forked") != world.repository
        mail = world.send("forked", "TO-THE-FORK")
        world.await_rung("forked", mail, "read")
        [request] = world.requests_with("TO-THE-FORK")
        assert (request.session_id, "FIRST-WORDS" in request.text) == (own, True)
        assert world.session("forked")["session_id"] == own
        session.say("TO-THE-ORIGINAL")
        [request] = world.requests_with("TO-THE-ORIGINAL")
        assert (request.session_id, "TO-THE-FORK" in request.text) == (conversation, False)
        session.await_state("idle")

        # The original is taken over: the same conversation, in the same folder.
        taken = world.json("adopt", str(session.pid), "--name", "taken")
        world.wait_for(lambda: session.ended() == 143, "the original still runs")
        assert taken["session"]["session_id"] == conversation
        assert taken["worktree"] == str(folder)
        assert session.listed() == {}
    mail = world.send("taken", "TO-THE-TAKEN")
    world.await_rung("taken", mail, "read")
    [request] = world.requests_with("TO-THE-TAKEN")
    assert request.session_id == conversation
    assert [request.count(words) for words in ("FIRST-WORDS", "TO-THE-ORIGINAL")] == [1, 1]
    assert [one["name"] for one in world.json("ls")] == ["forked", "taken"]
    again = world.run("adopt", conversation, check=False)
    assert (again.returncode, "taken" in again.stderr) == (5, True)


@pytest.mark.one_claude
def test_a_conversation_that_ended_goes_on_in_a_worktree_also_after_a_restart(
    world: World,
) -> None:
    folder = world.repository / "deep"
    folder.mkdir()
    command = [str(world.claude), "-p", "SAID-BEFORE", "--output-format", "json"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=plain_environment(world),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    conversation = json.loads(done.stdout)["session_id"]
    adopted = world.json("adopt", conversation[:13], "--worktree", "--name", "revived")
    assert adopted["session"]["session_id"] == conversation
    assert adopted["worktree"] != str(world.repository)
    first = psutil.Process(adopted["session"]["pid"])
    world.run("restart", "revived")
    assert not first.is_running()
    mail = world.send("revived", "SAID-AFTER")
    world.await_rung("revived", mail, "read")
    [request] = world.requests_with("SAID-AFTER")
    assert (request.session_id, request.count("SAID-BEFORE")) == (conversation, 1)
