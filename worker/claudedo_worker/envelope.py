"""How messages are put into words for a session: one text for one attempt.

The text names its attempt, whose identifier is random: nobody who writes a body can know it, so
nobody can pose as another sender or forge a receipt. Pure functions; decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from claudedo.model import USER, Message, Priority

_LETTER = re.compile(
    r"\[begin (?P<id>a_[0-9A-Z]{26}): message \S+ from "
    r"(?:your user|the peer session '(?P<peer>[^']*)' \(not your user\))[^\]\n]*\]\n"
    r"(?P<body>.*?)\n\[end (?P=id)\]",
    re.DOTALL,
)

HOOK_LIMIT = 8_000
"""UTF-16 units of one hook answer. Above 10,000 the CLI puts the text into a file (6.3)."""

ATTEMPT = re.compile(r"\[claudedo (a_[0-9A-Z]{26})\b")

# What the CLI alters on one path or the other (4.10; hook contexts escape these two tags on
# newer versions). Such a body goes through check_inbox, which changes nothing.
_ALTERED = re.compile(r"</channel|</?system-reminder|</?task-notification", re.IGNORECASE)


def size(text: str) -> int:
    """The length of a text as the CLI counts it: UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def passes_unchanged(body: str) -> bool:
    """True if every path hands this body over letter by letter."""
    return _ALTERED.search(body) is None


def letter(
    attempt_id: str, messages: Sequence[Message], noticed: frozenset[str] = frozenset()
) -> str:
    """The text that gives these messages; `noticed` are ids that a channel showed before."""
    count = "a message" if len(messages) == 1 else f"{len(messages)} messages"
    parts = [f"[claudedo {attempt_id}] You have {count}."]
    parts += [_one(attempt_id, message, message.id in noticed) for message in messages]
    return "\n".join(parts)


def reminder(attempt_id: str, count: int) -> str:
    """The text that asks the model to fetch its messages; carries no body."""
    noun = "message" if count == 1 else "messages"
    return (
        f"[claudedo {attempt_id}] Inbox has {count} pending {noun}, "
        "call `mcp__claudedo__check_inbox` now."
    )


def go_on(attempt_id: str, message_ids: Sequence[str], *, refused: bool = False) -> str:
    """The text that asks the model to go on with what it has in its context; carries no body.

    `refused`: the API did not answer, so the model may have been in the middle of something.
    """
    held = f"Not answered yet in this conversation: {', '.join(message_ids)}."
    if not refused:
        return f"[claudedo {attempt_id}] {held} Go on with that."
    return (
        f"[claudedo {attempt_id}] The API refused the last request, which ended your turn early. "
        f"Go on with what you were doing.{f' {held}' if message_ids else ''}"
    )


def resumed(attempt_id: str, message_ids: Sequence[str], why: str) -> str:
    """The text that lets a conversation go on in another process; carries no body."""
    held = f" Not answered yet in this conversation: {', '.join(message_ids)}."
    go_on = "Go on with what you were doing, or end your turn if it is done."
    return f"[claudedo {attempt_id}] {why} {go_on}{held if message_ids else ''}"


def opened(text: str) -> list[tuple[str, str]]:
    """What a text of ours gives: (sender, body) of each message; empty for a reminder.

    The sender is "user" or the peer's name. Raises `ValueError` for a text that is not ours.
    """
    if not ATTEMPT.search(text):
        raise ValueError("not a text of claudedo")
    return [(found["peer"] or USER, found["body"]) for found in _LETTER.finditer(text)]


def words(message: Message) -> str:
    """A message's body as it is given; an answer to what the recipient asked says so."""
    if message.response_to is None:
        return message.body
    return f"[Response to task {message.response_to}]\n\n{message.body}"


def fitting(messages: Sequence[Message], limit: int = HOOK_LIMIT) -> list[Message]:
    """The first of `messages` that fit into one letter together, skipping those too large."""
    room = limit - size(letter("a_" + "0" * 26, []))
    chosen = []
    for message in messages:
        need = size(_one("a_" + "0" * 26, message, True)) + 1
        if need <= room:
            chosen.append(message)
            room -= need
    return chosen


def origin(message: Message) -> str:
    """Who wrote a message, said so that a peer's words are never taken for the user's."""
    if message.sender == USER:
        return "your user"
    return f"the peer session {message.sender_name!r} (not your user)"


def _one(attempt_id: str, message: Message, noticed: bool) -> str:
    flags = [f"message {message.id} from {origin(message)}"]
    if message.priority is not Priority.NORMAL:
        flags.append(f"priority {message.priority}")
    if message.reply_to:
        flags.append(f"in reply to {message.reply_to}")
    if message.thread_id:
        flags.append(f"in the thread of task {message.thread_id}")
    if message.attachments:
        flags.append(f"attachments {' '.join(file.id for file in message.attachments)}")
    if noticed:
        flags.append("shown before as a channel notice: act on it once")
    return f"[begin {attempt_id}: {', '.join(flags)}]\n{words(message)}\n[end {attempt_id}]"
