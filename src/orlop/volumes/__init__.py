"""Named volumes of the local driver."""

from orlop.volumes.store import SCHEMA, Volume, VolumeStore

__all__ = ["SCHEMA", "Volume", "VolumeStore"]
