"""Connections of steps to a client's agent: each ends at the client as well, however it ended here."""

import asyncio
import socket
import struct

from orlop.engine.builds.agents import Agent
from orlop.primitives.owned_fd import OwnedFd

HEAD = struct.Struct(">II")


async def test_a_connection_that_breaks_is_closed_at_the_client() -> None:
    agent = Agent()
    client, ours = socket.socketpair()
    client.setblocking(False)
    running = asyncio.create_task(agent.run(OwnedFd(ours.detach()), b""))
    loop = asyncio.get_running_loop()
    step = await agent.connect()
    step.setblocking(False)
    with client, step:
        step.send(b"question")
        assert await asyncio.wait_for(loop.sock_recv(client, 100), 60) == HEAD.pack(1, 8) + b"question"
        await loop.sock_sendall(client, HEAD.pack(1, 6) + b"answer")
        assert await asyncio.wait_for(loop.sock_recv(step, 1), 60) == b"a"
        step.close()  # with the answer unread: a reset
        assert await asyncio.wait_for(loop.sock_recv(client, 100), 60) == HEAD.pack(1, 0)
    await asyncio.wait_for(running, 60)
