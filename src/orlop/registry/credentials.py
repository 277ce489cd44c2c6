"""Credentials, as clients send them: ``X-Registry-Auth`` and the body of ``POST /auth``.

They are kept for one operation, never written anywhere, and have no representation that shows them (threats.md H9).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from orlop.errors import InvalidParameterError
from orlop.spec.strict_json import Fields, parse_object

HEADER_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user logged in with.

    Attributes:
        username: with ``password``, for basic authentication and for getting tokens.
        password: likewise.
        identity_token: a refresh token that stands for both.
        registry_token: a bearer token that is sent as it is.
        server: the registry that the user meant; empty when not said.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""

    @property
    def has_password(self) -> bool:
        """Tell whether basic authentication can be done."""
        return bool(self.username or self.password)

    def basic(self) -> str:
        """Return the value of an Authorization header."""
        text = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(text).decode("ascii")


ANONYMOUS = Credentials()


def parse_credentials(data: bytes) -> Credentials:
    """Read an AuthConfig document.

    Raises:
        InvalidParameterError: malformed; the message does not repeat it.
    """
    try:
        fields = Fields(parse_object(data, limit=HEADER_LIMIT, what="auth config"), "auth config")
        username, password = fields.text("username"), fields.text("password")
        combined = fields.text("auth")
        if combined and not username and not password:
            username, _, password = base64.b64decode(combined, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError, InvalidParameterError):
        raise InvalidParameterError("invalid X-Registry-Auth header: invalid JSON") from None
    return Credentials(
        username,
        password.rstrip("\0"),
        fields.text("identitytoken"),
        fields.text("registrytoken"),
        fields.text("serveraddress"),
    )


def decode_header(value: str) -> Credentials:
    """Read X-Registry-Auth: base64url of an AuthConfig; the empty one, and none, are anonymous.

    Raises:
        InvalidParameterError: malformed.
    """
    if not value:
        return ANONYMOUS
    if len(value) > HEADER_LIMIT:
        raise InvalidParameterError("invalid X-Registry-Auth header: too long")
    padded = value.translate(str.maketrans("+/", "-_")) + "=" * (-len(value) % 4)
    try:
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameterError(
            "invalid X-Registry-Auth header: must be a valid base64url-encoded string"
        ) from None
    return parse_credentials(data)
