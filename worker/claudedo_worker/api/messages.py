"""Messages and events: said, told, awaited."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo import protocol
from claudedo.errors import UsageError
from claudedo.model import Rung
from claudedo_worker.api.context import Context, sender_of, task_of
from claudedo_worker.api.decode import (
    body_of,
    line,
    lines,
    number,
    optional,
    priority,
    text,
    wait_seconds,
)

FOUND = 1000
"""So many messages one search returns at most."""

LONGEST_PART = 500
"""So many messages one part of a thread has at most."""


async def send_message(context: Context, request: Request) -> Response:
    """Store a message for a task."""
    data = body_of(request)
    task, sender = await task_of(context, request), await sender_of(context, request)
    if sender:
        await context.mailbox.check_reach(sender, task)
    message = await context.mailbox.send(
        task,
        text(data, "body"),
        sender=sender,
        key=optional(data, "key"),
        priority=priority(data),
        reply_to=optional(data, "reply_to"),
        attachments=lines(data, "attachments"),
    )
    return JSONResponse(protocol.sent_json(message))


async def thread(context: Context, request: Request) -> Response:
    """What was said to a task and by it, oldest first; all of it, or a part."""
    task = await task_of(context, request)
    before, after = (request.query_params.get(name) for name in ("before", "after"))
    if before and after:
        raise UsageError("Give `before` or `after`, not both.")
    limit = number(request, "limit")
    if before or after or limit:
        most = min(limit or LONGEST_PART, LONGEST_PART)
        messages = await context.store.thread_part(task.id, most, before=before, after=after)
    else:
        messages = await context.store.thread(task.id)
    return JSONResponse([protocol.message_json(message) for message in messages])


async def search(context: Context, request: Request) -> Response:
    """Messages that hold all of the words."""
    words = line(request.query_params, "words").split()
    if not words:
        raise UsageError("Name at least one word to look for.")
    found = await context.store.search(words, min(number(request, "limit") or FOUND, FOUND))
    return JSONResponse([protocol.message_json(message) for message in found])


async def message(context: Context, request: Request) -> Response:
    """How far a message came; waits for a rung if asked to."""
    message_id = request.path_params["message"]
    rung = request.query_params.get("rung")
    if rung and rung not in set(Rung):
        raise UsageError(f"{rung!r} is no rung; there are {', '.join(Rung)}.")
    until = time.monotonic() + wait_seconds(request)
    while True:
        newest = context.bus.last
        message = await context.store.message(message_id)
        left = until - time.monotonic()
        if not rung or message.receipts.reached(Rung(rung)) or left <= 0:
            return JSONResponse(protocol.sent_json(message))
        await context.bus.wait(left, since=newest)


async def events(context: Context, request: Request) -> Response:
    """The facts after a number; waits for the first one if asked to."""
    after = min(number(request, "after"), await context.store.last_event())
    until = time.monotonic() + wait_seconds(request)
    while True:
        newest = context.bus.last
        events = await context.store.events_after(after)
        left = until - time.monotonic()
        if events or left <= 0:
            break
        await context.bus.wait(left, since=newest)
    told = [protocol.event_json(event) for event in events]
    return JSONResponse({"events": told, "next": events[-1].seq if events else after})
