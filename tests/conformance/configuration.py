"""What the properties of config.json do, for every runtime that has them: checks like those of ``runtime.py``.

``DIFFERS`` names what a peer does not have, or does not do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from filters import FILTER_CHECKS
from hooks import HOOK_CHECKS
from mounts import MOUNT_CHECKS
from runtime import CONFIG, Runtime

NAMESPACES = CONFIG["linux"]["namespaces"]


def user_by_number(runtime: Runtime) -> None:
    """A name beside the numbers means nothing."""
    done = runtime.run("id -u", process__user={"uid": 1000, "gid": 1000, "username": "root"}, process__capabilities={})
    assert done.stdout == "1000\n"


def umask(runtime: Runtime) -> None:
    done = runtime.run("umask", process__user={"uid": 0, "gid": 0, "umask": 0o027})
    assert done.stdout.strip() == "0027"


def all_capability_sets(runtime: Runtime) -> None:
    names = ["CAP_KILL", "CAP_CHOWN"]
    done = runtime.run(
        "grep -E '^Cap' /proc/self/status",
        process__user={"uid": 1000, "gid": 1000},
        process__capabilities={
            **dict.fromkeys(("bounding", "permitted", "inheritable"), names),
            "effective": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
    )
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in done.stdout.splitlines()}
    assert sets == {"CapInh": 0x21, "CapPrm": 0x20, "CapEff": 0x20, "CapBnd": 0x21, "CapAmb": 0x20}


def oom_score(runtime: Runtime) -> None:
    assert runtime.run("cat /proc/self/oom_score_adj", process__oomScoreAdj=321).stdout == "321\n"


def scheduler(runtime: Runtime) -> None:
    """Fields of proc_pid_stat(5): nice is 19, rt_priority 40, policy 41; SCHED_IDLE's nice is the caller's under crun."""
    for asked, expected in (
        ({"policy": "SCHED_BATCH", "nice": 5}, ["5", "0", "3"]),
        ({"policy": "SCHED_IDLE"}, ["0", "5"]),
        ({"policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, ["-3", "0", "0"]),
    ):
        done = runtime.run("cut -d' ' -f19,40,41 /proc/1/stat", process__scheduler=asked)
        assert done.stdout.split()[-len(expected) :] == expected, (asked, done.stderr)


def io_priority(runtime: Runtime) -> None:
    done = runtime.run("ionice", process__ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6})
    assert done.stdout.split() == ["best-effort:", "prio", "6"], done.stderr


def personality(runtime: Runtime) -> None:
    assert runtime.run("uname -m", linux__personality={"domain": "LINUX32"}).stdout.strip() == "i686"


def time_namespace(runtime: Runtime) -> None:
    offset = 40 * 86400
    before = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    done = runtime.run(
        "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets",
        linux__namespaces=[*NAMESPACES, {"type": "time"}],
        linux__timeOffsets={"boottime": {"secs": offset}, "monotonic": {"secs": 7, "nanosecs": 5}},
    )
    uptime, *offsets = done.stdout.split()
    assert before <= int(uptime) - offset <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert offsets == ["monotonic", "7", "5", "boottime", str(offset), "0"]


def time_namespace_by_path(runtime: Runtime) -> None:
    with runtime.running("sleep", "600", linux__namespaces=[*NAMESPACES, {"type": "time"}]) as identity:
        pid = runtime.state(identity)["pid"]
        assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")
        own = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]
        joined = runtime.run(
            "readlink /proc/self/ns/time", linux__namespaces=[*own, {"type": "time", "path": f"/proc/{pid}/ns/time"}]
        )
        assert joined.stdout.strip() == os.readlink(f"/proc/{pid}/ns/time"), joined.stderr


def namespaces_by_path(runtime: Runtime) -> None:
    kinds = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    with runtime.running("sleep", "600") as identity:
        pid = runtime.state(identity)["pid"]
        by_path = [{"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in kinds.items()]
        done = runtime.run(
            "for n in pid net ipc uts; do readlink /proc/self/ns/$n; done",
            linux__namespaces=[*by_path, {"type": "mount"}],
            hostname="",
        )
        assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in kinds.values()], done.stderr


def mount_namespace_by_path(runtime: Runtime) -> None:
    """The root is prepared in a mount namespace that was there before, and everybody in it gets it."""
    within = runtime.command[:-1] if runtime.command[1:2] == ["exec"] else []
    made = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo $$; exec sleep 600"]
    with subprocess.Popen([*within, *made], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        try:
            own = os.readlink(f"/proc/{pid}/ns/mnt")
            others = [namespace for namespace in NAMESPACES if namespace["type"] != "mount"]
            done = runtime.run(
                "readlink /proc/self/ns/mnt; ls -d /bin; touch /x 2>&1 | grep -o Read-only; cat /proc/keys;"
                "echo 1 2>/dev/null >/proc/sys/kernel/shm_rmid_forced || echo ro",
                linux__namespaces=[*others, {"type": "mount", "path": f"/proc/{pid}/ns/mnt"}],
            )
            found, *names = done.stdout.split()
            assert found == own, done.stderr
            assert "/bin" in names
            assert names[-2:] == ["Read-only", "ro"], names
            assert not Path(f"/proc/{pid}/root/{runtime.home}").exists(), "the old root is still there"
        finally:
            os.kill(pid, signal.SIGKILL)


def exec_affinity(runtime: Runtime) -> None:
    document = {"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    document["execCPUAffinity"] = {"initial": "0", "final": "1"}
    with runtime.running("sleep", "600") as identity:
        (runtime.home / "process.json").write_text(json.dumps(document))
        done = runtime("exec", "--process", f"{runtime.seen}/process.json", identity)
        assert done.stdout.split() == ["Cpus_allowed_list:", "1"], done.stderr


def namespaced_sysctls(runtime: Runtime) -> None:
    sysctls = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net/core/somaxconn": "99"}
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn"
    done = runtime.run(script, linux__sysctl=sysctls)
    assert done.stdout.split() == ["1", "1", "99"], done


def user_namespace(runtime: Runtime) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    done = runtime.run(
        "id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox",
        linux__namespaces=[*NAMESPACES, {"type": "user"}],
        linux__uidMappings=mapping,
        linux__gidMappings=mapping,
        linux__devices=[],
    )
    assert done.stdout.split() == ["0", "0", "100000", "65536", "65534"], done


def user_namespace_by_path(runtime: Runtime) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    own = {"linux__uidMappings": mapping, "linux__gidMappings": mapping, "linux__devices": []}
    with runtime.running("sleep", "600", linux__namespaces=[*NAMESPACES, {"type": "user"}], **own) as identity:
        pid = runtime.state(identity)["pid"]
        joined = {"type": "user", "path": f"/proc/{pid}/ns/user"}
        done = runtime.run(
            "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; hostname inside && hostname",
            linux__namespaces=[*NAMESPACES, joined],
            process__capabilities={name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")},
            **(own if runtime.command[-1] == "runc" else {}),
        )
        uid, userns, netns, name = done.stdout.split() or [done.stderr] * 4
        assert (uid, userns, name) == ("0", os.readlink(f"/proc/{pid}/ns/user"), "inside")
        assert netns != os.readlink(f"/proc/{pid}/ns/net")


CHECKS: dict[str, Callable[[Runtime], None]] = {
    check.__name__: check
    for check in (
        *HOOK_CHECKS,
        user_by_number,
        umask,
        all_capability_sets,
        oom_score,
        scheduler,
        io_priority,
        personality,
        time_namespace,
        time_namespace_by_path,
        namespaces_by_path,
        mount_namespace_by_path,
        exec_affinity,
        namespaced_sysctls,
        user_namespace,
        user_namespace_by_path,
        *MOUNT_CHECKS,
        *FILTER_CHECKS,
    )
}
# what the peers of Debian 13 do not have yet, or do differently
DIFFERS = {
    "runc": {
        *("scheduler", "io_priority", "time_namespace", "time_namespace_by_path", "exec_affinity", "personality"),
        *("seccomp_flags", "mapped_ids"),
        "failing_poststop_is_a_warning",  # it stops at the first one
        "rootfs_propagation",  # it has shared only where the host's mount is
        "recursive_options_of_a_file_system",  # it passes over them
    },
    "crun": {
        "time_namespace_by_path",  # write to sync socket: Broken pipe
        "mount_propagation",  # it has rshared only where the host's mount is
        "readonly_root_path",  # it has none
    },
}
