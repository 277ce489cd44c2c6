"""The layers of an image that is being pulled.

::

    layer 1   ── download ──▶ partial blob ══▶ unpack ──▶ chain 1
    layer 2   ── download ──▶ partial blob ═══════════════╪══▶ unpack ──▶ chain 2       ══▶ read while it grows

All layers are downloaded at once, as many as the settings allow; each is unpacked while it comes, as soon as the one
below is there. Both are shared between clients that want the same. Nothing is visible before the blob's digest and
the layer's diff id were verified (threats.md E4, E5).
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from orlop.errors import InvalidParameterError, OrlopError
from orlop.image.growing import RestartedError, read_file
from orlop.image.layer_tar import diff_id_of
from orlop.registry.download import download
from orlop.spec.digest import Digest, chain_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from typing import Any

    from orlop.engine.registry.transfers import Report, Transfers
    from orlop.image.kept import KeptBlobs
    from orlop.image.partial import PartialBlob, PartialStore
    from orlop.image.unpacking import LayerUnpacker
    from orlop.registry.repository import Repository
    from orlop.spec.manifest import Descriptor
    from orlop.spec.reference import Reference
    from orlop.storage import LayerStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What is to be fetched: blobs and diff ids, bottom first, and where from."""

    repository: Repository
    reference: Reference
    blobs: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...]

    @property
    def chains(self) -> tuple[Digest, ...]:
        """The chain ids that come out."""
        return chain_ids(self.diff_ids)

    def key(self, index: int) -> str:
        """Return what makes two layers the same work: their chain, and all blobs that it is made of.

        A registry that lies about one of them must not spoil the pull of somebody else.
        """
        digest = hashlib.sha256(str(self.chains[index]).encode())
        for blob in self.blobs[: index + 1]:
            digest.update(blob.digest.hex.encode())
        return digest.hexdigest()


class LayerFetcher:
    """Owns the downloads that are running.

    Attributes:
        layers: gets the layers.
        slots: one for each blob that may be downloaded at once.
        attempts: how often a download is tried.

    Args:
        kept: remembers the blobs.
        partials: where blobs grow.
        unpacker: makes layers of them.
        transfers: shares the work.
        bury: removes trees that are left over.
        concurrent: how many slots.
    """

    def __init__(
        self,
        layers: LayerStore,
        kept: KeptBlobs,
        partials: PartialStore,
        unpacker: LayerUnpacker,
        transfers: Transfers,
        bury: Callable[[Iterable[str]], None],
        *,
        concurrent: int = 3,
        attempts: int = 5,
    ) -> None:
        self.layers = layers
        self._kept = kept
        self._partials = partials
        self._unpacker = unpacker
        self._transfers = transfers
        self._bury = bury
        self.attempts = attempts
        self.slots = asyncio.Semaphore(concurrent)
        self._growing: dict[Digest, asyncio.Future[PartialBlob]] = {}

    async def fetch(self, plan: LayerPlan, tell: Callable[[str], Report]) -> Digest | None:
        """Fetch all layers; returns the top one's chain id, retained for the caller, or None for no layers.

        Args:
            plan: what.
            tell: returns, for the short id of a blob, who is told of its state.
        """
        if not plan.blobs:
            return None
        layers = [self._layer(plan, index, tell(blob.digest.short)) for index, blob in enumerate(plan.blobs)]
        chains = await gather_all(layers, self._release)
        for chain in chains[:-1]:
            self._release(chain)
        return chains[-1]

    async def complete(self, plan: LayerPlan, tell: Callable[[str], Report]) -> None:
        """Fetch the blobs of layers that are here, and whose tar cannot be had: they were damaged, and removed.

        Raises:
            InvalidParameterError: a blob makes another layer.
        """
        for blob, diff_id in zip(plan.blobs, plan.diff_ids, strict=True):
            if self._kept.is_complete((diff_id,)):
                continue
            work = _Work(plan, blob, diff_id, tell(blob.digest.short))
            await self._downloaded(work)
            if await asyncio.to_thread(diff_id_of, self._kept.content.path(blob.digest)) != diff_id:
                self._kept.content.remove(blob.digest)
                raise InvalidParameterError("layers from manifest don't match image configuration")
            self._kept.add_layer(diff_id, blob, plan.reference)
            work.report("Pull complete")

    def _release(self, chain: Digest) -> None:
        self._bury(self.layers.release(chain))

    async def _layer(self, plan: LayerPlan, index: int, listener: Report | None) -> Digest:
        """Return one layer's chain id, retained for the caller."""
        chain = plan.chains[index]
        if self.layers.has(chain):
            self.layers.retain(chain)
            if listener is not None:
                listener("Already exists")
            return chain

        async def work(report: Report) -> Digest:
            return await self._make(plan, index, report)

        key = ("layer", plan.key(index))
        return await self._transfers.join(key, work, listener, take=self.layers.retain, drop=self._release)

    async def _make(self, plan: LayerPlan, index: int, report: Report) -> Digest:
        """Return the chain id, retained for the transfer."""
        blob, diff_id, chain = plan.blobs[index], plan.diff_ids[index], plan.chains[index]
        report("Pulling fs layer")
        work = _Work(plan, blob, diff_id, report)
        held: list[Digest] = []

        async def unpack() -> None:
            parent = None
            if index:
                parent = await self._layer(plan, index - 1, None)
                held.append(parent)
            held.append(await self._unpack(work, parent))

        try:
            await gather_all([self._downloaded(work), unpack()])
            if held[-1] != chain:
                raise InvalidParameterError("layers from manifest don't match image configuration")
            self._kept.add_layer(diff_id, blob, plan.reference)
            self.layers.retain(chain)
        finally:
            for layer in held:
                self._release(layer)
        report("Pull complete")
        return chain

    async def _downloaded(self, work: _Work) -> None:
        async def fetch(report: Report) -> None:
            await self._download(work, report)

        await self._transfers.join(("blob", work.blob.digest), fetch, work.report)
        work.complete = True

    async def _download(self, work: _Work, report: Report) -> None:
        """Have the blob in the content store."""
        blob = work.blob
        if self._kept.content.has(blob.digest):
            report("Download complete")
            return
        if self.slots.locked():
            report("Waiting")
        async with self.slots:
            partial = self._partials.open(blob.digest)
            try:
                await partial.resume()
                self._opened(blob.digest).set_result(partial)
                await download(work.plan.repository, blob, partial, _Told(report), attempts=self.attempts)
                report("Verifying Checksum")
                partial.finish()
            except BaseException as error:
                partial.fail(error)
                raise
            finally:
                self._growing.pop(blob.digest, None)
                partial.close()
        report("Download complete")

    def _opened(self, digest: Digest) -> asyncio.Future[PartialBlob]:
        if digest not in self._growing:
            self._growing[digest] = asyncio.get_running_loop().create_future()
        return self._growing[digest]

    async def _unpack(self, work: _Work, parent: Digest | None) -> Digest:
        for again in (True, False):
            try:
                return await self._unpack_once(work, parent)
            except OrlopError:
                # The bytes may have been wrong, which the download finds out, or the kept blob damaged.
                if not again:
                    raise
                await self._downloaded(work)
                if not await asyncio.to_thread(self._kept.content.is_intact, work.blob.digest):
                    self._kept.content.remove(work.blob.digest)
                    await self._downloaded(work)
        raise AssertionError("unreachable")

    async def _unpack_once(self, work: _Work, parent: Digest | None) -> Digest:
        while True:
            try:
                stream = self._stream(work)
                made = await self._unpacker.run(stream, parent=parent, expected=work.diff_id, record=False)
            except RestartedError:
                continue
            return made[0]

    async def _stream(self, work: _Work) -> AsyncIterator[bytes]:
        """Yield the blob's bytes: as they come, or from the content store."""

        def consumed(count: int) -> None:
            if work.complete:
                work.report("Extracting", count, work.blob.size)

        digest = work.blob.digest
        if self._kept.content.has(digest):
            async for data in read_file(self._kept.content.path(digest), consumed):
                yield data
            return
        partial = await asyncio.shield(self._opened(digest))
        async for data in partial.read(consumed):
            yield data


@dataclass(slots=True)
class _Work:
    """One layer being made; ``complete`` when its blob is there."""

    plan: LayerPlan
    blob: Descriptor
    diff_id: Digest
    report: Report
    complete: bool = False


class _Told:
    """Turns a download's news into Docker's words."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def downloading(self, current: int, total: int) -> None:
        self._report("Downloading", current, total)

    def retrying(self, seconds: int) -> None:
        self._report(f"Retrying in {seconds} second{'' if seconds == 1 else 's'}")


async def gather_all(work: Sequence[Coroutine[Any, Any, T]], release: Callable[[T], None] | None = None) -> list[T]:
    """Run all at once; the first that fails ends the others, whose results are released."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if release is not None and not task.cancelled() and task.exception() is None:
                release(task.result())
        raise
