import socket

import pytest

from orlop.runtime import clients
from orlop.runtime.clients import BUFFER_LIMIT, Client, frame
from orlop.spec.launch import AttachTarget


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_client_that_still_sends_reads_the_end_and_no_reset(pair):
    """As ``docker run -i busybox head -c 10``, whose exit status the docker client would not tell."""
    client = Client(pair[0], AttachTarget(multiplexed=False))
    client.offer("stdout", b"last")
    pair[1].sendall(b"x" * 100_000)
    client.close()
    with pytest.raises(BrokenPipeError):
        pair[1].send(b"more")
    assert pair[1].recv(100) == b"last"
    assert pair[1].recv(100) == b""


def test_frame_is_dockers():
    assert frame("stderr", b"abc") == b"\x02\0\0\0\0\0\0\x03abc"
    assert frame("stdout", b"x" * 300)[:8] == b"\x01\0\0\0\0\0\x01\x2c"


@pytest.mark.parametrize(
    ("target", "received"),
    [
        (AttachTarget(), b"\x01\0\0\0\0\0\0\x01o\x02\0\0\0\0\0\0\x01e"),
        (AttachTarget(multiplexed=False), b"oe"),
        (AttachTarget(stdout=False, multiplexed=False), b"e"),
        (AttachTarget(stderr=False, multiplexed=False), b"o"),
    ],
)
def test_a_client_gets_what_it_asked_for(pair, target, received):
    client = Client(pair[0], target)
    client.offer("stdout", b"o")
    client.offer("stderr", b"e")
    client.close()
    assert pair[1].recv(100) == received


def test_preface_comes_before_the_socket_and_keys_are_found_across_them(pair):
    client = Client(pair[0], AttachTarget(stdin=True, detach_keys="1011", preface=b"ab\x10".hex()))
    pair[1].sendall(b"\x11rest")
    assert client.has_preface
    assert client.read() == b"ab"
    assert (client.read(), client.detached) == (b"", True)


def fill(client):
    for _ in range(100):
        if client.full:
            return
        client.offer("stdout", bytes(65536))
    pytest.fail("it takes whatever comes")


def test_a_client_that_does_not_read_is_full_and_then_stuck(pair, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(clients.time, "monotonic", lambda: now[0])
    client = Client(pair[0], AttachTarget(multiplexed=False))
    fill(client)
    assert client.patience() == clients.STUCK_SECONDS
    now[0] += 59
    pair[1].recv(1 << 20)
    client.flush()
    assert client.patience() == clients.STUCK_SECONDS  # it moves
    fill(client)
    now[0] += 61
    assert client.patience() < 0
    assert not client.excess
    assert client.pending
    assert BUFFER_LIMIT < clients.EXCESS_LIMIT


def test_a_client_that_went_is_broken(pair):
    client = Client(pair[0], AttachTarget())
    pair[1].close()
    client.offer("stdout", b"x")
    assert client.broken
    assert not client.full
    assert not client.pending
