import pytest

from orlop.runtime.detach import DetachKeys

CTRL_P_Q = b"\x10\x11"


@pytest.mark.parametrize(
    ("keys", "chunks", "passed", "detached"),
    [
        (CTRL_P_Q, [b"abc"], b"abc", False),
        (CTRL_P_Q, [b"ab\x10\x11cd"], b"ab", True),
        (CTRL_P_Q, [b"ab\x10", b"\x11"], b"ab", True),
        (CTRL_P_Q, [b"\x10x"], b"\x10x", False),
        (CTRL_P_Q, [b"\x10", b"x"], b"\x10x", False),
        (CTRL_P_Q, [b"\x10"], b"", False),  # held back
        (CTRL_P_Q, [b"\x10\x10\x11"], b"\x10", True),
        (b"a", [b"xay"], b"x", True),
        (b"abc", [b"ab", b"abc"], b"ab", True),
        (b"", [CTRL_P_Q], CTRL_P_Q, False),
    ],
)
def test_sequences(keys, chunks, passed, detached):
    machine = DetachKeys(keys)
    out, ended = b"", False
    for chunk in chunks:
        data, ended = machine.feed(chunk)
        out += data
        if ended:
            break
    assert (out, ended) == (passed, detached)
