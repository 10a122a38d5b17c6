"""What each route takes and gives: the other half of the description of the API.

The routes themselves, and who may ask, stand in `routes`; a route without an entry here fails a
test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from claudedo.model import Rung
from claudedo_worker.adoption import AdoptRequest
from claudedo_worker.api import shapes
from claudedo_worker.decision import Decision
from claudedo_worker.tasks import StartRequest

JSON, STREAM, BYTES = "application/json", "text/event-stream", "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A value in the address, or in a header."""

    name: str
    type: Any
    about: str
    required: bool = False
    place: str = "query"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What one route takes and gives, beyond what its path says.

    `gives` and `takes` are types of JSON values, None for content of another media type.
    """

    gives: Any = None
    takes: Any = None
    needed: bool = True  # what it takes
    media: str = JSON  # of the answer
    body: str = JSON  # of the request, if it takes anything
    status: int = 200
    parameters: tuple[Parameter, ...] = ()


def _query(name: str, type: Any, about: str, *, required: bool = False) -> Parameter:
    return Parameter(name=name, type=type, about=about, required=required)


_WORKSPACE = _query("workspace", str, "Only those of this workspace (its id or its name).")
_FORCE = _query("force", bool, "Also remove work that exists nowhere else.")
_AFTER = _query("after", int, "What comes after this number.")
_WAIT = _query("wait", float, "Seconds to wait for news, at most 30.")
_RESUME = Parameter(
    name="Last-Event-ID",
    type=int,
    about="The id of the last event that the client has; counts before `after`.",
    place="header",
)
_SESSION = Parameter(
    name="Mcp-Session-Id", type=str, about="The client's MCP session.", place="header"
)

_EVENTS = Operation(media=STREAM, parameters=(_AFTER, _RESUME))
_TASKS = Operation(gives=list[shapes.Task], parameters=(_WORKSPACE,))

OPERATIONS: Mapping[str, Operation] = {
    "GET /healthz": Operation(gives=shapes.Health),
    "GET /readyz": Operation(gives=shapes.Health),
    "GET /": Operation(media="text/html"),
    "GET /static/{path:path}": Operation(media=BYTES),
    "GET /open/{token}": Operation(status=303),
    "POST /telemetry/{session}/{secret}/v1/logs": Operation(
        gives=shapes.Nothing, takes=dict[str, Any]
    ),
    "GET /api/openapi.json": Operation(gives=dict[str, Any]),
    "GET /api/worker": Operation(gives=shapes.Worker),
    "GET /api/worker/check": Operation(gives=shapes.Database),
    "POST /api/worker/stop": Operation(gives=shapes.Stopping, takes=shapes.Nothing),
    "POST /api/links": Operation(gives=shapes.Link, takes=shapes.Nothing),
    "GET /api/workspaces": Operation(gives=list[shapes.ListedWorkspace]),
    "PATCH /api/workspaces/{workspace}": Operation(gives=shapes.Workspace, takes=shapes.NewName),
    "DELETE /api/workspaces/{workspace}": Operation(
        gives=shapes.RemovedWorkspace, takes=shapes.Surroundings, needed=False, parameters=(_FORCE,)
    ),
    "GET /api/workspaces/{workspace}/events": _EVENTS,
    "GET /api/resolve": Operation(
        gives=shapes.TaskInFull,
        parameters=(
            _query("target", str, "name, workspace/name, or the beginning of an id", required=True),
            _query("cwd", str, "The folder whose workspace wins."),
            _query("workspace", str, "Only in the workspace of this name."),
        ),
    ),
    "GET /api/tasks": _TASKS,
    "POST /api/tasks": Operation(gives=shapes.MadeTask, takes=shapes.NewTask),
    "GET /api/tasks/{task}": Operation(gives=shapes.TaskInFull),
    "POST /api/tasks/{task}/status": Operation(gives=shapes.MovedTask, takes=shapes.NewStatus),
    "GET /api/tasks/{task}/history": Operation(gives=list[shapes.Move]),
    "POST /api/tasks/{task}/attachments": Operation(
        gives=shapes.Attachment,
        body=BYTES,
        parameters=(
            _query("filename", str, "What it is called.", required=True),
            _query("type", str, "Its media type; told by its name by omission."),
        ),
    ),
    "GET /api/attachments/{attachment}": Operation(media=BYTES),
    "POST /api/start": Operation(gives=shapes.Started, takes=StartRequest),
    "GET /api/queue": Operation(
        gives=list[shapes.OneShot],
        parameters=(
            _query("workspace", str, "Only those of the workspace of this name or id."),
            _query("cwd", str, "Only those of the workspace of this folder, if it has one."),
        ),
    ),
    "POST /api/queue": Operation(gives=list[shapes.OneShot], takes=shapes.NewOneShots),
    "POST /api/queue/next": Operation(gives=shapes.Begun, takes=shapes.QueueTurn),
    "POST /api/queue/cancel": Operation(gives=list[shapes.OneShot], takes=shapes.Cancellation),
    "POST /api/queue/again": Operation(gives=list[shapes.OneShot], takes=shapes.ChosenTasks),
    "GET /api/queue/{task}/report": Operation(gives=shapes.Report),
    "GET /api/foreign": Operation(
        gives=list[shapes.Task],
        parameters=(
            _query("workspace", str, "Only those of the workspace of this name."),
            _query("config_dir", str, "Also those of this configuration folder."),
        ),
    ),
    "POST /api/adopt": Operation(gives=shapes.Adopted, takes=AdoptRequest),
    "POST /api/tasks/{task}/stop": Operation(gives=shapes.Stopped, takes=shapes.Nothing),
    "POST /api/tasks/{task}/restart": Operation(gives=shapes.Restarted, takes=shapes.Surroundings),
    "DELETE /api/tasks/{task}": Operation(
        gives=shapes.Summary, takes=shapes.Surroundings, needed=False, parameters=(_FORCE,)
    ),
    "POST /api/peers": Operation(gives=shapes.Linked, takes=shapes.Pair),
    "DELETE /api/peers": Operation(
        gives=shapes.Linked,
        parameters=(
            _query("a", str, "The id of one task.", required=True),
            _query("b", str, "The id of the other.", required=True),
        ),
    ),
    "GET /api/tasks/{task}/terminal": Operation(gives=shapes.Terminal),
    "GET /api/tasks/{task}/log": Operation(gives=shapes.Log, parameters=(_AFTER,)),
    "GET /api/tasks/{task}/variables": Operation(gives=dict[str, str]),
    "GET /api/tasks/{task}/changes": Operation(gives=shapes.Changes),
    "POST /api/tasks/{task}/merge": Operation(gives=shapes.Merged, takes=shapes.MergeOrder),
    "POST /api/tasks/{task}/proposal": Operation(gives=shapes.Proposal, takes=shapes.ProposalOrder),
    "POST /api/tasks/{task}/messages": Operation(gives=shapes.SentMessage, takes=shapes.NewMessage),
    "GET /api/tasks/{task}/messages": Operation(
        gives=list[shapes.Message],
        parameters=(
            _query("limit", int, "How many at most, the newest; at most 500. All by omission."),
            _query("before", str, "The id of a message: only what stands before it, next to it."),
            _query("after", str, "The id of a message: only what stands after it, next to it."),
        ),
    ),
    "GET /api/messages": Operation(
        gives=list[shapes.Message],
        parameters=(
            _query(
                "words", str, "Words that all stand in it, or begin words in it.", required=True
            ),
            _query("limit", int, "How many at most; 1000 by omission."),
        ),
    ),
    "GET /api/messages/{message}": Operation(
        gives=shapes.SentMessage,
        parameters=(_query("rung", Rung, "Answer once it has come so far."), _WAIT),
    ),
    "GET /api/asks": Operation(gives=list[shapes.Ask], parameters=(_WORKSPACE,)),
    "GET /api/asks/{ask}": Operation(gives=shapes.AskInFull),
    "POST /api/asks/{ask}/decision": Operation(gives=shapes.Ask, takes=Decision),
    "GET /api/events": Operation(gives=shapes.Events, parameters=(_AFTER, _WAIT)),
    "POST /api/tokens": Operation(gives=shapes.ToldToken, takes=shapes.NewToken),
    "GET /api/tokens": Operation(gives=list[shapes.ListedToken], parameters=(_WORKSPACE,)),
    "POST /api/tokens/{token}/rotate": Operation(gives=shapes.ToldToken, takes=shapes.Rotation),
    "DELETE /api/tokens/{token}": Operation(gives=shapes.Token),
    "POST /mcp/{workspace}": Operation(
        gives=dict[str, Any], takes=dict[str, Any], parameters=(_SESSION,)
    ),
    "GET /mcp/{workspace}": Operation(media=STREAM, parameters=(_SESSION,)),
    "DELETE /mcp/{workspace}": Operation(parameters=(_SESSION,)),
}
