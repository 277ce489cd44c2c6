"""The error vocabulary.

The class is chosen where the fact is known and turned into an HTTP status once, in ``orlop.api.errors``.
Messages are lower case, have no full stop and put the value last, except where clients match on Docker's own words
("No such container: x"), which then win. The same classes cross the spawner's channel by their ``kind``.

This module imports nothing: it is loaded in the spawner, in every forked child and in the command line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 4 ms, and the command line has 25
    from typing import ClassVar


class OrlopError(Exception):
    """Root of all errors that orlop raises on purpose. ``str(error)`` is what the user reads."""

    kind: ClassVar[str] = "internal"


class InvalidParameterError(OrlopError):
    """The request cannot be right: bad flag value, bad reference, malformed document (HTTP 400)."""

    kind = "invalid_parameter"


class UnauthorizedError(OrlopError):
    """Credentials are missing or wrong (HTTP 401)."""

    kind = "unauthorized"


class ForbiddenError(OrlopError):
    """Understood and refused (HTTP 403)."""

    kind = "forbidden"


class NotFoundError(OrlopError):
    """The named object does not exist (HTTP 404)."""

    kind = "not_found"


class ConflictError(OrlopError):
    """The object's state, or another object, does not allow it (HTTP 409)."""

    kind = "conflict"


class NotModifiedError(OrlopError):
    """Already in the wanted state (HTTP 304, without a body)."""

    kind = "not_modified"


class UnsupportedError(OrlopError):
    """Part of Docker's API that this version refuses, by name (HTTP 501)."""

    kind = "unsupported"


class UnavailableError(OrlopError):
    """A part of the engine or the machine is not there just now; a retry may succeed (HTTP 503)."""

    kind = "unavailable"


class SystemFailureError(OrlopError):
    """The machine failed: no space, I/O error, kernel refused (HTTP 500)."""

    kind = "system"


class DataLossError(OrlopError):
    """Something on disk is damaged (HTTP 500)."""

    kind = "data_loss"


class CommandNotFoundError(InvalidParameterError):
    """The container's executable does not exist (HTTP 400; the client exits with 127)."""

    kind = "command_not_found"


class CommandNotExecutableError(InvalidParameterError):
    """The container's executable exists and cannot be executed (HTTP 400; the client exits with 126)."""

    kind = "command_not_executable"


BY_KIND: dict[str, type[OrlopError]] = {
    cls.kind: cls
    for cls in (
        OrlopError,
        InvalidParameterError,
        UnauthorizedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        NotModifiedError,
        UnsupportedError,
        UnavailableError,
        SystemFailureError,
        DataLossError,
        CommandNotFoundError,
        CommandNotExecutableError,
    )
}


def os_error_text(error: OSError) -> str:
    """Return one line without Python's ``[Errno n]``; what names its operation itself stays as it is."""
    if hasattr(error, "operation"):
        return str(error)
    text = (error.strerror or str(error)).lower()
    return f"{error.filename!s}: {text}" if error.filename is not None else text


def from_kind(kind: str, message: str) -> OrlopError:
    """Make the error that a peer named; an unknown kind is an internal error, never a crash."""
    return BY_KIND.get(kind, OrlopError)(message)
