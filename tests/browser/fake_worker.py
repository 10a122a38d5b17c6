"""A worker for the page's tests: the routes and the Socket.IO events, over lists in memory.

It keeps the worker's contract (docs/architecture.md) as far as the page uses it, and can do what a
real one does on a bad day: refuse, vanish, lose an answer, forget a cookie.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote

import socketio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import claudedo_webui
from claudedo import moves

COOKIE = "claudedo_test"
RUNGS = ("stored", "offered", "delivered", "read", "answered")
Json = dict[str, Any]


def ago(seconds: float = 0) -> str:
    """The moment `seconds` before now, as the worker writes it."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class FakeWorker:
    """State that tests change, and a server that can be stopped and started on the same port."""

    def __init__(self) -> None:
        self.tasks: dict[str, Json] = {}
        self.messages: dict[str, Json] = {}
        self.events: list[Json] = []
        self.sends: list[Json] = []  #: every SendTaskMessage as it arrived
        self.connects: list[Json] = []  #: the `auth` of every connection
        self.refusal: Json | None = None  #: what the next send is answered with
        self.stores: asyncio.Event | None = None  #: a send is stored and answered after this
        self.lose_next_ack = False  #: store the next send, then hang up instead of answering
        self.replays = True  #: whether a connection with `after` is told what it missed
        self.signed_in = True
        self.asks: dict[str, Json] = {}
        self.decisions: list[Json] = []  #: every decision as it arrived, with the ask's id
        self.verdict: Json | None = None  #: what the next decided ask really became
        self.workspaces: list[Json] = []
        self.tokens: list[Json] = []
        self.unsaved: str | None = None  #: why a workspace is not deleted without force
        self.moves: dict[str, list[Json]] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.attachment_limit = 25 * 2**20
        self.asked: list[str] = []  #: every path that was asked for, with its query
        self.held: dict[str, asyncio.Event] = {}  #: path → its answers wait, as old as they are
        self._by_key: dict[str, str] = {}
        self._socket = _bound_socket(0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._sio: socketio.AsyncServer | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    # --- what tests do to it ---

    def add_task(self, name: str, *, workspace: str = "shop", **fields: Any) -> str:
        """Adds a task silently, as if it had been there before; returns its id."""
        number = len(self.tasks) + 1
        task_id = f"t_{number:04}"
        self.tasks[task_id] = {
            "id": task_id,
            "name": name,
            "workspace": workspace,
            "status": "ongoing",
            "assignee": "agent",
            "title": None,
            "creator": "user",
            "holder": None,
            "pending": 0,
            "asks": 0,
            "peers": [],
            "worktree": f"/home/me/{workspace}.worktrees/{name}",
            "branch": f"claudedo/{name}",
            "supervised": True,
            "session": session("idle"),
        } | fields
        return task_id

    def add_message(self, task_id: str, body: str, **fields: Any) -> str:
        """Adds a message silently; `rung` says how far it came. Returns its id."""
        rung = fields.pop("rung", "stored")
        seconds = fields.pop("seconds_ago", 0)
        message_id = f"m_{len(self.messages) + 1:04}"
        reached = RUNGS[: RUNGS.index(rung) + 1]
        self.messages[message_id] = {
            "id": message_id,
            "task": task_id,
            "sender": "user",
            "sender_name": "user",
            "recipient": self.tasks[task_id]["name"],
            "body": body,
            "reply_to": None,
            "priority": "normal",
            "created_at": ago(seconds),
            "receipts": {f"{r}_at": ago(seconds) if r in reached else None for r in RUNGS},
            "via": None,
            "attachments": [],
        } | fields
        if rung == "stored":
            self.tasks[task_id]["pending"] += 1
        return message_id

    def add_ask(self, task_id: str, kind: str = "permission", **fields: Any) -> str:
        """Adds an open ask silently; returns its id."""
        ask_id = f"k_{len(self.asks) + 1:04}"
        task = self.tasks[task_id]
        self.asks[ask_id] = {
            "id": ask_id,
            "kind": kind,
            "task": task_id,
            "task_name": task["name"],
            "workspace": task["workspace"],
            "title": "Bash: make test",
            "body": "make test",
            "tool": "Bash",
            "input": {"command": "make test"},
            "suggestions": [],
            "agent": None,
            "editable": kind == "permission",
            "creator": task["creator"],
            "opened_at": ago(30 - len(self.asks)),
            "closed_at": None,
            "outcome": None,
            "decided_by": None,
            "reason": None,
            "same": [],
            "said": None,
        } | fields
        return ask_id

    async def open_ask(self, task_id: str, kind: str = "permission", **fields: Any) -> str:
        """Adds an ask and announces it."""
        ask_id = self.add_ask(task_id, kind, **fields)
        await self._announce_ask("ask.opened", ask_id)
        return ask_id

    async def close_ask(self, ask_id: str, outcome: str, by: str, *, tell: bool = True) -> None:
        """Closes an ask, as if it were decided somewhere."""
        self.asks[ask_id] |= {"outcome": outcome, "decided_by": by, "closed_at": ago()}
        if tell:
            await self._announce_ask("ask.closed", ask_id)

    async def _announce_ask(self, kind: str, ask_id: str) -> None:
        ask = self.asks[ask_id]
        told = {name: ask[name] for name in ("kind", "title", "outcome", "decided_by")}
        await self.announce(kind, ask["task"], ask_id=ask_id, **told)

    def add_workspace(self, name: str, root: str = "/home/me/shop") -> str:
        """Adds a workspace silently; returns its id."""
        workspace = f"w_{len(self.workspaces) + 1}"
        shown = {"id": workspace, "name": name, "root": root, "counts": {"tasks": 2}}
        self.workspaces.append(shown)
        return workspace

    def add_token(self, name: str, **fields: Any) -> str:
        """Adds a token silently; returns its id."""
        token = f"a_{len(self.tokens) + 1:04}"
        self.tokens.append(
            {
                "id": token,
                "name": name,
                "workspace": "shop",
                "created_at": ago(),
                "expires_at": ago(-30 * 86_400),
                "last_used_at": None,
                "revoked_at": None,
                "valid": True,
                "sessions": 0,
            }
            | fields
        )
        return token

    async def queue(self, task_id: str, body: str, **fields: Any) -> str:
        """Adds a message and announces it."""
        message_id = self.add_message(task_id, body, **fields)
        await self.announce("message.queued", task_id, message_id)
        return message_id

    async def climb(self, message_id: str, rung: str, via: str = "hook") -> None:
        """Takes a message one rung further and announces it."""
        message = self.messages[message_id]
        message["receipts"][f"{rung}_at"] = ago()
        message["via"] = via
        if rung == "delivered":
            self.tasks[message["task"]]["pending"] -= 1
        await self.announce(f"message.{rung}", message["task"], message_id)

    async def change_session(self, task_id: str, changed: Json) -> None:
        """Changes a task's session and announces its new state."""
        self.tasks[task_id]["session"] = changed
        names = ("state", "waiting_for", "since", "reason", "failure")
        state = {name: changed[name] for name in names}
        await self.announce("session.updated", task_id, **state)

    async def change_task(self, task_id: str, **fields: Any) -> None:
        """Changes a task and announces that it changed, not how."""
        self.tasks[task_id].update(fields)
        await self.announce("task.updated", task_id)

    async def announce(
        self, kind: str, task_id: str, message_id: str | None = None, /, **more: Any
    ) -> None:
        """Appends an event and tells whoever is connected."""
        pending = self.tasks[task_id]["pending"] if task_id in self.tasks else 0
        payload: Json = {"task_id": task_id} | more
        if message_id is not None:
            said = self.messages[message_id]
            payload |= {"message_id": message_id, "pending": pending, "sender": said["sender"]}
            payload |= {"receipts": said["receipts"], "via": said["via"], "thread": task_id}
        event = {"seq": len(self.events) + 1, "type": kind, "workspace": "w_1", "payload": payload}
        self.events.append(event)
        if self._sio is None:
            return
        old_names = {
            "message.queued": "TaskMessageQueued",
            "message.delivered": "TaskMessageDelivered",
        }
        if kind in old_names:
            await self._sio.emit(old_names[kind], (task_id, pending))
        await self._sio.emit("event", event)

    # --- its life ---

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeWorker]:
        """Serves while the block runs."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        """Serves on this worker's port; returns when it accepts connections."""
        if self._socket.fileno() == -1:
            self._socket = _bound_socket(self.port)
        self._sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[self.url])
        self._sio.on("connect", self._on_connect)
        self._sio.on("SendTaskMessage", self._on_send)
        config = uvicorn.Config(
            self._app(self._sio), ws="wsproto", log_level="critical", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        async with asyncio.timeout(10):
            while not self._server.started:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Vanishes at once, as a killed worker does."""
        if self._server is None or self._serving is None:
            return
        sio, self._sio = self._sio, None
        if sio is not None:
            await sio.shutdown()
        self._server.should_exit = self._server.force_exit = True
        async with asyncio.timeout(10):
            await self._serving
        self._socket.close()
        self._server = self._serving = None

    def _app(self, sio: socketio.AsyncServer) -> ASGIApp:
        static = claudedo_webui.static_dir()

        async def index(_: Request) -> Response:
            return FileResponse(static / "index.html")

        app = Starlette(
            routes=[
                Route("/", index),
                Mount("/static", StaticFiles(directory=static)),
                Route("/api/tasks", self._list_tasks),
                Route("/api/tasks", self._create_task, methods=["POST"]),
                Route("/api/tasks/{task}", self._show_task),
                Route("/api/tasks/{task}/messages", self._thread),
                Route("/api/messages/{message}", self._show_message),
                Route("/api/tasks/{task}/status", self._move, methods=["POST"]),
                Route("/api/tasks/{task}/history", self._history),
                Route("/api/tasks/{task}/stop", self._stop_task, methods=["POST"]),
                Route("/api/tasks/{task}/attachments", self._upload, methods=["POST"]),
                Route("/api/attachments/{file}", self._download),
                Route("/api/asks", self._list_asks),
                Route("/api/asks/{ask}", self._show_ask),
                Route("/api/asks/{ask}/decision", self._decide, methods=["POST"]),
                Route("/api/workspaces", self._list_workspaces),
                Route("/api/workspaces/{one}", self._change_workspace, methods=["PATCH", "DELETE"]),
                Route("/api/tokens", self._list_tokens),
                Route("/api/tokens/{token}", self._revoke, methods=["DELETE"]),
                Route("/api/foreign", self._foreign),
                Route("/api/worker", self._about),
                Mount("/socket.io", socketio.ASGIApp(sio, socketio_path="")),
            ],
            middleware=[Middleware(PageHeaders, worker=self)],
        )
        return app

    # --- what the page asks of it ---

    def _allowed(self, cookies: dict[str, str]) -> bool:
        return self.signed_in and cookies.get(COOKIE) == "yes"

    def _refused(self, request: Request) -> Response | None:
        return None if self._allowed(request.cookies) else problem(401, "unauthorized")

    async def _list_tasks(self, request: Request) -> Response:
        ours = [task for task in self.tasks.values() if task["supervised"]]
        return self._refused(request) or JSONResponse(ours)

    async def _foreign(self, request: Request) -> Response:
        others = [task for task in self.tasks.values() if not task["supervised"]]
        return self._refused(request) or JSONResponse(others)

    async def _about(self, request: Request) -> Response:
        shown = {"attachment_limit": self.attachment_limit}
        return self._refused(request) or JSONResponse(shown)

    async def _create_task(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        data = await request.json()
        name = data["title"].lower().replace(" ", "-")
        told = {key: data[key] for key in ("title", "assignee", "workspace")}
        fields = told | {"status": "notstarted", "session": None, "worktree": None, "branch": None}
        task = self.add_task(name, **fields)
        files = []
        for number, given in enumerate(data["attachments"], start=len(self.files) + 1):
            content = base64.b64decode(given["data"])
            self.files[f"f_{number:04}"] = (given["filename"], content)
            files.append(attachment(f"f_{number:04}", given["filename"], len(content)))
        self.add_message(task, data["body"], attachments=files)
        await self.announce("task.created", task)
        return JSONResponse({"id": task, "name": name})

    async def _move(self, request: Request) -> Response:
        data, task = await request.json(), self.tasks[request.path_params["task"]]
        if data["status"] not in moves_of(task):
            return problem(409, "conflict", f"A task that is {task['status']} cannot become that.")
        move = {"at": ago(), "before": task["status"], "after": data["status"]}
        self.moves.setdefault(task["id"], []).append(move | {"party": "user", "name": "user"})
        task["status"] = data["status"]
        if data["words"]:
            await self.queue(task["id"], data["words"])
        await self.announce("status.updated", task["id"], status=data["status"])
        return JSONResponse({"id": task["id"], "status": task["status"], "moves": moves_of(task)})

    async def _stop_task(self, request: Request) -> Response:
        await self.change_session(request.path_params["task"], session("stopped"))
        return JSONResponse({"stopped": True})

    async def _history(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(
            self.moves.get(request.path_params["task"], [])
        )

    async def _upload(self, request: Request) -> Response:
        content = await request.body()
        if len(content) > self.attachment_limit:
            return problem(413, "too_large", "The file is larger than this worker takes.")
        filename, kind = (request.query_params.get(key, "") for key in ("filename", "type"))
        file = f"f_{len(self.files) + 1:04}"
        self.files[file] = (filename, content)
        return JSONResponse(attachment(file, filename, len(content), kind))

    async def _download(self, request: Request) -> Response:
        filename, content = self.files[request.path_params["file"]]
        headers = {"Content-Disposition": f"attachment; filename*=utf-8''{quote(filename)}"}
        return Response(content, headers=headers, media_type="text/html")

    async def _list_asks(self, request: Request) -> Response:
        still = [ask for ask in self.asks.values() if not ask["closed_at"]]
        return self._refused(request) or JSONResponse(still)

    async def _show_ask(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        ask = self.asks.get(request.path_params["ask"])
        return JSONResponse(ask) if ask else problem(404, "not_found")

    async def _decide(self, request: Request) -> Response:
        ask, data = self.asks[request.path_params["ask"]], await request.json()
        self.decisions.append({"ask": ask["id"]} | data)
        if ask["closed_at"]:
            where = "in its terminal" if ask["decided_by"] == "terminal" else "here"
            return problem(409, "conflict", f"This was {ask['outcome']} {where} already.")
        outcome = {"allow": "allowed", "deny": "denied", "answer": "answered"}[data["decision"]]
        ask |= {"reason": data.get("reason")}
        really = self.verdict or {"outcome": outcome, "by": "user"}
        self.verdict = None
        await self.close_ask(ask["id"], **really)
        return JSONResponse(ask)

    async def _list_workspaces(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(self.workspaces)

    async def _change_workspace(self, request: Request) -> Response:
        (one,) = [w for w in self.workspaces if w["id"] == request.path_params["one"]]
        if request.method == "DELETE":
            if self.unsaved and request.query_params["force"] != "true":
                return problem(409, "refused", self.unsaved)
            self.workspaces.remove(one)
            for task in [t for t in self.tasks.values() if t["workspace"] == one["name"]]:
                del self.tasks[task["id"]]
                await self.announce("task.removed", task["id"])
            return JSONResponse({"summary": "gone"})
        name = (await request.json())["name"]
        if any(w["name"] == name for w in self.workspaces):
            return problem(409, "conflict", f"There is a workspace {name!r} already.")
        one["name"] = name
        return JSONResponse(one)

    async def _list_tokens(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(self.tokens)

    async def _revoke(self, request: Request) -> Response:
        (one,) = [t for t in self.tokens if t["id"] == request.path_params["token"]]
        one |= {"revoked_at": ago(), "valid": False, "sessions": 0}
        return JSONResponse(one)

    async def _show_task(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        task = self.tasks.get(request.path_params["task"])
        if task is None:
            return problem(404, "not_found")
        return JSONResponse(task | {"body": "", "repo": None, "moves": moves_of(task)})

    async def _thread(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        task = request.path_params["task"]
        if task not in self.tasks:
            return problem(404, "not_found")
        own = f"task:{task}"
        shown = [m for m in self.messages.values() if m["task"] == task or m["sender"] == own]
        ids, query = [m["id"] for m in shown], request.query_params
        if not {query.get("before"), query.get("after")} <= {None, *ids}:
            return problem(400, "usage", "There is no such message in this thread.")
        if "after" in query:
            shown = shown[ids.index(query["after"]) + 1 :][: int(query["limit"])]
        else:
            shown = shown[: ids.index(query["before"])] if "before" in query else shown
            shown = shown[-int(query["limit"]) :]
        return JSONResponse([without_task(m) for m in shown])

    async def _show_message(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        message = self.messages.get(request.path_params["message"])
        return JSONResponse(sent(message)) if message else problem(404, "not_found")

    async def _on_connect(self, sid: str, environ: Json, auth: Json | None) -> None:
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        if not self._allowed({name: morsel.value for name, morsel in cookies.items()}):
            raise socketio.exceptions.ConnectionRefusedError("unauthorized")
        self.connects.append(auth or {})
        after = (auth or {}).get("after")
        if after is not None and self.replays and self._sio is not None:
            for event in [e for e in self.events if e["seq"] > after]:
                await self._sio.emit("event", event, to=sid)

    async def _on_send(self, sid: str, task_id: str, body: str, options: Json) -> Json:
        self.sends.append({"task": task_id, "body": body} | options)
        if self.stores is not None:
            await self.stores.wait()
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            return {"error": refusal}
        message_id = self._by_key.get(options["key"])
        if message_id is None:
            fields = {"priority": options["priority"], "reply_to": options["reply_to"]}
            carried = [(file, *self.files[file]) for file in options["attachments"]]
            files = [attachment(file, name, len(content)) for file, name, content in carried]
            message_id = await self.queue(task_id, body, **fields, attachments=files)
            self._by_key[options["key"]] = message_id
        if self.lose_next_ack and self._sio is not None:
            self.lose_next_ack = False
            await self._sio.disconnect(sid)
        return sent(self.messages[message_id])


class PageHeaders:
    """Puts the worker's security headers on every answer."""

    def __init__(self, app: ASGIApp, worker: FakeWorker) -> None:
        self._app = app
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; adds the headers to HTTP answers, and holds those it is told to."""
        path = scope.get("path", "")
        query = scope.get("query_string", b"").decode()
        self._worker.asked.append(f"{path}?{query}" if query else path)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if path in self._worker.held:
                    await self._worker.held[path].wait()
                headers = [
                    (b"content-security-policy", claudedo_webui.csp().encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def session(state: str, *, seconds: float = 30, **fields: Any) -> Json:
    """A session as `ls --json` shows it, in `state` for `seconds`."""
    return {
        "state": state,
        "waiting_for": None,
        "since": ago(seconds),
        "pid": 4711,
        "session_id": "0b6f2e1c-0000-4000-8000-000000000000",
        "reason": None,
        "usage": None,
        "failure": None,
    } | fields


def moves_of(task: Json) -> list[str]:
    """What a person may make of a task."""
    return [str(after) for after in moves.onward(task["assignee"], task["status"])]


def attachment(file: str, filename: str, size: int, kind: str = "") -> Json:
    """A file as a message shows it."""
    return {"id": file, "filename": filename, "mimeType": kind, "size": size}


def sent(message: Json) -> Json:
    """What `send --json` prints."""
    return {name: message[name] for name in ("id", "task", "priority", "receipts", "via")}


def without_task(message: Json) -> Json:
    """One element of `thread --json`."""
    return {name: value for name, value in message.items() if name != "task"}


def problem(status: int, code: str, detail: str = "") -> Response:
    """An error as the worker words it."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code}
    body |= {"detail": detail or code}
    return JSONResponse(body, status, media_type="application/problem+json")


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
