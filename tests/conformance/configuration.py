"""What the properties of config.json do, for every runtime that has them: checks like those of ``runtime.py``.

``DIFFERS`` names what a peer does not have, or does not do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime import CONFIG, Runtime

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NAMESPACES = CONFIG["linux"]["namespaces"]


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], **more}


def log_directory(runtime: Runtime) -> Path:
    """A directory that hooks of the host find as ``{seen}/log`` and those in a container as ``/log``."""
    directory = runtime.home / "log"
    directory.mkdir(exist_ok=True)
    (runtime.home / "rootfs/log").mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    return directory


def log_mount(runtime: Runtime) -> dict[str, Any]:
    return {"destination": "/log", "type": "bind", "source": f"{runtime.seen}/log", "options": ["bind", "rw"]}


def recording_hooks(runtime: Runtime) -> dict[str, Any]:
    """Hooks that write the state they get, and where they are, to files of their names, in the order of ``order``."""
    hooks = {}
    for name in HOOKS:
        log = "/log" if name == "startContainer" else f"{runtime.seen}/log"
        script = f"cat > {log}/{name}; echo {name}-$N >> {log}/order; readlink /proc/self/ns/pid > {log}/{name}.pid"
        hooks[name] = [{**shell(script), "env": ["PATH=/usr/bin:/bin", f"N={number}"]} for number in (1, 2)]
    return hooks


def hooks_in_order(runtime: Runtime) -> None:
    log, early = log_directory(runtime), runtime.command[-1] == "runc"
    identity, bundle = runtime.bundle(
        *("sh", "-c", "echo program >> /log/order; sleep 60"),
        mounts=[*CONFIG["mounts"], log_mount(runtime)],
        hooks=recording_hooks(runtime),
        annotations={"com.example": "word"},
    )

    def order() -> list[str]:
        # runc executes poststart's when it creates; the specification says after the start
        words = (log / "order").read_text().split()
        return [word for word in words if not early or not word.startswith("poststart")]

    def state(name: str) -> dict[str, Any]:
        return json.loads((log / name).read_text())

    runtime.expect("create", "--bundle", bundle, identity)
    created = [f"{name}-{number}" for name in HOOKS[:3] for number in (1, 2)]
    assert order() == created, order()
    pid = runtime.state(identity)["pid"]
    for name in HOOKS[:3]:
        assert state(name)["id"] == identity
        assert state(name)["bundle"] == bundle
        assert state(name)["ociVersion"]
        assert state(name)["annotations"]["com.example"] == "word"
        # runc and crun differ in what "creating" is called; nobody says running
        assert state(name)["status"] in ("creating", "created")
    for name in HOOKS[:2]:
        assert state(name)["pid"] == pid
        assert (log / f"{name}.pid").read_text() == os.readlink("/proc/self/ns/pid") + "\n"
    own = os.readlink(f"/proc/{pid}/ns/pid") + "\n"
    assert (log / "createContainer.pid").read_text() == own
    runtime.expect("start", identity)
    deadline = time.monotonic() + 5
    while "program" not in order() or not (log / "poststart.pid").exists():
        assert time.monotonic() < deadline, order()
        time.sleep(0.02)
    started = [name for name in order() if not name.startswith("poststart")]
    assert started == [*created, "startContainer-1", "startContainer-2", "program"]
    assert (log / "startContainer.pid").read_text() == own
    assert state("startContainer")["status"] in ("created", "starting")
    assert state("poststart")["pid"] == pid
    assert early or state("poststart")["status"] == "running"
    assert not (log / "poststop").exists()
    runtime.expect("delete", "--force", identity)
    assert order()[-2:] == ["poststop-1", "poststop-2"]
    assert state("poststop")["status"] == "stopped"


def failing_hook_undoes_the_creation(runtime: Runtime) -> None:
    for name in HOOKS[:3]:
        log = log_directory(runtime)
        hooks = {
            name: [shell("exit 3"), shell(f"touch {runtime.seen}/log/second")],
            "poststop": [shell(f"touch {runtime.seen}/log/poststop")],
        }
        identity, bundle = runtime.bundle("true", hooks=hooks)
        runtime.refuses("create", "--bundle", bundle, identity)
        runtime.refuses("state", identity)
        assert not (log / "second").exists()


def slow_hook_is_stopped(runtime: Runtime) -> None:
    identity, bundle = runtime.bundle("true", hooks={"createRuntime": [shell("exec sleep 30", timeout=1)]})
    began = time.monotonic()
    runtime.refuses("create", "--bundle", bundle, identity)
    assert time.monotonic() - began < 10
    runtime.refuses("state", identity)


def failing_poststop_is_a_warning(runtime: Runtime) -> None:
    log = log_directory(runtime)
    hooks = {"poststop": [shell("exit 3"), shell(f"touch {runtime.seen}/log/second")]}
    identity, bundle = runtime.bundle("true", hooks=hooks)
    assert runtime("run", "--bundle", bundle, identity).returncode == 0
    assert (log / "second").exists()


def hooks_find_the_root(runtime: Runtime) -> None:
    """A prestart hook that enters the mount namespace finds the container's root where config.json says."""
    script = (
        "pid=$(sed -n 's/.*\"pid\": *\\([0-9]*\\).*/\\1/p' | head -n 1);"
        f"nsenter --target $pid --mount sh -c 'echo put > {runtime.seen}/rootfs/tmp/put'"
    )
    identity, bundle = runtime.bundle("cat", "/tmp/put", hooks={"createRuntime": [shell(script)]})
    done = runtime("run", "--bundle", bundle, identity)
    assert done.stdout == "put\n", done.stderr
    assert not (runtime.home / "rootfs/tmp/put").exists()


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
    done = runtime.run(
        "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets",
        linux__namespaces=[*NAMESPACES, {"type": "time"}],
        linux__timeOffsets={"boottime": {"secs": offset}, "monotonic": {"secs": 7, "nanosecs": 5}},
    )
    uptime, *offsets = done.stdout.split()
    assert abs(int(uptime) - time.clock_gettime(time.CLOCK_BOOTTIME) - offset) < 30
    assert offsets == ["monotonic", "7", "5", "boottime", str(offset), "0"]


def time_namespace_by_path(runtime: Runtime) -> None:
    with runtime.running("sleep", "60", linux__namespaces=[*NAMESPACES, {"type": "time"}]) as identity:
        pid = runtime.state(identity)["pid"]
        assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")
        own = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]
        joined = runtime.run(
            "readlink /proc/self/ns/time", linux__namespaces=[*own, {"type": "time", "path": f"/proc/{pid}/ns/time"}]
        )
        assert joined.stdout.strip() == os.readlink(f"/proc/{pid}/ns/time"), joined.stderr


def namespaces_by_path(runtime: Runtime) -> None:
    kinds = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    with runtime.running("sleep", "60") as identity:
        pid = runtime.state(identity)["pid"]
        by_path = [{"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in kinds.items()]
        done = runtime.run(
            "for n in pid net ipc uts; do readlink /proc/self/ns/$n; done",
            linux__namespaces=[*by_path, {"type": "mount"}],
            hostname="",
        )
        assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in kinds.values()], done.stderr


def exec_affinity(runtime: Runtime) -> None:
    document = {"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    document["execCPUAffinity"] = {"initial": "0", "final": "1"}
    with runtime.running("sleep", "60") as identity:
        (runtime.home / "process.json").write_text(json.dumps(document))
        done = runtime("exec", "--process", f"{runtime.seen}/process.json", identity)
        assert done.stdout.split() == ["Cpus_allowed_list:", "1"], done.stderr


def seccomp_actions(runtime: Runtime) -> None:
    """Each action's effect on sethostname, which the shell's ``hostname`` makes."""
    for action, more, expected in (
        ("SCMP_ACT_ERRNO", {"errnoRet": 95}, (1, "not supported")),
        ("SCMP_ACT_KILL", {}, (159, "")),
        ("SCMP_ACT_KILL_PROCESS", {}, (159, "")),
        ("SCMP_ACT_TRAP", {}, (159, "")),
        ("SCMP_ACT_TRACE", {"errnoRet": 1}, (1, "not implemented")),
        ("SCMP_ACT_LOG", {}, (1, "not permitted")),
        ("SCMP_ACT_ALLOW", {}, (1, "not permitted")),
    ):
        rules = [{"names": ["sethostname"], "action": action, **more}]
        default = "SCMP_ACT_ERRNO" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
        profile: dict[str, Any] = {"defaultAction": default, "syscalls": rules}
        if default == "SCMP_ACT_ERRNO":
            continue  # what else to allow is the business of the profile's tests
        done = runtime.run("hostname x", linux__seccomp=profile)
        assert (done.returncode, expected[1] in done.stderr.lower()) == (expected[0], True), (action, done)


def seccomp_arguments(runtime: Runtime) -> None:
    rule = {
        "names": ["kill"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 95,
        "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
    }
    done = runtime.run(
        "kill -10 $$; kill -18 $$ && echo other",
        linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]},
    )
    assert "not supported" in done.stderr.lower(), done
    assert done.stdout == "other\n"


def seccomp_flags(runtime: Runtime) -> None:
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "SPEC_ALLOW", "TSYNC")]
    for unprivileged in (True, False):
        done = runtime.run(
            "grep Seccomp: /proc/self/status",
            linux__seccomp={"defaultAction": "SCMP_ACT_ALLOW", "flags": flags},
            process__noNewPrivileges=unprivileged,
        )
        assert done.stdout.split() == ["Seccomp:", "2"], done


def seccomp_notify(runtime: Runtime) -> None:
    """The listener comes with the container process state, and answers for the program."""
    path = runtime.home / "agent.sock"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": f"{runtime.seen}/agent.sock",
        "listenerMetadata": "some words",
        "syscalls": [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    for privileged in (True, False):
        identity, bundle = runtime.bundle(
            *("sh", "-c", "mkfifo /tmp/x; ls /tmp"),
            linux__seccomp=profile,
            process__noNewPrivileges=not privileged,
        )
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(10)
            runtime.expect("create", "--bundle", bundle, identity)
            # crun hands it over no earlier than this
            runtime.expect("start", identity)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                data, ancillary, *_ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
        path.unlink()
        (fd,) = array("i", ancillary[0][2])
        try:
            document = json.loads(data)
            assert document["fds"] == ["seccompFd"]
            assert document["metadata"] == "some words"
            assert document["pid"] == runtime.state(identity)["pid"]
            assert document["state"]["id"] == identity
            assert document["state"]["bundle"] == bundle
            assert answer(fd, errno_name=95)
            runtime.wait(identity, "stopped")
        finally:
            os.close(fd)
        runtime.expect("delete", identity)


_RECEIVE, _SEND = 0xC0502100, 0xC0182101


def answer(fd: int, *, errno_name: int, seconds: float = 10) -> bool:
    """Answer one notification with an errno (seccomp_unotify(2)); struct seccomp_notif has 80 bytes."""
    import fcntl
    import select

    if not select.select([fd], [], [], seconds)[0]:
        return False
    buffer = bytearray(80)
    fcntl.ioctl(fd, _RECEIVE, buffer)
    (identity,) = struct.unpack_from("=Q", buffer)
    fcntl.ioctl(fd, _SEND, bytearray(struct.pack("=QqiI", identity, 0, -errno_name, 0)))
    return True


def exchange(runtime: Runtime, name: str) -> tuple[Path, str]:
    """A new directory of the host's with a file ``f`` of user 1000, and how the runtime calls it."""
    directory = runtime.home / f"{name}-{os.urandom(3).hex()}"
    directory.mkdir()
    (directory / "f").write_text("text\n")
    os.chown(directory / "f", 1000, 1000)
    return directory, f"{runtime.seen}/{directory.name}"


def mounted_with(runtime: Runtime, script: str, *mounts: dict[str, Any], **changes: Any) -> str:
    done = runtime.run(script, mounts=[*CONFIG["mounts"], *mounts], **changes)
    assert done.returncode == 0, done
    return done.stdout


@contextlib.contextmanager
def tree_of_mounts(runtime: Runtime) -> Iterator[str]:
    """A directory with a tmpfs in it, mounted where the runtime sees it and nobody else does."""
    directory, seen = exchange(runtime, "tree")
    (directory / "inner").mkdir()
    mount = ["mount", "-t", "tmpfs", "tree", f"{seen}/inner"]
    within = runtime.command[:-1] if runtime.command[1:2] == ["exec"] else []
    subprocess.run([*within, *mount], check=True)
    try:
        yield seen
    finally:
        subprocess.run([*within, "umount", f"{seen}/inner"], check=True)


def bind_options(runtime: Runtime) -> None:
    _, seen = exchange(runtime, "bind")
    script = "touch /m/new 2>&1 | grep -o Read-only; grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6"
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)

    def options(*texts: str) -> list[str]:
        mount = {"destination": "/m", "source": seen, "options": list(texts)}
        return mounted_with(runtime, script, mount).split()

    assert options("bind", "ro", "nosuid", "nodev", "noexec") == ["Read-only", "ro,nosuid,nodev,noexec,relatime"]
    assert options("bind", "rw", "noatime") == ["rw,noatime"]


def recursive_options(runtime: Runtime) -> None:
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    script = "touch /m/new /m/inner/new 2>&1 | grep -c Read-only; grep ' /m' /proc/self/mountinfo | cut -d' ' -f5,6"
    with tree_of_mounts(runtime) as seen:
        for options, refused in ((["rbind", "ro"], "1"), (["rbind", "rro", "rnoexec"], "2"), (["bind", "ro"], "2")):
            mount = {"destination": "/m", "source": seen, "options": options}
            count, *lines = mounted_with(runtime, script, mount).splitlines()
            assert count == refused, (options, lines)
            assert len(lines) == (1 if options[0] == "bind" else 2)
            assert all("noexec" in line for line in lines) == ("rnoexec" in options), lines


def mount_propagation(runtime: Runtime) -> None:
    _, seen = exchange(runtime, "propagation")
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    for option, word in (("rprivate", ""), ("rshared", "shared"), ("unbindable", "unbindable")):
        mount = {"destination": "/m", "type": "bind", "source": seen, "options": ["rbind", option]}
        fields = mounted_with(runtime, "grep ' /m ' /proc/self/mountinfo", mount).split(" - ")[0].split()[6:]
        assert [field.partition(":")[0] for field in fields if "master" not in field] == ([word] if word else []), (
            option
        )


def tmpfs_with_what_it_covers(runtime: Runtime) -> None:
    covered = runtime.home / "rootfs/covered"
    (covered / "deep").mkdir(parents=True, exist_ok=True)
    (covered / "deep/f").write_text("text")
    (covered / "deep/f").chmod(0o644)
    os.chown(covered / "deep/f", 1000, 50)
    mount = {"destination": "/covered", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}
    script = "stat -c '%a %u %g' /covered/deep/f; cat /covered/deep/f; echo; touch /covered/new; stat -f -c %T /covered"
    assert mounted_with(runtime, script, mount).splitlines() == ["644 1000 50", "text", "tmpfs"]
    assert not (covered / "new").exists()


def mapped_ids(runtime: Runtime) -> None:
    _, seen = exchange(runtime, "mapped")
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    mapping = [{"containerID": 0, "hostID": 5000, "size": 2000}]
    mount = {
        "destination": "/m",
        "type": "bind",
        "source": seen,
        "options": ["bind", "idmap"],
        "uidMappings": mapping,
        "gidMappings": mapping,
    }
    script = "stat -c '%u %g' /m/f"
    assert mounted_with(runtime, script, mount).split() == ["6000", "6000"]


def any_file_system(runtime: Runtime) -> None:
    _, seen = exchange(runtime, "lower")
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    mount = {"destination": "/m", "type": "overlay", "source": "o", "options": [f"lowerdir={seen}:{seen}", "ro"]}
    mount["options"] = [f"lowerdir={seen}:{runtime.seen}/rootfs/tmp", "ro"]
    assert mounted_with(runtime, "cat /m/f; grep -c ' /m .* overlay ' /proc/self/mountinfo", mount).split() == [
        "text",
        "1",
    ]
    identity, bundle = runtime.bundle("true", mounts=[{"destination": "/m", "type": "nosuchfs", "source": "x"}])
    runtime.refuses("create", "--bundle", bundle, identity)
    runtime.refuses("state", identity)


def cgroup_mount(runtime: Runtime) -> None:
    mounts = [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}]
    mounts.append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]})
    script = "cat /sys/fs/cgroup/pids/pids.max; mkdir /sys/fs/cgroup/pids/x 2>&1 | grep -o Read-only"
    limited = {"pids": {"limit": 17}}
    assert mounted_with(runtime, script, *mounts, linux__resources=limited).split() == ["17", "Read-only"]


def rootfs_propagation(runtime: Runtime) -> None:
    for asked, word in (("private", ""), ("shared", "shared"), ("unbindable", "unbindable")):
        done = runtime.run("grep -m1 ' / ' /proc/self/mountinfo", linux__rootfsPropagation=asked)
        fields = done.stdout.split(" - ")[0].split()[6:]
        found = [field.partition(":")[0] for field in fields if not field.startswith("master")]
        assert found == ([word] if word else []), (asked, done)


def extra_devices(runtime: Runtime) -> None:
    devices = [
        {"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 50},
        {"type": "p", "path": "/dev/fifo"},
    ]
    allowed = {"devices": [{"allow": True, "access": "rwm"}]}
    done = runtime.run(
        "stat -c '%a %u %g %t %T %F' /dev/mine; stat -c '%a %F' /dev/fifo",
        linux__devices=devices,
        linux__resources=allowed,
    )
    assert done.stdout.splitlines() == ["640 1000 50 1 3 character special file", "666 fifo"], done


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
    with runtime.running("sleep", "60", linux__namespaces=[*NAMESPACES, {"type": "user"}], **own) as identity:
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
        hooks_in_order,
        failing_hook_undoes_the_creation,
        slow_hook_is_stopped,
        failing_poststop_is_a_warning,
        hooks_find_the_root,
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
        exec_affinity,
        bind_options,
        recursive_options,
        mount_propagation,
        tmpfs_with_what_it_covers,
        mapped_ids,
        any_file_system,
        cgroup_mount,
        rootfs_propagation,
        extra_devices,
        namespaced_sysctls,
        user_namespace,
        user_namespace_by_path,
        seccomp_actions,
        seccomp_arguments,
        seccomp_flags,
        seccomp_notify,
    )
}
# what the peers of Debian 13 do not have yet, or do differently
DIFFERS = {
    "runc": {
        *("scheduler", "io_priority", "time_namespace", "time_namespace_by_path", "exec_affinity", "personality"),
        *("seccomp_flags", "mapped_ids"),
        "failing_poststop_is_a_warning",  # it stops at the first one
        "rootfs_propagation",  # it has shared only where the host's mount is
    },
    "crun": {
        "time_namespace_by_path",  # write to sync socket: Broken pipe
        "mount_propagation",  # it has rshared only where the host's mount is
    },
}
