"""The event bus: what is told of a workspace, as server-sent events; see `listeners`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from claudedo.errors import ForbiddenError, UsageError
from claudedo_worker.access import KEY, Access
from claudedo_worker.api.context import Context
from claudedo_worker.api.decode import number

RESUME = "last-event-id"


async def workspace_events(context: Context, request: Request) -> Response:
    """What is told of a workspace, as it happens, after what the client had before."""
    workspace = await context.store.find_workspace(request.path_params["workspace"])
    access: Access = request.scope[KEY]
    if access.token and access.token.workspace_id != workspace.id:
        raise ForbiddenError("This token is another workspace's.")
    after = _had(request)
    newest = await context.store.last_event()
    after = newest if after is None else min(after, newest)
    return context.listeners.open(workspace, after, access.token, access.shown)


def _had(request: Request) -> int | None:
    """The number of the last event that the client has; None if it never had one.

    The header comes from a client that lost its stream, so it counts before the address.
    """
    if header := request.headers.get(RESUME):
        if not (header.isascii() and header.isdigit() and len(header) < 19):
            raise UsageError("`Last-Event-ID` must be the id of an event, a number.")
        return int(header)
    return number(request, "after") if "after" in request.query_params else None
