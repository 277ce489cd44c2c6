"""Files of results, which a client's own program reads (``LLBBridge/ReadFile``, ``ReadDir``, ``StatFile``).

A result is what a Dockerfile made, or a git repository: the one low-level definition that is understood, since
``docker buildx bake`` reads its definitions from there. Files are a stranger's: paths are followed inside the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from orlop.api.buildkit.client_session import ClientSession
from orlop.api.buildkit.errors import told_as_a_build
from orlop.api.buildkit.fsutil import Stat, go_mode
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError
from orlop.kernel.syscall import SyscallError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import TypeVar

    from orlop.api.buildkit.jobs import Job

    T = TypeVar("T")

LIMIT = 4 << 20  # of one answer; a client reads more in ranges
_MOST_ENTRIES = 20_000


class ResultFiles:
    """A tree of files, made when somebody looks into it first, and gone with its build.

    Args:
        make: has the files in a directory until its block ends.

    Attributes:
        id: its name as a result.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[str]]) -> None:
        self.id = secrets.token_hex(12)
        self._make = make
        self._stack = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()
        self._directory: str | None = None
        self._closed = False

    async def directory(self) -> str:
        """Return where the files are. Raises CallError and others: they cannot be had."""
        async with self._lock:
            if self._closed:
                raise NotFoundError("the build is over")
            if self._directory is None:
                self._directory = await self._stack.enter_async_context(self._make())
        return self._directory

    async def close(self) -> None:
        """Remove the files."""
        async with self._lock:
            self._closed = True
            await self._stack.aclose()

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """Return a part of a file, with ``length`` 0 all of it behind ``offset``.

        Raises:
            NotFoundError, InvalidParameterError: no such file; too much.
        """
        return await self._look(path, lambda fd: _read(fd, path, offset, length))

    async def list(self, path: str, pattern: str) -> list[Stat]:
        """Return what is in a directory, but for names that do not match. Raises NotFoundError and others."""
        return await self._look(path, lambda fd: _list(fd, path, pattern))

    async def stat(self, path: str) -> Stat:
        """Return what a path leads to. Raises NotFoundError."""
        return await self._look(path, lambda fd: _told(os.path.basename(path), os.fstat(fd)))

    async def _look(self, path: str, look: Callable[[int], T]) -> T:
        root = await self.directory()

        def work() -> T:
            with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
                try:
                    found = open_in_root(top.fileno(), path or "/")
                except SyscallError as error:
                    raise NotFoundError(f"open {path[:200]}: {(error.strerror or '').lower()}") from None
                with found:
                    mode = os.fstat(found.fileno()).st_mode
                    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a device does something
                        return look(found.fileno())
                    with OwnedFd(os.open(f"/proc/self/fd/{found.fileno()}", os.O_RDONLY | os.O_CLOEXEC)) as opened:
                        return look(opened.fileno())

        return await asyncio.to_thread(work)


def repository_files(job: Job, url: str) -> ResultFiles:
    """Return the files of a git repository, fetched with what the build's client has."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[str]:
        async with contextlib.AsyncExitStack() as stack:
            with told_as_a_build(), job.log.step(f"[internal] load git source {url}"):
                client = ClientSession((await job.session()).channel, job.builds.sessions.files)
                directory = await stack.enter_async_context(job.builds.fetched(url, client))
            yield directory

    return ResultFiles(make)


def _read(fd: int, path: str, offset: int, length: int) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidParameterError(f"read {path[:200]}: not a file")
    wanted = length or max(0, status.st_size - offset)
    if wanted > LIMIT:
        raise InvalidParameterError(f"read {path[:200]}: more than {LIMIT} bytes at once")
    return os.pread(fd, wanted, offset)


def _list(fd: int, path: str, pattern: str) -> list[Stat]:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise InvalidParameterError(f"read {path[:200]}: not a directory")
    names = [name for name in sorted(os.listdir(fd)) if not pattern or fnmatchcase(name, pattern)]
    if len(names) > _MOST_ENTRIES:
        raise UnsupportedError(f"read {path[:200]}: more than {_MOST_ENTRIES} entries")
    return [_told(name, os.stat(name, dir_fd=fd, follow_symlinks=False)) for name in names]


def _told(name: str, status: os.stat_result) -> Stat:
    told = Stat(path=os.fsencode(name), mode=go_mode(status.st_mode), uid=status.st_uid, gid=status.st_gid)
    told.size, told.mtime = status.st_size, status.st_mtime_ns
    return told
