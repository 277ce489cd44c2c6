"""A spawner that the tests answer for."""

import asyncio
import socket

import pytest

from orlop.engine.spawner import Spawner
from orlop.primitives.channel import Channel


class FakeSpawner:
    """The other end of the spawner's socket, and the children that it has forked."""

    def __init__(self):
        self.starts = 0
        self.peer = None

    def start(self):
        self.starts += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.peer = Channel(theirs)
        return ours

    async def take(self):
        """Take a request; returns the message, the child's channel and further descriptors."""
        message, fds = await asyncio.to_thread(self.peer.receive)
        return message, Channel.from_fd(fds[0]), fds[1:]

    def is_asked(self):
        """Whether a request waits; it is taken."""
        self.peer.set_blocking(False)
        try:
            self.peer.receive()
        except BlockingIOError:
            return False
        finally:
            self.peer.set_blocking(True)
        return True


@pytest.fixture
async def fake_spawner():
    """The engine's client of the spawner, and the spawner."""
    fake = FakeSpawner()
    spawner = Spawner(fake.start)
    spawner.open()
    yield spawner, fake
    await spawner.close()
    fake.peer.close()
