"""The table of test_reachability beside a real dockerd (ORLOP_PEERS_HOST names one that runs on this machine).

Every difference is in the list, with its reason. Over IPv6 dockerd 26 is compared as it is by default, without rules,
or, if it was started with ``--experimental --ip6tables``, as Docker is by default since 27.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from network_lab import PYTHON, run_in
from test_reachability import EXPOSED, FROM, HOST_PORT, LOOPBACK_PORT, OTHER, TABLE

from harness import DOCKER, wait_for
from orlop.primitives.owned_fd import OwnedFd

PEER = os.environ.get("ORLOP_PEERS_HOST", "")
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns"),
    pytest.mark.skipif(not PEER, reason="ORLOP_PEERS_HOST names no daemon"),
]
UPLINK = {4: "10.199.0.1", 6: "fd77:199::1"}
FAR = {4: "10.199.0.2", 6: "fd77:199::2"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
SUBNETS6 = ("fd77:1::/64", "fd77:2::/64")
PORTS = {"published": 80, "published on loopback": 8000, "exposed": EXPOSED, "neither": OTHER}
SERVE = """
import socket, selectors
watch = selectors.DefaultSelector()
for port in (80, 8000, 81, 82):
    sock = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    watch.register(sock, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in watch.select():
        peer, _ = key.fileobj.accept(); peer.sendall(b"hit"); peer.close()
"""
ASK = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5)
    print(s.recv(9).decode())
except OSError: pass
"""
# (what, from): dockerd's cell, and why ours is another
DIRECT = "packets from outside reach a container by the host's ports only (threats.md G4); Docker since 28"
PROXY = "networks are kept apart on this way too (G8); docker-proxy joins them"
DIFFERENCES = {
    ("published", "other network"): ("yes / no", PROXY),
    ("published", "neighbour"): ("yes / yes", DIRECT),
    ("published", "outside"): ("yes / yes", DIRECT),
    ("published on loopback", "neighbour"): ("no / yes", DIRECT),
    ("published on loopback", "outside"): ("no / yes", DIRECT),
}
# until Docker 27 there were no rules of IPv6 unless the daemon ran with --experimental --ip6tables
NO_RULES = "without rules of IPv6 everybody with a route reaches everything"
DIFFERENCES_WITHOUT_RULES = {
    (kind, place): (theirs, NO_RULES)
    for kind, theirs in (
        ("published", "yes / yes"),
        ("published on loopback", "no / yes"),
        ("exposed", "- / yes"),
        ("neither", "- / yes"),
    )
    for place in ("other network", "neighbour", "outside")
}


def docker(*words: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": PEER}
    done = subprocess.run([DOCKER, *words], capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def daemons_namespace() -> OwnedFd:
    """Return the network namespace of the process behind the daemon's socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(PEER.removeprefix("unix://"))
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return OwnedFd(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def namespace_of(container: str) -> OwnedFd:
    pid = json.loads(docker("inspect", container))[0]["State"]["Pid"]
    return OwnedFd(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def outside(host: OwnedFd) -> Iterator[OwnedFd]:
    """Give a namespace that is the daemon's neighbour."""
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo ready; exec sleep 120"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        far = OwnedFd(os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        try:
            run_in(host, *"ip link add otuplink type veth peer name otfar netns".split(), str(holder.pid))
            for netns, link, addresses in ((host, "otuplink", UPLINK), (far, "otfar", FAR)):
                run_in(netns, "ip", "addr", "add", f"{addresses[4]}/24", "dev", link)
                run_in(netns, "ip", "addr", "add", f"{addresses[6]}/64", "dev", link, "nodad")
                run_in(netns, "ip", "link", "set", link, "up")
            yield far
        finally:
            run_in(host, "ip", "link", "del", "otuplink", check=False)
            far.close()
            holder.kill()


def reached(netns: OwnedFd, address: str, port: int) -> bool:
    return run_in(netns, PYTHON, "-I", "-S", "-c", ASK, address, str(port)).strip() == "hit"


def cell(netns: OwnedFd, kind: str, address: str) -> str:
    def word(hit: bool) -> str:
        return "yes" if hit else "no"

    version = 6 if ":" in address else 4
    direct = word(reached(netns, address, PORTS[kind]))
    if kind == "published":
        return f"{word(reached(netns, UPLINK[version], HOST_PORT))} / {direct}"
    if kind == "published on loopback":
        assert not reached(netns, UPLINK[version], LOOPBACK_PORT)
        return f"{'loopback' if reached(netns, LOOPBACK[version], LOOPBACK_PORT) else 'no'} / {direct}"
    return f"- / {direct}"


@pytest.mark.parametrize("version", [4, 6])
def test_dockerd_has_the_same_table(version: int):
    six = version == 6
    with contextlib.ExitStack() as stack:
        for network, subnet in zip(("ot-one", "ot-two"), SUBNETS6, strict=True):
            docker("network", "create", *(("--ipv6", "--subnet", subnet) if six else ()), network)
            stack.callback(docker, "network", "rm", network)
        loopback = f"[{LOOPBACK[6]}]" if six else LOOPBACK[4]
        ports = ("-p", f"{HOST_PORT}:80", "-p", f"{loopback}:{LOOPBACK_PORT}:8000", "--expose", str(EXPOSED))
        for name, network, *more in (("ot-web", "ot-one", *ports), ("ot-same", "ot-one"), ("ot-other", "ot-two")):
            docker("run", "-d", "--name", name, "--network", network, *more, "busybox", "sleep", "120")
            stack.callback(docker, "rm", "-f", name)
        host = stack.enter_context(daemons_namespace())
        far = stack.enter_context(outside(host))
        web, same, other = (stack.enter_context(namespace_of(f"ot-{name}")) for name in ("web", "same", "other"))
        command = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{web.fileno()}", "--", PYTHON, "-I", "-S", "-c", SERVE]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        network = json.loads(docker("inspect", "ot-web"))[0]["NetworkSettings"]["Networks"]["ot-one"]
        address = network["GlobalIPv6Address" if six else "IPAddress"]
        program = "ip6tables" if six else "iptables"
        expected = DIFFERENCES if "-N DOCKER\n" in run_in(host, program, "-S") else DIFFERENCES_WITHOUT_RULES
        assert six or expected is DIFFERENCES
        found: dict[str, list[str]] = {kind: [] for kind in TABLE}
        run_in(far, "ip", "route", "add", address, "via", UPLINK[version])
        wait_for(lambda: reached(far, UPLINK[version], HOST_PORT), what="the way from outside")
        for netns in (same, other, host, far):
            for kind, cells in found.items():
                cells.append(cell(netns, kind, address))
        run_in(far, "ip", "route", "del", address)
        run_in(far, "ip", f"-{version}", "route", "add", "default", "via", UPLINK[version])
        for kind, cells in found.items():
            cells.append(cell(far, kind, address))
    wrong = {
        (kind, place): (theirs, ours)
        for kind, row in TABLE.items()
        for place, ours, theirs in zip(FROM, row, found[kind], strict=True)
        if theirs != expected.get((kind, place), (ours,))[0]
    }
    assert wrong == {}
