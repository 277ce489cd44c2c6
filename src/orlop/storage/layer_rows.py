"""What the database knows of layers: one row each, of every driver; a store of layers sees those of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.primitives.sql import transaction
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container

SCHEMA = """
CREATE TABLE IF NOT EXISTS layers (
    chain_id TEXT PRIMARY KEY,      -- hex
    diff_id TEXT NOT NULL,          -- hex
    parent TEXT,                    -- hex of the parent's chain id
    driver TEXT NOT NULL,
    size INTEGER NOT NULL,          -- bytes of its files
    created INTEGER NOT NULL        -- nanoseconds since the epoch
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image layer: ``size`` is what its own files hold, in bytes."""

    chain: Digest
    diff_id: Digest
    parent: Digest | None
    size: int


class LayerRows:
    """Owns the rows of one driver's layers."""

    def __init__(self, database: sqlite3.Connection, driver: str) -> None:
        self._database = database
        self._driver = driver

    def read(self, keys: Container[str]) -> list[Layer]:
        """Return the layers whose snapshots are among ``keys``; the rows of others go."""
        rows = self._database.execute(
            "SELECT chain_id, diff_id, parent, size FROM layers WHERE driver = ?", (self._driver,)
        )
        layers = []
        for chain, diff_id, parent, size in rows.fetchall():
            if chain in keys:
                layers.append(Layer(Digest(chain), Digest(diff_id), Digest(parent) if parent else None, size))
            else:
                self._database.execute("DELETE FROM layers WHERE chain_id = ?", (chain,))
        return layers

    def add(self, layer: Layer) -> None:
        """Write a layer's row, over an older one. Raises SystemFailureError: full disk."""
        parent = layer.parent.hex if layer.parent else None
        row = (layer.chain.hex, layer.diff_id.hex, parent, self._driver, layer.size, time.time_ns())
        with transaction(self._database, "register layer"):
            self._database.execute("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?, ?)", row)

    def delete(self, chain: Digest) -> None:
        """Remove a layer's row. Raises SystemFailureError: full disk."""
        with transaction(self._database, "delete layer"):
            self._database.execute("DELETE FROM layers WHERE chain_id = ?", (chain.hex,))
