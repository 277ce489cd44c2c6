"""The table of test_reachability beside a real dockerd (ORLOP_PEERS_HOST names one that runs on this machine).

Every difference is in the list, with its reason.
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

from harness import DOCKER
from orlop.primitives.owned_fd import OwnedFd

PEER = os.environ.get("ORLOP_PEERS_HOST", "")
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.requires("root", "netns"),
    pytest.mark.skipif(not PEER, reason="ORLOP_PEERS_HOST names no daemon"),
]
UPLINK, FAR = "10.199.0.1", "10.199.0.2"
PORTS = {"published": 80, "published on loopback": 8000, "exposed": EXPOSED, "neither": OTHER}
SERVE = """
import socket, selectors
watch = selectors.DefaultSelector()
for port in (80, 8000, 81, 82):
    sock = socket.socket(); sock.setsockopt(1, 2, 1); sock.bind(("0.0.0.0", port)); sock.listen()
    watch.register(sock, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in watch.select():
        peer, _ = key.fileobj.accept(); peer.sendall(b"hit"); peer.close()
"""
ASK = """
import socket, sys
s = socket.socket(); s.settimeout(0.5)
try: s.connect((sys.argv[1], int(sys.argv[2]))); print(s.recv(9).decode())
except OSError: pass
"""
# (what, from): dockerd's cell, and why ours is another
DIRECT = "packets from outside reach a container by the host's ports only (threats.md G4); Docker since 28"
DIFFERENCES = {
    ("published", "other network"): (
        "yes / no",
        "networks are kept apart on this way too (G8); docker-proxy joins them",
    ),
    ("published", "neighbour"): ("yes / yes", DIRECT),
    ("published", "outside"): ("yes / yes", DIRECT),
    ("published on loopback", "neighbour"): ("no / yes", DIRECT),
    ("published on loopback", "outside"): ("no / yes", DIRECT),
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
            for netns, link, address in ((host, "otuplink", UPLINK), (far, "otfar", FAR)):
                run_in(netns, "ip", "addr", "add", f"{address}/24", "dev", link)
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

    direct = word(reached(netns, address, PORTS[kind]))
    if kind == "published":
        return f"{word(reached(netns, UPLINK, HOST_PORT))} / {direct}"
    if kind == "published on loopback":
        assert not reached(netns, UPLINK, LOOPBACK_PORT)
        return f"{'loopback' if reached(netns, '127.0.0.1', LOOPBACK_PORT) else 'no'} / {direct}"
    return f"- / {direct}"


def test_dockerd_has_the_same_table():
    with contextlib.ExitStack() as stack:
        for network in ("ot-one", "ot-two"):
            docker("network", "create", network)
            stack.callback(docker, "network", "rm", network)
        ports = ("-p", f"{HOST_PORT}:80", "-p", f"127.0.0.1:{LOOPBACK_PORT}:8000", "--expose", str(EXPOSED))
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
        server.stdout.readline()
        address = json.loads(docker("inspect", "ot-web"))[0]["NetworkSettings"]["Networks"]["ot-one"]["IPAddress"]
        found: dict[str, list[str]] = {kind: [] for kind in TABLE}
        run_in(far, "ip", "route", "add", f"{address}/32", "via", UPLINK)
        for netns in (same, other, host, far):
            for kind, cells in found.items():
                cells.append(cell(netns, kind, address))
        run_in(far, "ip", "route", "del", f"{address}/32")
        run_in(far, "ip", "route", "add", "default", "via", UPLINK)
        for kind, cells in found.items():
            cells.append(cell(far, kind, address))
    wrong = {
        (kind, place): (theirs, ours)
        for kind, row in TABLE.items()
        for place, ours, theirs in zip(FROM, row, found[kind], strict=True)
        if theirs != DIFFERENCES.get((kind, place), (ours,))[0]
    }
    assert wrong == {}
