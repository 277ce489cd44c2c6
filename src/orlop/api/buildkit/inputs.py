"""Results that a client names to another build of its own: ``contexts = {base = "target:base"}`` in a bake file.

A client is given a definition with a result, and gives it back as an input of another build; it looks at it no further
than that it is one. So a definition here is an operation that names the result, and the end that points at it.

Source: github.com/moby/buildkit, ``solver/pb/ops.proto``.
"""

from __future__ import annotations

import hashlib

from orlop.api.buildkit.control_messages import Definition
from orlop.errors import UnsupportedError
from orlop.primitives.protobuf.wire import decode, encode

_INPUTS, _SOURCE = 1, 3  # of pb.Op
_SCHEME = "orlop-result://"


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
    for operation in definition.operations:
        source = decode(operation).get(_SOURCE)
        if not isinstance(source, bytes):
            continue
        name = decode(source).get(1, b"")
        if isinstance(name, bytes) and name.startswith(_SCHEME.encode()):
            return name.decode("utf-8", "replace").removeprefix(_SCHEME)
    raise UnsupportedError("low-level definitions of builds (LLB) are not supported: name a Dockerfile")
