"""Properties of config.json where the peers' suite does not reach: network devices, mapped mounts, listeners, schedulers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from configuration import NAMESPACES
from filters import answer
from hooks import shell
from mounts import mounted_with, tree_of_mounts

from harness import PATIENCE, wait_for

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "mountns", "busybox", "cgroup1")]


@pytest.fixture
def network():
    """A network namespace in which the runtime is called: its pid, held by a sleeping process."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    try:
        wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    finally:
        holder.kill()
        holder.wait()


def inside(network: list[str], *command: str) -> str:
    return subprocess.run([*network, *command], check=True, capture_output=True, text=True).stdout


def device_in(network: list[str], name: str) -> None:
    inside(network, "ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
    inside(network, "ip", "addr", "add", "192.0.2.7/24", "dev", name)
    inside(network, "ip", "addr", "add", "2001:db8::7/64", "dev", name, "nodad")
    inside(network, "ip", "link", "set", name, "up")


def called_in(network: list[str], runtime):
    from dataclasses import replace

    return replace(runtime, command=[*network, *runtime.command])


def test_network_devices_move(runtime, network):
    device_in(network, "host7")
    device_in(network, "other7")
    done = called_in(network, runtime).run(
        "ip -o addr show dev inner | grep -v fe80; ip link show dev eth0 | grep -o '[<,]UP'; ip link",
        linux__netDevices={"host7": {"name": "inner"}, "other7": {"name": "eth%d"}},
    )
    assert done.returncode == 0, done
    assert "192.0.2.7/24" in done.stdout
    assert "2001:db8::7/64" in done.stdout
    assert ",UP" in done.stdout
    assert "host7:" not in inside(network, "ip", "-br", "link").replace("@", ":")


def test_network_devices_come_back_when_the_container_does_not_run(runtime, network):
    device_in(network, "host8")
    calling = called_in(network, runtime)
    for changes in (
        {"hooks": {"createRuntime": [shell("exit 1")]}},
        {"linux__netDevices": {"host8": {"name": "inner"}, "missing8": {}}},
        {"linux__netDevices": {"host8": {"name": "lo"}}},
        {"process__args": ["/no/such/program"]},
    ):
        identity, bundle = calling.bundle(**{"linux__netDevices": {"host8": {"name": "inner"}}, **changes})
        calling.refuses("create", "--bundle", bundle, identity)
        shown = inside(network, "ip", "addr", "show", "dev", "host8")
        assert "192.0.2.7/24" in shown, changes
        assert ",UP" in shown


def test_network_devices_need_a_network_namespace(runtime):
    others = [entry for entry in NAMESPACES if entry["type"] != "network"]
    identity, bundle = runtime.bundle(linux__netDevices={"lo": {}}, linux__namespaces=others)
    runtime.refuses("create", "--bundle", bundle, identity, words="without a private NET namespace")


def test_mapped_ids_of_a_whole_tree(runtime):
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    mapping = [{"containerID": 0, "hostID": 5000, "size": 2000}]
    with tree_of_mounts(runtime) as seen:
        (Path(seen) / "inner/f").write_text("")
        for option, expected in (("ridmap", ["5000"]), ("idmap", ["0"])):
            mount = {
                "destination": "/m",
                "type": "bind",
                "source": seen,
                "options": ["rbind", option],
                "uidMappings": mapping,
                "gidMappings": mapping,
            }
            assert mounted_with(runtime, "stat -c %u /m/inner/f", mount).split() == expected


def test_an_exec_hands_its_listener_over(runtime):
    path = runtime.home / "agent.sock"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "syscalls": [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10 * PATIENCE)
        with runtime.running("sleep", "60", linux__seccomp=profile) as identity:
            listener.accept()[0].close()
            init = runtime.state(identity)["pid"]
            command = [*runtime.command, "--root", f"{runtime.seen}/state", "exec", identity, "mkfifo", "/tmp/x"]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            try:
                connection, _ = listener.accept()
                with connection:
                    data, ancillary, *_ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
                (fd,) = array("i", ancillary[0][2])
                document = json.loads(data)
                assert document["state"]["pid"] == init
                assert document["state"]["status"] == "running"
                assert document["pid"] != init
                assert "metadata" not in document
                assert answer(fd, errno_name=28)
                os.close(fd)
                assert "No space left" in process.communicate(timeout=10 * PATIENCE)[1]
            finally:
                process.kill()
                process.wait()


def test_mappings_of_a_mount_within_a_user_namespace(runtime):
    directory = runtime.home / "owned"
    directory.mkdir()
    (directory / "f").write_text("")
    os.chown(directory / "f", 7, 8)
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    mount = {"destination": "/m", "type": "bind", "source": str(directory), "options": ["rbind", "ridmap"]}
    changes = {
        "linux__namespaces": [*NAMESPACES, {"type": "user"}],
        "linux__uidMappings": mapping,
        "linux__gidMappings": mapping,
    }
    assert mounted_with(runtime, "stat -c '%u %g' /m/f", mount, **changes).split() == ["7", "8"]
    own = [{"containerID": 0, "hostID": 100100, "size": 100}]
    mount |= {"uidMappings": own, "gidMappings": own}
    assert mounted_with(runtime, "stat -c '%u %g' /m/f", mount, **changes).split() == ["107", "108"]


def test_a_joined_user_namespace_has_its_own_mappings(runtime):
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    others = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    own = {"linux__uidMappings": mapping, "linux__gidMappings": mapping}
    with runtime.running("sleep", "60", linux__namespaces=[*NAMESPACES, {"type": "user"}], **own) as identity:
        joined = [*NAMESPACES, {"type": "user", "path": f"/proc/{runtime.state(identity)['pid']}/ns/user"}]
        assert runtime.run("true", linux__namespaces=joined, **own).returncode == 0
        identity, bundle = runtime.bundle(
            "true", linux__namespaces=joined, linux__uidMappings=others, linux__gidMappings=others
        )
        runtime.refuses("create", "-b", bundle, identity, words="are not those of the user namespace")
    identity, bundle = runtime.bundle(
        "true", linux__namespaces=[*NAMESPACES, {"type": "user", "path": "/proc/self/ns/net"}]
    )
    runtime.refuses("create", "-b", bundle, identity, words="unable to join the user namespace: invalid argument")
    runtime.refuses("state", identity)


def test_ids_that_are_not_mapped_are_named(runtime):
    for path in (runtime.home.parent, runtime.home, runtime.home / "rootfs"):
        path.chmod(0o755)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 10}]
    own = {"linux__uidMappings": mapping, "linux__gidMappings": mapping}
    for user in ({"uid": 70, "gid": 0}, {"uid": 0, "gid": 70}, {"uid": 0, "gid": 0, "additionalGids": [70]}):
        identity, bundle = runtime.bundle(
            "true", linux__namespaces=[*NAMESPACES, {"type": "user"}], process__user=user, **own
        )
        runtime.refuses("create", "-b", bundle, identity, words="to unmapped user in user namespace: 70")
        runtime.refuses("state", identity)


def test_annotations_of_the_engine_mean_nothing_in_a_bundle(runtime):
    """threats.md E2: whoever may annotate a container would be in another one's memory, and in its groups."""
    with runtime.running("sleep", "60") as other:
        donor = runtime.state(other)
        notes = {"orlop.group-add": "staff", "orlop.shm-of": f"{donor['pid']}", "com.example": "1"}
        done = runtime.run(
            "id -G; readlink /proc/self/ns/ipc",
            annotations=notes,
            process__user={"uid": 1000, "gid": 1000},
            process__capabilities={},
        )
        groups, ipc = done.stdout.split()
        assert groups == "1000"
        assert ipc != os.readlink(f"/proc/{donor['pid']}/ns/ipc")


def test_remount(runtime):
    (runtime.home / "rootfs/m").mkdir(exist_ok=True)
    first = {"destination": "/m", "type": "tmpfs", "source": "tmpfs"}
    again = {"destination": "/m", "type": "none", "source": "none", "options": ["remount", "bind", "ro", "noexec"]}
    shown = mounted_with(runtime, "grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6", first, again)
    assert shown.split() == ["ro,noexec,relatime"]


def test_the_callers_nice_value_is_not_that_of_a_scheduler(runtime):
    """The specification: "If not set, the runtime must use the value 0"."""
    scheduler = {"policy": "SCHED_IDLE"}
    identity, bundle = runtime.bundle("cut", "-d ", "-f19", "/proc/self/stat", process__scheduler=scheduler)
    command = ["nice", "-n", "5", *runtime.line("run", "--bundle", bundle, identity)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr


def test_clamps_of_utilisation_are_the_kernels_business(runtime):
    flags = ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"]
    identity, bundle = runtime.bundle("echo", "ran", process__scheduler={"policy": "SCHED_OTHER", "flags": flags})
    done = runtime("run", "--bundle", bundle, identity)
    assert done.stdout == "ran\n" or "error setting scheduler SCHED_OTHER: sched_setattr(" in done.stderr, done
    assert done.stdout or "(ENOTSUP)" in done.stderr, "the kernel takes no such structure"


def test_memory_policy(runtime):
    identity, bundle = runtime.bundle(
        "grep", "bind:0", "/proc/self/numa_maps", linux__memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}
    )
    done = runtime("run", "--bundle", bundle, identity)
    if "ENOSYS" in done.stderr or not Path("/proc/self/numa_maps").exists():
        assert "error setting memory policy MPOL_BIND" in done.stderr or done.returncode
        pytest.skip("this kernel has no NUMA")
    assert "bind:0" in done.stdout, done
