"""Who reaches whom: the documented table, over both IP versions and both firewall backends (threats.md G3, G4, G8)."""

from __future__ import annotations

from pathlib import Path

import pytest
from network_lab import HOST, HOST6, OUTSIDE, Lab, in_laboratory, run_in

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
    "published on 127.0.0.1": ("no / yes", "no / no", "loopback / yes", "no / no", "no / no"),
    "exposed": ("- / yes", "- / no", "- / yes", "- / no", "- / no"),
    "neither": ("- / yes", "- / no", "- / yes", "- / no", "- / no"),
}
HOST_PORT, LOOPBACK_PORT, EXPOSED, OTHER = 8080, 9090, 81, 82


def test_the_table_is_the_documented_one():
    lines = [f"| | {' | '.join(FROM)} |", "| --- |" + " --- |" * len(FROM)]
    lines += [f"| {kind} | {' | '.join(row)} |" for kind, row in TABLE.items()]
    assert "\n".join(lines) in DOCUMENT.read_text()


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("version", [4, 6])
def test_reachability(backend: str, version: int):
    six = version == 6
    host = HOST6 if six else HOST
    own_ports = {"published": 80, "published on 127.0.0.1": 8000, "exposed": EXPOSED, "neither": OTHER}
    if six:
        del own_ports["published on 127.0.0.1"]

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        assert service.firewall_name == backend
        subnet = "fd00:7::/64" if six else "10.7.0.0/24"
        await service.create_network(NetworkRequest("n1", pools=(PoolRequest(subnet),), ipv6=six))
        await service.create_network(NetworkRequest("n2", ipv6=six))
        ports = [PortRequest(80, "tcp", "::" if six else "", HOST_PORT, HOST_PORT)]
        if not six:
            ports.append(PortRequest(8000, "tcp", "127.0.0.1", LOOPBACK_PORT, LOOPBACK_PORT))
        web = await service.attach("a" * 64, AttachRequest(network="n1", container_name="web", ports=tuple(ports)))
        same = await service.attach("b" * 64, AttachRequest(network="n1"))
        other = await service.attach("c" * 64, AttachRequest(network="n2"))
        address = web.endpoints[0].address6 if six else web.endpoints[0].address
        for port in own_ports.values():
            lab.serve(web.netns, port, "hit", six=six)

        def row(netns: OwnedFd | None, kind: str) -> str:
            def reached(where: str, port: int) -> bool:
                return lab.ask(netns, where, port).startswith("hit")

            def word(hit: bool) -> str:
                return "yes" if hit else "no"

            direct = word(reached(address, own_ports[kind]))
            if kind == "published":
                return f"{word(reached(host, HOST_PORT))} / {direct}"
            if kind == "published on 127.0.0.1":
                assert not reached(host, LOOPBACK_PORT)
                local = reached("127.0.0.1", LOOPBACK_PORT)
                return f"{'loopback' if local else 'no'} / {direct}"
            return f"- / {direct}"

        def route(*words: str) -> None:
            run_in(lab.outside, "ip", f"-{version}", "route", *words)

        found: dict[str, list[str]] = {kind: [] for kind in own_ports}
        route("add", subnet, "via", host)  # the neighbour knows the way to containers
        for netns in (same.netns, other.netns, None, lab.outside):
            for kind, cells in found.items():
                cells.append(row(netns, kind))
        if not six:  # and sends to the host what only the host's loopback ought to get (moby#45610)
            run_in(lab.outside, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo", check=False)
            run_in(lab.outside, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
            route("add", "127.0.0.1/32", "via", HOST, "src", OUTSIDE)
            assert lab.ask(lab.outside, "127.0.0.1", LOOPBACK_PORT) == ""
        route("del", subnet)
        route("add", "default", "via", host)  # the outside sends everything to a router
        for kind, cells in found.items():
            cells.append(row(lab.outside, kind))
        assert found == {kind: list(TABLE[kind]) for kind in own_ports}

    in_laboratory(body)
