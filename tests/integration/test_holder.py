"""The holder, met the way the worker and the CLI meet it: real processes, terminals and sockets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import psutil
import pytest

from claudedo.holding import (
    HolderClient,
    HolderGoneError,
    HolderRefusedError,
    Kind,
    decode_error,
    decode_status,
    encode,
    encode_json,
)
from claudedo_worker.holder_link import LaunchError
from claudedo_worker.terminal import Terminal, screen
from tests.support.holders import (
    PATIENCE,
    Holders,
    eventually,
    find_holder,
    holders,
    is_gone,
    python,
    read_to_end,
    read_until,
)

CAT = ["cat"]
RAW_COUNTER = """
import hashlib, os, tty
tty.setraw(0)
os.write(1, b"ready")
left, seen = %d, hashlib.sha256()
while left:
    data = os.read(0, min(left, 65536))
    left -= len(data)
    seen.update(data)
os.write(1, b"seen " + seen.hexdigest().encode() + b" end")
"""
FLOOD = """
import os
left = %d
while left:
    left -= os.write(1, b"x" * min(left, 65536))
"""
SIZES = """
import os, signal
def show(*_):
    cols, rows = os.get_terminal_size()
    os.write(1, b"size %d %d\\n" % (rows, cols))
signal.signal(signal.SIGWINCH, show)
show()
while True:
    signal.pause()
"""


@pytest.fixture
def started() -> Iterator[Holders]:
    with holders() as factory:
        yield factory


# ---------------------------------------------------------------- output, input, watchers


def test_a_person_sees_what_they_type_and_what_the_command_answers(started: Holders) -> None:
    held = started.start(["sh", "-c", "read line; echo got $line; sleep 60"])
    with held.attach() as person:
        person.send_input(b"hello\r")
        assert b"got hello" in read_until(person, b"got hello\r\n")


def test_every_watcher_sees_the_same(started: Holders) -> None:
    held = started.start(CAT)
    with held.attach() as first, held.attach() as second, held.attach(read_only=True) as third:
        first.send_input(b"to all\r")
        for watcher in (first, second, third):
            read_until(watcher, b"to all\r\nto all\r\n")
        with held.connect() as other:
            assert other.hello.watchers == 3


def test_a_read_only_watcher_can_neither_type_nor_resize_nor_signal(started: Holders) -> None:
    held = started.start(CAT)
    with held.attach(50, 50, read_only=True) as watcher, held.connect() as other:
        watcher.send_input(b"not me\r")
        watcher.resize(60, 60)
        with pytest.raises(HolderRefusedError, match="read-only"):
            watcher.signal("TERM")
        other.send_input(b"but me\r")
        assert b"not me" not in read_until(watcher, b"but me\r\nbut me\r\n")
        status = other.status()
        assert (status.rows, status.cols) == (24, 80)


def test_a_late_watcher_is_shown_what_was_there_before(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo early; exec cat"])
    with held.attach() as first:
        read_until(first, b"early")
    with held.attach() as late:
        read_until(late, b"early")
    with held.connect() as other:
        assert b"early" in other.snapshot()


def test_the_scrollback_keeps_the_newest_output_and_the_modes_of_the_rest(started: Holders) -> None:
    code = r"""
import os
os.write(1, b"\x1b[?2004h\x1b[?25l" + b"\n" * 10 + b"oldest")
for number in range(30000):
    os.write(1, b"line %d\n" % number)
"""
    held = started.start(python(code), scrollback=100_000)
    with held.attach() as watcher:
        read_to_end(watcher)
    with held.connect() as other:
        kept = other.snapshot()
    assert kept.startswith((b"\x1b[?2004h\x1b[?25l", b"\x1b[?25l\x1b[?2004h"))
    assert b"oldest" not in kept
    assert kept.endswith(b"line 29999\r\n")
    assert 100_000 <= len(kept) < 100_000 + 100_000


def test_a_replay_asks_the_terminal_nothing_and_notifies_nobody(started: Holders) -> None:
    code = r"import os; os.write(1, b'a\x1b[cb\x1b[6nc\x1b]11;?\x07d\x1b[>0qe\x1b]9;done\x07f')"
    held = started.start(python(code))
    held.exit_file()
    with held.attach() as late:
        assert read_to_end(late)[0] == b"abcdef"


def test_only_what_a_person_types_counts_as_typed(started: Holders) -> None:
    held = started.start(CAT)
    with held.connect() as client:
        client.send(encode(Kind.WORKER_INPUT, b"by the worker\r"))
        client.send_input(b"\x1b[?62;22c")  # a terminal's answer
        client.send_input(b"\x1b[I")  # the window got the focus
        client.send_input(b"\x1b[<35;10;10M")  # the mouse moved
        assert client.status().last_input_at is None
        before = time.time()
        client.send_input(b"a")
        typed_at = client.status().last_input_at
    assert typed_at is not None
    assert before - 1 <= typed_at <= time.time() + 1


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_input_of_any_size_arrives_whole_and_in_order(started: Holders, size: int) -> None:
    data = os.urandom(size)
    held = started.start(python(RAW_COUNTER % size))
    with held.attach() as person:
        read_until(person, b"ready")
        person.send_input(data)
        seen = read_until(person, b" end")
    assert hashlib.sha256(data).hexdigest().encode() in seen


def test_a_child_that_does_not_read_holds_up_only_who_types(started: Holders) -> None:
    held = started.start(python("import time, tty; tty.setraw(0); print('up'); time.sleep(60)"))
    with held.attach(read_only=True) as watcher, held.connect() as typist, held.connect() as other:
        read_until(watcher, b"up")
        typist.connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            typist.send_input(b"x" * 20_000_000)
        assert other.status().exited is None
        other.signal("KILL")
        assert read_to_end(watcher)[1].signal == signal.SIGKILL


# ---------------------------------------------------------------- window size


def test_the_child_sees_the_size_of_the_window(started: Holders) -> None:
    held = started.start(python(SIZES), rows=30, cols=100)
    with held.attach(33, 110) as person:
        read_until(person, b"size 33 110")
        person.resize(40, 120)
        read_until(person, b"size 40 120")
        with held.connect() as other:
            assert (other.hello.rows, other.hello.cols) == (40, 120)


def test_attaching_at_the_same_size_makes_the_child_draw_again(started: Holders) -> None:
    held = started.start(python(SIZES), rows=30, cols=100)
    with held.attach(30, 100, read_only=True) as watcher:
        read_until(watcher, b"size 30 100")
        with held.attach(30, 100):
            read_until(watcher, b"size 30 99")
            read_until(watcher, b"size 30 100")


# ---------------------------------------------------------------- the end of the child


@pytest.mark.parametrize("code", [0, 1, 42, 143])
def test_the_exit_code_is_told_and_written(started: Holders, code: int) -> None:
    held = started.start(["sh", "-c", f"read line; exit {code}"])
    with held.attach() as watcher:
        watcher.send_input(b"\r")
        ending = read_to_end(watcher)[1]
    assert (ending.code, ending.signal, ending.shell_code) == (code, None, code)
    written = held.exit_file()
    assert written == {"code": code, "signal": None, "at": ending.at, "pid": held.pid}
    assert stat.S_IMODE(Path(held.spec["exit_file"]).stat().st_mode) == 0o600


def test_a_signal_is_passed_on_and_told_as_the_end(started: Holders) -> None:
    held = started.start(CAT)
    with held.attach() as watcher:
        with held.connect() as other:
            other.signal("TERM")
        ending = read_to_end(watcher)[1]
    assert (ending.code, ending.signal, ending.shell_code) == (None, 15, 143)
    with held.connect() as late, pytest.raises(HolderRefusedError, match="has ended"):
        late.signal("TERM")


def test_an_attach_that_crosses_the_end_still_gets_the_whole_output(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo last words"])
    with held.connect() as client:
        os.kill(held.holder_pid, signal.SIGSTOP)  # so that both wait for it at once
        client.send(encode_json(Kind.ATTACH, rows=24, cols=80, read_only=True))
        eventually(lambda: is_gone(held.pid), "the child ended")
        os.kill(held.holder_pid, signal.SIGCONT)
        frames = [client.receive() for _ in range(3)]
        while frames[-1][0] is not Kind.EXITED or frames[-2][0] is not Kind.OUTPUT:
            frames.append(client.receive())
    answered = [kind for kind, _ in frames].index(Kind.STATUS)
    replayed = b"".join(payload for kind, payload in frames[answered:] if kind is Kind.OUTPUT)
    assert replayed == b"last words\r\n"


@pytest.mark.parametrize("name", ["STOP", "TSTP"])
def test_a_child_that_stops_goes_on_because_no_shell_could_resume_it(
    started: Holders, name: str
) -> None:
    held = started.start(CAT)
    with held.attach() as person:
        person.signal(name)
        person.send_input(b"on it goes\r")
        read_until(person, b"on it goes\r\non it goes\r\n")


@pytest.mark.parametrize("key", [b"\x1a", b"\x1b[122;5u"])
def test_a_program_that_suspends_itself_on_ctrl_z_comes_back(started: Holders, key: bytes) -> None:
    code = """
import os, signal, tty
tty.setraw(0)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
os.write(1, b"up")
os.read(0, 99)
os.kill(os.getpid(), signal.SIGTSTP)  # as Claude Code does; nothing stops a session's leader
os.write(1, b"suspended")
signal.sigwait([signal.SIGCONT])
os.write(1, b"resumed")
"""
    held = started.start(python(code))
    with held.attach() as person:
        read_until(person, b"up")
        person.send_input(key)
        assert b"suspendedresumed" in read_to_end(person)[0]


def test_an_unknown_signal_is_refused(started: Holders) -> None:
    with started.start(CAT).connect() as client:
        for name in ("NONSENSE", "_DFL", "", "TERM; rm"):
            with pytest.raises(HolderRefusedError, match="no signal"):
                client.signal(name)


@pytest.mark.parametrize("size", [10, 5_000, 60_000, 700_000])
def test_output_right_before_the_end_is_never_lost(started: Holders, size: int) -> None:
    for _ in range(5):
        held = started.start(python(FLOOD % size), linger=60)
        with held.attach() as watcher:
            output, ending = read_to_end(watcher)
        assert (len(output), ending.code) == (size, 0)


def test_a_process_left_on_the_terminal_does_not_hide_the_end(started: Holders) -> None:
    held = started.start(["sh", "-c", "trap '' HUP; sleep 20 & exit 3"])
    with held.attach() as watcher:
        assert read_to_end(watcher)[1].code == 3


def test_a_late_watcher_of_an_ended_child_gets_output_and_end(started: Holders) -> None:
    held = started.start(["sh", "-c", "echo last words; exit 7"])
    held.exit_file()
    with held.attach() as late:
        output, ending = read_to_end(late)
    assert output == b"last words\r\n"
    assert ending.code == 7
    assert late.hello.exited == ending


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers")
def test_orphans_of_the_childs_tree_land_at_the_holder_and_are_reaped(started: Holders) -> None:
    held = started.start(["sh", "-c", "(setsid sleep 1 & echo orphan $!) ; exec cat"])
    with held.attach() as watcher:
        orphan = int(read_until(watcher, b"\r\n").split()[1])
    process = psutil.Process(orphan)
    eventually(lambda: process.ppid() == held.holder_pid, "the orphan is the holder's")
    eventually(lambda: not psutil.pid_exists(orphan), "the orphan was reaped")
    with held.connect() as other:
        assert other.hello.exited is None


def test_a_holder_nobody_orders_around_goes_after_its_time(started: Holders) -> None:
    held = started.start(["true"], linger=0.2)
    eventually(lambda: not held.socket.exists(), "the socket is removed")
    eventually(lambda: is_gone(held.holder_pid), "the holder is gone")
    assert held.exit_file()["code"] == 0


def test_leaving_is_refused_while_the_child_lives_and_removes_everything_after(
    started: Holders,
) -> None:
    held = started.start(["sh", "-c", "read line"])
    with held.connect() as client:
        with pytest.raises(HolderRefusedError, match="still running"):
            client.leave()
        client.send_input(b"\r")
        held.exit_file()
        client.leave()
    assert not held.socket.exists()
    eventually(lambda: is_gone(held.holder_pid), "the holder is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ending_the_holder_hangs_up_the_child(started: Holders, number: signal.Signals) -> None:
    held = started.start(CAT)
    with held.attach() as watcher:
        os.kill(held.holder_pid, number)
        ending = read_to_end(watcher)[1]
    assert ending.signal == signal.SIGHUP
    assert held.exit_file()["signal"] == signal.SIGHUP
    eventually(lambda: is_gone(held.holder_pid), "the holder is gone")
    assert is_gone(held.pid)
    assert not held.socket.exists()


def test_a_child_that_ignores_the_hang_up_is_terminated(started: Holders) -> None:
    held = started.start(["sh", "-c", "trap '' HUP; echo up; while :; do sleep 0.1; done"])
    with held.attach() as watcher:
        read_until(watcher, b"up")
        os.kill(held.holder_pid, signal.SIGTERM)
        assert read_to_end(watcher)[1].signal == signal.SIGTERM


# ---------------------------------------------------------------- what the child is given


def test_the_child_leads_a_session_with_a_terminal_and_inherits_nothing(
    started: Holders,
) -> None:
    code = """
import os
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
os.close(os.open("/dev/tty", os.O_RDWR))
print("leader", os.getsid(0) == os.getpid() == os.tcgetpgrp(0))
print("open", [fd for fd in range(64) if is_open(fd)], os.getcwd(), "end")
"""
    extra, other = socket.socketpair()
    with extra, other:
        spec = started.spec(python(code))
        started.run(spec, pass_fds=[extra.fileno()])
    with HolderClient.connect(spec["socket"]) as client:
        client.attach(24, 200)
        output, _ = read_to_end(client)
    assert b"leader True" in output
    assert f"open [0, 1, 2] {spec['cwd']} end".encode() in output


def test_the_child_has_no_ignored_signals(started: Holders) -> None:
    held = started.start(["sh", "-c", "kill -PIPE $$; echo survived"])
    with held.attach() as watcher:
        assert read_to_end(watcher)[1].signal == signal.SIGPIPE


def test_the_child_has_exactly_the_given_environment_and_nobody_else_sees_it(
    started: Holders,
) -> None:
    secret = "only-in-memory-7f3a"
    environment = {"PATH": os.environ["PATH"], "KEY": secret}
    held = started.start(["sh", "-c", "env; exec cat"], env=environment)
    with held.attach() as watcher:
        output = read_until(watcher, secret.encode())
    assert b"HOME" not in output
    holder = psutil.Process(held.holder_pid)
    assert secret not in " ".join(holder.cmdline())
    files = [path for path in started.directory.iterdir() if path.is_file()]
    assert files
    assert not any(secret in path.read_text() for path in files)


def test_a_respawn_has_the_same_environment_and_the_asked_changes(started: Holders) -> None:
    show = ["sh", "-c", 'echo "[$KEPT] [$CHANGED] [$REMOVED]"']
    environment = {"PATH": os.environ["PATH"], "KEPT": "1", "CHANGED": "2", "REMOVED": "3"}
    held = started.start(show, env=environment)
    held.exit_file()

    async def respawn() -> None:
        async with await Terminal.connect(held.socket) as terminal:
            changes = {"CHANGED": "two", "REMOVED": None}
            status = await terminal.respawn(show, held.spec["cwd"], changes)
            assert status.pid != held.pid
            assert status.holder_pid == held.holder_pid
            with anyio.fail_after(PATIENCE):
                assert (await terminal.wait_exit()).code == 0
            assert await terminal.snapshot() == b"[1] [two] []\r\n"
            again = await terminal.respawn(show, held.spec["cwd"], {})
            with anyio.fail_after(PATIENCE):
                await terminal.wait_exit()
            assert await terminal.snapshot() == b"[1] [2] [3]\r\n"
            assert held.exit_file()["pid"] == again.pid

    anyio.run(respawn)


# ---------------------------------------------------------------- other processes and peers


def test_holder_and_child_survive_the_death_of_the_workers_process_group(started: Holders) -> None:
    spec = started.spec(CAT)
    worker_code = (
        "import subprocess, sys, time\n"
        "holder, spec = sys.argv[1:]\n"
        "command = [sys.executable, '-I', '-S', holder]\n"
        "done = subprocess.run(command, input=spec.encode(), stdout=subprocess.PIPE)\n"
        "sys.stdout.buffer.write(done.stdout)\n"
        "sys.stdout.flush()\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", worker_code, str(find_holder()), json.dumps(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as worker:
        assert worker.stdout is not None
        answer = json.loads(worker.stdout.readline())
        started.pids.append(answer["holder_pid"])
        assert psutil.Process(worker.pid).children() == []
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(PATIENCE)
    with HolderClient.connect(spec["socket"]) as client:
        client.attach(24, 80)
        client.send_input(b"still here\r")
        read_until(client, b"still here\r\nstill here\r\n")
        assert client.hello.pid == answer["pid"]


def test_twenty_megabytes_pass_and_a_stalled_watcher_is_dropped(started: Holders) -> None:
    size = 20_000_000
    held = started.start(["sh", "-c", 'read line; exec "$@"', "sh", *python(FLOOD % size)])
    with held.attach(read_only=True) as stalled, held.attach() as reading:
        assert reading.status().watchers == 2
        reading.send_input(b"\r")
        output, ending = read_to_end(reading)
        assert (output.count(b"x"), ending.code) == (size, 0)
        received = 0
        with pytest.raises(HolderGoneError):
            while True:
                kind, payload = stalled.receive()
                assert kind is Kind.OUTPUT
                received += len(payload)
        assert received < size


def test_a_holder_is_small(started: Holders) -> None:
    started.start(["true"])  # the first one on a machine fills the cache of compiled code
    held = started.start(["sh", "-c", 'read line; exec "$@"', "sh", *python(FLOOD % 20_000_000)])
    process = psutil.Process(held.holder_pid)
    assert process.memory_info().rss < 12 << 20
    with held.attach() as watcher:
        watcher.send_input(b"\r")
        read_to_end(watcher)
    assert process.memory_info().rss < 16 << 20  # a full scrollback and its copy come on top


MALFORMED = {
    "an unknown type": struct.pack(">cI", b"z", 0),
    "a huge frame": struct.pack(">cI", b"I", 0xFFFFFFFF),
    "no JSON": encode(Kind.ATTACH, b"\xff\xfe"),
    "not an object": encode(Kind.ATTACH, b"[]"),
    "deep JSON": encode(Kind.ATTACH, b"[" * 200_000),
    "an odd size": encode_json(Kind.RESIZE, rows=0, cols="80"),
    "a huge size": encode_json(Kind.RESIZE, rows=10**30, cols=80),
    "no command": encode_json(Kind.RESPAWN, argv=[], cwd=3),
    "someone else's protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("nonsense", MALFORMED.values(), ids=MALFORMED.keys())
def test_only_the_peer_that_talks_nonsense_is_dropped(started: Holders, nonsense: bytes) -> None:
    held = started.start(CAT)
    with held.attach() as good, held.connect() as bad:
        bad.send(nonsense)
        with pytest.raises(HolderGoneError):
            while True:
                bad.receive()
        good.send_input(b"unharmed\r")
        read_until(good, b"unharmed\r\nunharmed\r\n")


def test_half_frames_and_vanishing_peers_harm_nobody(started: Holders) -> None:
    held = started.start(CAT)
    with held.attach() as good:
        for cut in range(1, 12):
            with held.connect() as vanishing:
                vanishing.send(encode(Kind.PERSON_INPUT, b"123456789")[:cut])
        whole = encode(Kind.PERSON_INPUT, b"slowly\r")
        with held.connect() as slow:
            for start in range(len(whole)):
                slow.send(whole[start : start + 1])
            assert b"123" not in read_until(good, b"slowly\r\nslowly\r\n")


def test_answers_come_in_the_order_of_the_questions(started: Holders) -> None:
    held = started.start(CAT)
    with held.connect() as client:
        orders = encode(Kind.STATUS) + encode(Kind.LEAVE) + encode(Kind.SNAPSHOT)
        client.send(orders + encode_json(Kind.SIGNAL, signal="WINCH"))
        answers = [client.receive() for _ in range(4)]
    assert [kind for kind, _ in answers] == [Kind.STATUS, Kind.ERROR, Kind.SNAPSHOT, Kind.STATUS]
    assert decode_status(answers[0][1]).pid == held.pid
    assert "still running" in str(decode_error(answers[1][1]))


# ---------------------------------------------------------------- starting


def test_what_cannot_be_started_is_said_in_a_sentence_and_leaves_nothing(started: Holders) -> None:
    missing = str(started.directory / "missing")
    wrong: dict[str, dict[str, object]] = {
        "cannot run no-such-command: No such file": {"argv": ["no-such-command"]},
        f"cannot enter {missing}: No such file": {"cwd": missing},
        "too long": {"socket": str(started.directory / ("long" * 40))},
        "cannot listen on": {"socket": f"{missing}/s.sock"},
        "rows and cols": {"rows": 0},
        "argv": {"argv": []},
        "env": {"env": None},
    }
    for sentence, change in wrong.items():
        spec = started.spec(["true"]) | change
        answer = started.run(spec)
        assert sentence in answer["error"]
        assert list(started.directory.glob("*.sock")) == []


def test_a_living_holders_socket_is_not_taken(started: Holders) -> None:
    held = started.start(CAT)
    answer = started.run(started.spec(CAT, socket=held.spec["socket"]))
    assert "already lives" in answer["error"]
    with held.attach() as client:
        client.send_input(b"mine\r")
        read_until(client, b"mine\r\nmine\r\n")


def test_a_dead_holders_socket_is_replaced_and_another_file_is_not(started: Holders) -> None:
    path = started.directory / "taken.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    held = started.start(CAT, socket=str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with held.connect() as client:
        assert client.hello.pid == held.pid
    precious = started.directory / "precious"
    precious.write_text("data")
    assert "is no socket" in started.run(started.spec(CAT, socket=str(precious)))["error"]
    assert precious.read_text() == "data"


# ---------------------------------------------------------------- the worker's side


@pytest.mark.anyio
async def test_the_worker_launches_types_reads_the_screen_and_sees_the_end(
    started: Holders,
) -> None:
    spec = started.spec(
        ["sh", "-c", r"printf '\033[2mdim\033[m \033[31mred\033[m '; read x; exit 5"]
    )
    async with await Terminal.launch(sys.executable, find_holder(), spec) as terminal:
        started.pids.append(terminal.hello.holder_pid)
        with anyio.fail_after(PATIENCE):
            while "red" not in screen(await terminal.snapshot(), 24, 80).text:
                await anyio.sleep(0.02)
            drawn = screen(await terminal.snapshot(), 24, 80)
            assert drawn.lines[0] == "dim red"
            assert drawn.cursor == (0, 8)
            assert drawn.cells[0][0].dim
            assert drawn.cells[0][4].fg == "red"
            await terminal.resize(30, 90)
            assert (await terminal.status()).rows == 30
            assert terminal.exited is None
            await terminal.write(b"\r")
            assert (await terminal.wait_exit()).code == 5
            assert terminal.exited is not None
            assert (await terminal.status()).last_input_at is None
            await terminal.leave()
            with pytest.raises(HolderGoneError):
                await terminal.status()


@pytest.mark.anyio
async def test_the_worker_can_follow_the_output(started: Holders) -> None:
    held = started.start(["sh", "-c", "read x; seq 1 20000"])
    async with await Terminal.connect(held.socket) as terminal:
        await terminal.attach(24, 80)
        async with await Terminal.connect(held.socket) as other:
            await other.write(b"\r")
        with anyio.fail_after(PATIENCE):
            output = b"".join([data async for data in terminal.output()])
    assert output.endswith(b"\r\n20000\r\n")


@pytest.mark.anyio
async def test_the_worker_hears_why_nothing_could_be_launched(started: Holders) -> None:
    with pytest.raises(LaunchError, match="cannot run no-such-command"):
        await Terminal.launch(sys.executable, find_holder(), started.spec(["no-such-command"]))
    with pytest.raises(HolderGoneError, match="no holder answers"):
        await Terminal.connect(started.directory / "nobody")


@pytest.mark.anyio
async def test_a_lost_holder_is_an_error_for_everyone_who_waits(started: Holders) -> None:
    held = started.start(CAT)
    async with await Terminal.connect(held.socket) as terminal:
        with pytest.raises(HolderRefusedError, match="still running"):
            await terminal.leave()
        os.kill(held.holder_pid, signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            with pytest.raises(HolderGoneError):
                await terminal.wait_exit()
            with pytest.raises(HolderGoneError):
                await terminal.write(b"x")
        assert terminal.lost
        assert terminal.exited is None
    held.socket.unlink()


# ---------------------------------------------------------------- drawing

DRAWINGS = {
    "keyboard settings are no attributes": (b"\x1b[>4;2ma\x1b[>1ub\x1b[<uc", "abc"),
    "private SGR": (b"\x1b[?4ma", "a"),
    "too many parameters": (b"\x1b[1;2;3Ha\x1b[3;4Jb", " ab"),
    "cursor shape": (b"\x1b[2 qa", "a"),
    "strings": (b"\x1bP+q544e\x1b\\a\x1b]8;;http://x\x07b\x1b]0;t\x1b\\c\x1b]8;;", "abc"),
    "the other screen is empty": (b"before\x1b[?1049hafter", "after"),
    "save and restore": (b"ab\x1b[s\x1b[1;9Hc\x1b[ud", "abd     c"),
    "colons where none belong": (b"\x1b[1:2Ha\x1b[?0;2Kb", " ab"),
    "synchronised output": (b"\x1b[?2026ha\x1b[?2026l", "a"),
    "a cut character": (b"\xa4a", "\ufffda"),
    "wide characters": ("你好!".encode(), "你好!"),
    "only what follows a clearing": (b"gone\x1b[2J\x1b[Hhere", "here"),
    "scrolling": (b"one\r\ntwo\x1b[1S\x1b[H", "two"),
}


@pytest.mark.parametrize(("output", "line"), DRAWINGS.values(), ids=DRAWINGS.keys())
def test_a_snapshot_is_drawn_as_a_terminal_shows_it(output: bytes, line: str) -> None:
    drawn = screen(output, 5, 20)
    assert drawn.lines[0] == line
    assert not drawn.cells[0][0].underline


def test_dim_is_told_from_normal_whatever_the_colours_say() -> None:
    drawn = screen(b"\x1b[2ma\x1b[22mb\x1b[38;5;2mc\x1b[38:2::2:2:2md\x1b[0;2me\x1b[mf", 2, 10)
    assert [cell.dim for cell in drawn.cells[0][:6]] == [True, False, False, False, True, False]
    assert drawn.cells[0][3].fg == "020202"
