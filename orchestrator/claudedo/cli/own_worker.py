"""A worker for the time of one command, where none ran before.

What a build server runs must leave nothing behind; what a person keeps running is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from claudedo import settings
from claudedo.cli import render
from claudedo.cli.worker import STOP_SECONDS, stop_and_wait
from claudedo.client import WorkerClient
from claudedo.errors import ClaudedoError, UnavailableError
from claudedo.model import QueueStatus, SessionState

_LOOK_SECONDS = 0.05


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
    """End the worker, once the sessions that are ending have ended; not while others go on."""
    try:
        client.connect(start=False)
        deadline = time.monotonic() + STOP_SECONDS
        while client.worker()["sessions"]:
            if _goes_on(client) or time.monotonic() > deadline:
                return
            time.sleep(_LOOK_SECONDS)
        stop_and_wait(client)
    except UnavailableError:
        return  # it is gone already
    except ClaudedoError as error:  # the result of the command stands
        render.note(f"The worker that was started for this is still there: {error}")


def _goes_on(client: WorkerClient) -> bool:
    """True while a session runs that is more than the end of a one-shot."""
    ending = {one["task"] for one in client.one_shots() if one["status"] != QueueStatus.RUNNING}
    return any(
        task["session"] and SessionState(task["session"]["state"]).live
        for task in client.tasks()
        if task["id"] not in ending
    )
