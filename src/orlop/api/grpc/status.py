"""How a call ends: gRPC's codes, errors that have one, and how both travel in trailers.

Source: grpc "PROTOCOL-HTTP2.md" (Status-Message is percent-encoded), "statuscodes.md", google/rpc/status.proto.
"""

from __future__ import annotations

import base64
import binascii
import enum
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orlop import errors
from orlop.primitives.protobuf.message import Message, blob, integer, nesteds, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MESSAGE_LIMIT = 8 << 10  # of the trailers, which peers do not take when they are long
_DETAILS_LIMIT = 256 << 10


class Code(enum.IntEnum):
    """gRPC's codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CODES: Mapping[type[errors.OrlopError], Code] = {
    errors.InvalidParameterError: Code.INVALID_ARGUMENT,
    errors.UnauthorizedError: Code.UNAUTHENTICATED,
    errors.ForbiddenError: Code.PERMISSION_DENIED,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.ConflictError: Code.ALREADY_EXISTS,
    errors.UnsupportedError: Code.UNIMPLEMENTED,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.SystemFailureError: Code.INTERNAL,
    errors.DataLossError: Code.DATA_LOSS,
}


class Any(Message):
    """google.protobuf.Any: something with the name of its type."""

    type_url: str = text(1)
    value: bytes = blob(2)


class Status(Message):
    """google.rpc.Status, which the trailer ``grpc-status-details-bin`` holds."""

    code: int = integer(1)
    message: str = text(2)
    details: list[Any] = nesteds(3, Any)


class CallError(errors.OrlopError):
    """A call that ended with another code than OK: one of a peer's, or what a handler raises to tell it.

    Attributes:
        code: gRPC's.
        message: what the peer says.
        details: what programs read of it.
    """

    def __init__(self, code: Code, message: str, details: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)


def code_of(error: errors.OrlopError) -> Code:
    """Return the code for an error of the engine's."""
    if isinstance(error, CallError):
        return error.code
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), Code.UNKNOWN)


def trailers(error: errors.OrlopError | None) -> list[tuple[str, str]]:
    """Return the trailers of a call that ended well, or so."""
    if error is None:
        return [("grpc-status", "0")]
    code = code_of(error)
    found = [("grpc-status", str(int(code))), ("grpc-message", _percent_encode(str(error)))]
    details = list(error.details) if isinstance(error, CallError) else []
    if details:
        status = Status(code=int(code), message=str(error), details=details).encode()
        if len(status) <= _DETAILS_LIMIT:
            found.append(("grpc-status-details-bin", base64.b64encode(status).decode().rstrip("=")))
    return found


def error_in(headers: Mapping[str, str]) -> CallError | None:
    """Return the error that a peer's trailers tell; None when the call ended well."""
    try:
        code = Code(int(headers.get("grpc-status", "2")))
    except ValueError:
        code = Code.UNKNOWN
    if code is Code.OK:
        return None
    details: list[Any] = []
    binary = headers.get("grpc-status-details-bin", "")
    try:
        details = Status.decode(base64.b64decode(binary + "=" * (-len(binary) % 4))).details
    except (binascii.Error, ValueError, errors.InvalidParameterError):
        details = []
    return CallError(code, unquote(headers.get("grpc-message", ""), errors="replace"), details)


def _percent_encode(message: str) -> str:
    data = message.encode("utf-8", "replace")[:_MESSAGE_LIMIT]
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in data)
