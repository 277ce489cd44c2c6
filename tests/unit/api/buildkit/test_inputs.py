"""Results that clients name to other builds."""

import hashlib

import pytest

from orlop.api.buildkit.control_messages import Definition
from orlop.api.buildkit.inputs import definition_of, named_result
from orlop.errors import OrlopError, UnsupportedError
from orlop.primitives.protobuf.wire import decode, encode


def test_a_definition_comes_back():
    definition = Definition.decode(definition_of("abc").encode())
    assert named_result(definition) == "abc"


def test_it_is_a_graph_as_clients_check_it():
    source, end = definition_of("abc").operations
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    assert decode(decode(end)[1])[1] == digest.encode()
    assert digest in definition_of("abc").metadata


@pytest.mark.parametrize(
    "operation", [b"", encode([(3, [(1, "docker-image://busybox")])]), encode([(3, 5)]), encode([(2, [(1, "x")])])]
)
def test_other_definitions_are_refused(operation):
    with pytest.raises(UnsupportedError, match="low-level definitions"):
        named_result(Definition(operations=[operation]))


def test_what_is_no_operation():
    with pytest.raises(OrlopError):
        named_result(Definition(operations=[b"\xff"]))
