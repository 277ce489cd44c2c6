"""Sizes of ``--storage-opt``, and a file system that offers no limits."""

import os

import pytest

from orlop.errors import InvalidParameterError
from orlop.storage.limits import Limits, parse_storage_options


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (None, 0),
        ({}, 0),
        ({"size": "10"}, 10),
        ({"size": "10b"}, 10),
        ({"size": "2k"}, 2048),
        ({"size": "10M"}, 10 << 20),
        ({"size": "1gb"}, 1 << 30),
        ({"SIZE": "1GiB"}, 1 << 30),
        ({"size": "3T"}, 3 << 40),
        ({"size": "1.5 GiB"}, 3 << 29),
    ],
)
def test_sizes(options, size):
    assert parse_storage_options(options) == size


@pytest.mark.parametrize("options", [{"size": "x"}, {"size": "-1"}, {"size": "9" * 30}, {"colour": "1"}])
def test_what_is_no_size(options):
    with pytest.raises(InvalidParameterError):
        parse_storage_options(options)


def test_no_limits_on_proc():
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        limits = Limits(fd)
        assert not limits.offered
        with pytest.raises(InvalidParameterError, match="supported only for overlay over xfs or ext4"):
            limits.require()
        limits.release("self")  # nothing to do, nothing raised
    finally:
        os.close(fd)
