"""What a network driver does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orlop.network.sandbox import AttachRequest, Endpoint, Sandbox


class Driver(Protocol):
    """Connects containers to one network.

    The driver writes the endpoint's row before it makes anything and removes it after all of it is gone. ``attach``
    makes all or nothing. ``release`` never raises for what is already gone.
    """

    async def attach(self, container_id: str, request: AttachRequest) -> Sandbox:
        """Return a new sandbox for a container that starts. Raises OrlopError, having undone everything."""
        ...

    async def adopt(self, container_id: str, endpoint: Endpoint, pidfd: int) -> Sandbox:
        """Take up a container that kept running while the engine was away."""
        ...

    async def release(self, sandbox: Sandbox) -> None:
        """Undo attach: rules, links, namespace, address, row."""
        ...

    async def discard(self, endpoint: Endpoint) -> None:
        """Remove what a row of a container that does not run any more may have left."""
        ...
