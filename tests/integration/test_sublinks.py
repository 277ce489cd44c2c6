"""macvlan and ipvlan in the laboratory; ipvlan is not in every kernel (tests/vm has one)."""

from __future__ import annotations

import pytest
from network_lab import Lab, in_laboratory, run_in

from orlop.errors import InvalidParameterError
from orlop.network.requests import NetworkRequest, PoolRequest
from orlop.network.sandbox import AttachRequest, EndpointWish

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables")]


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("macvlan", marks=pytest.mark.requires("macvlan")),
        pytest.param("ipvlan", marks=pytest.mark.requires("ipvlan")),
    ],
)
def test_sublinks(driver: str):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        with pytest.raises(InvalidParameterError, match="parent interface was not found on the host: nosuch"):
            await service.create_network(NetworkRequest("bad", driver=driver, options={"parent": "nosuch"}))
        pools = (PoolRequest("10.99.0.0/24", "10.99.0.2"), PoolRequest("fd99::/64", "fd99::2"))
        lan = await service.create_network(
            NetworkRequest("lan", driver=driver, pools=pools, ipv6=True, options={"parent": "uplink"})
        )
        await service.create_network(NetworkRequest("n1"))
        wish = EndpointWish("lan", address="10.99.0.50", address6="fd99::50", names=("web",))
        web = await service.attach("a" * 64, AttachRequest(network="lan", endpoints=(wish,)))
        assert web.netns is not None
        lab.serve(web.netns, 80, "four")
        lab.serve(web.netns, 81, "six", six=True)
        # a machine of its own on the parent's network: no address of the host is in between
        assert lab.ask(lab.outside, "10.99.0.50", 80) == "four 10.99.0.2"
        assert lab.ask(lab.outside, "fd99::50", 81) == "six fd99::2"
        assert run_in(web.netns, "ip", "route").startswith("default via 10.99.0.2 dev eth0")
        request = AttachRequest(container_name="web")
        await service.connect("a" * 64, EndpointWish("n1", names=("web",)), request=request)
        await service.disconnect("a" * 64, lan, request=request)
        assert "eth0" not in run_in(web.netns, "ip", "-br", "link")
        assert lab.ask(lab.outside, "10.99.0.50", 80) == ""
        again = await service.connect("a" * 64, wish, request=request)
        assert again.endpoints[-1].interface == "eth0"
        assert lab.ask(lab.outside, "10.99.0.50", 80) == "four 10.99.0.2"
        # after the engine, the address is still taken
        pid = lab.sleeper(again).pid
        await service.close()
        service = lab.service(pool_size=0)
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            await service.start({"a" * 64: namespace.fileno()})
        other = await service.attach("b" * 64, AttachRequest(network="lan"))
        assert other.endpoints[0].address == "10.99.0.1"
        service.release("a" * 64)
        service.release("b" * 64)
        await service.settle()
        await service.remove_network("lan")

    in_laboratory(body)
