"""The mission's transcripts of networks: the bridge, a host beyond it, published ports, modes, names."""

import os
import re
import subprocess
import sys

import pytest

from harness import PATIENCE, wait_for

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns", "overlay", "iptables", "docker-client", "busybox"),
]


def run(engine, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments).stdout


def test_bridge_has_one_veth_for_each_running_container(engine) -> None:
    for name in ("b1", "b2"):
        engine.docker("run", "-d", "--name", name, "busybox", "sleep", "100")
    shown = lambda: engine.in_network("brctl", "show").stdout  # noqa: E731
    first = next(line for line in shown().splitlines() if line.startswith("docker0")).split()
    assert first[2] == "no"
    # ports of running containers; ready sandboxes of the pool are not bound to the bridge yet, and those of containers
    # that have ended go when the kernel has removed their namespaces
    wait_for(lambda: len(re.findall(r"veth[0-9a-f]+", shown())) == 2, what="two ports")


def test_inside_the_bridge_is_the_default_gateway(engine) -> None:
    table = run(engine, "busybox", "route", "-n")
    default = next(line.split() for line in table.splitlines() if line.startswith("0.0.0.0"))
    assert default[1] == "172.17.0.1"
    assert default[7] == "eth0"
    assert "default via 172.17.0.1 dev eth0" in run(engine, "busybox", "ip", "route", "show")


def test_two_containers_reach_each_other(engine) -> None:
    engine.docker(
        "run", "-d", "--name", "server", "busybox", "sh", "-c", "echo hello >/tmp/index.html; httpd -f -p 80 -h /tmp"
    )
    address = engine.inspect("server")["NetworkSettings"]["IPAddress"]
    answer = wait_for(
        lambda: (
            engine.docker("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/index.html", check=False).stdout
        )
    )
    assert answer == "hello\n"


@pytest.fixture
def outside(engine):
    """A second machine beyond the bridge: 192.0.2.2, reached from the engine's namespace as 192.0.2.1."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
    enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
    wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
    try:
        engine.in_network("ip", "link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        engine.in_network("ip", "addr", "add", "192.0.2.1/24", "dev", "out0")
        engine.in_network("ip", "link", "set", "out0", "up")
        for command in ("ip link set lo up", "ip addr add 192.0.2.2/24 dev eth0", "ip link set eth0 up"):
            subprocess.run([*enter, *command.split()], check=True)
        yield enter
    finally:
        engine.in_network("ip", "link", "del", "out0", check=False)
        holder.kill()
        holder.wait()


def test_a_host_beyond_the_bridge_sees_the_masqueraded_address(engine, outside) -> None:
    code = (
        "import socket; s = socket.create_server(('', 7000)); print('ready', flush=True); "
        "c, peer = s.accept(); print(peer[0], c.recv(100).decode(), end='')"
    )
    listener = subprocess.Popen([*outside, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout.readline() == "ready\n"
        run(engine, "busybox", "sh", "-c", "echo hello | nc -w 30 192.0.2.2 7000")
        out, _ = listener.communicate(timeout=10 * PATIENCE)
    finally:
        listener.kill()
        listener.wait()
    assert out == "192.0.2.1 hello\n"


def test_a_published_port_answers_from_outside_and_on_loopback(engine, outside) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "busybox",
        "sh",
        "-c",
        "echo hi >/tmp/index.html; httpd -f -p 80 -h /tmp",
    )
    fetch = ["curl", "-s", "-m", "20"]

    def from_outside():
        return subprocess.run(
            [*outside, *fetch, "http://192.0.2.1:8080/index.html"], capture_output=True, text=True
        ).stdout

    assert wait_for(from_outside) == "hi\n"
    assert engine.in_network(*fetch, "http://127.0.0.1:8080/index.html").stdout == "hi\n"
    assert engine.docker("port", "web").stdout.startswith("80/tcp -> 0.0.0.0:8080")
    engine.docker("rm", "-f", "web")
    assert not engine.in_network(*fetch, "http://127.0.0.1:8080/index.html", check=False).stdout


def test_a_port_published_on_loopback_is_closed_to_the_neighbour(engine, outside) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8081:80",
        "busybox",
        "sh",
        "-c",
        "echo hi >/tmp/index.html; httpd -f -p 80 -h /tmp",
    )
    fetch = ["curl", "-s", "-m", "2"]
    assert wait_for(lambda: engine.in_network(*fetch, "http://127.0.0.1:8081/index.html", check=False).stdout) == "hi\n"
    address = engine.inspect("web")["NetworkSettings"]["IPAddress"]
    for target in ("192.0.2.1:8081", f"{address}:80"):
        subprocess.run([*outside, "ip", "route", "replace", "default", "via", "192.0.2.1"], check=True)
        assert not subprocess.run(
            [*outside, *fetch, f"http://{target}/index.html"], capture_output=True, text=True
        ).stdout


def test_network_modes(engine) -> None:
    assert run(engine, "--network", "none", "busybox", "ls", "/sys/class/net").split() == ["lo"]
    assert "docker0" in run(engine, "--network", "host", "busybox", "ls", "/sys/class/net").split()
    engine.docker("run", "-d", "--name", "base", "busybox", "sleep", "100")
    address = engine.inspect("base")["NetworkSettings"]["IPAddress"]
    assert address in run(engine, "--network", "container:base", "busybox", "ip", "addr")


def test_hosts_file_knows_the_host(engine) -> None:
    hosts = run(engine, "--add-host", "db:192.0.2.9", "--hostname", "me", "busybox", "cat", "/etc/hosts")
    assert re.search(r"^192\.0\.2\.9\s+db$", hosts, re.MULTILINE)
    assert re.search(r"^172\.17\.0\.1\s+host\.docker\.internal$", hosts, re.MULTILINE)
    assert re.search(r"^172\.17\.0\.\d+\s+me", hosts, re.MULTILINE)
