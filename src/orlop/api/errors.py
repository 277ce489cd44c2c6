"""From the error vocabulary to HTTP: the one table."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from aiohttp import web

from orlop import errors
from orlop.api.responses import json_response

_log = logging.getLogger(__name__)

_STATUS: dict[type[errors.OrlopError], HTTPStatus] = {
    errors.InvalidParameterError: HTTPStatus.BAD_REQUEST,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.NotFoundError: HTTPStatus.NOT_FOUND,
    errors.ConflictError: HTTPStatus.CONFLICT,
    errors.NotModifiedError: HTTPStatus.NOT_MODIFIED,
    errors.UnsupportedError: HTTPStatus.NOT_IMPLEMENTED,
    errors.UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SystemFailureError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.DataLossError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class PageNotFoundError(errors.NotFoundError):
    """No route has this path; dockerd answers without its version headers."""


def status_of(error: BaseException) -> HTTPStatus:
    """Return the HTTP status of an error; what is not in the vocabulary is an internal error."""
    for cls in type(error).__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def message_of(error: BaseException) -> str:
    """Return what the client reads. An unforeseen error shows its type only (threats.md H9)."""
    if isinstance(error, errors.OrlopError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}" + (f": {error.filename}" if isinstance(error.filename, str) else "")
    return f"internal error: {type(error).__name__}"


def error_response(error: Exception) -> web.Response:
    """Make the JSON answer of an error, and write a line to the log if the engine is to blame."""
    status = status_of(error)
    if status is HTTPStatus.NOT_MODIFIED:
        return web.Response(status=status)
    if not isinstance(error, errors.OrlopError) and not isinstance(error, asyncio.TimeoutError):
        _log.error("unforeseen error", exc_info=error)
    elif status is HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s", error)
    return json_response({"message": message_of(error)}, status=status)
