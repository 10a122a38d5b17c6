"""Owns the terminal of one session, or the input of a one-shot run, so that it outlives the worker.

One standard-library file, run by path with ``python3 -I -S holder.py``; it imports nothing of
ours. A JSON specification arrives on stdin (so the environment touches neither disk nor argv),
one JSON line answers on stdout, and from then on everything happens on a unix socket in the
frames of ``docs/holder-protocol.md``.

Knows nothing of tasks, messages or the Claude CLI: it runs a command, keeps the last of its
output (of a one-shot run, nothing: that writes to its files itself), passes input on and remembers
how the command ended. Whoever connects may vanish, stall or talk nonsense; the command never
notices.
"""

# pathlib would cost every holder memory for a handful of calls.
# ruff: noqa: PTH100, PTH105, PTH108, PTH116, PTH120, PTH123

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import selectors
import signal
import socket
import stat
import struct
import sys
import termios
import time
from functools import partial

TYPE_CHECKING = False  # the real one costs the import of `typing`, 1 MB in every session
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

PROTOCOL = 1
HEADER = struct.Struct(">cI")
MAX_PAYLOAD = 16 << 20
CHUNK = 64 << 10  # most output taken from the terminal, or given to a peer, in one turn
WATCHER_BUFFER = 8 << 20  # output a watcher may lag behind before it is dropped
INPUT_BUFFER = 1 << 20  # input queued for the child before its sender has to wait
MAX_CLIENTS = 64
FILES = ("output", "errors")  # of a child without a terminal: its descriptors 1 and 2
MAX_SCROLLBACK = 8 << 20  # a snapshot travels in one frame

QUIET = 0.1  # s without output, after the child ended, that count as "all output is here"
DRAIN_TURNS = 4  # of CHUNK each: more than a system keeps of what an ended child wrote
DRAIN_LIMIT = 2.0  # s after which the end is announced although something still writes
JIGGLE = 0.15  # s at another size: a program that compares sizes must get to see the other one
RESUME_AFTER = (0.3, 1.0, 3.0)  # s after Ctrl-Z at which a suspended child is told to go on
HANG_UP_STEPS = ((2.0, signal.SIGTERM), (4.0, signal.SIGKILL))  # s after the hang-up
ABANDON = 6.0  # s after the hang-up at which even an unkillable child is left behind
FAREWELL = 1.0  # s to hand the last frames to the peers before leaving

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# A script is compiled at every start, and the 2 MB that takes never go back to the system. An
# import takes the cached code. The path stays an argument so that `ps` shows what this is.
AS_IMPORT = (
    "import os, sys; sys.path.insert(0, os.path.dirname(sys.argv[1]));"
    " import holder; sys.exit(holder.main())"
)

ESCAPE_START = re.compile(rb"[\n\x1b]")
PRIVATE_MODE = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
# Whatever makes a terminal answer, notify or touch the clipboard: harmless once, when it was
# meant, but a replay would have the answers typed into the child.
ONLY_LIVE = re.compile(
    rb"\x1b\[[>=]?[0-9]*c"  # device attributes
    rb"|\x1b\[\??[56]n"  # status, cursor position
    rb"|\x1b\[>[0-9]*q|\x1b\[\?u|\x1b\[\?[0-9]+\$p"  # version, keyboard flags, mode request
    rb"|\x1b\[(?:1[1-9]|2[01])t"  # window reports
    rb"|\x1b\](?:4;[0-9]+|1[0-9]);\?(?:\x07|\x1b\\)"  # colours
    rb"|\x1bP\+q[^\x1b]*\x1b\\"  # termcap
    rb"|\x1b\](?:9|52|99|777);[^\x07\x1b]*(?:\x07|\x1b\\)"  # notifications, clipboard
)
# What a terminal says by itself (answers, focus changes) and the mouse: nobody typed it.
REPORT = re.compile(
    rb"(?:\x1b\[[?>][0-9;]*\$?[cuny]"
    rb"|\x1b\[[0-9]+;[0-9]+R|\x1b\[[03]n|\x1b\[[0-9;]+t|\x1b\[[IO]|\x1b\[<[0-9;]+[Mm]"
    rb"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1bP[^\x1b]*\x1b\\)+"
)

# Ctrl-Z, as a byte and in the two newer keyboard protocols.
SUSPEND = re.compile(rb"\x1a|\x1b\[122;(?:5|69|133|197)(?::[12])?u|\x1b\[27;5;122~")


class Refused(Exception):
    """An order cannot be carried out; the text says why and is sent to the peer."""


class Malformed(Exception):
    """A peer does not speak the protocol and is dropped."""


# ---------------------------------------------------------------- the child and its descriptors


def set_size(terminal: int, rows: int, cols: int) -> None:
    """Set the window size; the kernel sends SIGWINCH when it differs from the present one."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def spawn_on_terminal(
    argv: list[str], cwd: str, env: dict[str, str], size: tuple[int, int]
) -> tuple[int, int]:
    """Run ``argv`` in a new session on a new terminal of ``size`` (rows, cols).

    Returns the pid and the non-blocking master side. Raises Refused when it cannot be run.
    """
    master, slave = os.openpty()
    set_size(master, *size)

    def take() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for descriptor in (0, 1, 2):
            os.dup2(slave, descriptor)

    try:
        pid = spawn(argv, cwd, env, take)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    return pid, master


def spawn_on_files(
    argv: list[str], cwd: str, env: dict[str, str], files: dict[str, str]
) -> tuple[int, int]:
    """Run ``argv`` in a new session, writing straight to ``files`` ("output" and "errors").

    Returns the pid and the non-blocking writing end of its input, which nobody else has: our
    death is its end of input. Raises Refused when it cannot be run.
    """
    reading, writing = os.pipe()
    given = [reading]

    def take() -> None:
        for descriptor, source in enumerate(given):
            os.dup2(source, descriptor)

    try:
        for name in FILES:  # one by one: what was opened before one that cannot be is closed, too
            given.append(open_for_appending(files[name]))  # noqa: PERF401
        pid = spawn(argv, cwd, env, take)
    except BaseException:
        os.close(writing)
        raise
    finally:
        for descriptor in given:
            os.close(descriptor)
    os.set_blocking(writing, False)
    return pid, writing


def open_for_appending(path: str) -> int:
    """A descriptor at the end of a file, made if need be. Raises Refused."""
    # Neither wait for a pipe's reader nor let a terminal become ours.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags, 0o600)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        sentence = f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        raise Refused(sentence) from error
    os.set_blocking(descriptor, True)
    return descriptor


def spawn(argv: list[str], cwd: str, env: dict[str, str], take: Callable[[], None]) -> int:
    """Fork a child that becomes ``argv`` once ``take`` has set its descriptors 0, 1 and 2.

    Returns its pid. Raises Refused, with the child's own sentence.
    """
    problem_in, problem_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        become(argv, cwd, env, take, problem_out)
    os.close(problem_out)
    with open(problem_in, "rb") as report:  # ends when the exec succeeds or the child is gone
        problem = report.read().decode("utf-8", "replace")
    if problem:
        os.waitpid(pid, 0)
        raise Refused(problem)
    return pid


def become(
    argv: list[str], cwd: str, env: dict[str, str], take: Callable[[], None], problem_out: int
) -> None:
    """In the forked child: take the descriptors and turn into the command. Never returns."""
    problem = "cannot take its terminal or files"
    try:
        os.setsid()
        take()
        default_signals()
        problem = f"cannot enter {cwd}"
        os.chdir(cwd)
        problem = f"cannot run {argv[0]}"
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(problem_out, f"{problem}: {error.strerror}".encode())
    except Exception as error:  # a null byte in argv, say: the starter has to hear of it
        os.write(problem_out, f"{problem}: {error}".encode())
    finally:
        os._exit(127)


def default_signals() -> None:
    """Give the child what a login shell would: nothing ignored (Python ignores SIGPIPE)."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_DFL)
        except OSError:
            continue  # reserved by the C library
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class Scrollback:
    """The last output of the child, cut where a terminal can start reading."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._modes: dict[bytes, bytes] = {}  # private modes set by what was cut off

    def add(self, output: bytes) -> None:
        self._kept += output
        if len(self._kept) > self._limit + CHUNK:
            self._cut(len(self._kept) - self._limit)

    def _cut(self, at: int) -> None:
        clean = ESCAPE_START.search(self._kept, at, at + 4096)
        if clean is not None:
            at = clean.start()
        for match in PRIVATE_MODE.finditer(self._kept, 0, at):
            for mode in match[1].split(b";"):
                self._modes[mode] = match[2]
        del self._kept[:at]

    def replay(self) -> bytes:
        """The kept output for a terminal that sees it late: modes first, queries left out."""
        modes = b"".join(b"\x1b[?%b%b" % item for item in self._modes.items())
        return modes + ONLY_LIVE.sub(b"", self._kept)


# ---------------------------------------------------------------- peers


class Client:
    """One connection: what came in unparsed, what is still to go out, and its role."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.watching = False
        self.read_only = False
        self.paused = False  # its input waits for the child to read earlier input

    def next_frame(self) -> tuple[bytes, bytes] | None:
        """Take one whole frame from the inbox; None when there is none yet."""
        if len(self.inbox) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self.inbox)
        if length > MAX_PAYLOAD:
            sentence = f"a frame of {length} bytes"
            raise Malformed(sentence)
        end = HEADER.size + length
        if len(self.inbox) < end:
            return None
        payload = bytes(self.inbox[HEADER.size : end])
        del self.inbox[:end]
        return kind, payload

    def flush(self) -> None:
        """Send as much of the outbox as the socket takes."""
        while self.outbox:
            try:
                sent = self.connection.send(self.outbox[:CHUNK])
            except BlockingIOError:
                return
            del self.outbox[:sent]


def frame(kind: bytes, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def json_frame(kind: bytes, fields: dict[str, Any]) -> bytes:
    return frame(kind, json.dumps(fields).encode())


def read_object(payload: bytes) -> dict[str, Any]:
    fields = json.loads(payload)
    if not isinstance(fields, dict):
        sentence = "not a JSON object"
        raise Malformed(sentence)
    return fields


def read_size(fields: dict[str, Any]) -> tuple[int, int]:
    rows, cols = fields.get("rows"), fields.get("cols")
    if not (type(rows) is int and type(cols) is int and 0 < rows < 65536 and 0 < cols < 65536):
        sentence = "rows and cols must be whole numbers from 1 to 65535"
        raise Malformed(sentence)
    return rows, cols


def read_files(spec: dict[str, Any]) -> dict[str, str] | None:
    """What a child without a terminal writes to, as absolute paths; None for a terminal."""
    files = spec.get("files")
    if files is None:
        return None
    paths = [files.get(name) for name in FILES] if isinstance(files, dict) else [None]
    if not all(isinstance(path, str) and path for path in paths):
        sentence = "files must name output and errors (paths)"
        raise Malformed(sentence)
    return dict(zip(FILES, map(os.path.abspath, paths), strict=True))


def read_command(fields: dict[str, Any]) -> tuple[list[str], str]:
    argv, cwd = fields.get("argv"), fields.get("cwd")
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
        sentence = "argv must be a list of strings and not empty"
        raise Malformed(sentence)
    if not isinstance(cwd, str):
        sentence = "cwd must be a string"
        raise Malformed(sentence)
    return argv, cwd


def note(text: str) -> None:
    """Write one line to the log. A full disk must not end a session."""
    try:
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()
    except OSError:
        return


def describe_failure() -> str:
    """The traceback of the exception being handled."""
    import traceback  # 0.8 MB that almost no holder ever needs

    return traceback.format_exc()


# ---------------------------------------------------------------- the holder


class Holder:
    """A single-threaded loop between one child and any number of peers.

    The child is on a ``terminal``, or, with ``files``, only its ``stdin`` is ours.
    """

    def __init__(self, spec: dict[str, Any], listener: socket.socket) -> None:
        self.argv, self.cwd = read_command(spec)
        self.env: dict[str, str] = spec["env"]
        self.files: dict[str, str] | None = spec["files"]
        self.size = (0, 0) if self.files else read_size(spec)
        self.path: str = spec["socket"]
        self.exit_file: str | None = spec.get("exit_file")
        self.linger = float(spec.get("linger", 3600))
        self.limit = min(int(spec.get("scrollback", 1 << 20)), MAX_SCROLLBACK)
        self.listener = listener
        self.inode = os.stat(self.path).st_ino
        self.selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self.typed = bytearray()  # input the child has not taken yet
        self.pid = 0
        self.terminal: int | None = None
        self.stdin: int | None = None
        self.finishing = False  # no more input will come: stdin closes after what is queued
        self.started_at = 0.0
        self.last_input_at: float | None = None
        self.ending = False  # told to hang up
        self.left = False
        self.ended: dict[str, Any] | None = None  # reaped; output may still be on its way
        self.exited: dict[str, Any] | None = None  # the same, once everybody was told
        self.scrollback = Scrollback(self.limit)
        self.orders: dict[bytes, Callable[[Client, bytes], None]] = {
            b"A": self.on_attach,
            b"I": self.on_person_input,
            b"T": self.on_worker_input,
            b"R": self.on_resize,
            b"S": self.on_signal,
            b"Q": self.on_status,
            b"P": self.on_snapshot,
            b"N": self.on_respawn,
            b"D": self.on_leave,
            b"F": self.refuse_terminal,
        }
        if self.files:
            self.orders |= dict.fromkeys((b"A", b"I", b"R", b"P"), self.refuse_one_shot)
            self.orders |= {b"T": self.on_one_shot_input, b"F": self.on_finish_input}

    # -- life

    def start(self, argv: list[str], cwd: str, env: dict[str, str]) -> None:
        """Run a command as the child. Raises Refused; an earlier end stands then."""
        self.close_terminal()
        if self.files:
            self.pid, self.stdin = spawn_on_files(argv, cwd, env, self.files)
        else:
            self.pid, self.terminal = spawn_on_terminal(argv, cwd, env, self.size)
        self.finishing = False
        self.started_at = time.time()
        self.argv, self.cwd = argv, cwd
        self.ended = self.exited = None
        self.scrollback = Scrollback(self.limit)
        self.timers.pop("linger", None)
        if self.exit_file:
            remove(self.exit_file)
        if self.terminal is not None:
            self.selector.register(self.terminal, selectors.EVENT_READ, self.serve_terminal)

    def run(self) -> None:
        """Serve until the child has ended and nobody gave another order in time."""
        alarm = catch_signals()
        self.selector.register(alarm, selectors.EVENT_READ, partial(self.serve_signals, alarm))
        self.selector.register(self.listener, selectors.EVENT_READ, self.serve_listener)
        self.reap()  # it may have ended before its signal could be caught
        while not self.left:
            for key, events in self.selector.select(self.patience()):
                key.data(events)
            self.run_timers()
        self.farewell()

    def after(self, seconds: float, name: str, action: Callable[[], None]) -> None:
        self.timers[name] = (time.monotonic() + seconds, action)

    def patience(self) -> float | None:
        if not self.timers:
            return None
        return max(0.0, min(due for due, _ in self.timers.values()) - time.monotonic())

    def run_timers(self) -> None:
        now = time.monotonic()
        for name, (due, action) in list(self.timers.items()):
            if due <= now and self.timers.get(name) == (due, action):
                del self.timers[name]
                action()

    # -- signals and the child's end

    def serve_signals(self, alarm: socket.socket, _events: int) -> None:
        try:
            numbers = alarm.recv(4096)
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self.reap()
        if set(numbers) - {signal.SIGCHLD}:
            self.hang_up()

    def reap(self) -> None:
        """Collect the child and the orphans of its tree that landed here.

        A child that was stopped goes on at once: no shell is there to resume it.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.pid or self.ended is not None:
                continue
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)
            else:
                self.child_ended(status)

    def child_ended(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.ended = {
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "at": time.time(),
        }
        self.typed.clear()
        self.resume_senders()
        self.close_stdin()
        if self.terminal is None:
            self.announce_end()
        for _ in range(DRAIN_TURNS):
            self.take_output()
        if self.exited is None:
            self.after(QUIET, "quiet", self.settle)
            self.after(DRAIN_LIMIT, "drain", self.announce_end)

    def settle(self) -> None:
        """Announce the end, unless output still comes: a process may be left on the terminal."""
        self.timers.pop("quiet", None)
        self.take_output()
        if self.exited is None and "quiet" not in self.timers:
            self.announce_end()

    def announce_end(self) -> None:
        """Tell everybody, once all output has been passed on."""
        for name in ("quiet", "drain", "jiggle"):
            self.timers.pop(name, None)
        self.exited = self.ended
        assert self.exited is not None
        self.write_exit_file({**self.exited, "pid": self.pid})
        for client in list(self.clients):
            self.send(client, json_frame(b"X", self.exited))
        if self.ending:
            self.leave()
        else:
            self.after(self.linger, "linger", self.leave)

    def write_exit_file(self, fields: dict[str, Any]) -> None:
        if not self.exit_file:
            return
        draft = f"{self.exit_file}.{os.getpid()}"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                json.dump(fields, file)
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, self.exit_file)
        except OSError as error:
            note(f"cannot write the exit file: {error}")

    def hang_up(self) -> None:
        """End the child as a closing terminal window would, then go (claude-cli.md 9.1).

        Without a terminal the child is told by the end of its input.
        """
        if self.ending:
            return
        self.ending = True
        if self.exited is not None:
            self.leave()
        if self.ended is not None:
            return  # announcing the end leaves
        self.take_output()
        self.close_terminal()
        self.close_stdin()
        if not self.files:
            os.kill(self.pid, signal.SIGHUP)
            os.kill(self.pid, signal.SIGCONT)
        end = self.kill_group_if_alive if self.files else self.kill_if_alive
        for seconds, number in HANG_UP_STEPS:
            self.after(seconds, f"hang-up {number}", partial(end, number))
        self.after(ABANDON, "abandon", self.abandon)

    def kill_if_alive(self, number: int) -> None:
        if self.ended is None:
            os.kill(self.pid, number)

    def kill_group_if_alive(self, number: int) -> None:
        if self.ended is not None:
            return
        try:
            os.killpg(self.pid, number)
        except PermissionError as error:  # macOS, when nobody of it lives and we are to hear of it
            note(f"the process group cannot be signalled: {error}")

    def abandon(self) -> None:
        note(f"process {self.pid} cannot be ended")
        self.leave()

    def leave(self) -> None:
        self.left = True

    def farewell(self) -> None:
        """Remove the socket and hand out what is still owed, briefly."""
        try:
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)
        except OSError as error:
            note(f"cannot remove the socket: {error}")
        self.listener.close()
        deadline = time.monotonic() + FAREWELL
        for client in self.clients:
            client.connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                client.connection.sendall(client.outbox)
            except OSError as error:
                note(f"a peer missed the last frames: {error}")
            client.connection.close()

    # -- the child's input and output

    def serve_terminal(self, events: int) -> None:
        if events & selectors.EVENT_READ:
            self.take_output()
        if events & selectors.EVENT_WRITE:
            self.give_input()

    def take_output(self) -> None:
        """Read what the child wrote and pass it on in one frame."""
        output, over = self.read_terminal()
        if output:
            self.scrollback.add(output)
            message = frame(b"O", output)
            for client in [client for client in self.clients if client.watching]:
                self.send(client, message)
            if self.ended is not None and self.exited is None:
                self.after(QUIET, "quiet", self.settle)
        if over:
            self.close_terminal()
            if self.ended is not None and self.exited is None:
                self.announce_end()

    def read_terminal(self) -> tuple[bytes, bool]:
        """What is there, up to CHUNK bytes, and whether no more can ever come."""
        output = bytearray()
        while self.terminal is not None and len(output) < CHUNK:
            try:
                data = os.read(self.terminal, CHUNK)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:  # Linux: the other side is closed
                    note(f"cannot read the terminal: {error}")
                return bytes(output), True
            if not data:  # macOS: the other side is closed
                return bytes(output), True
            output += data
        return bytes(output), False

    def serve_stdin(self, _events: int) -> None:
        self.give_input()

    def give_input(self) -> None:
        """Write queued input, as much as the child's side takes."""
        side = self.stdin if self.files else self.terminal
        if side is None:
            return
        try:
            while self.typed:
                written = os.write(side, self.typed[:CHUNK])
                del self.typed[:written]
        except BlockingIOError:
            pass
        except OSError as error:  # a child may close its input as it likes
            note(f"cannot write to the child: {error}")
            self.typed.clear()
            self.close_stdin()
        if self.finishing and not self.typed:
            self.close_stdin()
        self.watch_child()
        if len(self.typed) <= INPUT_BUFFER // 2:
            self.resume_senders()

    def watch_child(self) -> None:
        """Wait for the child's side to take more only while there is more."""
        if self.terminal is not None:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.typed else 0)
            self.selector.modify(self.terminal, wanted, self.serve_terminal)
        elif self.stdin is not None:
            registered = self.stdin in self.selector.get_map()
            if self.typed and not registered:
                self.selector.register(self.stdin, selectors.EVENT_WRITE, self.serve_stdin)
            elif registered and not self.typed:
                self.selector.unregister(self.stdin)

    def close_stdin(self) -> None:
        """End the input of a child without a terminal; what was queued is dropped."""
        if self.stdin is None:
            return
        if self.stdin in self.selector.get_map():
            self.selector.unregister(self.stdin)
        os.close(self.stdin)
        self.stdin = None
        self.typed.clear()
        self.resume_senders()

    def close_terminal(self) -> None:
        if self.terminal is not None:
            self.selector.unregister(self.terminal)
            os.close(self.terminal)
            self.terminal = None
            self.typed.clear()
            self.resume_senders()

    def resize(self, size: tuple[int, int], *, redraw: bool) -> None:
        """Take a new size. With ``redraw`` the child is made to draw even at the same size."""
        same = size == self.size
        self.size = size
        self.timers.pop("jiggle", None)
        if self.terminal is None:
            return
        if redraw and same:
            rows, cols = size
            set_size(self.terminal, rows, cols - 1 if cols > 1 else 2)
            self.after(JIGGLE, "jiggle", self.apply_size)
        else:
            self.apply_size()

    def apply_size(self) -> None:
        if self.terminal is not None:
            set_size(self.terminal, *self.size)

    # -- peers

    def serve_listener(self, _events: int) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as error:  # it was gone before we looked
            note(f"cannot accept: {error}")
            return
        if len(self.clients) >= MAX_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection)
        self.clients.append(client)
        self.selector.register(connection, selectors.EVENT_READ, partial(self.serve, client))
        self.send(client, json_frame(b"H", self.status()))

    def serve(self, client: Client, events: int) -> None:
        if client not in self.clients:
            return  # dropped earlier in this turn of the loop
        try:
            if events & selectors.EVENT_WRITE:
                client.flush()
            if events & selectors.EVENT_READ and not self.receive(client):
                self.drop(client, None)
                return
            self.obey(client)
            self.watch(client)
        except (OSError, Malformed, ValueError) as error:
            self.drop(client, f"{type(error).__name__}: {error}")
        except Exception:  # whatever a peer managed to cause, only this peer pays for it
            self.drop(client, describe_failure())

    def receive(self, client: Client) -> bool:
        """Take in what the peer sent; False when it closed."""
        try:
            data = client.connection.recv(CHUNK)
        except BlockingIOError:
            return True
        client.inbox += data
        return bool(data)

    def obey(self, client: Client) -> None:
        """Carry out the whole frames of a peer, unless it has to wait for the child."""
        while not client.paused and client in self.clients:
            received = client.next_frame()
            if received is None:
                return
            kind, payload = received
            order = self.orders.get(kind)
            if order is None:
                sentence = f"unknown frame {kind!r}"
                raise Malformed(sentence)
            try:
                order(client, payload)
            except Refused as refusal:
                told = {"error": str(refusal), "to": kind.decode()}
                self.send(client, json_frame(b"E", told))

    def send(self, client: Client, data: bytes) -> None:
        """Queue a frame; a peer that lags too far behind, or is gone, is dropped."""
        client.outbox += data
        try:
            client.flush()
        except OSError as error:
            self.drop(client, f"gone: {error}")
            return
        if len(client.outbox) > WATCHER_BUFFER + self.limit:
            self.drop(client, "does not read what it is sent")
            return
        self.watch(client)

    def watch(self, client: Client) -> None:
        """Keep the selector's interest in step with what the peer can do."""
        if client not in self.clients:
            return
        wanted = 0 if client.paused else selectors.EVENT_READ
        if client.outbox:
            wanted |= selectors.EVENT_WRITE
        registered = client.connection in self.selector.get_map()
        if not wanted and registered:
            self.selector.unregister(client.connection)
        elif wanted and registered:
            self.selector.modify(client.connection, wanted, partial(self.serve, client))
        elif wanted:
            self.selector.register(client.connection, wanted, partial(self.serve, client))

    def drop(self, client: Client, reason: str | None) -> None:
        if client not in self.clients:
            return
        if reason:
            note(f"dropped a peer: {reason}")
        self.clients.remove(client)
        if client.connection in self.selector.get_map():
            self.selector.unregister(client.connection)
        client.connection.close()

    def resume_senders(self) -> None:
        """Let peers whose input had to wait go on, after this turn of the loop."""
        if any(client.paused for client in self.clients):
            self.after(0.0, "resume", self.serve_resumed)

    def serve_resumed(self) -> None:
        for client in list(self.clients):
            if client.paused:
                client.paused = False
                self.serve(client, 0)

    def status(self) -> dict[str, Any]:
        rows, cols = self.size
        return {
            "protocol": PROTOCOL,
            "holder_pid": os.getpid(),
            "pid": self.pid,
            "started_at": self.started_at,
            "rows": rows,
            "cols": cols,
            "exited": self.exited,
            "last_input_at": self.last_input_at,
            "watchers": sum(client.watching for client in self.clients),
            "input_open": self.input_end() is None,
            "files": self.files,
        }

    def input_end(self) -> str | None:
        """Why the child gets no more input; None while it does."""
        if self.ended is not None:
            return "the process has ended"
        if self.ending:
            return "the process is being ended"
        if self.finishing:
            return "the input is finished"
        if self.terminal is None and self.stdin is None:
            return "the process has closed its input"
        return None

    # -- orders

    def on_attach(self, client: Client, payload: bytes) -> None:
        fields = read_object(payload)
        size = read_size(fields)
        client.watching = True
        client.read_only = fields.get("read_only") is True
        self.send(client, json_frame(b"Q", self.status()))  # an X before this was no answer
        replay = self.scrollback.replay()
        for start in range(0, len(replay), CHUNK):
            self.send(client, frame(b"O", replay[start : start + CHUNK]))
        if self.exited:
            self.send(client, json_frame(b"X", self.exited))
        elif not client.read_only:
            self.resize(size, redraw=True)

    def on_person_input(self, client: Client, payload: bytes) -> None:
        if client.read_only:
            return
        if not REPORT.fullmatch(payload):
            self.last_input_at = time.time()
        self.type(client, payload)

    def on_worker_input(self, client: Client, payload: bytes) -> None:
        if not client.read_only:
            self.type(client, payload)

    def type(self, client: Client, payload: bytes) -> None:
        if self.terminal is None or self.ended is not None:
            return
        self.queue(client, payload)
        if SUSPEND.search(payload):
            self.resume_suspended()

    def queue(self, client: Client, payload: bytes) -> None:
        """Take input for the child; while too much of it waits, its sender does, too."""
        self.typed += payload
        self.give_input()
        client.paused = len(self.typed) > INPUT_BUFFER

    def on_one_shot_input(self, client: Client, payload: bytes) -> None:
        if reason := self.input_end():
            raise Refused(reason)
        self.queue(client, payload)

    def on_finish_input(self, client: Client, _payload: bytes) -> None:
        self.finishing = True
        self.give_input()
        self.send(client, json_frame(b"Q", self.status()))

    def resume_suspended(self) -> None:
        """Send the SIGCONT that a shell would send when asked.

        The kernel does not stop the leader of a session, so Claude Code (2.1.197, 2.1.330) believes
        it is suspended, leaves its screen and waits for a SIGCONT without ever being stopped.
        Running programs ignore it.
        """
        for seconds in RESUME_AFTER:
            resume = partial(self.kill_if_alive, signal.SIGCONT)
            self.after(seconds, f"resume {seconds}", resume)

    def on_resize(self, client: Client, payload: bytes) -> None:
        size = read_size(read_object(payload))
        if not client.read_only:
            self.resize(size, redraw=False)

    def on_signal(self, client: Client, payload: bytes) -> None:
        self.refuse_watcher(client)
        name = read_object(payload).get("signal")
        number = getattr(signal, f"SIG{name}", None)
        if not isinstance(number, signal.Signals):
            sentence = f"there is no signal {name}"
            raise Refused(sentence)
        if self.ended is not None:
            sentence = "the process has ended"
            raise Refused(sentence)
        os.kill(self.pid, number)
        self.send(client, json_frame(b"Q", self.status()))

    def on_status(self, client: Client, _payload: bytes) -> None:
        self.send(client, json_frame(b"Q", self.status()))

    def on_snapshot(self, client: Client, _payload: bytes) -> None:
        self.send(client, frame(b"P", self.scrollback.replay()))

    def on_respawn(self, client: Client, payload: bytes) -> None:
        self.refuse_watcher(client)
        fields = read_object(payload)
        argv, cwd = read_command(fields)
        changes = fields.get("env") or {}
        if not isinstance(changes, dict):
            sentence = "env must be an object"
            raise Malformed(sentence)
        if self.exited is None or self.ending:
            sentence = "the process is still running"
            raise Refused(sentence)
        env = {name: text for name, text in {**self.env, **changes}.items() if text is not None}
        self.start(argv, cwd, env)
        self.send(client, json_frame(b"H", self.status()))

    def on_leave(self, client: Client, _payload: bytes) -> None:
        self.refuse_watcher(client)
        if self.exited is None:
            sentence = "the process is still running"
            raise Refused(sentence)
        self.leave()

    def refuse_one_shot(self, _client: Client, _payload: bytes) -> None:
        sentence = "this is a one-shot run without a terminal; `claudedo logs` shows it"
        raise Refused(sentence)

    def refuse_terminal(self, _client: Client, _payload: bytes) -> None:
        sentence = "the input of a terminal cannot be finished"
        raise Refused(sentence)

    def refuse_watcher(self, client: Client) -> None:
        if client.read_only:
            sentence = "attached read-only"
            raise Refused(sentence)


# ---------------------------------------------------------------- coming to life


def catch_signals() -> socket.socket:
    """Turn the signals we act on into bytes on the returned socket."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)

    def noticed(_number: int, _where: FrameType | None) -> None:
        """The wake-up byte is what counts; a handler must exist for it to be written."""

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, noticed)
    return receiver


def adopt_orphans() -> None:
    """Have what the child's tree leaves behind land here (Linux; elsewhere it goes to init)."""
    if not sys.platform.startswith("linux"):
        return
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError) as error:
        note(f"orphans are not adopted: {error}")


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def claim_socket(path: str) -> socket.socket:
    """Listen on ``path``, replacing what a dead holder left. Raises Refused."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # two starters: one looks, removes and binds
            remove_dead_socket(path)
            bind_for_owner(listener, path)
        finally:
            os.close(directory)
    except OSError as error:
        listener.close()
        sentence = f"cannot listen on {path}: {error.strerror or error}"
        raise Refused(sentence) from error
    listener.setblocking(False)
    return listener


def bind_for_owner(listener: socket.socket, path: str) -> None:
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        if "too long" not in str(error):
            raise
        sentence = f"the socket path is too long ({len(os.fsencode(path))} bytes): {path}"
        raise Refused(sentence) from error
    finally:
        os.umask(mask)
    listener.listen(MAX_CLIENTS)


def remove_dead_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            sentence = f"{path} exists and is no socket"
            raise Refused(sentence)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            sentence = f"cannot tell whether a holder lives on {path}: {error}"
            raise Refused(sentence) from error
    sentence = f"a holder already lives on {path}"
    raise Refused(sentence)


def read_spec() -> dict[str, Any]:
    """The specification from stdin, checked. Raises Refused."""
    try:
        spec = read_object(sys.stdin.buffer.read())
        read_command(spec)
        spec["files"] = read_files(spec)
        if spec["files"] is None:
            read_size(spec)
        float(spec.get("linger", 3600))
        int(spec.get("scrollback", 1 << 20))
    except (Malformed, ValueError, TypeError) as error:
        sentence = f"the specification is not usable: {error}"
        raise Refused(sentence) from error
    if not isinstance(spec.get("socket"), str) or not isinstance(spec.get("env"), dict):
        sentence = "the specification needs socket (a path) and env (an object)"
        raise Refused(sentence)
    for key in ("socket", "exit_file", "log"):
        if spec.get(key):
            spec[key] = os.path.abspath(spec[key])
    return spec


def detach_from_starter(log: str | None) -> None:
    """Leave the starter's session, directory and streams."""
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    silence = os.open(os.devnull, os.O_RDWR)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if log else silence
    os.dup2(silence, 0, inheritable=False)
    os.dup2(output, 1, inheritable=False)
    os.dup2(output, 2, inheritable=False)


def start_holder(spec: dict[str, Any]) -> Holder:
    """Take the socket and start the child. Raises Refused or OSError, leaving nothing behind."""
    listener = claim_socket(spec["socket"])
    try:
        holder = Holder(spec, listener)
        holder.start(holder.argv, holder.cwd, holder.env)
    except BaseException:
        os.unlink(spec["socket"])
        raise
    return holder


def live_as_holder(spec: dict[str, Any], answer: int) -> None:
    """In the forked process: start, answer the starter, serve to the end. Never returns."""
    try:
        detach_from_starter(spec.get("log"))
        adopt_orphans()
        holder = start_holder(spec)
    except (Refused, OSError) as error:
        os.write(answer, json.dumps({"error": str(error)}).encode())
        os._exit(1)
    started = {"protocol": PROTOCOL, "holder_pid": os.getpid(), "pid": holder.pid}
    os.write(answer, json.dumps(started).encode())
    os.close(answer)
    holder.run()
    os._exit(0)


def main() -> int:
    """Start a holder in the background and say on stdout how that went."""
    os.closerange(3, min(os.sysconf("SC_OPEN_MAX"), 65536))  # nothing leaks from the starter
    try:
        spec = read_spec()
    except Refused as refusal:
        outcome = {"error": str(refusal)}
    else:
        answer_in, answer_out = os.pipe()
        if os.fork() == 0:
            os.close(answer_in)
            try:
                live_as_holder(spec, answer_out)
            finally:  # only after a failure of ours: say it in the log, not as the starter
                note(describe_failure())
                os._exit(1)
        os.close(answer_out)
        with open(answer_in, "rb") as report:
            outcome = json.loads(report.read() or b'{"error": "the holder died as it started"}')
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 1 if "error" in outcome else 0


if __name__ == "__main__":
    script = os.path.abspath(__file__)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", AS_IMPORT, script])
