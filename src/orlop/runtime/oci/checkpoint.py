"""``checkpoint``: refused until criu is driven."""

from __future__ import annotations

from orlop.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.runtime.oci.command import Invocation


def checkpoint(invocation: Invocation) -> int:
    """Refuse. Raises NotFoundError, UnsupportedError."""
    invocation.store.load(invocation.arguments[0])
    raise UnsupportedError("checkpoint is not supported")
