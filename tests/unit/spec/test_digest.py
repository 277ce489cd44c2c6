import hashlib

import pytest

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest, chain_id, chain_ids

A = "a" * 64


def test_of_bytes_is_sha256():
    assert str(Digest.of(b"x")) == "sha256:" + hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        A,
        f"sha256:{A[:-1]}",
        f"sha256:{A}a",
        f"sha256:{'A' * 64}",
        f"sha256:{A}\n",
        f"sha512:{A}",
        f"sha256:../{A[3:]}",
        f"sha256:{chr(0x660) * 64}",
        f" sha256:{A}",
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(InvalidParameterError):
        Digest.parse(text)


def test_chain_of_one_layer_is_its_diff_id():
    assert chain_id(None, Digest(A)) == Digest(A)


def test_chain_ids_follow_the_image_spec():
    first, second, third = (Digest(digit * 64) for digit in "abc")
    two = Digest.of(f"{first} {second}".encode())
    assert chain_ids([first, second, third]) == (first, two, Digest.of(f"{two} {third}".encode()))
