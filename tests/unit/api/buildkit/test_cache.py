"""Which records of the cache buildx's filters mean."""

import pytest

from orlop.api.buildkit.cache import _choose
from orlop.engine.builds import CacheEntry
from orlop.errors import InvalidParameterError

ENTRIES = [
    CacheEntry("0123", "regular", "RUN a, b", 5, 1, 2, in_use=True, shared=True),
    CacheEntry("4567", "regular", "COPY", 5, 1, 2),
    CacheEntry("contexts", "source.local", "files", 5, 1, 2),
]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["0123", "4567", "contexts"]),
        ([""], ["0123", "4567", "contexts"]),
        (["type==regular"], ["0123", "4567"]),
        (["type!=regular"], ["contexts"]),
        (["id~=456"], ["4567"]),
        (["id==456"], []),
        (["shared"], ["0123"]),
        (["!shared"], ["4567", "contexts"]),
        (["private,type==regular"], ["4567"]),
        (["inuse==true"], ["0123"]),
        (["mutable", "id==0123"], ["0123", "contexts"]),
        (['description=="RUN a, b"'], ["0123"]),
        (["nonsense==x"], []),
        (["id~=((((((((((a*)*)*)*)*)*)*)*)*)*$"], []),
    ],
)
def test_filters(filters, ids):
    assert [entry.id for entry in _choose(ENTRIES, filters)] == ids


@pytest.mark.parametrize("text", ["type=regular", "==", 'id=="x', ",", "type==a,,b"])
def test_what_is_no_filter(text):
    with pytest.raises(InvalidParameterError, match="invalid filter"):
        _choose(ENTRIES, [text])
