"""Documents that the runtime writes: a configuration to start from, and what it can do."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, UnsupportedError
from orlop.kernel.capability import NAMES
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

# what runtime.mount_options takes beside the file systems' own parameters
MOUNT_OPTIONS = (
    *("async", "atime", "bind", "defaults", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec"),
    *("norelatime", "nostrictatime", "nosuid", "private", "rbind", "relatime", "ro", "rprivate", "rro", "rshared"),
    *("rslave", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "unbindable"),
)


def _mount(destination: str, kind: str, source: str, *options: str) -> JsonObject:
    mount: JsonObject = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = list(options)
    return mount


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
        "mounts": [
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
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def write_spec(invocation: Invocation) -> int:
    """Write ``config.json`` into the bundle; never over one that is there."""
    if invocation.options.switch("rootless"):
        raise UnsupportedError("spec --rootless is not supported")
    path = os.path.join(invocation.options.text("bundle"), "config.json")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        raise ConflictError(f"File {path} exists. Remove it first") from None
    with os.fdopen(fd, "w") as file:
        json.dump(starter_config(), file, indent="\t")
    return 0


def show_features(invocation: Invocation) -> int:
    """Print the runtime-spec's features document: only what this version carries out."""
    unified = invocation.hierarchies.version == 2
    sys.stdout.write(json.dumps(_features(unified=unified), indent=4) + "\n")
    return 0


def _features(*, unified: bool) -> JsonObject:
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": [*HOOKS],
        "mountOptions": [*MOUNT_OPTIONS],
        "linux": {
            "namespaces": [*sorted(NAMESPACES)],
            "capabilities": [*NAMES],
            "cgroup": {"v1": not unified, "v2": unified, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": [*sorted(ACTIONS)],
                "operators": [*sorted(OPERATORS)],
                "archs": [*sorted(ARCHITECTURES)],
                "knownFlags": [*sorted(FLAGS)],
                "supportedFlags": [*sorted(FLAGS)],
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
        },
    }
