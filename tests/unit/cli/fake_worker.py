"""A small worker for the tests of the command line: the routes of docs/architecture.md, in memory.

Serves HTTP on a real unix socket from threads. What a test wants to see is set beforehand as plain
data: `failures` answers a route with a problem, `progress` changes a session with each look.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Json = dict[str, Any]
LIVE = ("starting", "idle", "busy", "waiting")
STORED = "2026-07-26T10:00:00.000Z"


def task(name: str, state: str | None = "idle", **changes: Any) -> Json:
    """One element of `ls --json`, with a session in `state`."""
    session = {
        "state": state,
        "waiting_for": None,
        "since": STORED,
        "pid": 4711,
        "session_id": "11111111-2222-3333-4444-555555555555",
        "reason": None,
    }
    return {
        "id": f"t_{name.upper()}",
        "name": name,
        "workspace": "shop",
        "status": "ongoing",
        "assignee": "agent",
        "pending": 0,
        "asks": 0,
        "peers": [],
        "worktree": f"/src/shop.worktrees/{name}",
        "branch": f"claudedo/{name}",
        "supervised": True,
        "session": session if state else None,
        **changes,
    }


def one_shot(name: str, status: str = "queued", **changes: Any) -> Json:
    """One element of `queue ls --json`."""
    return {
        "name": name,
        "task": f"t_{name.upper()}",
        "workspace": "shop",
        "status": status,
        "exit": None,
        "reason": None,
        "attempts": 0,
        "unread": [],
        "denied": [],
        "denials": [],
        "result": None,
        "cost_usd": None,
        "seconds": 0.0,
        "session_id": None,
        "needs": [],
        "priority": 0,
        "branch": None,
        "worktree": None,
        "doing": None,
        "not_before": None,
        "started_at": None,
        "ended_at": None,
        "usage": None,
        **changes,
    }


def receipts(**reached: str) -> Json:
    """The five timestamps; `stored_at` is always there."""
    rungs = ("offered_at", "delivered_at", "read_at", "answered_at")
    return {"stored_at": STORED, **{rung: reached.get(rung) for rung in rungs}}


def message(identity: str, body: str, **changes: Any) -> Json:
    """One element of `thread --json`."""
    return {
        "id": identity,
        "sender": "user",
        "sender_name": "user",
        "recipient": "backend",
        "body": body,
        "reply_to": None,
        "priority": "normal",
        "created_at": STORED,
        "receipts": receipts(),
        "via": None,
        "attachments": [],
        **changes,
    }


def ask(identity: str, command: str, task_name: str = "backend", **changes: Any) -> Json:
    """One element of `asks --json`: a session asks whether it may run `command`."""
    return {
        "id": identity,
        "kind": "permission",
        "task": f"t_{task_name.upper()}",
        "task_name": task_name,
        "workspace": "shop",
        "title": f"Bash: {command}",
        "body": command,
        "tool": "Bash",
        "input": {"command": command, "description": "what it does"},
        "suggestions": [],
        "agent": None,
        "same": [],
        "opened_at": STORED,
        "closed_at": None,
        "outcome": None,
        "decided_by": None,
        "reason": None,
        "said": "I will look at it now.",
        **changes,
    }


@dataclass
class FakeWorker:
    """What the worker knows, and what it was asked."""

    socket: Path
    tasks: dict[str, Json] = field(default_factory=dict)
    threads: dict[str, list[Json]] = field(default_factory=dict)
    asks: dict[str, Json] = field(default_factory=dict)
    foreign: list[Json] = field(default_factory=list)  # sessions that are not ours
    logs: dict[str, list[Json]] = field(default_factory=dict)
    workspaces: list[Json] = field(default_factory=list)
    tokens: list[Json] = field(default_factory=list)
    failures: dict[str, Json] = field(default_factory=dict)  # "METHOD /path" -> problem
    drops: dict[str, int] = field(default_factory=dict)  # "METHOD /path" -> answers to lose
    progress: dict[str, list[Json]] = field(default_factory=dict)  # id -> sessions to come
    reaches: Json = field(default_factory=dict)  # the receipts a message gets when looked at
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    trusted: bool = True
    database: str = "ok"
    history: list[Json] = field(default_factory=list)
    one_shots: dict[str, Json] = field(default_factory=dict)
    ends: dict[str, Json | None] = field(default_factory=dict)  # name -> its verdict; None: never
    on_wait: Callable[[], None] = lambda: None  # while somebody waits for events
    stopping: threading.Event = field(default_factory=threading.Event)

    def add(self, *tasks: Json) -> None:
        self.tasks.update({one["id"]: one for one in tasks})

    def queue(self, *one_shots: Json) -> None:
        """Put one-shots into the queue, each with its task."""
        for one in one_shots:
            self.add(task(one["name"], None, workspace=one["workspace"]))
            self.one_shots[one["task"]] = one

    def wait_in(self, *asks: Json) -> None:
        """Open asks, each in a session of a task that is there."""
        for one in asks:
            self.tasks.setdefault(
                one["task"], task(one["task_name"], "waiting", workspace=one["workspace"])
            )
            self.asks[one["id"]] = one

    def close(self, identity: str, outcome: str = "allowed", by: str = "terminal") -> None:
        """Close an ask as if it had been decided elsewhere."""
        closed = {"closed_at": STORED, "outcome": outcome, "decided_by": by}
        self.asks[identity] = {**self.asks[identity], **closed}

    def decided(self, identity: str) -> list[Json]:
        """The decisions that were sent for an ask, oldest first."""
        return self.requests("POST", f"/api/asks/{identity}/decision")

    def say(self, task_id: str, *messages: Json) -> None:
        """Put messages into a thread, replacing those with the same id, and announce it."""
        with self.news:
            thread = {one["id"]: one for one in self.threads.get(task_id, [])}
            self.threads[task_id] = list((thread | {one["id"]: one for one in messages}).values())
            self.events.append({"seq": len(self.events) + 1, "type": "message.queued"})
            self.news.notify_all()

    def requests(self, method: str, path: str) -> list[Any]:
        """What the requests to one route said, in body or query, oldest first."""
        return [body for verb, where, body in self.asked if (verb, where) == (method, path)]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, {**query, **(body or {})}))
        if problem := self.failures.get(f"{method} {path}"):
            return problem["status"], problem
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match (method, *parts):
            case ("GET", "readyz"):
                return 200, {}
            case ("GET", "api", "worker"):
                return 200, self._about()
            case ("POST", "api", "worker", "stop"):
                self.stopping.set()
                return 200, {}
            case ("GET", "api", "worker", "check"):
                return 200, {"database": self.database}
            case ("GET", "api", "tokens"):
                wanted = query.get("workspace")
                return 200, [one for one in self.tokens if wanted in (None, one["workspace"])]
            case ("POST", "api", "links"):
                return 200, {"url": "http://127.0.0.1:8123/open/once"}
            case ("GET", "api", "resolve"):
                return self._resolve(query)
            case ("GET", "api", "tasks"):
                return 200, self._list(query.get("workspace"))
            case ("GET", "api", "foreign"):
                wanted = query.get("workspace")
                return 200, [one for one in self.foreign if wanted in (None, one["workspace"])]
            case ("POST", "api", "adopt"):
                return self._adopt(body)
            case ("POST", "api", "start"):
                return self._start(body)
            case ("POST" | "DELETE", "api", "peers"):
                return 200, {}
            case (_, "api", "queue", *verb):
                return self._queue(method, verb, query, body)
            case ("GET", "api", "events"):
                self.on_wait()
                return 200, self._events(int(query["after"]), float(query["wait"]))
            case ("GET", "api", "messages"):
                return 200, self._found(query["words"].split())
            case ("GET", "api", "messages", identity):
                return 200, self._sent(identity, receipts(**self.reaches))
            case ("GET", "api", "asks"):
                return 200, self._open_asks(query.get("workspace"))
            case (_, "api", "asks", identity, *verb):
                return self._ask(identity, verb, body)
            case (_, "api", "workspaces", *named):
                return self._workspaces(method, named, body)
            case (_, "api", "tasks", identity, *verb):
                return self._task(method, identity, verb, query, body)
        return 404, problem_of("not_found", f"no route {method} {path}", 404)

    def _about(self) -> Json:
        url = "http://127.0.0.1:8123/"
        return {
            "pid": os.getpid(),
            "port": 8123,
            "url": url,
            "version": "0.1.0",
            "protocol": 1,
            "sessions": len(self.tasks),
        }

    def _found(self, words: list[str]) -> list[Json]:
        said = [message for thread in self.threads.values() for message in thread]
        return [one for one in reversed(said) if all(word in one["body"] for word in words)]

    def _resolve(self, query: dict[str, str]) -> tuple[int, Any]:
        found = [
            one
            for one in self.tasks.values()
            if query["target"] in (one["name"], f"{one['workspace']}/{one['name']}", one["id"])
            and query.get("workspace") in (None, one["workspace"])
        ]
        if len(found) == 1:
            return 200, found[0]
        if found:
            names = ", ".join(f"{one['workspace']}/{one['name']}" for one in found)
            return 409, problem_of("ambiguous", f"{query['target']} may be {names}.", 409)
        return 404, problem_of("not_found", f"There is no task {query['target']!r}.", 404)

    def _list(self, workspace: str | None) -> list[Json]:
        for identity, sessions in self.progress.items():
            if sessions:
                self.tasks[identity] = {**self.tasks[identity], "session": sessions.pop(0)}
        return [one for one in self.tasks.values() if workspace in (None, one["workspace"])]

    def _start(self, order: Json) -> tuple[int, Any]:
        if not self.trusted and not order["trust"]:
            detail = "The repository /src/shop was never trusted; say --trust."
            return 409, problem_of("untrusted", detail, 409)
        known = set(self.tasks)
        self.add(*(task(one["name"]) for one in order["tasks"] if _id(one) not in known))
        made = [
            {"id": _id(one), "name": one["name"], "created": _id(one) not in known}
            for one in order["tasks"]
        ]
        return 200, {"tasks": made}

    def _adopt(self, order: Json) -> tuple[int, Any]:
        if not order["now"] and not order["fork"] and any(_works(one) for one in self.foreign):
            detail = f"{order['target']} is busy; use --now to end it all the same."
            return 409, problem_of("busy", detail, 409)
        name = order["name"] or "adopted"
        self.add(task(name, worktree="/src/shop"))
        return 200, {"task": {"id": f"t_{name.upper()}", "name": name}, "ended": 815, "left": [816]}

    def _events(self, after: int, wait: float) -> Json:
        with self.news:
            self.news.wait_for(lambda: len(self.events) > after, timeout=min(wait, 5))
            return {"events": self.events[after:], "next": max(after, len(self.events))}

    def _queue(
        self, method: str, verb: list[str], query: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        match (method, *verb):
            case ("GET",):
                self._end_what_runs()
                wanted = query.get("workspace")
                return 200, [o for o in self.one_shots.values() if wanted in (None, o["workspace"])]
            case ("POST",):
                return self._join_queue(body["tasks"])
            case ("POST", "next"):
                return self._begin(body)
            case ("POST", "cancel"):
                status = "queued" if body["requeue"] else "cancelled"
                self._change(body["tasks"], status, None if body["requeue"] else 130)
            case ("POST", "again"):
                self._change(body["tasks"], "queued", None)
            case ("GET", identity, "report"):
                return 200, self._report(identity)
        return 200, [self.one_shots[identity] for identity in body["tasks"]]

    def _join_queue(self, sections: Json) -> tuple[int, Any]:
        names = {one["name"] for one in self.one_shots.values()}
        if taken := sorted(names & sections.keys()):
            return 409, problem_of("conflict", f"{taken[0]} is in the queue already.", 409)
        new = [one_shot(name, needs=one.get("needs", [])) for name, one in sections.items()]
        self.queue(*new)
        return 200, new

    def _begin(self, body: Json) -> tuple[int, Any]:
        chosen = [self.one_shots[identity] for identity in body["tasks"]]
        if not self.trusted and not body["trust"]:
            detail = "The repository /src/shop was never trusted; say --trust."
            return 409, problem_of("untrusted", detail, 409)
        done = {o["name"] for o in self.one_shots.values() if o["status"] == "completed"}
        room = body["jobs"] - sum(one["status"] == "running" for one in chosen)
        ready = [o for o in chosen if o["status"] == "queued" and done.issuperset(o["needs"])]
        begun = [one["task"] for one in ready[: max(0, room)]]
        self._change(begun, "running", None)
        return 200, {"begun": begun, "tasks": [self.one_shots[o["task"]] for o in chosen]}

    def _end_what_runs(self) -> None:
        for one in list(self.one_shots.values()):
            ending = self.ends.get(one["name"], {"status": "completed", "exit": 0})
            if one["status"] == "running" and ending is not None:
                ran = {"attempts": 1, "seconds": 12.34, "cost_usd": 0.02, "reason": "done"}
                self.one_shots[one["task"]] = {**one, **ran, **ending}
                self.announce(one["task"])

    def _change(self, identities: list[str], status: str, exit_: int | None) -> None:
        for identity in identities:
            changed = {"status": status, "exit": exit_, "started_at": STORED}
            self.one_shots[identity] = {**self.one_shots[identity], **changed}
            self.announce(identity)

    def announce(self, identity: str) -> None:
        """Tell that something of a one-shot changed."""
        told = {"task_id": identity, "queue": self.one_shots[identity]["status"]}
        self.happen("task.updated", told)

    def happen(self, kind: str, payload: Json) -> None:
        """Tell of an event."""
        with self.news:
            self.events.append({"seq": len(self.events) + 1, "type": kind, "payload": payload})
            self.news.notify_all()

    def _report(self, identity: str) -> Json:
        return {
            **self.one_shots[identity],
            "prompt": "what is wanted",
            "check": None,
            "folder": "/nowhere/run",
            "transcript": None,
            "repo": "/src/shop",
            "base": None,
            "messages": [],
        }

    def _open_asks(self, workspace: str | None) -> list[Json]:
        return [
            {key: value for key, value in one.items() if key != "said"}
            for one in self.asks.values()
            if one["closed_at"] is None and workspace in (None, one["workspace"])
        ]

    def _ask(self, identity: str, verb: list[str], body: Any) -> tuple[int, Any]:
        if identity not in self.asks:
            return 404, problem_of("not_found", f"There is no ask {identity!r}.", 404)
        if verb:
            if self.asks[identity]["closed_at"]:
                return 409, problem_of("conflict", "It was allowed at its terminal already.", 409)
            if body.get("keep_open"):
                return 200, self.asks[identity]
            outcome = {"allow": "allowed", "deny": "denied", "answer": "answered"}
            self.close(identity, outcome[body["decision"]], "user")
        return 200, self.asks[identity]

    def _workspaces(self, method: str, named: list[str], body: Any) -> tuple[int, Any]:
        if not named:
            return 200, self.workspaces
        found = [one for one in self.workspaces if named[0] in (one["id"], one["name"])]
        if not found:
            return 404, problem_of("not_found", f"There is no workspace {named[0]!r}.", 404)
        if method == "PATCH":
            found[0]["name"] = body["name"]
            return 200, found[0]
        self.workspaces.remove(found[0])
        gone = [f"Removed {one['name']}." for one in self._list(found[0]["name"])]
        return 200, {"name": found[0]["name"], "tasks": gone, "tokens": 1}

    def _sent(self, identity: str, reached: Json) -> Json:
        via = "hook" if reached["offered_at"] else None
        return {
            "id": identity,
            "task": "t_BACKEND",
            "priority": "normal",
            "receipts": reached,
            "via": via,
        }

    def _task(
        self, method: str, identity: str, verb: list[str], query: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        match (method, *verb):
            case ("GET",):
                return 200, {**self.tasks[identity], "body": "what is wanted", "repo": "/src/shop"}
            case ("DELETE",):
                return 200, {"summary": f"Removed {self.tasks.pop(identity)['name']}."}
            case ("POST", "stop" | "restart" as what):
                ran = (self.tasks[identity]["session"] or {}).get("state") in LIVE
                state = "stopped" if what == "stop" else "idle"
                self.tasks[identity] = task(self.tasks[identity]["name"], state)
                return 200, {"stopped": ran}
            case ("POST", "messages"):
                return 200, self._sent(f"m_{body['key'][:4]}", receipts())
            case ("GET", "history"):
                return 200, self.history
            case ("POST", "status"):
                return 200, {"previous": self.tasks[identity]["status"], "status": body["status"]}
            case ("GET", "messages"):
                return 200, self.threads.get(identity, [])
            case ("GET", "terminal"):
                return 200, {"socket": "/run/holder.sock"}
            case ("GET", "log"):
                lines, after = self.logs.get(identity, []), int(query["after"])
                upto = min(len(lines), after + 2)
                return 200, {"lines": lines[after:upto], "next": upto, "ended": after >= upto}
        return 404, problem_of("not_found", "no such verb", 404)


def _works(one: Json) -> bool:
    return str(one["session"]["state"]) != "idle"


def _id(order: Json) -> str:
    return f"t_{order['name'].upper()}"


def problem_of(code: str, detail: str, status: int) -> Json:
    """An `application/problem+json` body."""
    return {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    worker: FakeWorker


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _handle(self) -> None:
        url = urlsplit(self.path)
        worker, key = self.server.worker, f"{self.command} {url.path}"
        worker.headers.append(dict(self.headers))
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content) if content else None
        if worker.drops.get(key, 0) > 0:
            worker.drops[key] -= 1
            worker.asked.append((self.command, url.path, body))
            self.close_connection = True
            return
        status, answer = worker.answer(self.command, url.path, dict(parse_qsl(url.query)), body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a test's output is read when it fails."""

    def address_string(self) -> str:
        return "unix"


@contextmanager
def serving(socket: Path) -> Iterator[FakeWorker]:
    """A fake worker that listens on `socket` until it is told to stop, or to the end."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    worker = FakeWorker(socket)
    with _Server(str(socket), _Handler) as server:
        server.worker = worker
        served = threading.Thread(target=server.serve_forever, args=(0.02,))
        stopper = threading.Thread(target=_stop_when_told, args=(worker, server))
        served.start()
        stopper.start()
        try:
            yield worker
        finally:
            worker.stopping.set()
            stopper.join()
            served.join()


def _stop_when_told(worker: FakeWorker, server: _Server) -> None:
    worker.stopping.wait()
    server.shutdown()
    server.server_close()
    worker.socket.unlink(missing_ok=True)
