"""``platform`` and ``platforms`` in queries: OCI platform documents, since API 1.46 (``moby/api/server/httputils``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.errors import InvalidParameterError
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from orlop.api.call import Call


class _Document(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


_decoder = msgspec.json.Decoder(_Document)


def decode_platform(text: str) -> str:
    """Return ``os/architecture[/variant]`` of a document; "" for no text.

    Raises:
        InvalidParameterError: in dockerd's words.
    """
    if not text:
        return ""
    try:
        document = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise InvalidParameterError(f"failed to parse platform: {error}") from None
    if not document.os or not document.architecture:
        raise InvalidParameterError("both OS and Architecture must be provided")
    parts = (document.os, document.architecture, document.variant)
    wanted = "/".join(part for part in parts if part)
    Platform.parse(wanted)
    return wanted


def single_platform(call: Call, name: str = "platform") -> str:
    """Return the platform that a query names: images here have one each. Raises InvalidParameterError."""
    given = call.texts(name)
    if len(given) > 1:
        raise InvalidParameterError("multiple platforms are not supported: an image has one")
    return decode_platform(given[0]) if given else ""
