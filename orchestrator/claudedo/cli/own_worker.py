"""A worker for the time of one command, where none ran before.

What a build server runs must leave nothing behind; what a person keeps running is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from claudedo import settings
from claudedo.cli import render
from claudedo.cli.worker import stop_and_wait
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError, UnavailableError


@contextmanager
def own_worker() -> Iterator[WorkerClient]:
    """The worker. One that had to be started ends with the command, unless a session goes on.

    Who leaves by a second Ctrl-C leaves it running: it has sessions to end.
    """
    client = WorkerClient(settings.load())
    ours = not client.listening()
    client.connect()
    try:
        yield client
    except KeyboardInterrupt:
        ours = False
        raise
    finally:
        if ours:
            _end(client)


def _end(client: WorkerClient) -> None:
    try:
        if client.connect(start=False).worker()["sessions"] == 0:
            stop_and_wait(client)
    except UnavailableError:
        return  # it is gone already
    except ClaudedoError as error:  # the result of the command stands
        render.note(f"The worker that was started for this is still there: {error}")
