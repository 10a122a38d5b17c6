"""Speaks to the worker over its unix socket, and starts a worker where there is none.

Knows the routes of docs/architecture.md and what can happen on the way to them. Knows nothing about
terminals, exit statuses or wording of results: that is the commands' part. Standard library only,
because every command pays for what is imported here.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from email.message import Message as Headers
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlencode

from claudedo.errors import (
    ClaudedoError,
    RefusedError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
    from_code,
)
from claudedo.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from claudedo.settings import Settings, make_private

START_SECONDS = 20.0
"""How long a worker that was just started may take until it answers."""

ANSWER_SECONDS = 30.0
LONG_SECONDS = 180.0  # ending a process tree, or looking through a repository, takes its time
HOOK_SECONDS = 1900.0  # a commit waits for the person's hooks, which may run all their tests
TRIES = 3
SESSION_MARKS = frozenset({"CLAUDEDO_SESSION", "CLAUDEDO_TASK", "CLAUDEDO_TASK_NAME"})
_GRACE_SECONDS = 1.0
_LOG_LINES = 10
_REASON = " CRITICAL __main__: "  # before the sentence with which a worker gives up

Json = dict[str, Any]


class _Absent(Exception):
    """Nobody listens on the socket: the request was not sent."""


class _Lost(Exception):
    """The connection broke before the answer was there: nobody knows what was done."""


class WorkerClient:
    """The worker of one state directory, as plain calls that return decoded JSON.

    Every call raises the error that the worker reported (`claudedo.errors`), `UnavailableError`
    when there is no worker, `TimedOutError` when it does not answer. A worker that died is started
    again, at most `TRIES` times a call, unless `connect(start=False)` forbade it; a request that it
    may have acted upon is repeated only if repeating it changes nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._start = True

    def connect(self, start: bool = True) -> Self:
        """Return this client once the worker answers.

        With `start`, a missing worker is started, which takes at most `START_SECONDS`. Raises
        `UnavailableError` if it does not come, quoting the end of its log.
        """
        self._start = start
        if self.ready():
            return self
        if not start:
            if self.listening():
                raise UnavailableError("The worker is just starting or ending: try again.")
            raise UnavailableError("The worker is not running; `claudedo worker start` starts it.")
        self._start_worker()
        return self

    def ready(self) -> bool:
        """True if a worker answers and says that it takes requests."""
        try:
            status, _ = self._exchange("GET", "/readyz", None, timeout=2.0)
        except (_Absent, _Lost, TimedOutError):
            return False
        return status == http.client.OK

    def listening(self) -> bool:
        """True if somebody accepts connections, ready or not."""
        try:
            with closing(_Connection(self.settings.worker_socket, 2.0)) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def gone(self) -> bool:
        """True once no worker holds the state directory: one that listens no more still ends."""
        try:
            with self.settings.lock.open() as lock:
                return _locked(lock.fileno())
        except FileNotFoundError:
            return True

    # The worker itself

    def worker(self) -> Json:
        """`{"pid", "port", "url", "version", "protocol", "sessions"}`."""
        return self._object("GET", "/api/worker", again=True)

    def stop_worker(self) -> None:
        """Ask the worker to end. Sessions go on. It has not ended yet when this returns."""
        self._call("POST", "/api/worker/stop", {})

    def check(self) -> str:
        """What the worker's database says of itself: `ok`, or what is wrong with it."""
        return str(self._object("GET", "/api/worker/check", again=True)["database"])

    def page_link(self) -> str:
        """A one-time link to the page, good for 60 seconds."""
        return str(self._object("POST", "/api/links", {}, again=True)["url"])

    def events(self, after: int, wait: float) -> Json:
        """`{"events", "next"}`: what happened after sequence number `after`.

        Waits at most `wait` seconds for the first event.
        """
        query = {"after": after, "wait": wait}
        return self._object(
            "GET", "/api/events", query=query, again=True, timeout=wait + ANSWER_SECONDS
        )

    # Tasks and their sessions

    def resolve(self, target: str, cwd: str, workspace: str | None = None) -> Json:
        """The task that `target` names, seen from the folder `cwd`."""
        query = {"target": target, "cwd": cwd, "workspace": workspace}
        return self._object("GET", "/api/resolve", query=query, again=True)

    def tasks(self, workspace: str | None = None) -> list[Json]:
        """The list of `ls --json`."""
        return self._list("GET", "/api/tasks", query={"workspace": workspace})

    def task(self, task: str) -> Json:
        """One task with everything that is known about it."""
        return self._object("GET", _task_path(task), again=True)

    def start(self, order: Json) -> list[Json]:
        """Start what `order` names (docs/architecture.md, `POST /api/start`).

        Raises `UntrustedError` when a repository was never trusted; nothing is started then.
        """
        answer = self._object("POST", "/api/start", order, timeout=LONG_SECONDS)
        return list(answer["tasks"])

    def foreign(self, workspace: str | None = None, config_dir: str | None = None) -> list[Json]:
        """The machine's other Claude sessions, as elements of `ls --json`.

        `config_dir`: also look among those of this configuration folder.
        """
        query = {"workspace": workspace, "config_dir": config_dir}
        return self._list("GET", "/api/foreign", query=query)

    def adopt(self, order: Json) -> Json:
        """Take over what `order` names (docs/architecture.md, `POST /api/adopt`).

        Returns `{"task", "ended", "left"}`. Raises `BusyError` when it is at work, `UntrustedError`
        when its repository was never trusted; nothing is changed then.
        """
        return self._object("POST", "/api/adopt", order, timeout=LONG_SECONDS)

    def stop(self, task: str) -> bool:
        """End the task's session, politely, then firmly; False if none ran."""
        path = _task_path(task, "stop")
        return bool(self._object("POST", path, {}, again=True, timeout=LONG_SECONDS)["stopped"])

    def restart(self, task: str, env: dict[str, str]) -> None:
        """Resume the task's conversation in a new process with the environment `env`."""
        self._call("POST", _task_path(task, "restart"), {"env": env}, timeout=LONG_SECONDS)

    def remove(self, task: str, *, force: bool = False) -> str:
        """Remove the task with its worktree and branch; `force` also removes work in them.

        Its teardown runs with the environment of this process. Returns a sentence about what was
        done.
        """
        query = {"force": "true"} if force else {}
        body = {"env": dict(os.environ)}
        patience = self.settings.setup_timeout + LONG_SECONDS
        answer = self._object("DELETE", _task_path(task), body, query=query, timeout=patience)
        return str(answer["summary"])

    def variables(self, task: str) -> dict[str, str]:
        """What a program finds in its environment that runs for the task."""
        return self._object("GET", _task_path(task, "variables"), again=True)

    def changes(self, task: str) -> Json:
        """`{"directory", "base", "head", "into", "untracked"}`: where the task's changes are."""
        path = _task_path(task, "changes")
        return self._object("GET", path, again=True, timeout=LONG_SECONDS)

    def merge(self, task: str, order: Json) -> Json:
        """Merge the task's work (docs/architecture.md, `POST /api/tasks/{task}/merge`)."""
        return self._object("POST", _task_path(task, "merge"), order, timeout=HOOK_SECONDS)

    def propose(self, task: str, order: Json) -> Json:
        """`{"directory", "branch", "into", "commits", "committed"}`: a branch to be pushed."""
        return self._object("POST", _task_path(task, "proposal"), order, timeout=HOOK_SECONDS)

    def link(self, a: str, b: str) -> None:
        """Make the tasks `a` and `b` peers."""
        self._call("POST", "/api/peers", {"a": a, "b": b}, again=True)

    def unlink(self, a: str, b: str) -> None:
        """Make the tasks `a` and `b` strangers again."""
        self._call("DELETE", "/api/peers", query={"a": a, "b": b})

    def terminal(self, task: str) -> str:
        """The path of the socket on which the holder of the task's session listens."""
        return str(self._object("GET", _task_path(task, "terminal"), again=True)["socket"])

    def log(self, task: str, after: int) -> Json:
        """`{"lines", "next", "ended"}`: the conversation after line `after`."""
        return self._object("GET", _task_path(task, "log"), query={"after": after}, again=True)

    # One-shots

    def add_one_shots(self, order: Json) -> list[Json]:
        """Put tasks into the queue (docs/architecture.md, `POST /api/queue`): all, or none."""
        answer = self._call("POST", "/api/queue", order, timeout=LONG_SECONDS)
        return list(answer)

    def one_shots(self, workspace: str | None = None, cwd: str | None = None) -> list[Json]:
        """The list of `queue ls --json`, in the order in which they were added.

        `cwd`: those of the workspace that this folder belongs to; of all where it belongs to none.
        """
        return self._list("GET", "/api/queue", query={"workspace": workspace, "cwd": cwd})

    def begin_one_shots(self, order: Json) -> Json:
        """`{"begun", "tasks"}`: begin what is ready (docs/architecture.md, `POST /api/queue/next`).

        Raises `UntrustedError` when a repository was never trusted; nothing is begun then.
        """
        path = "/api/queue/next"
        return self._object("POST", path, order, again=True, timeout=LONG_SECONDS)

    def cancel_one_shots(self, tasks: Sequence[str], *, requeue: bool = False) -> list[Json]:
        """End what runs of them, take out what waits; `requeue`: what runs goes on later.

        Returns them as they are now.
        """
        order = {"tasks": list(tasks), "requeue": requeue}
        path = "/api/queue/cancel"
        return list(self._call("POST", path, order, again=True, timeout=LONG_SECONDS))

    def queue_again(self, tasks: Sequence[str]) -> list[Json]:
        """Let ended ones wait for their turn again. Raises `ConflictError` for one that is done."""
        order = {"tasks": list(tasks)}
        return list(self._call("POST", "/api/queue/again", order, again=True))

    def report(self, task: str) -> Json:
        """A one-shot with all that its artifacts are made of."""
        path = f"/api/queue/{quote(task, safe='')}/report"
        return self._object("GET", path, again=True)

    # Workspaces

    def workspaces(self) -> list[Json]:
        """`{"id", "name", "root", "counts": {"tasks", "sessions"}}` of each, by name."""
        return self._list("GET", "/api/workspaces")

    def rename_workspace(self, workspace: str, name: str) -> Json:
        """The workspace of that id or name under another name."""
        return self._object("PATCH", _workspace_path(workspace), {"name": name}, again=True)

    def remove_workspace(self, workspace: str, *, force: bool = False, tasks: int = 0) -> Json:
        """Remove it with all that is in it; `{"name", "tasks", "tokens"}` says what that was.

        `tasks`: of how many to await the teardown. Raises `RefusedError`, with nothing removed,
        while a session runs in it, and without `force` where a worktree holds work of its own.
        """
        query = {"force": "true"} if force else {}
        body = {"env": dict(os.environ)}
        patience = tasks * self.settings.setup_timeout + LONG_SECONDS
        path = _workspace_path(workspace)
        return self._object("DELETE", path, body, query=query, timeout=patience)

    # Asks

    def asks(self, workspace: str | None = None) -> list[Json]:
        """The list of `asks --json`, oldest first."""
        return self._list("GET", "/api/asks", query={"workspace": workspace})

    def ask(self, ask: str) -> Json:
        """One ask, open or closed; `said` is the session's last sentence."""
        return self._object("GET", _ask_path(ask), again=True)

    def decide(self, ask: str, decision: Json) -> Json:
        """Decide an ask (docs/architecture.md, `POST /api/asks/{ask}/decision`); returns it.

        Raises `ConflictError` when it was decided before, or went away.
        """
        return self._object("POST", _ask_path(ask, "decision"), decision)

    # Messages

    def send(
        self,
        task: str,
        body: str,
        *,
        priority: str,
        reply_to: str | None,
        key: str,
        attachments: Sequence[str] = (),
    ) -> Json:
        """Store a message and return `send --json`. The same `key` never stores it twice.

        `attachments` are ids of files that were uploaded for the same task.
        """
        message: Json = {"body": body, "priority": priority, "reply_to": reply_to, "key": key}
        message |= {"attachments": list(attachments)} if attachments else {}
        return self._object("POST", _task_path(task, "messages"), message, again=True)

    def upload(self, task: str, file: Path) -> Json:
        """Give a file to the task, for a message that is sent next; `{"id", "filename", …}`.

        Raises `TooLargeError`, and `OSError` if it cannot be read.
        """
        with file.open("rb") as content:
            size = os.fstat(content.fileno()).st_size
            if size > self.settings.largest_attachment:
                limit = self.settings.attachment_limit
                raise TooLargeError(f"{file} is larger than {limit} MiB (`attachment_limit`).")
            query = {"filename": file.name}
            path = _task_path(task, "attachments")
            # Not sent with any message it is forgotten after a day, so a second one does no harm.
            return self._object(
                "POST", path, content, query=query, again=True, timeout=LONG_SECONDS
            )

    def download(self, attachment: str, into: BinaryIO) -> str:
        """Write the bytes of a file that a message carries; returns its name."""
        path = f"/api/attachments/{quote(attachment, safe='')}"
        return str(self._call("GET", path, again=True, timeout=LONG_SECONDS, into=into))

    def thread(self, task: str) -> list[Json]:
        """The list of `thread --json`."""
        return self._list("GET", _task_path(task, "messages"))

    def search(self, words: list[str]) -> list[Json]:
        """Messages that hold all of `words`, newest first, as `thread --json` lists them."""
        return self._list("GET", "/api/messages", query={"words": " ".join(words)})

    def message(self, message: str, rung: str, wait: float) -> Json:
        """`send --json`, as soon as `rung` is reached or `wait` seconds are over."""
        path = f"/api/messages/{quote(message, safe='')}"
        query = {"rung": rung, "wait": wait}
        return self._object("GET", path, query=query, again=True, timeout=wait + ANSWER_SECONDS)

    # How far tasks are

    def create_task(self, order: Json) -> Json:
        """A new task (docs/architecture.md, `POST /api/tasks`)."""
        return self._object("POST", "/api/tasks", order)

    def move(self, task: str, status: str, words: str | None = None) -> Json:
        """Change a task's status; `words` go to whoever must know."""
        order = {"status": status, "words": words}
        return self._object("POST", _task_path(task, "status"), order)

    def history(self, task: str) -> list[Json]:
        """How the task's status changed, oldest first: `{"at", "before", "after", "name"}`."""
        return self._list("GET", _task_path(task, "history"))

    # Tokens

    def create_token(self, order: Json) -> Json:
        """A new token, with its `text` and `url` (docs/architecture.md, `POST /api/tokens`)."""
        return self._object("POST", "/api/tokens", order)

    def tokens(self, workspace: str | None = None) -> list[Json]:
        """The list of `token ls --json`, newest first."""
        return self._list("GET", "/api/tokens", query={"workspace": workspace})

    def rotate_token(self, token: str, days: int) -> Json:
        """The token with another `text`; the one before is worth nothing any more."""
        return self._object("POST", _token_path(token, "rotate"), {"days": days})

    def revoke_token(self, token: str) -> Json:
        """The token, worth nothing any more."""
        return self._object("DELETE", _token_path(token), again=True)

    # On the wire

    def _object(
        self, method: str, path: str, body: Json | BinaryIO | None = None, **how: Any
    ) -> Json:
        answer = self._call(method, path, body, **how)
        if not isinstance(answer, dict):
            raise ClaudedoError(f"The worker answered {method} {path} with something unexpected.")
        return answer

    def _list(self, method: str, path: str, **how: Any) -> list[Json]:
        answer = self._call(method, path, again=True, **how)
        if not isinstance(answer, list):
            raise ClaudedoError(f"The worker answered {method} {path} with something unexpected.")
        return answer

    def _call(
        self,
        method: str,
        path: str,
        body: Json | BinaryIO | None = None,
        *,
        query: Json | None = None,
        timeout: float = ANSWER_SECONDS,
        again: bool = False,
        into: BinaryIO | None = None,
    ) -> Any:
        """One request and its decoded answer. `again`: repeating it changes nothing.

        An answer that goes `into` a file is not decoded; its file name is returned instead.
        """
        given = urlencode({key: value for key, value in (query or {}).items() if value is not None})
        url = f"{path}?{given}" if given else path
        for _ in range(TRIES):
            try:
                status, content = self._exchange(method, url, body, timeout, into)
            except _Absent:
                self.connect(self._start)
            except _Lost as error:
                if not again:
                    raise UnavailableError(
                        "The worker went away while it worked on this, so it may be done or not: "
                        "look with `claudedo ls` before you repeat it."
                    ) from error
                self.connect(self._start)
            else:
                return _decode(status, content)
        raise UnavailableError(
            f"The worker died {TRIES} times over this request; its log is {self.settings.log}."
        )

    def _exchange(
        self,
        method: str,
        url: str,
        body: Json | BinaryIO | None,
        timeout: float,
        into: BinaryIO | None = None,
    ) -> tuple[int, bytes]:
        headers = {PROTOCOL_HEADER: str(PROTOCOL_VERSION), "Connection": "close"}
        content: bytes | BinaryIO | None = None
        if isinstance(body, dict):
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        elif body is not None:
            content = body
            content.seek(0)
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Length"] = str(os.fstat(content.fileno()).st_size)
        with closing(_Connection(self.settings.worker_socket, timeout)) as connection:
            try:
                self._open(connection)
                try:
                    connection.request(method, url, content, headers)
                except (BrokenPipeError, ConnectionResetError):
                    if content is not body:
                        raise
                    # A file that is refused early: the answer is there before all of it was taken.
                response = connection.getresponse()
                if into is None or response.status >= http.client.BAD_REQUEST:
                    return response.status, response.read()
                into.seek(0)
                into.truncate()
                shutil.copyfileobj(response, into)
                return response.status, json.dumps(_filename(response.headers)).encode()
            except TimeoutError as error:
                raise TimedOutError(
                    f"The worker did not answer within {timeout:.0f} s; "
                    f"its log is {self.settings.log}."
                ) from error
            except (ConnectionError, http.client.HTTPException) as error:
                raise _Lost from error

    def _open(self, connection: _Connection) -> None:
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise _Absent from error  # refused: the file of a worker that is gone
        except PermissionError as error:
            raise RefusedError(
                f"{self.settings.worker_socket} belongs to another user's worker; "
                "set CLAUDEDO_HOME to a folder of your own."
            ) from error

    # A missing worker

    def _start_worker(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        self._make_folders()
        with self._only_starter(deadline):
            if self.ready():
                return
            logged = _size(self.settings.log)
            child = None if self.listening() else self._spawn()
            if failure := self._wait_until_ready(child, deadline):
                raise UnavailableError(self._explained(failure, logged))

    def _make_folders(self) -> None:
        for folder in (self.settings.home, self.settings.run):
            try:
                make_private(folder)
            except OSError as error:
                raise ClaudedoError(
                    f"{folder} cannot be used: {error.strerror}. "
                    "Make it writable, or set CLAUDEDO_HOME to another folder."
                ) from error

    @contextmanager
    def _only_starter(self, deadline: float) -> Iterator[None]:
        """Let one command at a time start a worker; the others then find it running."""
        path = self.settings.home / "start.lock"
        try:
            path.touch(mode=0o600)
            lock = path.open("w")
        except OSError as error:
            raise ClaudedoError(
                f"{error.filename} cannot be written: {error.strerror}. "
                "Make it writable, or set CLAUDEDO_HOME to another folder."
            ) from error
        with lock:
            while not _locked(lock.fileno()):
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "Another command has been starting the worker for "
                        f"{START_SECONDS:.0f} s; look at {self.settings.log}."
                    )
                time.sleep(0.05)
            yield

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start a worker that outlives this command and its terminal."""
        # -P: a folder `claudedo_worker` in the present directory is not the worker.
        command = [sys.executable, "-P", "-m", "claudedo_worker"]
        log = os.open(self.settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.settings.home,
                env=self._worker_environment(),
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _worker_environment(self) -> dict[str, str]:
        """This shell's environment, less the marks of the session that it may belong to.

        A worker that a session's own shell happens to start is no part of that session.
        """
        env = {key: value for key, value in os.environ.items() if key not in SESSION_MARKS}
        return env | {"CLAUDEDO_HOME": str(self.settings.home)}

    def _wait_until_ready(self, child: subprocess.Popen[bytes] | None, deadline: float) -> str:
        """Wait for the worker; an empty answer means that it is there, else what went wrong."""
        ended_at = None
        while time.monotonic() < deadline:
            if self.ready():
                if child is not None and child.poll() is None:
                    child.returncode = 0  # it outlives us on purpose; nobody waits for it
                return ""
            if child is not None and child.poll() == 0 and not self.listening():
                child = self._spawn()  # it left the place to one that was just ending
            if child is not None and child.poll() and ended_at is None:
                ended_at = time.monotonic()  # or it left the place to one that is still starting
            if ended_at is not None and time.monotonic() > ended_at + _GRACE_SECONDS:
                assert child is not None
                return f"The worker did not start (exit status {child.returncode})."
            time.sleep(0.05)
        if child is not None and child.poll() is None:
            child.returncode = 0  # it may still come; the next command will find it
        return f"The worker did not answer within {START_SECONDS:.0f} s."

    def _explained(self, failure: str, offset: int) -> str:
        """`failure` with what the log says about it since `offset`: its reason, else its end."""
        advice = "\nRun `claudedo doctor`, or `claudedo worker run` to see it fail."
        try:
            with self.settings.log.open("rb") as log:
                log.seek(offset)
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return (
                f"{failure} Its log {self.settings.log} cannot be read: {error.strerror}.{advice}"
            )
        for line in reversed(lines):
            if _REASON in line:
                return f"The worker did not start: {line.partition(_REASON)[2]}"
        if not lines:
            return f"{failure} Its log {self.settings.log} is empty.{advice}"
        quoted = "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])
        return f"{failure} The end of its log {self.settings.log}:{quoted}{advice}"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def _decode(status: int, content: bytes) -> Any:
    try:
        answer = json.loads(content) if content else None
    except ValueError:
        answer = content.decode(errors="replace")
    if status < http.client.BAD_REQUEST:
        return answer
    if not isinstance(answer, dict):
        raise ClaudedoError(f"The worker answered {status}: {answer or 'nothing'}")
    raise _error(answer, status)


def _error(problem: Json, status: int) -> ClaudedoError:
    detail = problem.get("detail") or problem.get("title") or f"The worker answered {status}."
    return from_code(str(problem.get("code")), str(detail))


def _filename(headers: Headers) -> str:
    """The name that a file is to have, without any folder."""
    return Path(headers.get_filename() or "").name or "attachment"


def _task_path(task: str, verb: str = "") -> str:
    return f"/api/tasks/{quote(task, safe='')}" + (f"/{verb}" if verb else "")


def _ask_path(ask: str, verb: str = "") -> str:
    return f"/api/asks/{quote(ask, safe='')}" + (f"/{verb}" if verb else "")


def _workspace_path(workspace: str) -> str:
    return f"/api/workspaces/{quote(workspace, safe='')}"


def _token_path(token: str, verb: str = "") -> str:
    return f"/api/tokens/{quote(token, safe='')}" + (f"/{verb}" if verb else "")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
