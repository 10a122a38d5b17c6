"""What asks the person something: a choice by a key, a text to write. Esc makes both None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

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

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", show=False, priority=True),
        Binding("ctrl+e", "editor", show=False, priority=True),
        Binding("enter", "done", show=False, priority=True),
        Binding("ctrl+j,alt+enter,shift+enter", "newline", show=False, priority=True),
    ]

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
            yield TextArea(self._text, soft_wrap=True, show_line_numbers=False, theme="css")
            keys = {"Enter": self._done, "Ctrl-J": "new line", "Ctrl-E": "editor", "Esc": "back"}
            yield Static(key_line(keys))

    def check_action(self, _action: str, _parameters: tuple[object, ...]) -> bool | None:
        """Nothing is done twice by keys that come before the first has closed this."""
        return self.is_current

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor(area.document.end)

    def action_back(self) -> None:
        self._keep(self.draft)
        self.dismiss(None)

    def action_done(self) -> None:
        if self.draft.strip() or self._empty:
            self.dismiss(self.draft)

    def action_newline(self) -> None:
        self.query_one(TextArea).insert("\n")

    def action_editor(self) -> None:
        """Write on in $VISUAL or $EDITOR."""
        desk = cast("Desk", self.app)
        with desk.terminal_given_away():
            self._take(edit_text("message.md", self.draft))

    def _take(self, text: str) -> None:
        area = self.query_one(TextArea)
        area.text = text
        area.move_cursor(area.document.end)


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
