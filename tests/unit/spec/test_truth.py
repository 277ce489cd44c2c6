import pytest

from orlop.spec.truth import find_bool, parse_bool


def test_what_go_reads():
    """strconv.ParseBool's list, and nothing beside it."""
    assert {text: find_bool(text) for text in "1 t T TRUE true True 0 f F FALSE false False".split()} == {
        **dict.fromkeys("1 t T TRUE true True".split(), True),
        **dict.fromkeys("0 f F FALSE false False".split(), False),
    }
    for text in ("", "yes", "tRUE", "on", " true", "01"):
        assert find_bool(text) is None
        with pytest.raises(ValueError, match=f'strconv.ParseBool: parsing "{text}": invalid syntax'):
            parse_bool(text)
