"""What the kernel remembers of a container's connections ends with the container, and never reaches the next one."""

from __future__ import annotations

import asyncio
import socket

import pytest
from network_lab import HOST, HOST6, Lab, in_laboratory

from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.spec.ports import PortRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
_PORT = 8053
_TRIES = 20


async def client_of(lab: Lab, version: int) -> socket.socket:
    """Return a UDP socket of the outside that keeps its port: to the kernel all that it sends is one flow."""
    (client,) = await lab.factory.open_inside(lab.outside.fileno(), sockets=[f"udp{version}"])
    client.settimeout(0.25)
    client.connect((HOST6 if version == 6 else HOST, _PORT))
    return client


def ask(client: socket.socket) -> str:
    """Ask once; "" when nobody answers."""
    try:
        client.send(b"?")
        return client.recv(100).decode().split()[0]
    except OSError:
        return ""


async def answer(client: socket.socket, wanted: str) -> bool:
    for _ in range(_TRIES):
        if await asyncio.to_thread(ask, client) == wanted:
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_follows_the_published_port_and_not_the_address(backend: str, version: int):
    six = version == 6

    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("net", ipv6=six))
        publish = AttachRequest(network="net", ports=(PortRequest(53, "udp", "::" if six else "", _PORT, _PORT),))
        client = await client_of(lab, version)
        with client:
            assert await asyncio.to_thread(ask, client) == ""  # the kernel remembers that it goes nowhere else
            first = await service.attach("a" * 64, publish)
            lab.serve(first.netns, 53, "first", udp=True, six=six)
            assert await answer(client, "first")
            service.release("a" * 64)
            await service.settle()
            # without a published port, at the address that the flow led to
            second = await service.attach("b" * 64, AttachRequest(network="net"))
            assert second.endpoints[0].address == first.endpoints[0].address
            lab.serve(second.netns, 53, "second", udp=True, six=six)
            for _ in range(3):
                assert await asyncio.to_thread(ask, client) == ""
            third = await service.attach("c" * 64, publish)
            lab.serve(third.netns, 53, "third", udp=True, six=six)
            assert await answer(client, "third")

    in_laboratory(body)
