"""macvlan, ipvlan, VLAN parents and SCTP on a kernel that has all of them."""

from __future__ import annotations

import pytest
from test_sctp import test_sctp_is_published
from test_sublinks import (
    test_ipvlan_in_layer_three,
    test_several_subnets,
    test_sublinks,
    test_vlan_parents_are_made_and_removed,
)

__all__ = [
    "test_ipvlan_in_layer_three",
    "test_sctp_is_published",
    "test_several_subnets",
    "test_sublinks",
    "test_vlan_parents_are_made_and_removed",
]

pytestmark = pytest.mark.vm(long=True)
