"""A person's terminal behind a holder: the inside of `claudedo attach`.

Puts the terminal into raw mode, passes keys, output and window sizes between it and the holder,
and gives the terminal back as it was, whatever happens. Knows the holder's socket, nothing of
tasks or the worker: attaching works while the worker is down.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from claudedo.errors import UsageError
from claudedo.holding import (
    Exit,
    HolderClient,
    HolderGoneError,
    Kind,
    decode_exit,
    encode_input,
    encode_json,
)

READ_SIZE = 64 << 10
DEFAULT_DETACH_KEYS = "ctrl-]"
WATCHED_SIGNALS = (signal.SIGWINCH, signal.SIGCONT, signal.SIGTERM, signal.SIGHUP)


def attach(
    socket_path: Path | str, *, read_only: bool = False, detach_keys: str = DEFAULT_DETACH_KEYS
) -> int:
    """Show a session on this terminal until the person detaches or the session ends.

    Returns 0 after detaching, else what a shell would show for the session's end. Raises
    UsageError without a terminal or with unusable detach keys, HolderGoneError when the session
    cannot be reached or its holder vanishes; the terminal is restored in every case. A SIGTERM or
    SIGHUP is raised again after that, for whoever showed the session.
    """
    keys = DetachKeys(detach_keys)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        sentence = "Attaching needs a terminal on standard input and output."
        raise UsageError(sentence)
    with HolderClient.connect(socket_path) as holder:
        attachment = Attachment(holder, keys, read_only=read_only)
        ending = attachment.run()
    if attachment.sent_away is not None:
        os.kill(os.getpid(), attachment.sent_away)
        return 0
    sys.stderr.write(f"{describe(ending)}\n")
    return ending.shell_code if ending else 0


def describe(ending: Exit | None) -> str:
    if ending is None:
        return "Detached; the session goes on."
    if ending.code is not None:
        return f"The session ended (exit {ending.code})."
    return f"The session ended (signal {ending.signal})."


class DetachKeys:
    """Finds the detach keys among typed bytes.

    The grammar is `ctrl-X`, or several with commas to be typed one after the other; X is a letter
    or one of @ [ \\ ] ^ _. A program may switch the terminal to one of the newer keyboard
    protocols, which send Ctrl-] as an escape sequence: those count too.
    """

    def __init__(self, text: str) -> None:
        keys = [_key_pattern(name, text) for name in text.split(",")]
        self._whole = re.compile(b"".join(keys))
        self._begun = [
            re.compile(b"".join(keys[:count]) + rb"\Z") for count in range(len(keys) - 1, 0, -1)
        ]
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What of the typed bytes may be passed on, and whether the keys were typed.

        The beginning of a sequence of keys is held back until the next key decides.
        """
        typed = self._held + typed
        self._held = b""
        if found := self._whole.search(typed):
            return typed[: found.start()], True
        for pattern in self._begun:
            if found := pattern.search(typed):
                self._held = found[0]
                return typed[: found.start()], False
        return typed, False


def _key_pattern(name: str, text: str) -> bytes:
    """A pattern for one key in each form a terminal may send it."""
    prefix, _, key = name.strip().lower().partition("-")
    if prefix != "ctrl" or len(key) != 1 or not (key in "@[\\]^_" or "a" <= key <= "z"):
        sentence = f"Detach keys are ctrl-X, or several with commas (ctrl-p,ctrl-q); not {text!r}."
        raise UsageError(sentence)
    plain = bytes([ord(key.upper()) & 0x1F])
    code = b"%d" % ord(key)
    # Ctrl is 5; caps lock adds 64 and num lock 128 (kitty keyboard protocol, "Modifiers").
    control = rb"(?:5|69|133|197)"
    kitty = rb"\x1b\[" + code + rb"(?::[0-9:]*)?;" + control + rb"(?::[12])?u"
    xterm = rb"\x1b\[27;" + control + b";" + code + b"~"
    return b"(?:" + b"|".join([re.escape(plain), kitty, xterm]) + b")"


class TerminalModes:
    """Remembers what a program switched on in the terminal, to switch it off again."""

    _SEQUENCE = re.compile(
        rb"\x1b\[(?:\?([0-9;]+)([hl])|([<>])([0-9;]*)u|>(4)(?:;([0-9]*))?m|([0-9]*) q)"
    )
    _UNFINISHED = re.compile(rb"\x1b(?:\[[<>?0-9; ]{0,30})?\Z")
    _NORMALLY_ON = frozenset({b"7", b"25"})  # wrapping, the cursor
    _ALTERNATE_SCREENS = frozenset({b"47", b"1047", b"1049"})

    def __init__(self) -> None:
        self._changed: set[bytes] = set()
        self._keyboards = 0
        self._other_keys = False
        self._cursor_shape = False
        self._unfinished = b""

    def feed(self, output: bytes) -> None:
        output = self._unfinished + output
        tail = self._UNFINISHED.search(output)
        self._unfinished = tail[0] if tail else b""
        for modes, on, way, _flags, keys, level, shape in self._SEQUENCE.findall(output):
            if modes:
                self._set(modes.split(b";"), on == b"h")
            elif way:
                self._keyboards = max(0, self._keyboards + (1 if way == b">" else -1))
            elif keys:
                self._other_keys = level not in (b"", b"0")
            else:
                self._cursor_shape = shape not in (b"", b"0")

    def _set(self, modes: list[bytes], on: bool) -> None:
        for mode in modes:
            if on != (mode in self._NORMALLY_ON):
                self._changed.add(mode)
            else:
                self._changed.discard(mode)

    def undo(self) -> bytes:
        """The bytes that bring the terminal back to normal, from a fresh line.

        A program that draws on the main screen left its cursor inside its drawing; what stands
        below would shine through the shell's next lines.
        """
        parts = [
            b"\x1b[?%b%b" % (mode, b"h" if mode in self._NORMALLY_ON else b"l")
            for mode in sorted(self._changed)
        ]
        parts += [b"\x1b[<%du" % self._keyboards] * bool(self._keyboards)
        parts += [b"\x1b[>4m"] * self._other_keys
        parts += [b"\x1b[0 q"] * self._cursor_shape
        on_main_screen = not self._changed & self._ALTERNATE_SCREENS
        return b"".join(parts) + b"\x1b[0m" + b"\r\n\x1b[J" * on_main_screen


class Attachment:
    """One run of a person's terminal against one holder."""

    def __init__(self, holder: HolderClient, keys: DetachKeys, *, read_only: bool) -> None:
        self._holder = holder
        self._keys = keys
        self._read_only = read_only
        self._modes = TerminalModes()
        self._outgoing = bytearray()
        self._keyboard = sys.stdin.fileno()
        self._display = sys.stdout.fileno()
        self.sent_away: int | None = None  # the signal that ended it

    def run(self) -> Exit | None:
        """Returns how the session ended; None when the person detached or must go."""
        saved = termios.tcgetattr(self._keyboard)
        try:
            with caught_signals() as alarm:
                tty.setraw(self._keyboard)
                return self._relay(alarm)
        finally:
            self._restore(saved)

    def _restore(self, saved: list[object]) -> None:
        try:
            os.write(self._display, self._modes.undo())
            # Flushing drops answers of the terminal that would end up on the shell's line.
            termios.tcsetattr(self._keyboard, termios.TCSAFLUSH, saved)  # type: ignore[arg-type]
        except (OSError, termios.error):
            return  # the window is gone, and nothing is left to restore

    def _relay(self, alarm: socket.socket) -> Exit | None:
        rows, cols = self._size()
        self._holder.attach(rows, cols, read_only=self._read_only)
        self._holder.connection.setblocking(False)
        if self._holder.has_frames and (ending := self._show()):
            return ending
        with selectors.DefaultSelector() as selector:
            selector.register(alarm, selectors.EVENT_READ)
            selector.register(self._keyboard, selectors.EVENT_READ)
            selector.register(self._holder, selectors.EVENT_READ)
            while True:
                self._send(selector)
                ready = {key.fileobj for key, events in selector.select() if events & 1}
                if alarm in ready and self._told_to_go(alarm):
                    return None
                if self._holder in ready and (ending := self._show()):
                    return ending
                if self._keyboard in ready and self._typed():
                    self._send(selector)
                    return None

    def _send(self, selector: selectors.BaseSelector) -> None:
        """Send what the holder takes now, and wait for it to take the rest."""
        try:
            while self._outgoing:
                sent = self._holder.connection.send(self._outgoing[:READ_SIZE])
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except ConnectionError as error:
            raise HolderGoneError from error
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        selector.modify(self._holder, wanted)

    def _show(self) -> Exit | None:
        """Show what the holder sent; how the session ended, if it did."""
        try:
            frames = self._holder.take()
        except BlockingIOError:
            return None  # half a frame
        for kind, payload in frames:
            if kind is Kind.EXITED:
                return decode_exit(payload)
            if kind is Kind.OUTPUT:
                self._modes.feed(payload)
                write_all(self._display, payload)
        return None

    def _typed(self) -> bool:
        """Pass typed keys on; True when the person wants to detach or the terminal is gone."""
        typed = os.read(self._keyboard, READ_SIZE)
        keep, detach = self._keys.feed(typed)
        if keep and not self._read_only:
            self._outgoing += encode_input(Kind.PERSON_INPUT, keep)
        return detach or not typed

    def _told_to_go(self, alarm: socket.socket) -> bool:
        numbers = set(alarm.recv(4096))
        if ends := numbers & {signal.SIGTERM, signal.SIGHUP}:
            self.sent_away = max(ends)  # SIGTERM, if both came
            return True
        if signal.SIGCONT in numbers:  # the shell has put its own settings back meanwhile
            tty.setraw(self._keyboard)
        if not self._read_only:
            rows, cols = self._size()
            self._outgoing += encode_json(Kind.RESIZE, rows=rows, cols=cols)
        return False

    def _size(self) -> tuple[int, int]:
        cols, rows = os.get_terminal_size(self._display)
        return rows or 24, cols or 80  # some consoles report 0 x 0


@contextmanager
def caught_signals() -> Iterator[socket.socket]:
    """Turn the signals we act on into bytes on the given socket, and undo that at the end."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def noticed(_number: int, _where: FrameType | None) -> None:
        """The wake-up byte is what counts; a handler must exist for it to be written."""

    previous_descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, noticed) for number in WATCHED_SIGNALS}
    try:
        yield receiver
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_descriptor)
        receiver.close()
        sender.close()


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
