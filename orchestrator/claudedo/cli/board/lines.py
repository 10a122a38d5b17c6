"""The two things the list is made of: lines that scroll, and lines to choose from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from claudedo.cli.board.picture import Row


class Lines(Widget):
    """Shows lines from `top` on, cut at the right edge. Draws anew only what changed."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Text] = []
        self._top = 0

    @property
    def below(self) -> int:
        """How many lines there are below the last one that is seen."""
        return max(0, len(self._lines) - self._top - self.size.height)

    def show_lines(self, lines: Sequence[Text]) -> None:
        """Show these lines instead."""
        old, self._lines = self._lines, list(lines)
        self._scroll(self._top)
        for y in range(self.size.height):
            index = self._top + y
            if _at(old, index) != _at(self._lines, index):
                self.refresh(Region(0, y, self.size.width, 1))

    def scroll_lines(self, count: int) -> None:
        """Go down by `count` lines, or up."""
        self._scroll(self._top + count)

    def scroll_to_line(self, index: int) -> None:
        """Bring a line into sight; -1 is the last."""
        index = index if index >= 0 else len(self._lines) + index
        if index < self._top:
            self._scroll(index)
        elif index >= self._top + self.size.height:
            self._scroll(index - self.size.height + 1)

    def _scroll(self, top: int) -> None:
        top = max(0, min(top, len(self._lines) - self.size.height))
        if top != self._top:
            self._top = top
            self.refresh()

    def on_resize(self, _event: events.Resize) -> None:
        self._scroll(self._top)

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        text = _at(self._lines, self._top + y)
        segments: list[Segment] = []
        if text is not None:
            shown = text.copy()
            shown.end = ""
            drawn = shown.render(self.app.console)
            segments = list(Segment.apply_style(drawn, self.rich_style))
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)


class Choices(Lines):
    """Rows of which one may be chosen. The cursor stays with its row while others come and go."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows: list[Row] = []
        self._key: str | None = None

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return next((row for row in self._rows if row.key == self._key), None)

    def show_rows(self, rows: Sequence[Row]) -> bool:
        """Show these rows instead. True if the cursor had to leave a row that is gone."""
        before = self._keys()
        self._rows = list(rows)
        keys = self._keys()
        moved = self._key is not None and self._key not in keys
        if self._key not in keys:
            self._key = self._neighbour(before, keys)
        self._draw()
        return moved

    def move(self, count: int) -> None:
        """Put the cursor `count` rows further down, or up; it stops at the ends."""
        keys = self._keys()
        if keys and self._key is not None:
            index = keys.index(self._key) + count
            self._key = keys[max(0, min(index, len(keys) - 1))]
            self._draw()

    def _keys(self) -> list[str]:
        return [row.key for row in self._rows if row.key]

    def _neighbour(self, before: list[str], keys: list[str]) -> str | None:
        """The row that took the place of the one that is gone: one of its kind, if there is one."""
        if self._key is None or self._key not in before:
            return keys[0] if keys else None
        kind = self._key.split()[0]
        alike = [key for key in keys if key.split()[0] == kind]
        place = [key for key in before if key.split()[0] == kind].index(self._key)
        return alike[min(place, len(alike) - 1)] if alike else next(iter(keys), None)

    def _draw(self) -> None:
        lines = [
            row.chosen() if row.key and row.key == self._key else row.text for row in self._rows
        ]
        self.show_lines(lines)
        places = [index for index, row in enumerate(self._rows) if row.key == self._key]
        if self._key is not None and places:
            if self._keys()[0] == self._key:
                self.scroll_to_line(0)  # the heading above the first row
            self.scroll_to_line(places[0])

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        self._draw()


def _at(lines: Sequence[Text], index: int) -> Text | None:
    return lines[index] if index < len(lines) else None
