"""Configurations that use everything, and seeded mutations of them: what a hostile or careless caller may send."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Json = Any

FULL: dict[str, Json] = {
    "ociVersion": "1.3.0",
    "process": {
        "terminal": False,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5, 6]},
        "args": ["true"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/",
        "capabilities": {
            name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "noNewPrivileges": True,
        "oomScoreAdj": 100,
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5},
        "execCPUAffinity": {"initial": "0-1", "final": "0"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup", "size=1m"]},
        {
            "destination": "/m",
            "type": "bind",
            "source": "/usr/share",
            "options": ["rbind", "rro", "rprivate", "nodev"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
    ],
    "annotations": {"com.example": "1"},
    "hooks": {
        "createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}],
        "startContainer": [{"path": "/bin/true"}],
        "poststop": [{"path": "/bin/true"}],
    },
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")],
        "timeOffsets": {"boottime": {"secs": 100, "nanosecs": 5}, "monotonic": {"secs": 7}},
        "devices": [{"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "rw"}],
            "pids": {"limit": 50},
            "memory": {"limit": 67108864, "swap": 67108864},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000},
        },
        "sysctl": {"net.ipv4.ip_forward": "0"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["personality", "acct"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 99, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
                }
            ],
        },
        "maskedPaths": ["/proc/keys", "/proc/scsi"],
        "readonlyPaths": ["/proc/sys"],
        "personality": {"domain": "LINUX"},
        "rootfsPropagation": "private",
    },
}

# what few have, and no test can run here
RARE: dict[str, Json] = {
    "ociVersion": "1.3.0",
    "process": {"args": ["true"], "cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}]},
    "root": {"path": "rootfs"},
    "mounts": [
        {
            "destination": "/m",
            "type": "bind",
            "source": "/usr",
            "options": ["bind", "idmap"],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        },
    ],
    "linux": {
        "namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "network", "path": "/proc/1/ns/net"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "netDevices": {"host0": {"name": "eth0"}},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "resources": {
            "unified": {"memory.high": "1000000"},
            "devices": [{"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}],
            "memory": {"limit": 1 << 26, "reservation": 1 << 25, "swappiness": 5, "disableOOMKiller": False},
            "cpu": {
                "cpus": "0-1",
                "mems": "0",
                "realtimePeriod": 1000000,
                "realtimeRuntime": 1000,
                "burst": 5,
                "idle": 0,
            },
            "blockIO": {
                "weight": 100,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 200}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 22}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "words",
            "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}],
        },
    },
}

NASTY: tuple[Json, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        7,
        511,
        512,
        65536,
        2**31,
        2**32 - 1,
        2**32,
        2**63,
        2**64,
        2**70,
        -(2**63),
        -(2**70),
    ),
    *(1.5, -0.0, 1e300, "", "0", "1", "-1", "true", "/", "//", "..", "../../../etc/shadow", "/proc/self", "/dev/null"),
    *(
        "a\nb",
        "a\0b",
        "\ud800",
        "\u202e",
        "x" * 5000,
        "{}",
        "%s%n",
        "$(id)",
        "' or 1",
        "SCMP_ACT_",
        "CAP_",
        "ⅷ",
        "\u0661",
    ),
    *([], {}, [[]], [None], [{}], {"": ""}, {"type": "mount"}, ["/proc/keys"], [0], [-1], {"limit": -5}),
)
_WORDS = (
    "ro",
    "rro",
    "idmap",
    "tmpcopyup",
    "remount",
    "shared",
    "mount",
    "user",
    "network",
    "SCMP_ACT_NOTIFY",
    "cgroup",
)


def paths(document: Json, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*above, key)
        yield from paths(value, (*above, key))


def holder(document: Json, path: tuple[str | int, ...]) -> Json:
    for key in path[:-1]:
        document = document[key]
    return document


def _replace(chance: random.Random, document: Json, path: tuple[str | int, ...]) -> None:
    pool = NASTY if chance.random() < 0.8 else _WORDS
    holder(document, path)[path[-1]] = copy.deepcopy(chance.choice(pool))


def _remove(_: random.Random, document: Json, path: tuple[str | int, ...]) -> None:
    del holder(document, path)[path[-1]]


def _invent(chance: random.Random, document: Json, path: tuple[str | int, ...]) -> None:
    target = holder(document, path)
    if isinstance(target, dict):
        target[chance.choice(["x-unknown", "PATH", "Args", "noNewPrivs", "seccomp ", "\0"])] = chance.choice(
            [1, "a", {}]
        )
    else:
        target.append(copy.deepcopy(chance.choice(NASTY)))


def _misspell(_: random.Random, document: Json, path: tuple[str | int, ...]) -> None:
    target = holder(document, path)
    if isinstance(target, dict):
        target[str(path[-1]).swapcase()] = target.pop(path[-1])
    else:
        target.append(copy.deepcopy(target[0]))


def _transplant(chance: random.Random, document: Json, path: tuple[str | int, ...]) -> None:
    other = chance.choice(list(paths(document)))
    holder(document, path)[path[-1]] = copy.deepcopy(holder(document, other)[other[-1]])


_CHANGES: tuple[Callable[[random.Random, Json, tuple[str | int, ...]], None], ...] = (
    *(_replace, _replace, _replace, _replace, _remove, _invent, _misspell, _transplant),
)


def mutated(seed: int, base: dict[str, Json] = FULL) -> dict[str, Json]:
    """One to three changes of a valid document; still an object that JSON can hold."""
    chance = random.Random(seed)
    document = copy.deepcopy(base)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(_CHANGES)(chance, document, chance.choice(list(paths(document))))
    return document


def contradictions() -> dict[str, dict[str, Json]]:
    """Settings each of which is fine alone."""
    found: dict[str, dict[str, Json]] = {}

    def add(name: str, **changes: Json) -> None:
        document = copy.deepcopy(FULL)
        for path, value in changes.items():
            *above, last = path.split("__")
            holder(document, (*above, last))[last] = value
        found[name] = document

    spaces = FULL["linux"]["namespaces"]
    without = lambda kind: [entry for entry in spaces if entry["type"] != kind]  # noqa: E731
    add("sysctl of the host's network", linux__namespaces=without("network"))
    add("host name of the host", linux__namespaces=without("uts"))
    add("clock offsets of the host", linux__namespaces=without("time"))
    add("masked paths of the host", linux__namespaces=without("mount"))
    add("user namespace without a mapping", linux__namespaces=[*spaces, {"type": "user"}])
    add("mapping without a user namespace", linux__uidMappings=[{"containerID": 0, "hostID": 1, "size": 1}])
    add("a namespace twice", linux__namespaces=[*spaces, {"type": "pid"}])
    add("a namespace that is not there", linux__namespaces=[*without("ipc"), {"type": "ipc", "path": "/proc/0/ns/ipc"}])
    add(
        "a namespace of another kind", linux__namespaces=[*without("ipc"), {"type": "ipc", "path": "/proc/self/ns/uts"}]
    )
    add("effective but not permitted", process__capabilities={"effective": ["CAP_KILL"], "permitted": []})
    add("an unknown capability", process__capabilities={"bounding": ["CAP_FLY"]})
    add("a soft limit above the hard one", process__rlimits=[{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}])
    add("an unknown limit", process__rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}])
    add("a nice value in real time", process__scheduler={"policy": "SCHED_FIFO", "priority": 5, "nice": 5})
    add("real time without a priority", process__scheduler={"policy": "SCHED_RR"})
    add("a deadline below its run time", process__scheduler={"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 5})
    notify = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}]}
    add("notifications for nobody", linux__seccomp=notify)
    add("notifications for a dead agent", linux__seccomp={**notify, "listenerPath": "/nonexistent/agent.sock"})
    add("a listener's metadata alone", linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"})
    add("everything notifies", linux__seccomp={"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"})
    add("a filter that kills its own loading", linux__seccomp={"defaultAction": "SCMP_ACT_KILL_PROCESS"})
    add("a hook that is not there", hooks__createRuntime=[{"path": "/no/such/hook"}])
    add("a hook of a relative path", hooks__createRuntime=[{"path": "bin/true"}])
    add("a hook that fails", hooks__createRuntime=[{"path": "/bin/false"}])
    add("a container's hook that is not there", hooks__startContainer=[{"path": "/no/such/hook"}])
    add("an unknown hook", hooks__onFire=[{"path": "/bin/true"}])
    add("a device of the host that is not there", linux__netDevices={"nosuch0": {"name": "eth0"}})
    add("intelRdt", linux__intelRdt={"closID": "x"})
    add("a node that is not there", linux__memoryPolicy={"mode": "MPOL_BIND", "nodes": "900"})
    add("a clock before its beginning", linux__timeOffsets={"boottime": {"secs": -(2**40)}})
    add("a label without SELinux", linux__mountLabel="system_u:object_r:x:s0")
    add("a profile without AppArmor", process__apparmorProfile="nosuch")
    for mount in (
        {"destination": "/proc/self", "type": "tmpfs", "source": "x"},
        {"destination": "/", "type": "tmpfs", "source": "x"},
        {"destination": "/m", "type": "nosuchfs", "source": "x"},
        {"destination": "/m", "type": "bind", "source": "/no/such/place"},
        {"destination": "/m", "type": "bind", "source": "/usr", "options": ["bind", "size=5"]},
        {"destination": "/m", "type": "bind", "source": "/usr", "options": ["bind", "idmap"]},
        {"destination": "/m", "type": "bind", "source": "/usr", "options": ["bind", "tmpcopyup"]},
        {"destination": "/m", "type": "tmpfs", "source": "x", "options": ["size=lots"]},
        {"destination": "/m", "type": "tmpfs", "source": "x", "options": ["nosuchoption"]},
        {"destination": "/bin", "type": "tmpfs", "source": "x", "options": ["tmpcopyup", "size=4k"]},
        {"destination": "/nothing-mounted", "source": "x", "options": ["remount", "bind", "ro"]},
        {
            "destination": "/m",
            "type": "bind",
            "source": "/usr",
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        },
        {"destination": "/bin/busybox/x", "type": "tmpfs", "source": "x"},
    ):
        name = f"{mount.get('type', '')} {mount['destination']} {mount.get('options', '')} {mount['source']}"
        add(f"mount {name}", mounts=[*FULL["mounts"], mount])
    return found


def spoiled(seed: int) -> bytes:
    """A document that no longer is JSON, or is more than one thing."""
    chance = random.Random(seed)
    text = json.dumps(FULL)
    place = chance.randrange(len(text))
    return chance.choice(
        (
            lambda: text[:place].encode(),
            lambda: (text[:place] + chance.choice('{}[],:"\\\0') + text[place:]).encode(),
            lambda: text.replace(
                '"limit": 50', f'"limit": {chance.choice(("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "0x1"))}'
            ).encode(),
            lambda: text.replace('"args"', '"cwd": "/tmp", "args"', 1).encode(),
            lambda: text.replace('"hostname"', '"ociVersion": "1.0.0", "hostname"', 1).encode(),
            lambda: b'{"annotations": ' + b'{"a":' * 100_000,
            lambda: b"[" * 100_000,
            lambda: text.encode("utf-16"),
            lambda: text.encode() + b"{}",
            lambda: b"\xff\xfe" + text.encode(),
            lambda: b"\xef\xbb\xbf" + text.encode(),
            lambda: b"",
            lambda: b"null",
            lambda: b'"config"',
        )
    )()
