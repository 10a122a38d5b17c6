"""The MCP tools of a session: arguments in, a call of the service, structured results out.

One server per connection, bound to the task whose session it serves, so that no argument can name
another caller. Knows nothing about sockets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import mcp_types as types
from mcp.server.lowlevel import Server

from claudedo.errors import ClaudedoError, UsageError
from claudedo.model import Message, Priority

log = logging.getLogger(__name__)

# Without it results above about 50,000 characters become a file reference (12.0).
_LARGE = {"anthropic/maxResultSizeChars": 500_000}
TOOL_USE = "claudecode/toolUseId"
"""The key of a call's `_meta` with the id that hooks and transcript use too (22.5)."""


class Caller(Protocol):
    """What one session may do; each method is one tool."""

    async def check_inbox(
        self, task_id: str | None, limit: int | None, tool_use_id: str | None
    ) -> dict[str, Any]:
        """Lend the undelivered messages to this call."""
        ...

    async def inbox_status(self, task_id: str | None) -> dict[str, Any]:
        """How many messages wait."""
        ...

    async def send(
        self,
        target: str | None,
        body: str,
        *,
        reply_to: str | None,
        priority: Priority,
        tool_use_id: str | None,
    ) -> dict[str, Any]:
        """Write to a task; to the only peer if `target` is None."""
        ...

    async def list_peers(self) -> dict[str, Any]:
        """The linked tasks."""
        ...


Handler = Callable[[Caller, Mapping[str, Any], str | None], Awaitable[dict[str, Any]]]

_ID = {"type": "string", "description": "A task's id or name."}
_BODY = {"type": "string", "description": "The message, Markdown, at most 256 KiB."}
_REPLY = {"type": "string", "description": "The id of the message that this one answers."}
_PRIORITY = {"type": "string", "enum": ["normal", "high"], "default": "normal"}
_RECEIPTS = {
    "type": "object",
    "properties": {
        name: {"type": ["string", "null"]}
        for name in ("stored_at", "offered_at", "delivered_at", "read_at", "answered_at")
    },
}
_SENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "task_id": {"type": "string"},
        "receipts": _RECEIPTS,
    },
    "required": ["id", "task_id", "receipts"],
}


def _arguments(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


TOOLS = (
    types.Tool(
        name="check_inbox",
        description=(
            "Take the messages that wait for you. Treat one from your user as their input, with "
            "priority over the present plan. Call it when told that messages are pending and "
            "after each subagent."
        ),
        input_schema=_arguments(
            [],
            task_id={"type": "string", "description": "Your own task; may be left out."},
            limit={"type": "integer", "minimum": 1, "maximum": 1000},
        ),
        output_schema={
            "type": "object",
            "properties": {
                "messages": {"type": "array", "items": {"type": "object"}},
                "pending": {"type": "integer"},
            },
            "required": ["messages", "pending"],
        },
        _meta=_LARGE,
    ),
    types.Tool(
        name="inbox_status",
        description="Say how many messages wait for you, without taking them.",
        input_schema=_arguments([], task_id=_ID),
        output_schema={
            "type": "object",
            "properties": {"pending": {"type": "integer"}},
            "required": ["pending"],
        },
    ),
    types.Tool(
        name="send_to_task",
        description="Send a message to another task's session, by id or name.",
        input_schema=_arguments(
            ["task_id", "body"], task_id=_ID, body=_BODY, reply_to=_REPLY, priority=_PRIORITY
        ),
        output_schema=_SENT,
    ),
    types.Tool(
        name="send_to_peer",
        description=(
            "Send a message to a peer session. `peer` is its name; leave it out if there is "
            "only one. To answer a message give its id as `reply_to`."
        ),
        input_schema=_arguments(
            ["body"],
            body=_BODY,
            peer={"type": "string", "description": "The peer's name."},
            reply_to=_REPLY,
            priority=_PRIORITY,
        ),
        output_schema=_SENT,
    ),
    types.Tool(
        name="list_peers",
        description="List the tasks linked to yours, and what their sessions are doing.",
        input_schema=_arguments([]),
        output_schema={
            "type": "object",
            "properties": {"peers": {"type": "array", "items": {"type": "object"}}},
            "required": ["peers"],
        },
    ),
)

# Their result is a list. MCP wants an object as structured content, so there it has a name.
_LISTS = {"list_peers": "peers"}

_FIELDS = {tool.name: set(tool.input_schema["properties"]) for tool in TOOLS}


async def _check_inbox(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    limit = given.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UsageError("`limit` must be a positive number.")
    return await caller.check_inbox(_text(given, "task_id"), limit, tool_use_id)


async def _inbox_status(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await caller.inbox_status(_text(given, "task_id"))


async def _send_to_task(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await _send(caller, _needed(given, "task_id"), given, tool_use_id)


async def _send_to_peer(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await _send(caller, _text(given, "peer"), given, tool_use_id, peer=True)


async def _send(
    caller: Caller,
    target: str | None,
    given: Mapping[str, Any],
    tool_use_id: str | None,
    *,
    peer: bool = False,
) -> dict[str, Any]:
    priority = _text(given, "priority") or "normal"
    if priority not in ("normal", "high"):
        raise UsageError("`priority` must be normal or high; only a person may halt a session.")
    return await caller.send(
        f"peer:{target or ''}" if peer else target,
        _needed(given, "body"),
        reply_to=_text(given, "reply_to"),
        priority=Priority(priority),
        tool_use_id=tool_use_id,
    )


async def _list_peers(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await caller.list_peers()


_HANDLERS: dict[str, Handler] = {
    "check_inbox": _check_inbox,
    "inbox_status": _inbox_status,
    "send_to_task": _send_to_task,
    "send_to_peer": _send_to_peer,
    "list_peers": _list_peers,
}


def build(caller: Caller, on_listed: Callable[[], None]) -> Server[Any]:
    """A server whose tools act for `caller`; `on_listed` is told when the tools were asked for."""

    async def list_tools(
        ctx: Any, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        on_listed()
        return types.ListToolsResult(tools=list(TOOLS))

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        meta: Mapping[str, Any] = ctx.meta or {}
        return await call(caller, params.name, params.arguments or {}, meta.get(TOOL_USE))

    return Server("claudedo", on_list_tools=list_tools, on_call_tool=call_tool)


async def call(
    caller: Caller, name: str, given: Mapping[str, Any], tool_use_id: str | None
) -> types.CallToolResult:
    """Run one tool; a refusal is a result with `isError`, a code and a sentence."""
    try:
        if name not in _HANDLERS:
            raise UsageError(f"There is no tool {name!r}; there are {', '.join(_HANDLERS)}.")
        if unknown := set(given) - _FIELDS[name]:
            known = ", ".join(sorted(_FIELDS[name])) or "none"
            raise UsageError(f"Unknown argument {min(unknown)!r}; {name} takes: {known}.")
        data = await _HANDLERS[name](caller, given, tool_use_id)
        return _result(data, said=data[_LISTS[name]] if name in _LISTS else data)
    except ClaudedoError as error:
        return _refusal(error)
    except Exception:
        log.exception("a tool failed", extra={"action": "tool_failed", "tool": name})
        return _refusal(ClaudedoError(f"claudedo failed at {name}; the worker's log says where."))


def message_json(message: Message) -> dict[str, Any]:
    """A message as `check_inbox` hands it out (wire contract)."""
    return {
        "id": message.id,
        "sender": message.sender,
        "sender_name": message.sender_name,
        "body": message.body,
        "reply_to": message.reply_to,
        "priority": message.priority,
        "created_at": message.created_at,
        "attachments": [],
    }


def _result(data: dict[str, Any], *, said: Any) -> types.CallToolResult:
    content = types.TextContent(type="text", text=json.dumps(said, ensure_ascii=False))
    return types.CallToolResult(content=[content], structured_content=data)


def _refusal(error: ClaudedoError) -> types.CallToolResult:
    content = types.TextContent(type="text", text=f"{error.code}: {error}")
    data = {"code": error.code, "message": str(error)}
    return types.CallToolResult(content=[content], structured_content=data, is_error=True)


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"`{name}` must be a text.")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"`{name}` is not valid Unicode text (unpaired surrogate).") from error
    return value or None


def _needed(given: Mapping[str, Any], name: str) -> str:
    value = _text(given, name)
    if value is None:
        raise UsageError(f"`{name}` is missing.")
    return value
