"""``restore``: refused until criu is driven."""

from __future__ import annotations

from orlop.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.command import Invocation


def restore(invocation: Invocation) -> int:
    """Refuse. Raises InvalidParameterError, UnsupportedError."""
    invocation.store.directory(invocation.arguments[0])
    raise UnsupportedError("restore is not supported")
