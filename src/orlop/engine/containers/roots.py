"""Root file systems: of containers, and of images that containers mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from orlop.engine.images import ImageService
    from orlop.spec.launch import OverlayRoot
    from orlop.storage.layers import LayerStore


class Roots(Protocol):
    """What a start or a copy asks for."""

    def root(self, container_id: str) -> OverlayRoot:
        """How init mounts a container's."""
        ...

    def view(self, container_id: str) -> OverlayRoot:
        """How it is mounted read-only beside the container."""
        ...

    def image_view(self, image_id: str) -> OverlayRoot:
        """How an image is mounted read-only. Raises NotFoundError ``No such image: x``."""
        ...


class ContainerRoots:
    """The same, of the layer store."""

    def __init__(self, layers: LayerStore, images: ImageService) -> None:
        self._layers = layers
        self._images = images
        self.root = layers.root
        self.view = layers.view

    def image_view(self, image_id: str) -> OverlayRoot:
        """How an image is mounted read-only."""
        return self._layers.image_view(self._images.resolve(image_id).chain)
