"""Clients that wait for a start: who leaves gives the place back, who has said something is kept as long as it may be."""

import asyncio
import os
import socket

import pytest

from orlop.engine.containers.pending_clients import PendingClient, PendingClients
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.launch import AttachTarget

LISTENER = AttachTarget(stdout=True, stderr=True)
SPEAKER = AttachTarget(stdin=True, stdout=True)


class Room:
    """The clients of a container, and their own ends."""

    def __init__(self) -> None:
        self.pending = PendingClients()
        self.ends: list[socket.socket] = []

    def enter(self, target: AttachTarget) -> socket.socket:
        assert self.pending.make_room()
        ours, theirs = socket.socketpair()
        self.ends.append(theirs)
        self.pending.add(PendingClient(target, OwnedFd(ours.detach())))
        return theirs

    @property
    def held(self) -> list[AttachTarget]:
        return [client.target for client in self.pending]


@pytest.fixture
async def room():
    before = len(os.listdir("/proc/self/fd"))
    room = Room()
    yield room
    room.pending.close()
    for end in room.ends:
        end.close()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_listener_that_leaves_is_let_go_at_once(room) -> None:
    stays, leaves = room.enter(LISTENER), room.enter(LISTENER)
    descriptors = [client.socket for client in room.pending]
    leaves.close()
    async with asyncio.timeout(10):
        while len(room.held) > 1:
            await asyncio.sleep(0)
    assert [descriptor.closed for descriptor in descriptors] == [False, True]
    stays.close()
    async with asyncio.timeout(10):
        while room.held:
            await asyncio.sleep(0)
    room.enter(LISTENER)
    assert room.held == [LISTENER]


async def test_who_closes_its_own_direction_alone_stays(room) -> None:
    for _ in range(16):
        room.enter(LISTENER).shutdown(socket.SHUT_WR)
    assert not room.pending.make_room()
    assert len(room.held) == 16


async def test_who_may_have_said_something_stays_until_its_place_is_needed(room) -> None:
    first = room.enter(SPEAKER)
    first.sendall(b"said")
    first.close()
    for _ in range(15):
        room.enter(LISTENER)
    await asyncio.sleep(0.01)
    assert room.held[0] is SPEAKER
    assert room.pending.make_room()
    assert room.held == [LISTENER] * 15
    room.enter(SPEAKER)
    assert not room.pending.make_room()


@pytest.mark.parametrize("target", [LISTENER, SPEAKER])
async def test_any_number_may_come_and_leave(room, target) -> None:
    for _ in range(100):
        room.enter(target).close()


async def test_taken_clients_are_watched_no_more(room) -> None:
    ends = [room.enter(target) for target in (SPEAKER, LISTENER, SPEAKER)]
    ends[0].sendall(b"said")
    ends[0].close()
    await asyncio.sleep(0.01)
    taken = room.pending.take()
    assert [client.target for client in taken] == [SPEAKER, LISTENER, SPEAKER]
    ends[1].close()
    await asyncio.sleep(0.01)
    assert os.read(taken[0].socket.fileno(), 10) == b"said"
    assert room.pending.make_room()
    for client in taken:
        client.socket.close()


async def test_a_socket_that_cannot_be_watched_is_closed(room, tmp_path) -> None:
    file = OwnedFd(os.open(tmp_path / "file", os.O_CREAT))
    with pytest.raises(PermissionError):
        room.pending.add(PendingClient(LISTENER, file))
    assert file.closed
    assert room.held == []
