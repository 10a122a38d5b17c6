"""Where MCP clients with a token come in; see `mcp_http`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from claudedo_worker.api.context import Context


async def mcp_post(context: Context, request: Request) -> Response:
    """One message of a client."""
    return await context.mcp.post(request, request.state.body)


async def mcp_get(context: Context, request: Request) -> Response:
    """The stream of a client."""
    return await context.mcp.get(request)


async def mcp_delete(context: Context, request: Request) -> Response:
    """A client is done."""
    return await context.mcp.delete(request)
