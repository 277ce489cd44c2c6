"""Results that a client names to another build of its own: ``contexts = {base = "target:base"}`` in a bake file.

A client is given a definition with a result, and gives it back as an input of another build; it looks at it no further
than that it is one. So a definition here is an operation that names the result, and the end that points at it.

Source: github.com/moby/buildkit, ``solver/pb/ops.proto``.
"""

from __future__ import annotations

import hashlib

from orlop.api.buildkit.control_messages import Definition
from orlop.errors import UnsupportedError
from orlop.primitives.protobuf.message import Message, nested, nesteds, text, texts_by_name
from orlop.primitives.protobuf.wire import decode, encode

_INPUTS, _SOURCE = 1, 3  # of pb.Op
_SCHEME = "orlop-result://"
_MOST, _LONGEST = 64, 1024  # operations, and bytes of one that are looked at: ours are two, and short


class _Input(Message):
    digest: str = text(1)


class _Source(Message):
    identifier: str = text(1)
    attributes: dict[str, str] = texts_by_name(2)


class _Operation(Message):
    """pb.Op, as far as a definition of one source goes."""

    inputs: list[_Input] = nesteds(1, _Input)
    source: _Source | None = nested(3, _Source)


def repository_of(definition: Definition) -> str:
    """Return the URL of the git repository that a definition stands for; empty when it stands for something else.

    Raises:
        UnsupportedError: the repository's own files are wanted as well.
        InvalidParameterError: it is no definition.
    """
    if len(definition.operations) != 2:
        return ""
    operation, end = map(_Operation.decode, definition.operations)
    digest = f"sha256:{hashlib.sha256(definition.operations[0]).hexdigest()}"
    source = operation.source
    if source is None or operation.inputs or [one.digest for one in end.inputs] != [digest]:
        return ""
    if not source.identifier.startswith("git://"):
        return ""
    if source.attributes.get("git.keepgitdir"):
        raise UnsupportedError("git repositories are had without their .git directory")
    place, _, fragment = source.identifier.partition("#")
    url = source.attributes.get("git.fullurl", place)
    return f"{url}#{fragment}" if fragment else url


def definition_of(result: str) -> Definition:
    """Return a definition that stands for a result."""
    source = encode([(_SOURCE, [(1, f"{_SCHEME}{result}")])])
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    end = encode([(_INPUTS, [(1, digest)])])
    metadata = {digest: b"", f"sha256:{hashlib.sha256(end).hexdigest()}": b""}
    return Definition(operations=[source, end], metadata=metadata)


def named_result(definition: Definition) -> str:
    """Return the result that a definition stands for.

    Raises:
        UnsupportedError: it is another one.
        InvalidParameterError: it is none.
    """
    for operation in definition.operations[:_MOST]:
        source = decode(operation).get(_SOURCE) if len(operation) <= _LONGEST else None
        if not isinstance(source, bytes):
            continue
        name = decode(source).get(1, b"")
        if isinstance(name, bytes) and name.startswith(_SCHEME.encode()):
            return name.decode("utf-8", "replace").removeprefix(_SCHEME)
    raise UnsupportedError("low-level definitions of builds (LLB) are not supported: name a Dockerfile")
