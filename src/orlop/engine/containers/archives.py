"""``docker cp``: files out of a container and into it, as tar streams.

A running container's files are reached through its own mounts, so tmpfs and volumes are there. A stopped one's are
mounted for the moment by the child that does the work (``runtime.archive``); meanwhile the container's lock is held,
because two writable mounts of one layer must not meet. A copy of a running container is broken off when that container
starts the next time, for the same reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec import structs

from orlop.engine.containers.files import existing_files
from orlop.engine.containers.mounts import make_bind_sources
from orlop.engine.containers.oci_config import oci_mount
from orlop.engine.containers.waiting import wait_end
from orlop.engine.pipes import open_pipe
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError
from orlop.image.feed import pour
from orlop.spec.launch import to_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.records import MountPoint
    from orlop.engine.containers.roots import Roots
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.engine.replies import Conversation
    from orlop.spec.json import JsonObject, JsonValue

# Bits of Go's os.FileMode above the permissions (package io/fs).
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: (1 << 26) | (1 << 21),
}
_SPECIAL = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


@dataclass(frozen=True, slots=True)
class PathStat:
    """What ``X-Docker-Container-Path-Stat`` tells of a path.

    Attributes:
        name: its last part.
        size: bytes.
        mode: Go's os.FileMode.
        mtime: nanoseconds since the epoch.
        link_target: where a link leads in the end, from the container's root; else empty.
    """

    name: str
    size: int
    mode: int
    mtime: int
    link_target: str


class Children(Protocol):
    """Work near containers, done in children of the spawner."""

    async def converse(self, message: JsonObject, fds: Sequence[int] = ()) -> Conversation:
        """Ask for an operation that answers more than once."""
        ...


class Archives:
    """Copies; knows those under way.

    Args:
        settings: of the containers.
        children: where the work is done.
        layers: the containers' roots and the images that they mount.
        fill_volumes: brings new volumes to the state in which the container's start would find them.
        events: where copies are told.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        children: Children,
        layers: Roots,
        fill_volumes: Callable[[Container], Awaitable[None]],
        events: Events,
    ) -> None:
        self._settings = settings
        self._events = events
        self._children = children
        self._layers = layers
        self._fill_volumes = fill_volumes
        self._running: dict[str, set[asyncio.Task[object]]] = {}

    async def stat(self, container: Container, path: str, *, name: str) -> PathStat:
        """Look at a path; ``name`` is the container's as the user wrote it. Raises NotFoundError in Docker's words."""
        try:
            return await self._stat(container, path, name)
        except ConflictError as error:
            await wait_end(container, error)
        return await self._stat(container, path, name)  # it has ended meanwhile

    async def _stat(self, container: Container, path: str, name: str) -> PathStat:
        async with self._reached(container):
            with _told(path, name):
                conversation = await self._ask(container, {"action": "stat", "path": _rooted(path)})
                try:
                    return _path_stat(await conversation.next())
                finally:
                    conversation.close()

    @contextlib.asynccontextmanager
    async def read(
        self, container: Container, path: str, *, name: str
    ) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        """Give a path's description and its tar stream, which raises when the tar is not whole."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                given = await stack.enter_async_context(self._read(container, path, name))
            except ConflictError as error:
                await wait_end(container, error)
                given = await stack.enter_async_context(self._read(container, path, name))  # it has ended meanwhile
            self._events.publish("container", "archive-path", container.id, container.attributes())
            yield given

    @contextlib.asynccontextmanager
    async def _read(
        self, container: Container, path: str, name: str
    ) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        async with self._reached(container), open_pipe() as (pieces, writer):
            with _told(path, name):
                try:
                    request: JsonObject = {"action": "get", "path": _rooted(path)}
                    conversation = await self._ask(container, request, stream=writer)
                finally:
                    os.close(writer)
            with contextlib.closing(conversation):
                with _told(path, name):
                    found = _path_stat(await conversation.next())
                yield found, _whole(pieces, conversation)

    async def write(
        self,
        container: Container,
        path: str,
        stream: AsyncIterator[bytes],
        *,
        name: str,
        keep_kinds: bool = False,
        copy_owner: bool = False,
    ) -> None:
        """Unpack a tar stream, compressed or not, in a directory of the container.

        Args:
            container: running or not.
            path: the directory.
            stream: what the client sends.
            name: of the container, as the user wrote it.
            keep_kinds: Docker's ``noOverwriteDirNonDir``.
            copy_owner: Docker's ``copyUIDGID``: everything gets the container's user, if it has one.

        Raises:
            NotFoundError, InvalidParameterError, SystemFailureError: in Docker's words.
        """
        user = container.definition.config.user if copy_owner else ""
        request: JsonObject = {
            "action": "put",
            "path": _rooted(path),
            "keep_kinds": keep_kinds,
            "owner": user,
            "read_only": container.definition.host.readonly_rootfs,
        }

        async def unpack(stream_fd: int) -> None:
            conversation = await self._ask(container, request, stream=stream_fd)
            try:
                await conversation.next()
            finally:
                conversation.close()

        async with self._reached(container):
            with _told(path, name):
                await pour(stream, unpack)
        self._events.publish("container", "extract-to-dir", container.id, container.attributes())

    async def interrupt(self, container: Container) -> None:
        """Break off the copies of the container's last run, whose mounts the next one must not meet."""
        tasks = self._running.get(container.id, set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @contextlib.asynccontextmanager
    async def _reached(self, container: Container) -> AsyncIterator[None]:
        """Keep the container's files as they are reached: running, or mounted by nobody else."""
        if not container.alive:
            async with container.lock:
                if not container.alive:
                    if container.removing or container.removed:
                        raise ConflictError(f"can't copy files of container {container.id}: it is being removed")
                    make_bind_sources(container.definition.mounts)
                    await self._fill_volumes(container)
                    yield
                    return
        task = asyncio.current_task()
        tasks = self._running.setdefault(container.id, set())
        if task is not None:
            tasks.add(task)
        try:
            yield
        finally:
            if task is not None:
                tasks.discard(task)
            if not tasks:
                self._running.pop(container.id, None)

    async def _ask(self, container: Container, request: JsonObject, *, stream: int | None = None) -> Conversation:
        message: JsonObject = {"op": "archive", **request}
        fds = [] if stream is None else [stream]
        if container.alive and container.pidfd is not None:
            message["pid"] = container.state.pid
            fds.insert(0, container.pidfd.fileno())
        else:
            directory = self._settings.container_dir(container.id)
            message["root"] = to_message(self._layers.root(container.id))
            message["target"] = directory
            message["mounts"] = self._mounts(container.definition.mounts, existing_files(directory))
        return await self._children.converse(message, fds)

    def _mounts(self, points: tuple[MountPoint, ...], files: dict[str, str]) -> list[JsonValue]:
        """Return what is mounted in a stopped container, as in config.json; a tmpfs is empty and left out."""
        taken = {point.destination for point in points}
        images = {point.name: self._layers.image_view(point.name) for point in points if point.kind == "image"}
        kept = [point for point in points if "tmpfs" not in {point.kind, point.fstype}]
        mounts: list[JsonValue] = [
            oci_mount(structs.replace(point, propagation=""), mapped=False, images=images) for point in kept
        ]
        for target, source in files.items():
            if target not in taken:
                options: list[JsonValue] = ["bind", "rprivate"]
                mounts.append({"destination": target, "type": "bind", "source": source, "options": options})
        return mounts


@contextlib.contextmanager
def _told(path: str, name: str) -> Iterator[None]:
    """Tell a missing path in Docker's words."""
    try:
        yield
    except NotFoundError:
        raise NotFoundError(f"Could not find the file {path} in container {name}") from None


def _rooted(path: str) -> str:
    if not path:
        raise InvalidParameterError("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidParameterError("bad parameter: path holds a NUL")
    return path if path.startswith("/") else f"/{path}"


def _path_stat(answer: JsonObject) -> PathStat:
    found = answer.get("stat")
    if not isinstance(found, dict):
        raise InvalidParameterError("malformed answer about a path")
    mode = found["mode"] if isinstance(found["mode"], int) else 0
    go_mode = stat.S_IMODE(mode) & 0o777 | _KINDS.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in _SPECIAL.items():
        go_mode |= go_bit if mode & bit else 0
    size, mtime = found["size"], found["mtime"]
    return PathStat(
        name=_text(found["name"]),
        size=size if isinstance(size, int) else 0,
        mode=go_mode,
        mtime=mtime if isinstance(mtime, int) else 0,
        link_target=_text(found["target"]),
    )


def _text(name: JsonValue) -> str:
    """Return a file's name as text for JSON: Go replaces what is no UTF-8."""
    return os.fsencode(str(name)).decode("utf-8", "replace")


async def _whole(pieces: AsyncIterator[bytes], conversation: Conversation) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece
    await conversation.next()  # raises if the stream broke off
