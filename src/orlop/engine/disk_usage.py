"""``docker system df``: what images, containers and volumes take on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orlop.engine.builds import CacheEntry
    from orlop.engine.images import ImageService
    from orlop.engine.volumes import VolumeService
    from orlop.image.records import Image, ImageUser
    from orlop.spec.digest import Digest
    from orlop.volumes.store import Volume


class Containers(Protocol):
    """What is asked of the containers."""

    def image_users(self) -> Sequence[ImageUser]:
        """Return all containers with their image."""
        ...

    def volume_users(self) -> Mapping[str, Sequence[str]]:
        """Return the ids of the containers that use each volume."""
        ...

    async def disk_usage(self) -> Sequence[Mapping[str, object]]:
        """Return the documents of all containers, with sizes."""
        ...


class DiskUsage:
    """Adds up; every number is looked up when asked for.

    Args:
        images: the images.
        volumes: the volumes.
        containers: the containers.
        build_cache: returns what builds keep.
        layer_size: bytes of a layer and all below it, by chain id.
    """

    def __init__(
        self,
        *,
        images: ImageService,
        volumes: VolumeService,
        containers: Containers,
        build_cache: Callable[[], Awaitable[Sequence[CacheEntry]]],
        layer_size: Callable[[Digest | None], int],
    ) -> None:
        self._images = images
        self._volumes = volumes
        self._containers = containers
        self.build_cache = build_cache
        self._layer_size = layer_size

    def images(self) -> tuple[int, list[tuple[Image, int, int]]]:
        """Return the bytes of all layers, and for each image its containers and the bytes it shares with others."""
        found = self._images.store.images()
        owners: dict[Digest, int] = {}
        own: dict[Digest, int] = {}
        for image in found:
            below = 0
            for chain in image.config.chain_ids:
                total = self._layer_size(chain)
                own[chain], below = total - below, total
                owners[chain] = owners.get(chain, 0) + 1
        users = self._containers.image_users()
        rows = [
            (
                image,
                sum(user.image_id.removeprefix("sha256:") == image.id.hex for user in users),
                sum(own[chain] for chain in image.config.chain_ids if owners[chain] > 1),
            )
            for image in found
        ]
        return sum(own.values()), rows

    async def volumes(self) -> list[tuple[Volume, int, int]]:
        """Return each volume, its bytes and how many containers use it."""
        users = self._containers.volume_users()
        return [
            (volume, await self._volumes.size(volume), len(users.get(volume.name, ())))
            for volume in self._volumes.store.volumes()
        ]

    async def containers(self) -> Sequence[Mapping[str, object]]:
        """Return the containers' documents."""
        return await self._containers.disk_usage()
