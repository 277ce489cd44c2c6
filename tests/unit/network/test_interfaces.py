"""Names of interfaces in containers."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.network.interfaces import (
    OPTION_NAME,
    check_clashes,
    check_name,
    check_prefix,
    chosen_name,
    name_all,
    next_name,
)
from orlop.network.networks import OPTION_INTERFACE_PREFIX, Network
from orlop.network.requests import NetworkRequest, check_request

HOSTILE = [
    " ", "a b", "a\nb", "a\0b", "../x", "a/b", "-x", "--help", "$(id)", "a;b", "x\x1b[0m", "é", "\u0661", "a:", "a%d",
    "%d", ".", "..", ".x", "_x", "a\n", "\ta", "a@b",
]  # fmt: skip


def named(*wanted: str) -> list[str]:
    """Name interfaces, each by a prefix or by "=" and a name."""
    return name_all([({OPTION_NAME: text[1:]} if text[:1] == "=" else {}, text) for text in wanted])


def test_each_prefix_has_its_own_numbers():
    assert named("eth", "eth", "eth") == ["eth0", "eth1", "eth2"]
    assert named("web", "eth", "web", "eth") == ["web0", "eth0", "web1", "eth1"]
    assert named("eth1", "eth1") == ["eth10", "eth11"]


def test_chosen_names_go_before_others():
    assert named("eth", "=eth0", "=wan", "eth", "=eth2", "eth") == ["eth1", "eth0", "wan", "eth3", "eth2", "eth4"]
    assert name_all([({OPTION_NAME: ""}, "eth")]) == ["eth0"]
    assert chosen_name({}, "eth", {"eth0"}) == "eth1"
    assert chosen_name({OPTION_NAME: "wan"}, "eth", {"eth0"}) == "wan"


def test_a_name_is_given_once():
    with pytest.raises(SystemFailureError, match='error renaming interface to "eth0": file exists'):
        chosen_name({OPTION_NAME: "eth0"}, "eth", {"eth0"})
    with pytest.raises(SystemFailureError, match="file exists"):
        named("=wan", "eth", "=wan")
    check_clashes([{}, {OPTION_NAME: ""}, {OPTION_NAME: ""}, {OPTION_NAME: "a"}, {OPTION_NAME: "b"}])
    with pytest.raises(InvalidParameterError, match="interface name a is asked for by more than one endpoint"):
        check_clashes([{OPTION_NAME: "a"}, {}, {OPTION_NAME: "a"}])


@pytest.mark.parametrize("name", ["", "eth0", "a..b", "lo0", "A-1_.", "a" * 15])
def test_good_names(name: str):
    check_name(name)


@pytest.mark.parametrize("name", [*HOSTILE, "lo", "all", "default", "a" * 16, "a" * 200])
def test_hostile_names(name: str):
    with pytest.raises(InvalidParameterError, match="invalid interface name: "):
        check_name(name)


def test_the_lowest_free_number_is_taken():
    assert next_name("eth", {"eth0", "eth2", "web1"}) == "eth1"
    assert next_name("eth1", [f"eth{number}" for number in range(12)]) == "eth12"  # eth10 is eth's, too


def test_a_name_is_never_longer_than_the_kernels():
    assert next_name("a" * 14, ()) == "a" * 14 + "0"
    with pytest.raises(SystemFailureError, match="'aaaaaaaaaaaaaa10': numerical result out of range"):
        next_name("a" * 14, {"a" * 14 + str(digit) for digit in range(10)})


@pytest.mark.parametrize("prefix", ["", "eth", "lo", "web-1.", "A", "0", "a" * 14])
def test_good_prefixes(prefix: str):
    check_request(NetworkRequest("n", options={OPTION_INTERFACE_PREFIX: prefix}))


@pytest.mark.parametrize("prefix", [*HOSTILE, "a" * 15, "a" * 200])
def test_hostile_prefixes(prefix: str):
    with pytest.raises(InvalidParameterError, match=f"invalid value of {OPTION_INTERFACE_PREFIX}"):
        check_request(NetworkRequest("n", options={OPTION_INTERFACE_PREFIX: prefix}))
    with pytest.raises(InvalidParameterError):
        check_prefix(prefix, "x")


def test_only_bridges_have_prefixes():
    for driver in ("macvlan", "ipvlan", "cni"):
        with pytest.raises(InvalidParameterError, match="unknown option of the"):
            check_request(NetworkRequest("n", driver=driver, options={OPTION_INTERFACE_PREFIX: "x"}))
    assert Network("1", "n", "bridge", 0, options={OPTION_INTERFACE_PREFIX: ""}).interface_prefix == "eth"
    assert Network("1", "n", "bridge", 0, options={OPTION_INTERFACE_PREFIX: "web"}).interface_prefix == "web"
