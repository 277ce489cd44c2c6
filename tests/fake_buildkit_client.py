"""A client of BuildKit's protocol in memory: what buildx serves on its session, over real gRPC."""

import asyncio
import contextlib
import os
import random
import socket
import stat
from dataclasses import dataclass, field, replace

from orlop.api.buildkit.fsutil import DIRECTORY, Kind, Packet, Stat
from orlop.api.buildkit.messages import (
    AgentRequest,
    BytesMessage,
    CredentialsRequest,
    CredentialsResponse,
    SecretRequest,
    SecretResponse,
)
from orlop.api.grpc.channel import Channel
from orlop.api.grpc.server import Server, unary
from orlop.api.grpc.status import CallError, Code
from orlop.primitives.ignore import IgnoreRules
from orlop.primitives.owned_fd import OwnedFd

SYMLINK, FIFO = 1 << 27, 1 << 25
OLD = 1_600_000_000_123_456_789  # a time that is long ago


@dataclass(frozen=True)
class Node:
    """One file; ``mode`` is Go's."""

    mode: int = 0o644
    data: bytes = b""
    mtime: int = OLD
    link: str = ""
    xattrs: dict = field(default_factory=dict)


def file(data=b"", mode=0o644, **more):
    return Node(mode, data, **more)


def directory(mode=0o755, **more):
    return Node(DIRECTORY | mode, **more)


def link(target):
    return Node(SYMLINK | 0o777, link=target)


TREE = {
    "Dockerfile": file(b"FROM scratch\nCOPY . /\n"),
    "a": directory(0o750),
    "a/big": file(os.urandom(300_000), 0o600),
    "a/empty": file(),
    "a/link": link("../../etc/passwd"),
    "a.b": file(b"#!/bin/sh\n", 0o755),
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve": file(b"x"),
    "same": file(b"", link="a/big"),
}


def stat_of(path, node):
    told = Stat(path=path.encode(), mode=node.mode, mtime=node.mtime, link=node.link.encode(), xattrs=node.xattrs)
    told.size = 0 if node.mode & DIRECTORY or (node.link and not node.mode & SYMLINK) else len(node.data)
    return told


class FakeClient:
    """Serves directories, secrets, agents, logins, uploads; takes outputs.

    Attributes:
        directories: trees by name, each a mapping from path to node.
        calls: (method's last words, metadata) as they came.
        sent: paths whose content was sent.
        taken: what outputs gave: bytes, or a mapping from path to (Stat, bytes).
    """

    def __init__(self, directories=None, *, secrets=None, agent=None, logins=None, uploads=None, expects="bytes"):
        self.directories = directories or {}
        self.secrets = secrets or {}
        self.agent = agent
        self.logins = logins or {}
        self.uploads = uploads or {}
        self.expects = expects
        self.calls = []
        self.sent = []
        self.taken = None
        self.metadata = {}

    def methods(self):
        return {
            "/moby.filesync.v1.FileSync/DiffCopy": self._files,
            "/moby.filesync.v1.FileSend/DiffCopy": self._take,
            "/moby.filesync.v1.Auth/Credentials": unary(self._credentials),
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(self._secret),
            "/moby.sshforward.v1.SSH/CheckAgent": unary(self._check_agent),
            "/moby.sshforward.v1.SSH/ForwardAgent": self._forward,
            "/moby.upload.v1.Upload/Pull": self._upload,
        }

    def _note(self, stream):
        self.calls.append((stream.metadata[":path"][0].rpartition("/")[2], stream.metadata))

    async def _files(self, stream):
        self._note(stream)
        name = stream.metadata["dir-name"][0]
        if name not in self.directories:
            raise CallError(Code.NOT_FOUND, f'no access allowed to dir "{name}"')
        tree = chosen(self.directories[name], stream.metadata)
        listed = sorted(tree, key=lambda path: path.split("/"))
        wanted: asyncio.Queue = asyncio.Queue()
        for path in listed:
            await stream.send(Packet(kind=Kind.STAT, stat=stat_of(path, tree[path])).encode())
        await stream.send(Packet(kind=Kind.STAT).encode())
        workers = [asyncio.create_task(self._send(stream, wanted, listed, tree)) for _ in range(4)]
        try:
            while (message := await stream.receive()) is not None:
                packet = Packet.decode(message)
                if packet.kind == Kind.FIN:
                    break
                assert packet.kind == Kind.REQ
                wanted.put_nowait(packet.number)
            assert wanted.empty()
        finally:
            for worker in workers:
                worker.cancel()
        await stream.send(Packet(kind=Kind.FIN).encode())

    async def _send(self, stream, wanted, listed, tree):
        while True:
            number = await wanted.get()
            path = listed[number]
            self.sent.append(path)
            data = tree[path].data
            while data:
                size = random.randint(1, 40_000)
                await stream.send(Packet(kind=Kind.DATA, number=number, data=data[:size]).encode())
                data = data[size:]
                await asyncio.sleep(0)
            await stream.send(Packet(kind=Kind.DATA, number=number).encode())

    async def _take(self, stream):
        self._note(stream)
        if self.expects == "bytes":
            self.taken = b""
            while (message := await stream.receive()) is not None:
                self.taken += BytesMessage.decode(message).data
            return
        stats, contents, wanted, is_listed = [], {}, set(), False
        while True:
            packet = Packet.decode(await stream.receive())
            if packet.kind == Kind.STAT and packet.stat is not None:
                if not packet.stat.mode >> 19 & ~0b10011 and not packet.stat.link:
                    wanted.add(len(stats))
                    contents[len(stats)] = b""
                    await stream.send(Packet(kind=Kind.REQ, number=len(stats)).encode())
                stats.append(packet.stat)
            elif packet.kind == Kind.STAT:
                is_listed = True
                if not wanted:
                    await stream.send(Packet(kind=Kind.FIN).encode())
            elif packet.kind == Kind.DATA:
                contents[packet.number] += packet.data
                if not packet.data:
                    wanted.remove(packet.number)
                    if is_listed and not wanted:  # else more may come
                        await stream.send(Packet(kind=Kind.FIN).encode())
            else:
                assert packet.kind == Kind.FIN
                break
        self.taken = {told.path.decode(): (told, contents.get(number)) for number, told in enumerate(stats)}

    async def _credentials(self, stream, request):
        self._note(stream)
        username, secret = self.logins.get(CredentialsRequest.decode(request).host, ("", ""))
        return CredentialsResponse(username=username, secret=secret).encode()

    async def _secret(self, stream, request):
        self._note(stream)
        name = SecretRequest.decode(request).name
        if name not in self.secrets:
            raise CallError(Code.NOT_FOUND, f"secret {name}: not found")
        return SecretResponse(data=self.secrets[name]).encode()

    async def _check_agent(self, stream, request):
        self._note(stream)
        if self.agent is None or AgentRequest.decode(request).name != "default":
            raise CallError(Code.UNKNOWN, "unset ssh forward key")
        return b""

    async def _forward(self, stream):
        self._note(stream)
        while (message := await stream.receive()) is not None:
            await stream.send(BytesMessage(data=self.agent(BytesMessage.decode(message).data)).encode())

    async def _upload(self, stream):
        self._note(stream)
        for piece in self.uploads[stream.metadata["urlpath"][0].rpartition("/")[2]]:
            await stream.send(BytesMessage(data=piece).encode())


def chosen(tree, metadata):
    """Return what is left of a tree by a call's metadata, as fsutil's filter leaves it."""
    follow = metadata.get("followpaths")
    rules = IgnoreRules(metadata.get("exclude-patterns", ()))
    found = {path for path in tree if (path in follow if follow else not rules.ignores(path))}
    for path in tuple(found):
        while "/" in path:
            path = path.rpartition("/")[0]
            found.add(path)
    return {path: tree[path] for path in found}


def touched(node, **changes):
    return replace(node, **changes)


@contextlib.asynccontextmanager
async def joined(methods, ledger=None):
    """Yield a channel to a server with these methods, whose failure is raised at the end."""
    ours, theirs = socket.socketpair()
    server = asyncio.create_task(Server(methods, ledger).serve(OwnedFd(theirs.detach()), b""))
    channel = await Channel.begin(OwnedFd(ours.detach()), frozenset(methods))
    running = asyncio.create_task(channel.run(b""))
    try:
        yield channel
    finally:
        channel.close()
        await asyncio.wait_for(running, 60)
        assert channel.closed
        await asyncio.wait_for(server, 60)


def look(root):
    """Return what is in a directory: kind and mode, time, and content or target by path."""
    found = {}
    for above, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(above, name)
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as opened:
                    content = opened.read()
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns, content)
    return found
