"""What the list and every text that is read in it are drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget

from claudedo.cli.board.lines import Lines

if TYPE_CHECKING:
    from claudedo.cli.board.desk import Desk


class Sheet(Screen[None]):
    """A screen: its main part between a title and, below, a notice and a line of keys."""

    @property
    def desk(self) -> Desk:
        """The application."""
        return cast("Desk", self.app)

    def main(self) -> Sequence[Widget]:
        """What stands between the bars."""
        return [Lines(id="main")]

    def compose(self) -> ComposeResult:
        top, keys, said = Lines(id="top"), Lines(id="keys"), Lines(id="said")
        for bar in (top, keys, said):
            bar.add_class("bar")
        yield top
        yield from self.main()
        yield said
        yield keys

    def draw(self) -> None:
        """Show what is known now, in the present width."""
        raise NotImplementedError

    def on_mount(self) -> None:
        self.draw()

    def on_resize(self, _event: events.Resize) -> None:
        self.call_after_refresh(self.draw)

    def check_action(self, _action: str, _parameters: tuple[object, ...]) -> bool | None:
        """No key does anything once another screen is above: it was typed for that one."""
        return self.is_current and bool(self.query("#main"))
