"""The name server on sockets: what it remembers of its answers, and when it forgets."""

from __future__ import annotations

import asyncio
import socket

import dns.message
import dns.rcode
import pytest

from orlop.network.dns.names import Names, View
from orlop.network.dns.server import NameServer
from orlop.network.sandbox import Endpoint


def endpoint(number: int, *names: str) -> Endpoint:
    return Endpoint(id=f"e{number}", network_id="one", network_name="net-one", address=f"10.0.0.{number}", names=names)


class Client:
    """Asks a name server by UDP."""

    def __init__(self, names: Names) -> None:
        udp, self.sock = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        tcp = socket.socket()
        for sock in (udp, tcp):
            sock.bind(("127.0.0.1", 0))
        tcp.listen()
        self.sock.connect(udp.getsockname())
        self.sock.setblocking(False)
        self.server = NameServer(udp, tcp, view=View(names, ["one"], {}), upstream=None)

    async def ask(self, name: str) -> list[str] | dns.rcode.Rcode:
        """Return addresses in the order of the answer, or the code of a refusal."""
        query = dns.message.make_query(name, "A")
        self.sock.send(query.to_wire())
        async with asyncio.timeout(60):
            wire = await asyncio.get_running_loop().sock_recv(self.sock, 512)
        answer = dns.message.from_wire(wire)
        assert query.is_response(answer)  # its number and its question
        found = [record.to_text() for records in answer.answer for record in records]
        return found or answer.rcode()

    def close(self) -> None:
        self.server.close()
        self.sock.close()


@pytest.fixture
def names():
    return Names()


def asking(names: Names, script) -> None:
    async def work() -> None:
        client = Client(names)
        try:
            await script(client)
        finally:
            client.close()

    asyncio.run(work())


def test_a_remembered_answer_is_forgotten_with_any_change_of_names(names):
    async def script(client: Client) -> None:
        names.add(endpoint(2, "web"))
        for _ in range(3):
            assert await client.ask("web") == ["10.0.0.2"]
        names.remove(endpoint(2, "web"))
        assert await client.ask("web") == dns.rcode.SERVFAIL
        names.add(endpoint(3, "web"))
        assert await client.ask("web") == ["10.0.0.3"]

    asking(names, script)


def test_several_addresses_still_take_turns(names):
    async def script(client: Client) -> None:
        names.add(endpoint(2, "web"))
        names.add(endpoint(3, "web"))
        first = set()
        for _ in range(200):  # all alike by chance: once in 2**199
            found = await client.ask("web")
            assert sorted(found) == ["10.0.0.2", "10.0.0.3"]
            first.add(found[0])
        assert first == {"10.0.0.2", "10.0.0.3"}

    asking(names, script)


def test_memory_is_bounded(names):
    async def script(client: Client) -> None:
        names.add(endpoint(2, *(f"n{number}" for number in range(600))))
        for number in range(600):
            assert await client.ask(f"n{number}") == ["10.0.0.2"]
        assert len(client.server.view._remembered) <= 256

    asking(names, script)
