"""What a build gives, on its way to the client: a directory, or an archive.

Both go through one method of the client's, which knows by the exporter what it is about to get. Who gets the files, and
where they go, is up to the client.
"""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

from orlop.api.buildkit.fsutil import DIRECTORY, Packet, Sending, Stat, go_mode
from orlop.api.buildkit.messages import BytesMessage
from orlop.errors import SystemFailureError, UnavailableError
from orlop.image.feed import in_thread
from orlop.kernel.openat2 import RESOLVE_NO_SYMLINKS
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root
from orlop.primitives.tar.rules import is_kept_xattr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from orlop.api.grpc.stream import Stream

_PIECE = 1 << 17
_BATCH = 256  # files
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


async def send_archive(stream: Stream, chunks: AsyncIterator[bytes]) -> None:
    """Send bytes to their end, and wait until the client has them. Raises CallError: it does not take them."""
    async for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            await stream.send(BytesMessage(data=chunk[start : start + _PIECE]).encode())
    await stream.end()
    while await stream.receive() is not None:
        pass


async def send_directory(stream: Stream, directory: str) -> None:
    """Send what is in a directory, which nobody changes meanwhile, and wait until the client has it.

    Raises:
        CallError, InvalidParameterError, SystemFailureError: the client does not take it.
        UnavailableError: the client has gone.
    """
    with OwnedFd(os.open(directory, _DIRECTORY)) as root:
        outgoing = _Outgoing(stream, root.fileno())
        answers = asyncio.create_task(outgoing.take_requests())
        listing = asyncio.create_task(outgoing.send())
        try:
            await asyncio.wait((answers, listing), return_when=asyncio.FIRST_EXCEPTION)
            if answers.done():
                await answers
            await listing
            await answers
        finally:
            for task in (answers, listing):
                task.cancel()
            await asyncio.gather(answers, listing, return_exceptions=True)
    await stream.end()
    while await stream.receive() is not None:
        pass


class _Outgoing:
    """One directory: what is told of it, and what the client wants."""

    def __init__(self, stream: Stream, root_fd: int) -> None:
        self._stream = stream
        self._root_fd = root_fd
        self._protocol = Sending()
        self._paths: list[bytes] = []
        self._wanted: asyncio.Queue[int | None] = asyncio.Queue()  # each file once

    async def take_requests(self) -> None:
        """Take what the client wants, until it has everything."""
        number: int | None = 0
        while number is not None:
            message = await self._stream.receive()
            if message is None:
                raise UnavailableError("the client ended a transfer of files before it was done")
            number = self._protocol.receive(Packet.decode(message))
            self._wanted.put_nowait(number)

    async def send(self) -> None:
        """Tell of all files, and send those that are wanted."""
        files = walk(self._root_fd)
        try:
            while batch := await in_thread(_next_batch, files):
                for told in batch:
                    self._paths.append(told.path)
                    await self._stream.send(self._protocol.list(told).encode())
        finally:
            files.close()
        await self._stream.send(self._protocol.list(None).encode())
        while (number := await self._wanted.get()) is not None:
            await self._send_file(number)
        await self._stream.send(self._protocol.finish().encode())

    async def _send_file(self, number: int) -> None:
        try:
            with open_in_root(self._root_fd, self._paths[number], _FILE) as file:
                while data := await in_thread(lambda size: os.read(file.fileno(), size), _PIECE):
                    await self._stream.send(self._protocol.piece(number, data).encode())
        except OSError as error:
            raise SystemFailureError(f"read output: {(error.strerror or '').lower()}") from error
        await self._stream.send(self._protocol.piece(number, b"").encode())


def _next_batch(files: Iterator[Stat]) -> list[Stat]:
    try:
        return [told for _, told in zip(range(_BATCH), files, strict=False)]
    except OSError as error:
        raise SystemFailureError(f"read output: {(error.strerror or '').lower()}") from error


def walk(root_fd: int) -> Generator[Stat, None, None]:
    """Yield what is below a directory as a sender tells it; blocks. However deep it is, one descriptor is open.

    Raises:
        OSError: it cannot be read.
    """
    first: dict[tuple[int, int], bytes] = {}  # paths of files with several names
    levels = [(b"", iter(_names(root_fd)))]
    while levels:
        above, names = levels[-1]
        with open_in_root(root_fd, above or b".", _DIRECTORY, extra_resolve=RESOLVE_NO_SYMLINKS) as directory:
            for name in names:
                told = _stat(directory.fileno(), name, above + name, first)
                yield told
                if told.mode & DIRECTORY:
                    with OwnedFd(os.open(name, _DIRECTORY, dir_fd=directory.fileno())) as below:
                        levels.append((told.path + b"/", iter(_names(below.fileno()))))
                    break
            else:
                levels.pop()


def _names(directory_fd: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(directory_fd))


def _stat(parent_fd: int, name: bytes, path: bytes, first: dict[tuple[int, int], bytes]) -> Stat:
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    told = Stat(path=path, mode=go_mode(status.st_mode), uid=status.st_uid, gid=status.st_gid, mtime=status.st_mtime_ns)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        told.link = os.readlink(name, dir_fd=parent_fd)
    if kind in (stat.S_IFREG, stat.S_IFLNK):
        told.size = status.st_size
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        told.major, told.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if kind == stat.S_IFREG and status.st_nlink > 1:
        earlier = first.setdefault((status.st_dev, status.st_ino), path)
        if earlier != path:
            told.link, told.size = earlier, 0
    where = b"/proc/self/fd/%d/%s" % (parent_fd, name)
    for key in os.listxattr(where, follow_symlinks=False):
        if is_kept_xattr(key.encode("utf-8", "surrogateescape")) and key.isprintable():
            told.xattrs[key] = os.getxattr(where, key, follow_symlinks=False)
    return told
