"""``--network container:<id>``: the namespace of another container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import ConflictError, SystemFailureError
from orlop.network.sandbox import Sandbox
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from collections.abc import Callable


class ContainerDriver:
    """Shares a running container's sandbox.

    The namespace is pinned by a descriptor of its own, so that the name in the request can never come to mean another
    container's namespace (threats.md G12). It has no endpoint: the other container owns it, and no row.
    """

    def __init__(self, sandbox_of: Callable[[str], Sandbox | None]) -> None:
        self._sandbox_of = sandbox_of

    def attach(self, target: str, *, by: str = "") -> Sandbox:
        """Return a sandbox that shares the one of container ``target`` (its full id).

        Raises:
            ConflictError: it is not running, in Docker's words.
            SystemFailureError: it is ``by``, the container itself.
        """
        if target == by:
            raise SystemFailureError("cannot join own network")
        other = self._sandbox_of(target)
        if other is None:
            raise ConflictError(f"cannot join network of a non running container: {target}")
        netns = other.netns.duplicate() if other.netns is not None else None
        return Sandbox(id=generate_id(), mode="container", netns=netns)

    def release(self, sandbox: Sandbox) -> None:
        """Let go of the namespace."""
        if sandbox.netns is not None:
            sandbox.netns.close()
