from __future__ import annotations

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.ids import generate_id, is_id, is_id_prefix, short_id
from orlop.spec.names import generate_name, is_name, parse_container_name
from orlop.spec.timestamps import rfc3339_nano, rfc3339_seconds, unix_seconds


def test_ids():
    one = generate_id()
    assert is_id(one)
    assert one != generate_id()
    assert short_id("sha256:" + one) == one[:12]
    assert is_id_prefix(one[:5])
    for bad in ("", "g", "A" * 64, one + "\n", one + "0", "٣"):
        assert not is_id(bad)
    assert not is_id_prefix("a\n")


@pytest.mark.parametrize("name", ["ab", "a.b", "A_-9", "0x"])
def test_good_names(name):
    assert parse_container_name("/" + name) == parse_container_name(name) == name


@pytest.mark.parametrize("name", ["", "a", "/", "-a", ".a", "a/b", "../x", "ab\n", "a b", "aé", "\uff4eame", "//ab"])
def test_bad_names(name):
    assert not is_name(name)
    with pytest.raises(InvalidParameterError) as caught:
        parse_container_name(name)
    assert str(caught.value) == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_generated_names_are_free_and_valid():
    seen: set[str] = set()
    for _ in range(300):
        name = generate_name(seen.__contains__)
        assert is_name(name)
        assert "_" in name
        assert name not in seen
        seen.add(name)
    # When every plain name is taken, a number is added.
    assert any(char.isdigit() for char in generate_name(lambda name: name[-1].isalpha()))


def test_timestamps():
    assert rfc3339_nano(0) == "0001-01-01T00:00:00Z"
    assert rfc3339_nano(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert rfc3339_nano(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert rfc3339_seconds(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"
    assert unix_seconds("2023-11-14T22:13:20.123456789Z") == 1_700_000_000
    assert unix_seconds("nonsense") == 0
