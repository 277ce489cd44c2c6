"""One request to the Engine API, and how its parts are read: Docker's booleans, filters and bodies."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec
from aiohttp import ClientPayloadError, web

from orlop.errors import InvalidParameterError
from orlop.spec.docker.go_values import go_values

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.api.hijack import Connection
    from orlop.spec.json import JsonObject

T = TypeVar("T")

BODY_LIMIT = 8 * 1024 * 1024
FILTER_LIMIT = 64 * 1024

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
# Docker's BoolValue: everything else is true.
_FALSE = frozenset({"", "0", "no", "false", "none"})


@dataclass(slots=True)
class Call:
    """One request, its version prefix stripped.

    Attributes:
        request: aiohttp's.
        version: what the client speaks, (1, 50) when it did not say.
        variables: parts of the path, percent-decoded.
        stream: the streaming answer that was begun, if any; set by ``responses.ByteStream``.
    """

    request: web.BaseRequest
    version: tuple[int, int]
    variables: Mapping[str, str] = field(default_factory=dict)
    stream: web.StreamResponse | None = None

    def has(self, name: str) -> bool:
        """Whether the query parameter was given at all."""
        return name in self.request.query

    def text(self, name: str, default: str = "") -> str:
        """Return a query parameter's first value."""
        return self.request.query.get(name, default)

    def texts(self, name: str) -> list[str]:
        """Return all values of a query parameter."""
        return list(self.request.query.getall(name, []))

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Return a query parameter as Docker reads booleans."""
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str, default: int | None = None) -> int | None:
        """Return a query parameter as a decimal number.

        Raises:
            InvalidParameterError: it is none.
        """
        value = self.request.query.get(name, "")
        if value == "":
            return default
        if _INTEGER.fullmatch(value) is None:
            raise InvalidParameterError(f'strconv.Atoi: parsing "{value}": invalid syntax')
        return int(value)

    def filters(self) -> dict[str, list[str]]:
        """Return the ``filters`` parameter: ``{"key": ["value"]}`` or the old ``{"key": {"value": true}}``."""
        return parse_filters(self.text("filters"))

    async def read(self, limit: int = BODY_LIMIT) -> bytes:
        """Return the whole body.

        Raises:
            InvalidParameterError: longer than ``limit`` bytes.
        """
        length = self.request.content_length
        if length is not None and length > limit:
            raise InvalidParameterError(f"request body too large: {length} bytes")
        data = bytearray()
        async for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise InvalidParameterError(f"request body too large: more than {limit} bytes")
        return bytes(data)

    async def body(self, model: type[T], *, optional: bool = False) -> T:
        """Decode the JSON body into ``model``; unknown fields are tolerated, wrong types are not.

        Args:
            model: a msgspec Struct or any type that msgspec knows.
            optional: an absent body gives ``model()``.

        Raises:
            InvalidParameterError: in Docker's words.
        """
        data = await self._json_bytes()
        if not data.strip():
            if optional:
                return model()
            raise InvalidParameterError("invalid JSON: got EOF while reading request body")
        return decode(data, model)

    async def body_object(self) -> JsonObject:
        """Decode the JSON body into an untyped object."""
        return cast("JsonObject", await self.body(dict[str, object]))

    async def _json_bytes(self) -> bytes:
        media = self.request.headers.get("Content-Type", "")
        if not media:
            # No Content-Type is fine as long as there is no body.
            data = await self.read()
            if data:
                raise InvalidParameterError("unsupported Content-Type header (): must be 'application/json'")
            return data
        if media.split(";", 1)[0].strip().lower() != "application/json":
            raise InvalidParameterError(f"unsupported Content-Type header ({media}): must be 'application/json'")
        return await self.read()

    async def wait_gone(self) -> None:
        """Return when the client has closed its connection: for streams that may be idle for long."""
        await cast("Connection", self.request.protocol).gone.wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            InvalidParameterError: its transfer encoding is broken.
            ConnectionError: the client left in the middle of it.
        """
        try:
            async for chunk in self.request.content.iter_any():
                yield chunk
        except (web.RequestPayloadError, ClientPayloadError):
            raise InvalidParameterError("malformed request body") from None


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and path of the API, and what answers it.

    Attributes:
        method: ``GET`` also answers HEAD.
        path: ``/containers/{name}/start``; a variable ``{name:.*}`` takes slashes.
        handler: what answers.
        since: the version of the API that had it first; older clients get "page not found".
        prompt: it is answered before what it changed is on the disk, where that is a moment later: what every container
            goes through, and what is about processes, which end with the machine.
    """

    method: str
    path: str
    handler: Handler
    since: tuple[int, int] = (1, 24)
    prompt: bool = False


def decode(data: bytes, model: type[T]) -> T:
    """Decode JSON into ``model``. Raises InvalidParameterError."""
    try:
        return msgspec.json.decode(data, type=model)
    except msgspec.ValidationError as error:
        if isinstance(model, type) and issubclass(model, msgspec.Struct):
            with contextlib.suppress(ValueError, RecursionError):  # ValidationError and DecodeError are ValueErrors
                return msgspec.convert(go_values(msgspec.json.decode(data), model), model)
        raise InvalidParameterError(f"invalid JSON: {_lower(str(error))}") from None
    except msgspec.DecodeError as error:
        text = str(error)
        if "truncated" in text:
            text = "unexpected EOF"
        elif "trailing characters" in text:
            raise InvalidParameterError("unexpected content after JSON") from None
        raise InvalidParameterError(f"invalid JSON: {_lower(text)}") from None
    except (RecursionError, ValueError):
        raise InvalidParameterError("invalid JSON: too deeply nested or not UTF-8") from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if not text.startswith("JSON") else text


def parse_filters(text: str) -> dict[str, list[str]]:
    """Return the values of each filter. Raises InvalidParameterError("invalid filter")."""
    if text == "":
        return {}
    try:
        if len(text) > FILTER_LIMIT:
            raise InvalidParameterError("invalid filter")
        document = json.loads(text)
        if document is None:  # what a nil map becomes in Go, and an absent object in JavaScript
            return {}
        if not isinstance(document, dict):
            raise InvalidParameterError("invalid filter")
        return {str(key): _filter_values(value) for key, value in document.items()}
    except (ValueError, RecursionError):
        raise InvalidParameterError("invalid filter") from None


def _filter_values(value: object) -> list[str]:
    if isinstance(value, dict) and all(isinstance(flag, bool) for flag in value.values()):
        return [key for key, flag in value.items() if flag]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise InvalidParameterError("invalid filter")
