"""Interfaces of the host that a network trusts lead to containers' published ports, others do not (threats.md G4)."""

from __future__ import annotations

import ipaddress

import pytest
from network_lab import HOST, HOST6, A, B, C, Lab, in_laboratory, in_thread, open_namespace, publish, run_in

from orlop.kernel import rtnetlink
from orlop.network.networks import OPTION_BRIDGE_NAME, OPTION_TRUSTED_INTERFACES
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.primitives.owned_fd import OwnedFd

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
D = "d" * 64
SIDE, SIDE6 = "10.98.0.1", "fd98::1"  # the host's on its second interface
FLUSH = {"iptables": (("iptables", "-t", "raw", "-F"), ("ip6tables", "-t", "raw", "-F")),
         "nftables": (("nft", "flush", "chain", "ip", "orlop", "raw"), ("nft", "flush", "chain", "ip6", "orlop", "raw"))}  # fmt: skip


def add_neighbour(lab: Lab) -> OwnedFd:
    """Return the namespace of a second neighbour, on the host's interface "side.1"."""
    beside, sock = in_thread(open_namespace)
    sock.close()
    lab.host.execute(
        rtnetlink.add_veth("side.1", "far", peer_netns=beside.fileno()), rtnetlink.set_link(0, name="side.1", up=True)
    )
    run_in(beside, "ip", "link", "set", "far", "up")
    for own in (SIDE, SIDE6):
        interface = ipaddress.ip_interface(f"{own}/{64 if ':' in own else 24}")
        lab.host.execute(rtnetlink.add_address(lab.host.link("side.1").index, interface))
        run_in(
            beside, "ip", "address", "add", f"{interface.ip + 1}/{interface.network.prefixlen}", "dev", "far", "nodad"
        )
    return beside


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_who_reaches_published_ports(backend: str):
    async def body(lab: Lab) -> None:
        beside = add_neighbour(lab)
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        boxes = {}
        for container, name, trusted, ports, internal in (
            (A, "near", "uplink:nosuch0:named0", "8080:80", False),
            (B, "wary", ":side.1:", "127.0.0.1:8081:80 [fd98::1]:8081:80", False),
            (C, "inner", "uplink:side.1", "", True),
            (D, "named", "", "", False),
        ):
            options = {OPTION_TRUSTED_INTERFACES: trusted}
            options |= {OPTION_BRIDGE_NAME: "named0"} if name == "named" else {}
            request = NetworkRequest(name, options=options, ipv6=True, internal=internal)
            network = await service.create_network(request)
            wish = AttachRequest(network=name, ports=publish(*ports.split()))
            boxes[name] = await service.attach(container, wish)
            for netns, via, via6 in ((lab.outside, HOST, HOST6), (beside, SIDE, SIDE6)):
                run_in(netns, "ip", "route", "add", network.subnet, "via", via)
                run_in(netns, "ip", "route", "add", network.subnet6, "via", via6)
            for port in (80, 81):
                lab.serve(boxes[name].netns, port, "hit", six=True)  # of both versions

        def at(name: str, port: int = 80) -> list[tuple[str, int]]:
            endpoint = boxes[name].endpoints[0]
            return [(endpoint.address, port), (endpoint.address6, port)]

        yes = [(lab.outside, *where) for where in at("near")] + [(beside, *where) for where in at("wary")]
        no = [
            *((beside, *where) for where in (*at("near"), *at("wary", 81), *at("inner"), *at("named"))),
            *((lab.outside, *where) for where in (*at("wary"), *at("near", 81), *at("inner"), *at("named"))),
            *((boxes["named"].netns, *where) for where in at("near")),  # another network is no neighbour
            (lab.outside, HOST, 8081),  # published on loopback alone
        ]

        def check() -> None:
            assert [one for one in yes if not lab.ask(*one).startswith("hit")] == []
            assert lab.reached(*no) == []

        check()
        for command in FLUSH[backend]:
            run_in(None, *command)
        assert lab.reached((beside, *at("near")[0]))  # so it is these rules that keep it away
        await service.restore_rules()  # a watch of the tables may have been faster
        check()
        beside.close()

    in_laboratory(body)
