"""What the kernel remembers of a container's connections ends with the container, and never reaches the next one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket

import pytest
from network_lab import HOST, HOST6, Lab, in_laboratory, run_in

from harness import PATIENCE
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest
from orlop.spec.ports import PortRequest

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables", "nftables")]
_PORT = 8053
_TRIES = 20 * PATIENCE


async def client_of(lab: Lab, version: int) -> socket.socket:
    """Return a UDP socket of the outside that keeps its port: to the kernel all that it sends is one flow."""
    (client,) = await lab.factory.open_inside(lab.outside.fileno(), sockets=[f"udp{version}"])
    client.settimeout(0.25)
    client.connect((HOST6 if version == 6 else HOST, _PORT))
    return client


def ask(client: socket.socket) -> str:
    """Ask once; "" when nobody answers. What is read may answer an earlier question: a server may be slow."""
    try:
        client.send(b"?")
        return client.recv(100).decode().split()[0]
    except OSError:
        return ""


def ask_anew(client: socket.socket) -> str:
    """Ask once, without what has come on earlier questions."""
    while select.select([client], [], [], 0)[0]:
        with contextlib.suppress(OSError):  # "connection refused", told once
            client.recv(100)
    return ask(client)


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
            assert await asyncio.to_thread(ask_anew, client) == ""  # the kernel remembers that it goes nowhere else
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
                assert await asyncio.to_thread(ask_anew, client) == ""
            third = await service.attach("c" * 64, publish)
            lab.serve(third.netns, 53, "third", udp=True, six=six)
            assert await answer(client, "third")

    in_laboratory(body)


def remove_rules(backend: str) -> None:
    """Do what a reload of somebody else's firewall does."""
    if backend == "nftables":
        run_in(None, "nft", "delete", "table", "ip", "orlop")
        return
    run_in(None, "iptables", "-P", "FORWARD", "ACCEPT")
    for table in ("raw", "filter"):
        run_in(None, "iptables", "-t", table, "-F")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_what_began_without_rules_ends_with_them(backend: str):
    """The first rule lets through what goes on; nothing may be among that which no rule let begin (G5, G8)."""

    async def body(lab: Lab) -> None:
        first = lab.service(firewall_backend=backend, pool_size=0)
        await first.start({})
        quiet = {"com.docker.network.bridge.enable_icc": "false"}
        await first.create_network(NetworkRequest("quiet", options=quiet))
        await first.create_network(NetworkRequest("net"))
        ports = (PortRequest(53, "udp", "", _PORT, _PORT),)
        places = {"a": "net", "b": "net", "c": "quiet", "d": "quiet"}
        sandboxes = {
            name: await first.attach(name * 64, AttachRequest(network=network, ports=ports if name == "b" else ()))
            for name, network in places.items()
        }
        for name, sandbox in sandboxes.items():
            lab.serve(sandbox.netns, 53, name, udp=True)
        sleepers = {name * 64: lab.sleeper(sandbox) for name, sandbox in sandboxes.items()}

        async def client(name: str, to: str) -> socket.socket:
            netns = sandboxes[name].netns
            assert netns is not None
            (sock,) = await lab.factory.open_inside(netns.fileno(), sockets=["udp4"])
            sock.settimeout(0.25)
            sock.connect((sandboxes[to].endpoints[0].address, 53))
            return sock

        with contextlib.ExitStack() as stack:
            fine = {"b": stack.enter_context(await client("a", "b"))}
            assert await answer(fine["b"], "b")
            outside = stack.enter_context(await client_of(lab, 4))
            assert await answer(outside, "b")
            refused = {way: stack.enter_context(await client(*way)) for way in (("a", "c"), ("c", "d"), ("d", "b"))}
            for sock in refused.values():
                assert await asyncio.to_thread(ask_anew, sock) == ""
            await first.close()
            # somebody else goes on to ask for states, so that the kernel goes on to keep them
            run_in(None, "nft", "add table ip other; add chain ip other seen { type filter hook forward priority 5; }")
            run_in(None, "nft", "add rule ip other seen ct state new accept")
            remove_rules(backend)
            for (_, to), sock in refused.items():
                assert await answer(sock, to)
            second = lab.service(firewall_backend=backend, pool_size=0)
            pidfds = {owner: os.pidfd_open(sleeper.pid) for owner, sleeper in sleepers.items()}
            try:
                await second.start(pidfds)
            finally:
                for pidfd in pidfds.values():
                    os.close(pidfd)
            for way, sock in refused.items():
                assert await asyncio.to_thread(ask_anew, sock) == "", way
            assert await answer(fine["b"], "b")
            assert await answer(outside, "b")

    in_laboratory(body)
