"""The layers that images and containers are made of, by chain id.

What should exist is in the database (one row per layer) and in the caller's container records; what does exist is
what the driver's ``keys()`` says. Snapshot keys:

========================  =====================================================================================
``<chain id's hex>``      an image layer, committed; has a row
``<hex>-init``            the init layer on top of it (``storage.init_layer``), committed; made when first needed
``scratch-init``          the same for images without layers
``<container id>``        a container's writable layer, active
``new-<random>``          a layer being unpacked; its name is the mark of an unfinished one
========================  =====================================================================================

Reference counts are never stored: they are counted at start from images (:meth:`LayerStore.retain`), container layers
and parent links, so that no crash can make them wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from typing import TYPE_CHECKING

from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, SystemFailureError
from orlop.spec.digest import Digest, chain_id
from orlop.storage.init_layers import INIT as _INIT
from orlop.storage.init_layers import NEW as _NEW
from orlop.storage.init_layers import SCRATCH_INIT as _SCRATCH_INIT
from orlop.storage.init_layers import InitLayers, init_key
from orlop.storage.layer_rows import Layer, LayerRows
from orlop.storage.working import perform

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from orlop.spec.launch import OverlayRoot
    from orlop.storage.contract import Change, Snapshotter

_CONTAINER = re.compile("[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class LayerStore:
    """Owns the layers' rows and all snapshots of its driver.

    The methods that make something wait, with a slow driver, for a thread; with another they never do. The others are
    short where not said otherwise. Those that return paths ("tombstones") expect the caller to have them removed
    (``remove_tree`` in a spawner's child) when nobody waits. ``inits`` are the init layers.
    """

    def __init__(self, database: sqlite3.Connection, snapshotter: Snapshotter) -> None:
        self._rows = LayerRows(database, snapshotter.name)
        self._snapshotter = snapshotter
        self._layers: dict[Digest, Layer] = {}
        self._references: dict[Digest, int] = {}
        self._containers: dict[str, Digest | None] = {}
        self.inits = InitLayers(snapshotter, self._undo)
        self._begun: set[str] = set()
        self._finishing = asyncio.Lock()
        self._left: list[str] = []  # tombstones of what was undone; whoever asks next gets them

    @property
    def driver(self) -> Snapshotter:
        """The storage driver."""
        return self._snapshotter

    @property
    def whole(self) -> bool:
        """Whether a layer's directory holds the files of the layers below as well."""
        return self._snapshotter.whole

    def load(self, containers: Mapping[str, Digest | None]) -> None:
        """Read the rows and count the references of layers and containers; call once, at start.

        Args:
            containers: id and top chain id of every container record.
        """
        keys = set(self._snapshotter.keys())
        self.inits.load(keys)
        self._layers = {layer.chain: layer for layer in self._rows.read(keys)}
        for layer in self._layers.values():
            if layer.parent is not None:
                self._add_reference(layer.parent)
        for container_id, top in containers.items():
            if container_id in keys:
                self._containers[container_id] = top
                if top is not None:
                    self._add_reference(top)

    def collect(self) -> list[str]:
        """Remove every layer that nothing refers to and everything a crash left; return the tombstones.

        Call after :meth:`load` and after every image has called :meth:`retain`.
        """
        if orphans := self._orphans():
            # A container's record is there before its layer and goes after it: these records were lost.
            _log.error("kept all layers: there is no record of the containers that these belong to: %s", orphans)
            return self._snapshotter.tombstones()
        # What a crash left half made stands on layers that go next, and those cannot go before it.
        self._remove_unknown()
        for layer in list(self._layers.values()):
            if not self._references.get(layer.chain) and layer.chain in self._layers:
                self._drop(layer.chain)
        for key in self._snapshotter.keys():  # noqa: SIM118 - a method of the driver, not a mapping
            if not self._is_known(key) and key.endswith(_INIT):
                self.inits.forget(key)
                self._snapshotter.remove(key)
        if left := self._remove_unknown():
            raise SystemFailureError(f"layers refer to each other in a circle: {left[0]}")
        return self._snapshotter.tombstones()

    def _remove_unknown(self) -> list[str]:
        """Remove what has no record, children first; return what other snapshots still stand on."""
        unknown = [key for key in self._snapshotter.keys() if not self._is_known(key)]  # noqa: SIM118
        while unknown:
            left = [key for key in unknown if not self._try_remove(key)]
            if len(left) == len(unknown):
                break
            unknown = left
        return unknown

    def _orphans(self) -> list[str]:
        unknown = (key for key in self._snapshotter.keys() if not self._is_known(key))  # noqa: SIM118
        return [key for key in unknown if _CONTAINER.fullmatch(key) and self._snapshotter.is_active(key)]

    def _try_remove(self, key: str) -> bool:
        try:
            self._snapshotter.remove(key)
        except ConflictError:
            return False
        return True

    def _is_known(self, key: str) -> bool:
        if key == _SCRATCH_INIT or key in self._containers:
            return True
        try:
            return Digest(key.removesuffix(_INIT)) in self._layers
        except InvalidParameterError:
            return False

    def get(self, chain: Digest) -> Layer:
        """Return a layer.

        Raises:
            NotFoundError: "layer does not exist".
        """
        try:
            return self._layers[chain]
        except KeyError:
            raise NotFoundError("layer does not exist") from None

    def has(self, chain: Digest) -> bool:
        """Tell whether the layer is there."""
        return chain in self._layers

    def size(self, chain: Digest | None) -> int:
        """Return the bytes of a layer and everything below it; 0 for no layer."""
        total = 0
        while chain is not None:
            layer = self.get(chain)
            total += layer.size
            chain = layer.parent
        return total

    def retain(self, chain: Digest) -> None:
        """Count one more user of the layer.

        Raises:
            NotFoundError: there is no such layer.
        """
        self.get(chain)
        self._add_reference(chain)

    def release(self, chain: Digest) -> list[str]:
        """Count one user less; remove the layer and then its parents when nobody uses them. Returns tombstones."""
        self._references[chain] = self._references.get(chain, 0) - 1
        return self._drop(chain) if self._references[chain] <= 0 and chain in self._layers else []

    def _add_reference(self, chain: Digest) -> None:
        self._references[chain] = self._references.get(chain, 0) + 1

    def _drop(self, chain: Digest) -> list[str]:
        tombstones: list[str | None] = []
        current: Digest | None = chain
        while current is not None and self._references.get(current, 0) <= 0:
            layer = self._layers.pop(current)
            self._references.pop(current, None)
            # The row goes first: a snapshot without row is removed at the next start. On a full disk it stays; then the
            # next start finds a row without snapshot.
            with contextlib.suppress(SystemFailureError):
                self._rows.delete(current)
            self.inits.forget(current.hex + _INIT)
            tombstones.append(self._snapshotter.remove(current.hex + _INIT))
            tombstones.append(self._snapshotter.remove(current.hex))
            current = layer.parent
            if current is not None:
                self._references[current] -= 1
        return [path for path in tombstones if path is not None]

    # Checking.

    def above(self, chain: Digest) -> list[Digest]:
        """Return the layers that stand on this one, each after what it stands on."""
        found = [chain]
        for below in found:
            found += [layer.chain for layer in self._layers.values() if layer.parent == below]
        return found[1:]

    def lost(self) -> list[str]:
        """Return the snapshots that no record knows and nobody is making."""
        making = self._begun | self.inits.drafts
        return [key for key in self._snapshotter.keys() if not self._is_known(key) and key not in making]  # noqa: SIM118

    def is_container(self, key: str) -> bool:
        """Tell whether a lost snapshot holds somebody's container, whose record is what was lost."""
        return _CONTAINER.fullmatch(key) is not None and self._snapshotter.is_active(key)

    def drop_lost(self, key: str) -> list[str]:
        """Remove a lost snapshot; returns tombstones, none if another one stands on it."""
        try:
            path = self._snapshotter.remove(key)
        except ConflictError:
            return []
        return [] if path is None else [path]

    # Making layers.

    async def begin(self, parent: Digest | None) -> tuple[str, OverlayRoot]:
        """Start a layer on top of ``parent``, which the caller retains; return its key and where to unpack it."""
        if parent is not None:
            self.get(parent)
        key = _NEW + secrets.token_hex(16)
        self._begun.add(key)
        try:
            await self._prepare(key, None if parent is None else parent.hex)
            return key, await perform(self._snapshotter, self._snapshotter.tree, lambda: self._undo(key), key)
        except BaseException:
            self._begun.discard(key)
            raise

    async def finish(self, key: str, diff_id: Digest, parent: Digest | None, *, size: int) -> tuple[Digest, list[str]]:
        """Make a begun layer real, or drop it when the same layer is there already.

        The caller holds one reference of the layer afterwards. When it raises, the caller abandons the key.

        Returns:
            The chain id and tombstones.
        """
        chain = chain_id(parent, diff_id)
        async with self._finishing:
            # with its row lost, the snapshot may be there all the same
            if chain in self._layers or chain.hex in self._snapshotter.keys():  # noqa: SIM118
                tombstones = self.abandon(key)
            else:
                tombstones = []
                self._begun.add(chain.hex)
                try:
                    driver = self._snapshotter
                    await perform(driver, driver.commit, lambda: self._undo(chain.hex), key, chain.hex)
                finally:
                    self._begun.discard(chain.hex)
            if chain not in self._layers:
                self._register(chain, diff_id, parent, size=size)
        self._add_reference(chain)
        self._begun.discard(key)
        return chain, tombstones

    def _register(self, chain: Digest, diff_id: Digest, parent: Digest | None, *, size: int) -> None:
        layer = Layer(chain, diff_id, parent, size)
        try:
            self._rows.add(layer)
        except BaseException:
            self._undo(chain.hex)
            raise
        self._layers[chain] = layer
        if parent is not None:
            self._add_reference(parent)

    def abandon(self, key: str) -> list[str]:
        """Drop a begun layer, also one whose :meth:`finish` failed; return tombstones."""
        self._begun.discard(key)
        self._undo(key)
        left, self._left = self._left, []
        return left

    def _undo(self, key: str) -> None:
        path = self._snapshotter.remove(key)
        if path is not None:
            self._left.append(path)

    async def _prepare(self, key: str, parent: str | None, *, size: int = 0) -> None:
        driver = self._snapshotter
        await perform(driver, driver.prepare, lambda: self._undo(key), key, parent, size=size)

    # Containers.

    async def prepare_init(self, chain: Digest | None) -> str:
        """Make the init layer on top of an image's layers if it is missing; return its key.

        Done when an image is made, so that creating a container does not have to.
        """
        return await self.inits.make(chain)

    async def create_container(self, container_id: str, chain: Digest | None, *, size: int = 0) -> None:
        """Make a container's writable layer, of at most ``size`` bytes if that is not 0.

        Raises:
            ConflictError: it exists.
            NotFoundError: the image's layer does not exist.
            SystemFailureError: no space left on device and the like; nothing is left.
        """
        if chain is not None:
            self.retain(chain)
        self._begun.add(container_id)
        try:
            size = size or self._snapshotter.default_size
            await self._prepare(container_id, await self.inits.make(chain), size=size)
        except BaseException:
            if chain is not None:
                self._left += self.release(chain)
            raise
        finally:
            self._begun.discard(container_id)
        self._containers[container_id] = chain

    def has_container(self, container_id: str) -> bool:
        """Tell whether the container has its layer."""
        return container_id in self._containers

    def chain_of(self, container_id: str) -> Digest | None:
        """Return the image layer that the container's layer stands on. Raises NotFoundError."""
        self._check_container(container_id)
        return self._containers[container_id]

    def remove_container(self, container_id: str) -> list[str]:
        """Take a container's writable layer away at once, and the image's if nothing else uses it; returns tombstones.

        A missing one is fine.
        """
        if container_id not in self._containers:
            return []
        path = self._snapshotter.remove(container_id)
        chain = self._containers.pop(container_id)
        released = [] if chain is None else self.release(chain)
        return ([] if path is None else [path]) + released

    def root(self, container_id: str) -> OverlayRoot:
        """Return how a container's init mounts its root file system."""
        self._check_container(container_id)
        return self._snapshotter.mounts(container_id)

    def view(self, container_id: str) -> OverlayRoot:
        """Return how to mount a container's root read-only, beside the container (export, copy-up, cp)."""
        self._check_container(container_id)
        return self._snapshotter.mounts(container_id, writable=False)

    def image_view(self, chain: Digest | None) -> OverlayRoot:
        """Return how to mount an image read-only, with its init layer if it has one already."""
        key = init_key(chain)
        if chain is not None and not self.inits.has(key):
            return self.layer_view(chain)
        return self._snapshotter.mounts(key, writable=False)

    def layer_view(self, chain: Digest) -> OverlayRoot:
        """Return how to mount an image's layers up to this one read-only, without an init layer."""
        return self._snapshotter.mounts(self.get(chain).chain.hex, writable=False)

    def usage(self, container_id: str) -> int:
        """Return the bytes of the container's own files (``SizeRw``). Walks: call it from a thread."""
        self._check_container(container_id)
        return self._snapshotter.usage(container_id).size

    def changes(self, container_id: str) -> list[Change]:
        """Return ``docker diff``. Walks: call it from a thread."""
        self._check_container(container_id)
        return self._snapshotter.diff(container_id)

    def describe_container(self, container_id: str) -> dict[str, str]:
        """Return ``GraphDriver.Data`` of a container."""
        self._check_container(container_id)
        return self._snapshotter.describe(container_id)

    def describe_image(self, chain: Digest | None) -> dict[str, str]:
        """Return ``GraphDriver.Data`` of an image."""
        return {} if chain is None else self._snapshotter.describe(self.get(chain).chain.hex)

    def _check_container(self, container_id: str) -> None:
        if container_id not in self._containers:
            raise NotFoundError(f"no layer of container {container_id}")
