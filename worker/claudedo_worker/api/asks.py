"""What waits for a person, and what the person says to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo import protocol
from claudedo.errors import ConflictError, NotFoundError, UsageError
from claudedo.model import Ask, AskKind, Task
from claudedo_worker import decision, journal
from claudedo_worker.api.context import Context
from claudedo_worker.api.decode import body_of, check_keys, flag, line, lines, optional
from claudedo_worker.asks import HELD_PATIENCE, conflict
from claudedo_worker.decision import Decision
from claudedo_worker.linked import Linked

Alike = Mapping[str, Sequence[Ask]]

GLANCE = 0.05


async def list_asks(context: Context, request: Request) -> Response:
    """Everything that is open, oldest first."""
    wanted = request.query_params.get("workspace")
    tasks = {task.id: task for task in await context.store.tasks()}
    asks = [ask for ask in await context.store.open_asks() if ask.task_id in tasks]
    alike = _by_content(asks)
    return JSONResponse(
        [
            _shown(ask, tasks[ask.task_id], alike)
            for ask in asks
            if wanted in (None, tasks[ask.task_id].workspace, tasks[ask.task_id].workspace_id)
        ]
    )


async def show_ask(context: Context, request: Request) -> Response:
    """One of them, open or closed, with what the session said last."""
    ask = await context.store.ask(request.path_params["ask"])
    task = await context.store.task(ask.task_id)
    data = _shown(ask, task, _by_content(await context.store.open_asks()))
    return JSONResponse({**data, "said": await _said(context, ask)})


async def decide(context: Context, request: Request) -> Response:
    """Decide one, once."""
    said = _decision(body_of(request))
    ask = await context.store.ask(request.path_params["ask"])
    task = await context.store.task(ask.task_id)
    if ask.kind is AskKind.TASK:
        decided = await _decide_task(context, ask, said)
    elif ask.session_id is None:
        decided = await context.relay.decide(ask, said)
    else:
        live = await _live_of(context, ask, task)
        decided = await live.decider.decide(ask.id, said)
    return JSONResponse(_shown(decided, task, _by_content(await context.store.open_asks())))


async def _decide_task(context: Context, ask: Ask, said: Decision) -> Ask:
    """A task that was made for the person: completed, rejected, or answered in its thread."""
    if ask.closed_at is not None:
        raise conflict(ask)
    outcome, words = decision.of_task(said)
    given = said.attachments or ()
    return await context.threads.decide(ask, outcome, words, keep_open=said.keep_open, given=given)


async def _live_of(context: Context, ask: Ask, task: Task) -> Linked:
    """The session that asks; one that a new worker is taking up is waited for.

    Raises `ConflictError` if the ask is closed or its session cannot be reached.
    """
    until = time.monotonic() + HELD_PATIENCE
    session_id = ask.session_id or ""
    while ask.closed_at is None:
        if live := context.supervisor.find(session_id):
            return live
        if time.monotonic() > until or not context.supervisor.expected(session_id):
            raise ConflictError(f"The session of {task.name} does not run; nobody can answer this.")
        await asyncio.sleep(GLANCE)
        ask = await context.store.ask(ask.id)
    raise conflict(ask)


async def _said(context: Context, ask: Ask) -> str | None:
    if ask.session_id is None:
        return None
    try:
        session = await context.store.session(ask.session_id)
    except NotFoundError:
        return None
    if session.transcript is None:
        return None
    return await asyncio.to_thread(journal.last_said, Path(session.transcript))


def _shown(ask: Ask, task: Task, alike: Alike) -> dict[str, Any]:
    same = [other.id for other in alike.get(_exact(ask), ()) if other.task_id != ask.task_id]
    return {**protocol.ask_json(ask, task), "same": same}


def _by_content(asks: Iterable[Ask]) -> Alike:
    """The asks for the very same: not alike, but equal to the last character."""
    found: defaultdict[str, list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.tool is not None:
            found[_exact(ask)].append(ask)
    return found


def _exact(ask: Ask) -> str:
    return json.dumps([ask.kind, ask.tool, ask.input], sort_keys=True)


def _decision(data: Mapping[str, Any]) -> Decision:
    check_keys(data, Decision)
    given = data.get("input")
    if not isinstance(given, dict | None) or given == {}:
        raise UsageError("`input` must be the tool's whole input, an object.")
    return Decision(
        decision=line(data, "decision"),
        always=flag(data, "always"),
        reason=optional(data, "reason"),
        text=optional(data, "text"),
        keep_open=flag(data, "keep_open"),
        attachments=list(lines(data, "attachments")) or None,
        answers=_answers(data.get("answers")),
        input=given,
    )


def _answers(value: Any) -> dict[str, str | list[str]] | None:
    """Each question's text with a label, with several, or with own words."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UsageError("`answers` must be an object: a question's text, and the answer to it.")
    for answer in value.values():
        words = answer if isinstance(answer, list) else [answer]
        if not all(isinstance(word, str) for word in words):
            raise UsageError("An answer must be a text, or a list of texts.")
    return value
