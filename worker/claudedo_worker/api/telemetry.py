"""Where the CLI of a session reports what its requests cost."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.errors import UnauthorizedError, UsageError
from claudedo_worker import telemetry
from claudedo_worker.api.context import Context


async def take_logs(context: Context, request: Request) -> Response:
    """Keep the prices in a report; nothing else of it is looked at.

    The secret in the path is the credential: the CLI can show no other, and asks on the port.
    """
    session_id, shown = request.path_params["session"], request.path_params["secret"]
    credential = await context.store.session_credential(session_id)
    expected = telemetry.secret(credential or "")
    if not hmac.compare_digest(shown.encode(), expected.encode()) or not credential:
        raise UnauthorizedError("This is not the address of a session's telemetry.")
    body = request.state.body
    if len(body) > telemetry.LARGEST:
        raise UsageError(f"The report is larger than {telemetry.LARGEST // 2**20} MiB.")
    session = await context.store.session(session_id)
    await context.store.add_prices(session.task_id, telemetry.prices(body))
    return JSONResponse({})
