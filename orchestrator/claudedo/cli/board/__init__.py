"""Bare `claudedo` on a terminal: the live list of sessions and asks, with keys.

`show` is the way in. Importing this package imports textual, which is slow: only the one command
that draws the list does it.
"""

from claudedo.cli.board.board import show

__all__ = ["show"]
