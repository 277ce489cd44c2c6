"""What the tests of BuildKit's clients share: a configuration with the plugin, and clients that use it."""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from orlop.api.buildkit.control_messages import CacheEntry, CacheOptions, SolveRequest, SolveResponse
from orlop.api.grpc.channel import Channel
from orlop.api.grpc.server import Server
from orlop.primitives.owned_fd import OwnedFd

PLUGINS = [Path(os.environ.get("ORLOP_CLI_PLUGINS", "/nowhere"))]
PLUGINS += [Path(path) for path in ("/usr/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins")]


def buildx_of(directory):
    """Make a configuration of the docker client in which it finds buildx; returns its directory. Or skip."""
    found = [path / "docker-buildx" for path in PLUGINS if (path / "docker-buildx").exists()]
    if not found:
        pytest.skip("no docker-buildx; ORLOP_CLI_PLUGINS names a directory")
    config = directory / "config"
    (config / "cli-plugins").mkdir(parents=True)
    shutil.copy(found[0], config / "cli-plugins")
    return config


def run(engine, directory, config, *command, text=True, input=None, **variables):  # noqa: A002 - subprocess' own
    """Run a client in a directory without settings of its own."""
    environment = {**engine.environment, "DOCKER_CONFIG": str(config), **variables}
    environment.pop("DOCKER_BUILDKIT", None)
    return subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=environment,
        input=input,
        capture_output=True,
        text=text,
        timeout=100,
        check=False,
    )


async def upgraded(engine, path, headers=()):
    """Return a connection that the engine has taken away from HTTP/1.1, and what it sent already."""
    sock = socket.socket(socket.AF_UNIX)
    await asyncio.to_thread(sock.connect, str(engine.socket))
    rows = [f"POST {path} HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c", *headers, "", ""]
    sock.sendall("\r\n".join(rows).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await asyncio.to_thread(sock.recv, 4096)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return OwnedFd(sock.detach()), answer.partition(b"\r\n\r\n")[2]


@contextlib.asynccontextmanager
async def control_of(engine):
    """Yield a channel to the engine's side of the protocol."""
    fd, preface = await upgraded(engine, "/grpc")
    control = await Channel.begin(fd, frozenset())
    running = asyncio.create_task(control.run(preface))
    try:
        yield control
    finally:
        control.close()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def solve(engine, client, exporters, *, caches=(), ref="", **attributes):
    """Have a Dockerfile built for a client of our own (``fake_buildkit_client``); returns what programs read."""
    name, methods = secrets.token_hex(12), client.methods()
    headers = [
        f"X-Docker-Expose-Session-Uuid: {name}",
        *(f"X-Docker-Expose-Session-Grpc-Method: {one}" for one in methods),
    ]
    session = asyncio.create_task(Server(methods).serve(*await upgraded(engine, "/session", headers)))
    request = SolveRequest(
        ref=ref or secrets.token_hex(12),
        session=name,
        frontend="dockerfile.v0",
        attributes=attributes,
        exporters=exporters,
    )
    request.cache = CacheOptions(imports=[CacheEntry(type="registry", attributes={"ref": one}) for one in caches])
    try:
        async with control_of(engine) as control:
            answer = await control.unary("/moby.buildkit.v1.Control/Solve", request.encode())
        return SolveResponse.decode(answer).exporter_response
    finally:
        session.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await session
