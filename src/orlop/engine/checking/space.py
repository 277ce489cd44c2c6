"""Space that nobody can find any more.

A start removes what a crash left; this looks again while the engine runs, and at what a start leaves alone because it
might be somebody's.

====================  ==================================================================  =================
kind                  what                                                                repair
====================  ==================================================================  =================
lost layer            a snapshot without record that nobody is making                     removed
lost container        a container's layer whose record is gone                            never: it is data
removed layer         what is left of a layer or volume that was removed                  removed
lost blob             content of no image, older than :data:`GRACE`                       removed
lost recipe           the recipe of a layer that is not there                             removed
lost directory        files of a container that is not there                              removed
lost volume           a directory below ``volumes`` without record                        never: it is data
====================  ==================================================================  =================
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.engine.checking.finding import SOMEBODYS, Finding
from orlop.engine.volumes import directory_size
from orlop.errors import OrlopError
from orlop.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.engine.containers import ContainerService
    from orlop.engine.removals import Removals
    from orlop.image.kept import KeptBlobs
    from orlop.image.store import ImageStore
    from orlop.storage.layers import LayerStore
    from orlop.volumes.store import VolumeStore

# Seconds for which content without an image may belong to a pull that is under way.
GRACE = 3600.0


@dataclass(frozen=True, slots=True)
class Roots:
    """The engine's directories."""

    data: str
    exec: str


class LostSpace:
    """See :class:`~orlop.engine.checking.checker.Search`; ``others`` are the containers of other storage drivers."""

    def __init__(
        self,
        roots: Roots,
        *,
        layers: LayerStore,
        images: ImageStore,
        kept: KeptBlobs,
        volumes: VolumeStore,
        containers: ContainerService,
        removals: Removals,
        others: frozenset[str],
    ) -> None:
        self._roots = roots
        self._layers = layers
        self._images = images
        self._kept = kept
        self._volumes = volumes
        self._containers = containers
        self._removals = removals
        self._others = others

    async def find(self, *, quick: bool) -> list[Finding]:  # noqa: ARG002 - it is quick
        """Return what was found, measured."""
        found = [
            *self._snapshots(),
            *self._tombstones(),
            *self._blobs(),
            *self._recipes(),
            *self._directories(),
            *self._lost_volumes(),
        ]
        return [replace(finding, size=await asyncio.to_thread(self._measure, finding)) for finding in found]

    async def repair(self, findings: list[Finding]) -> list[Finding]:
        """Remove what may be removed."""
        repaired = [self._repair(finding) if finding.repairable else finding for finding in findings]
        while True:  # a lost layer goes when those that stand on it have gone
            again = [self._repair(one) if one.repairable and not one.repaired else one for one in repaired]
            if again == repaired:
                return repaired
            repaired = again

    def _snapshots(self) -> Iterator[Finding]:
        for key in self._layers.lost():
            container = self._layers.is_container(key)
            yield Finding("lost container" if container else "lost layer", key, note=SOMEBODYS if container else "")

    def _tombstones(self) -> Iterator[Finding]:
        for path in (*self._layers.driver.tombstones(), *self._volumes.tombstones()):
            if path not in self._removals.pending:
                yield Finding("removed layer", path)

    def _blobs(self) -> Iterator[Finding]:
        known = {image.id for image in self._images.images()}
        content = self._kept.content
        for digest in self._kept.unreferenced(known):
            if _age(content.path(digest)) > GRACE:
                yield Finding("lost blob", str(digest))

    def _recipes(self) -> Iterator[Finding]:
        known = {diff_id.hex for image in self._images.images() for diff_id in image.config.diff_ids}
        for name in self._kept.recipes.names():
            if name not in known and _age(self._kept.recipes.path(Digest(name))) > GRACE:
                yield Finding("lost recipe", f"sha256:{name}")

    def _directories(self) -> Iterator[Finding]:
        known = {*self._others, *(container.id for container in self._containers.directory)}
        for name in os.listdir(f"{self._roots.data}/containers"):
            path = f"{self._roots.data}/containers/{name}"
            if name not in known and path not in self._removals.pending:
                yield Finding("lost directory", path)

    def _lost_volumes(self) -> Iterator[Finding]:
        for path in self._volumes.unknown():
            yield Finding("lost volume", path, note=SOMEBODYS)

    def _measure(self, finding: Finding) -> int:
        try:
            if finding.kind in {"lost layer", "lost container"}:
                return self._layers.driver.usage(finding.name).size
            if finding.kind == "lost blob":
                return os.stat(self._kept.content.path(Digest(finding.name.removeprefix("sha256:")))).st_size
            if finding.kind == "lost recipe":
                return os.stat(self._kept.recipes.path(Digest(finding.name.removeprefix("sha256:")))).st_size
            return directory_size(finding.name)
        except (OSError, OrlopError):
            return 0

    def _repair(self, finding: Finding) -> Finding:
        if finding.kind == "lost layer":
            graves = self._layers.drop_lost(finding.name)
            self._removals.bury(graves)
            return replace(finding, repaired=bool(graves))
        if finding.kind == "lost blob":
            self._kept.content.remove(Digest(finding.name.removeprefix("sha256:")))
        elif finding.kind == "lost recipe":
            self._kept.recipes.remove(Digest(finding.name.removeprefix("sha256:")))
        else:
            self._removals.bury([finding.name])
        return replace(finding, repaired=True)


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0
