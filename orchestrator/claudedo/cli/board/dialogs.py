"""What asks the person something: a choice by a key, a text to write. Esc makes both None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea
from textual.widgets.text_area import Selection

from claudedo.cli.edited_input import edit_text

if TYPE_CHECKING:
    from claudedo.cli.board.desk import Desk


class Choose(ModalScreen[str | None]):
    """Shows lines and lets the person press one of `keys` (key -> what it does)."""

    def __init__(self, lines: Sequence[Text], keys: Mapping[str, str]) -> None:
        super().__init__()
        self._lines = lines
        self._keys = keys

    def compose(self) -> ComposeResult:
        with Vertical():
            for line in self._lines:
                yield Static(line)
            yield Static(key_line({**self._keys, "Esc": "back"}))

    def on_key(self, event: events.Key) -> None:
        event.stop()
        if not self.is_current:  # a second key before the first has closed this
            return
        pressed = event.character or event.key
        if pressed in self._keys:
            self.dismiss(pressed)
        elif event.key == "escape":
            self.dismiss(None)


class Write(ModalScreen[str | None]):
    """Lets the person write a text. `keep` is given what stands there when they go back."""

    def __init__(
        self,
        lines: Sequence[Text],
        text: str = "",
        *,
        done: str = "send",
        empty: bool = False,
        keep: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._text = text
        self._done = done
        self._empty = empty  # nothing at all is an answer, too
        self._keep = keep

    @property
    def draft(self) -> str:
        """What stands there now."""
        return self.query_one(TextArea).text

    def compose(self) -> ComposeResult:
        with Vertical():
            for line in self._lines:
                yield Static(line)
            yield Page(self._text)
            keys = {"Enter": self._done, "Ctrl-J": "new line", "Ctrl-E": "editor", "Esc": "back"}
            yield Static(key_line(keys))

    def on_mount(self) -> None:
        self.query_one(Page).focus()

    def on_key(self, event: events.Key) -> None:
        """What was typed before the page was ready to take it."""
        if self.is_current and event.is_printable and event.character:
            event.stop()
            self.query_one(Page).insert(event.character)

    def go_back(self) -> None:
        """Close without a text."""
        self._keep(self.draft)
        self.dismiss(None)

    def finish(self) -> None:
        """Close with the text."""
        if self.draft.strip() or self._empty:
            self.dismiss(self.draft)

    def use_editor(self) -> None:
        """Write on in $VISUAL or $EDITOR."""
        desk = cast("Desk", self.app)
        with desk.terminal_given_away():
            self.query_one(Page).take(edit_text("message.md", self.draft))


class Page(TextArea):
    """The text. Handles the dialog's keys itself, so that they come after what was typed before."""

    def __init__(self, text: str) -> None:
        super().__init__(text, soft_wrap=True, show_line_numbers=False, theme="css")
        # Not on mount: what is typed by then would stand before the text.
        self.set_reactive(TextArea.selection, Selection.cursor(self.document.end))

    def on_key(self, event: events.Key) -> None:
        dialog = self.screen
        assert isinstance(dialog, Write)
        does = {"enter": dialog.finish, "escape": dialog.go_back, "ctrl+e": dialog.use_editor}
        newlines = ("ctrl+j", "alt+enter", "shift+enter")
        if dialog.is_current and event.key not in (*does, *newlines):
            return  # what a page usually does with it
        event.stop()
        event.prevent_default()
        if not dialog.is_current:  # it came before the last one has closed this
            return
        if event.key in does:
            does[event.key]()
        else:
            self.insert("\n")

    def take(self, text: str) -> None:
        """Show this text instead."""
        self.text = text
        self.move_cursor(self.document.end)


def key_line(keys: Mapping[str, str], width: int | None = None) -> Text:
    """`KEY what it does`, side by side; what does not fit is left out, but for the last two."""
    entries = [Text.assemble((key, "bold"), f" {does}") for key, does in keys.items()]
    while width is not None and len(entries) > 2 and _width(entries) > width:
        del entries[-3]
    line = Text("  ", end="", no_wrap=width is not None).join(entries)
    if width is not None:
        line.truncate(width, overflow="crop")
    return line


def _width(entries: Sequence[Text]) -> int:
    return sum(entry.cell_len + 2 for entry in entries) - 2
