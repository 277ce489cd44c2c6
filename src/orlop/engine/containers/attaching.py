"""Attaching clients: now to the shim, or with the launch when the container does not run yet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orlop.engine.containers.pending_clients import PendingClient
from orlop.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.launch import AttachTarget

DEFAULT_DETACH = "ctrl-p,ctrl-q"


def require_attachable(container: Container) -> None:
    """Raise ConflictError for a state in which nobody can attach, in Docker's words."""
    if container.state.status.value == "paused":
        raise ConflictError(f"container {container.id} is paused, unpause the container before attach")
    if container.state.status.value == "restarting":
        raise ConflictError(f"container {container.id} is restarting, wait until the container is running")
    if not container.pending.make_room():
        raise ConflictError(f"container {container.id} has too many attached clients that wait for its start")


async def attach(container: Container, target: AttachTarget, client: OwnedFd) -> None:
    """Give the client's socket to the container; it is taken over in every case."""
    if container.shim is None:
        container.pending.add(PendingClient(target, client))
        return
    with client:
        await container.shim.attach(target, client.fileno())


def parse_detach_keys(text: str) -> str:
    """Return the byte sequence, hex, of ``ctrl-p,ctrl-q``, ``a,ctrl-[``; empty text is the default.

    Raises:
        InvalidParameterError: ``Invalid detach keys (x) provided``.
    """
    result = bytearray()
    for key in (text or DEFAULT_DETACH).split(","):
        match = re.fullmatch(r"ctrl-([a-zA-Z@\[\]\\^_])", key)
        if match is not None:
            result.append(ord(match[1].upper()) & 0x1F)
        elif key == "DEL":
            result.append(127)
        elif len(key) == 1 and key.isascii():
            result.append(ord(key))
        else:
            raise InvalidParameterError(f"Invalid detach keys ({text}) provided")
    return result.hex()
