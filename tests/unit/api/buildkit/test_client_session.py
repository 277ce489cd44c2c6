"""Secrets, agents, logins and outputs of a client on its session, against one in memory that speaks gRPC."""

import asyncio
import os
import socket

import pytest

from fake_buildkit_client import FakeClient, joined
from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.fsutil import Kind, Packet
from orlop.api.grpc.server import unary
from orlop.api.grpc.status import CallError, Code
from orlop.errors import InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.registry.credentials import ANONYMOUS, Credentials


async def test_secrets(files):
    client = FakeClient(secrets={"a": b"\0secret", "long": b"x" * (500 << 10), "longer": b"x" * ((500 << 10) + 1)})
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.secret("a") == b"\0secret"
        assert await session.secret("b") is None
        assert len(await session.secret("long")) == 500 << 10
        with pytest.raises(InvalidParameterError, match="more than 512000 bytes: longer"):
            await session.secret("longer")


async def broken(_stream, _request):
    raise CallError(Code.UNKNOWN, "keychain is locked")


async def test_a_client_that_fails_or_has_no_service(files):
    async with joined({"/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(broken)}) as channel:
        session = ClientSession(channel, files)
        with pytest.raises(SystemFailureError, match="failed to get secret a: keychain is locked"):
            await session.secret("a")
        assert await session.credentials("registry.test") is ANONYMOUS
        assert not await session.has_agent("default")
        with pytest.raises(NotFoundError, match="unset ssh forward key"):
            await session.connect_agent("default")
        with pytest.raises(InvalidParameterError, match="takes no output"):
            await session.send_directory("/")
    async with joined({"/moby.filesync.v1.Auth/Credentials": unary(broken)}) as channel:
        session = ClientSession(channel, files)
        assert await session.secret("a") is None
        with pytest.raises(SystemFailureError, match=r"failed to get credentials for .*: keychain is locked"):
            await session.credentials("registry.test")


async def test_an_agent(files):
    client = FakeClient(agent=lambda data: data.upper())
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.has_agent("default")
        assert not await session.has_agent("other")
        first, second = [await session.connect_agent("default") for _ in range(2)]
        try:
            for sock in (second, first):
                sock.sendall(b"sign")
                assert await asyncio.to_thread(sock.recv, 100) == b"SIGN"
            first.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(first.recv, 100) == b""
            session.close()
            assert await asyncio.to_thread(second.recv, 100) == b""
        finally:
            first.close()
            second.close()
        assert client.calls[-1][1]["buildkit.ssh.id"] == ["default"]


async def test_logins(files):
    hub = "registry-1.docker.io"
    client = FakeClient(logins={hub: ("me", "pass"), "r.test:5000": ("", "token")})
    async with joined(client.methods()) as channel:
        session = ClientSession(channel, files)
        assert await session.credentials("docker.io") == Credentials("me", "pass")
        assert await session.credentials("r.test:5000") == Credentials(identity_token="token")
        assert await session.credentials("else.test") == ANONYMOUS


async def chunks(*pieces):
    for piece in pieces:
        yield piece


async def test_an_archive_is_sent(files):
    client = FakeClient()
    big = os.urandom(3_000_000)
    async with joined(client.methods()) as channel:
        await ClientSession(channel, files).send_archive(chunks(b"a", b"", big), exporter="1")
    assert client.taken == b"a" + big
    assert client.calls[0][1]["buildkit-attachable-exporter-id"] == ["1"]


async def test_a_directory_is_sent(files, tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    big = os.urandom(1_000_000)
    (root / "a" / "big").write_bytes(big)
    (root / "a.b").write_bytes(b"")
    os.chmod(root / "a.b", 0o4755)
    os.link(root / "a" / "big", root / "same")
    os.symlink("/etc/shadow", root / "link")
    os.mkfifo(root / "pipe")
    client = FakeClient(expects="files")
    async with joined(client.methods()) as channel:
        await ClientSession(channel, files).send_directory(str(root))
    found = {path: (told.mode, told.link, told.size, content) for path, (told, content) in client.taken.items()}
    assert list(found) == ["a", "a/big", "a.b", "link", "pipe", "same"]
    assert found["a/big"] == (0o644, b"", 1_000_000, big)
    assert found["a.b"] == (1 << 23 | 0o755, b"", 0, b"")
    assert found["link"][1] == b"/etc/shadow"
    assert found["same"] == (0o644, b"a/big", 0, None)
    assert found["pipe"][0] == 1 << 25 | 0o644


async def test_a_client_that_does_not_take_a_directory(files, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)

    async def refuse(stream):
        await stream.receive()
        raise CallError(Code.UNKNOWN, "read-only file system")

    async def ask_for_more(stream):
        await stream.send(Packet(kind=Kind.REQ, number=9).encode())
        await stream.receive()

    for method, error, message in (
        (refuse, OrlopError, "read-only file system"),
        (ask_for_more, InvalidParameterError, "unexpected packet of the client's: REQ of file 9"),
    ):
        async with joined({"/moby.filesync.v1.FileSend/DiffCopy": method}) as channel:
            with pytest.raises(error, match=message):
                await ClientSession(channel, files).send_directory(str(tmp_path))
