"""The name server at 127.0.0.11: what it passes on, from where, and what it does not (threats.md G2, G11)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest
from network_lab import CLONE_NEWNET, HOST, OUTSIDE, Lab, in_laboratory, run_in

from harness import PATIENCE
from orlop.errors import OrlopError
from orlop.kernel.syscall import libc
from orlop.network.dns import upstream
from orlop.network.requests import NetworkRequest
from orlop.network.sandbox import AttachRequest, EndpointWish, NameServerWish
from orlop.primitives.owned_fd import OwnedFd

pytestmark = [pytest.mark.privileged, pytest.mark.requires("root", "netns", "iptables")]
A, B = "a" * 64, "b" * 64


def enter(netns: OwnedFd) -> None:
    assert libc.setns(netns.fileno(), CLONE_NEWNET) == 0


class Outside(threading.Thread):
    """A name server in the outside namespace that notes who asks, and misbehaves on request."""

    def __init__(self, netns: OwnedFd, address: str) -> None:
        super().__init__(daemon=True)
        self.peers: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.ready = threading.Event()
        self.address = address
        self.netns = netns
        self.stop = False
        self.start()
        assert self.ready.wait(5 * PATIENCE)

    def answer(self, data: bytes) -> dns.message.Message:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.asked.append(name.to_text())
        response = dns.message.make_response(query)
        count = 100 if name.to_text().startswith("big") else 1
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", *(f"192.0.2.{i + 1}" for i in range(count))))
        return response

    def run(self) -> None:
        enter(self.netns)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((self.address, 53))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((self.address, 53))
            tcp.listen()
            udp.settimeout(0.05)
            tcp.settimeout(0.05)
            self.ready.set()
            while not self.stop:
                with contextlib.suppress(TimeoutError):
                    self.one(udp)
                with contextlib.suppress(TimeoutError):
                    client, _ = tcp.accept()
                    with client:
                        client.settimeout(1)
                        (length,) = struct.unpack(">H", client.recv(2))
                        wire = self.answer(client.recv(length)).to_wire()
                        client.sendall(struct.pack(">H", len(wire)) + wire)

    def one(self, udp: socket.socket) -> None:
        data, peer = udp.recvfrom(4096)
        self.peers.append(peer)
        response = self.answer(data)
        name = self.asked[-1]
        if name.startswith("drop"):
            return
        if name.startswith("spoof"):
            lie = dns.message.make_response(dns.message.from_wire(data))
            lie.id ^= 1
            lie.answer.append(dns.rrset.from_text(lie.question[0].name, 60, "IN", "A", "203.0.113.66"))
            udp.sendto(lie.to_wire(), peer)
        if name.startswith("refuse"):
            response.answer.clear()
            response.set_rcode(dns.rcode.REFUSED)
        if name.startswith("big"):
            response.answer.clear()
            response.flags |= dns.flags.TC
        udp.sendto(response.to_wire(), peer)


async def within(netns: OwnedFd, work: Any) -> Any:
    """Run ``work`` in a thread of its own in a namespace, while the event loop goes on."""

    def body() -> Any:
        enter(netns)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, body)


async def ask(netns: OwnedFd, name: str, kind: str = "A", *, timeout: float = 10 * PATIENCE) -> dns.message.Message:
    """Ask the container's name server, again by TCP when the answer is cut off."""

    def work() -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        return dns.query.udp_with_fallback(query, "127.0.0.11", timeout=timeout, ignore_trailing=True)[0]

    return await within(netns, work)


def addresses(message: dns.message.Message) -> list[str]:
    return [record.to_text() for records in message.answer for record in records]


def wish(network: str, *names: str) -> AttachRequest:
    return AttachRequest(
        network=network,
        container_name=names[0],
        endpoints=(EndpointWish(network, names=names),),
        name_servers=NameServerWish((OUTSIDE,)),
    )


def test_questions_are_passed_on_from_inside():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web", "alias"))
        assert web.name_server
        outside = Outside(lab.outside, OUTSIDE)
        try:
            assert addresses(await ask(web.netns, "example.org")) == ["192.0.2.1"]
            assert addresses(await ask(web.netns, "spoof.example.org")) == ["192.0.2.1"]
            big = await ask(web.netns, "big.example.org")
            assert len(addresses(big)) == 100
            assert (await ask(web.netns, "refuse.example.org")).rcode() == dns.rcode.REFUSED
            # what the container's network knows is not asked of anybody
            assert addresses(await ask(web.netns, "alias")) == [web.endpoints[0].address]
            assert addresses(await ask(web.netns, "alias", "MX")) == []
            assert not any("alias" in name for name in outside.asked)
            # masqueraded by the host: they came from the container, and each from another port
            assert {peer[0] for peer in outside.peers} == {HOST}
            for number in range(20):
                await ask(web.netns, f"n{number}.example.org")
            assert len({peer[1] for peer in outside.peers}) > 15
            # rules inside the container's namespace hold for its questions (they leave from there)
            run_in(web.netns, "ip", "route", "add", "blackhole", f"{OUTSIDE}/32")
            assert (await ask(web.netns, "other.example.org")).rcode() == dns.rcode.SERVFAIL
        finally:
            outside.stop = True

    in_laboratory(body)


def test_an_internal_network_asks_nobody():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("inner", internal=True))
        await service.create_network(NetworkRequest("outer"))
        outside = Outside(lab.outside, OUTSIDE)
        on_host = NameServerWish(("127.0.0.53", OUTSIDE), ("127.0.0.53",))
        request = AttachRequest(
            network="inner", endpoints=(EndpointWish("inner", names=("web",)),), name_servers=on_host
        )
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.53", 53))
        listener.settimeout(0.3)
        try:
            web = await service.attach(A, request)
            assert (await ask(web.netns, "exfiltrated.example.org")).rcode() == dns.rcode.SERVFAIL
            assert addresses(await ask(web.netns, "web")) == [web.endpoints[0].address]
            with pytest.raises(TimeoutError):
                listener.recv(100)
            assert outside.asked == []
            # with a way out they are asked: the host's loopback from the host, which says nothing
            web = await service.connect(A, EndpointWish("outer", names=("web",)), request=request)
            assert addresses(await ask(web.netns, "example.org")) == ["192.0.2.1"]
            assert dns.message.from_wire(listener.recv(512)).question[0].name.to_text() == "example.org."
            await service.disconnect(A, service.network("outer"), request=request)
            assert (await ask(web.netns, "again.example.org")).rcode() == dns.rcode.SERVFAIL
            assert "again.example.org." not in outside.asked
        finally:
            outside.stop = True
            listener.close()

    in_laboratory(body)


def test_a_flood_takes_nobody_elses_turn(monkeypatch):
    async def body(lab: Lab) -> None:
        monkeypatch.setattr(upstream, "SECONDS", 1.0)
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web"))
        other = await service.attach(B, wish("n1", "other"))
        outside = Outside(lab.outside, OUTSIDE)
        queries = [dns.message.make_query(f"drop{i}.example.org", "A").to_wire() for i in range(400)]

        def flood() -> int:
            refused = 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(3 * PATIENCE)
                for number, query in enumerate(queries):
                    sock.sendto(query, ("127.0.0.11", 53))
                    if number % 20 == 0:
                        time.sleep(0.01)
                with contextlib.suppress(TimeoutError):
                    while refused <= 100:
                        refused += dns.message.from_wire(sock.recv(512)).rcode() == dns.rcode.SERVFAIL
            return refused

        try:
            flooding = asyncio.ensure_future(within(web.netns, flood))
            await asyncio.sleep(0.3)
            assert addresses(await ask(other.netns, "web")) == [web.endpoints[0].address]
            assert service._resolvers._in_flight._count <= 256  # of the 1024 that all have together
            assert await flooding > 100
            assert addresses(await ask(web.netns, "web")) == [web.endpoints[0].address]
            async with asyncio.timeout(30):
                while service._resolvers._in_flight._count:
                    await asyncio.sleep(0.02)
        finally:
            outside.stop = True

    in_laboratory(body)


def test_hostile_bytes_are_survived():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web"))

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for data in (b"", b"\0", b"\xff" * 12, b"\0" * 500, b"\xc0\x0c" * 100):
                    udp.sendto(data, ("127.0.0.11", 53))
            for data in (b"\0", b"\xff\xff" + b"x" * 100, b"\0\x0c" + b"\0" * 12, b"\0\0"):
                with socket.create_connection(("127.0.0.11", 53), timeout=2) as tcp:
                    tcp.sendall(data)

        await within(web.netns, send)
        assert addresses(await ask(web.netns, "web")) == [web.endpoints[0].address]

    in_laboratory(body)


def test_port_53_stays_free():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web"))

        def serve() -> None:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(socket.AF_INET, kind) as sock:
                    sock.bind(("0.0.0.0", 53))

        await within(web.netns, serve)

    in_laboratory(body)


def test_a_container_pays_for_its_name_server_only_when_it_asks():
    """Its connections are not tracked in its namespace, as they would be for NAT: that costs every packet."""

    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web"))
        query = dns.message.make_query("web", "A")
        for ask_by in (dns.query.udp, dns.query.tcp):
            answer = await within(web.netns, lambda by=ask_by: by(query, "127.0.0.11", timeout=10))
            assert addresses(answer) == [web.endpoints[0].address]
        count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        assert await within(web.netns, count.read_text) == "0\n"

    in_laboratory(body)


def test_questions_are_refused_at_once_while_the_engine_is_away():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        web = await service.attach(A, wish("n1", "web"))
        lab.sleeper(web)
        with web.netns.duplicate() as netns:
            await service.close()

            def send(kind: socket.SocketKind) -> None:
                with socket.socket(socket.AF_INET, kind) as sock:
                    sock.settimeout(5)
                    sock.connect(("127.0.0.11", 53))
                    sock.send(b"?")
                    sock.recv(100)

            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with pytest.raises(ConnectionRefusedError):
                    await within(netns, lambda kind=kind: send(kind))

    in_laboratory(body)


def test_a_container_that_ends_while_it_joins_leaves_nothing():
    async def body(lab: Lab) -> None:
        service = lab.service(pool_size=0)
        await service.start({})
        await service.create_network(NetworkRequest("n1"))
        n2 = await service.create_network(NetworkRequest("n2"))
        links = lab.links()
        for _ in range(3):
            web = await service.attach(A, wish("n1", "web"))
            joining = asyncio.ensure_future(
                service.connect(A, EndpointWish("n2", names=("web",)), request=AttachRequest(container_name="web"))
            )
            await asyncio.sleep(0)
            service.release(A)
            with pytest.raises(OrlopError):
                await joining
            await service.settle()
            assert service.sandbox(A) is None
            assert lab.database.execute("SELECT count(*) FROM endpoint").fetchone() == (0,)
            assert lab.database.execute("SELECT count(*) FROM sandbox").fetchone() == (0,)
            await lab.wait_links(links)
        other = await service.attach(B, wish("n2", "other"))
        assert other.endpoints[0].address.endswith(".0.2")
        assert service.endpoints_of(n2.id).keys() == {B}
        assert addresses(await ask(other.netns, "other")) == [other.endpoints[0].address]
        assert web.endpoints[0].address not in str(lab.database.execute("SELECT * FROM endpoint").fetchall())

    in_laboratory(body)
