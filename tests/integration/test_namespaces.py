"""Namespaces that containers share with each other and with the host, and user namespaces of their own."""

import os
import secrets
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from conftest import assert_nothing_left, settled_state
from harness import BIN, PATIENCE, Engine, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def sleeper(engine, name, *options):
    engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "100")
    return engine.inspect(name)


def refusal(engine, *arguments):
    done = engine.docker(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_ipc_and_shared_memory_of_another_container(leak_free):
    donor = sleeper(leak_free, "donor", "--ipc", "shareable", "--shm-size", "3m")
    leak_free.docker("exec", "donor", "sh", "-c", "echo hello > /dev/shm/letter")
    script = "cat /dev/shm/letter; readlink /proc/self/ns/ipc; df -k /dev/shm | tail -1; echo answer > /dev/shm/reply"
    options = ("--rm", "--ipc", "container:donor", "--user", "1000")
    told = leak_free.docker("run", *options, "busybox", "sh", "-c", script).stdout.split()
    inside = leak_free.docker("exec", "donor", "sh", "-c", "readlink /proc/self/ns/ipc; cat /dev/shm/reply").stdout
    assert [told[0], told[1]] == ["hello", inside.split()[0]]
    assert told[3] == "3072"
    assert inside.split()[1] == "answer"
    # who joined can be joined, and the memory outlives who made it
    sleeper(leak_free, "second", "--ipc", "container:donor")
    leak_free.docker("rm", "-f", donor["Id"])
    third = leak_free.docker("run", "--rm", "--ipc", "container:second", "busybox", "cat", "/dev/shm/reply")
    assert third.stdout == "answer\n"


def test_joined_ipc_is_the_other_containers_even_after_an_engine_restart(own_engine):
    sleeper(own_engine, "donor", "--ipc", "shareable")
    sleeper(own_engine, "guest", "--ipc", "container:donor")
    own_engine.stop()
    own_engine.start()
    own_engine.docker("exec", "donor", "sh", "-c", "echo kept > /dev/shm/letter")
    assert own_engine.docker("exec", "guest", "cat", "/dev/shm/letter").stdout == "kept\n"


def test_ipc_that_cannot_be_joined(leak_free):
    private = sleeper(leak_free, "private")["Id"]
    sleeper(leak_free, "none", "--ipc", "none")
    sleeper(leak_free, "covered", "--ipc", "shareable", "-v", "/dev/shm")
    ended = sleeper(leak_free, "ended", "--ipc", "shareable")["Id"]
    leak_free.docker("kill", "ended")
    leak_free.docker("wait", "ended")

    def joining(name):
        return refusal(leak_free, "run", "--rm", "--ipc", f"container:{name}", "busybox", "true")

    hint = "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
    assert f"failed to join IPC namespace: container {private}: {hint}" in joining("private")
    assert hint in joining("none")
    assert f"failed to join IPC namespace: container {ended} is not running" in joining("ended")
    assert "cannot share /dev/shm of the other container: not a tmpfs" in joining("covered")
    assert "No such container: nobody" in joining("nobody")


def test_other_modes_of_ipc(leak_free):
    def run(mode, script):
        return leak_free.docker("run", "--rm", "--ipc", mode, "busybox", "sh", "-c", script).stdout

    assert run("none", "test -e /dev/shm || echo none") == "none\n"
    assert run("private", "grep -c ' /dev/shm ' /proc/mounts") == "1\n"
    ours = leak_free.in_network("readlink", "/proc/self/ns/ipc").stdout
    assert run("host", "readlink /proc/self/ns/ipc") == ours
    assert run("shareable", "readlink /proc/self/ns/ipc") != ours


WITH_IDS = 'for f in subuid subgid; do mount --bind "$0" /etc/$f || exit; done; exec "$@"'


@pytest.fixture(scope="module")
def remapping_engine(tmp_path_factory):
    """An engine with userns-remap; /etc/subuid and /etc/subgid are others in its mount namespace."""
    ranges = tmp_path_factory.mktemp("ids") / "ranges"
    ranges.write_text("somebody:7:3\n54321:100000:1000\n54321:300000:64536\n")
    name = f"orlop-t-{secrets.token_hex(4)}"
    engine = Engine(Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp")), name, ("--userns-remap", "54321"))
    engine.within = ("unshare", "-m", "sh", "-c", WITH_IDS, str(ranges))
    try:
        engine.start()
        engine.import_busybox()
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def remapped(remapping_engine):
    """The same, compared with the machine's state before."""
    before = settled_state(remapping_engine)
    yield remapping_engine
    remapping_engine.remove_containers()
    assert_nothing_left(remapping_engine, before, seconds=10)


def ids_outside(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if line.startswith(("Uid:", "Gid:"))}


def test_copies_have_the_ids_of_the_container(remapped, tmp_path):
    """In both directions, running or not: a tar's owners are what the container sees."""
    file = tmp_path / "f"
    file.write_text("x")
    os.chown(file, 77, 78)
    remapped.docker("run", "-d", "--name", "mapped", "-v", "/vol", "busybox", "sleep", "100")
    for _ in range(2):
        for path in ("/tmp/f", "/vol/f"):
            remapped.docker("cp", file, f"mapped:{path}")
            listing = subprocess.run(
                ["tar", "--numeric-owner", "-tvf", "-"],
                input=remapped.docker("cp", f"mapped:{path}", "-", text=False).stdout,
                capture_output=True,
                check=True,
            ).stdout
            assert listing.split()[1] == b"77/78"
        remapped.docker("kill", "mapped", check=False)
    remapped.docker("start", "mapped")
    assert remapped.docker("exec", "mapped", "stat", "-c", "%u", "/tmp/f", "/vol/f").stdout == "77\n77\n"


def test_root_inside_is_somebody_else_outside(remapped):
    made = sleeper(remapped, "mapped")
    assert ids_outside(made["State"]["Pid"]) == {"Uid:": "100000", "Gid:": "100000"}
    script = "id -u; id -g; cat /proc/self/uid_map; stat -c %u:%g / /bin/sh /etc/hosts /etc/resolv.conf /dev/shm /root"
    told = remapped.docker("exec", "mapped", "sh", "-c", script).stdout.split()
    assert told == ["0", "0", "0", "100000", "1000", "1000", "300000", "64536", *["0:0"] * 6]
    assert remapped.docker("exec", "-u", "alice", "mapped", "id", "-un").stdout == "alice\n"
    remapped.docker("exec", "-d", "-u", "1000", "mapped", "sleep", "77")
    rows = remapped.docker("top", "mapped").stdout.splitlines()[1:]
    assert {row.split("sleep ")[1]: row.split()[0] for row in rows} == {"100": "100000", "77": "300000"}
    assert "name=userns" in remapped.docker("info", "-f", "{{.SecurityOptions}}").stdout


def test_files_keep_their_ids_on_disk(remapped):
    script = "echo more >> /etc/passwd; touch /file; chown 1000:50 /file; rm -f /etc/group; mkdir -p /v; rm -rf /tmp"
    remapped.docker("run", "--name", "writer", "busybox", "sh", "-c", script)
    upper = next(path.parent for path in remapped.data_root.rglob("file") if path.parent.name != "lower")
    found = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in (upper / "file", upper / "etc/passwd")}
    assert found == {"file": (1000, 50), "passwd": (0, 0)}
    # a second look, by another user namespace
    remapped.docker("start", "-a", "writer")
    remapped.docker("run", "-d", "--name", "exported", "busybox", "sh", "-c", "chown 1000:50 /root; sleep 100")
    wait_for(lambda: "1000" in remapped.docker("exec", "exported", "stat", "-c", "%u", "/root").stdout, what="chown")
    archive = remapped.home / "export.tar"
    remapped.docker("export", "-o", str(archive), "exported")
    with tarfile.open(archive) as tar:
        owners = {member.name.strip("./"): (member.uid, member.gid) for member in tar}
    assert (owners["root"], owners["etc/passwd"]) == ((1000, 50), (0, 0))


def test_volumes_are_shared_and_binds_are_raw(remapped, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("of the host's root")
    (tmp_path / "secret").chmod(0o600)
    volume = ("-v", "shared:/data")
    remapped.docker("run", "--rm", *volume, "busybox", "sh", "-c", "echo one > /data/file; chmod 600 /data/file")
    assert remapped.docker("run", "--rm", *volume, "busybox", "cat", "/data/file").stdout == "one\n"
    opted_out = ("--userns", "host", *volume)
    assert remapped.docker("run", "--rm", *opted_out, "busybox", "stat", "-c", "%u", "/data/file").stdout == "0\n"
    bind = ("-v", f"{tmp_path}:/host")
    told = remapped.docker("run", "--rm", *bind, "busybox", "stat", "-c", "%u", "/host/secret").stdout
    assert told == "65534\n"
    assert "denied" in refusal(remapped, "run", "--rm", *bind, "busybox", "cat", "/host/secret")
    remapped.docker("volume", "rm", "shared")


def test_files_belong_to_the_user_inside(remapped, tmp_path):
    """``:U``: of volumes, whose ids are those inside, and of binds, whose ids are the host's."""
    remapped.docker("run", "--rm", "-v", "own:/v", "busybox", "sh", "-c", "touch /v/a /v/b; chown 1000 /v/b")
    script = "touch /v/new; stat -c %u:%g /v /v/a /v/b /v/new"
    told = remapped.docker("run", "--rm", "-u", "alice", "-v", "own:/v:U", "busybox", "sh", "-c", script).stdout
    assert told.split() == ["1000:1000", "1000:1000", "0:1000", "1000:1000"]
    data = remapped.data_root / "volumes/own/_data"
    assert {path.name: path.stat().st_uid for path in data.iterdir()} == {"a": 0, "b": 1000, "new": 0}
    os.chown(tmp_path, 33, 44)
    script = "touch /b/f; stat -c %u:%g /b /b/f"
    told = remapped.docker("run", "--rm", "-u", "5:6", "-v", f"{tmp_path}:/b:U", "busybox", "sh", "-c", script).stdout
    assert told == "5:6\n5:6\n"
    assert ((tmp_path / "f").stat().st_uid, (tmp_path / "f").stat().st_gid) == (33, 44)
    remapped.docker("volume", "rm", "own")


def test_what_root_inside_may_not(remapped):
    script = (
        "echo x > /proc/sys/kernel/domainname || echo ro; echo x > /sys/kernel/mm/ksm/run || echo ro;"
        "mount -t tmpfs none /mnt || echo no; ls -d /sys/class/net/eth0; cat /dev/null; echo out > /dev/stdout"
    )
    told = remapped.docker("run", "--rm", "busybox", "sh", "-c", script).stdout.split()
    assert told == ["ro", "ro", "no", "/sys/class/net/eth0", "out"]
    told = remapped.docker("run", "--rm", "--network", "none", "-t", "busybox", "sh", "-c", "tty; ls /sys/class/net")
    assert told.stdout.split() == ["/dev/pts/0", "lo"]


def test_limits_are_readable_inside(remapped):
    file = "$(ls -d /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null)"
    for options in ((), ("-u", "1000"), ("-u", "1000", "--userns", "host")):
        told = remapped.docker("run", "--rm", "--pids-limit", "55", *options, "busybox", "sh", "-c", f"cat {file}")
        assert told.stdout == "55\n"


def test_remapped_containers_share_namespaces(remapped):
    sleeper(remapped, "donor", "--ipc", "shareable")
    remapped.docker("exec", "donor", "sh", "-c", "echo hello > /dev/shm/letter")
    modes = ("--ipc", "container:donor", "--network", "container:donor", "--pid", "container:donor")
    script = "cat /dev/shm/letter; ls /dev/mqueue; cat /proc/1/comm; ls /sys/class/net"
    told = remapped.docker("run", "--rm", *modes, "busybox", "sh", "-c", script).stdout.split()
    assert (told[:2], "eth0" in told) == (["hello", "sleep"], True)


def test_userns_host_opts_out_and_docker_refusals(remapped):
    made = sleeper(remapped, "unmapped", "--userns", "host", "--privileged")
    assert ids_outside(made["State"]["Pid"])["Uid:"] == "0"
    for option, text in (
        (("--privileged",), "privileged mode is incompatible with user namespaces.  You must run the container in"),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--cap-add", "NET_ADMIN"), "NET_ADMIN is not supported with user namespaces"),
        (("--device", "/dev/null:/dev/other"), "a device with another name is not supported with user namespaces"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    ):
        assert text in refusal(remapped, "create", *option, "busybox")


def test_remapped_container_outlives_the_engine(remapped):
    sleeper(remapped, "survivor")
    remapped.stop()
    remapped.start()
    assert remapped.docker("exec", "survivor", "sh", "-c", "echo $(id -u) > /dev/stdout").stdout == "0\n"
    assert remapped.docker("exec", "-t", "survivor", "tty").stdout.strip() == "/dev/pts/0"


def test_remapping_is_switched_on_for_what_was_there(remapped):
    mapping, remapped.options = remapped.options, ()
    remapped.stop()
    remapped.start()
    sleeper(remapped, "before")
    remapped.docker("create", "--name", "privileged", "--privileged", "busybox", "id", "-u")
    remapped.docker("run", "--name", "plain", "busybox", "sh", "-c", "touch /mine; cat /proc/self/uid_map")
    remapped.options = mapping
    remapped.stop()
    remapped.start()
    script = "cat /proc/self/uid_map | wc -l; id -u"
    assert remapped.docker("exec", "before", "sh", "-c", script).stdout.split() == ["1", "0"]
    assert ids_outside(remapped.inspect("before")["State"]["Pid"])["Uid:"] == "0"
    assert "privileged mode is incompatible with user namespaces" in refusal(remapped, "start", "privileged")
    assert remapped.docker("start", "-a", "plain").stdout.split()[:3] == ["0", "100000", "1000"]


def test_remapping_needs_ids(tmp_path):
    for user in ("54321", "default", "nobody-has-this-name"):
        command = [BIN / "orlopd", "--data-root", tmp_path / "d", "--exec-root", tmp_path / "r", "--userns-remap", user]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20 * PATIENCE)
        assert done.returncode != 0
        assert "subuid ranges found" in done.stderr or "user lookup" in done.stderr
