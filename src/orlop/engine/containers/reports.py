"""What clients are told of containers: inspect, ps, top, stats."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orlop.engine.containers.inspection import inspect_document
from orlop.engine.containers.listing import Selection, now, shown_image, summary
from orlop.engine.containers.processes import known_columns, top_document
from orlop.engine.containers.ps import run_ps
from orlop.engine.containers.statistics import idle_document, stats_document
from orlop.errors import ConflictError, NotFoundError, OrlopError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.engine.containers.cgroup_access import CgroupAccess
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.engine.images import ImageService
    from orlop.network.sandbox import Sandbox
    from orlop.network.service import NetworkService
    from orlop.spec.json import JsonObject
    from orlop.storage.layers import LayerStore


class Reports:
    """Owns nothing, changes nothing."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        images: ImageService,
        layers: LayerStore,
        network: NetworkService,
        cgroups: CgroupAccess,
        events: Events,
    ) -> None:
        self._events = events
        self._settings = settings
        self._directory = directory
        self._images = images
        self._layers = layers
        self._network = network
        self._cgroups = cgroups

    def _sandbox(self, container: Container) -> Sandbox | None:
        return self._network.sandbox(container.id) if container.alive else None

    def _network_ids(self) -> dict[str, str]:
        return {network.name: network.id for network in self._network.networks()}

    async def inspect(self, name: str, *, size: bool = False) -> JsonObject:
        """Return the document of ``docker inspect``."""
        container = self._directory.get(name)
        graph: tuple[str, dict[str, str]] = (self._layers.driver.name, {})
        with contextlib.suppress(NotFoundError):
            graph = (self._layers.driver.name, self._layers.describe_container(container.id))
        document = inspect_document(
            container,
            self._settings,
            sandbox=self._sandbox(container),
            network_ids=self._network_ids(),
            graph=graph,
        )
        if size:
            document.update(await self._sizes(container))
        return document

    async def _sizes(self, container: Container) -> JsonObject:
        used = await self.own_size(container)
        whole = used
        with contextlib.suppress(OrlopError):
            whole += self._images.resolve(container.definition.image_id).size
        return {"SizeRw": used, "SizeRootFs": whole}

    async def own_size(self, container: Container) -> int:
        """Return the bytes of the writable layer; 0 when they cannot be told."""
        with contextlib.suppress(OrlopError):
            return await asyncio.to_thread(self._layers.usage, container.id)
        return 0

    async def summaries(
        self,
        filters: Mapping[str, list[str]],
        *,
        every: bool = False,
        limit: int = 0,
        size: bool = False,
    ) -> list[JsonObject]:
        """Return the documents of ``docker ps``, newest first."""
        image_ids = {}
        for name in filters.get("ancestor", ()):
            with contextlib.suppress(OrlopError):
                image_ids[name] = str(self._images.resolve(name).id)
        selection = Selection(filters, self._directory, image_ids)
        every = every or limit > 0 or selection.shows_stopped
        chosen = [c for c in self._directory if (every or c.state.running) and selection.matches(c)]
        chosen.sort(key=lambda container: container.definition.created_at, reverse=True)
        if limit > 0:
            chosen = chosen[:limit]
        moment, ids = now(), self._network_ids()
        documents = []
        for container in chosen:
            document = summary(container, self._sandbox(container), ids, now_ns=moment)
            document["Image"] = shown_image(container, self._images.resolve)
            if size:
                document.update(await self._sizes(container))
            documents.append(document)
        return documents

    async def top(self, name: str, arguments: str) -> JsonObject:
        """Return the processes as ps(1) shows them. Raises ConflictError: it does not run."""
        container = self._directory.get(name)
        if not container.alive:
            raise ConflictError(f"container {container.id} is not running")
        cgroups = self._cgroups.open(container)
        try:
            pids = cgroups.pids()
        finally:
            cgroups.close()
        self._events.publish("container", "top", container.id, container.attributes())
        columns = known_columns(arguments)
        if columns is None:
            return await asyncio.to_thread(run_ps, pids, arguments)
        return top_document(pids, columns)

    def stats(self, name: str, before: JsonObject | None) -> JsonObject:
        """Return one sample of the counters; all zero for a container that does not run."""
        container = self._directory.get(name)
        if not container.alive:
            return idle_document(container)
        try:
            cgroups = self._cgroups.open(container)
        except (OSError, OrlopError):
            return idle_document(container)
        try:
            counters = cgroups.stats()
        finally:
            cgroups.close()
        return stats_document(container, counters, self._network.statistics(container.id), before=before)
