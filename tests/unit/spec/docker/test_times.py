import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.docker.times import ZERO, human_duration, parse_rfc3339, parse_timestamp, rfc3339, rfc3339_fixed


def test_rfc3339_trims_as_go_does():
    assert rfc3339(0) == ZERO
    assert rfc3339(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert rfc3339(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert rfc3339_fixed(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.120000000Z"


@pytest.mark.parametrize("moment", [1, 1_700_000_000_123_456_789, 999_999_999])
def test_round_trip(moment):
    assert parse_rfc3339(rfc3339(moment)) == moment
    assert parse_rfc3339(rfc3339_fixed(moment)) == moment


def test_parse_timestamp():
    assert parse_timestamp("1700000000.5") == 1_700_000_000_500_000_000
    assert parse_timestamp("2023-11-14T22:13:20+01:00") == (1_700_000_000 - 3600) * 10**9
    with pytest.raises(InvalidParameterError):
        parse_timestamp("yesterday")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400 * 2, "2 days"),
        (86400 * 15, "2 weeks"),
        (86400 * 90, "3 months"),
        (86400 * 365 * 3, "3 years"),
    ],
)
def test_human_duration_as_go_units(seconds, text):
    assert human_duration(seconds) == text
