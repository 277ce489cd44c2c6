"""Whether an image is for the platform that was asked for: ``linux/arm64/v8``, ``linux``, ``arm64``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import NotFoundError
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from orlop.spec.image import ImageConfig


def require_platform(wanted: str, reference: str, image: ImageConfig) -> None:
    """Refuse an image of another platform.

    Raises:
        InvalidParameterError: ``wanted`` is not a platform.
        NotFoundError: the image is of another one; clients pull upon it, as with dockerd.
    """
    if not wanted:
        return
    actual = Platform.of(image.os, image.architecture, image.variant)
    if actual in Platform.parse(wanted).candidates():
        return
    raise NotFoundError(
        f"image with reference {reference} was found but does not match the specified platform:"
        f" wanted {wanted}, actual: {image.os}/{image.architecture}"
    )
