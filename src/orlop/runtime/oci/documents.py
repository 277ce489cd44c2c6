"""Documents that the runtime writes: a configuration to start from, and what it can do."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError
from orlop.kernel.capability import NAMES
from orlop.runtime.mount_options import KNOWN_OPTIONS
from orlop.spec.oci.config import SPEC_VERSION
from orlop.spec.oci.hooks import HOOKS
from orlop.spec.oci.linux import NAMESPACES
from orlop.spec.oci.seccomp import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS

if TYPE_CHECKING:
    from orlop.runtime.oci.command import Invocation
    from orlop.spec.json import JsonObject, JsonValue

_CAPABILITIES: list[JsonValue] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED: list[JsonValue] = [
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
]
_READONLY: list[JsonValue] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def _mount(destination: str, kind: str, source: str, *options: str) -> JsonObject:
    mount: JsonObject = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = list(options)
    return mount


def starter_mounts() -> list[JsonObject]:
    """Return the mounts of :func:`starter_config`, new ones each time."""
    return [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            *("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance"),
            *("ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    ]


def starter_config() -> JsonObject:
    """Return the configuration that ``spec`` writes: runc's, with a cgroup namespace."""
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "orlop",
        "mounts": [*starter_mounts()],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def rootless_config(config: JsonObject, *, uid: int, gid: int) -> JsonObject:
    """Return the configuration as an ordinary user can start it: runc's ``specconv.ToRootless``.

    One id is mapped, the host's network is used, /sys is the host's since its owner is, the terminal group is not
    mapped and limits need a cgroup that was handed over.
    """
    linux, mounts = config["linux"], []
    if not isinstance(linux, dict):
        raise TypeError("linux is an object")  # starter_config() made it
    for mount in starter_mounts():
        options = mount.get("options")
        if mount["destination"] == "/sys":
            mounts.append(_mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"))
            continue
        if isinstance(options, list):
            mount["options"] = [option for option in options if not str(option).startswith(("gid=", "uid="))]
        mounts.append(mount)
    kept = ("pid", "ipc", "uts", "mount", "cgroup", "user")
    return {
        **config,
        "mounts": [*mounts],
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1}],
            "namespaces": [{"type": name} for name in kept],
            "maskedPaths": linux["maskedPaths"],
            "readonlyPaths": linux["readonlyPaths"],
        },
    }


def write_spec(invocation: Invocation) -> int:
    """Write ``config.json`` into the bundle; never over one that is there."""
    directory = invocation.options.text("bundle")
    if directory and not os.path.isdir(directory):
        raise InvalidParameterError(f"chdir {directory}: no such file or directory")
    config = starter_config()
    if invocation.options.switch("rootless"):
        config = rootless_config(config, uid=os.geteuid(), gid=os.getegid())
    path = os.path.join(directory, "config.json")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        raise ConflictError("File config.json exists. Remove it first") from None
    with os.fdopen(fd, "w") as file:
        json.dump(config, file, indent="\t")
    return 0


def show_features(_invocation: Invocation) -> int:
    """Print the runtime-spec's features document (features.md): what this version carries out, on any machine."""
    sys.stdout.write(json.dumps(features(), indent=4) + "\n")
    return 0


def features() -> JsonObject:
    """Return the features document."""
    from orlop import __version__

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": [*HOOKS],
        "mountOptions": [*KNOWN_OPTIONS],
        "linux": {
            "namespaces": [*sorted(NAMESPACES)],
            "capabilities": [*NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": [*sorted(ACTIONS)],
                "operators": [*sorted(OPERATORS)],
                "archs": [*sorted(ARCHITECTURES)],
                "knownFlags": [*sorted(FLAGS)],
                "supportedFlags": [*sorted(FLAGS)],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.orlop.runtime.version": __version__,
            # the name that containerd and podman look for
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
    }
