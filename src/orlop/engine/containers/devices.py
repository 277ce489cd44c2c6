"""Devices of the host that a container is given, and what the device cgroup lets it do with them."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.spec.docker.containers import DeviceMapping, HostConfig
    from orlop.spec.json import JsonObject

_HOST_DEVICES_SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"})
# dockerd's own pattern (daemon/oci_linux.go), with numbers that a dev_t can hold
_RULE = re.compile(r"([acb]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})", re.ASCII)


def device_rule(text: str) -> JsonObject:
    """Return the rule of the runtime-spec that ``--device-cgroup-rule`` says, as in ``c 42:* rmw``.

    Raises:
        InvalidParameterError: it is none, in dockerd's words.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidParameterError(f"invalid device cgroup rule format: '{text}'")
    rule: JsonObject = {"allow": True, "type": match[1], "access": match[4]}
    for name, number in (("major", match[2]), ("minor", match[3])):
        if number != "*":
            if int(number) >= 2**32:
                raise InvalidParameterError(f"invalid device cgroup rule format: '{text}'")
            rule[name] = int(number)
    return rule


def host_devices(host: HostConfig) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return ``linux.devices`` and cgroup rules of ``--device``, or all host devices of ``--privileged``.

    A directory stands for every device below it (``--device /dev/snd``), as with dockerd.

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
        for device in _mapped(mapping):
            devices = [other for other in devices if other["path"] != device["path"]]
            devices.append(device)
            rules.append({"allow": True, **{key: device[key] for key in ("type", "major", "minor")}, "access": access})
    rules.extend(device_rule(text) for text in host.device_cgroup_rules or ())
    return devices, rules


def _mapped(mapping: DeviceMapping) -> list[JsonObject]:
    source = mapping.path_on_host
    target = mapping.path_in_container or source
    device = _device(source)
    if device is not None:
        return [{**device, "path": target}]
    found: list[JsonObject] = []
    if os.path.isdir(source):
        root = os.path.realpath(source)
        found = [{**inner, "path": target.rstrip("/") + str(inner["path"])[len(root) :]} for inner in _below(root)]
    if not found:
        reason = "not a device node" if os.path.exists(source) else "no such file or directory"
        raise InvalidParameterError(
            f'error gathering device information while adding custom device "{source}": {reason}'
        )
    return found


def _below(directory: str) -> Iterator[JsonObject]:
    """Yield the devices of a directory; what links lead to does not belong to it."""
    for path, _, names in os.walk(directory):
        for name in sorted(names):
            full = f"{path}/{name}"
            if not os.path.islink(full) and (device := _device(full)) is not None:
                yield device


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
