"""The holder of a one-shot run: a command with a pipe to read from and files to write to."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from claudedo.holding import (
    HolderError,
    HolderGoneError,
    HolderRefusedError,
    Kind,
    decode_error,
    decode_status,
    encode,
    encode_input,
    encode_json,
)
from claudedo_worker.holder_link import LaunchError
from claudedo_worker.pipes import PipedProcess
from claudedo_worker.terminal import Terminal
from tests.support.holders import (
    PATIENCE,
    Held,
    Holders,
    eventually,
    find_holder,
    holders,
    is_gone,
    python,
)

pytestmark = pytest.mark.anyio

CAT = ["cat"]
# Starts to read when it is told to, and says what it got up to the end of its input.
LATE_READER = """
import hashlib, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.write(1, b"up ")
signal.sigwait([signal.SIGUSR1])
size, seen = 0, hashlib.sha256()
while data := os.read(0, 65536):
    size += len(data)
    seen.update(data)
print(size, seen.hexdigest())
"""
SLOW_READER = """
import hashlib, os, time
size, turn, seen = 0, 0, hashlib.sha256()
while data := os.read(0, 65536):
    size, turn = size + len(data), turn + 1
    seen.update(data)
    if turn % 20 == 0:
        time.sleep(0.01)
print(size, seen.hexdigest())
"""
CLOSER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.close(0)
os.write(1, b"closed")
signal.sigwait([signal.SIGUSR1])
os._exit(6)
"""
DEAF = "import os, time; os.write(1, b'up '); time.sleep(60)"
HARD_OF_HEARING = """
import os, signal, subprocess, sys, time
for number in %s:
    signal.signal(number, signal.SIG_IGN)
other = subprocess.Popen(["sleep", "60"])
os.write(1, b"%%d " %% other.pid)
while True:
    time.sleep(1)
"""


@pytest.fixture
def started() -> Iterator[Holders]:
    with holders() as factory:
        yield factory


def one_shot(started: Holders, argv: list[str], **changes: Any) -> dict[str, Any]:
    """The specification of a one-shot run, which has no window."""
    spec = started.spec(argv)
    name = Path(spec["socket"]).stem
    del spec["rows"], spec["cols"]
    files = {key: str(started.directory / f"{name}.{key}") for key in ("output", "errors")}
    return spec | {"files": files} | changes


def start(started: Holders, argv: list[str], **changes: Any) -> Held:
    spec = one_shot(started, argv, **changes)
    answer = started.run(spec)
    assert "error" not in answer, answer
    return Held(spec, answer["holder_pid"], answer["pid"])


def written(held: Held, name: str = "output") -> bytes:
    return Path(held.spec["files"][name]).read_bytes()


def await_written(held: Held, text: bytes) -> None:
    eventually(lambda: text in written(held), f"{text!r} is written")


@asynccontextmanager
async def connected(held: Held) -> AsyncIterator[PipedProcess]:
    """A connection, for as long as a test may take."""
    with anyio.fail_after(PATIENCE):
        async with await PipedProcess.connect(held.socket) as process:
            yield process


def digest(data: bytes) -> bytes:
    return b"%d %s" % (len(data), hashlib.sha256(data).hexdigest().encode())


# ---------------------------------------------------------------- input and output


async def test_a_command_reads_what_is_written_and_writes_straight_to_its_files(
    started: Holders,
) -> None:
    spec = one_shot(started, ["sh", "-c", "cat; echo trouble >&2; exit 4"])
    with anyio.fail_after(PATIENCE):
        async with await PipedProcess.launch(sys.executable, find_holder(), spec) as process:
            started.pids.append(process.hello.holder_pid)
            assert process.hello.files == spec["files"]
            assert process.hello.input_open
            await process.write(b"one\n")
            await process.write(b"two\n")
            assert process.exited is None
            await process.finish_input()
            assert (await process.wait_exit()).code == 4
            assert not (await process.status()).input_open
            await process.leave()
    output, errors = (Path(spec["files"][name]) for name in ("output", "errors"))
    assert output.read_bytes() == b"one\ntwo\n"
    assert errors.read_bytes() == b"trouble\n"
    assert stat.S_IMODE(output.stat().st_mode) == stat.S_IMODE(errors.stat().st_mode) == 0o600
    assert json.loads(Path(spec["exit_file"]).read_text())["code"] == 4


async def test_twenty_megabytes_reach_a_slow_reader_whole_and_in_order(started: Holders) -> None:
    pieces = [os.urandom(size) for size in (1, 9_000_000, 100_000, 10_000_000, 4097)]
    held = start(started, python(SLOW_READER))
    async with connected(held) as process:
        for piece in pieces:
            await process.write(piece)
        await process.finish_input()
        assert (await process.wait_exit()).code == 0
    assert written(held).strip() == digest(b"".join(pieces))


async def test_a_write_that_nobody_waits_for_any_more_arrives_whole(started: Holders) -> None:
    first, second = os.urandom(6_000_000), os.urandom(100)
    held = start(started, python(LATE_READER))
    async with connected(held) as process:
        await_written(held, b"up")
        with anyio.move_on_after(0.3) as patience:
            await process.write(first)
        assert patience.cancelled_caught
        await process.signal("USR1")
        await process.write(second)
        await process.finish_input()
        assert (await process.wait_exit()).code == 0
    assert written(held).strip() == b"up " + digest(first + second)


async def test_the_input_ends_only_after_everything_queued(started: Holders) -> None:
    data = os.urandom(900_000)
    held = start(started, python(LATE_READER))
    async with connected(held) as process:
        await_written(held, b"up")
        await process.write(data)
        await process.finish_input()
        assert not (await process.status()).input_open
        await process.signal("USR1")
        assert (await process.wait_exit()).code == 0
    assert written(held).strip() == b"up " + digest(data)


async def test_what_is_written_after_the_end_of_input_is_refused(started: Holders) -> None:
    held = start(started, python(LATE_READER))
    async with connected(held) as process, connected(held) as other:
        await_written(held, b"up")
        await process.write(b"x" * 500_000)
        await process.finish_input()
        for writer in (process, other, process):
            with pytest.raises(HolderRefusedError, match="finished") as refusal:
                await writer.write(b"late")
            assert refusal.value.order is Kind.WORKER_INPUT
        await other.finish_input()
        await process.signal("USR1")
        await process.wait_exit()
        await process.finish_input()
    assert written(held).strip() == b"up " + digest(b"x" * 500_000)


async def test_a_command_that_does_not_read_holds_up_only_who_writes(started: Holders) -> None:
    held = start(started, python(DEAF))
    async with connected(held) as process, connected(held) as other:
        with anyio.move_on_after(0.5) as patience:
            await process.write(b"x" * 20_000_000)
        assert patience.cancelled_caught
        assert (await process.status()).input_open
        assert (await other.status()).exited is None
        async with anyio.create_task_group() as group:

            async def write_on() -> None:
                with pytest.raises(HolderRefusedError, match=r"has ended|closed its input"):
                    await process.write(b"more")

            group.start_soon(write_on)
            await anyio.sleep(0.05)
            await process.signal("TERM")
        assert (await process.wait_exit()).signal == signal.SIGTERM


async def test_a_command_may_close_its_input_early(started: Holders) -> None:
    held = start(started, python(CLOSER))
    async with connected(held) as process:
        await_written(held, b"closed")
        await process.write(b"nobody reads this")  # its holder only notices by trying
        with pytest.raises(HolderRefusedError, match="closed its input"):
            await process.write(b"nor this")
        status = await process.status()
        assert not status.input_open
        assert status.exited is None
        await process.finish_input()
        await process.signal("USR1")
        assert (await process.wait_exit()).code == 6


async def test_a_command_may_close_its_input_while_more_is_queued(started: Holders) -> None:
    held = start(started, python("import os, time; os.read(0, 10); os.close(0); time.sleep(60)"))
    async with connected(held) as process:
        with pytest.raises(HolderRefusedError, match="closed its input"):
            await process.write(b"x" * 5_000_000)
        assert (await process.status()).exited is None
        await process.signal("KILL")
        assert (await process.wait_exit()).signal == signal.SIGKILL


async def test_what_a_peer_did_not_send_whole_does_not_arrive(started: Holders) -> None:
    held = start(started, CAT)
    with held.connect() as vanishing:
        vanishing.send(
            encode(Kind.WORKER_INPUT, b"whole ") + encode(Kind.WORKER_INPUT, b"cut")[:-1]
        )
    async with connected(held) as process:
        await_written(held, b"whole ")
        await process.write(b"next")
        await process.finish_input()
        await process.wait_exit()
    assert written(held) == b"whole next"


async def test_a_full_disk_is_the_commands_own_trouble(started: Holders) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    files = {"output": "/dev/full", "errors": str(started.directory / "errors")}
    held = start(started, python("import os; os.read(0, 9); os.write(1, b'x')"), files=files)
    async with connected(held) as process:
        await process.finish_input()
        assert (await process.wait_exit()).code == 1
        await process.leave()
    assert b"No space left on device" in written(held, "errors")
    assert held.exit_file()["code"] == 1


async def test_both_files_may_be_one_that_exists_already(started: Holders) -> None:
    path = started.directory / "log"
    path.write_text("before\n")
    files = {"output": str(path), "errors": str(path)}
    held = start(started, ["sh", "-c", "echo out; echo err >&2; echo out"], files=files)
    held.exit_file()
    assert path.read_text() == "before\nout\nerr\nout\n"


# ---------------------------------------------------------------- the end, and what comes after


@pytest.mark.parametrize("code", [0, 1, 42])
async def test_the_exit_code_is_told_and_written(started: Holders, code: int) -> None:
    held = start(started, ["sh", "-c", f"read line; exit {code}"])
    async with connected(held) as process:
        await process.write(b"\n")
        ending = await process.wait_exit()
    assert (ending.code, ending.signal) == (code, None)
    assert held.exit_file() == {"code": code, "signal": None, "at": ending.at, "pid": held.pid}


async def test_a_signal_is_passed_on_and_told_as_the_end(started: Holders) -> None:
    held = start(started, CAT)
    async with connected(held) as process:
        await process.signal("INT")
        assert (await process.wait_exit()).signal == signal.SIGINT
        with pytest.raises(HolderRefusedError, match="has ended"):
            await process.write(b"late")


async def test_a_process_left_with_the_files_does_not_hide_the_end(started: Holders) -> None:
    held = start(started, ["sh", "-c", "cat <&0 & exit 3"])
    async with connected(held) as process:
        assert (await process.wait_exit()).code == 3


async def test_a_respawn_appends_to_the_same_files_and_has_an_input_of_its_own(
    started: Holders,
) -> None:
    held = start(started, python(DEAF))
    async with connected(held) as process:
        await_written(held, b"up ")
        with anyio.move_on_after(0.3):
            await process.write(b"for the first only" * 200_000)
        with pytest.raises(HolderRefusedError, match="still running"):
            async with connected(held) as other:
                await other.respawn(CAT, held.spec["cwd"], {})
        await process.signal("KILL")
        await process.wait_exit()
        status = await process.respawn(["sh", "-c", 'cat; echo "$NAME"'], "/", {"NAME": "second"})
        assert status.pid == process.hello.pid != held.pid
        assert status.input_open
        assert process.exited is None
        await process.write(b"for ")
        await process.write(b"the ")
        await process.finish_input()
        assert (await process.wait_exit()).code == 0
        with pytest.raises(HolderRefusedError, match="cannot run no-such-command"):
            await process.respawn(["no-such-command"], "/", {})
        assert (await process.status()).exited == process.exited
    assert written(held) == b"up for the second\n"


async def test_the_holders_sudden_death_is_the_end_of_the_input(started: Holders) -> None:
    held = start(started, ["sh", "-c", "cat; echo the end"])
    async with connected(held) as process:
        await process.write(b"before ")
        await_written(held, b"before ")
        os.kill(held.holder_pid, signal.SIGKILL)
        with pytest.raises(HolderGoneError):
            await process.wait_exit()
        with pytest.raises(HolderGoneError):
            await process.write(b"x")
        assert process.lost
        assert process.exited is None
    eventually(lambda: is_gone(held.pid), "the command has ended")
    assert written(held) == b"before the end\n"
    held.socket.unlink()


async def test_ending_the_holder_lets_the_command_finish_by_itself(started: Holders) -> None:
    held = start(started, ["sh", "-c", "cat; echo the end; exit 5"])
    async with connected(held) as process:
        await process.write(b"before ")
        os.kill(held.holder_pid, signal.SIGTERM)
        assert (await process.wait_exit()).code == 5
    assert written(held) == b"before the end\n"
    assert held.exit_file()["code"] == 5
    eventually(lambda: is_gone(held.holder_pid), "the holder is gone")
    assert not held.socket.exists()


@pytest.mark.parametrize(
    ("ignored", "ending"), [("[]", signal.SIGTERM), ("[signal.SIGTERM]", signal.SIGKILL)]
)
async def test_ending_the_holder_ends_the_group_of_a_command_that_goes_on(
    started: Holders, ignored: str, ending: signal.Signals
) -> None:
    held = start(started, python(HARD_OF_HEARING % ignored))
    async with connected(held) as process:
        await_written(held, b" ")
        os.kill(held.holder_pid, signal.SIGTERM)
        with pytest.raises(HolderError):
            while True:
                await process.write(b"taken only until the holder has heard")
        assert (await process.wait_exit()).signal == ending
    eventually(lambda: is_gone(int(written(held))), "what it started has ended, too")


async def test_holder_and_command_survive_the_death_of_the_workers_process_group(
    started: Holders,
) -> None:
    spec = one_shot(started, CAT)
    worker_code = (
        "import asyncio, json, pathlib, sys\n"
        "from claudedo_worker.pipes import PipedProcess\n"
        "async def main():\n"
        "    holder, spec = sys.argv[1], json.loads(sys.argv[2])\n"
        "    process = await PipedProcess.launch(sys.executable, holder, spec)\n"
        "    await process.write(b'from the first worker, ')\n"
        "    print(process.hello.holder_pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", worker_code, str(find_holder()), json.dumps(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as worker:
        assert worker.stdout is not None
        started.pids.append(int(worker.stdout.readline()))
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(PATIENCE)
    held = Held(spec, started.pids[-1], 0)
    async with connected(held) as process:
        assert process.hello.input_open
        await process.write(b"from the second")
        await process.finish_input()
        assert (await process.wait_exit()).code == 0
    assert written(held) == b"from the first worker, from the second"


async def test_the_end_is_known_to_a_worker_that_comes_after_it(started: Holders) -> None:
    held = start(started, ["sh", "-c", "exit 7"])
    held.exit_file()
    async with connected(held) as process:
        assert process.exited is not None
        assert (await process.wait_exit()).code == 7


# ---------------------------------------------------------------- what the command is given


async def test_the_command_leads_a_session_without_a_terminal_and_inherits_nothing(
    started: Holders,
) -> None:
    code = """
import os, stat
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
try: os.open("/dev/tty", os.O_RDWR)
except OSError: print("no terminal")
print("leader", os.getsid(0) == os.getpgid(0) == os.getpid())
print("open", [fd for fd in range(64) if is_open(fd)], os.getcwd())
print("pipe", stat.S_ISFIFO(os.fstat(0).st_mode), [os.get_blocking(fd) for fd in range(3)])
"""
    held = start(started, python(code))
    held.exit_file()
    assert written(held).decode().splitlines() == [
        "no terminal",
        "leader True",
        f"open [0, 1, 2] {held.spec['cwd']}",
        "pipe True [True, True, True]",
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers")
async def test_orphans_of_the_commands_tree_land_at_the_holder(started: Holders) -> None:
    held = start(started, ["sh", "-c", "(setsid sleep 60 & echo orphan $!) ; exec cat"])
    await_written(held, b"\n")
    orphan = psutil.Process(int(written(held).split()[1]))
    eventually(lambda: orphan.ppid() == held.holder_pid, "the orphan is the holder's")
    orphan.kill()
    eventually(lambda: not psutil.pid_exists(orphan.pid), "the orphan was reaped")


async def test_a_holder_of_a_one_shot_run_is_small(started: Holders) -> None:
    start(started, ["true"])  # the first one on a machine fills the cache of compiled code
    held = start(started, python(SLOW_READER))
    holder = psutil.Process(held.holder_pid)
    assert holder.memory_info().rss < 12 << 20
    async with connected(held) as process:
        await process.write(bytes(20_000_000))
        assert holder.memory_info().rss < 18 << 20  # up to 2 MiB waits, and a frame on its way


# ---------------------------------------------------------------- other sorts of orders, and peers


async def test_orders_for_a_terminal_are_refused_in_a_sentence(started: Holders) -> None:
    held = start(started, CAT)
    with held.connect() as client:
        assert (client.hello.rows, client.hello.cols) == (0, 0)
        with pytest.raises(HolderRefusedError, match=r"one-shot run.*`claudedo logs`"):
            client.attach(24, 80)
        orders = [
            encode_json(Kind.RESIZE, rows=24, cols=80),
            encode(Kind.SNAPSHOT),
            encode_input(Kind.PERSON_INPUT, b"typed"),
        ]
        for order in orders:
            client.send(order)
            kind, payload = client.receive()
            assert kind is Kind.ERROR
            assert decode_error(payload).order == Kind(order[:1])
            assert "without a terminal" in str(decode_error(payload))
        assert client.status().exited is None
    async with connected(held) as process:
        await process.finish_input()
        await process.wait_exit()
    assert written(held) == b""


async def test_each_sort_of_connection_takes_only_its_own_sort_of_holder(started: Holders) -> None:
    piped, on_terminal = start(started, CAT), started.start(CAT)
    with pytest.raises(HolderError, match="has a one-shot run, not a terminal"):
        await Terminal.connect(piped.socket)
    with pytest.raises(HolderError, match="has a terminal, not a one-shot run"):
        await PipedProcess.connect(on_terminal.socket)
    with on_terminal.connect() as client:
        client.send(encode(Kind.FINISH_INPUT))
        kind, payload = client.receive()
        assert kind is Kind.ERROR
        assert "cannot be finished" in str(decode_error(payload))
        assert client.status().input_open


def test_the_status_of_a_holder_that_knows_only_terminals_is_understood() -> None:
    fields = {
        "protocol": 1,
        "holder_pid": 1,
        "pid": 2,
        "started_at": 3.0,
        "rows": 24,
        "cols": 80,
        "exited": None,
        "last_input_at": None,
        "watchers": 0,
    }
    status = decode_status(json.dumps(fields).encode())
    assert status.input_open
    assert status.files is None
    assert decode_error(b'{"error": "no"}').order is None


def test_what_cannot_be_started_is_said_in_a_sentence_and_leaves_nothing(started: Holders) -> None:
    fifo, missing = started.directory / "fifo", started.directory / "missing" / "file"
    os.mkfifo(fifo)
    good = str(started.directory / "good")
    wrong: dict[str, dict[str, object]] = {
        f"cannot write {missing}: No such file": {"output": good, "errors": str(missing)},
        f"cannot write {started.directory}: Is a": {
            "output": str(started.directory),
            "errors": good,
        },
        f"cannot write {fifo}: ": {"output": str(fifo), "errors": good},
        "files must name output and errors": {"output": good},
        "null": {"output": good, "errors": "a\0b"},
    }
    for sentence, files in wrong.items():
        answer = started.run(one_shot(started, ["true"], files=files))
        assert sentence in answer["error"]
    answer = started.run(one_shot(started, ["true"], files=[good, good]))
    assert "files must name output and errors" in answer["error"]
    answer = started.run(one_shot(started, ["no-such-command"]))
    assert "cannot run no-such-command: No such file" in answer["error"]
    assert list(started.directory.glob("*.sock")) == []


async def test_the_worker_hears_why_nothing_could_be_launched(started: Holders) -> None:
    files = {name: str(started.directory / "missing" / name) for name in ("output", "errors")}
    with pytest.raises(LaunchError, match=r"cannot write .*/missing/output: No such file"):
        await PipedProcess.launch(
            sys.executable, find_holder(), one_shot(started, CAT, files=files)
        )
    with pytest.raises(HolderGoneError, match="no holder answers"):
        await PipedProcess.connect(started.directory / "nobody")
