"""Builds what ``orlop system check`` looks with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.checking import Checker, Damage, LostSpace, Machine, Roots
from orlop.image.layer_tar import LayerTars
from orlop.runtime.cgroups import detect

if TYPE_CHECKING:
    from orlop.daemon.options import Options
    from orlop.daemon.registries import ImageParts
    from orlop.engine.containers import ContainerService
    from orlop.engine.removals import Removals
    from orlop.engine.spawner import Spawner
    from orlop.network.service import NetworkService
    from orlop.volumes.store import VolumeStore


def compose_checks(
    options: Options,
    parts: ImageParts,
    *,
    spawner: Spawner,
    containers: ContainerService,
    network: NetworkService,
    volumes: VolumeStore,
    removals: Removals,
    others: frozenset[str],
) -> Checker:
    """Build the searches, what is quick first."""
    roots = Roots(options.data_root, options.exec_root)
    space = LostSpace(
        roots,
        layers=parts.layers,
        images=parts.images,
        kept=parts.kept,
        volumes=volumes,
        containers=containers,
        removals=removals,
        others=others,
    )
    damage = Damage(
        images=parts.images,
        layers=parts.layers,
        kept=parts.kept,
        tars=LayerTars(parts.kept, spawner, parts.layers.layer_view),
        ops=spawner,
        limits=options.layer_limits,
        busy=lambda: _mounted_images(containers, whole=parts.layers.whole),
        bury=removals.bury,
    )
    machine = Machine(roots, containers=containers, network=network, hierarchies=detect(), others=others)
    return Checker([space, machine, damage])


def _mounted_images(containers: ContainerService, *, whole: bool) -> set[str]:
    """Return the images whose layers are mounted; a container with a ``whole`` tree of its own mounts none below."""
    return {
        image
        for container in containers.directory
        if container.alive or container.lock.locked()
        for image, _ in container.definition.images[whole:]
    }
