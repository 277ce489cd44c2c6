"""Images: content store, names, configuration, the ways in and out."""

from orlop.image.store import SCHEMA, Image, ImageStore, ImageUser, Removal

__all__ = ["SCHEMA", "Image", "ImageStore", "ImageUser", "Removal"]
