"""Rates and bursts as users write them."""

from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.network import bandwidth
from orlop.network.bandwidth import Bandwidth, Bucket, Rate, bucket_for, parse_burst, parse_options, parse_rate


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
    assert parse_options(options) == Bandwidth(Rate(1_250_000, 0), Rate(0, 5000))
    assert parse_options({}).egress.rate == 0
    assert bandwidth.from_annotations({"kubernetes.io/ingress-bandwidth": "1M", "io.x": "y"}) == {
        bandwidth.INGRESS: "1M"
    }


def test_a_bucket_lets_payload_through_at_the_rate():
    # of a full frame of 1514 bytes 1448 are TCP's payload
    assert bucket_for(Rate(1_250_000), mtu=1500) == Bucket(1_306_975, 26_139, 26_139 + 130_697)
    assert bucket_for(Rate(1_250_000), mtu=9000).rate == 1_259_219


def test_a_bucket_holds_frames_and_what_flows_in_between_two_looks():
    assert bucket_for(Rate(125_000), mtu=1500).burst == 3036
    assert bucket_for(Rate(125_000, 2048), mtu=1500).burst == 3036
    assert bucket_for(Rate(125_000), mtu=9000).burst == 18_036
    assert bucket_for(Rate(125_000, 64_000), mtu=1500).burst == 64_000
    assert bucket_for(Rate(125_000_000, 4096), mtu=1500).burst == 653_487


def test_the_largest_bucket_fits_the_kernels_32_bits():
    bucket = bucket_for(Rate(10**12 // 8), mtu=1500)
    assert bucket.burst < bucket.limit < 2**32
