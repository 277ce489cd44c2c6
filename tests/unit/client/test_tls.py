"""The client's end of TLS: what is written is sent, whatever the program does then."""

import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from harness import wait_for
from orlop.client.address import Address
from orlop.client.failure import ConnectionFailedError
from orlop.client.tls import open_tls
from orlop.tls.channel import Channel
from orlop.tls.material import client_context, server_context

_WRITER = """
import sys
from orlop.client.address import Address
from orlop.client.tls import open_tls
from orlop.tls.material import client_context
host, port, authority, certificate, key, end = sys.argv[1:]
context = client_context(authority=authority, certificate=certificate, key=key)
sock = open_tls(Address("", host=host, port=int(port), tls=context), context, None)
sock.sendall(b"x" * 150_000)
if end == "half":
    sock.shutdown(1)
elif end == "close":
    sock.close()
"""


class Server:
    """Takes one connection after the other."""

    def __init__(self, material) -> None:
        self.material = material
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)
        self.host, self.port = self.listener.getsockname()
        self._context = server_context(*(str(material.server / name) for name in ("cert.pem", "key.pem", "ca.pem")))

    def accept(self) -> ssl.SSLSocket:
        sock, _ = self.listener.accept()
        sock.settimeout(60)
        return self._context.wrap_socket(sock, server_side=True)

    def channel(self) -> Channel:
        """Return the server's side of a connection that it has not read from."""
        return Channel(self._context, server=True)

    @property
    def files(self) -> list[str]:
        return [str(self.material.client / name) for name in ("ca.pem", "cert.pem", "key.pem")]

    def address(self) -> Address:
        authority, certificate, key = self.files
        context = client_context(authority=authority, certificate=certificate, key=key)
        return Address("", host=self.host, port=self.port, tls=context)


@pytest.fixture
def server(material):
    server = Server(material)
    yield server
    server.listener.close()


@pytest.mark.parametrize("end", ["half", "close", "none"])
def test_program_that_ends_at_once_has_its_bytes_sent(server, end) -> None:
    words = [sys.executable, "-c", _WRITER, server.host, str(server.port), *server.files, end]
    with subprocess.Popen(words) as program, server.accept() as peer:
        received = bytearray()
        while data := peer.recv(1 << 16):
            received += data
        assert len(received) == 150_000
    assert program.returncode == 0


def test_program_that_ends_before_the_server_is_ready_has_its_bytes_sent(server) -> None:
    """A server of TLS 1.3 sends tickets when it has seen the end of the handshake: they must find the program there."""
    channel = server.channel()
    words = [sys.executable, "-c", _WRITER, server.host, str(server.port), *server.files, "close"]
    with subprocess.Popen(words) as program, server.listener.accept()[0] as peer:
        peer.settimeout(60)
        channel.feed(peer.recv(1 << 16))
        assert not channel.handshake()
        peer.sendall(channel.take())
        time.sleep(0.5)  # until the program has written everything, which is more than there is room for
        received = 0
        while not channel.ended:
            channel.feed(peer.recv(1 << 16))
            if channel.handshake():
                received += len(channel.read())
            peer.sendall(channel.take())
        assert received == 150_000
    assert program.returncode == 0


def test_socket_that_is_forgotten_is_closed(server) -> None:
    gc.collect()  # what tests before left
    before = len(os.listdir("/proc/self/fd"))
    address = server.address()
    opened = []
    thread = threading.Thread(target=lambda: opened.append(open_tls(address, address.tls, 60)))
    thread.start()
    with server.accept() as peer:
        thread.join()
        with pytest.warns(ResourceWarning):
            opened.clear()
            gc.collect()
        assert peer.recv(1) == b""
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, what="end of all descriptors")


def test_server_that_leaves_during_the_handshake_is_told_of_in_its_own_words(server) -> None:
    """A server of plain HTTP that has left: its answer is what counts, not that it takes no alert."""

    def answer() -> None:
        sock, _ = server.listener.accept()
        with sock:
            sock.recv(1)  # the rest stays unread, and resets the connection
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    address = server.address()
    thread.start()
    with pytest.raises(ConnectionFailedError, match="server gave HTTP response to HTTPS client"):
        open_tls(address, address.tls, 60)
    thread.join()
