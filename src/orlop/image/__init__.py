"""Images: content store, names, configuration, the ways in and out."""

from orlop.image.records import Image, ImageUser, Removal
from orlop.image.store import SCHEMA, ImageStore

__all__ = ["SCHEMA", "Image", "ImageStore", "ImageUser", "Removal"]
