"""What a registry refuses, in the words that Docker's users know.

A registry answers errors with a JSON document (distribution-spec, "Error Codes"); whatever else comes is shown only in
part, since it is a stranger's text.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.registry.challenge import Challenge

BODY_LIMIT = 64 << 10
_SHOWN = 200
_UNAUTHORIZED = "authentication required"
_DENIED = "requested access to the resource is denied"


class RegistryError(SystemFailureError):
    """A registry refused, or could not be spoken to.

    Attributes:
        code: the registry's own (``MANIFEST_UNKNOWN``), or empty.
        status: HTTP status, 0 when there was no answer.
        retry: whether the same request may succeed later.
        after: seconds that the registry asked to wait (Retry-After).
    """

    def __init__(
        self, message: str, *, code: str = "", status: int = 0, retry: bool = False, after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry = retry
        self.after = after


def refusal(status: int, body: bytes, challenges: Sequence[Challenge] = (), *, retry_after: str = "") -> RegistryError:
    """Turn an answer of 400 and more into an error."""
    after = min(float(retry_after), 60.0) if retry_after.isascii() and retry_after.isdigit() else 0.0
    retry = status in (408, 425, 429) or status >= 500
    for challenge in challenges:
        denied = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(
            challenge.parameters.get("error", "")
        )
        if challenge.scheme == "bearer" and denied is not None and 400 <= status < 500:
            default = _DENIED if denied == "DENIED" else _UNAUTHORIZED
            return _error(denied, challenge.parameters.get("error_description", default), status)
    code, message = _parse(body)
    if code:
        return _error(code, message, status, retry=retry, after=after)
    if status == 401:
        return _error("UNAUTHORIZED", _UNAUTHORIZED, status)
    if status >= 500 or status == 429 or not body:
        return RegistryError(
            f"received unexpected HTTP status: {status} {_phrase(status)}", status=status, retry=retry, after=after
        )
    return RegistryError(f"error parsing HTTP {status} response body: not JSON: {shown(body)}", status=status)


def shown(data: bytes) -> str:
    """Return the beginning of a stranger's text, quoted, without control characters."""
    text = data[:_SHOWN].decode("utf-8", "replace")
    return '"' + "".join(char if char.isprintable() else " " for char in text) + '"'


def _error(code: str, message: str, status: int, *, retry: bool = False, after: float = 0.0) -> RegistryError:
    text = "".join(char if char.isprintable() else " " for char in message)[:1000]
    words = code.lower().replace("_", " ")
    return RegistryError(f"{words}: {text}", code=code, status=status, retry=retry, after=after)


def _parse(body: bytes) -> tuple[str, str]:
    """Return code and message of the first error of the document; empty when it is none."""
    try:
        fields = Fields(parse_object(body, limit=BODY_LIMIT, what="error"), "error")
        errors = fields.objects("errors")
        if errors:
            code = errors[0].text("code")
            if code and code.replace("_", "").isalnum() and code.isascii():
                return code.upper(), errors[0].text("message") or code.lower().replace("_", " ")
        return "", ""
    except InvalidParameterError:
        return "", ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
