"""``docker commit``: a container's changes become an image.

::

    container's layer ──▶ pack, in a child ──▶ engine: sha256 = diff id ──▶ unpack, in another child ──▶ new layer

The container is paused meanwhile unless the user says otherwise. Nothing is visible before the whole layer is there;
what an interrupted commit leaves has an unfinished name and is removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from orlop.engine.containers.state import Status
from orlop.engine.pipes import open_pipe
from orlop.errors import ConflictError, OrlopError
from orlop.image.changes import apply_changes
from orlop.image.importer import now, parse_name
from orlop.spec.digest import Digest
from orlop.spec.image import ContainerDefaults, Healthcheck, History, ImageConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from orlop.engine.containers import ContainerService
    from orlop.engine.containers.container import Container
    from orlop.engine.events import Events
    from orlop.engine.removals import Removals
    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.image.unpacking import LayerUnpacker
    from orlop.spec.docker.containers import ContainerConfig
    from orlop.spec.launch import OverlayRoot
    from orlop.storage.layers import LayerStore

# Of a tar of nothing (two blocks of zeros): such a layer is left out, as Docker does.
_EMPTY = Digest("5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What the user asked for.

    Attributes:
        container: its name as written.
        repository: of the new image; empty for an image without a name.
        tag: empty for the one in ``repository``, or latest.
        comment: the image's.
        author: the image's.
        pause: freeze the container's processes meanwhile.
        changes: Dockerfile instructions (``--change``).
        config: what the image says instead of what the container says, member by member; None for nothing.
    """

    container: str
    repository: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerConfig | None = None


class Packer(Protocol):
    """Packs layers in children of the spawner."""

    async def pack_layer(
        self,
        tree: OverlayRoot,
        out_fd: int,
        *,
        below: OverlayRoot | None = None,
        stubs: Sequence[str] = (),
        latest: int | None = None,
    ) -> int:
        """Write a layer's tar; returns the bytes written."""
        ...


class CommitService:
    """The use case; owns no state. ``version`` is what images record as the engine that made them."""

    def __init__(
        self,
        *,
        containers: ContainerService,
        images: ImageStore,
        layers: LayerStore,
        unpacker: LayerUnpacker,
        packer: Packer,
        removals: Removals,
        events: Events,
        version: str,
    ) -> None:
        self._containers = containers
        self._images = images
        self._layers = layers
        self._unpacker = unpacker
        self._packer = packer
        self._removals = removals
        self._events = events
        self._version = version

    async def commit(self, request: CommitRequest) -> Image:
        """Make the image. Everything the user wrote is checked first.

        Raises:
            NotFoundError: "No such container: x".
            InvalidParameterError: bad name or change.
            ConflictError: the container is being removed.
            SystemFailureError: no space left on device and the like; nothing is left behind.
        """
        container = self._containers.get(request.container)
        if container.removing or container.state.status in {Status.REMOVING, Status.DEAD}:
            state = "Dead" if container.state.status is Status.DEAD else "being removed"
            raise ConflictError(f"You cannot commit container {container.id} which is {state}")
        reference = parse_name(request.repository, request.tag)
        own = container.definition.config
        base = own if request.config is None else request.config
        changed = apply_changes(_defaults(base), request.changes)
        if request.config is not None:
            changed = merge(changed, _defaults(own))
        chain, diff_id = await self._layer(container, pause=request.pause)
        try:
            parent, inherited = self._parent(container)
            created = now()
            empty = diff_id is None
            step = History(created, " ".join(own.cmd or ()), request.author, request.comment, empty_layer=empty)
            config = replace(
                inherited,
                config=changed,
                diff_ids=inherited.diff_ids if diff_id is None else (*inherited.diff_ids, diff_id),
                history=(*inherited.history, step),
                created=created,
                author=request.author,
                comment=request.comment,
                docker_version=self._version,
                container=container.id,
            )
            image, tombstones = await self._images.create(config.render(), chain, reference, parent=parent)
        except BaseException:
            if chain is not None:
                self._removals.bury(self._layers.release(chain))
            raise
        self._removals.bury(tombstones)
        name = "" if reference is None else reference.familiar
        if reference is not None:
            labels = image.config.config.labels or {}
            self._events.publish("image", "tag", str(image.id), {**labels, "name": name})
        told = {"comment": request.comment, "imageID": str(image.id), "imageRef": name}
        self._events.publish("container", "commit", container.id, container.attributes(**told))
        return image

    def _parent(self, container: Container) -> tuple[Digest | None, ImageConfig]:
        """Return the image that the container was made from, if it is still there, and its configuration."""
        with contextlib.suppress(OrlopError):
            image = self._images.get_by_id(container.definition.image_id)
            return image.id, image.config
        raise ConflictError(f"the image of container {container.id} is gone: {container.definition.image_id}")

    async def _layer(
        self, container: Container, *, pause: bool, stubs: Sequence[str] = (), latest: int | None = None
    ) -> tuple[Digest | None, Digest | None]:
        """Make a layer of the changes; return the new top, retained for the caller, and its diff id, None if empty."""
        below = self._layers.chain_of(container.id)
        async with self._frozen(container, pause=pause):
            changes = self._layers.driver.difference(container.id)
            return await self.layer_of(
                below,
                lambda out: self._packer.pack_layer(changes.tree, out, below=changes.below, stubs=stubs, latest=latest),
            )

    async def layer_of_changes(
        self, container: Container, *, stubs: Sequence[str] = (), latest: int | None = None
    ) -> tuple[Digest | None, Digest | None]:
        """Make a layer of what a container that ended has changed, as :meth:`layer_of`.

        Args:
            container: whose changes.
            stubs: paths that are left out where nothing is in them.
            latest: a later time of a file becomes this one, in nanoseconds since the epoch.
        """
        return await self._layer(container, pause=False, stubs=stubs, latest=latest)

    async def layer_of(
        self, below: Digest | None, pack: Callable[[int], Coroutine[None, None, object]]
    ) -> tuple[Digest | None, Digest | None]:
        """Make a layer of a tar.

        Args:
            below: the layer that it stands on.
            pack: writes the tar to a descriptor, which stays this function's.

        Returns:
            The new top, retained for the caller, and its diff id; ``below`` and None when the tar is empty.
        """
        async with open_pipe() as (pieces, writer):
            packing = asyncio.ensure_future(pack(writer))
            packing.add_done_callback(lambda _: os.close(writer))
            try:
                return await self.layer_of_stream(below, _whole(pieces, packing))
            except BaseException:
                packing.cancel()
                raise

    async def layer_of_stream(
        self, below: Digest | None, tar: AsyncIterator[bytes]
    ) -> tuple[Digest | None, Digest | None]:
        """Make a layer of a tar's bytes, as :meth:`layer_of`."""
        if below is not None:
            self._layers.retain(below)  # what stands on it may go while this works
        try:
            chain, diff_id = await self._unpacker.run(tar, parent=below, compressed=False)
            if diff_id != _EMPTY:
                return chain, diff_id
            if below is not None:
                self._layers.retain(below)
            self._removals.bury(self._layers.release(chain))
            return below, None
        finally:
            if below is not None:
                self._removals.bury(self._layers.release(below))

    @contextlib.asynccontextmanager
    async def _frozen(self, container: Container, *, pause: bool) -> AsyncIterator[None]:
        """Keep the container frozen, unless it does not run or is frozen already."""
        if not pause or container.state.status is not Status.RUNNING:
            yield
            return
        async with contextlib.AsyncExitStack() as stack:
            # without effect on one whose program ends at this very moment: nothing changes there any more
            with contextlib.suppress(ConflictError):
                await stack.enter_async_context(self._containers.held(container))
            yield


async def _whole(pieces: AsyncIterator[bytes], packing: asyncio.Future[object]) -> AsyncIterator[bytes]:
    """Give the tar; its packer's error comes before the end of a stream that is not whole."""
    async for piece in pieces:
        yield piece
    await packing


def _defaults(config: ContainerConfig) -> ContainerDefaults:
    """Return what an image can say of a container's configuration."""
    health = config.healthcheck
    return ContainerDefaults(
        user=config.user,
        exposed_ports=None if config.exposed_ports is None else tuple(sorted(config.exposed_ports)),
        env=_tuple(config.env),
        entrypoint=_tuple(config.entrypoint),
        cmd=_tuple(config.cmd),
        volumes=None if config.volumes is None else tuple(sorted(config.volumes)),
        working_dir=config.working_dir,
        labels=config.labels,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout,
        healthcheck=None
        if health is None
        else Healthcheck(
            test=tuple(health.test or ()),
            interval=health.interval,
            timeout=health.timeout,
            start_period=health.start_period,
            start_interval=health.start_interval,
            retries=health.retries,
        ),
        shell=_tuple(config.shell),
        on_build=_tuple(config.on_build),
    )


def _tuple(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)


def merge(own: ContainerDefaults, base: ContainerDefaults) -> ContainerDefaults:
    """Complete a configuration with what ``base`` says and it does not (dockerd's ``merge``)."""
    names = {entry.partition("=")[0] for entry in own.env or ()}
    inherited = tuple(entry for entry in base.env or () if entry.partition("=")[0] not in names)
    return replace(
        own,
        user=own.user or base.user,
        exposed_ports=_union(own.exposed_ports, base.exposed_ports),
        env=(*(own.env or ()), *inherited) or own.env,
        entrypoint=base.entrypoint if own.entrypoint is None else own.entrypoint,
        cmd=base.cmd if not own.entrypoint and not own.cmd else own.cmd,
        volumes=_union(own.volumes, base.volumes),
        working_dir=own.working_dir or base.working_dir,
        labels={**(base.labels or {}), **(own.labels or {})},
        stop_signal=own.stop_signal or base.stop_signal,
        healthcheck=own.healthcheck or base.healthcheck,
        shell=own.shell or base.shell,
        on_build=own.on_build or base.on_build,
    )


def _union(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return one if other is None else tuple(sorted({*(one or ()), *other}))
