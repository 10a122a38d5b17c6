"""What every handler works with: the services below, and who asks for what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from claudedo.model import Task
from claudedo_worker.access import KEY, Access, Door, Kind
from claudedo_worker.adoption import Adoption
from claudedo_worker.attachments import Attachments
from claudedo_worker.bus import Bus
from claudedo_worker.foreign import ForeignSessions
from claudedo_worker.listeners import Listeners
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.mcp_http import McpHttp
from claudedo_worker.permission_relay import PermissionRelay
from claudedo_worker.queue import Queue
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Supervisor
from claudedo_worker.tasks import Tasks
from claudedo_worker.threads import PERSON, Party, Threads, session_of
from claudedo_worker.tokens import Tokens
from claudedo_worker.workspaces import Workspaces


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the handlers work with."""

    store: Store
    bus: Bus
    tasks: Tasks
    queue: Queue
    foreign: ForeignSessions
    adoption: Adoption
    mailbox: Mailbox
    threads: Threads
    attachments: Attachments
    supervisor: Supervisor
    tokens: Tokens
    relay: PermissionRelay
    mcp: McpHttp
    listeners: Listeners
    workspaces: Workspaces
    version: str
    stop: Callable[[], None]
    url: str = ""
    door: Door | None = None

    @property
    def gate(self) -> Door:
        """Where page credentials are made."""
        assert self.door is not None
        return self.door


Handler = Callable[[Context, Request], Awaitable[Response]]


async def task_of(context: Context, request: Request) -> Task:
    """The task that the route names by id. Raises `NotFoundError`."""
    return await context.store.task(request.path_params["task"])


async def party_of(context: Context, request: Request) -> Party:
    """Who asks: the person, or a session by a command of its own."""
    sender = await sender_of(context, request)
    return session_of(sender) if sender else PERSON


async def sender_of(context: Context, request: Request) -> Task | None:
    """The task whose session asks; None if it is the person."""
    access: Access = request.scope[KEY]
    if access.kind is not Kind.SESSION:
        return None
    session = await context.store.session(str(access.session_id))
    return await context.store.task(session.task_id)
