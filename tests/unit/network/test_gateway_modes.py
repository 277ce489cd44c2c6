"""Gateway modes: what is refused, and which ports they publish where."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.network.firewall import rules, ruleset
from orlop.network.firewall.contract import BridgeRules, PortRule
from orlop.network.gateway_modes import OPTIONS, split_ports, trusted_interfaces
from orlop.network.networks import OPTION_TRUSTED_INTERFACES
from orlop.network.requests import NetworkRequest, check_request
from orlop.network.sandbox import Endpoint
from orlop.spec.ports import PortBinding, parse_publish

BOTH = Endpoint("e", "n", "net", address="10.0.0.2", address6="fd00::2")


def split(endpoint: Endpoint, routed: tuple[int, ...], *texts: str, default_ip: str = "0.0.0.0"):
    """Return the host's addresses and ports of what is mapped, and the addresses and container ports of what is not."""
    requests = [request for text in texts for request in parse_publish(text)]
    mapped, direct = split_ports(requests, endpoint, routed=routed, default_ip=default_ip)
    assert all(binding.host_port == 0 for binding in direct)
    return [(one.host_ip, one.first) for one in mapped], [(one.host_ip, one.container_port) for one in direct]


def test_ports_of_routed_networks():
    assert split(BOTH, (4, 6), "8080:80") == ([], [("0.0.0.0", 80), ("::", 80)])
    assert split(BOTH, (4, 6), "80", "8080:80", "81") == (
        [],
        [("0.0.0.0", 80), ("::", 80), ("0.0.0.0", 81), ("::", 81)],
    )
    assert split(BOTH, (4, 6), "127.0.0.1:8080:80", "[::1]:81:81") == ([], [("0.0.0.0", 80), ("::", 81)])
    assert split(BOTH, (6,), "8080:80") == ([("0.0.0.0", 8080)], [("::", 80)])
    assert split(BOTH, (6,), "8080:80", default_ip="10.1.1.1") == ([("10.1.1.1", 8080)], [("::", 80)])
    assert split(BOTH, (4,), "8080:80") == ([("::", 8080)], [("0.0.0.0", 80)])
    assert split(BOTH, (4,), "10.1.1.1:8080:80", "[fd::1]:8080:80") == ([("fd::1", 8080)], [("0.0.0.0", 80)])


def test_ports_of_containers_of_one_version():
    four, six = Endpoint("e", "n", "net", address="10.0.0.2"), Endpoint("e", "n", "net", address6="fd00::2")
    assert split(four, (4, 6), "8080:80") == ([], [("0.0.0.0", 80)])
    assert split(four, (4,), "8080:80") == ([], [("0.0.0.0", 80)])
    assert split(four, (6,), "8080:80") == ([("0.0.0.0", 8080)], [])
    assert split(six, (4,), "8080:80") == ([("::", 8080)], [])
    assert split(six, (6,), "8080:80", "0.0.0.0:81:81") == ([("0.0.0.0", 81)], [("::", 80)])


def test_trusted_interfaces():
    for value, names in (
        ("vxlan.1:eth3", ("vxlan.1", "eth3")),
        ("eth3", ("eth3",)),
        (":eth3::eth3:", ("eth3",)),
        ("", ()),
        ("::", ()),
    ):
        assert trusted_interfaces({OPTION_TRUSTED_INTERFACES: value}) == names
        check_request(NetworkRequest("n", options={OPTION_TRUSTED_INTERFACES: value}))


@pytest.mark.parametrize(
    "value", ["eth*", "eth+", "eth3 eth4", "eth3,eth4", "sixteencharacter", 'a" accept', "a\n", "!eth3"]
)
def test_what_is_no_interface_is_not_trusted(value: str):
    with pytest.raises(InvalidParameterError, match=f"failed to parse {OPTION_TRUSTED_INTERFACES} value: "):
        check_request(NetworkRequest("n", options={OPTION_TRUSTED_INTERFACES: f"eth0:{value}"}))
    with pytest.raises(ValueError, match="not an interface name"):
        rules.check_rule_values(BridgeRules("br-a", "10.0.0.0/24", trusted=("eth0", value)), ())


@pytest.mark.parametrize("version", [4, 6])
def test_modes_are_refused_in_dockers_words(version: int):
    option = OPTIONS[version]
    for mode in ("nat", "routed", "nat-unprotected"):
        check_request(NetworkRequest("n", options={option: mode}))
    check_request(NetworkRequest("n", options={option: "isolated"}, internal=True))
    for mode in ("", "x", "NAT", "nat ", "routed\n", "\u202e", "x" * 200):
        with pytest.raises(InvalidParameterError, match=rf"failed to parse {option} value: .* \(unknown gateway mode"):
            check_request(NetworkRequest("n", options={option: mode}))
    with pytest.raises(InvalidParameterError, match="gateway mode 'isolated' can only be used for an internal network"):
        check_request(NetworkRequest("n", options={option: "isolated"}))
    with pytest.raises(InvalidParameterError, match="unknown option of the macvlan driver"):
        check_request(NetworkRequest("n", driver="macvlan", options={option: "nat"}))


def test_what_is_published_at_its_own_address_only_has_no_port_of_the_host():
    port = PortRule("br-way", "tcp", "0.0.0.0", 0, "172.20.0.2", 80)
    accept = "DOCKER 1 -d 172.20.0.2/32 ! -i br-way -o br-way -p tcp -m tcp --dport 80 -j ACCEPT"
    assert rules.render_publish([port]) == f"*nat\nCOMMIT\n*filter\n-I {accept}\nCOMMIT\n"
    assert "DNAT" not in rules.render_withdraw([port])
    assert ruleset.render_publish([port], name="orlop") == (
        "add element ip orlop reachable { tcp . 172.20.0.2 . 80 }\n"
    )
    rules.check_rule_values(None, [port])
    assert PortBinding(80, "tcp", "::", 0).key == "80/tcp"
