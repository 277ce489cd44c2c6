"""Requests for networks: what is refused, and how it is said."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace

import pytest

from orlop.errors import ForbiddenError, InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.network.ipam import AddressSpace
from orlop.network.networks import (
    OPTION_BRIDGE_NAME,
    OPTION_HOST_BINDING,
    OPTION_ICC,
    OPTION_INHIBIT_IPV4,
    OPTION_MTU,
    Network,
)
from orlop.network.options import AddressPool, NetworkOptions, check_bip, check_interface_name
from orlop.network.records import Records
from orlop.network.requests import NetworkRequest, PoolRequest, check_pool, check_pools, check_request
from orlop.network.sandbox import Endpoint
from orlop.spec.ports import PortBinding

HOSTILE = [
    "", " ", "a b", "a\nb", "a\0b", "../x", "a/b", "-x", "--help", "$(id)", "a;b", "`id`", "x\x1b[0m", "é", "\u0661", "a" + "\n", "\ta",
    "*", "a'b", 'a"b', "a|b", "a>b", "a&b", "%s", "{0}", "\u202eabc", ".x", "_x",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str):
    with pytest.raises(InvalidParameterError, match="network name"):
        check_request(NetworkRequest(name))


@pytest.mark.parametrize("name", [*HOSTILE, "sixteencharacter", "..", "a:b", "eth0\n"])
def test_hostile_bridge_names(name: str):
    with pytest.raises(InvalidParameterError, match="invalid bridge name"):
        check_interface_name(name)


@pytest.mark.parametrize("name", ["bridge", "host", "none", "default"])
def test_predefined_names(name: str):
    with pytest.raises(ForbiddenError, match=f"operation is not permitted on predefined {name} network"):
        check_request(NetworkRequest(name))


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": "1"},
        {OPTION_ICC: "maybe"},
        {OPTION_INHIBIT_IPV4: "maybe"},
        {OPTION_INHIBIT_IPV4: ""},
        {OPTION_MTU: "-1"},
        {OPTION_MTU: "1e3"},
        {OPTION_MTU: "99999"},
        {OPTION_MTU: "\u0661\u0665\u0660\u0660"},
        {OPTION_HOST_BINDING: "1.2.3.4 -j ACCEPT"},
        {OPTION_HOST_BINDING: "::1"},
    ],
)
def test_bad_options(options: dict[str, str]):
    with pytest.raises(InvalidParameterError):
        check_request(NetworkRequest("n", options=options))


def test_good_options():
    check_request(
        NetworkRequest("n.1-x_", options={OPTION_ICC: "false", OPTION_MTU: "9000", OPTION_BRIDGE_NAME: "br9"})
    )
    with pytest.raises(NotFoundError, match='plugin "nosuch" not found'):
        check_request(NetworkRequest("n", driver="nosuch"))
    with pytest.raises(ForbiddenError, match='only one instance of "host" network is allowed'):
        check_request(NetworkRequest("n", driver="host"))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (PoolRequest(subnet="10.0.0.1/24"), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (PoolRequest(subnet="10.0.0.0/24 -j X"), "invalid CIDR block notation"),
        (PoolRequest(subnet="10.0.0.1/31"), "it should be 10.0.0.0/31"),
        (PoolRequest(subnet="10.0.0.0/31", gateway="10.0.0.2"), "invalid gateway 10.0.0.2: parent subnet"),
        (PoolRequest(subnet="fd00::/127", gateway="fd00::"), r"allocate gateway \(fd00::\): Address already in use"),
        (PoolRequest(subnet="fd00::8/128"), r"failed to allocate gateway \(\): no available addresses on this pool"),
        (
            PoolRequest(subnet="10.0.0.0/24", gateway="10.0.1.1"),
            "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't",
        ),
        (PoolRequest(subnet="10.0.0.0/24", gateway="10.0.0.255"), r"allocate gateway \(10.0.0.255\): Address"),
        (PoolRequest(subnet="10.0.0.0/24", gateway="x"), "invalid gateway x"),
        (PoolRequest(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"), "doesn't contain ip-range"),
        (PoolRequest(subnet="10.0.0.0/24", ip_range="10.0.0.1/25"), "it should be 10.0.0.0/25"),
        (PoolRequest(subnet="10.0.0.0/24", ip_range="10.0.0.0/23"), "bigger than its parent subnet 10.0.0.0/24"),
        (PoolRequest(gateway="10.0.0.1"), "invalid CIDR block notation"),
    ],
)
def test_bad_subnets(pool: PoolRequest, message: str):
    with pytest.raises(InvalidParameterError, match=message):
        check_pools(NetworkRequest("n", pools=(pool,)))


@pytest.mark.parametrize(
    ("subnet", "gateway", "free"),
    [
        ("10.0.0.0/30", "10.0.0.1", ["10.0.0.2"]),
        ("10.0.0.2/31", "10.0.0.2", ["10.0.0.3"]),
        ("10.0.0.5/32", "10.0.0.5", []),
        ("fd00::8/126", "fd00::9", ["fd00::a", "fd00::b"]),
        ("fd00::8/127", "fd00::9", []),
    ],
)
def test_small_subnets(subnet: str, gateway: str, free: list[str]):  # RFC 3021, and what Docker does for IPv6
    pool = check_pool(PoolRequest(subnet))
    space = AddressSpace(pool.subnet, gateway=pool.gateway)
    assert str(pool.gateway) == gateway
    assert [str(space.allocate()) for _ in free] == free
    with pytest.raises(SystemFailureError, match="no available IPv"):
        space.allocate()


def test_the_other_end_of_a_line_may_be_the_gateway():
    pool = check_pool(PoolRequest("10.0.0.2/31", gateway="10.0.0.3"))
    assert str(AddressSpace(pool.subnet, gateway=pool.gateway).allocate()) == "10.0.0.2"


@pytest.mark.parametrize(
    ("gateway", "auxiliary", "refused"),
    [
        ("10.0.0.1", {"a": "10.0.0.1"}, "a:10.0.0.1"),
        ("", {"a": "10.0.0.1"}, "a:10.0.0.1"),
        ("", {"a": "10.0.0.9", "b": "10.0.0.9"}, "b:10.0.0.9"),
        ("", {"DefaultGatewayIPv4": "10.0.0.1"}, "DefaultGatewayIPv4:10.0.0.1"),
        ("", {"a": "10.0.0.0"}, "a:10.0.0.0"),
    ],
)
def test_an_auxiliary_address_is_nobody_elses(gateway, auxiliary, refused):
    """As dockerd 26 says it; the answer's status is 500 there."""
    message = re.escape(f"failed to allocate secondary ip address ({refused}): Address already in use")
    with pytest.raises(InvalidParameterError, match=message):
        check_pool(PoolRequest("10.0.0.0/24", gateway=gateway, auxiliary=auxiliary))


def test_subnets():
    assert check_pools(NetworkRequest("n")) == {}
    both = (
        PoolRequest("10.0.0.0/24", auxiliary={"router": "10.0.0.9"}),
        PoolRequest("fd00::/64", ip_range="fd00::/80"),
    )
    chosen = check_pools(NetworkRequest("n", pools=both, ipv6=True))
    assert {version: (str(pool.subnet), str(pool.gateway)) for version, (pool,) in chosen.items()} == {
        4: ("10.0.0.0/24", "10.0.0.1"),
        6: ("fd00::/64", "fd00::1"),
    }
    assert chosen[4][0].auxiliary == {"router": "10.0.0.9"}
    assert 6 not in check_pools(NetworkRequest("n", pools=both))  # without --ipv6 it is left aside
    with pytest.raises(ForbiddenError, match="bridge driver doesn't support multiple subnets"):
        check_pools(NetworkRequest("n", pools=(PoolRequest("10.0.0.0/24"), PoolRequest("10.1.0.0/24"))))


@pytest.mark.parametrize(
    "options",
    [
        NetworkOptions(bridge="a b"),
        NetworkOptions(bip="172.17.0.0/16"),
        NetworkOptions(bip="172.17.0.1"),
        NetworkOptions(bip="x"),
        NetworkOptions(mtu=10),
        NetworkOptions(fixed_cidr="172.17.0.1/24"),
        NetworkOptions(fixed_cidr="172.17.0.0"),
        NetworkOptions(bip="172.17.0.1/16", fixed_cidr="172.18.0.0/24"),
        NetworkOptions(fixed_cidr="fd00::/64"),
        NetworkOptions(fixed_cidr_v6="172.17.0.0/16"),
        NetworkOptions(fixed_cidr_v6="fd00::/127"),
        NetworkOptions(bip6="fd00::1"),
        NetworkOptions(bip6="fd00::/64"),
        NetworkOptions(bip6="ff02::1/64"),
        NetworkOptions(bip6="10.0.0.1/24"),
        NetworkOptions(bip6="fd00:1::1/64", fixed_cidr_v6="fd00:2::/80"),
        NetworkOptions(default_gateway="fd00::1"),
        NetworkOptions(default_gateway="172.17.0.0/16"),
        NetworkOptions(default_gateway_v6="10.0.0.1"),
        NetworkOptions(default_gateway_v6="fe80::1%eth0"),
        NetworkOptions(default_ip="::"),
        NetworkOptions(firewall_backend="pf"),
        NetworkOptions(default_address_pools=(AddressPool("10.0.0.0/8", 7),)),
        NetworkOptions(default_address_pools=(AddressPool("10.0.0.1/8", 16),)),
    ],
)
def test_bad_daemon_options(options: NetworkOptions):
    with pytest.raises(OrlopError):
        options.validate()


def test_default_options_are_valid():
    NetworkOptions().validate()
    assert str(check_bip("10.1.0.1/24").network) == "10.1.0.0/24"


def test_records_survive(tmp_path):
    path = tmp_path / "state.db"
    network = Network("1" * 64, "n", "bridge", 5, "10.0.0.0/24", "10.0.0.1", "", True, False, {"a": "b"}, {"l": ""})
    endpoint = Endpoint(
        id="2" * 64,
        network_id=network.id,
        network_name="",
        address="10.0.0.2",
        prefix_length=24,
        gateway="10.0.0.1",
        mac="02:42:0a:00:00:02",
        interface="eth0",
        host_interface="veth0123456",
        ports=(PortBinding(80, "tcp", "0.0.0.0", 8080),),
    )
    with sqlite3.connect(path) as database:
        records = Records(database)
        records.put_network(network)
        records.put_network(replace(network, labels={"l": "2"}))
        records.put_endpoint("c" * 64, endpoint)
        with pytest.raises(sqlite3.IntegrityError):  # an address belongs to one endpoint
            records.put_endpoint("d" * 64, replace(endpoint, id="3" * 64))
        nowhere = replace(endpoint, id="4" * 64, address="")
        records.put_endpoint("e" * 64, nowhere)
        records.put_endpoint("f" * 64, replace(nowhere, id="5" * 64))
    database.close()
    with sqlite3.connect(path) as database:
        records = Records(database)
        assert records.networks() == [replace(network, labels={"l": "2"})]
        assert dict(records.endpoints())["c" * 64] == endpoint
        database.execute("UPDATE endpoint SET ports = '[[1'")
        database.execute("UPDATE network SET labels = '7', options = ''")
        assert dict(records.endpoints())["c" * 64] == replace(endpoint, ports=())  # damaged, not fatal
        assert records.networks()[0].labels == {}
        for container_id, found in records.endpoints():
            assert container_id
            records.delete_endpoint(found.id)
        records.delete_network(network.id)
        assert records.networks() == []
        assert records.endpoints() == []
    database.close()
