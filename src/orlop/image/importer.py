"""``docker import``: a tar of a root file system becomes an image of one layer.

::

    client ──▶ decompress ──▶ sha256 (the diff id) ──▶ pipe ──▶ unpack, in a child of the spawner
               └───── one batch at a time, in a worker thread ─────┘

Nothing is visible until the whole stream has been unpacked and hashed: the layer's directory carries an unfinished
name until then, and whatever fails, the directory goes away and no row is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from orlop.errors import InvalidParameterError, OrlopError
from orlop.image.changes import apply_changes
from orlop.image.compression import Decompressor
from orlop.primitives.tar import Limits, Unpacked
from orlop.spec.digest import Digest
from orlop.spec.image import ContainerDefaults, History, ImageConfig
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orlop.image.store import Image, ImageStore

_BATCH = 1 << 19
_PIPE = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class LayerSink(Protocol):
    """What an import needs of the layer store (``storage.layers.LayerStore``)."""

    def begin(self, parent: Digest | None) -> tuple[str, str]:
        """Start a layer; return its key and directory."""
        ...

    def finish(self, key: str, diff_id: Digest, parent: Digest | None, *, size: int) -> tuple[Digest, list[str]]:
        """Make it real; return the chain id, retained for the caller, and tombstones."""
        ...

    def abandon(self, key: str) -> list[str]:
        """Drop it; return tombstones."""
        ...

    def release(self, chain: Digest) -> list[str]:
        """Give a retained layer back; return tombstones."""
        ...


class TreeOps(Protocol):
    """Work on trees, done in children of the spawner (docs/concepts/processes.md)."""

    async def unpack(self, root: str, stream_fd: int, limits: Limits) -> Unpacked:
        """Unpack an uncompressed tar stream into a directory; the descriptor stays the caller's."""
        ...

    async def remove_tree(self, path: str) -> None:
        """Remove a directory with all below it."""
        ...


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the user asked for.

    Attributes:
        repository: with or without tag; empty for an image without a name.
        tag: empty for the one in ``repository``, or latest.
        changes: Dockerfile instructions (``--change``).
        message: the image's comment; Docker's "Imported from -" when empty.
        source: what the message names.
        platform: ``os[/architecture[/variant]]``; empty for this machine's.
    """

    repository: str = ""
    tag: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""
    source: str = "-"
    platform: str = ""


class Importer:
    """Owns no state; ``version`` is what images record as the engine that made them."""

    def __init__(
        self,
        images: ImageStore,
        layers: LayerSink,
        ops: TreeOps,
        *,
        limits: Limits | None = None,
        version: str = "",
    ) -> None:
        self._images = images
        self._layers = layers
        self._ops = ops
        self._limits = limits or Limits()
        self._version = version

    async def run(self, request: ImportRequest, stream: AsyncIterator[bytes]) -> Image:
        """Import the stream. The request is checked before its first byte is read.

        Raises:
            InvalidParameterError: bad name, change, platform or archive ("unexpected EOF").
            SystemFailureError: no space left on device and the like.
        """
        reference = parse_name(request.repository, request.tag)
        defaults = apply_changes(ContainerDefaults(), request.changes)
        platform = _parse_platform(request.platform)
        chain, diff_id = await self.import_layer(stream)
        created = now()
        message = request.message or f"Imported from {request.source}"
        config = ImageConfig(
            architecture=platform[1],
            os=platform[0],
            variant=platform[2],
            config=defaults,
            diff_ids=(diff_id,),
            history=(History(created=created, comment=message),),
            created=created,
            comment=message,
            docker_version=self._version,
        )
        try:
            image, tombstones = self._images.create(config.render(), chain, reference)
        except BaseException:
            await self._bury(self._layers.release(chain))
            raise
        await self._bury(tombstones)
        return image

    async def import_layer(self, stream: AsyncIterator[bytes]) -> tuple[Digest, Digest]:
        """Make a bottom layer of the stream; return its chain id, retained for the caller, and its diff id."""
        key, directory = self._layers.begin(None)
        try:
            diff_id, unpacked = await self._unpack(directory, stream)
            chain, tombstones = self._layers.finish(key, diff_id, None, size=unpacked.size)
        except BaseException:
            await asyncio.shield(self._bury(self._layers.abandon(key)))
            raise
        await self._bury(tombstones)
        return chain, diff_id

    async def _bury(self, tombstones: Sequence[str]) -> None:
        for path in tombstones:
            with contextlib.suppress(OrlopError):  # what is left is removed at the next start
                await self._ops.remove_tree(path)

    async def _unpack(self, directory: str, stream: AsyncIterator[bytes]) -> tuple[Digest, Unpacked]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        task = asyncio.ensure_future(self._ops.unpack(directory, reader, self._limits))
        # As long as this process holds the reading end, a write to a dead child's pipe would wait for ever.
        task.add_done_callback(lambda _: os.close(reader))
        feed = _Feed(writer)
        try:
            try:
                await feed.run(stream)
            except BrokenPipeError:
                await task  # says why it stopped reading
                raise InvalidParameterError("unexpected end of unpacking") from None
            feed.close()
            unpacked = await task
        except BaseException:
            feed.close()
            if not task.done():
                # The child sees the end of the stream and stops; its error matters less than the first one.
                with contextlib.suppress(OrlopError):
                    await asyncio.shield(task)
            raise
        return Digest(feed.hash.hexdigest()), unpacked


class _Feed:
    """Owns the writing end of the pipe: decompresses, hashes and writes, a batch at a time, in a thread."""

    def __init__(self, fd: int) -> None:
        self.hash = hashlib.sha256()
        self._fd = fd
        self._decompressor = Decompressor()
        with contextlib.suppress(OSError):  # beyond the user's pipe limits the default size does
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def run(self, stream: AsyncIterator[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        async for chunk in stream:
            batch.append(chunk)
            size += len(chunk)
            if size >= _BATCH:
                await _in_thread(self._write, b"".join(batch))
                batch, size = [], 0
        await _in_thread(self._write_last, b"".join(batch))

    def _write(self, data: bytes) -> None:
        for piece in self._decompressor.feed(data):
            self._put(piece)

    def _write_last(self, data: bytes) -> None:
        self._write(data)
        for piece in self._decompressor.finish():
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        self.hash.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._fd, view) :]


async def _in_thread(function: Callable[[bytes], None], data: bytes) -> None:
    """Run in a worker thread; when cancelled, still wait for it: it uses a descriptor that is about to be closed."""
    future = asyncio.ensure_future(asyncio.to_thread(function, data))
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        with contextlib.suppress(BaseException):
            await future
        raise


def parse_name(repository: str, tag: str) -> Reference | None:
    """Read the two parts in which the API carries a new image's name; None for no name.

    Raises:
        InvalidParameterError: with Docker's words.
    """
    if not repository:
        return None
    reference = parse_reference(repository)
    if reference.digest is not None:
        raise InvalidParameterError("cannot import digest reference")
    return reference.with_tag(tag) if tag else reference.with_default_tag()


def now() -> str:
    """Return the time as Docker writes it into images: RFC 3339, UTC, nanoseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _parse_platform(text: str) -> tuple[str, str, str]:
    machine = os.uname().machine
    system, _, rest = text.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    if system not in ("", "linux"):
        raise InvalidParameterError("operating system is not supported")
    return "linux", architecture or _ARCHITECTURES.get(machine, machine), variant
