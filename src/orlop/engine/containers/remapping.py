"""Which ids of the host the ids of containers are: ``userns-remap`` of the daemon, ``--userns`` of a container."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.spec.docker.containers import HostConfig
    from orlop.spec.json import JsonObject, JsonValue


@dataclass(frozen=True, slots=True)
class Remapping:
    """The mapping of a user namespace (user_namespaces(7)).

    Attributes:
        uids: first id inside, first id of the host, how many; for users.
        gids: the same for groups.
    """

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]

    def linux(self) -> JsonObject:
        """Return what config.json's ``linux`` says of it."""
        return {"uidMappings": _mappings(self.uids), "gidMappings": _mappings(self.gids)}


def _mappings(ranges: tuple[tuple[int, int, int], ...]) -> list[JsonValue]:
    return [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in ranges]


def host_id(ranges: Sequence[tuple[int, int, int]], number: int) -> int:
    """Return what an id inside is on the host. Raises InvalidParameterError: nothing."""
    for first, host, size in ranges:
        if first <= number < first + size:
            return host + number - first
    raise InvalidParameterError(f"id is not mapped in the container's user namespace: {number}")


def refuse_with_remapping(host: HostConfig) -> None:
    """Refuse what a container in a user namespace cannot have.

    Raises:
        InvalidParameterError: in dockerd's words.
        UnsupportedError: what only this engine cannot do.
    """
    if host.userns_mode == "host":
        return
    if host.privileged:
        raise InvalidParameterError(
            "privileged mode is incompatible with user namespaces."
            "  You must run the container in the host namespace when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidParameterError("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidParameterError("cannot share the host PID namespace when user namespaces are enabled")
    added = {name.upper().removeprefix("CAP_") for name in host.cap_add or []}
    if "NET_ADMIN" in added:
        # it would be there and allow nothing
        raise UnsupportedError("NET_ADMIN is not supported with user namespaces: use --userns=host")
    for device in host.devices or []:
        if device.path_in_container not in {"", device.path_on_host}:
            raise UnsupportedError(
                f"a device with another name is not supported with user namespaces: {device.path_in_container}"
            )


def running_remapping(pid: int) -> Remapping | None:
    """Return the mapping of a running process, None if it is in our own user namespace or has ended."""
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
            return Remapping(_read(f"/proc/{pid}/uid_map"), _read(f"/proc/{pid}/gid_map"))
    return None


def _read(path: str) -> tuple[tuple[int, int, int], ...]:
    with open(path, encoding="ascii") as file:
        lines = [[int(word) for word in line.split()] for line in file]
    return tuple((inside, host, size) for inside, host, size in lines)
