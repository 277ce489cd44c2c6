"""macvlan and ipvlan in the laboratory; ipvlan is not in every kernel (tests/vm has one)."""

from __future__ import annotations

import pytest
from network_lab import HOST, OUTSIDE, Lab, in_laboratory, run_in

from orlop.errors import ForbiddenError, InvalidParameterError, SystemFailureError
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
        for parent, words in (
            ("nosuch", "invalid subinterface vlan name nosuch, example formatting is eth0.10"),
            ("nosuch.10", "-o parent interface was not found on the host: nosuch"),
            ("uplink.x", r"unable to parse a valid vlan id from: x \(ex. eth0.10 for vlan 10\)"),
            ("uplink.4095", "vlan id must be between 1-4094, received: 4095"),
            ("uplink.1.2", "invalid subinterface vlan name uplink.1.2"),
            ("lo", f"loopback interface is not a valid {driver} parent link"),
        ):
            with pytest.raises(InvalidParameterError, match=f"^{words}"):
                await service.create_network(NetworkRequest("bad", driver=driver, options={"parent": parent}))
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
        assert lab.is_silent(lab.outside, "10.99.0.50", 80)
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


@pytest.mark.requires("macvlan")
@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_modes_of_macvlan(mode: str):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        pools = (PoolRequest("10.99.0.0/24", "10.99.0.2"),)
        options = {"parent": "uplink", "macvlan_mode": mode}
        await service.create_network(NetworkRequest("lan", driver="macvlan", pools=pools, options=options))
        wish = EndpointWish("lan", address="10.99.0.50")
        web = await service.attach("a" * 64, AttachRequest(network="lan", endpoints=(wish,)))
        assert f"macvlan mode {mode} " in run_in(web.netns, "ip", "-d", "link", "show", "eth0")
        lab.serve(web.netns, 80, "hit")
        assert lab.ask(lab.outside, "10.99.0.50", 80) == "hit 10.99.0.2"  # from outside in every mode
        if mode == "passthru":  # the parent is one container's alone
            with pytest.raises(SystemFailureError, match="failed to create the macvlan port"):
                await service.attach("b" * 64, AttachRequest(network="lan"))
            service.release("a" * 64)
            await service.settle()
        else:
            wish = EndpointWish("lan", address="10.99.0.51")
            other = await service.attach("b" * 64, AttachRequest(network="lan", endpoints=(wish,)))
            # in the modes private and vepa what leaves the parent comes back by a switch only, which is not here
            if mode == "bridge":
                assert lab.ask(other.netns, "10.99.0.50", 80) == "hit 10.99.0.51"
            else:
                assert lab.is_silent(other.netns, "10.99.0.50", 80)

    in_laboratory(body)


@pytest.mark.requires("macvlan")
def test_several_subnets():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        pools = (
            PoolRequest("10.99.0.0/24", "10.99.0.2", "10.99.0.8/31"),
            PoolRequest("10.98.0.0/24", "10.98.0.1", auxiliary={"router": "10.98.0.2"}),
        )
        options = {"parent": "uplink"}
        with pytest.raises(ForbiddenError, match=r"^bridge driver doesn't support multiple subnets$"):
            await service.create_network(NetworkRequest("lan", pools=pools))
        doubled = (*pools, PoolRequest("10.98.0.128/25"))
        with pytest.raises(ForbiddenError, match=r"^Pool overlaps with other one on this address space$"):
            await service.create_network(NetworkRequest("lan", driver="macvlan", pools=doubled, options=options))
        await service.create_network(NetworkRequest("lan", driver="macvlan", pools=pools, options=options))
        with pytest.raises(ForbiddenError, match=r"^Pool overlaps with other one on this address space$"):
            await service.create_network(NetworkRequest("n1", pools=(PoolRequest("10.98.0.0/16"),)))
        boxes = [await service.attach(str(i) * 64, AttachRequest(network="lan")) for i in range(3)]
        # as a real dockerd: the first one until it is full, then the next, each with its own gateway
        assert [box.endpoints[0].address for box in boxes] == ["10.99.0.8", "10.99.0.9", "10.98.0.3"]
        assert run_in(boxes[0].netns, "ip", "route").startswith("default via 10.99.0.2 dev eth0")
        assert run_in(boxes[2].netns, "ip", "route").startswith("default via 10.98.0.1 dev eth0")
        wish = EndpointWish("lan", address="10.98.0.3")
        with pytest.raises(ForbiddenError, match="Address already in use"):
            await service.attach("4" * 64, AttachRequest(network="lan", endpoints=(wish,)))
        pid = lab.sleeper(boxes[2]).pid
        await service.close()
        service = lab.service(pool_size=0)
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            await service.start({"2" * 64: namespace.fileno()})
        assert [pool.subnet for pool in service.network("lan").pools] == ["10.99.0.0/24", "10.98.0.0/24"]
        for wanted in ("10.99.0.8", "10.99.0.9", "10.98.0.4"):  # the addresses of what has ended are free
            box = await service.attach(wanted.replace(".", "0").ljust(64, "0"), AttachRequest(network="lan"))
            assert box.endpoints[0].address == wanted

    in_laboratory(body)


@pytest.mark.requires("vlan")
@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("macvlan", marks=pytest.mark.requires("macvlan")),
        pytest.param("ipvlan", marks=pytest.mark.requires("ipvlan")),
    ],
)
def test_vlan_parents_are_made_and_removed(driver: str):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        before = lab.links()
        pools = (PoolRequest("10.97.0.0/24", "10.97.0.1"),)
        run_in(lab.outside, "ip", "link", "add", "link", "far", "name", "far.10", "type", "vlan", "id", "10")
        run_in(lab.outside, "ip", "link", "set", "far.10", "up")
        run_in(lab.outside, "ip", "addr", "add", "10.97.0.1/24", "dev", "far.10")
        await service.create_network(NetworkRequest("lan", driver=driver, pools=pools, options={"parent": "uplink.10"}))
        web = await service.attach("a" * 64, AttachRequest(network="lan"))
        lab.serve(web.netns, 80, "hit")
        assert lab.ask(lab.outside, web.endpoints[0].address, 80) == "hit 10.97.0.1"
        pid = lab.sleeper(web).pid
        await service.close()
        # what is gone when the engine starts (after a reboot) is made again; what the user made is left alone
        service = lab.service(pool_size=0)
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            await service.start({"a" * 64: namespace.fileno()})
        service.release("a" * 64)
        await service.settle()
        run_in(None, "ip", "link", "del", "uplink.10")
        await service.close()
        service = lab.service(pool_size=0)
        await service.start({})
        assert "uplink.10" in lab.links()
        await service.remove_network("lan")
        await lab.wait_links(before)
        run_in(None, "ip", "link", "add", "link", "uplink", "name", "uplink.20", "type", "vlan", "id", "20")
        await service.create_network(NetworkRequest("own", driver=driver, pools=pools, options={"parent": "uplink.20"}))
        await service.remove_network("own")
        assert "uplink.20" in lab.links()
        # without a parent: a network of its own that leads nowhere
        await service.create_network(NetworkRequest("alone", driver=driver, pools=pools))
        one = await service.attach("b" * 64, AttachRequest(network="alone"))
        two = await service.attach("c" * 64, AttachRequest(network="alone"))
        lab.serve(one.netns, 80, "hit")
        assert lab.ask(two.netns, one.endpoints[0].address, 80).startswith("hit")
        assert "default" not in run_in(one.netns, "ip", "route")

    in_laboratory(body)


@pytest.mark.requires("ipvlan")
@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_in_layer_three(mode: str):
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        pools = (PoolRequest("10.96.0.0/24"), PoolRequest("10.95.0.0/24"), PoolRequest("fd96::/64"))
        options = {"parent": "uplink", "ipvlan_mode": mode}
        await service.create_network(NetworkRequest("lan", driver="ipvlan", pools=pools, ipv6=True, options=options))
        wish = EndpointWish("lan", address="10.95.0.9")
        web = await service.attach("a" * 64, AttachRequest(network="lan"))
        other = await service.attach("b" * 64, AttachRequest(network="lan", endpoints=(wish,)))
        assert run_in(web.netns, "ip", "route").startswith("default dev eth0 scope link")
        assert run_in(web.netns, "ip", "-6", "route", "show", "default").startswith("default dev eth0")
        lab.serve(web.netns, 80, "hit")
        # no neighbour is asked for: containers of different subnets reach each other, and the outside by a route
        assert lab.ask(other.netns, web.endpoints[0].address, 80) == "hit 10.95.0.9"
        assert lab.is_silent(lab.outside, web.endpoints[0].address, 80)
        run_in(lab.outside, "ip", "route", "add", "10.96.0.0/24", "via", HOST)
        assert lab.ask(lab.outside, web.endpoints[0].address, 80) == f"hit {OUTSIDE}"

    in_laboratory(body)


@pytest.mark.requires("macvlan")
def test_options_of_an_endpoint():
    """The interface's name, which may be the parent's own, and its parameters; a failure leaves nothing."""
    name, sysctls = "com.docker.network.endpoint.ifname", "com.docker.network.endpoint.sysctls"
    first, second = "a" * 64, "b" * 64

    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        lan = await service.create_network(NetworkRequest("lan", driver="macvlan", options={"parent": "uplink"}))
        wish = EndpointWish("lan", options={name: "uplink", sysctls: "net.ipv4.conf.IFNAME.log_martians=1"})
        one = await service.attach(first, AttachRequest(network="lan", endpoints=(wish,)))
        assert one.endpoints[0].interface == "uplink"
        assert run_in(one.netns, "cat", "/proc/sys/net/ipv4/conf/uplink/log_martians") == "1\n"
        request = AttachRequest(network="bridge")
        two = await service.attach(second, request)
        bad = EndpointWish("lan", options={sysctls: "net.ipv4.conf.IFNAME.nosuch=1"})
        with pytest.raises(SystemFailureError, match="/proc/sys/net/ipv4/conf/eth1/nosuch is not a sysctl file"):
            await service.connect(second, bad, request=request)
        assert "eth1" not in run_in(two.netns, "ip", "-br", "link")
        assert list(service.endpoints_of(lan.id)) == [first]
        two = await service.connect(second, wish, request=request)
        assert run_in(two.netns, "cat", "/proc/sys/net/ipv4/conf/uplink/log_martians") == "1\n"
        assert [endpoint.interface for endpoint in two.endpoints] == ["eth0", "uplink"]

    in_laboratory(body)
