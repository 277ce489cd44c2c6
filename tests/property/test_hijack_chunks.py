"""However a client's bytes are cut into packets, the request gets its body and the new owner gets the rest, in order."""

from __future__ import annotations

import asyncio
import socket
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.api.app import Application
from orlop.api.call import Call, Route
from orlop.api.hijack import hijack
from orlop.api.responses import json_response

PLAIN = b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n"
chunks = st.lists(st.integers(1, 200), min_size=0, max_size=12)


async def _exchange(body: bytes, early: bytes, cuts: list[int], leading: int) -> tuple[bytes, bytes]:
    taken: asyncio.Future = asyncio.get_running_loop().create_future()

    async def plain(_call: Call):
        return json_response({})

    async def start(call: Call):
        data = await call.read()
        hijacked = await hijack(call)
        taken.set_result((data, hijacked))
        return hijacked.response

    app = Application([Route("GET", "/plain", plain), Route("POST", "/exec/{id}/start", start)])
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as home:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{home}/s")
        listener.listen()
        await app.listen(listener)
        reader, writer = await asyncio.open_unix_connection(f"{home}/s")
        for _ in range(leading):
            writer.write(PLAIN)
            await reader.readuntil(b"{}\n")
        head = b"POST /exec/e/start HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nContent-Length: %d\r\n\r\n"
        rest = head % len(body) + body + early
        for cut in cuts:
            writer.write(rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0)
        writer.write(rest)
        writer.write_eof()
        async with asyncio.timeout(60):
            data, hijacked = await taken
            got = hijacked.preface
            with socket.socket(fileno=hijacked.fd.release()) as client:
                client.setblocking(False)
                while part := await loop.sock_recv(client, 65536):
                    got += part
        writer.close()
        await app.close(0.1)
    return data, got


@settings(max_examples=60)
@given(
    body=st.binary(max_size=300),
    early=st.binary(max_size=300) | st.just(PLAIN * 3) | st.just(b"POST /exec/e/start HTTP/1.1\r\n\r\n"),
    cuts=chunks,
    leading=st.integers(0, 2),
)
def test_every_cut_gives_the_same(body: bytes, early: bytes, cuts: list[int], leading: int) -> None:
    assert asyncio.run(_exchange(body, early, cuts, leading)) == (body, early)
