"""Bare `claudedo` on a terminal, with a real worker and real holders; only `claude` is played."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
import pyte
import pytest

from tests.support.fake_world import fake_world
from tests.support.world import PATIENCE, World

pytestmark = pytest.mark.acceptance

DETACH = "\x1d"
OFF = "\x1b[?1049l"
BOX = "─" * 40  # of the stand-in's input box


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with fake_world(tmp_path_factory.mktemp("w")) as made:
        made.run("start", "backend", "frontend", "--permission-mode", "default")
        yield made


class Window:
    """A terminal of 80 columns and 24 lines, as a person sees it."""

    def __init__(self, child: pexpect.spawn[bytes]) -> None:
        self.child = child
        self.raw = b""
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """What stands there now."""
        self._read()
        return "\n".join(line.rstrip() for line in self._screen.display)

    def sees(self, *texts: str) -> None:
        """Wait until all of these stand on the screen at once."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if all(text in self.text for text in texts):
                return
        raise AssertionError(f"{texts} never stood on the screen:\n{self.text}")

    def misses(self, text: str) -> None:
        until = time.monotonic() + PATIENCE
        while text in self.text:
            assert time.monotonic() < until, f"{text!r} stays on the screen:\n{self.text}"

    def ends(self) -> int | None:
        """Wait for the end; the status, and the signal as a negative one."""
        until = time.monotonic() + PATIENCE
        while self.child.isalive():
            self._read()
            assert time.monotonic() < until, self.text
        self._read()
        return self.child.exitstatus

    def _read(self) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout=0.05)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.raw += data
        self._stream.feed(data)


@contextmanager
def live_list(world: World) -> Iterator[Window]:
    child: pexpect.spawn[bytes] = pexpect.spawn(
        world.command, env=world.environment, cwd=str(world.repository), dimensions=(24, 80)
    )
    try:
        yield Window(child)
    finally:
        child.close(force=True)


def test_a_person_sends_decides_attaches_and_leaves(world: World) -> None:
    with live_list(world) as window:
        window.sees("> backend", "frontend", "idle", "? help  q quit")

        window.child.send("s")
        window.sees("To backend:")
        window.child.send('ask Bash {"command": "npm test"}')
        window.sees('ask Bash {"command": "npm test"}')
        window.child.send("\r")
        window.sees("1 ask for you", "permission: Bash: npm test", "delivered ✓ read ✓")

        window.child.send("a")
        window.sees(BOX)
        window.misses("SESSION")
        window.child.send(DETACH)
        window.sees("SESSION", "Bash: npm test", "? help  q quit")

        window.child.send("gy")
        window.sees("backend's permission was allowed through claudedo")
        window.misses("Bash: npm test")

        world.kill_worker()
        window.sees("The worker is back.")
        window.child.send("Gs")
        window.sees("To frontend:")
        window.child.send("hello\r")
        window.sees("to frontend: stored ✓ offered ✓ delivered ✓ read ✓")

        window.child.send("q")
        assert window.ends() == 0
        assert window.raw.rstrip().endswith(b"\x1b[?1004l")
        assert OFF.encode() in window.raw
    bodies = [said["body"] for said in world.json("thread", "frontend")]
    assert bodies == ["hello"]


def test_a_request_to_end_reaches_the_list_through_an_attached_session(world: World) -> None:
    with live_list(world) as window:
        window.sees("> backend")
        window.child.send("a")
        window.sees(BOX)
        window.misses("SESSION")

        window.child.kill(signal.SIGTERM)

        assert window.ends() == 143
    assert world.session("backend")["state"] == "idle"
