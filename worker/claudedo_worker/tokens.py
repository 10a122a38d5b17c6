"""Tokens: what an MCP client that claudedo did not start shows to be let in.

Makes, checks, rotates and revokes them. Only a hash is kept; the text is seen once, by who made it.
What a token opens is said elsewhere (`access`, `api.ROUTES`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta

from claudedo.errors import UnauthorizedError, UsageError
from claudedo.model import Token, Workspace, new_id, now, stamp
from claudedo_worker.store import Store

PREFIX = "cdo_"
"""How every text begins, so that people and secret scanners recognise one."""

RANDOM_BYTES = 32
DAYS, LONGEST_DAYS = 30, 365
LONGEST_NAME = 60
USE_EVERY = timedelta(minutes=1)
"""How often at most the moment of the last use is written."""

_TEXT = re.compile(rf"{PREFIX}[\w-]{{43}}", re.ASCII)


class Tokens:
    """The tokens of one state directory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, workspace: Workspace, name: str, days: int = DAYS) -> tuple[Token, str]:
        """A new token for a workspace, and its text, which nobody can find out later.

        Raises `UsageError` for a name or a number of days that is none.
        """
        text = _new_text()
        token = Token(
            id=new_id("tok"),
            workspace_id=workspace.id,
            name=check_token_name(name),
            created_at=now(),
            expires_at=_end(days),
        )
        return await self._store.add_token(token, digest(text)), text

    async def rotate(self, token: Token, days: int = DAYS) -> tuple[Token, str]:
        """Another text for the same token, good for `days`; the one before opens nothing any more.

        Mail, tasks and connections stay the token's. Raises `ConflictError` if it was revoked.
        """
        text = _new_text()
        return await self._store.rotate_token(token, digest(text), _end(days)), text

    async def revoke(self, token: Token) -> Token:
        """The token opens nothing any more, for good."""
        return await self._store.revoke_token(token)

    async def check(self, text: str) -> tuple[Token, str]:
        """The valid token of this text, and the text's digest; notes that it was used.

        Raises `UnauthorizedError` with what to do for any other text.
        """
        hashed = digest(text) if _TEXT.fullmatch(text) else ""
        token = await self._store.token_by_hash(hashed)
        if token is None:
            raise UnauthorizedError(
                "This token is not known here: it was rotated or never made. "
                "`claudedo token create` makes one."
            )
        if refusal := refusal_of(token):
            raise UnauthorizedError(refusal)
        await self._note_use(token)
        return token, hashed

    async def still_opens(self, hashed: str) -> bool:
        """True while the text with this digest is worth something; notes no use."""
        token = await self._store.token_by_hash(hashed)
        return token is not None and refusal_of(token) is None

    async def _note_use(self, token: Token) -> None:
        if (token.last_used_at or "") < stamp(datetime.now(UTC) - USE_EVERY):
            await self._store.use_token(token.id)


def refusal_of(token: Token) -> str | None:
    """Why a token opens nothing any more; None while it does."""
    if token.revoked_at is not None:
        return f"This token was revoked on {token.revoked_at[:10]}."
    if token.expires_at <= now():
        return (
            f"This token expired on {token.expires_at[:10]}; "
            f"`claudedo token rotate {token.id}` renews it."
        )
    return None


def digest(text: str) -> str:
    """How a token's text is kept: random bytes need no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_token_name(name: str) -> str:
    """`name` on one line. Raises `UsageError` if it is empty, too long or not printable."""
    line = " ".join(name.split())
    if not line or len(line) > LONGEST_NAME or not line.isprintable():
        raise UsageError(f"A token's name has 1 to {LONGEST_NAME} printable characters.")
    return line


def _new_text() -> str:
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def _end(days: int) -> str:
    if not 1 <= days <= LONGEST_DAYS:
        raise UsageError(f"A token is good for 1 to {LONGEST_DAYS} days.")
    return stamp(datetime.now(UTC) + timedelta(days=days))
