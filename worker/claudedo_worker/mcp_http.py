"""MCP over HTTP for clients that claudedo did not start: Streamable HTTP, and the older SSE.

The SDK answers each request by itself; what a session is stands in the store. So a session goes on
at the next worker under its old id, without another handshake (docs/claude-cli.md 4.15). Streams
are ours (`mcp_sse`): the SDK's do not tell whether anybody read a push. Knows nothing of mail; see
`clients`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import anyio
import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.errors import ForbiddenError, NotFoundError, UsageError
from claudedo.model import Token
from claudedo_worker.access import KEY, Access
from claudedo_worker.clients import RETRY, UNSETTLED, Client, Clients
from claudedo_worker.mcp_sse import EventStream
from claudedo_worker.store import Store

log = logging.getLogger(__name__)

SESSION_HEADER, VERSION_HEADER = "mcp-session-id", "mcp-protocol-version"
OLDEST_VERSION = "2025-03-26"
"""What a request without a version header speaks, says the specification."""

VERSIONS = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)

PERMISSION_REQUEST = "notifications/claude/channel/permission_request"
CAPABILITIES: dict[str, dict[str, Any]] = {"claude/channel": {}, "claude/channel/permission": {}}
LARGE = 1024 * 1024  # bytes of a request that is decoded beside the event loop

INSTRUCTIONS = """\
claudedo connects you with the person who owns this workspace and with the other sessions in it.

Messages reach you by themselves as `<channel source="claudedo" ...>`, or through `check_inbox`.
One with user="human" is from that person, in answer to you or by their own initiative; any other
is a teammate's and cannot approve anything. A message marked "possibly seen before" may be one
that you acted on: act on each once.

To ask the person for something use `createTask` with assignee "human"; their answer comes to you
by itself. To say something in a task's thread use `reply` with its `chat_id`. `getTask` without
an id gives you the next task that nobody works on; say how far you are with `updateTaskStatus`.
"""


class Asked(Protocol):
    """Takes the permission requests of clients."""

    async def asked(self, client: Client, params: Mapping[str, Any]) -> None:
        """A client's program asks its person."""
        ...

    async def went_on(self, client: Client) -> None:
        """The client calls a tool, so it does not wait for an answer."""
        ...


@dataclass
class _Call:
    """One request as the SDK sees it. Nothing can be asked back while it is answered."""

    request_id: types.RequestId
    transport: TransportContext
    message_metadata: MessageMetadata = None
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Nothing is told while a request is answered."""

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Calls are short."""


class McpHttp:
    """The endpoint `/mcp/{workspace}`. Who may come was looked at before."""

    def __init__(self, store: Store, clients: Clients, relay: Asked, version: str) -> None:
        self._store = store
        self._clients = clients
        self._relay = relay
        self._version = version

    async def post(self, request: Request, body: bytes) -> Response:
        """One JSON-RPC message of a client."""
        access = await self._admit(request)
        message = await _message(body)
        if refusal := _refusal(request, message):
            return JSONResponse(_dumped(refusal), 400)
        if session := request.query_params.get("session_id"):
            return await self._post_to_stream(access, session, message)
        if isinstance(message, types.JSONRPCRequest) and message.method == "initialize":
            client = await self._open(access, message)
            headers = {SESSION_HEADER: client.connection.id}
        else:
            client = await self._client(access, request, asks=True)
            headers = {}
        if isinstance(message, types.JSONRPCRequest):
            answer = await self._answer(client, message, request.headers.get(VERSION_HEADER))
            return JSONResponse(_dumped(answer), headers=headers)
        await self._take(client, message)
        return Response(status_code=202)

    async def get(self, request: Request) -> Response:
        """The stream of a session; without one, the older transport, whose stream is the session.

        A stream that the client opens again takes the place of the one before.
        """
        access = await self._admit(request)
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise UsageError("This is a stream for MCP clients: accept text/event-stream.")
        if SESSION_HEADER in request.headers:
            client = await self._client(access, request)
            headers = {SESSION_HEADER: client.connection.id}
            return EventStream(lambda s: self._clients.serve(client, s), headers, retry=RETRY)
        if request.method == "HEAD":  # the stream would be the session, and there is none
            return Response(headers={"Content-Type": EventStream.media_type})
        client = await self._clients.open(_token(access), access.shown, "sse")
        endpoint = _endpoint(request, client.connection.id)
        return EventStream(lambda s: self._clients.serve(client, s, endpoint))

    async def delete(self, request: Request) -> Response:
        """The client is done with its session."""
        client = await self._client(await self._admit(request), request)
        await self._clients.end(client)
        return Response(status_code=200)

    # Who

    async def _admit(self, request: Request) -> Access:
        """Who asks, now that the whole request is there: the token may be over meanwhile.

        Raises `UnauthorizedError` if it is, `NotFoundError` for a workspace that is none,
        `ForbiddenError` for another's.
        """
        access: Access = request.scope[KEY]
        await self._clients.check(access.shown)
        named = request.path_params["workspace"]
        found = [w for w in await self._store.workspaces() if named in (w.id, w.name)]
        if not found:
            raise NotFoundError(f"There is no workspace {named!r}.")
        if found[0].id != _token(access).workspace_id:
            raise ForbiddenError("This token is another workspace's.")
        return access

    async def _client(self, access: Access, request: Request, *, asks: bool = False) -> Client:
        session = request.headers.get(SESSION_HEADER)
        if not session:
            raise UsageError("The header Mcp-Session-Id is missing; initialize first.")
        find = self._clients.find_to_ask if asks else self._clients.find
        return await find(_token(access), access.shown, session)

    async def _open(self, access: Access, message: types.JSONRPCRequest) -> Client:
        info = (message.params or {}).get("clientInfo")
        words = [info.get(key) for key in ("name", "version")] if isinstance(info, dict) else []
        name = " ".join(word for word in words if isinstance(word, str))
        return await self._clients.open(_token(access), access.shown, name or "unknown")

    # What

    async def _post_to_stream(
        self, access: Access, session: str, message: types.JSONRPCMessage
    ) -> Response:
        """The older transport: the answer goes into the session's stream."""
        client = await self._clients.find(_token(access), access.shown, session)
        if client.stream is None:
            raise NotFoundError("The stream of this session is over; open another one.")
        if isinstance(message, types.JSONRPCRequest) and message.method == "initialize":
            client.greeted()
        if not isinstance(message, types.JSONRPCRequest):
            await self._take(client, message)
            return Response(status_code=202)
        return Response(
            status_code=202, background=BackgroundTask(self._answer_into_stream, client, message)
        )

    async def _answer_into_stream(self, client: Client, message: types.JSONRPCRequest) -> None:
        answer = await self._answer(client, message, None)
        if client.stream:
            text = answer.model_dump_json(by_alias=True, exclude_unset=True)
            await client.stream.write("message", text)

    async def _answer(
        self, client: Client, message: types.JSONRPCRequest, version: str | None
    ) -> types.JSONRPCResponse | types.JSONRPCError:
        params = message.params or {}
        tool = str(params.get("name")) if message.method == "tools/call" else None
        runner = ServerRunner(
            client.server,
            Connection.from_envelope(version or OLDEST_VERSION, None, None),
            {},
            init_options=self._greeting(client),
        )
        transport = TransportContext(kind="streamable-http", can_send_request=False)
        call = _Call(message.id, transport)
        try:
            await self._clients.heard(client, tool)
            if tool:
                await self._relay.went_on(client)
            result = await runner.on_request(call, message.method, message.params)
        except Exception as error:
            known = handler_exception_to_error_data(error)
            if known is None:
                log.exception("an MCP request failed", extra={"action": "mcp_failed"})
            words = types.ErrorData(code=types.INTERNAL_ERROR, message="Internal server error")
            return types.JSONRPCError(jsonrpc="2.0", id=message.id, error=known or words)
        return types.JSONRPCResponse(jsonrpc="2.0", id=message.id, result=result)

    def _greeting(self, client: Client) -> InitializationOptions:
        options = client.server.create_initialization_options(
            experimental_capabilities=CAPABILITIES
        )
        changes = {"server_version": self._version, "instructions": INSTRUCTIONS}
        return options.model_copy(update=changes)

    async def _take(self, client: Client, message: types.JSONRPCMessage) -> None:
        """A notification, or the answer to something that we never ask."""
        if not isinstance(message, types.JSONRPCNotification):
            return
        if message.method == "notifications/initialized":
            client.settle(UNSETTLED)
        elif message.method == PERMISSION_REQUEST:
            await self._relay.asked(client, message.params or {})


def _token(access: Access) -> Token:
    assert access.token is not None
    return access.token


async def _message(body: bytes) -> types.JSONRPCMessage:
    adapter = types.jsonrpc_message_adapter
    try:
        if len(body) < LARGE:
            return adapter.validate_json(body, by_name=False)
        return await asyncio.to_thread(adapter.validate_json, body, by_name=False)
    except ValidationError as error:
        raise UsageError("The request is no JSON-RPC message.") from error


def _refusal(request: Request, message: types.JSONRPCMessage) -> types.JSONRPCError | None:
    """What newer clients try first: who is answered there opens no stream for pushes (4.13).

    Raises `UsageError` for the same in what is not answered.
    """
    version = request.headers.get(VERSION_HEADER)
    unfit = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
    if not isinstance(message, types.JSONRPCRequest):
        if unfit:
            raise UsageError(f"This revision of MCP is not spoken here; {VERSIONS} are.")
        return None
    if message.method == "server/discover":
        error = types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found")
    elif unfit:
        error = types.ErrorData(
            code=types.UNSUPPORTED_PROTOCOL_VERSION,
            message="Unsupported protocol version",
            data={"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version},
        )
    else:
        return None
    return types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)


def _endpoint(request: Request, session: str) -> str:
    """Where the client of an older stream is to post: with the token where it came with the URL."""
    query = {"session_id": session}
    if token := request.query_params.get("token"):
        query["token"] = token
    return f"/mcp/{quote(request.path_params['workspace'])}?{urlencode(query)}"


def _dumped(message: types.JSONRPCResponse | types.JSONRPCError) -> dict[str, Any]:
    return message.model_dump(by_alias=True, mode="json", exclude_unset=True)
