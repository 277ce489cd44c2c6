"""Make a layer again that is damaged, and what was copied from it.

::

    parent ──▶ layer (damaged)   ◀── exchanged ──▶   new-<random>, made on top of the parent of the layer's tar
                 │ copied, with whole trees
                 ├──▶ its init layer ──▶ containers     the init layer is made again as well; containers never are
                 └──▶ layers above                      the caller looks at them again, and makes them again

Where changes are stacked (overlay2) nothing above has a copy. Whatever is interrupted leaves the old layer or the new
one in its place, and a snapshot without record, which the next start removes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.storage.init_layers import init_key
from orlop.storage.working import perform

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orlop.spec.digest import Digest
    from orlop.spec.launch import OverlayRoot
    from orlop.storage.layers import LayerStore


async def remake(
    layers: LayerStore,
    chain: Digest,
    fill: Callable[[OverlayRoot], Awaitable[None]],
    bury: Callable[[list[str]], None],
) -> None:
    """Make a layer again and put it in its place, and with whole trees the init layer on top of it.

    Args:
        layers: its store.
        chain: which one; the caller retains it.
        fill: unpacks its tar.
        bury: removes what is left over.

    Raises:
        NotFoundError: there is no such layer.
        ConflictError: something is being made of it at this moment.
    """
    driver = layers.driver
    key, tree = await layers.begin(layers.get(chain).parent)
    try:
        await fill(tree)
        await perform(driver, driver.replace, lambda: None, key, chain.hex)
        if driver.whole:
            await layers.inits.remake(chain)
    finally:
        bury(layers.abandon(key))  # which is the old one, when all went well


def init_view(layers: LayerStore, chain: Digest) -> OverlayRoot | None:
    """Return how to mount the init layer on top of a layer read-only; None if there is none."""
    key = init_key(chain)
    return layers.driver.mounts(key, writable=False) if layers.inits.has(key) else None
