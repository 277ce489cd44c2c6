"""A directory of a client's on its way in: only contents that are not here yet are asked for.

What came ends as a manifest, whose tree is made as that of ``orlop build`` is (``engine/builds/context_tree.py``).
Nothing is kept in memory but the list of files, and at most :data:`_BATCH` bytes of what they hold; at most
:data:`_MOST_ASKED` files are on their way at a time, each with a descriptor.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING

from msgspec import structs

from orlop.api.buildkit.fsutil import Listed, Packet, Piece, Receiving, Told
from orlop.engine.builds.seen_files import SeenFile
from orlop.errors import SystemFailureError, UnavailableError
from orlop.image.feed import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.api.grpc.stream import Stream
    from orlop.engine.builds.contents import NewContent
    from orlop.engine.builds.context_files import ContextFiles
    from orlop.engine.builds.context_tree import Entry

_BATCH = 1 << 20
_MOST_PIECES = 512  # of a batch: an empty file costs one without a byte
_MOST_ASKED = 32  # a client reads four at a time
_EMPTY = hashlib.sha256().hexdigest()


class Incoming:
    """Receives one directory.

    Args:
        files: keep contents, and what is known of clients' files.
        key: of this directory, under which what came is remembered; empty to ask for everything and remember nothing.
        told: is called with the bytes of contents that came, now and then.
    """

    def __init__(self, files: ContextFiles, *, key: str = "", told: Callable[[int], None] = lambda _: None) -> None:
        self._files = files
        self._key = key
        self._told = told
        self._moment = time.time_ns()
        self._protocol = Receiving()
        self._listed: list[Listed] = []
        self._digests: dict[int, str] = {}
        self._seen: Mapping[str, SeenFile] = {}
        self._maybe: list[tuple[int, str]] = []  # files that seem to be here, and their digests
        self._wanted: deque[int] = deque()
        self._store = _Store(files)
        self._all_listed = False
        self.received = 0  # bytes of contents

    def close(self) -> None:
        """Have the list counted no more, after the last use of what :meth:`receive` returned."""
        self._files.count_listed(-len(self._listed))
        self._listed = []

    async def receive(self, stream: Stream) -> list[Entry]:
        """Take everything, up to the stream's end.

        Returns:
            The manifest; its contents are here.

        Raises:
            InvalidParameterError: what the client says is no directory, or what it sends is not what it told of.
            SystemFailureError: it cannot read a file of its own; no space left on device, and the like here.
            UnavailableError: it has gone.
        """
        if self._key:
            self._seen = await in_thread(self._files.seen.load, self._key)
        try:
            while not await self._step(stream):
                pass
            await stream.end()
            await stream.receive()
            await self._flush()
            if self._key:
                async with self._files.turns:
                    await in_thread(self._remember, self._key)
        finally:
            self._store.close()
        return [self._entry(listed) for listed in self._listed]

    async def _step(self, stream: Stream) -> bool:
        """Take one packet, and answer; returns whether it was the last."""
        data = await stream.receive()
        if data is None:
            raise UnavailableError("the client ended a transfer of files before it was done")
        event = self._protocol.receive(Packet.decode(data))
        if event is Told.OVER:
            return True
        if event is Told.ALL_LISTED:
            self._all_listed = True
            async with self._files.turns:
                self._wanted.extend(await in_thread(self._missing, self._maybe))
        elif isinstance(event, Listed):
            self._list(event)
        elif isinstance(event, Piece):
            self.received += len(event.data)
            self._store.put(event)
            if self._store.is_full:
                await self._flush()
                self._told(self.received)
        while self._wanted and self._protocol.waits < _MOST_ASKED:
            await stream.send(self._protocol.request(self._wanted.popleft()).encode())
        if self._all_listed and not self._protocol.waits:
            await self._flush()
            await stream.send(self._protocol.finish().encode())
        return False

    def _list(self, listed: Listed) -> None:
        self._files.count_listed(1)
        self._listed.append(listed)
        if not listed.has_content:
            return
        entry, seen = listed.entry, self._seen.get(listed.entry.path)
        if not entry.size:
            self._maybe.append((listed.number, _EMPTY))
        elif seen is not None and seen == _seen(listed, seen.digest):
            self._maybe.append((listed.number, seen.digest))
        else:
            self._wanted.append(listed.number)

    def _missing(self, maybe: Sequence[tuple[int, str]]) -> list[int]:
        """Return which of these files are not here after all; blocks."""
        missing = []
        for number, digest in maybe:
            if not self._files.touch(digest, self._listed[number].entry.size):
                if digest != _EMPTY:
                    missing.append(number)
                    continue
                self._store.make_empty()
            self._digests[number] = digest
        return missing

    async def _flush(self) -> None:
        self._digests |= await in_thread(_Store.write, self._store)

    def _remember(self, key: str) -> None:
        """Keep what is known now; blocks. A full disk is no reason to fail."""
        files = (_seen(one, self._digests[one.number]) for one in self._listed if one.has_content and one.entry.size)
        with contextlib.suppress(OSError):
            self._files.seen.keep(key, [seen for seen in files if seen.is_settled(self._moment)])

    def _entry(self, listed: Listed) -> Entry:
        if listed.entry.kind != "f":
            return listed.entry
        number = listed.number if listed.same_as < 0 else listed.same_as
        return structs.replace(listed.entry, text=self._digests[number], size=self._listed[number].entry.size)


def _seen(listed: Listed, digest: str) -> SeenFile:
    entry = listed.entry
    return SeenFile(entry.path, listed.mode, listed.owner, entry.size, entry.mtime, digest)


class _Store:
    """Writes pieces of several files, a batch at a time."""

    def __init__(self, files: ContextFiles) -> None:
        self._files = files
        self._open: dict[int, NewContent] = {}
        self._batch: list[Piece] = []
        self._size = 0

    def put(self, piece: Piece) -> None:
        """Take a piece, to be written later."""
        self._batch.append(piece)
        self._size += len(piece.data)

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to write."""
        return self._size >= _BATCH or len(self._batch) >= _MOST_PIECES

    def write(self) -> dict[int, str]:
        """Write what was put; returns the digests of files that are whole. Raises SystemFailureError; blocks."""
        batch, self._batch, self._size = self._batch, [], 0
        done: dict[int, str] = {}
        try:
            for piece in batch:
                content = self._open.get(piece.number)
                if content is None:
                    content = self._open[piece.number] = self._files.new_content()
                if piece.data:
                    content.write(piece.data)
                if piece.last:
                    done[piece.number] = self._open.pop(piece.number).finish()
        except OSError as error:
            raise SystemFailureError(f"receive context: {(error.strerror or '').lower()}") from error
        return done

    def make_empty(self) -> None:
        """Keep the content that is none. Raises SystemFailureError; blocks."""
        try:
            self._files.new_content().finish()
        except OSError as error:
            raise SystemFailureError(f"receive context: {(error.strerror or '').lower()}") from error

    def close(self) -> None:
        """Remove what is not whole."""
        for content in self._open.values():
            content.close()
        self._open.clear()
