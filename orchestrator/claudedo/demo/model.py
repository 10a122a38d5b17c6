"""A stand-in for the Anthropic Messages API that answers from a script.

The real Claude CLI talks to it through ANTHROPIC_BASE_URL; nothing leaves the machine. It records
every request, says what its script says, and decides nothing else. It runs in a thread of its own,
so that synchronous and asynchronous code can use it alike:

    with ScriptedModel() as model:
        listing = ToolUse("Bash", {"command": "ls"})
        model.script("You are backend", Sequence([listing, Text("done")]))
        ...  # run `claude` with ANTHROPIC_BASE_URL=model.url
        model.wait_for(lambda request: "README" in request.latest)

See `answer` for what can be said, `request` for what can be asked of a recorded request.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeAlias

from aiohttp import web

from claudedo.demo import reply
from claudedo.demo.answer import (
    Answer,
    Brain,
    Error,
    Held,
    Rules,
    Sequence,
    Slow,
    Text,
    ToolUse,
    ToolUses,
)
from claudedo.demo.request import ModelRequest, RequestKind, TextPart, ToolResult

__all__ = [
    "Answer",
    "Brain",
    "Error",
    "Held",
    "ModelRequest",
    "NeverAsked",
    "OtherRequest",
    "RequestKind",
    "Rules",
    "ScriptFailed",
    "ScriptedModel",
    "Sequence",
    "Slow",
    "Text",
    "TextPart",
    "ToolResult",
    "ToolUse",
    "ToolUses",
]

Key: TypeAlias = str | Callable[[ModelRequest], bool]
"""Selects a session: its id, a text in its system prompt or conversation, or a test."""

SECRET_HEADERS = {"authorization", "x-api-key"}
LARGEST_REQUEST = 64 * 2**20  # bytes; the real API takes 32 MB
GLANCE = 0.01  # seconds between two looks at the event of a held answer
LISTED = 20  # requests named when none fitted

DEFAULTS: Mapping[RequestKind, Answer] = {
    RequestKind.MAIN: Text("ok"),
    RequestKind.SUBAGENT: Text("ok"),
    RequestKind.COMPACTION: Text(
        "<analysis>Nothing open.</analysis>\n<summary>A scripted "
        "conversation; nothing in it is needed to go on.</summary>"
    ),
    RequestKind.TITLE: Text(json.dumps({"title": "Scripted session"})),
    RequestKind.CLASSIFIER: Text("<block>no</block>"),
    RequestKind.SIDE: Text("ok"),
}


class NeverAsked(TimeoutError):
    """No request fitted in time."""


class ScriptFailed(Exception):
    """A brain raised, or a held answer was never let go."""


@dataclass(frozen=True, kw_only=True)
class OtherRequest:
    """Anything asked that was not a message, and the status it got."""

    method: str
    path: str
    status: int


class ScriptedModel:
    """Serves on loopback from `start` to `stop`; also a context manager.

    All methods may be called from any thread. `port` 0 takes a free one, and keeps it over later
    stops and starts, so that an outage can be played.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._changed = threading.Condition()  # guards everything below
        self._requests: list[ModelRequest] = []
        self._other_requests: list[OtherRequest] = []
        self._failures: list[Exception] = []
        self._scripts: dict[RequestKind, dict[Key, Brain]] = {kind: {} for kind in RequestKind}
        self._defaults = {kind: _always(answer) for kind, answer in DEFAULTS.items()}
        self._bound: dict[tuple[RequestKind, str, str], Key] = {}

    # Life

    def start(self) -> Self:
        """Serves from now on. Raises OSError when the port is taken."""
        if self._thread is not None:
            message = "the scripted model is already running"
            raise RuntimeError(message)
        ready: Future[int] = Future()
        thread = threading.Thread(target=self._run, args=(ready,), name="scripted-model")
        thread.daemon = True
        thread.start()
        self._port = ready.result()
        self._thread = thread
        return self

    def stop(self) -> None:
        """Stops serving; requests under way are cut. Raises ScriptFailed if the script failed."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()
        with self._changed:
            failures, self._failures = self._failures, []
        if failures:
            message = f"the script failed: {failures[0]}"
            raise ScriptFailed(message) from failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except ScriptFailed as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is the one to read

    @property
    def url(self) -> str:
        """What ANTHROPIC_BASE_URL has to be."""
        if not self._port:
            message = "the scripted model has no address before it is started"
            raise RuntimeError(message)
        return f"http://127.0.0.1:{self._port}"

    # Script

    def script(self, key: Key, brain: Brain, *, kind: RequestKind = RequestKind.MAIN) -> None:
        """Lets `brain` answer the requests of one `kind` in the session that `key` selects.

        A session id selects exactly. Otherwise a conversation belongs to the first key that fits
        its first request that any fits, and stays with it, so that a text which later reaches
        another session moves nothing. Tests come before texts, and the system prompt before the
        conversation. Giving the same key again replaces its brain.
        """
        if not key:
            message = "an empty key would fit every session: use `otherwise`"
            raise ValueError(message)
        with self._changed:
            self._scripts[kind][key] = brain

    def otherwise(self, brain: Brain, *, kind: RequestKind = RequestKind.MAIN) -> None:
        """Lets `brain` answer the requests of one `kind` that no script selects."""
        with self._changed:
            self._defaults[kind] = brain

    # Record

    @property
    def requests(self) -> tuple[ModelRequest, ...]:
        """All requests for a message so far, in order of arrival."""
        with self._changed:
            return tuple(self._requests)

    @property
    def other_requests(self) -> tuple[OtherRequest, ...]:
        """Everything else that was asked so far; unknown paths have status 404."""
        with self._changed:
            return tuple(self._other_requests)

    def wait_for(
        self,
        predicate: Callable[[ModelRequest], bool],
        timeout: float = 30.0,
        *,
        after: int = 0,
    ) -> ModelRequest:
        """The first request that fits `predicate` and whose sequence is above `after`.

        It may have come already; else waits up to `timeout` seconds, then raises NeverAsked,
        naming what did come.
        """

        def fitting() -> ModelRequest | None:
            return next((seen for seen in self._requests[after:] if predicate(seen)), None)

        with self._changed:
            if (found := self._changed.wait_for(fitting, timeout)) is None:
                raise NeverAsked(self._never_asked(timeout, after))
            return found

    async def wait_for_async(
        self,
        predicate: Callable[[ModelRequest], bool],
        timeout: float = 30.0,
        *,
        after: int = 0,
    ) -> ModelRequest:
        """`wait_for`, without blocking the caller's event loop."""
        return await asyncio.to_thread(self.wait_for, predicate, timeout, after=after)

    def _never_asked(self, timeout: float, after: int) -> str:
        came = self._requests[after:]
        listed = "".join(f"\n  {request}" for request in came[-LISTED:])
        return f"no request fitted within {timeout:g} s; {len(came)} came{listed}"

    # Server

    def _run(self, ready: Future[int]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: Future[int]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_post("/v1/messages", self._post_message)
        app.router.add_post("/v1/messages/count_tokens", self._post_count_tokens)
        app.router.add_route("*", "/{path:.*}", self._other)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            ready.set_result(runner.addresses[0][1])
            await self._stopping.wait()
        finally:
            await runner.cleanup()

    async def _post_message(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if missing := {"model", "max_tokens", "messages"} - body.keys():
            names = ", ".join(sorted(missing))
            return _refusal(Error(400, "invalid_request_error", f"missing: {names}"))
        request = self._record(http, body)
        try:
            answer, seconds = await _released(self._answer(request))
        except Exception as error:  # a brain is foreign code; `stop` raises what it raised
            answer, seconds = self._failed(error), 0.0
        if isinstance(answer, Error):
            return _refusal(answer)
        message = reply.message(request.body, answer)
        if not request.body.get("stream"):
            await asyncio.sleep(seconds)
            return web.json_response(message)
        return await _stream(http, message, seconds)

    async def _post_count_tokens(self, http: web.Request) -> web.Response:
        body = await http.json()
        self._record_other(http, 200)
        counted = reply.tokens(body.get("system"), body.get("tools"), body["messages"])
        return web.json_response({"input_tokens": counted})

    async def _other(self, http: web.Request) -> web.Response:
        # Before its first message 2.1.197 asks HEAD / and 2.1.330 HEAD /api/hello.
        greeting = http.method == "HEAD" and http.path in {"/", "/api/hello"}
        self._record_other(http, 200 if greeting else 404)
        if greeting:
            return web.Response()
        return _refusal(Error(404, "not_found_error", f"no such thing: {http.path}"))

    def _record(self, http: web.Request, body: Mapping[str, Any]) -> ModelRequest:
        headers = {name.lower(): value for name, value in http.headers.items()}
        with self._changed:
            request = ModelRequest(
                sequence=len(self._requests) + 1,
                time=datetime.now(UTC),
                headers={name: headers[name] for name in headers.keys() - SECRET_HEADERS},
                body=body,
            )
            self._requests.append(request)
            self._changed.notify_all()
        return request

    def _record_other(self, http: web.Request, status: int) -> None:
        with self._changed:
            self._other_requests.append(
                OtherRequest(method=http.method, path=http.path, status=status)
            )

    def _answer(self, request: ModelRequest) -> Answer:
        with self._changed:
            key = self._key(request)
            brain = (
                self._defaults[request.kind] if key is None else self._scripts[request.kind][key]
            )
            return brain(request)

    def _key(self, request: ModelRequest) -> Key | None:
        keys = self._scripts[request.kind]
        if request.session_id in keys:
            return request.session_id
        conversation = (request.kind, request.session_id, request.agent_id)
        key = self._bound.get(conversation) or _fitting(keys, request)
        if key and request.session_id:
            self._bound[conversation] = key
        return key

    def _failed(self, error: Exception) -> Error:
        with self._changed:
            self._failures.append(error)
        # A status the CLI does not retry.
        return Error(400, "invalid_request_error", f"the script failed: {error}")


def _always(answer: Answer) -> Brain:
    return lambda request: answer


def _fitting(keys: Mapping[Key, Brain], request: ModelRequest) -> Key | None:
    tests = (key for key in keys if not isinstance(key, str) and key(request))
    texts = (
        key
        for where in (request.system_text, request.text)
        for key in keys
        if isinstance(key, str) and key in where
    )
    return next(tests, None) or next(texts, None)


def _refusal(error: Error) -> web.Response:
    return web.json_response(reply.error(error), status=error.status, headers=error.headers)


async def _released(answer: Answer) -> tuple[Text | ToolUse | ToolUses | Error, float]:
    """The bare answer once nothing holds it any more, and over how many seconds to spread it."""
    seconds = 0.0
    while isinstance(answer, Held | Slow):
        if isinstance(answer, Slow):
            seconds += answer.seconds
        else:
            await _let_go(answer)
        answer = answer.answer
    return answer, seconds


async def _let_go(held: Held) -> None:
    # Looking is simpler than a thread for each held answer, which could outlive the server.
    deadline = asyncio.get_running_loop().time() + held.timeout
    while not held.event.is_set():
        if asyncio.get_running_loop().time() > deadline:
            message = f"an answer was held for {held.timeout:g} s and never let go"
            raise TimeoutError(message)
        await asyncio.sleep(GLANCE)


async def _stream(
    http: web.Request, message: Mapping[str, Any], seconds: float
) -> web.StreamResponse:
    # As the API does: the CLI writes it beside the answer, and into its telemetry.
    named = {"request-id": f"req_{message['id']}"}
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **named})
    events = tuple(reply.events(message))
    try:
        await response.prepare(http)
        for event in events:
            await response.write(reply.encoded(event))
            await asyncio.sleep(seconds / len(events))
    except ConnectionResetError:
        pass  # the caller hung up, as an interrupted CLI does
    return response
