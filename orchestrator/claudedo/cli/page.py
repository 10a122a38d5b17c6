"""`claudedo open`: the page in a browser, by a link that works once."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from claudedo.cli import options, render

app = typer.Typer()


@app.command(name="open", rich_help_panel="Service")
def open_page(
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the link and open nothing.")
    ] = False,
) -> None:
    """Open the page in a browser. The link works once and for 60 seconds.

    Example: claudedo open --print
    """
    link = options.worker().page_link()
    render.show(link)
    if only_print:
        return
    if connection := os.environ.get("SSH_CONNECTION"):
        render.note("You are here over SSH. On your own machine, run this first:")
        render.note(f"  {_tunnel(link, connection)}")
    elif not _open(link):
        render.note("No browser could be opened: open the link yourself.")


def _tunnel(link: str, connection: str) -> str:
    """The command that brings the page's port to the machine of the person."""
    port = urlsplit(link).port
    fields = connection.split()  # client address, its port, our address, our port (sshd(8))
    host = fields[2] if len(fields) == 4 else "THIS-HOST"
    return f"ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{host}"


def _open(link: str) -> bool:
    if not _has_desktop():
        return False
    import webbrowser

    return webbrowser.open(link)


def _has_desktop() -> bool:
    """False where only a browser of the terminal could be opened, which would take it over."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    )
