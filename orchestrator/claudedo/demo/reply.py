"""How an answer looks on the wire of the Messages API: one message, or the events that build it.

Token counts are a quarter of the characters: enough for costs that grow with the conversation.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from claudedo.demo.answer import Error, Text, ToolUse, ToolUses

Event: TypeAlias = Mapping[str, Any]
"""A server-sent event; its `type` is also the event's name."""

PIECES = 8  # how many deltas a block is cut into


def message(request: Mapping[str, Any], answer: Text | ToolUse | ToolUses) -> dict[str, Any]:
    """The whole message for `answer`, as a call without streaming gets it."""
    content = _content(answer)
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": content,
        "stop_reason": "end_turn" if isinstance(answer, Text) else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": tokens(request.get("system"), request["messages"]),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": tokens(content),
        },
    }


def events(message: Mapping[str, Any]) -> Iterator[Event]:
    """The stream of events by which the API sends `message`."""
    opened = {**message, "content": [], "stop_reason": None}
    opened["usage"] = {**message["usage"], "output_tokens": 1}
    yield {"type": "message_start", "message": opened}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ending, "usage": message["usage"]}
    yield {"type": "message_stop"}


def encoded(event: Event) -> bytes:
    """The bytes of one server-sent event."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def error(answer: Error) -> dict[str, Any]:
    """The body of a refusal."""
    return {"type": "error", "error": {"type": answer.type, "message": answer.message}}


def tokens(*parts: object) -> int:
    """About how many tokens `parts` are, as JSON; at least one."""
    return max(1, sum(len(json.dumps(part)) for part in parts) // 4)


def _content(answer: Text | ToolUse | ToolUses) -> list[dict[str, Any]]:
    if isinstance(answer, Text):
        return [{"type": "text", "text": answer.text}]
    calls = [answer] if isinstance(answer, ToolUse) else answer.calls
    said = [{"type": "text", "text": call.text} for call in calls if call.text]
    return [*said, *(_tool_use(call) for call in calls)]


def _tool_use(call: ToolUse) -> dict[str, Any]:
    tool_use_id = call.id or f"toolu_{uuid.uuid4().hex[:24]}"
    return {"type": "tool_use", "id": tool_use_id, "name": call.name, "input": dict(call.input)}


def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[Event]:
    if block["type"] == "text":
        empty: dict[str, Any] = {"text": ""}
        kind, key, whole = "text_delta", "text", block["text"]
    else:
        empty = {"input": {}}
        kind, key, whole = "input_json_delta", "partial_json", json.dumps(block["input"])
    yield {"type": "content_block_start", "index": index, "content_block": {**block, **empty}}
    for piece in _pieces(whole):
        delta = {"type": kind, key: piece}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _pieces(whole: str) -> Iterator[str]:
    size = max(1, -(-len(whole) // PIECES))
    return (whole[start : start + size] for start in range(0, len(whole), size))
