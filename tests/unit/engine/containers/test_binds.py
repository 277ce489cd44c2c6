import pytest

from orlop.engine.containers.binds import parse_bind
from orlop.errors import InvalidParameterError


@pytest.mark.parametrize(
    "mode", ["ro,rw", "ro,ro", "z,Z", "shared,slave", "rshared,rprivate", "cached,delegated", "nocopy,nocopy", "ro,"]
)
def test_one_word_of_each_kind(mode):
    with pytest.raises(InvalidParameterError, match=f"invalid mode: {mode}"):
        parse_bind(f"/a:/b:{mode}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a:/b:nocopy", 'invalid mount config for type "bind": field VolumeOptions must not be specified'),
        ("vol:/b:rshared", 'invalid mount config for type "volume": field BindOptions must not be specified'),
        ("v:/b", "create v: volume name is too short, names should be at least two alphanumeric characters"),
    ],
)
def test_what_would_have_no_effect_is_refused(text, message):
    with pytest.raises(InvalidParameterError) as caught:
        parse_bind(text)
    assert message in str(caught.value)
