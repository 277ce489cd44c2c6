"""Host ports: conflicts, ranges, random ones, and that they are really held."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from orlop.errors import SystemFailureError, UnsupportedError
from orlop.network.ports import DOCKER_RANGE, PortAllocator, local_port_range
from orlop.spec.ports import PortBinding, PortRequest

LOCAL = "127.0.0.1"


@pytest.fixture
def free_ports() -> Iterator[list[int]]:
    """Four ports in a row that nobody has just now; these tests in other processes take others as long as that lasts."""
    for start in range(20000, 30000, 7):
        with contextlib.ExitStack() as stack:
            claim, *sockets = (
                stack.enter_context(socket.socket(family)) for family in (socket.AF_UNIX, *[socket.AF_INET] * 4)
            )
            try:
                claim.bind(f"\0orlop-t-ports-{start}")
                for offset, sock in enumerate(sockets):
                    sock.bind(("0.0.0.0", start + offset))
            except OSError:
                continue
            for sock in sockets:
                sock.close()
            yield [start + offset for offset in range(4)]
            return
    raise AssertionError("no free ports")


@pytest.fixture
def allocator(free_ports: list[int]):
    allocator = PortAllocator(dynamic=(free_ports[0], free_ports[-1]))
    yield allocator
    allocator.close()


def test_random_ports_go_round(allocator: PortAllocator, free_ports: list[int]):
    ports = [allocator.allocate(str(i), [PortRequest(80, "tcp", LOCAL)], address="a")[0].host_port for i in range(4)]
    assert ports == free_ports
    with pytest.raises(SystemFailureError, match=r"^Bind for 127.0.0.1 failed: all ports are allocated$"):
        allocator.allocate("x", [PortRequest(80, "tcp", LOCAL)], address="a")
    allocator.release("2")
    assert allocator.allocate("y", [PortRequest(80, "tcp", LOCAL)], address="a")[0].host_port == ports[2]


def test_conflicts(allocator: PortAllocator, free_ports: list[int]):
    port = free_ports[0]
    bound = allocator.allocate("a", [PortRequest(80, "tcp", LOCAL, port, port)], address="172.17.0.2")
    assert bound == (PortBinding(80, "tcp", LOCAL, port),)
    for ip in (LOCAL, "", "0.0.0.0"):
        with pytest.raises(SystemFailureError, match="port is already allocated"):
            allocator.allocate("b", [PortRequest(80, "tcp", ip, port, port)], address="172.17.0.3")
    allocator.allocate("c", [PortRequest(80, "udp", LOCAL, port, port)], address="172.17.0.3")
    allocator.allocate("d", [PortRequest(80, "tcp", "127.0.0.2", port, port)], address="172.17.0.3")
    allocator.release("a")
    allocator.release("a")
    allocator.allocate("e", [PortRequest(80, "tcp", LOCAL, port, port)], address="172.17.0.3")


def test_range_takes_the_first_free(allocator: PortAllocator, free_ports: list[int]):
    request = PortRequest(80, "tcp", LOCAL, free_ports[0], free_ports[1])
    with socket.socket() as other:
        other.bind((LOCAL, free_ports[0]))
        assert allocator.allocate("a", [request], address="x")[0].host_port == free_ports[1]
        with pytest.raises(SystemFailureError, match="all ports are allocated"):
            allocator.allocate("b", [request], address="x")


def test_all_or_nothing(allocator: PortAllocator, free_ports: list[int]):
    good = PortRequest(80, "tcp", LOCAL, free_ports[0], free_ports[0])
    bad = PortRequest(81, "tcp", LOCAL, free_ports[1], free_ports[1])
    with socket.socket() as other:
        other.bind((LOCAL, free_ports[1]))
        other.listen()
        with pytest.raises(SystemFailureError) as caught:
            allocator.allocate("a", [good, bad], address="172.17.0.2")
    where = f"{LOCAL}:{free_ports[1]}:172.17.0.2:81/tcp"
    assert str(caught.value) == f"failed to bind host port for {where}: address already in use"
    with socket.socket() as now_free:
        now_free.bind((LOCAL, free_ports[0]))
    allocator.allocate("a", [good, bad], address="172.17.0.2")


def test_held_ports_cannot_be_listened_on_and_refuse_clients(allocator: PortAllocator, free_ports: list[int]):
    port = free_ports[0]
    allocator.allocate("a", [PortRequest(80, "tcp", "", port, port)], address="x")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            thief.bind(("0.0.0.0", port))
            thief.listen()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCAL, port), timeout=60)


def test_connections_in_time_wait_do_not_block(allocator: PortAllocator, free_ports: list[int]):
    port = free_ports[0]
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOCAL, port))
        server.listen()
        client = socket.create_connection((LOCAL, port))
        accepted, _ = server.accept()
        accepted.close()  # the server closes first: its side stays in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    with socket.socket() as plain, pytest.raises(OSError):
        plain.bind((LOCAL, port))
    allocator.allocate("a", [PortRequest(80, "tcp", LOCAL, port, port)], address="x")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):
            thief.bind((LOCAL, port))
            thief.listen()


def test_foreign_address(allocator: PortAllocator):
    with pytest.raises(SystemFailureError, match="cannot assign requested address"):
        allocator.allocate("a", [PortRequest(80, "tcp", "192.0.2.1", 8080, 8080)], address="x")
    with pytest.raises(UnsupportedError):
        allocator.allocate("a", [PortRequest(80, "tcp", "::1", 8080, 8080)], address="x")


def test_range_of_random_ports(tmp_path):
    path = tmp_path / "range"
    assert local_port_range(str(path)) == DOCKER_RANGE
    path.write_text("40000\t50000\n")
    assert local_port_range(str(path)) == (40000, 50000)
    path.write_text("rubbish")
    assert local_port_range(str(path)) == DOCKER_RANGE


async def test_a_port_that_is_just_let_go_of_is_waited_for(allocator: PortAllocator, free_ports: list[int]):
    port = free_ports[0]
    wanted = [PortRequest(80, "tcp", LOCAL, port, port)]
    other = socket.socket()  # as a child of the engine has it between clone and execve
    other.bind((LOCAL, port))
    with pytest.raises(
        SystemFailureError, match=f"^failed to bind host port for {LOCAL}:{port}:a:80/tcp: address already"
    ):
        await allocator.take("x", wanted, address="a")
    asyncio.get_running_loop().call_later(0.05, other.close)
    assert (await allocator.take("x", wanted, address="a"))[0].host_port == port
