"""JSON as the standard library reads and writes it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.primitives.json_text import dumps, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_writes_and_reads_what_json_does(value: object) -> None:
    assert dumps(value) == json.dumps(value, separators=(",", ":"))
    assert dumps(value, ensure_ascii=False) == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    assert loads(json.dumps(value, indent=1)) == value
    assert loads(dumps(value).encode()) == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "1 2", '{"a"', '"\x01"', "\n\n[x]", "tru", '{"a":1,}', "[1"])
def test_refuses_in_the_words_of_json(text: str) -> None:
    with pytest.raises(ValueError, match="char") as ours:
        loads(text)
    with pytest.raises(ValueError, match="char") as theirs:
        json.loads(text)
    assert str(ours.value) == str(theirs.value)


def test_hooks() -> None:
    assert loads('{"a":1,"a":2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]
    assert loads("[NaN]", parse_constant=str) == ["NaN"]
    with pytest.raises(RecursionError):
        loads("[" * 100_000)
    with pytest.raises(ValueError, match="utf-8"):
        loads(b'"\xff"')
    with pytest.raises(TypeError, match="object"):
        dumps(object())


def test_refuses_where_json_was_not_imported() -> None:
    program = (
        "from orlop.primitives.json_text import loads\n"
        "try:\n    loads('{')\nexcept ValueError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout == "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"


def test_refuses_where_imports_are_blocked() -> None:
    program = (
        "import sys\nfrom orlop.primitives.json_text import loads\nsys.meta_path[:] = []\n"
        "for text in ('', '{', '[1'):\n"
        "    try:\n        loads(text)\n    except ValueError:\n        continue\n    sys.exit(1)\n"
        "sys.exit('json' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
