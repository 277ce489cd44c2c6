"""Character sets, and the rules of configurations that were regular expressions once."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from orlop.runtime.cgroups.hierarchy import _unescape
from orlop.spec.charset import DIGITS, WORD, consists_of, is_bare, is_number
from orlop.spec.oci.config import _is_version
from orlop.spec.oci.resources import _is_page_size, _is_unified_name

TEXT = st.text("aZ09_.-+/: \t\n\u2028\u0660MKGB\\7\x00", max_size=8)


@given(TEXT)
def test_as_regular_expressions(text: str) -> None:
    assert consists_of(text, WORD, 1, 4) == (re.fullmatch(r"[A-Za-z0-9_]{1,4}", text) is not None)
    assert consists_of(text, DIGITS, 0) == (re.fullmatch(r"[0-9]*", text) is not None)
    assert is_number(text, 3) == (re.fullmatch(r"[0-9]{1,3}", text) is not None)
    assert is_bare(text, "/:", 5) == (re.fullmatch(r"[^\s/:]{0,5}", text) is not None)
    assert _is_unified_name(text) == (re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+", text) is not None)
    octal = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
    assert _unescape(text) == octal


@given(st.from_regex(r"[0-9]{0,11}[KMGB]{0,2}", fullmatch=True))
def test_page_sizes(text: str) -> None:
    assert _is_page_size(text) == (re.fullmatch(r"[1-9][0-9]{0,9}[KMG]B", text) is not None)


@given(st.from_regex(r"[01]?\.?[0-9]{0,4}\.?[0-9]{0,4}[-+]?[0-9A-Za-z.+_-]{0,3}", fullmatch=True))
def test_versions(text: str) -> None:
    wanted = r"1\.[0-9]{1,3}\.[0-9]{1,3}([-+][0-9A-Za-z.+-]{1,40})?"
    assert _is_version(text) == (re.fullmatch(wanted, text) is not None)


def test_octal_escapes() -> None:
    assert _unescape(r"/a\040b\134c\011") == "/a b\\c\t"
