"""The members of an archive that is being received: documents in memory, everything else in files.

::

    client ──▶ decompress ──▶ tar reader ──┬─▶ manifest.json, index.json …   memory
               (in a thread)               └─▶ <data-root>/blobs/partial/.new-*   read while they grow

A member that is named after a digest has it, or the archive is refused (threats.md E4). Links stand for another member
of the archive, by its exact name, and for nothing else (E12).
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.image.archive_index import DOCUMENTS, clean_name, digest_of_name
from orlop.image.compression import Decompressor
from orlop.image.feed import in_thread
from orlop.primitives.tar import Entry, Kind, Limits, Signal, TarReader
from orlop.spec.manifest import SIZE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orlop.image.growing import GrowingFile

_BATCH = 1 << 19
_LIMITS = Limits(entries=100_000)
_LINKS = 8


class Members:
    """Owns the files of the members, until :meth:`close`."""

    def __init__(self, spool: Callable[[], GrowingFile]) -> None:
        self._spool = spool
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, GrowingFile] = {}
        self._paths: list[str] = []
        self._links: dict[str, str] = {}
        self._ended = False
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self._reader = TarReader(_LIMITS)
        self._decompressor = Decompressor()
        self._name = ""
        self._missing = 0
        self._memory: bytearray | None = None
        self._file: GrowingFile | None = None

    # Receiving.

    async def receive(self, stream: AsyncIterator[bytes]) -> None:
        """Take the archive to its end.

        Raises:
            InvalidParameterError: damaged, cut short, or a member is not what its name says.
            SystemFailureError: no space left on device.
        """
        try:
            batch: list[bytes] = []
            size = 0
            async for chunk in stream:
                batch.append(chunk)
                size += len(chunk)
                if size >= _BATCH:
                    await self._take(b"".join(batch))
                    batch, size = [], 0
            await self._take(b"".join(batch))
            await self._pieces(await in_thread(lambda _: list(self._decompressor.finish()), b""))
            self._reader.finish()
            await self._run()
        except BaseException as error:
            self._failure = error if isinstance(error, Exception) else InvalidParameterError("load was interrupted")
            if self._file is not None:
                self._file.fail(self._failure)
            raise
        finally:
            self._ended = True
            self._notify()

    async def _take(self, data: bytes) -> None:
        await self._pieces(await in_thread(lambda data: list(self._decompressor.feed(data)), data))

    async def _pieces(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._reader.feed(piece)
            await self._run()

    async def _run(self) -> None:
        while True:
            event = self._reader.next_event()
            if isinstance(event, Signal):
                return
            if isinstance(event, Entry):
                await self._begin(event)
            else:
                await self._payload(bytes(event))

    async def _begin(self, entry: Entry) -> None:
        name = clean_name(os.fsdecode(entry.name))
        if entry.kind in (Kind.SYMLINK, Kind.HARD_LINK):
            target = os.fsdecode(entry.target)
            if entry.kind is Kind.SYMLINK:
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            self._links[name] = clean_name(target)
            self._notify()
            return
        if entry.kind is not Kind.FILE:
            return
        if entry.sparse is not None:
            raise InvalidParameterError(f"invalid archive: sparse member: {name[:200]!r}")
        if name in self._files or name in self._documents:
            raise InvalidParameterError(f"invalid archive: member appears twice: {name[:200]!r}")
        self._name, self._missing = name, entry.size
        if name in DOCUMENTS:
            if entry.size > SIZE_LIMIT:
                raise InvalidParameterError(f"invalid archive: {name} is larger than {SIZE_LIMIT} bytes: {entry.size}")
            self._memory, self._file = bytearray(), None
        else:
            self._memory, self._file = None, self._spool()
            self._files[name] = self._file
            self._paths.append(self._file.path)
            self._notify()
        if not entry.size:
            self._end()

    async def _payload(self, data: bytes) -> None:
        if self._memory is not None:
            self._memory += data
        elif self._file is not None:
            await self._file.write(data)
        self._missing -= len(data)
        if not self._missing:
            self._end()

    def _end(self) -> None:
        if self._memory is not None:
            self._documents[self._name] = bytes(self._memory)
            self._memory = None
        elif self._file is not None:
            file, self._file = self._file, None
            digest = digest_of_name(self._name)
            if digest is not None and file.digest_so_far != digest:
                error = InvalidParameterError(f"invalid archive: {self._name} has another digest")
                file.fail(error)
                raise error
            file.end()
            file.close()  # there may be more of them than descriptors
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # Reading.

    async def document(self, name: str) -> bytes | None:
        """Wait for a document; None when the archive ended without it."""
        await self._until(lambda: name in self._documents)
        return self._documents.get(name)

    async def first_document(self, *names: str) -> str | None:
        """Wait until one of the documents is there, in order of preference at the archive's end; return its name."""
        await self._until(lambda: names[0] in self._documents)
        return next((name for name in names if name in self._documents), None)

    async def file(self, name: str) -> GrowingFile:
        """Wait for a member's file, which may still be growing.

        Raises:
            InvalidParameterError: the archive ended without it.
        """
        await self._until(lambda: self._resolved(name) in self._files)
        found = self._files.get(self._resolved(name))
        if found is None:
            raise InvalidParameterError(f"open {name[:200]}: no such file or directory")
        return found

    async def content(self, name: str, *, limit: int) -> bytes:
        """Return a small member, complete.

        Raises:
            InvalidParameterError: missing, or larger than ``limit`` bytes.
        """
        file = await self.file(name)
        data = bytearray()
        async for piece in file.read():
            data += piece
            if len(data) > limit:
                raise InvalidParameterError(f"invalid archive: {name[:200]} is larger than {limit} bytes")
        return bytes(data)

    def _resolved(self, name: str) -> str:
        for _ in range(_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        return name

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return
            await self._changed.wait()

    def close(self) -> None:
        """Remove what was not kept under another name."""
        for file in self._files.values():
            file.close()
        for path in self._paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
