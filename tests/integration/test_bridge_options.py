"""The options of the bridge driver do what Docker says they do, with both firewall backends."""

from __future__ import annotations

import pytest
from network_lab import HOST, OUTSIDE, Lab, in_laboratory, run_in

from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.spec.ports import PortRequest, parse_publish

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
A, B, C = "a" * 64, "b" * 64, "c" * 64


def publish(*texts: str) -> tuple[PortRequest, ...]:
    return tuple(request for text in texts for request in parse_publish(text))


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_options_of_a_bridge(backend: str):
    """enable_icc, enable_ip_masquerade, host_binding_ipv4, mtu and name do what Docker says they do."""
    prefix = "com.docker.network.bridge."

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        options = {
            f"{prefix}name": "quiet0",
            f"{prefix}enable_icc": "false",
            f"{prefix}host_binding_ipv4": "127.0.0.1",
            "com.docker.network.driver.mtu": "1400",
        }
        await service.create_network(NetworkRequest("quiet", options=options))
        options = {f"{prefix}enable_ip_masquerade": "false"}
        await service.create_network(NetworkRequest("routed", options=options))
        web = await service.attach(A, AttachRequest(network="quiet", ports=publish("8080:80", f"{HOST}:8081:80")))
        other = await service.attach(B, AttachRequest(network="quiet"))
        plain = await service.attach(C, AttachRequest(network="routed", ports=publish("8082:80")))
        # where ports are published that name no address
        bindings = {(port.host_ip, port.host_port) for port in web.endpoints[0].ports}
        assert bindings == {("127.0.0.1", 8080), (HOST, 8081)}
        assert [port.host_ip for port in plain.endpoints[0].ports] == ["0.0.0.0"]
        for box in (web, plain):
            lab.serve(box.netns, 80, "hit")
        address = web.endpoints[0].address
        assert lab.ask(None, "127.0.0.1", 8080).startswith("hit")
        assert lab.ask(lab.outside, HOST, 8080) == ""
        assert lab.ask(lab.outside, HOST, 8081) == f"hit {OUTSIDE}"
        # containers do not reach each other, but for published ports by the host's address
        assert lab.ask(other.netns, address, 80) == ""
        assert lab.ask(other.netns, HOST, 8081).startswith("hit")
        assert lab.ask(None, address, 80).startswith("hit")
        # the interfaces
        assert "quiet0" in lab.links()
        assert "mtu 1400 " in run_in(None, "ip", "link", "show", "quiet0")
        assert "mtu 1400 " in run_in(web.netns, "ip", "link", "show", "eth0")
        # what leaves under which address
        lab.serve(lab.outside, 90, "from")
        assert lab.ask(other.netns, OUTSIDE, 90) == f"from {HOST}"
        assert lab.ask(plain.netns, OUTSIDE, 90) == ""  # the outside does not know the way back
        run_in(lab.outside, "ip", "route", "add", service.network("routed").subnet, "via", HOST)
        assert lab.ask(plain.netns, OUTSIDE, 90) == f"from {plain.endpoints[0].address}"
        # without masquerade the network is routed: its published ports are reached directly, others not
        assert lab.ask(lab.outside, plain.endpoints[0].address, 80) == f"hit {OUTSIDE}"
        lab.serve(plain.netns, 81, "hit")
        assert lab.ask(lab.outside, plain.endpoints[0].address, 81) == ""

    in_laboratory(body)
