"""The MCP tools of a session or a client: arguments in, a call of the service, results out.

One server per connection, bound to the party that it serves, so that no argument can name another
caller. Knows nothing about sockets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import mcp_types as types
from mcp.server.lowlevel import Server

from claudedo import protocol
from claudedo.errors import ClaudedoError, UsageError
from claudedo.model import Assignee, Message, Priority, TaskStatus
from claudedo_worker.task_tools import TaskTools

log = logging.getLogger(__name__)

# Without it results above about 50,000 characters become a file reference (12.0).
_LARGE = {"anthropic/maxResultSizeChars": 500_000}
TOOL_USE = "claudecode/toolUseId"
"""The key of a call's `_meta` with the id that hooks and transcript use too (22.5)."""


LONGEST_TEXT = 2_000_000
"""Characters of a result that stand in its text, too, for clients that read nothing else."""


class Caller(Protocol):
    """What one party may do; each method is one tool, and `tools` has those about tasks."""

    @property
    def tools(self) -> TaskTools:
        """The tools about tasks."""
        ...

    async def begin(self, tool_use_id: str | None) -> str | None:
        """Called before something is said; gives what the call is known by if it comes again."""
        ...

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
_TASK = {"type": "string", "description": "A task's id or name; your own if left out."}
_FILES = {
    "type": "array",
    "description": "Files that go with it.",
    "items": {
        "type": "object",
        "properties": {
            "filename": {"type": "string"},
            "mimeType": {"type": "string"},
            "data": {"type": "string", "description": "The bytes, in base64."},
        },
        "required": ["filename", "data"],
    },
}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 200, "description": "So many messages."}
_CURSOR = {"type": ["string", "null"], "description": "`nextCursor` of the page before, as it is."}
_SENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "task_id": {"type": "string"},
        "receipts": _RECEIPTS,
    },
    "required": ["id", "task_id", "receipts"],
}


# The other spelling of an argument of the tools with camelCase names.
_SPELLINGS = {"taskId": "task_id", "chatId": "chat_id", "attachmentId": "attachment_id"}


def _either(required: list[str], **properties: Any) -> dict[str, Any]:
    """Arguments of which some may be spelled in another way, too; what is missing is said later."""
    others = {other: properties[one] for other, one in _SPELLINGS.items() if one in properties}
    return _arguments(
        [name for name in required if name not in _SPELLINGS.values()], **properties, **others
    )


def _told(required: list[str], **kinds: str | list[str]) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": required}


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
    types.Tool(
        name="createTask",
        description=(
            'Make a task. With assignee "human" you ask a person for a decision, an answer or '
            "something that you cannot do; their answer comes to you by itself, so go on with "
            'other work or end your turn. With "agent" it waits to be claimed or started.'
        ),
        input_schema=_either(
            ["title", "body"],
            title={"type": "string", "description": "One line."},
            body={"type": "string", "description": "All that is needed to do it, Markdown."},
            assignee={"type": "string", "enum": ["human", "agent"], "default": "agent"},
            attachments=_FILES,
        ),
        output_schema=_told(["task_id"], task_id="string"),
    ),
    types.Tool(
        name="updateTaskStatus",
        description=(
            "Say how far a task is that you work on: ongoing, blocked, completed or rejected. "
            "A person's task that you made you can only take back (rejected)."
        ),
        input_schema=_either(
            ["status"],
            task_id=_TASK,
            status={"type": "string", "enum": [*TaskStatus]},
        ),
        output_schema=_told(
            ["task_id", "status", "previous"], task_id="string", status="string", previous="string"
        ),
    ),
    types.Tool(
        name="reply",
        description=(
            "Say something in a task's thread (`chat_id` of a message; your own task if left "
            "out), where the person reads it. What you only say in your turn they may not see."
        ),
        input_schema=_either(
            ["text"], chat_id=_TASK, text=_BODY, attachments=_FILES, reply_to=_REPLY
        ),
        output_schema=_told(["message_id"], message_id="string"),
    ),
    types.Tool(
        name="getTaskMessages",
        description=(
            "Read a task's thread, the newest messages first page, each page oldest first. "
            "Messages that still have to reach you are not in it."
        ),
        input_schema=_either([], task_id=_TASK, limit=_LIMIT, cursor=_CURSOR),
        output_schema=_told(
            ["messages", "nextCursor"],
            messages="array",
            nextCursor=["string", "null"],
            newerCursor="string",
        ),
        _meta=_LARGE,
    ),
    types.Tool(
        name="getTask",
        description=(
            "Show a task. Without an id: claim the next agent task of the workspace that nobody "
            "works on; then set it to ongoing, do it, and set it to completed or rejected."
        ),
        input_schema=_either(
            [],
            task_id={"type": "string", "description": "A task's id or name."},
            includeConversation={"type": "boolean", "default": False},
            cursor=_CURSOR,
            limit=_LIMIT,
        ),
        output_schema=_told(["task_id"], task_id=["string", "null"], status="string"),
        _meta=_LARGE,
    ),
    types.Tool(
        name="getWorkspace",
        description="Show the project that you work in, and how many tasks it has.",
        input_schema=_either([]),
        output_schema=_told(["id", "name", "counts"], id="string", name="string", counts="object"),
    ),
    types.Tool(
        name="downloadAttachment",
        description="Get the bytes of a file that a message carries, in base64.",
        input_schema=_either(["attachment_id"], attachment_id={"type": "string"}),
        output_schema=_told(
            ["filename", "mimeType", "data"], filename="string", mimeType="string", data="string"
        ),
    ),
)

# Their result is a list. MCP wants an object as structured content, so there it has a name.
_LISTS = {"list_peers": "peers"}

_FIELDS = {tool.name: set(tool.input_schema["properties"]) for tool in TOOLS}


async def _check_inbox(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await caller.check_inbox(_text(given, "task_id"), _limit(given), tool_use_id)


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


async def _create_task(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    assignee = _text(given, "assignee") or Assignee.AGENT
    if assignee not in set(Assignee):
        raise UsageError("`assignee` must be human or agent.")
    title, body, files = _needed(given, "title"), _needed(given, "body"), _list(given)
    key = await caller.begin(tool_use_id)
    return await caller.tools.create(title, body, Assignee(assignee), files, key)


async def _update_task_status(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    status = _needed(given, "status")
    if status not in set(TaskStatus):
        raise UsageError(f"{status!r} is no status; there are {', '.join(TaskStatus)}.")
    return await caller.tools.move(_text(given, "task_id"), TaskStatus(status))


async def _reply(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    chat, text, files = _text(given, "chat_id"), _needed(given, "text"), _list(given)
    reply_to = _text(given, "reply_to")
    key = await caller.begin(tool_use_id)
    return await caller.tools.reply(chat, text, files, key, reply_to)


async def _get_task_messages(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    cursor, limit = _text(given, "cursor"), _limit(given)
    return await caller.tools.messages(_text(given, "task_id"), cursor, limit)


async def _get_task(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    whole = given.get("includeConversation")
    if not isinstance(whole, bool | None):
        raise UsageError("`includeConversation` must be true or false.")
    cursor, limit = _text(given, "cursor"), _limit(given)
    task = _text(given, "task_id")
    return await caller.tools.task(task, cursor, limit, conversation=bool(whole))


async def _get_workspace(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await caller.tools.workspace()


async def _download_attachment(
    caller: Caller, given: Mapping[str, Any], tool_use_id: str | None
) -> dict[str, Any]:
    return await caller.tools.attachment(_needed(given, "attachment_id"))


_HANDLERS: dict[str, Handler] = {
    "check_inbox": _check_inbox,
    "inbox_status": _inbox_status,
    "send_to_task": _send_to_task,
    "send_to_peer": _send_to_peer,
    "list_peers": _list_peers,
    "createTask": _create_task,
    "updateTaskStatus": _update_task_status,
    "reply": _reply,
    "getTaskMessages": _get_task_messages,
    "getTask": _get_task,
    "getWorkspace": _get_workspace,
    "downloadAttachment": _download_attachment,
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
        data = await _HANDLERS[name](caller, _spelled(given), tool_use_id)
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
        "chat_id": message.thread,
        "attachments": [protocol.attachment_json(file) for file in message.attachments],
    }


def _result(data: dict[str, Any], *, said: Any) -> types.CallToolResult:
    text = json.dumps(said, ensure_ascii=False)
    if len(text) > LONGEST_TEXT:
        text = "This is too long for a text; it is in the structured content."
    content = types.TextContent(type="text", text=text)
    return types.CallToolResult(content=[content], structured_content=data)


def _refusal(error: ClaudedoError) -> types.CallToolResult:
    content = types.TextContent(type="text", text=f"{error.code}: {error}")
    data = {"code": error.code, "message": str(error)}
    return types.CallToolResult(content=[content], structured_content=data, is_error=True)


def _spelled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the first of their spellings. Raises `UsageError` if both are there."""
    both = [name for name in _SPELLINGS if name in given and _SPELLINGS[name] in given]
    if both:
        raise UsageError(f"Give `{both[0]}` or `{_SPELLINGS[both[0]]}`, not both.")
    return {_SPELLINGS.get(name, name): value for name, value in given.items()}


def _list(given: Mapping[str, Any]) -> list[Any]:
    files = given.get("attachments")
    if not isinstance(files, list | None):
        raise UsageError("`attachments` must be a list of files.")
    return files or []


def _limit(given: Mapping[str, Any]) -> int | None:
    limit = given.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UsageError("`limit` must be a positive number.")
    return limit


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
