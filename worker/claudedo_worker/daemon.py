"""The life of the worker: take the lock, open the store, take up the sessions, serve, let go.

One per state directory: whoever holds the lock file is it. Dying at any point is safe; the next
one takes up what is stored and what still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import uvicorn

from claudedo.errors import ClaudedoError, ConflictError, RefusedError
from claudedo.model import now
from claudedo.settings import Settings, make_private
from claudedo_worker import api
from claudedo_worker.access import Door, PeerProtocol, PeerWebSocket, Receive, Scope, Send
from claudedo_worker.adoption import Adoption
from claudedo_worker.attachments import Attachments
from claudedo_worker.bus import Bus
from claudedo_worker.clients import Clients
from claudedo_worker.database import Database
from claudedo_worker.foreign import ForeignSessions
from claudedo_worker.linked import Linked
from claudedo_worker.listeners import Listeners
from claudedo_worker.mailbox import Mailbox, SessionCaller
from claudedo_worker.mcp_http import McpHttp
from claudedo_worker.notify import Notifier
from claudedo_worker.permission_relay import PermissionRelay
from claudedo_worker.processes import SESSION_VARIABLE
from claudedo_worker.queue import Queue
from claudedo_worker.realtime import Realtime
from claudedo_worker.session_link import SessionServer
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Supervisor
from claudedo_worker.task_tools import TaskTools
from claudedo_worker.tasks import Tasks
from claudedo_worker.threads import Party, Threads, session_of
from claudedo_worker.tokens import Tokens
from claudedo_worker.workspaces import Workspaces

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


class AlreadyRunningError(ClaudedoError):
    """Another worker serves this state directory."""


class Server(uvicorn.Server):
    """Serves on sockets that are given, and leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the daemon decides when to stop."""
        yield


async def run(settings: Settings) -> None:
    """Serve until told to stop. Raises `AlreadyRunningError`, and errors that name what to do."""
    # Started from within a session, it must not pass on what marks that session's processes.
    os.environ.pop(SESSION_VARIABLE, None)
    _make_home(settings)
    with _lock(settings.lock):
        await _serve(settings)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        database = await Database.open(settings.database)
        stack.push_async_callback(database.close)
        bus = Bus()
        store = Store(database, bus.publish)
        await store.prune_events()
        bus.last = await store.last_event()
        port = await _port(settings, store)
        stack.callback(port.close)
        attachments = Attachments(settings.attachments, store, settings.largest_attachment)
        await attachments.sweep()
        threads = Threads(store, attachments)
        mailbox = Mailbox(store, threads)

        def tools_for(party: Party) -> TaskTools:
            return TaskTools(store, threads, attachments, party)

        def make_caller(live: Linked) -> SessionCaller:
            return SessionCaller(store, mailbox, live, tools_for(session_of(live.task)))

        url = f"http://{HOST}:{port.getsockname()[1]}"
        supervisor = Supervisor(settings, store, make_caller, url)
        bus.subscribe(supervisor.notice)
        tokens = Tokens(store)
        clients = Clients(store, tokens, threads, tools_for)
        bus.subscribe(clients.notice)
        relay = PermissionRelay(store, clients, threads)
        clients.sweeps.append(relay.tidy)
        listeners = Listeners(store, bus, tokens)
        bus.subscribe(listeners.notice)
        version = metadata.version("claudedo")
        tasks = Tasks(settings, store, supervisor, mailbox, threads)
        queue = Queue(settings, store, tasks, mailbox, supervisor)
        supervisor.serve(queue, threads)
        foreign = ForeignSessions(store)
        context = api.Context(
            store=store,
            bus=bus,
            tasks=tasks,
            queue=queue,
            foreign=foreign,
            adoption=Adoption(store, foreign, tasks),
            mailbox=mailbox,
            threads=threads,
            attachments=attachments,
            supervisor=supervisor,
            tokens=tokens,
            relay=relay,
            mcp=McpHttp(store, clients, relay, version),
            listeners=listeners,
            workspaces=Workspaces(store, tasks),
            version=version,
            stop=stop.set,
            url=url,
        )
        realtime = Realtime(store, threads, tokens, listeners)
        door = await _door(store, context, realtime)
        if settings.notify:
            continues = settings.continue_after_limit
            notifier = Notifier(settings.notify, store, continues=continues)
            bus.subscribe(notifier.notice)
            await notifier.start()
            stack.push_async_callback(notifier.stop)
        await supervisor.recover()
        await queue.recover()
        stack.push_async_callback(supervisor.close)
        links = SessionServer(
            settings.session_socket, supervisor.find, supervisor.expected, store.session_credential
        )
        await links.start()
        stack.push_async_callback(links.stop)
        stack.push_async_callback(realtime.stop)
        clients.start()
        stack.push_async_callback(clients.stop)
        own = _unix_socket(settings.worker_socket)
        stack.callback(settings.worker_socket.unlink, missing_ok=True)
        server = Server(_config(door))
        serving = asyncio.create_task(server.serve([port, own]))
        _announce(settings, context)
        stack.callback(settings.worker_file.unlink, missing_ok=True)
        log.info("serving", extra={"action": "serving", "url": context.url})
        await asyncio.wait(
            [serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        server.should_exit = True
        # Or their open streams would keep the server waiting.
        await clients.stop()
        listeners.stop()
        await serving


async def _door(store: Store, context: api.Context, realtime: Realtime) -> Door:
    """The application behind its door. Its secret is kept, so cookies outlive the worker."""
    secret = await store.note("page_secret")
    if secret is None:
        secret = secrets.token_hex(32)
        await store.set_note("page_secret", secret)
    worker_id = await store.note("worker_id")
    if worker_id is None:
        worker_id = secrets.token_hex(4)
        await store.set_note("worker_id", worker_id)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    async def is_ours(session_id: str) -> bool:
        return await store.session_credential(session_id) is not None

    door = Door(application, secret, worker_id, is_ours, context.tokens.check)
    inner = realtime.wrap(api.build(replace(context, door=door)))
    return door


def _config(door: Door) -> uvicorn.Config:
    return uvicorn.Config(
        door,
        http=PeerProtocol,
        ws=PeerWebSocket,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="warning",  # below that it logs addresses of WebSockets, and tokens with them
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=64 * 1024,
    )


def _make_home(settings: Settings) -> None:
    try:
        make_private(settings.home)
        make_private(settings.run)
        make_private(settings.home / "sessions")
        make_private(settings.home / "programs")
    except OSError as error:
        raise RefusedError(
            f"{settings.home} cannot be used: {error.strerror}. Set CLAUDEDO_HOME to a folder "
            "that you can write to."
        ) from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file; the system releases it when this process ends, however it ends."""
    path.touch(mode=0o600)
    with path.open("a") as file:
        path.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError from error
        yield


async def _port(settings: Settings, store: Store) -> socket.socket:
    """The configured port, or the one of the last run, or any that is free."""
    kept = await store.note("port")
    wanted = settings.port or int(kept or 0)
    bound = _bind(wanted)
    if bound is None and settings.port:
        raise ConflictError(
            f"Port {settings.port} is taken by another program; change `port` in "
            f"{settings.config_file}, or remove it to use any free one."
        )
    if bound is None:
        log.warning("the port of the last run is taken", extra={"action": "port", "port": wanted})
        bound = _bind(0)
    if bound is None:
        raise ConflictError("No port can be opened on the loopback interface.")
    await store.set_note("port", str(bound.getsockname()[1]))
    return bound


def _bind(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        # At once: until it listens, another program may take the port from under us.
        listener.listen(128)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)
    return listener


def _unix_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _announce(settings: Settings, context: api.Context) -> None:
    word = {
        "pid": os.getpid(),
        "url": context.url,
        "version": context.version,
        "started_at": now(),
    }
    draft = settings.worker_file.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(word))
    draft.chmod(0o600)
    draft.rename(settings.worker_file)
