"""The init layers: one on top of each image's layers, with what a container's root always has (``storage.init_layer``).

Their keys are drawn in ``storage.layers``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.storage import init_layer
from orlop.storage.working import perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.spec.digest import Digest
    from orlop.storage.contract import Snapshotter

NEW = "new-"
INIT = "-init"
SCRATCH_INIT = "scratch-init"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def init_key(chain: Digest | None) -> str:
    """Return the key of the init layer on top of a layer, or of none."""
    return SCRATCH_INIT if chain is None else chain.hex + INIT


class InitLayers:
    """Owns the init layers of a driver.

    Args:
        snapshotter: the driver.
        drop: removes a snapshot of it.

    Attributes:
        drafts: keys of those that are being made.
    """

    def __init__(self, snapshotter: Snapshotter, drop: Callable[[str], None]) -> None:
        self._snapshotter = snapshotter
        self._drop = drop
        self._made: set[str] = set()
        self._making = asyncio.Lock()
        self.drafts: set[str] = set()

    def load(self, keys: Iterable[str]) -> None:
        """Find those that are there."""
        self._made = {key for key in keys if key.endswith(INIT)}

    def forget(self, key: str) -> None:
        """Take note that one goes."""
        self._made.discard(key)

    def has(self, key: str) -> bool:
        """Tell whether one is there."""
        return key in self._made

    async def make(self, chain: Digest | None) -> str:
        """Make the init layer on top of an image's layers if it is missing; return its key."""
        key = init_key(chain)
        if key in self._made:
            return key
        async with self._making:
            if key not in self._made:
                await self._make(key, None if chain is None else chain.hex)
        return key

    async def remake(self, chain: Digest) -> None:
        """Make one again that is there: it was copied from a layer that has been made again."""
        key = init_key(chain)
        async with self._making:
            if key in self._made:
                await self._make(key, chain.hex)

    async def _make(self, key: str, parent: str | None) -> None:
        draft = NEW + secrets.token_hex(16)
        self.drafts.update((draft, key))
        try:
            driver = self._snapshotter
            await perform(driver, driver.prepare, lambda: self._drop(draft), draft, parent)
            try:
                lower = () if parent is None or driver.whole else driver.mounts(parent, writable=False).lower
                self._fill(draft, lower)
                if key in self._made:
                    await perform(driver, driver.replace, lambda: None, draft, key)
                    self._drop(draft)  # now the old one
                else:
                    await perform(driver, driver.commit, lambda: self._drop(key), draft, key)
            except BaseException:
                self._drop(draft)
                raise
            self._made.add(key)
        finally:
            self.drafts.difference_update((draft, key))

    def _fill(self, draft: str, lower: tuple[str, ...]) -> None:
        fds: list[int] = []
        try:
            fds.extend(os.open(path, _DIRECTORY) for path in (self._snapshotter.directory(draft), *lower))
            if self._snapshotter.whole:
                init_layer.fill_tree(fds[0])
            else:
                init_layer.fill(fds[0], fds[1:])
        except OSError as error:
            raise SystemFailureError(f"init layer: {(error.strerror or '').lower()}") from error
        finally:
            for fd in fds:
                os.close(fd)
