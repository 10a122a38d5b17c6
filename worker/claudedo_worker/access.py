"""Who is asking: the person, one of our sessions, a client, nobody. The worker's outermost door.

Looks at the connection (which socket, which process), the cookie, the token, Host and Origin, and
leaves the answer in the ASGI scope. What each kind may do stands beside each route; see `api`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from claudedo.errors import StorageError, UnauthorizedError
from claudedo.model import Token
from claudedo_worker import processes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
IsOurs = Callable[[str], Awaitable[bool]]
CheckToken = Callable[[str], Awaitable[tuple[Token, str]]]

KEY = "claudedo.access"
HANG_UP = "claudedo.hang_up"
"""In the scope of a request, or a WebSocket: drops its connection, with what was not sent yet."""

COOKIE_DAYS = 30
LINK_SECONDS = 60.0
_UNIX = "unix"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Kind(StrEnum):
    """The kinds of credential."""

    PERSON = "person"  #: the 0600 unix socket
    PAGE = "page"  #: the cookie, got through a one-time link
    SESSION = "session"  #: a process below one of our sessions, whatever socket it uses
    TOKEN = "token"  #: a token of one workspace, shown by an MCP client that is not ours
    NOBODY = "nobody"  #: none, or a process that was gone before it could be looked at


@dataclass(frozen=True)
class Access:
    """Whose request it is. `session_id` is set for kind SESSION, `token` for kind TOKEN."""

    kind: Kind
    session_id: str | None = None
    token: Token | None = None
    shown: str = ""  # the digest of the token's text
    refusal: str | None = None  # why what was shown is worth nothing


class _Peer:
    """Tells the application which process is at the other end, and lets it hang up."""

    app: Any
    client: Any

    def connection_made(self, transport: Any) -> None:
        """Note the peer's pid as the client's "port" of a unix socket."""
        super().connection_made(transport)  # type: ignore[misc]
        app = self.app

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, HANG_UP: transport.abort}, receive, send)

        self.app = answer
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self.client = (_UNIX, peer_pid(connection))


class PeerProtocol(_Peer, H11Protocol):
    """HTTP, with the process at the other end."""


class PeerWebSocket(_Peer, WSProtocol):
    """A WebSocket, with the process at the other end."""


def peer_pid(connection: Any) -> int:
    """The process at the other end of a unix socket; 0 if the system does not tell."""
    if sys.platform == "darwin":
        level, option, size = 0, 0x002, struct.calcsize("i")  # SOL_LOCAL, LOCAL_PEERPID
    else:
        level, option, size = socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    try:
        return int(struct.unpack_from("i", connection.getsockopt(level, option, size))[0])
    except OSError:
        return 0


class Door:
    """Makes and checks page credentials, and wraps the application."""

    def __init__(
        self,
        app: App,
        secret: str,
        worker_id: str,
        is_ours: IsOurs,
        check_token: CheckToken | None = None,
    ) -> None:
        """`is_ours` tells if a session id is one of this worker's, dead or alive.

        `check_token` gives the valid token of a text, and the text's digest, or raises
        `UnauthorizedError`.
        """
        self._app = app
        self._check_token = check_token
        self._secret = secret.encode()
        self._is_ours = is_ours
        self.cookie_name = f"claudedo_{worker_id}"
        self._links: dict[str, float] = {}

    def new_link(self) -> str:
        """A one-time token for the page, good for a minute."""
        at = time.monotonic()
        self._links = {token: until for token, until in self._links.items() if until > at}
        token = secrets.token_urlsafe(24)
        self._links[token] = at + LINK_SECONDS
        return token

    def redeem(self, token: str) -> str | None:
        """Trade a one-time token for a cookie's value; None if it is unknown, used or too old."""
        expires = self._links.pop(token, 0.0)
        if expires < time.monotonic():
            return None
        until = int(time.time()) + COOKIE_DAYS * 86_400
        nonce = secrets.token_urlsafe(12)
        return f"{until}.{nonce}.{self._sign(f'{until}.{nonce}')}"

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def _valid(self, cookie: str) -> bool:
        text, _, signature = cookie.rpartition(".")
        until = text.partition(".")[0]
        if not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            return False
        return int(until) >= time.time()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: refuse foreign Hosts and Origins, say who asks, go on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        on_unix = (scope.get("client") or ("", 0))[0] == _UNIX
        if not on_unix and (refusal := _foreign(headers)):
            await refuse(scope, receive, send, 403, "forbidden", refusal)
            return
        try:
            scope[KEY] = await (self._on_unix(scope) if on_unix else self._on_port(scope, headers))
        except StorageError as error:
            await refuse(scope, receive, send, 507, error.code, str(error))
            return
        await self._app(scope, receive, send)

    async def _on_unix(self, scope: Scope) -> Access:
        """The person, unless the process descends from a session that this worker started."""
        pid = scope["client"][1]
        marks = processes.sessions_above(pid) if pid else None
        if marks is None:
            return Access(Kind.NOBODY)
        for session_id in marks:
            # The mark of another state directory's session means nothing here.
            if await self._is_ours(session_id):
                return Access(Kind.SESSION, session_id)
        return Access(Kind.PERSON)

    async def _on_port(self, scope: Scope, headers: dict[str, str]) -> Access:
        pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        # By hand: http.cookies stops at the first cookie it dislikes, and every program on this
        # host shares our jar.
        valid = any(name == self.cookie_name and self._valid(value) for name, _, value in pairs)
        if valid:
            return Access(Kind.PAGE)
        text = shown_token(scope, headers)
        if text is None or self._check_token is None:
            return Access(Kind.NOBODY)
        try:
            token, digest = await self._check_token(text)
        except UnauthorizedError as error:
            return Access(Kind.NOBODY, refusal=str(error))
        return Access(Kind.TOKEN, token=token, shown=digest)


def shown_token(scope: Scope, headers: dict[str, str]) -> str | None:
    """The token that a request shows: as `Authorization: Bearer`, else as `?token=`."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return next(iter(query.get("token", [])), None)


def _foreign(headers: dict[str, str]) -> str | None:
    """Why a request on the port is none of ours: DNS rebinding, or another site's page."""
    host = headers.get("host", "")
    if _host_name(host) not in _LOOPBACK:
        return "This address is not served here."
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return "Requests from other sites are refused."
    return None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, detail: str
) -> None:
    """Answer an HTTP request with a problem, a WebSocket's opening with 403."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    headers = [(b"content-type", b"application/problem+json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
