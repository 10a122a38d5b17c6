"""`claudedo demo`: hands over to the demonstration, which needs neither account nor network."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(rich_help_panel="Service")
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its folder for you to look at.")
    ] = False,
) -> None:
    """Show two linked sessions at work, without an account and without network.

    Example: claudedo demo
    """
    from claudedo.demo.run import run

    raise typer.Exit(run(keep=keep))
