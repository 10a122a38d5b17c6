"""What every part of the live list works with: the worker, the situation, the last word said.

An application of textual without screens of its own. Calls of the worker go to threads, because a
worker may take long; what comes back is handled where the screen is drawn. Ends with the terminal
as it was, whatever happens.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from claudedo.cli import render
from claudedo.cli.board.picture import Situation
from claudedo.cli.board.watch import Watch
from claudedo.cli.exits import Exit
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError

T = TypeVar("T")

ENDINGS = {signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that end the list, and the status a shell knows them by."""


SAID_SECONDS = 60.0
"""How long a sentence stays on the line above the keys, unless another takes its place."""


class Back(Message):
    """Something from a thread that is to be handled where the screen is drawn."""

    def __init__(self, handle: Callable[[], None]) -> None:
        super().__init__()
        self.handle = handle


class Desk(App[int]):
    """The application: state that its screens share, and how they reach the worker."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    .bar { height: 1; }
    #details { height: 2; }
    #main { height: 1fr; }
    ModalScreen { align: left bottom; background: transparent; }
    ModalScreen > Vertical {
        height: auto; max-height: 90%; overflow-y: auto; scrollbar-size: 0 0;
        border-top: solid ansi_default; background: ansi_default;
    }
    ModalScreen Static { height: auto; color: ansi_default; background: ansi_default; }
    ModalScreen TextArea {
        height: auto; max-height: 8; border: none; padding: 0; scrollbar-size: 0 0;
        color: ansi_default; background: ansi_default;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
        Binding("ctrl+l", "redraw", show=False, priority=True),
    ]

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(ansi_color=True)  # also what makes NO_COLOR mean none, not grey
        self.theme = "ansi-dark"  # the terminal's own colours, whether light or dark
        self.client = client
        self.situation: Situation | None = None
        self.said = ""
        self.wrong = False  # what was said last is an error
        self.said_at = time.monotonic()
        self.following: tuple[str, str] | None = None  # a message that was sent, and to whom
        self.away = False
        self._leaving = False
        self.watch_worker = Watch(client, lambda: self._hand_over(self._take_news))

    # Life

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number, status in ENDINGS.items():
            loop.add_signal_handler(number, self.leave, status)
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        self.watch_worker.start()
        self.set_interval(1.0, self.draw)

    def on_unmount(self) -> None:
        self.watch_worker.stop()

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.leave(Exit.INTERRUPTED)

    def leave(self, status: int) -> None:
        """End the list with this exit status."""
        self._leaving = True
        self.exit(status)

    def action_redraw(self) -> None:
        """Ctrl-L: other programs may have written over the list."""
        self.refresh(layout=True)

    def _print_error_renderables(self) -> None:
        """Print no traceback: `show` gives the error to the command line, which words it."""

    # What is known and said

    def draw(self) -> None:
        """Show what changed, and how old things are by now."""
        if not self.away and time.monotonic() > self.said_at + SAID_SECONDS:
            self.said, self.wrong = "", False
        for screen in self.screen_stack:
            redraw = getattr(screen, "draw", None)
            if redraw is not None:
                redraw()

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Put a sentence on the line above the keys."""
        self.said, self.wrong = render.line(text), wrong
        self.said_at = time.monotonic()
        self.draw()

    def _take_news(self) -> None:
        news = self.watch_worker.take()
        self.situation = news.situation or self.situation
        if news.trouble:
            self.away = True
            self.say(news.trouble, wrong=True)
        elif self.away:
            self.away = False
            self.say("The worker is back.")
        if self.following and (receipts := news.receipts.get(self.following[0])):
            self.tell_how_far(receipts)
        self.draw()

    def follow(self, sent: dict[str, Any], name: str) -> None:
        """Say how far a message came, from now on until the next is sent."""
        self.following = (sent["id"], name)
        self.tell_how_far(sent["receipts"])

    def tell_how_far(self, receipts: dict[str, Any]) -> None:
        """Say how far the message that was sent last came."""
        assert self.following is not None
        self.say(f"to {self.following[1]}: {render.ladder(receipts, None)}")

    # The worker

    def work(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run `job` in a thread, then give its result to `then` here; its error is said."""

        def run() -> None:
            try:
                result = job()
            except ClaudedoError as error:
                sentence = str(error)
                self._hand_over(lambda: self.say(sentence, wrong=True))
            except Exception as error:
                sentence = f"this should not happen: {type(error).__name__}: {error}"
                self._hand_over(lambda: self.say(sentence, wrong=True))
            else:
                self._hand_over(lambda: then(result))

        # A daemon, so that leaving does not wait for a session that ends slowly.
        threading.Thread(target=run, daemon=True).start()

    def look(self) -> None:
        """Ask the worker for the situation now."""
        self.work(self.watch_worker.look, lambda _: None)

    def _hand_over(self, handle: Callable[[], None]) -> None:
        self.post_message(Back(handle))

    def on_back(self, message: Back) -> None:
        message.handle()

    # The terminal

    @contextmanager
    def terminal_given_away(self) -> Iterator[None]:
        """Leave the terminal to something else meanwhile; what it raises is said."""
        with self.suspend():
            try:
                yield
            except (ClaudedoError, OSError) as error:
                sentence = str(error)
                self.call_later(self.say, sentence, wrong=True)

    def run_on_terminal(self) -> int:
        """Show the list until the person leaves; returns the exit status.

        Raises what went wrong where nothing was to go wrong, after the terminal is restored.
        """
        status = self.run(mouse=False)  # so that the terminal's own selecting and copying works
        # Keys that come while it ends find no screen any more, and textual stumbles over that.
        if self._exception is not None and not self._leaving:
            raise self._exception
        return Exit.DONE if status is None else status
