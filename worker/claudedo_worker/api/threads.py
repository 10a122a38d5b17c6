"""Tasks made in so many words, how far they are, and the files that messages carry."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from claudedo import moves, protocol
from claudedo.errors import StorageError, UsageError
from claudedo.model import Assignee, Attachment, Task, TaskStatus
from claudedo_worker.api.context import Context, party_of, task_of
from claudedo_worker.api.decode import announced, body_of, line, objects, optional, text
from claudedo_worker.api.tokens import workspace_of
from claudedo_worker.threads import PERSON

# A browser that opens the address saves the file; it shows nothing of it and runs nothing in it.
_SAVED = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}


async def create_task(context: Context, request: Request) -> Response:
    """A new task: for an agent, or a reminder for the person. Its files come with it, in base64."""
    data = body_of(request)
    assignee = optional(data, "assignee") or Assignee.AGENT
    if assignee not in set(Assignee):
        raise UsageError("`assignee` must be human or agent.")
    title, body = line(data, "title"), text(data, "body")
    workspace = await workspace_of(context, data)
    task = await context.threads.create(
        PERSON,
        workspace.id,
        title=title,
        body=body,
        assignee=Assignee(assignee),
        attachments=objects(data, "attachments"),
        key=optional(data, "key"),
    )
    return JSONResponse(_shown(task))


async def move_task(context: Context, request: Request) -> Response:
    """Say how far a task is; words go to whoever must know."""
    data, task = body_of(request), await task_of(context, request)
    status = line(data, "status")
    if status not in set(TaskStatus):
        raise UsageError(f"{status!r} is no status; there are {', '.join(TaskStatus)}.")
    words = optional(data, "words") or ""
    moved = await context.threads.move(PERSON, task, TaskStatus(status), words)
    return JSONResponse({**_shown(moved), "previous": task.status})


async def history(context: Context, request: Request) -> Response:
    """How the status of a task changed, oldest first."""
    task = await task_of(context, request)
    return JSONResponse([protocol.move_json(move) for move in await context.store.moves(task.id)])


async def upload(context: Context, request: Request) -> Response:
    """Take a file as it comes; a message that is sent next to the same task carries it."""
    task, party = await task_of(context, request), await party_of(context, request)
    await context.threads.find(party, task.id)
    filename = line(request.query_params, "filename")
    context.attachments.check_size(announced(request), filename)
    kept = context.attachments.keep(
        _chunks(request), filename=filename, mime_type=request.query_params.get("type")
    )
    async with kept as content:
        file = await context.threads.upload(party, task, content)
    return JSONResponse(protocol.attachment_json(file))


async def download(context: Context, request: Request) -> Response:
    """The bytes of a file, never to be shown by a browser."""
    party = await party_of(context, request)
    file = await context.threads.attachment(party, request.path_params["attachment"])
    return _saved(context, file)


def _saved(context: Context, file: Attachment) -> Response:
    path = context.attachments.path(file)
    if not path.is_file():
        raise StorageError(f"The bytes of {file.filename} are gone from {path.parent}.")
    return FileResponse(
        path,
        media_type=file.mime_type,
        filename=file.filename,
        content_disposition_type="attachment",
        headers=_SAVED,
    )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise UsageError("The upload broke off.") from error


def _shown(task: Task) -> dict[str, object]:
    shown = protocol.task_json(task, None, pending=0, asks=0, peers=[])
    names = ("id", "name", "workspace", "title", "status", "assignee")
    return {**{key: shown[key] for key in names}, "moves": moves.onward(task.assignee, task.status)}
