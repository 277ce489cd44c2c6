"""Permissions as chmod(1) writes them."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.errors import InvalidParameterError
from orlop.primitives.permissions import Permissions


@pytest.mark.parametrize(
    ("text", "mode", "directory", "wanted"),
    [
        ("755", 0o600, False, 0o755),
        ("07777", 0, True, 0o7777),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o710, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("a+x,u-w", 0o640, False, 0o551),
        ("+t", 0o777, True, 0o1777),
        ("u+s,g=u,o=", 0o751, False, 0o4770),
        ("=r-x+w", 0o4777, False, 0o666),
    ],
)
def test_meaning(text, mode, directory, wanted):
    assert Permissions(text).apply(mode, directory=directory) == wanted


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "u=z", "u+r,", "rwx", "-1", "u=rg", "+x" * 101, "\u0667"])
def test_what_is_none(text):
    with pytest.raises(InvalidParameterError, match="invalid chmod parameter: "):
        Permissions(text)


_LETTERS = st.one_of(st.sampled_from("ugo"), st.text("rwxXst", max_size=4))
_CLAUSES = st.tuples(
    st.text("ugoa", max_size=2), st.lists(st.tuples(st.sampled_from("+-="), _LETTERS), min_size=1, max_size=2)
)


@settings(max_examples=60)
@given(st.lists(_CLAUSES, min_size=1, max_size=3), st.integers(0, 0o7777))
def test_files_get_what_chmod_gives_them(tmp_path_factory, clauses, mode):
    text = ",".join(f"{who}{''.join(operator + letters for operator, letters in actions)}" for who, actions in clauses)
    path = tmp_path_factory.getbasetemp() / "permissions"
    path.touch()
    path.chmod(mode)
    subprocess.run(["sh", "-c", 'umask 0; exec chmod -- "$1" "$2"', "sh", text, path], check=True)
    assert path.stat().st_mode & 0o7777 == Permissions(text).apply(mode, directory=False)
