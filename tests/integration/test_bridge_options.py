"""The options of the bridge driver do what Docker says they do, with both firewall backends."""

from __future__ import annotations

import pytest
from network_lab import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, in_laboratory, publish, run_in

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.network.requests import NetworkRequest, PoolRequest
from orlop.network.sandbox import AttachRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
A, B, C = "a" * 64, "b" * 64, "c" * 64


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
        assert lab.ask(lab.outside, HOST, 8081) == f"hit {OUTSIDE}"
        # containers do not reach each other, but for published ports by the host's address
        assert lab.reached((lab.outside, HOST, 8080), (other.netns, address, 80)) == []
        assert lab.ask(other.netns, HOST, 8081).startswith("hit")
        assert lab.ask(None, address, 80).startswith("hit")
        # the interfaces
        assert "quiet0" in lab.links()
        assert "mtu 1400 " in run_in(None, "ip", "link", "show", "quiet0")
        assert "mtu 1400 " in run_in(web.netns, "ip", "link", "show", "eth0")
        # what leaves under which address
        lab.serve(lab.outside, 90, "from")
        assert lab.ask(other.netns, OUTSIDE, 90) == f"from {HOST}"
        assert lab.is_silent(plain.netns, OUTSIDE, 90)  # the outside does not know the way back
        run_in(lab.outside, "ip", "route", "add", service.network("routed").subnet, "via", HOST)
        assert lab.ask(plain.netns, OUTSIDE, 90) == f"from {plain.endpoints[0].address}"
        # without masquerade the network is routed: its published ports are reached directly, others not
        assert lab.ask(lab.outside, plain.endpoints[0].address, 80) == f"hit {OUTSIDE}"
        lab.serve(plain.netns, 81, "hit")
        assert lab.is_silent(lab.outside, plain.endpoints[0].address, 81)

    in_laboratory(body)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_subnets_of_two_addresses_and_of_one(backend: str):
    """A /31 has neither network nor broadcast address (RFC 3021): its first is the bridge's, its second a container's."""

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("line", pools=(PoolRequest("10.55.0.2/31"),)))
        web = await service.attach(A, AttachRequest(network="line", ports=publish("8080:80")))
        endpoint = web.endpoints[0]
        assert (endpoint.address, endpoint.prefix_length, endpoint.gateway) == ("10.55.0.3", 31, "10.55.0.2")
        assert "brd" not in run_in(web.netns, "ip", "-4", "address", "show", "eth0")
        lab.serve(web.netns, 80, "hit")
        assert lab.ask(None, "10.55.0.3", 80) == "hit 10.55.0.2"
        assert lab.ask(None, "127.0.0.1", 8080).startswith("hit")
        assert lab.ask(lab.outside, HOST, 8080) == f"hit {OUTSIDE}"
        lab.serve(lab.outside, 90, "from")
        assert lab.ask(web.netns, OUTSIDE, 90) == f"from {HOST}"
        run_in(lab.outside, "ip", "route", "add", "10.55.0.2/31", "via", HOST)
        assert lab.is_silent(lab.outside, "10.55.0.3", 80)
        for pool, six, version in (
            (PoolRequest("10.55.0.8/32"), False, 4),
            (PoolRequest("fd00:55::8/127"), True, 6),
            (None, False, 4),
        ):
            name = pool.subnet.replace("/", "-").replace(":", ".") if pool else "line"
            if pool:
                await service.create_network(NetworkRequest(name, pools=(pool,), ipv6=six, ipv4=not six))
            with pytest.raises(SystemFailureError, match=f"no available IPv{version} addresses on this network's"):
                await service.attach(B, AttachRequest(network=name))
        # the same after a restart, and for the next one
        service.release(A)
        await service.close()
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        again = await service.attach(B, AttachRequest(network="line"))
        assert again.endpoints[0].address == "10.55.0.3"

    in_laboratory(body)


def test_ipv6_and_ranges_of_the_default_bridge():
    async def body(lab: Lab) -> None:
        chosen = {"bip": "172.30.0.1/16", "fixed_cidr": "172.30.5.0/28", "ipv6": True, "pool_size": 0}
        service = lab.service(**chosen)
        await service.start({})
        network = service.network("bridge")
        assert (network.subnet, network.ip_range) == ("172.30.0.0/16", "172.30.5.0/28")
        assert network.subnet6.startswith("fd")
        web = await service.attach(A, AttachRequest(ports=publish("8080:80")))
        endpoint = web.endpoints[0]
        assert (endpoint.address, endpoint.prefix_length) == ("172.30.5.0", 16)
        assert {port.host_ip for port in endpoint.ports} == {"0.0.0.0", "::"}
        lab.serve(web.netns, 80, "hit", six=True)
        assert lab.ask(lab.outside, HOST6, 8080) == f"hit {OUTSIDE6}"
        lab.serve(lab.outside, 90, "from", six=True)
        assert lab.ask(web.netns, OUTSIDE6, 90) == f"from {HOST6}"
        pid = lab.sleeper(web).pid
        await service.close()
        service = lab.service(**chosen)
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            await service.start({A: namespace.fileno()})
        assert service.network("bridge").subnet6 == network.subnet6  # it stays
        again = await service.attach(B, AttachRequest())
        assert (again.endpoints[0].address, again.endpoints[0].address6[:5]) == ("172.30.5.1", endpoint.address6[:5])
        assert again.endpoints[0].address6 != endpoint.address6
        for container in (A, B):
            service.release(container)
        await service.close()
        service = lab.service(pool_size=0, fixed_cidr="172.31.8.0/24", ipv6=True, fixed_cidr_v6="fd00:9::/64")
        await service.start({})
        network = service.network("bridge")
        assert (network.subnet, network.gateway, network.ip_range) == ("172.31.8.0/24", "172.31.8.1", "")
        assert (network.subnet6, network.gateway6) == ("fd00:9::/64", "fd00:9::1")
        await service.close()
        service = lab.service(pool_size=0)
        await service.start({})
        assert service.network("bridge").subnet6 == ""
        plain = await service.attach(C, AttachRequest())
        assert plain.endpoints[0].address6 == ""

    in_laboratory(body)


def test_another_way_out_of_the_default_bridge():
    async def body(lab: Lab) -> None:
        chosen = {"bip": "172.30.0.1/16", "ipv6": True, "bip6": "fd00:9::5/64", "fixed_cidr_v6": "fd00:9::100/120"}
        gateways = {"default_gateway": "172.30.0.2", "default_gateway_v6": "fd00:9::100"}
        service = lab.service(**chosen, **gateways, pool_size=0)
        await service.start({})
        network = service.network("bridge")
        assert (network.gateway6, network.subnet6, network.ip_range6) == ("fd00:9::5", "fd00:9::/64", "fd00:9::100/120")
        assert network.auxiliary == {"DefaultGatewayIPv4": "172.30.0.2", "DefaultGatewayIPv6": "fd00:9::100"}
        assert "fd00:9::5/64" in run_in(None, "ip", "address", "show", "dev", network.bridge_name)
        sandbox = await service.attach(A, AttachRequest())
        assert sandbox.endpoints[0].address == "172.30.0.3"  # the router's own is never given out
        assert sandbox.endpoints[0].address6 == "fd00:9::101"
        for version, gateway in ((4, "172.30.0.2"), (6, "fd00:9::100")):
            routes = run_in(sandbox.netns, "ip", f"-{version}", "route").splitlines()
            assert [line.split()[2] for line in routes if line.startswith("default")] == [gateway]
        service.release(A)
        await service.close()
        service = lab.service(**chosen, pool_size=0)
        await service.start({})
        assert service.network("bridge").auxiliary == {}
        await service.close()
        with pytest.raises(InvalidParameterError, match="not in the default bridge's subnet"):
            await lab.service(**chosen, default_gateway="10.1.2.3", pool_size=0).start({})

    in_laboratory(body)


def test_defaults_of_new_networks():
    async def body(lab: Lab) -> None:
        mtu = "com.docker.network.driver.mtu"
        service = lab.service(pool_size=0, default_network_opts={"bridge": {mtu: "1400"}, "macvlan": {"parent": "x"}})
        await service.start({})
        plain = await service.create_network(NetworkRequest("plain"))
        own = await service.create_network(NetworkRequest("own", options={mtu: "1300"}))
        assert (plain.options, own.options) == ({mtu: "1400"}, {mtu: "1300"})
        assert "mtu 1400 " in run_in(None, "ip", "link", "show", plain.bridge_name)
        assert "mtu 1500 " in run_in(None, "ip", "link", "show", service.network("bridge").bridge_name)

    in_laboratory(body)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_starts_that_publish_nothing_touch_no_rules(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=1)
        await service.start({})
        await service.create_network(NetworkRequest("own"))
        around, watch = service._around, service._watch
        assert around is not None
        assert watch is not None
        service._watch = None
        await watch.close()  # it looks at the rules half a second after each change, which is no start's doing
        run, seen = around.firewall._run, []  # type: ignore[union-attr] # whichever it is has one

        def counted(*arguments: object) -> object:
            seen.append(arguments)
            return run(*arguments)

        around.firewall._run = counted  # type: ignore[union-attr]
        for name, network in ((A, "bridge"), (B, "own")):
            await service.attach(name, AttachRequest(network=network))
        for name in (A, B):
            service.release(name)
        await service.settle()
        assert seen == []
        await service.attach(C, AttachRequest(ports=publish("8080:80")))
        assert len(seen) == 1  # one transaction

    in_laboratory(body)
