from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cli.quantities import parse_duration, parse_size, parse_time, timestamp
from orlop.cli.units import binary_size, human_duration, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (4261550, "4.26MB"), (1984000, "1.98MB"), (77_800_000_000, "77.8GB")],
)
def test_human_size(size, text) -> None:
    assert human_size(size) == text


def test_sizes_of_other_precision() -> None:
    assert human_size(1_984_000, digits=4) == "1.984MB"
    assert binary_size(25275940864) == "23.54GiB"
    assert binary_size(784 * 1024) == "784KiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (59 * 86400, "8 weeks"),
        (60 * 86400, "2 months"),
        (729 * 86400, "24 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_human_duration(seconds, text) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("64m", 64 << 20), ("1.5g", 3 << 29), ("100kb", 102400), ("2GiB", 2 << 30), ("7B", 7)]
)
def test_parse_size(text, size) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1.", "1mm", "1 m m", "٣"])
def test_bad_size(text) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


def test_parse_duration() -> None:
    assert parse_duration("1m30s") == 90 * 10**9
    assert parse_duration("1.5s") == 1_500_000_000
    assert parse_duration("-2us") == -2000
    assert parse_duration("0") == 0
    for text, message in (("1", "missing unit"), ("", "invalid duration"), ("1x", "invalid duration")):
        with pytest.raises(ValueError, match=message):
            parse_duration(text)


@given(st.datetimes(min_value=dt.datetime(1970, 1, 1), max_value=dt.datetime(2200, 1, 1)))
def test_parse_time_agrees_with_datetime(moment) -> None:
    utc = moment.replace(tzinfo=dt.UTC, microsecond=0)
    assert parse_time(utc.strftime("%Y-%m-%dT%H:%M:%SZ")) == (int(utc.timestamp()), 0)


def test_timestamp() -> None:
    assert timestamp("1700000000", 0) == "1700000000"
    assert timestamp("2024-01-02T03:04:06.5Z", 0) == "1704164646.500000000"
    assert timestamp("2024-01-02T03:04:06+01:00", 0) == "1704161046.000000000"
    assert timestamp("42m", 10_000) == "7480.000000000"
    with pytest.raises(ValueError, match="failed to parse"):
        timestamp("x", 0)
