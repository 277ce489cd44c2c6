"""The spawner and its shims, driven by launch messages without an engine (docs/concepts/processes.md)."""

import json
import os
import secrets
import select
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from harness import PATIENCE, busybox_tree, catches, wait_for
from orlop.primitives.channel import Channel
from orlop.primitives.owned_fd import OwnedFd
from orlop.runtime.cgroups import detect
from orlop.spec.launch import AttachTarget, ContainerLaunch, LogTarget, OverlayRoot, to_message
from spawned import (
    Process,
    failure,
    read_all,
    read_until,
)

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "overlay", "busybox")]


@pytest.mark.parametrize(
    ("program", "kind", "text"),
    [
        ("foo", "command_not_found", 'exec: "foo": executable file not found in $PATH'),
        ("/nope", "command_not_found", 'exec: "/nope": stat /nope: no such file or directory'),
        ("/etc/passwd", "command_not_executable", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_program_that_cannot_run_leaves_nothing(spawned, program, kind, text):
    process, _ = spawned.launch(spawned.config(program))
    error = failure(process)
    assert error["message"].endswith(text)
    assert error["kind"] == kind
    assert process.control.receive() is None
    assert not any(spawned.parent in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert not list(Path("/sys/fs/cgroup").glob(f"*{spawned.parent}/{process.id}"))


@pytest.mark.requires("cgroup1")
def test_a_cgroup_with_somebody_elses_process_is_refused_and_left_alone(spawned, tmp_path):
    """Init is there already when the second directory of v1 turns out to be taken."""
    taken = Path(f"{detect().directory('pids')}{spawned.parent}/taken")
    taken.mkdir(parents=True)
    other = subprocess.Popen(["sleep", "100"])
    try:
        (taken / "cgroup.procs").write_text(str(other.pid))
        config = spawned.config("true")
        config["linux"]["cgroupsPath"] = f"{spawned.parent}/taken"
        launch = ContainerLaunch(id="a" * 64, state_dir=str(tmp_path / "state"), config=config)
        answer, fds = spawned.answer({"op": "container", "launch": to_message(launch)})
        assert (answer["event"], fds) == ("failed", [])
        assert answer["error"]["message"] == "container's cgroup is not empty: 1 process(es) found"
        assert other.poll() is None
        assert (taken / "cgroup.procs").read_text().split() == [str(other.pid)]
        directories = {str(path) for path in Path("/sys/fs/cgroup").glob(f"*{spawned.parent}/taken")}
        assert {os.path.realpath(path) for path in directories} == {os.path.realpath(taken)}
        assert os.listdir(tmp_path / "state") == []
    finally:
        other.kill()
        other.wait()


def test_overlay_root_is_written_in_its_upper_layer_only(spawned, tmp_path):
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    overlay = OverlayRoot((str(spawned.root),), str(upper), str(work))
    code, text = spawned.output(spawned.config("sh", "-c", "echo x >/file && cat /file"), overlay=overlay)
    assert (code, text) == (0, "x\n")
    assert (upper / "file").read_text() == "x\n"
    assert not (spawned.root / "file").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_exec_joins_and_reports_its_code(spawned):
    process = spawned.run("sleep", "100")
    made, (client,) = spawned.execute(
        process, "sh", "-c", "echo $$; readlink /proc/1/exe; exit 3", clients=(AttachTarget(multiplexed=False),)
    )
    pid, program = read_all(client).decode().split()
    assert made.wait() == 3
    assert int(pid) > 1
    assert program == "/bin/busybox"
    missing, _ = spawned.execute(process, "nope")
    assert failure(missing)["message"].endswith('exec: "nope": executable file not found in $PATH')


def test_signal_and_status(spawned):
    process = spawned.run("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    wait_for(lambda: catches(process.pid, signal.SIGTERM))
    assert process.ask(op="status")["ok"] is True
    assert process.ask(op="signal", signal=99)["error"]["kind"] == "invalid_parameter"
    assert process.ask(op="signal", signal=int(signal.SIGTERM))["ok"] is True
    assert process.wait() == 9


def test_reaping_init_passes_signals_and_codes(spawned):
    process = spawned.run("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done", init=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: (made := children.read_text().split()) and catches(int(made[0]), signal.SIGTERM))
    assert process.ask(op="signal", signal=int(signal.SIGTERM))["ok"] is True
    assert process.wait() == 5


def test_shim_outlives_its_spawner_and_is_found_again(spawned, tmp_path):
    process, (client,) = spawned.launch(
        spawned.config("sh", "-c", "read x; echo got $x"),
        (AttachTarget(stdin=True, multiplexed=False),),
        open_stdin=True,
        log=LogTarget(str(tmp_path / "log")),
    )
    process.event("started")
    signal.pidfd_send_signal(spawned.spawner.pidfd.fileno(), signal.SIGKILL)
    process.control.close()
    again = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with OwnedFd(os.open(process.state, os.O_PATH)) as directory:  # the path itself may be longer than 108 bytes
        again.connect(f"/proc/self/fd/{directory.fileno()}/attach.sock")
    process.control = Channel(again)
    assert process.ask(op="status")["ok"] is True
    client.sendall(b"word\n")
    assert read_all(client) == b"got word\n"
    assert process.wait() == 0


def test_init_dies_with_its_shim(spawned):
    process = spawned.run("sleep", "100")
    os.kill(process.shim, signal.SIGKILL)
    assert select.select([process.pidfd], [], [], 5 * PATIENCE)[0]


def test_a_launch_that_does_not_fit_into_a_packet(spawned):
    variables = [f"LONG{number}={'x' * 1000}" for number in range(100)]
    code, text = spawned.output(spawned.config("sh", "-c", "echo ${#LONG99}", env=["PATH=/bin", *variables]))
    assert (code, text) == (0, "1000\n")


def test_a_start_that_nobody_hears_of_did_not_happen(spawned):  # R3
    process, _ = spawned.launch(spawned.config("sleep", "1000"), deaf=True)
    record = process.state / "exit"
    wait_for(record.exists, seconds=5)
    assert json.loads(record.read_text())["error"] == "engine is gone"
    pid = int((process.state / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=5)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{spawned.parent}/{process.id}"))
    spawned.processes.remove(process)


def test_shim_holds_nothing_of_the_engine_and_is_small(spawned):
    process = spawned.run("sleep", "100")
    shim = process.shim
    for fd in range(3):
        assert os.readlink(f"/proc/{shim}/fd/{fd}") == "/dev/null"
    wait_for(lambda: Path(f"/proc/{shim}/comm").read_text() == "orlop-shim\n", what="the shim's name")
    assert Path(f"/proc/{shim}/environ").read_bytes() == b""
    rollup = Path(f"/proc/{shim}/smaps_rollup").read_text()
    assert int(rollup.split("Private_Dirty:")[1].split()[0]) < 1536  # more: test_shim_memory.py


def test_masked_and_read_only_paths(spawned):
    config = spawned.config(
        "sh", "-c", "ls /sys/firmware | wc -l; cat /proc/interrupts | wc -c; echo 1 >/proc/sys/vm/swappiness"
    )
    config["linux"]["maskedPaths"] = ["/proc/interrupts", "/sys/firmware", "/proc/not-there"]
    config["linux"]["readonlyPaths"] = ["/proc/sys"]
    _, text = spawned.output(config)
    assert text.splitlines()[:2] == ["0", "0"]
    assert "Read-only file system" in text


def test_proc_must_be_an_ordinary_directory(spawned, tmp_path):  # CVE-2019-19921
    root = busybox_tree(tmp_path / "evil")
    (root / "proc").rmdir()
    (root / "proc").symlink_to("/tmp")
    config = spawned.config("true")
    config["root"]["path"] = str(root)
    process, _ = spawned.launch(config)
    assert "must be mounted on ordinary directory" in failure(process)["message"]


def test_a_link_in_the_image_does_not_lead_a_mount_out(spawned, tmp_path):  # CVE-2021-30465
    root, outside = busybox_tree(tmp_path / "evil"), tmp_path / "outside"
    outside.mkdir()
    (root / "data").symlink_to(outside)
    config = spawned.config("sh", "-c", "echo x >/data/made/file")
    config["root"]["path"] = str(root)
    config["mounts"].append({"destination": "/data/made", "type": "tmpfs", "source": "tmpfs", "options": []})
    process, _ = spawned.launch(config)
    process.event("exit")
    assert list(outside.iterdir()) == []


def test_namespace_operations_answer_with_descriptors(spawned):
    message, fds = spawned.answer({"op": "netns", "sockets": ["route"]})
    assert message == {"ok": True}
    assert len(fds) == 2
    process = spawned.run("sleep", "100")
    _, others = spawned.answer({"op": "netns-of", "sockets": ["route"]}, (process.pidfd,))
    mine = os.stat(f"/proc/{process.pid}/ns/net").st_ino
    assert os.fstat(others[0].fileno()).st_ino == mine != os.fstat(fds[0].fileno()).st_ino
    for fd in (*fds, *others):
        fd.close()
    assert spawned.answer({"op": "what"})[0]["error"]["message"] == "unknown operation: what"


def test_root_without_writing_names_and_kernel_parameters(spawned):
    config = spawned.config(
        "sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_forward; touch /x; echo y >/tmp/y; ls /tmp"
    )
    config["root"]["readonly"] = True
    config["hostname"] = "named"
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]})
    _, text = spawned.output(config)
    # two streams: their order between each other is not defined
    assert sorted(text.splitlines()) == ["1", "named", "touch: /x: Read-only file system", "y"]


def test_user_of_the_image_is_found_and_owns_its_streams(spawned):
    config = spawned.config(
        "sh", "-c", "id; echo $HOME; echo again >/dev/stderr", user={"uid": 0, "gid": 0, "username": "alice"}
    )
    _, text = spawned.output(config)
    assert text.splitlines() == ["uid=1000(alice) gid=1000(alice) groups=50(staff),1000(alice)", "/home/alice", "again"]


def test_out_of_memory_is_told(spawned):
    config = spawned.config("sh", "-c", "head -c 64m /dev/zero | tail >/dev/null; sleep 0.2; exit 4")
    config["linux"]["resources"] = {"memory": {"limit": 8 << 20, "swap": 8 << 20}}
    process, _ = spawned.launch(config)
    process.event("oom")
    assert process.event("exit")["oom_killed"] is True


def test_user_namespace_maps_root(spawned):
    config = spawned.config("sh", "-c", "id -u; cat /proc/self/uid_map; ls /dev/null; exec sleep 100")
    config["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    process, (client,) = spawned.launch(config, (AttachTarget(multiplexed=False),))
    text = read_until(client, b"/dev/null\n").decode()
    assert text.split() == ["0", "0", "100000", "65536", "/dev/null"]
    process.event("started")
    assert os.stat(f"/proc/{process.pid}").st_uid == 100000
    inside = (AttachTarget(multiplexed=False),)
    made, (client,) = spawned.execute(process, "sh", "-c", "id -u; cat /proc/self/uid_map", clients=inside)
    assert read_all(client).split() == [b"0", b"0", b"100000", b"65536"]
    assert made.wait() == 0


def test_given_network_namespace_is_joined(spawned):
    _, fds = spawned.answer({"op": "netns", "sockets": ["route"]})
    inode = os.fstat(fds[0].fileno()).st_ino
    name = secrets.token_hex(32)
    config = spawned.config("readlink", "/proc/self/ns/net")
    config["linux"]["cgroupsPath"] = f"{spawned.parent}/{name}"
    ours, theirs = socket.socketpair()
    value = ContainerLaunch(
        id=name,
        state_dir=str(spawned.home / name),
        config=config,
        has_netns=True,
        attach=(AttachTarget(multiplexed=False),),
    )
    control = spawned.request({"op": "container", "launch": to_message(value)}, (fds[0].fileno(), theirs.fileno()))
    theirs.close()
    process = Process(name, control, spawned.home / name, config, clients=[ours])
    spawned.processes.append(process)
    assert read_all(ours).decode() == f"net:[{inode}]\n"
    assert process.wait() == 0
    for fd in fds:
        fd.close()
