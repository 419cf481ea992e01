"""Errors as RFC 9457 problem documents: one sentence each, the same from every route."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.errors import DAMAGED_TYPE, Forbidden, Lacking
from app.schemas import sentence, summary_of
from engine.errors import EngineError, InvalidSpec
from storage.errors import Conflict, Corrupt, Full, NotFound, SchemaMismatch, StorageError, Unavailable

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class NothingMore(Exception):
    """There will be no more events: tells an `EventSource` to stop asking."""


class Problem(BaseModel):
    """What went wrong, as of RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    errors: list[str] = []


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "Refused, with a sentence that says why",
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
}

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (InvalidSpec, 422),
    (NotFound, 404),
    (Conflict, 409),
    (Forbidden, 403),
    (SchemaMismatch, 503),
    (Full, 507),
    (Unavailable, 503),
    (Lacking, 501),
    (StorageError, 500),
    (EngineError, 500),
)


def problem(request: Request, status: int, detail: str, errors: list[str] | None = None) -> Response:
    """A problem document as a response."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, instance=request.url.path, errors=errors or [])
    return JSONResponse(body.model_dump(), status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every intended error, and any other, with a problem document."""
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(Corrupt, _damaged)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NothingMore, _nothing_more)
    app.add_exception_handler(Exception, _unexpected)


def _handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return problem(request, status, str(error))

    return answer


async def _damaged(request: Request, error: Exception) -> Response:
    log.error("stored data is damaged", path=request.url.path, error=str(error))
    title = "Stored Data Is Damaged"
    body = Problem(type=DAMAGED_TYPE, title=title, status=500, detail=str(error), instance=request.url.path)
    return JSONResponse(body.model_dump(), body.status, media_type=MEDIA_TYPE)


async def _invalid(request: Request, error: Exception) -> Response:
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    sentences = [sentence(e) for e in errors]
    status = 400 if any(e["type"] == "json_invalid" for e in errors) else 422
    return problem(request, status, summary_of(sentences), sentences)


async def _http(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    answer = problem(request, status, _explained(request, status, detail))
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


def _explained(request: Request, status: int, detail: str) -> str:
    if status == 404 and detail == "Not Found":
        return f"there is nothing at {request.url.path}"
    if status == 405:
        return f"{request.method} is not possible at {request.url.path}"
    return detail


async def _nothing_more(_request: Request, _error: Exception) -> Response:
    return Response(status_code=204)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return problem(request, 500, "the service failed unexpectedly; its log says how")
