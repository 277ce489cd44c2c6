"""HTTP errors of an engine as typed errors."""

from __future__ import annotations

from orlop import errors
from orlop.client.decoding import decode

_BY_STATUS: dict[int, type[errors.OrlopError]] = {
    304: errors.NotModifiedError,
    400: errors.InvalidParameterError,
    401: errors.UnauthorizedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    500: errors.SystemFailureError,
    501: errors.UnsupportedError,
    503: errors.UnavailableError,
}


class ConnectionFailedError(errors.UnavailableError):
    """No engine answered at the address, or it went away in the middle of an answer."""


def from_status(status: int, body: bytes, reason: str = "") -> errors.OrlopError:
    """Make the error of a response; its message is the engine's own text."""
    message = ""
    try:
        document = decode(body)
        text = document.get("message") if isinstance(document, dict) else None
        message = text.strip() if isinstance(text, str) else ""
    except (ValueError, RecursionError):
        message = body[:4096].decode(errors="replace").strip()
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = errors.SystemFailureError if status >= 500 else errors.InvalidParameterError
    return kind(
        message or f"request returned {reason or status} for API route and version, check if the server supports it"
    )
