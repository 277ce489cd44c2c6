"""Containers: records, creation, start, end, removal, and what the API shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.containers.records import SCHEMA, ContainerRecords
from orlop.engine.containers.service import ContainerService
from orlop.engine.containers.settings import Settings
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from orlop.engine.database import Database

__all__ = ["SCHEMA", "ContainerService", "Settings", "container_chains"]


def container_chains(database: Database) -> dict[str, Digest | None]:
    """Return container id to the chain id of its image, for the layer store's start."""
    rows = ContainerRecords(database).load()
    return {definition.id: Digest.parse(definition.chain) if definition.chain else None for definition, _, _ in rows}
