"""What the kernel cannot lead to a published port: [::1], and IPv6 to containers that have only IPv4."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest
from network_lab import HOST, HOST6, Lab, in_laboratory, run_in

from harness import PATIENCE
from orlop.errors import SystemFailureError, UnsupportedError
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.primitives.owned_fd import OwnedFd
from orlop.spec.ports import PortRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]


async def ask(lab: Lab, netns: OwnedFd | None, address: str, port: int, *, udp: bool = False) -> str:
    """Ask until the port listens, which it does some moments after the container's program."""
    for _ in range(100):
        answer = await asyncio.to_thread(lab.ask, netns, address, port, udp=udp)
        if answer:
            return answer
        await asyncio.sleep(0.02)
    return ""


def publish(*ports: tuple[int, str, str, int]) -> tuple[PortRequest, ...]:
    return tuple(PortRequest(inner, kind, ip, outer, outer) for inner, kind, ip, outer in ports)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_ipv6_reaches_containers_that_have_ipv4_only(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0, userland_proxy=True)
        await service.start({})
        await service.create_network(NetworkRequest("six", ipv6=True))
        ports = publish((80, "tcp", "", 8080), (81, "udp", "", 8081), (80, "tcp", "::1", 8082), (80, "tcp", "", 8083))
        web = await service.attach("a" * 64, AttachRequest(container_name="web", ports=ports[:3]))
        stranger = await service.attach("b" * 64, AttachRequest(network="six"))
        assert {(port.host_ip, port.host_port) for port in web.endpoints[0].ports} == {
            *(("0.0.0.0", 8080), ("::", 8080), ("0.0.0.0", 8081), ("::", 8081), ("::1", 8082)),
        }
        lab.serve(web.netns, 80, "hit")
        lab.serve(web.netns, 81, "hit", udp=True)
        gateway = web.endpoints[0].gateway
        for where in ("::1", HOST6):  # the client is the bridge's address, as with docker-proxy
            assert await ask(lab, None, where, 8080) == f"hit {gateway}"
            assert await ask(lab, None, where, 8081, udp=True) == f"hit {gateway}"
        assert await ask(lab, lab.outside, HOST6, 8080) == f"hit {gateway}"
        assert await ask(lab, lab.outside, HOST6, 8081, udp=True) == f"hit {gateway}"
        assert await ask(lab, lab.outside, HOST, 8080) == "hit 10.99.0.2"  # the kernel's way
        assert await ask(lab, None, "::1", 8082) == f"hit {gateway}"
        assert await asyncio.to_thread(lab.is_silent, lab.outside, HOST6, 8082)
        # networks are kept apart on this way as well (threats.md G8)
        assert await asyncio.to_thread(lab.is_silent, stranger.netns, HOST6, 8080)
        assert await asyncio.to_thread(lab.is_silent, stranger.netns, stranger.endpoints[0].gateway6, 8080)
        with pytest.raises(SystemFailureError, match="port is already allocated"):
            await service.attach("c" * 64, AttachRequest(ports=publish((80, "tcp", "::", 8080))))
        service.release("a" * 64)
        await service.settle()
        assert await asyncio.to_thread(lab.is_silent, None, "::1", 8080)
        again = await service.attach("d" * 64, AttachRequest(ports=ports[:3]))
        lab.serve(again.netns, 80, "again")
        assert (await ask(lab, None, "::1", 8080)).startswith("again")

    in_laboratory(body)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_loopback_of_ipv6_reaches_containers_with_ipv6(backend: str):
    async def body(lab: Lab) -> None:
        service = lab.service(firewall_backend=backend, pool_size=0, userland_proxy=True)
        await service.start({})
        network = await service.create_network(NetworkRequest("six", ipv6=True))
        ports = publish((80, "tcp", "", 8080), (80, "tcp", "::1", 8082), (80, "tcp", "127.0.0.1", 8082))
        web = await service.attach("a" * 64, AttachRequest(network="six", container_name="web", ports=ports))
        lab.serve(web.netns, 80, "hit", six=True)
        assert await ask(lab, None, "::1", 8080) == f"hit {network.gateway6}"
        assert await ask(lab, None, "::1", 8082) == f"hit {network.gateway6}"
        assert await ask(lab, lab.outside, HOST6, 8080) == "hit fd99::2"  # the kernel's way
        assert await asyncio.to_thread(lab.is_silent, lab.outside, HOST6, 8082)

    in_laboratory(body)


def test_streams_are_carried_whole_and_both_ways():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0, userland_proxy=True)
        await service.start({})
        web = await service.attach("a" * 64, AttachRequest(ports=publish((80, "tcp", "", 8080))))
        assert web.netns is not None
        (server,) = await lab.factory.open_inside(web.netns.fileno(), sockets=["tcp4"])

        def connects() -> bool:
            try:
                with socket.create_connection(("::1", 8080), 5 * PATIENCE) as client:
                    assert client.recv(1) == b""
            except ConnectionResetError:
                return True
            except ConnectionRefusedError:
                return False
            raise AssertionError("the container's refusal looks like an end")

        for _ in range(4):  # nothing accepts before the application does
            await asyncio.sleep(0.05)
            assert not await asyncio.to_thread(connects)
        server.bind(("0.0.0.0", 80))
        server.listen()
        sent = os.urandom(8 << 20)

        def echo() -> None:
            peer, _ = server.accept()
            with peer:
                while data := peer.recv(65536):
                    peer.sendall(data)

        serving = threading.Thread(target=echo)
        serving.start()

        async def wait_until_it_listens() -> None:
            for _ in range(100 * PATIENCE):
                if "[::1]:8080" in run_in(None, "ss", "-Hltn") or "[::]:8080" in run_in(None, "ss", "-Hltn"):
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("it never listened")

        def talk() -> bytes:
            with socket.create_connection(("::1", 8080), 10 * PATIENCE) as client:
                writing = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
                writing.start()
                received = bytearray()
                while data := client.recv(1 << 20):
                    received += data
                writing.join()
                return bytes(received)

        await wait_until_it_listens()
        assert await asyncio.to_thread(talk) == sent
        serving.join()
        server.close()
        # a connection that the container refuses is a reset, and then it does not listen any more
        while await asyncio.to_thread(connects):
            await asyncio.sleep(0.01)
        (server,) = await lab.factory.open_inside(web.netns.fileno(), sockets=["tcp4"])
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", 80))
        server.listen()
        await wait_until_it_listens()
        server.close()

    in_laboratory(body)


def test_without_the_proxy_it_is_refused():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        with pytest.raises(UnsupportedError, match="cannot publish on ::1"):
            await service.attach("a" * 64, AttachRequest(ports=publish((80, "tcp", "::1", 8080))))
        plain = await service.attach("a" * 64, AttachRequest(ports=publish((80, "tcp", "", 8080))))
        assert [port.host_ip for port in plain.endpoints[0].ports] == ["0.0.0.0"]

    in_laboratory(body)
