"""Who reaches whom: the documented table, over both IP versions and both firewall backends (threats.md G3, G4, G8)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from network_lab import (
    ANSWER,
    HOST,
    HOST6,
    OUTSIDE,
    OUTSIDE6,
    SILENCE,
    Lab,
    in_laboratory,
    in_thread,
    open_namespace,
    run_in,
)

from orlop.network.requests import NetworkRequest, PoolRequest
from orlop.network.sandbox import AttachRequest
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.ports import PortRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]

DOCUMENT = Path(__file__).parents[2] / "docs/concepts/networks.md"
FROM = ("same network", "other network", "host", "neighbour", "outside")
# by the host's address and port / by the container's own address and port
TABLE = {
    "published": ("yes / yes", "no / no", "yes / yes", "yes / no", "yes / no"),
    "published on loopback": ("no / yes", "no / no", "loopback / yes", "no / no", "no / no"),
    "exposed": ("- / yes", "- / no", "- / yes", "- / no", "- / no"),
    "neither": ("- / yes", "- / no", "- / yes", "- / no", "- / no"),
}
HOST_PORT, LOOPBACK_PORT, EXPOSED, OTHER = 8080, 9090, 81, 82
# the neighbour's second address, the outside's, their network, and the host's way there
BEYOND = {
    4: ("10.98.0.1/24", "10.98.0.2/24", "10.98.0.0/24", OUTSIDE),
    6: ("fd98::1/64", "fd98::2/64", "fd98::/64", OUTSIDE6),
}


def test_the_table_is_the_documented_one():
    lines = [f"| | {' | '.join(FROM)} |", "| --- |" + " --- |" * len(FROM)]
    lines += [f"| {kind} | {' | '.join(row)} |" for kind, row in TABLE.items()]
    assert "\n".join(lines) in DOCUMENT.read_text()


def outside_of(lab: Lab, version: int) -> OwnedFd:
    """Make a namespace behind the neighbour, which is its router and the host's way to it."""
    beyond, sock = in_thread(open_namespace)
    sock.close()
    near, far, net, hop = BEYOND[version]
    path = f"/proc/{os.getpid()}/fd/{beyond.fileno()}"
    run_in(lab.outside, *"ip link add inner type veth peer name outer".split())
    with subprocess.Popen(["nsenter", f"--net={path}", "--", "sleep", "30"]) as holder:
        inode = os.stat(path).st_ino
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino != inode:
            time.sleep(0.01)
        run_in(lab.outside, *"ip link set outer netns".split(), str(holder.pid))
        holder.kill()
    for netns, link, address in ((lab.outside, "inner", near), (beyond, "outer", far)):
        run_in(netns, "ip", "addr", "add", address, "dev", link, *(("nodad",) if version == 6 else ()))
        run_in(netns, "ip", "link", "set", link, "up")
    run_in(beyond, "ip", f"-{version}", "route", "add", "default", "via", near.partition("/")[0])
    forwarding = "ipv6.conf.all.forwarding" if version == 6 else "ipv4.ip_forward"
    run_in(lab.outside, "sysctl", "-qw", f"net.{forwarding}=1")
    run_in(None, "ip", f"-{version}", "route", "add", net, "via", hop)
    return beyond


def publishing(loopback: str, *, six: bool) -> AttachRequest:
    """Return what attaches ``web`` to ``n1`` with a port for everybody and one for the host alone."""
    ports = (
        PortRequest(80, "tcp", "::" if six else "0.0.0.0", HOST_PORT, HOST_PORT),
        PortRequest(8000, "tcp", loopback, LOOPBACK_PORT, LOOPBACK_PORT),
    )
    return AttachRequest(network="n1", container_name="web", ports=ports)


async def reachable(lab: Lab, netns: OwnedFd | None, address: str, port: int) -> None:
    """Wait until a published port answers a client in a namespace."""
    for _ in range(20):
        if await asyncio.to_thread(lab.ask, netns, address, port):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{address} port {port} never answered")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("version", [4, 6])
def test_reachability(backend: str, version: int):
    six = version == 6
    host, loopback = (HOST6, "::1") if six else (HOST, "127.0.0.1")
    own_ports = {"published": 80, "published on loopback": 8000, "exposed": EXPOSED, "neither": OTHER}

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0, userland_proxy=True)
        await service.start({})
        assert service.firewall_name == backend
        subnet = "fd00:7::/64" if six else "10.7.0.0/24"
        await service.create_network(NetworkRequest("n1", pools=(PoolRequest(subnet),), ipv6=six))
        await service.create_network(NetworkRequest("n2", ipv6=six))
        web = await service.attach("a" * 64, publishing(loopback, six=six))
        same = await service.attach("b" * 64, AttachRequest(network="n1"))
        other = await service.attach("c" * 64, AttachRequest(network="n2"))
        address = web.endpoints[0].address6 if six else web.endpoints[0].address
        for port in own_ports.values():
            lab.serve(web.netns, port, "hit", six=six)

        def row(netns: OwnedFd | None, kind: str, expected: str) -> str:
            def word(where: str, port: int, wanted: str) -> str:
                seconds = SILENCE if wanted == "no" else ANSWER  # who is to answer may need a while
                return "yes" if lab.ask(netns, where, port, seconds=seconds).startswith("hit") else "no"

            by_host, by_itself = expected.split(" / ")
            direct = word(address, own_ports[kind], by_itself)
            if kind == "published":
                return f"{word(host, HOST_PORT, by_host)} / {direct}"
            if kind == "published on loopback":
                assert lab.is_silent(netns, host, LOOPBACK_PORT)
                return f"{word(loopback, LOOPBACK_PORT, by_host).replace('yes', 'loopback')} / {direct}"
            return f"- / {direct}"

        for port in (HOST_PORT, LOOPBACK_PORT):  # the relay listens some moments after the programs
            await reachable(lab, None, loopback, port)

        def route(*words: str, at: OwnedFd = lab.outside) -> None:
            run_in(at, "ip", f"-{version}", "route", *words)

        route("add", subnet, "via", host)  # the neighbour knows the way to containers
        beyond = outside_of(lab, version)
        for netns in (lab.outside, beyond):  # the links' queues and the neighbours' addresses come some moments later
            await reachable(lab, netns, host, HOST_PORT)
        places = (same.netns, other.netns, None, lab.outside, beyond)
        with ThreadPoolExecutor(8) as pool:  # of this thread's namespace
            rows = {
                kind: [pool.submit(row, netns, kind, cell) for netns, cell in zip(places, TABLE[kind], strict=True)]
                for kind in own_ports
            }
        found = {kind: [cell.result() for cell in cells] for kind, cells in rows.items()}
        if not six:  # and sends to the host what only the host's loopback ought to get (moby#45610)
            run_in(lab.outside, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo", check=False)
            run_in(lab.outside, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
            route("add", "127.0.0.1/32", "via", HOST, "src", OUTSIDE)
            assert lab.is_silent(lab.outside, "127.0.0.1", LOOPBACK_PORT)
        beyond.close()
        assert found == {kind: list(TABLE[kind]) for kind in own_ports}

    in_laboratory(body)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("version", [4, 6])
def test_published_ports_between_networks_when_the_administrator_allows_them(backend: str, version: int):
    """With ``allow-published-between-networks`` one cell of the table is another; what is not published stays apart."""
    six = version == 6
    host, loopback = (HOST6, "::1") if six else (HOST, "127.0.0.1")

    async def body(lab: Lab) -> None:
        service = lab.service(
            firewall_backend=backend, pool_size=0, userland_proxy=True, allow_published_between_networks=True
        )
        await service.start({})
        for name, more in (("n1", {}), ("n2", {}), ("n3", {"internal": True})):
            await service.create_network(NetworkRequest(name, ipv6=six, **more))
        web = await service.attach("a" * 64, publishing(loopback, six=six))
        other = await service.attach("b" * 64, AttachRequest(network="n2"))
        closed = await service.attach("c" * 64, AttachRequest(network="n3"))
        inner = service.network("n3")  # it finds its own way to the bridge
        run_in(
            closed.netns,
            "ip",
            f"-{version}",
            "route",
            "add",
            "default",
            "via",
            inner.gateway6 if six else inner.gateway,
        )
        for port in (80, 8000, OTHER):
            lab.serve(web.netns, port, "hit", six=six)
        address, gateway = web.endpoints[0].address, other.endpoints[0].gateway
        if six:
            address, gateway = web.endpoints[0].address6, other.endpoints[0].gateway6
        await reachable(lab, None, host, HOST_PORT)
        apart = [(other.netns, address, port) for port in (80, 8000, OTHER)]
        for where in (host, gateway):
            await reachable(lab, other.netns, where, HOST_PORT)
            apart += [(other.netns, where, LOOPBACK_PORT), (closed.netns, where, HOST_PORT)]
        assert lab.reached(*apart) == []

    in_laboratory(body)
