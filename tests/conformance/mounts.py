"""Checks of mounts, the root's propagation and device nodes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime import CONFIG, Runtime


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


def procfs_bound(runtime: Runtime) -> None:
    """What rootless Podman does for ``--pid=host``."""
    others = [mount for mount in CONFIG["mounts"] if mount["destination"] != "/proc"]
    namespaces = [space for space in CONFIG["linux"]["namespaces"] if space["type"] != "pid"]
    mount = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "rprivate", "nosuid"]}
    done = runtime.run("readlink /proc/self/ns/pid", mounts=[mount, *others], linux__namespaces=namespaces)
    assert done.returncode == 0, done
    assert done.stdout == os.readlink("/proc/self/ns/pid") + "\n" or runtime.command[1:2] == ["exec"], done.stdout


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
    mount["options"] = ["tmpcopyup", "mode=1770", "uid=7"]
    script = "stat -c '%a %u' /covered /covered/deep"
    assert mounted_with(runtime, script, mount).splitlines() == ["1770 7", "755 0"]


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


def bind_of_any_type(runtime: Runtime) -> None:
    """A bind mount is one by its option; what its type says is of no account (runtime-spec, "Mounts")."""
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    _, seen = exchange(runtime, "typed")
    for kind in ("none", "tmpfs", "proc", "ext4"):
        mount = {"destination": "/m", "type": kind, "source": seen, "options": ["rbind", "ro"]}
        assert mounted_with(runtime, "cat /m/f; touch /m/new 2>&1 | grep -o Read-only", mount) == "text\nRead-only\n"


def recursive_options_of_a_file_system(runtime: Runtime) -> None:
    """A new file system is a tree of one mount."""
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    script = "grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6"
    for kind in ("tmpfs", "mqueue"):
        mount = {"destination": "/m", "type": kind, "source": kind, "options": ["rro", "rnosuid", "rnodev", "rnoexec"]}
        assert mounted_with(runtime, script, mount) == "ro,nosuid,nodev,noexec,relatime\n"


def overlay_options(runtime: Runtime) -> None:
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    lowers = [exchange(runtime, "lower")[1] for _ in range(2)]
    for layers in ([f"lowerdir={':'.join(lowers)}"], [f"lowerdir+={lower}" for lower in lowers]):
        options = [*layers, "nosuid", "nodev", "noexec"]
        mount = {"destination": "/m", "type": "overlay", "source": "overlay", "options": options}
        shown = mounted_with(runtime, "cat /m/f; grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6", mount)
        assert shown == "text\nrw,nosuid,nodev,noexec,relatime\n"


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


def bind_over_a_device(runtime: Runtime) -> None:
    """What is bound where a default device would be is what was asked for there: ``-v /dev/urandom:/dev/random``."""
    _, seen = exchange(runtime, "device")
    mounts = (
        {"destination": "/dev/random", "type": "bind", "source": "/dev/urandom", "options": ["bind"]},
        {"destination": "/dev/tty", "type": "bind", "source": f"{seen}/f", "options": ["bind", "ro"]},
    )
    script = "stat -c '%t %T' /dev/random; cat /dev/tty; stat -c '%t %T' /dev/zero"
    assert mounted_with(runtime, script, *mounts) == "1 9\ntext\n1 5\n"


def bound_devices_stay_as_they_are(runtime: Runtime) -> None:
    """A directory of the host's with a device that linux.devices has too: its owner is the host's business."""
    directory, seen = exchange(runtime, "devices")
    subprocess.run(["mknod", directory / "node", "c", "1", "3"], check=True)
    os.chown(directory / "node", 1000, 1000)
    mount = {"destination": "/dev/sub", "type": "bind", "source": seen, "options": ["bind"]}
    device = {"type": "c", "path": "/dev/sub/node", "major": 1, "minor": 3, "uid": 5, "gid": 6}
    allowed = {"devices": [{"allow": True, "access": "rwm"}]}
    mounted_with(runtime, "test -c /dev/sub/node", mount, linux__devices=[device], linux__resources=allowed)
    assert (directory / "node").stat().st_uid == 1000


def described_default_device(runtime: Runtime) -> None:
    """What linux.devices says of a default device holds: who asks for all devices of a host says it of each."""
    device = {"type": "c", "path": "/dev/zero", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8}
    done = runtime.run("stat -c '%a %u %g' /dev/zero", linux__devices=[device])
    assert done.stdout == "640 7 8\n", done


def options_in_one_word(runtime: Runtime) -> None:
    """As in fstab(5), where a comma separates them."""
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    mount = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m,mode=700", "", "nosuid"]}
    shown = mounted_with(runtime, "grep ' /m ' /proc/mounts | cut -d' ' -f4", mount)
    assert shown == "rw,nosuid,relatime,size=1024k,mode=700\n"


def readonly_dev(runtime: Runtime) -> None:
    """What Podman asks for with ``--read-only-tmpfs=false``: all that belongs there is there before it is read-only."""
    proc, dev, *others = CONFIG["mounts"]
    mounts = [proc, {**dev, "options": [*dev["options"], "ro"]}, *others]
    script = "echo x > /dev/null && test -e /dev/pts/ptmx && touch /dev/new 2>&1 | grep -o Read-only"
    done = runtime.run(script, mounts=mounts)
    assert done.stdout == "Read-only\n", done


def mounts_below_a_readonly_one(runtime: Runtime) -> None:
    _, seen = exchange(runtime, "below")
    top = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}
    below = {"destination": "/tmp/a/b", "type": "bind", "source": seen, "options": ["bind"]}
    script = "cat /tmp/a/b/f; touch /tmp/new 2>&1 | grep -o Read-only"
    assert mounted_with(runtime, script, top, below) == "text\nRead-only\n"


def readonly_root_path(runtime: Runtime) -> None:
    """A mount on the root changes nothing of what paths lead to: it is the root that has to be read-only."""
    (runtime.home / "rootfs/top").symlink_to("/")
    root = {"path": f"{runtime.seen}/rootfs"}
    for path in ("/", "/top"):
        done = runtime.run("touch /new 2>&1 | grep -o Read-only", root=root, linux__readonlyPaths=[path])
        assert done.stdout == "Read-only\n", (path, done)


MOUNT_CHECKS = (
    bind_options,
    recursive_options,
    mount_propagation,
    procfs_bound,
    tmpfs_with_what_it_covers,
    mapped_ids,
    any_file_system,
    cgroup_mount,
    rootfs_propagation,
    bind_of_any_type,
    recursive_options_of_a_file_system,
    overlay_options,
    extra_devices,
    bind_over_a_device,
    bound_devices_stay_as_they_are,
    described_default_device,
    options_in_one_word,
    readonly_dev,
    mounts_below_a_readonly_one,
    readonly_root_path,
)
