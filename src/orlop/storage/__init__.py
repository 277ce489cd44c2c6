"""Layers on disk: the contract of storage drivers, the drivers, and the store of layers that images share."""

from orlop.storage.contract import Change, ChangeKind, Snapshotter, Usage
from orlop.storage.layer_rows import SCHEMA
from orlop.storage.layers import LayerStore

__all__ = ["SCHEMA", "Change", "ChangeKind", "LayerStore", "Snapshotter", "Usage"]
