"""Namespaces that a container shares with the host or with another container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.spec.docker.containers import HostConfig

# a kernel before 5.6, or one without them
_TIME_NAMESPACES = os.path.exists("/proc/self/ns/time")


def shared_namespaces(host: HostConfig, directory: Directory, *, network_mode: str) -> dict[str, str]:
    """Return namespace type to path, "" for the host's own; types that are not there are private.

    Raises:
        NotFoundError: ``No such container``.
        ConflictError: the other container does not run, or does not share its IPC namespace.
    """
    shared: dict[str, str] = {}
    if network_mode == "host":
        shared["network"] = ""
    if host.uts_mode == "host":
        shared["uts"] = ""
    if host.cgroupns_mode == "host":
        shared["cgroup"] = ""
    if not _TIME_NAMESPACES:
        shared["time"] = ""
    for kind, mode in (("pid", host.pid_mode), ("ipc", host.ipc_mode)):
        if mode == "host":
            shared[kind] = ""
        elif mode.startswith("container:"):
            other = _joined(kind, mode, directory)
            shared[kind] = f"/proc/{other.state.pid}/ns/{kind}"
    return shared


def shared_memory_donor(host: HostConfig, directory: Directory) -> str:
    """Return whose /dev/shm comes with a joined IPC namespace, as the runtime's annotation wants it, or "".

    Raises:
        NotFoundError, ConflictError: as :func:`shared_namespaces`.
    """
    if not host.ipc_mode.startswith("container:"):
        return ""
    state = _joined("ipc", host.ipc_mode, directory).state
    return f"{state.pid}:{state.start_time}"


def _joined(kind: str, mode: str, directory: Directory) -> Container:
    name = mode.removeprefix("container:")
    what = f"failed to join {kind.upper()} namespace"
    if not name:
        raise InvalidParameterError(f'{what}: invalid name or ID supplied: ""')
    other = directory.get(name)
    if not other.alive:
        raise ConflictError(f"{what}: container {other.id} is not running")
    ipc = other.definition.host.ipc_mode
    if kind == "ipc" and ipc not in {"shareable", "host"} and not ipc.startswith("container:"):
        raise ConflictError(
            f"{what}: container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
        )
    return other
