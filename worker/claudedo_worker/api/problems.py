"""Every error of the domain as an HTTP answer: problem+json, translated here and nowhere else."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from claudedo.errors import ClaudedoError, NotFoundError, UsageError

STATUS = {
    "usage": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "ambiguous": 409,
    "refused": 409,
    "untrusted": 409,
    "conflict": 409,
    "busy": 409,
    "version": 409,
    "timeout": 504,
    "storage": 507,
}


def problem(error: ClaudedoError) -> dict[str, Any]:
    """An error as problem+json."""
    status = STATUS.get(error.code, 500)
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": str(error),
        "code": error.code,
    }


async def problem_response(request: Request, error: ClaudedoError) -> Response:
    body = problem(error)
    headers = {"WWW-Authenticate": "Bearer"} if error.code == "unauthorized" else {}
    if getattr(request.state, "cut", False):
        headers["Connection"] = "close"
    return JSONResponse(body, body["status"], headers, media_type="application/problem+json")


async def http_problem(request: Request, error: HTTPException) -> Response:
    kind = NotFoundError if error.status_code == HTTPStatus.NOT_FOUND else UsageError
    body = problem(kind(f"{request.method} {request.url.path}: {error.detail}."))
    body |= {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code}
    media_type = "application/problem+json"
    return JSONResponse(body, error.status_code, error.headers, media_type=media_type)


async def unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours. Starlette raises it again after this answer, for the server to log."""
    words = "The worker failed at this; its log says where. Nothing else is affected."
    return await problem_response(request, ClaudedoError(words))
