"""The relay between sockets: both ends, each way of ending, nothing lost, nothing held for ever."""

import fcntl
import hashlib
import random
import select
import socket
import ssl
import struct
import termios
import threading
import time
from contextlib import contextmanager

import pytest

from orlop.tls import relay as relay_module
from orlop.tls.channel import Channel
from orlop.tls.material import client_context, server_context
from orlop.tls.relay import PIECE, Relay

_SMALL = 16384
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes that TCP has not sent yet


class Lab:
    """A relay over a real TCP connection; the peer is a channel that the test drives, blocking.

    Attributes:
        local: what the relay's inner socket is joined to.
        tcp: the peer's socket.
        peer: the peer's side of TLS.
    """

    def __init__(self, material, version: ssl.TLSVersion | None = None) -> None:
        server = server_context(*(str(material.server / name) for name in ("cert.pem", "key.pem", "ca.pem")))
        client = client_context(
            **{what: str(material.client / f"{name}.pem") for what, name in
               (("authority", "ca"), ("certificate", "cert"), ("key", "key"))}
        )  # fmt: skip
        if version is not None:
            client.maximum_version = version
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.tcp = socket.create_connection(listener.getsockname())
            outer, _ = listener.accept()
        self.tcp.settimeout(60)
        self.local, inner = socket.socketpair()
        self.local.settimeout(60)
        self.peer = Channel(client, server=False, host="127.0.0.1")
        channel = Channel(server, server=True)
        while not self.peer.handshake() or not channel.handshake():
            channel.feed(self.peer.take())
            channel.handshake()
            self.peer.feed(channel.take())
        outer.setblocking(False)
        inner.setblocking(False)
        self.reasons: list[str] = []
        self._descriptors = outer.fileno(), inner.fileno()
        self.relay = Relay(outer, inner, channel, report=self.reasons.append)
        self.resume()

    def resume(self) -> None:
        self._stop = False
        self._thread = threading.Thread(target=self._drive)
        self._thread.start()

    def pause(self) -> None:
        """Have the relay do nothing."""
        self._stop = True
        self._thread.join()

    def reset(self) -> None:
        while any(fcntl.ioctl(self.tcp, _SIOCOUTQNSD, bytes(4))):  # what was not sent yet would be lost here
            time.sleep(0.001)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.tcp.close()

    def _drive(self) -> None:
        outer, inner = self._descriptors
        while not self.relay.finished and not self._stop:
            poll = select.poll()
            for descriptor, events in ((outer, self.relay.outer_events), (inner, self.relay.inner_events)):
                if events:
                    poll.register(descriptor, events)
            ready = dict(poll.poll(20))
            self.relay.step(ready.get(outer, 0), ready.get(inner, 0))
            self.relay.check()

    def send(self, data: bytes) -> None:
        self.peer.write(data)
        self.tcp.sendall(self.peer.take())

    def receive(self) -> bytes:
        """Return more plaintext; b"" after close_notify."""
        while True:
            if (data := self.peer.read()) or self.peer.ended:
                return data
            received = self.tcp.recv(1 << 16)
            assert received, "TCP ended without close_notify"
            self.peer.feed(received)

    def receive_all(self) -> bytes:
        parts = []
        while data := self.receive():
            parts.append(data)
        return b"".join(parts)

    def close_notify(self) -> None:
        self.peer.close()
        self.tcp.sendall(self.peer.take())

    def wait_finished(self, seconds: float = 60) -> None:
        self._thread.join(seconds)
        assert self.relay.finished

    def close(self) -> None:
        self.pause()
        self.relay.close()
        self.tcp.close()
        self.local.close()


@pytest.fixture(params=[None, ssl.TLSVersion.TLSv1_2], ids=["TLS 1.3", "TLS 1.2"])
def lab(material, request):
    lab = Lab(material, request.param)
    yield lab
    lab.close()


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def test_bytes_go_both_ways(lab) -> None:
    lab.send(b"question")
    assert lab.local.recv(100) == b"question"
    lab.local.sendall(b"answer")
    assert lab.receive() == b"answer"


def test_peer_ends_its_input_and_still_gets_output(lab) -> None:
    lab.send(b"all of it")
    lab.close_notify()
    assert read_all(lab.local) == b"all of it"
    data = random.Random(1).randbytes(3_000_000)
    writer = threading.Thread(target=lambda: (lab.local.sendall(data), lab.local.close()))
    writer.start()
    assert hashlib.sha256(lab.receive_all()).digest() == hashlib.sha256(data).digest()
    writer.join()
    assert lab.tcp.recv(1) == b""  # FIN, no reset
    lab.tcp.close()
    lab.wait_finished()
    assert lab.reasons == []


def test_peer_ends_with_close_notify_and_fin(lab) -> None:  # what node's TLS sockets do
    lab.send(b"input")
    lab.close_notify()
    lab.tcp.shutdown(socket.SHUT_WR)
    assert read_all(lab.local) == b"input"
    time.sleep(0.1)
    lab.local.sendall(b"output")
    lab.local.close()
    assert lab.receive_all() == b"output"


def test_local_side_ends_its_output_and_still_gets_input(lab) -> None:
    lab.local.sendall(b"that was it")
    lab.local.shutdown(socket.SHUT_WR)
    assert lab.receive_all() == b"that was it"
    lab.send(b"but go on")
    assert lab.local.recv(100) == b"but go on"
    lab.close_notify()
    assert lab.local.recv(100) == b""
    assert lab.tcp.recv(1) == b""
    lab.tcp.close()
    lab.wait_finished()


def test_local_side_closes_after_a_half_close(lab) -> None:
    lab.local.shutdown(socket.SHUT_WR)
    assert lab.receive_all() == b""
    lab.local.close()  # no event tells that
    assert lab.tcp.recv(1) == b""
    lab.tcp.close()
    lab.wait_finished()


def test_closed_local_side_does_not_reset_the_peer(lab) -> None:
    """What was written is on its way, while the peer sends what nobody reads any more."""
    data = random.Random(2).randbytes(3_000_000)
    writer = threading.Thread(target=lambda: (lab.local.sendall(data), lab.local.close()))
    with _sending(lab, b"unread " * 1_000_000):
        time.sleep(0.2)  # until the relay reads no more of it
        writer.start()
        time.sleep(0.2)
        assert lab.receive_all() == data
        writer.join()
    assert lab.tcp.recv(1) == b""
    lab.tcp.close()
    lab.wait_finished()


def _waiting(sock: socket.socket) -> int:
    """How many bytes can be read, once that number rests."""
    last = -1
    while (now := struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]) != last:
        last = now
        time.sleep(0.02)
    return now


def _fill(lab: Lab) -> int:
    """Send until the socketpair is full, and the relay holds a piece; return how much."""
    filling = 0
    while _waiting(lab.local) == filling:
        lab.send(bytes(_SMALL))
        filling += _SMALL
    return filling


def test_both_have_ended_and_the_local_side_reads_late(lab) -> None:
    """``orlop exec -i`` by TLS under load: what its socket did not take at once was lost."""
    lab.local.shutdown(socket.SHUT_WR)
    assert lab.receive_all() == b""
    filling = _fill(lab)
    data = random.Random(6).randbytes(PIECE // 2)
    lab.peer.write(data)
    lab.close_notify()  # which the relay receives together with the data
    assert lab.local.recv(_SMALL, socket.MSG_WAITALL) == bytes(_SMALL)
    time.sleep(0.3)
    assert read_all(lab.local) == bytes(filling - _SMALL) + data
    lab.local.close()
    assert lab.tcp.recv(1) == b""
    lab.tcp.close()
    lab.wait_finished()


def test_peer_that_vanishes_has_its_bytes_delivered(lab) -> None:
    data = random.Random(3).randbytes(1_000_000)
    sender = threading.Thread(target=lambda: (lab.send(data), lab.tcp.close()))
    sender.start()
    time.sleep(0.1)
    assert read_all(lab.local) == data
    sender.join()
    lab.wait_finished()


def test_peer_that_resets_is_noticed_although_nothing_is_read_from_it(lab) -> None:
    lab.close_notify()
    assert lab.local.recv(1) == b""
    lab.reset()
    lab.wait_finished()
    assert lab.reasons == ["connection reset by peer"]
    assert read_all(lab.local) == b""


def test_peer_that_resets_has_its_bytes_delivered(lab) -> None:
    """docker-py's ``sock.close()`` with output unread is a reset; what it wrote before is the container's."""
    data = random.Random(7).randbytes(50_000)
    lab.pause()
    lab.send(data)
    lab.local.sendall(b"output that nobody reads")
    lab.reset()
    lab.relay.step(0, select.POLLIN)
    lab.resume()
    assert read_all(lab.local) == data
    lab.wait_finished()
    assert lab.reasons == ["Connection reset by peer"]


def test_peer_that_resets_has_its_bytes_delivered_to_who_reads_late(lab) -> None:
    filling = _fill(lab)
    data = random.Random(8).randbytes(30_000)
    lab.send(data)
    lab.reset()
    time.sleep(0.2)
    assert read_all(lab.local) == bytes(filling) + data
    lab.wait_finished()


def test_what_a_vanished_peer_sent_is_not_kept_for_ever(lab, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "UNTAKEN", 0.2)
    _fill(lab)
    lab.reset()
    lab.wait_finished()


def test_nothing_is_read_that_nobody_takes(lab) -> None:
    lab.tcp.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            lab.send(bytes(1 << 16))
            sent += 1 << 16
            assert sent < 64 << 20
    lab.local.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += lab.local.send(bytes(1 << 16))
            assert sent < 64 << 20


def test_both_directions_at_once_under_backpressure(lab) -> None:
    there, back = random.Random(4).randbytes(5_000_000), random.Random(5).randbytes(5_000_000)
    received = []

    def sit_inside() -> None:
        reader = threading.Thread(target=lambda: received.append(read_all(lab.local)))
        reader.start()
        lab.local.sendall(back)
        reader.join()
        lab.local.close()

    inside = threading.Thread(target=sit_inside)
    inside.start()
    with _sending(lab, there):
        assert lab.receive_all() == back
    inside.join()
    assert received == [there]


@contextmanager
def _sending(lab: Lab, data: bytes):
    """Encrypt everything first: a channel is no thing for two threads."""
    lab.peer.write(data)
    cipher = lab.peer.take()
    lab.peer.close()
    cipher += lab.peer.take()
    thread = threading.Thread(target=lab.tcp.sendall, args=(cipher,))
    thread.start()
    yield
    thread.join()


def test_damaged_records_end_the_connection(lab) -> None:
    lab.send(b"good")
    assert lab.local.recv(10) == b"good"
    lab.peer.write(b"bad")
    cipher = bytearray(lab.peer.take())
    cipher[-1] ^= 1
    lab.tcp.sendall(cipher)
    assert read_all(lab.local) == b""
    lab.wait_finished()
    assert lab.reasons


def test_what_came_before_damage_is_delivered(lab) -> None:
    lab.pause()
    lab.send(b"good")
    lab.peer.write(b"bad")
    cipher = bytearray(lab.peer.take())
    cipher[-1] ^= 1
    lab.tcp.sendall(cipher)
    lab.resume()
    assert read_all(lab.local) == b"good"
    lab.wait_finished()
    assert lab.reasons


def test_peer_that_reads_later_gets_everything(lab, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "PATIENCE", 0.1)
    lab.local.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += lab.local.send(bytes(1 << 16))
    lab.local.close()
    time.sleep(0.5)
    assert len(lab.receive_all()) == sent
    lab.tcp.close()
    lab.wait_finished()


def test_peer_that_does_not_end_is_left(lab, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "PATIENCE", 0.3)
    lab.local.sendall(b"last words")
    lab.local.close()
    lab.wait_finished()
    assert lab.receive_all() == b"last words"
    assert lab.reasons == []
