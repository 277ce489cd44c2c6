"""Namespaces that a container shares with the host or with another container, and host devices it is given."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.spec.docker.containers import HostConfig
    from orlop.spec.json import JsonObject

# a kernel before 5.6, or one without them
_TIME_NAMESPACES = os.path.exists("/proc/self/ns/time")
_HOST_DEVICES_SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"})


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


def host_devices(host: HostConfig) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return ``linux.devices`` and cgroup rules of ``--device``, or all host devices of ``--privileged``.

    Raises:
        InvalidParameterError: no such device, or a malformed permission.
    """
    devices: list[JsonObject] = []
    rules: list[JsonObject] = []
    if host.privileged:
        _collect("/dev", devices)
    for mapping in host.devices or []:
        access = mapping.cgroup_permissions or "rwm"
        if set(access) - set("rwm"):
            raise InvalidParameterError(f"invalid device mode: {access}")
        device = _device(mapping.path_on_host)
        if device is None:
            raise InvalidParameterError(
                f'error gathering device information while adding custom device "{mapping.path_on_host}":'
                " no such file or directory",
            )
        target = mapping.path_in_container or mapping.path_on_host
        devices = [other for other in devices if other["path"] != target]
        devices.append({**device, "path": target})
        rules.append({"allow": True, **{key: device[key] for key in ("type", "major", "minor")}, "access": access})
    return devices, rules


def _collect(directory: str, devices: list[JsonObject]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name in _HOST_DEVICES_SKIPPED or entry.is_symlink():
                continue
            if entry.is_dir(follow_symlinks=False):
                _collect(entry.path, devices)
            else:
                device = _device(entry.path)
                if device is not None:
                    devices.append(device)


def _device(path: str) -> JsonObject | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
