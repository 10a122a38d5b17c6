"""What goes wrong through no fault of ours is said in one sentence, and nothing is lost by it.

Each case runs the installed command with a whole environment. Where the real `claude` never gets
to run, a script stands in for it, so that the case is the same for every version.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from claudedo.client import WorkerClient
from claudedo.demo.repository import make_repository
from tests.support.world import COMMAND, PATIENCE, World

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("bad input")]  # one place for all

LIMIT = 256 * 1024  # bytes of a message
VERSION = '[ "$1" = --version ] && { echo "2.1.330 (Claude Code)"; exit; }\n'
WAITS = VERSION + "exec sleep 600\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose `claude` is a script; one for the whole file."""
    root = tmp_path_factory.mktemp("place")
    with World(_program(root / "claude", WAITS), root / "world") as made:
        yield made


@pytest.fixture
def own_state(
    place: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, Path]]:
    """The same world with a state directory of its own, which does not exist yet."""
    state = tmp_path / "state"
    monkeypatch.setitem(place.environment, "CLAUDEDO_HOME", str(state))
    yield place, state
    place.run("worker", "stop", check=False)


@pytest.fixture(scope="module", autouse=True)
def hanging(place: World) -> Iterator[subprocess.Popen[str]]:
    """A start that began with the file: its `claude` never shows anything, which takes a minute."""
    environment = place.environment | {"CLAUDEDO_HOME": str(place.root / "hanging")}
    with subprocess.Popen(
        [COMMAND, "start", "silent=Build it"],
        cwd=place.repository,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as starting:
        yield starting
        starting.kill()  # it has ended, unless the tests did not get that far
    for command in (["rm", "silent", "--force"], ["worker", "stop"]):
        subprocess.run([COMMAND, *command], env=environment, capture_output=True, check=False)


# What is asked for


def test_a_place_without_commits_to_work_on_is_refused(place: World, tmp_path: Path) -> None:
    for number, (make, status, says) in enumerate(
        (
            ("mkdir it", 5, "it is not inside a git repository; run `git init`"),
            ("true", 4, "it is not a directory"),
            ("git init -q it", 5, "has no commit to start from on this branch; make one: `git -C"),
            ("git init -q --bare it", 5, "it is a bare repository"),
            ("echo text > it", 4, "it is not a directory"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        subprocess.run(["sh", "-c", make], cwd=folder, check=True)
        _refused(place, ["start", f"task@{folder}/it"], status, says)
    assert place.ask(WorkerClient.tasks) == []


def test_a_start_that_cannot_be_is_refused_before_anything_is_made(place: World) -> None:
    for arguments, status, says in (
        (["task", "--branch", "main"], 5, "main is checked out in .*repository; .*--branch"),
        (["task", "--branch", "two..dots"], 2, "cannot name a branch; see `git help"),
        (["task", "--base", "nowhere"], 4, "no commit 'nowhere' in .*; name a branch, tag"),
        (["Task!"], 2, "'Task!' cannot be a name: use a-z"),
        (["task", "task"], 2, "task is named twice"),
        (["task", "--here", "--branch", "b"], 2, "--here makes no worktree: leave out"),
        (["task", "--", "--resume", "x"], 2, "--resume cannot be given to claude: `claudedo res"),
        (["task", "--", "--settings", "nowhere.json"], 2, "nowhere.json' cannot be read: No such"),
        (["task", "--", "--settings", "{]"], 2, "--settings: {] is not JSON"),
        (["task", "--link", "nobody"], 4, "no task 'nobody'; there are: none yet"),
    ):
        _refused(place, ["start", *arguments], status, says)
        assert place.ask(WorkerClient.tasks) == [], arguments
        made = place.repository.with_name("repository.worktrees") / "task"
        assert not made.exists(), arguments


def test_a_claude_that_cannot_be_used_is_named(
    place: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (body, says) in enumerate(
        (
            (None, "There is no `.*claude` to run. Install it with `npm"),
            ("echo '2.0.1 (Claude Code)'\n", "is version 2.0.1; claudedo needs 2.1.197 or newer"),
            ("echo no licence >&2; exit 1\n", "is no working Claude Code: no licence"),
            ("echo hello\n", "is no working Claude Code: hello"),
        )
    ):
        claude = tmp_path / f"claude-{number}" / "claude"
        if body:
            claude.parent.mkdir()
            _program(claude, body)
        monkeypatch.setitem(place.environment, "CLAUDEDO_CLAUDE", str(claude))
        _refused(place, ["start", "task"], 5, says)
        assert place.ask(WorkerClient.tasks) == []


@pytest.mark.one_claude
def test_a_claude_that_fails_while_starting_is_quoted_and_the_prompt_is_kept(
    place: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude = _program(tmp_path / "claude", VERSION + "echo the licence is used up >&2; exit 1\n")
    monkeypatch.setitem(place.environment, "CLAUDEDO_CLAUDE", str(claude))
    try:
        failed = place.run("start", "unlucky=Build it", check=False)
        assert failed.returncode == 1
        assert "claudedo: unlucky failed: claude ended while starting" in failed.stderr
        assert "the licence is used up" in failed.stderr
        [message] = place.json("thread", "unlucky")
        assert (message["body"], message["receipts"]["offered_at"]) == ("Build it", None)
    finally:
        place.run("rm", "unlucky", "--force")


def test_a_target_that_fits_nothing_or_several_tasks_is_not_guessed(
    place: World, tmp_path: Path
) -> None:
    other = make_repository(tmp_path / "another")
    claude = _program(tmp_path / "claude", VERSION + "exit 1\n")  # no session is needed here
    place.environment["CLAUDEDO_CLAUDE"] = str(claude)
    try:
        for repository in (place.repository, other):
            place.run("start", f"twin@{repository}", "--trust", check=False)
        _refused(place, ["send", "nobody", "hello"], 4, "no task 'nobody'; there are: twin")
        words = "'twin' could be: .*another/twin.*|'twin' could be: .*repository/twin.*"
        _refused(place, ["send", "twin", "hello"], 4, words, cwd=tmp_path)
        place.run("send", "another/twin", "hello", cwd=tmp_path)
        place.run("send", "twin", "hello", cwd=other)  # where one stands, it is clear
        assert [len(place.json("thread", f"{w}/twin")) for w in ("another", "repository")] == [2, 0]
    finally:
        for workspace in ("another", "repository"):
            place.run("rm", f"{workspace}/twin", "--force", check=False)
        place.environment["CLAUDEDO_CLAUDE"] = str(place.claude)


def test_a_message_without_text_or_above_the_limit_is_refused_and_the_limit_itself_passes(
    place: World, tmp_path: Path
) -> None:
    long, binary = tmp_path / "long.txt", tmp_path / "image.png"
    binary.write_bytes(b"\x89PNG\xff")
    place.environment["CLAUDEDO_CLAUDE"] = str(_program(tmp_path / "claude", VERSION + "exit 1\n"))
    try:
        place.run("start", "task", check=False)
        _refused(place, ["send", "task", ""], 2, "message is empty: say something, or name a file")
        for file, says in ((long, "262,145 bytes; at most 262,144"), (binary, "is not UTF-8")):
            long.write_text("é" * (LIMIT // 2) + "x")
            _refused(place, ["send", "task", "--message-file", str(file)], 2, says)
        _refused(place, ["send", "task", "--message-file", "nowhere"], 2, "nowhere cannot be read")
        assert place.json("thread", "task") == []
        long.write_text("é" * (LIMIT // 2))
        place.run("send", "task", "--message-file", str(long))
        assert place.json("thread", "task")[0]["body"] == "é" * (LIMIT // 2)
    finally:
        place.run("rm", "task", "--force", check=False)
        place.environment["CLAUDEDO_CLAUDE"] = str(place.claude)


# Where the state is


def test_a_damaged_or_newer_database_is_named_and_left_as_it_is(
    own_state: tuple[World, Path],
) -> None:
    world, state = own_state
    state.mkdir()
    database = state / "claudedo.db"
    database.write_bytes(b"this is no database " * 500)
    _refused(world, ["ls"], 1, "claudedo.db: .* is damaged; .*Move it away .*or restore a copy")
    assert database.read_bytes() == b"this is no database " * 500
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    _refused(world, ["ls"], 1, "written by a newer claudedo .*Upgrade claudedo, or set CLAUDEDO_HO")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_port_that_is_taken_or_impossible_is_named(own_state: tuple[World, Path]) -> None:
    world, state = own_state
    state.mkdir()
    config = state / "config.toml"
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        config.write_text(f"port = {port}\n")
        _refused(world, ["ls"], 1, f"Port {port} is taken by another program; change `port` in .*")
    for text, says in (
        ("port = 99999\n", "port must be between 1 and 65535"),
        ("port = 'web'\n", "port must be of type int"),
        ("prot = 1\n", "unknown key 'prot'; known: claude, port"),
        ("port =\n", "config.toml cannot be read: Invalid value"),
    ):
        config.write_text(text)
        _refused(world, ["ls"], 2, says)
    config.write_text(f"port = {port}\n")  # nobody has it any more
    world.run("worker", "start")
    assert world.json("worker", "status")["port"] == port


def test_a_worker_that_is_still_ending_is_waited_for(own_state: tuple[World, Path]) -> None:
    world, state = own_state
    state.mkdir(mode=0o700)
    with (state / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(3, lock.close).start()
        world.run("worker", "start")
    assert world.json("worker", "status")["sessions"] == 0


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_a_state_directory_that_cannot_be_written_is_named(
    own_state: tuple[World, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world, state = own_state
    if kind == "read-only":
        state = _unwritable(state)
    else:
        state.write_text("mine")
        state = state if kind == "a file" else state / "below"
    monkeypatch.setitem(world.environment, "CLAUDEDO_HOME", str(state))
    for command in (["ls"], ["start", "task"]):
        _refused(world, command, 1, f"{re.escape(str(state))} cannot be used: .*CLAUDEDO_HOME")
    assert kind == "read-only" or own_state[1].read_text() == "mine"


def test_a_full_disk_refuses_messages_and_loses_none(own_state: tuple[World, Path]) -> None:
    world, state = own_state
    with _small_disk(state) as fill:
        place_task = _program(world.root / "quits", VERSION + "exit 1\n")
        world.environment["CLAUDEDO_CLAUDE"] = str(place_task)
        try:
            world.run("start", "task", check=False)
            world.run("send", "task", "before")
            fill()
            # The rest of what the database already owns may still take a few.
            sent = 1
            while (done := world.run("send", "task", "x" * 50_000, check=False)).returncode == 0:
                sent += 1
                assert sent < 50
            assert done.returncode in (1, 5)
            assert "disk is full" in _sentence(done)
            assert [m["body"][:6] for m in world.json("thread", "task")][:1] == ["before"]
            assert len(world.json("thread", "task")) == sent
            world.run("worker", "stop")
            _refused(world, ["ls"], 1, "(disk is full|No space left)")
            (state / "filler").unlink()
            assert len(world.json("thread", "task")) == sent
            world.run("send", "task", "after")
            world.run("rm", "task", "--force")
        finally:
            world.environment["CLAUDEDO_CLAUDE"] = str(world.claude)
            world.run("worker", "stop", check=False)


def test_a_worker_of_another_version_is_named_and_can_be_stopped(
    own_state: tuple[World, Path],
) -> None:
    world, _ = own_state
    world.run("worker", "start")
    newer = (
        "import claudedo.client, claudedo.cli.app\n"
        "claudedo.client.PROTOCOL_VERSION = 99\n"
        "claudedo.cli.app.main()\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", newer, *arguments],
            env=world.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = run("ls")
    assert done.returncode == 1
    assert re.search(
        r"worker is claudedo \S+ \(protocol 1\).*`claudedo worker stop`", _sentence(done)
    )
    stopped = run("worker", "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert world.run("worker", "status", check=False).returncode == 1


# With a real `claude`


@pytest.mark.one_claude
def test_a_very_long_state_directory_with_spaces_and_unicode_is_as_good_as_any(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = world.root / "mein Büro ☃ “home”" / ("x" * 220) / "it's here; $HOME `true` é (and there)"
    monkeypatch.setattr(world, "state", long)
    monkeypatch.setitem(world.environment, "CLAUDEDO_HOME", str(long))
    assert len(os.fsencode(long)) > 300
    world.start("backend")
    sent = world.send("backend", "MAIL-1")
    world.await_rung("backend", sent, "read")
    world.await_state("backend", "idle")
    world.await_rung("backend", world.send("backend", "MAIL-2"), "read")
    assert [len(world.requests_with(f"MAIL-{n}")) for n in (1, 2)] == [1, 1]
    world.run("rm", "backend")
    assert list((long / "sessions").iterdir()) == []


@pytest.mark.one_claude
def test_a_claude_without_a_login_is_never_said_to_have_read_a_message(world: World) -> None:
    del world.environment["ANTHROPIC_API_KEY"]
    world.run("start", "backend", "--permission-mode", "default")
    done = world.run(
        *("send", "backend", "hello", "--wait", "read", "--timeout", "3", "--json"), check=False
    )
    assert done.returncode == 6
    assert world.json("thread", "backend")[0]["receipts"]["read_at"] is None
    world.wait_for(lambda: "Not logged in" in world.run("logs", "backend").stdout, "no word of it")
    assert world.json("thread", "backend")[0]["receipts"]["read_at"] is None
    assert world.model.requests == ()


# Last, because it takes its minute beside all the others


@pytest.mark.one_claude
def test_a_claude_that_shows_nothing_is_left_to_the_person_after_a_minute(
    hanging: subprocess.Popen[str],
) -> None:
    _, said = hanging.communicate(timeout=2 * PATIENCE)
    assert hanging.returncode == 5
    assert "silent waits in a start-up dialog" in said
    assert "claudedo attach silent" in said


def _program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def _refused(
    world: World, arguments: list[str], status: int, says: str, *, cwd: Path | None = None
) -> None:
    """The command ends with `status`, and says so in one sentence in which `says` is found."""
    done = world.run(*arguments, check=False, cwd=cwd)
    assert done.returncode == status, done.stderr
    assert re.search(says, _sentence(done)), done.stderr


def _sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command that failed explains itself."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("claudedo: "), done.stderr
    assert "should not happen" not in lines[0]
    return lines[0]


def _unwritable(wanted: Path) -> Path:
    """A state directory that this user cannot make: root needs a file system that says no."""
    if os.geteuid() != 0:
        wanted.parent.chmod(0o500)
        return wanted
    if not Path("/proc/self").exists():
        pytest.skip("root can write everywhere here")
    return Path("/proc/claudedo")


@contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk of 3 MiB at `folder`; gives what fills it. Needs root and Linux."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")

    def fill() -> None:
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                return

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
