"""``orlop system check``: what no record knows is found while the engine runs, and given back when asked."""

import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness import wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def test_lost_space_is_found_and_given_back(own_engine):
    engine = own_engine
    engine.docker("run", "-d", "--name", "box", "-v", "data:/data", "busybox", "sleep", "1000")
    assert engine.orlop("system", "check").stdout == ""
    root = engine.data_root
    layers = root / "layers/overlay2"
    old = time.time() - 7200
    # what crashes, or a hand, could leave behind an engine's back
    (layers / ".removed-77-x/diff").mkdir(parents=True)
    (layers / ".removed-77-x/diff/f").write_text("x" * 1000)
    (root / "volumes/.removed-abc/_data").mkdir(parents=True)
    (root / "volumes/somebodys/_data").mkdir(parents=True)
    (root / f"containers/{'a' * 64}").mkdir()
    blob = b"nobody's"
    path = root / "blobs/sha256" / hashlib.sha256(blob).hexdigest()
    path.write_bytes(blob)
    fresh = root / "blobs/sha256" / hashlib.sha256(b"fresh").hexdigest()
    fresh.write_bytes(b"fresh")  # a pull may be about to use it
    os.utime(path, (old, old))
    form = ("--format", "{{.Kind}}|{{.Size}}|{{.State}}")
    found = engine.orlop("system", "check", *form, check=False)
    assert found.returncode == 1
    expected = ["lost blob|8B", "lost directory|0B", "lost volume|0B", "removed layer|0B", "removed layer|1kB"]
    assert sorted(line.rpartition("|")[0] for line in found.stdout.splitlines()) == expected
    repaired = engine.orlop("system", "check", "--repair", *form, check=False)
    assert sorted(line.rpartition("|")[2] for line in repaired.stdout.splitlines()) == [
        "kept: it may be somebody's data",
        *["repaired"] * 4,
    ]
    wait_for(lambda: not (layers / ".removed-77-x").exists() and not (root / "volumes/.removed-abc").exists())
    assert not path.exists()
    assert fresh.exists()
    assert (root / "volumes/somebodys").exists()
    left = engine.orlop("system", "check", *form, check=False).stdout
    assert left == "lost volume|0B|kept: it may be somebody's data\n"
    assert engine.docker("exec", "box", "echo", "well").stdout == "well\n"


def test_a_removed_containers_files_go_with_the_next_engine(own_engine):
    engine = own_engine
    engine.docker("run", "--name", "box", "busybox", "echo", "logged")
    name = engine.inspect("box")["Id"]
    engine.docker("rm", "box")
    homes = engine.data_root / "containers"
    wait_for(lambda: not list(homes.iterdir()))  # it was answered before
    engine.kill()
    (homes / f".removed-{name}").mkdir()
    (homes / f".removed-{name}/{name}-json.log").write_text("x" * 1000)
    engine.start()
    wait_for(lambda: not list(homes.iterdir()))
    assert engine.orlop("system", "check").stdout == ""


def test_killed_while_images_are_removed(own_engine):
    """``kill -9`` during rmi: the image is there or not, and no byte of it is left that a start or a check misses."""
    engine = own_engine
    for number in range(3):
        engine.docker(
            "run",
            "--name",
            f"c{number}",
            "busybox",
            "sh",
            "-c",
            f"dd if=/dev/zero of=/f bs=1M count=10; echo {number} >/n",
        )
        engine.docker("commit", f"c{number}", f"made{number}")
    engine.remove_containers()
    for number, delay in enumerate((0.0, 0.004, 0.012)):
        before = engine.docker("images", "-q", f"made{number}").stdout
        assert before
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(engine.socket))
            client.sendall(f"DELETE /v1.45/images/made{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(delay)
            engine.kill()
        engine.start()
        if engine.docker("images", "-q", f"made{number}").stdout:
            assert engine.docker("run", "--rm", f"made{number}", "cat", "/n").stdout == f"{number}\n"
            engine.docker("rmi", f"made{number}")
        assert engine.orlop("system", "check").stdout == ""
    layers = engine.data_root / "layers/overlay2"
    wait_for(lambda: len(list(layers.iterdir())) == 2)  # busybox and its init layer


def test_what_is_left_on_the_machine(own_engine):
    """Links, rules, cgroups and mounts that nobody owns; those of a running container are left alone."""
    engine = own_engine
    engine.docker("run", "-d", "--name", "box", "-p", "8099:80", "busybox", "sleep", "1000")
    engine.docker("network", "create", "mine")
    top = next(path for path in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup") if os.path.isdir(path))
    cgroup = Path(top + engine.cgroup_parent) / ("b" * 64)
    cgroup.mkdir()
    for command in (
        "ip link add veth1234567 type veth peer name peer",
        "ip link set veth1234567 master docker0",
        "ip link add br-0123456789ab type bridge",
        "iptables -t nat -A POSTROUTING -s 172.99.0.0/16 ! -o br-feedbeef0000 -j MASQUERADE",
        "iptables -t nat -A POSTROUTING -s 172.98.0.0/16 -j MASQUERADE",
    ):
        engine.in_network(*command.split())
    lost = engine.exec_root / "namespace"
    lost.touch()
    assert engine.netns_holder is not None
    subprocess.run(["mount", "--bind", f"/proc/{engine.netns_holder.pid}/ns/net", lost], check=True)
    try:
        form = ("--format", "{{.Kind}} {{.Name}} {{.State}}")
        expected = {
            f"lost cgroup {cgroup} repaired",
            f"lost mount {lost} repaired",
            "lost link veth1234567 repaired",
            "lost link br-0123456789ab kept: it may be another engine's",
            "wrong rules iptables repaired",
        }
        found = engine.orlop("system", "check", "--repair", *form, check=False)
        assert set(found.stdout.splitlines()) == expected
    finally:
        subprocess.run(["umount", lost], capture_output=True, check=False)
    assert not cgroup.exists()
    rules = engine.in_network("iptables-save", "-t", "nat").stdout
    assert "br-feedbeef0000" not in rules
    assert "172.98.0.0/16" in rules  # an administrator's
    assert "8099" in rules
    engine.in_network("ip", "link", "del", "br-0123456789ab")
    assert engine.orlop("system", "check").stdout == ""
    assert engine.docker("exec", "box", "echo", "well").stdout == "well\n"
