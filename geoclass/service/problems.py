"""Errors as answers: what each route declares, and how each kind of exception is told."""

from __future__ import annotations

import errno
import logging
import sqlite3
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import GeoclassError
from .receiving import full_disk
from .refusal import Refusal, one_line, refused
from .schemas import Problem

log = logging.getLogger(__name__)

MEANINGS = {
    400: "The request cannot be read, or names another host.",
    401: "A token is needed, and none or a wrong one was given.",
    403: "From a page of another site, or for something outside the allowed folders and URLs.",
    404: "There is no such thing.",
    405: "This path does not take this method.",
    408: "The body did not arrive in time.",
    409: "The job's state does not allow it.",
    413: "Larger than the service's limits.",
    415: "A kind of file or body that is not taken.",
    416: "The file has no such range.",
    422: "A value, or a file's content, is wrong.",
    429: "Too much waits already; try again after the seconds in Retry-After.",
    503: "The database does not answer, or not as it should; try again after the seconds in Retry-After.",
    507: "The service's disk is full.",
}
ALWAYS = (400, 401, 403, 413, 422, 429)


def declared(*more: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route: those that any may give, and `more`."""
    headers = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
    return {
        code: {"model": Problem, "description": MEANINGS[code], **({"headers": headers} if code in (429, 503) else {})}
        for code in sorted({*ALWAYS, *more})
    }


def answer_errors(app: FastAPI) -> None:
    """Answer every exception with JSON of `error` and `remedy`."""
    app.exception_handler(Refusal)(_refusal)
    app.exception_handler(GeoclassError)(_library)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(ClientDisconnect)(_gone)
    app.exception_handler(Exception)(_unexpected)


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, error.headers)


async def _library(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GeoclassError)
    return JSONResponse(refused(error).body, 422)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse(invalid(error.errors()).body, 422)


def invalid(errors: Any) -> Refusal:
    """The refusal of values that pydantic found wrong; the values themselves are not repeated."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    return Refusal(422, one_line(f"{where}: {first['msg']}"), "see /openapi.json for what is taken")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refusal):  # the gate's, met by FastAPI while it read the body
        return await _refusal(request, error.__cause__)
    what = HTTPStatus(error.status_code).phrase.lower()
    return JSONResponse(
        {"error": what, "remedy": "see /openapi.json for the paths and methods"}, error.status_code, error.headers
    )


async def _gone(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(Refusal(400, "the request ended before its body did", "send it again").body, 400)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, sqlite3.OperationalError) and "full" in str(error)):
        return await _refusal(request, full_disk())
    return JSONResponse({"error": "the service failed", "remedy": "see its log, and please report it"}, 500)
