"""Rates and bursts as users write them."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.network import bandwidth
from orlop.network.bandwidth import Bandwidth, Rate, parse_burst, parse_options, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10mbit", 1_250_000),
        ("10M", 1_250_000),
        ("1.5gbit", 187_500_000),
        ("8000", 1000),
        ("1Ki", 128),
        (" 1Gi ", 2**27),
        ("0", 0),
    ],
)
def test_rates(text: str, rate: int):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1e6", "10mbps", "10 mbit", "999", "2000gbit", "1" * 13, "\u0661m", "1;ls", "nan", "10m\nx"]
)
def test_bad_rates(text: str):
    with pytest.raises(InvalidParameterError, match="invalid rate"):
        parse_rate(text)


def test_bursts():
    assert (parse_burst("64k"), parse_burst("1Mib"), parse_burst("4096")) == (64_000, 2**20, 4096)
    for text in ("", "1", "2g", "x", "-5"):
        with pytest.raises(InvalidParameterError, match="invalid burst"):
            parse_burst(text)


def test_options_and_annotations():
    options = {bandwidth.EGRESS: "10mbit", bandwidth.INGRESS_BURST: "5000", "other": "x"}
    assert parse_options(options) == Bandwidth(Rate(1_250_000, 32768), Rate(0, 5000))
    assert parse_options({}).egress.rate == 0
    assert bandwidth.from_annotations({"kubernetes.io/ingress-bandwidth": "1M", "io.x": "y"}) == {
        bandwidth.INGRESS: "1M"
    }
