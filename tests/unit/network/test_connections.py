"""Which connections are ended when rules are put back: those that no rule lets begin."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from orlop.kernel.conntrack import Flow
from orlop.network.connections import Refusal
from orlop.network.firewall.contract import BridgeRules

BRIDGES = [
    BridgeRules("docker0", "172.17.0.0/16", subnet6="fd00:17::/64"),
    BridgeRules("br-quiet", "172.18.0.0/16", icc=False),
    BridgeRules("br-inner", "172.19.0.0/16", internal=True),
    BridgeRules("br-cross", "172.20.0.0/16", crossing=True),
    BridgeRules("br-six", "", subnet6="fd00:21::/64"),
]
HOST, OUTSIDE = "192.0.2.1", "192.0.2.7"


@pytest.mark.parametrize(
    ("source", "destination", "answerer", "refused"),
    [
        ("172.17.0.2", "172.17.0.3", "172.17.0.3", False),
        ("172.17.0.2", OUTSIDE, OUTSIDE, False),
        (OUTSIDE, HOST, "172.17.0.2", False),
        (OUTSIDE, HOST, HOST, False),
        ("172.17.0.2", "172.18.0.2", "172.18.0.2", True),
        ("172.17.0.2", HOST, "172.18.0.2", True),
        ("172.18.0.2", "172.18.0.3", "172.18.0.3", True),
        ("172.18.0.2", HOST, "172.18.0.3", False),
        ("172.19.0.2", "172.19.0.3", "172.19.0.3", False),
        ("172.19.0.2", OUTSIDE, OUTSIDE, True),
        (OUTSIDE, HOST, "172.19.0.2", True),
        ("172.17.0.2", HOST, "172.20.0.2", False),
        ("172.17.0.2", "172.20.0.2", "172.20.0.2", True),
        ("172.19.0.2", HOST, "172.20.0.2", True),
        ("fd00:17::2", "fd00:17::3", "fd00:17::3", False),
        ("fd00:17::2", "fd00:21::2", "fd00:21::2", True),
        ("2001:db8::1", "2001:db8::2", "2001:db8::2", False),
    ],
)
def test_what_is_refused(source: str, destination: str, answerer: str, refused: bool):
    refusal = Refusal(BRIDGES, ip_address(source).version)
    assert refusal.meets(Flow(ip_address(source), ip_address(destination), ip_address(answerer))) is refused
