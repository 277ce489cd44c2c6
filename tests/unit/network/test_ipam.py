"""Addresses and pools."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orlop.errors import ForbiddenError, InvalidParameterError, SystemFailureError
from orlop.network.ipam import AddressSpace, choose_subnet, mac_of, parse_mac, show_mac
from orlop.network.options import DEFAULT_POOLS, AddressPool

NET = IPv4Network("10.1.2.0/28")
GATEWAY = IPv4Address("10.1.2.1")
FREE = [address for address in NET.hosts() if address != GATEWAY]


class Space(RuleBasedStateMachine):
    """The space against a set of addresses."""

    def __init__(self):
        super().__init__()
        self.space = AddressSpace(NET, gateway=GATEWAY, name="net")
        self.model: set[IPv4Address] = set()

    @rule()
    def allocate(self):
        free = [address for address in FREE if address not in self.model]
        if not free:
            with pytest.raises(
                SystemFailureError, match="no available IPv4 addresses on this network's address pools: net"
            ):
                self.space.allocate()
            return
        assert self.space.allocate() == free[0]
        self.model.add(free[0])

    @rule(address=st.sampled_from(FREE))
    def claim(self, address: IPv4Address):
        if address in self.model:
            with pytest.raises(ForbiddenError, match="Address already in use"):
                self.space.claim(address)
        else:
            self.space.claim(address)
            self.model.add(address)

    @rule(address=st.sampled_from([*NET, IPv4Address("9.9.9.9")]))
    def release(self, address: IPv4Address):
        self.space.release(address)
        self.model.discard(address)

    @invariant()
    def counts(self):
        assert self.space.in_use == len(self.model)


TestSpace = Space.TestCase


def test_range_and_reserved_addresses():
    space = AddressSpace(NET, gateway=GATEWAY, ip_range=IPv4Network("10.1.2.8/30"), name="net")
    assert [str(space.allocate()) for _ in range(4)] == ["10.1.2.8", "10.1.2.9", "10.1.2.10", "10.1.2.11"]
    with pytest.raises(SystemFailureError):
        space.allocate()
    space.claim(IPv4Address("10.1.2.3"))
    space.release(IPv4Address("10.1.2.3"))
    with pytest.raises(SystemFailureError):
        space.allocate()  # below the range
    for taken in (GATEWAY, NET[0], NET[-1]):
        with pytest.raises(ForbiddenError):
            space.claim(taken)
        space.release(taken)
        with pytest.raises(ForbiddenError):
            space.claim(taken)
    with pytest.raises(InvalidParameterError, match="no configured subnet contains IP address"):
        space.claim(IPv4Address("10.1.3.1"))


NETWORKS = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1) | st.integers(int(IPv4Address("172.16.0.0")), int(IPv4Address("172.31.255.255"))),
    st.integers(8, 32),
)


@given(st.lists(NETWORKS, max_size=12))
def test_chosen_subnet_is_the_first_that_overlaps_nothing(occupied: list[IPv4Network]):
    candidates = [subnet for pool in DEFAULT_POOLS for subnet in IPv4Network(pool.base).subnets(new_prefix=pool.size)]
    free = [c for c in candidates if not any(c.overlaps(net) for net in occupied)]
    if free:
        assert choose_subnet(DEFAULT_POOLS, occupied) == free[0]
    else:
        with pytest.raises(SystemFailureError, match="all predefined address pools have been fully subnetted"):
            choose_subnet(DEFAULT_POOLS, occupied)


def test_many_small_subnets_are_found_quickly():
    pools = [AddressPool("10.0.0.0/8", 28)]
    assert choose_subnet(pools, [IPv4Network("10.0.0.0/9")]) == IPv4Network("10.128.0.0/28")
    assert choose_subnet(pools, [IPv4Network("0.0.0.0/0")]) == IPv4Network("10.0.0.0/28")  # the default route


def test_mac():
    assert show_mac(mac_of(IPv4Address("172.17.0.2"))) == "02:42:ac:11:00:02"
    assert parse_mac("02:42:AC-11:00:02") == bytes.fromhex("0242ac110002")
    for bad in ("", "02:42", "02:42:ac:11:00:0g", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:42:ac:11:00:02:03"):
        with pytest.raises(InvalidParameterError):
            parse_mac(bad)
