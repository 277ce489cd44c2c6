"""Why a build failed, as BuildKit's clients read it: a text, and a place in the Dockerfile, of which they show lines.

Source: github.com/moby/buildkit, ``solver/errdefs``, ``util/grpcerrors``; github.com/containerd/typeurl (what ends in
``+json`` is JSON).
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING

from orlop.api.grpc.status import Any, CallError, Code, code_of
from orlop.build.steps import StepFailedError
from orlop.errors import OrlopError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.builds.output import Place

_SOURCE = "github.com/moby/buildkit/errdefs.Source+json"
# Clients put the code's name before the text, unless it is UNKNOWN, which BuildKit says of most.
_TOLD = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.UNAVAILABLE)
_LONGEST = 96 << 10  # of a Dockerfile that is sent along: trailers are headers


@contextlib.contextmanager
def told_as_a_build() -> Iterator[None]:
    """Tell what is wrong about a request as a build that failed: it is not the method that is missing."""
    try:
        yield
    except OrlopError as error:
        raise build_error(error, None) from None


def build_error(error: OrlopError, place: Place | None) -> CallError:
    """Return how a build's call ends that failed, perhaps at a place of its Dockerfile."""
    if isinstance(error, CallError):
        return error
    code, message = code_of(error), str(error)
    if isinstance(error, StepFailedError):
        message = f'process "{error.command}" did not complete successfully: exit code: {error.code}'
    if code not in _TOLD:
        code = Code.UNKNOWN
    if place is None or len(place.text) > _LONGEST:
        return CallError(code, message)
    line = {"line": place.line}
    source = {
        "info": {"filename": place.name, "data": base64.b64encode(place.text).decode()},
        "ranges": [{"start": line, "end": line}],
    }
    return CallError(code, message, [Any(type_url=_SOURCE, value=json.dumps(source).encode())])
