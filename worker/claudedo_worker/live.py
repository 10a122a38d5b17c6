"""One live session at a terminal: its record, its links, its courier, kept together.

Turns what is seen of the process (registry file, screen, transcript, exit) into changes of the
record, and passes what the session asks to its courier. It launches and ends nothing; see
`supervisor`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claudedo.holding import HolderGoneError
from claudedo.model import Session, SessionState, Task
from claudedo_worker import claude_binary, dialogs, failures, mcp_server, registry
from claudedo_worker.asks import Asks
from claudedo_worker.clock import working_time
from claudedo_worker.courier import Courier
from claudedo_worker.inbox import HALTED
from claudedo_worker.linked import Linked
from claudedo_worker.session_link import Bridge, Waiter
from claudedo_worker.store import Store
from claudedo_worker.terminal import Terminal
from claudedo_worker.transcript import locate

log = logging.getLogger(__name__)

PUSH_DELAY = 0.5
"""Seconds from the client's tools/list to the first push it does not lose (17.2)."""

TYPING_PAUSE = 15.0
"""Seconds after a person's last key during which nothing is typed for them."""

ECHO_PATIENCE = 3.0
"""Seconds within which what was typed shows in the input box."""

LOCATE_EVERY = 1.0

BOX_PAUSE = 5.0
"""Seconds until an input box that held a draft is looked at again."""

START_PATIENCE = 60.0
"""Seconds without a dialog that is known, after which a person has to look at a start."""

LIST_PATIENCE = 3.0
"""Seconds after which a connected client that lists no tools is taken to have done so before."""

BRIDGE_PATIENCE = 5.0
"""Seconds without a bridge after which it is started again; one that lives is back within one."""

NO_TOOLS = (
    "its claudedo tools are not connected, so its mail is kept; type "
    "`/mcp reconnect claudedo` in it, or `claudedo restart` it"
)

KEEPS_SIDE_LINES = (2, 1, 330)
"""The first version known to resume with what hangs beside the chain of the newest line."""


class LiveSession(Linked):
    """A session that has a terminal. Its methods run on the worker's one event loop."""

    _courier: Courier | None

    def __init__(
        self,
        store: Store,
        task: Task,
        session: Session,
        terminal: Terminal,
        make_caller: Callable[[Linked], mcp_server.Caller],
        *,
        grants: frozenset[dialogs.Kind] = frozenset(),
        adopted: bool = False,
        schedule: failures.Schedule | None = None,
    ) -> None:
        super().__init__(store, task, session, terminal, make_caller)
        self.asks = Asks(store, task, session.id)
        self.grants = grants | {dialogs.Kind.CHANNEL}
        self._waiter: Waiter | None = None
        self._typed = ""  # our last line, which an Esc may bring back
        self._listed_at = time.monotonic() if adopted else None
        self._adopted = adopted
        self._channel_asked = False
        self._located_at = 0.0
        self._box_due = 0.0
        self._seen: tuple[dialogs.Dialog, float] | None = None
        self._up = False  # its registry file was seen: past the start-up dialogs (16.3)
        self._moved_at = working_time()  # when the start last went on
        self._mended = False  # it was asked to start its bridge again
        self._following = asyncio.Lock()
        self._schedule = schedule

    @property
    def terminal(self) -> Terminal:
        """Where it is typed and read."""
        assert isinstance(self.holder, Terminal)
        return self.holder

    @property
    def decider(self) -> Asks:
        """Where what it asks is decided."""
        return self.asks

    @property
    def courier(self) -> Courier:
        """Delivery for this session; there once `open` has run."""
        assert self._courier is not None
        return self._courier

    async def open(self) -> None:
        """Take up the conversation's transcript and what was offered to it before."""
        receipts = await self._receipts(self.session.conversation, self.session.transcript)
        if not self._adopted:
            receipts.resume()
            if claude_binary.parse(self.session.cli_version) < KEEPS_SIDE_LINES:
                await receipts.forget_side_lines()
        if receipts.refusal and failures.is_past(receipts.refusal, self.task, self.session):
            receipts.pardon()
        self._courier = Courier(self.store, self.task, self.session, self, receipts, self._schedule)
        await self.asks.load(self.session.transcript)

    async def close(self) -> None:
        """The process is gone: what its transcript does not show did not happen."""
        await self.courier.close()
        await self.asks.close()
        await self._count(ended=True)

    # What the process shows

    async def look(self) -> None:
        """One step of the watch: state, dialogs, transcript, delivery."""
        entry = registry.read(
            Path(self.session.config_dir), self.session.pid or 0, self.terminal.hello.started_at
        )
        if entry is not None and entry.state is not None:
            self._up = True
            await self._follow_entry(entry)
            await self._mend_bridge()
        elif not self._up:
            await self._look_at_dialogs()
        await self._locate()
        await self._keep_claims()
        await self._follow_asks()
        await self.courier.step()
        # The courier may have learnt that the channel is closed, or a turn refused.
        self.session = self.courier.session
        await self._leave_limit_dialog()
        await self._count_now_and_then()

    async def _leave_limit_dialog(self) -> None:
        """Close the question what to do about a limit once the session is to go on (29.5)."""
        asked = self.session.state is SessionState.WAITING and self._up
        if not asked or not self.courier.goes_on() or time.monotonic() < self._box_due:
            return
        self._box_due = time.monotonic() + BOX_PAUSE  # it may be another one, left to the person
        await dialogs.choose(self.terminal, dialogs.WAIT_FOR_LIMIT)

    async def _follow_entry(self, entry: registry.Entry) -> None:
        await self.follow(entry.conversation, None)
        changes: dict[str, Any] = {"state": entry.state, "waiting_for": entry.waiting_for}
        if entry.state is SessionState.WAITING:
            changes["waiting_for"] = self.asks.headline() or entry.waiting_for
        if self.session.state is SessionState.STARTING:
            if entry.state is SessionState.IDLE and self._connecting():
                await self.change(waiting_for="connecting its tools")
                return
            # With the feature on, the warning is shown at every start (3.2).
            changes["channel"] = self._channel_asked or self.session.channel
            changes["cli_version"] = entry.version or self.session.cli_version
        await self.change(**changes)

    async def _follow_asks(self) -> None:
        if self.asks.headline() and await self.store.halting(self.task.id):
            await self.asks.deny_all(HALTED)
        await self.asks.step(self.session.state)

    def _listed(self) -> bool:
        """True once the client listed the tools, here or, as it seems, to an earlier worker."""
        connected = self._bridge is not None and time.monotonic() - self._bridge_at
        if self._listed_at is None and connected >= LIST_PATIENCE:
            self._listed_at = time.monotonic()
        return self._listed_at is not None

    def _connecting(self) -> bool:
        """True while the client may still list its tools; a start must not wait without end."""
        return not self._listed() and time.monotonic() - self._bridge_at < BRIDGE_PATIENCE

    async def _mend_bridge(self) -> None:
        """Have the client start its bridge again if it is gone: it does not by itself (17.7)."""
        if self._bridge is not None:
            self._mended = False
            await self.change(reason=None)
            return
        if time.monotonic() - self._bridge_at < BRIDGE_PATIENCE:
            return
        await self.change(reason=NO_TOOLS)
        idle = self.session.state is SessionState.IDLE
        if idle and not self._mended and await self._input_is_free():
            log.info("asking for a new bridge", extra={"action": "mend", "task": self.task.name})
            self._mended = await self.type("/mcp reconnect claudedo")

    async def _look_at_dialogs(self) -> None:
        shown = await dialogs.look(self.terminal)
        dialog = dialogs.find(shown)
        if dialog is None:
            if dialogs.says_no_channel(shown):
                await self.change(channel=False)
            await self._see_no_dialog()
            return
        self._moved_at = working_time()
        if dialog.kind not in self.grants:
            if not self._stays(dialog):
                return
            await self.change(
                state=SessionState.WAITING, waiting_for=f"{dialogs.START_UP}: {dialog.kind}"
            )
            return
        await self.change(waiting_for=f"answering {dialog.kind}", state=SessionState.STARTING)
        if await dialogs.choose(self.terminal, dialogs.LABELS[dialog.kind]):
            self._channel_asked |= dialog.kind is dialogs.Kind.CHANNEL

    async def _see_no_dialog(self) -> None:
        """It is on its way, between dialogs, or held up by something that cannot be read here."""
        if working_time() - self._moved_at > START_PATIENCE:
            waiting_for = f"{dialogs.START_UP}: {dialogs.Kind.OTHER}"
            await self.change(state=SessionState.WAITING, waiting_for=waiting_for)
        elif self.session.state is SessionState.WAITING:
            await self.change(state=SessionState.STARTING, waiting_for="starting claude")

    def _stays(self, dialog: dialogs.Dialog) -> bool:
        """True once the same dialog was seen for a while: a screen half redrawn shows odd ones."""
        at = time.monotonic()
        if self._seen is None or self._seen[0] != dialog:
            self._seen = (dialog, at)
        return at - self._seen[1] >= 1.0

    async def follow(self, conversation: str, transcript: str | None) -> None:
        """Go over to the conversation that the process has now (/clear, /resume, or a fork)."""
        async with self._following:
            if conversation == self.session.conversation:
                if transcript and transcript != self.session.transcript:
                    await self.change(transcript=transcript)
                    self.courier.transcript.path = Path(transcript)
                return
            path = transcript or _text(locate(Path(self.session.config_dir), conversation))
            receipts = await self._receipts(conversation, path)
            receipts.pardon()  # the person went there, and goes on when they like
            self.asks.conversation_left()
            await self.courier.move(receipts)
            await self.change(conversation=conversation, transcript=path)

    async def _locate(self) -> None:
        """Find the transcript by its name when the start hook did not tell its path."""
        if self.session.transcript or time.monotonic() - self._located_at < LOCATE_EVERY:
            return
        self._located_at = time.monotonic()
        if path := locate(Path(self.session.config_dir), self.session.conversation):
            await self.follow(self.session.conversation, str(path))

    # What its processes say (LinkedSession)

    def bridge_came(self, bridge: Bridge) -> None:
        """A bridge is connected; an earlier one, if any, is replaced."""
        self.asks.bridge_came(bridge.name)
        super().bridge_came(bridge)

    def bridge_left(self, bridge: Bridge) -> None:
        """That bridge is gone."""
        if self._bridge is bridge:
            self._listed_at = None
        super().bridge_left(bridge)

    def waiter_came(self, waiter: Waiter) -> bool:
        """Take this waiter; False if one waits already."""
        if self._waiter is not None:
            return False
        self._waiter = waiter
        self.woken.set()
        return True

    def waiter_left(self, waiter: Waiter) -> None:
        """That waiter is gone."""
        if self._waiter is waiter:
            self._waiter = None

    def tools_listed(self) -> None:
        """The client asked for the tools."""
        if self._listed_at is None:
            self._listed_at = time.monotonic()
        super().tools_listed()

    async def hook(self, event: str, call: dict[str, Any], key: str) -> dict[str, Any]:
        """Answer a hook of the session, in the conversation that it was called in."""
        self.woken.set()
        if event == "PermissionRequest":
            # It may be sent again when its conversation was left; another hook came before it.
            return await self.asks.hold(key, call)
        conversation = call.get("session_id")
        if conversation:
            await self.follow(conversation, call.get("transcript_path") or None)
        self.asks.saw(event, call)
        output = await self.courier.hook(event, call)
        self.woken.set()
        return output

    async def hook_cancelled(self, key: str) -> None:
        """The client does not wait for that held hook any more."""
        self.asks.cancelled(key)
        self.woken.set()

    async def hooks_held(self, keys: frozenset[str]) -> None:
        """The client waits for these held hooks, and for none besides that came before."""
        self.asks.still_held(keys)
        self.woken.set()

    async def session_started(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The SessionStart hook ran: at start, and after /clear, /resume and a compaction."""
        conversation = payload.get("session_id")
        # Of a fork, older versions name the conversation that it was forked from (24.5).
        if conversation and conversation != _forked(self.session):
            await self.follow(str(conversation), payload.get("transcript_path"))
        self.woken.set()
        return {}

    # The ways in (courier.Links)

    async def push(self, content: str, meta: dict[str, str]) -> bool:
        """Send a channel notification; False if no bridge is there to take it."""
        return self._bridge is not None and await self._bridge.push(content, meta)

    async def ping(self) -> bool:
        """True once the client answered, and so has handled all that was sent before."""
        return self._bridge is not None and await self._bridge.ping()

    async def wake(self, text: str) -> bool:
        """Let the waiter end with this text; False if there is none."""
        waiter, self._waiter = self._waiter, None  # it ends now; the next one may come
        return waiter is not None and await waiter.wake(text)

    async def type(self, text: str) -> bool:
        """Type a line into the idle terminal; False if it could not be submitted.

        Enter is pressed only once the input box holds just that line: never blindly, because it
        might answer a dialog.
        """
        try:
            await self.terminal.write(dialogs.CLEAR)
            await asyncio.sleep(0.1)
            await self.terminal.write(text.encode())
            self._typed = text
            if not await self._shows(text):
                return False
            await self.terminal.write(dialogs.ENTER)
        except HolderGoneError:
            return False
        return True

    async def _shows(self, text: str) -> bool:
        """True once the input box holds that line; False if it does not within the bound."""
        until = time.monotonic() + ECHO_PATIENCE
        while time.monotonic() < until:
            if _same(await self._draft(), text):
                return True
            await asyncio.sleep(0.1)
        return False

    def can_push(self) -> bool:
        """True if a push can be taken: the tools were listed long enough ago (17.2)."""
        listed = self._listed() and time.monotonic() - (self._listed_at or 0.0) >= PUSH_DELAY
        return self._bridge is not None and listed

    def can_wake(self) -> bool:
        """True if a waiter waits, and no channel is about to open.

        Without a bridge a reminder would be in vain: neither hook nor tool could follow it.
        """
        return self._waiter is not None and self._bridge is not None and not self._opening()

    async def can_type(self) -> bool:
        """True if a reminder can be typed, and would not be in vain (see `can_wake`)."""
        return self._bridge is not None and not self._opening() and await self._input_is_free()

    def _opening(self) -> bool:
        """True while a channel is about to open: the better way is moments away."""
        return self.session.channel is not False and not self.can_push()

    async def _input_is_free(self) -> bool:
        """True if no draft stands in the input box and nobody typed a moment ago.

        A line of ours that stands there (an Esc brings it back, 14.5) is no draft.
        """
        try:
            typed = (await self.terminal.status()).last_input_at
            # A moment still to come: the clock was set back since.
            if typed is not None and 0 <= time.time() - typed < TYPING_PAUSE:
                return False
            if time.monotonic() < self._box_due:
                return False
            draft = await self._draft()
        except HolderGoneError:
            return False
        free = draft == "" or (self._typed != "" and _same(draft, self._typed))
        # A long scrollback takes a second to draw: while a draft stands, look now and then only.
        self._box_due = 0.0 if free else time.monotonic() + BOX_PAUSE
        return free

    async def _draft(self) -> str | None:
        return dialogs.input_box(await dialogs.look(self.terminal))

    def transports(self) -> list[str]:
        """Which ways in are open at this moment."""
        ways = {
            "hook": self._bridge is not None,
            "check_inbox": self._bridge is not None,
            "channel": self.session.channel is not False and self.can_push(),
            "waiter": self.can_wake(),
            "typed": not self.terminal.lost,
        }
        return [way for way, there in ways.items() if there]


def _same(draft: str | None, line: str) -> bool:
    """True if the input box holds that line, however it is wrapped."""
    return draft is not None and "".join(draft.split()) == "".join(line.split())


def _forked(session: Session) -> str | None:
    """The conversation that a session's own was forked from."""
    return Path(session.fork_of).stem if session.fork_of else None


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
