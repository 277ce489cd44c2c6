"""The engine's client of the spawner: the only way in which the engine makes processes.

Each request has a reply channel of its own, so answers come in any order and a child's death is an end of file on
exactly its own request. A spawner that died is replaced (:data:`STABLE_SECONDS`); containers do not depend on it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING

from orlop.engine.packets import PacketSocket
from orlop.engine.replies import Conversation, StandingChild, deliver, lost, pair
from orlop.engine.shims import ShimConnection
from orlop.errors import OrlopError, UnavailableError
from orlop.primitives.tar import Unpacked
from orlop.spec.json import JsonValue
from orlop.spec.launch import to_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.primitives.tar import Limits
    from orlop.spec.json import JsonObject
    from orlop.spec.launch import ContainerLaunch, ExecLaunch, OverlayRoot

# A spawner that lives shorter than this is replaced with a growing delay, at most as long.
STABLE_SECONDS = 1.0
_LOG = logging.getLogger(__name__)


class Spawner:
    """Requests to the spawner process.

    Args:
        start: starts a spawner process and returns the engine's end of its socket. Called at once, before an event
            loop exists, and again after the spawner died.
    """

    def __init__(self, start: Callable[[], socket.socket]) -> None:
        self._start = start
        self._started = time.monotonic()
        self._delay = 0.0
        self._first: socket.socket | None = start()
        self._packets: PacketSocket | None = None
        self._respawning: asyncio.Task[None] | None = None
        self._closing = False
        self._makes_namespaces = StandingChild(self._send)
        self._removes_trees = StandingChild(self._send)

    def open(self) -> None:
        """Begin to use the socket in the running loop."""
        if self._first is not None:
            self._packets = PacketSocket(self._first, _unexpected, self._died)
            self._first = None

    async def close(self) -> None:
        """Close the socket, upon which the spawner ends. Running containers stay."""
        self._closing = True
        self._makes_namespaces.close()
        self._removes_trees.close()
        if self._respawning is not None:
            self._respawning.cancel()
        if self._packets is not None:
            self._packets.close()
        if self._first is not None:
            self._first.close()

    async def create_network_namespace(self, *sockets: str) -> tuple[OwnedFd, list[socket.socket]]:
        """Make a fresh network namespace; returns it and sockets inside it, of runtime.network_namespace's kinds."""
        message: JsonObject = {"op": "netns", "sockets": list[JsonValue](sockets)}
        _, (namespace, *fds) = await self._repeated(self._makes_namespaces, message)
        return namespace, [socket.socket(fileno=fd.release()) for fd in fds]

    async def network_namespace_of(self, pidfd: int) -> tuple[OwnedFd, socket.socket]:
        """Return the network namespace of a running process and a NETLINK_ROUTE socket inside it."""
        return _namespace_and_socket(await self.request({"op": "netns-of", "sockets": ["route"]}, [pidfd]))

    async def open_inside(
        self,
        namespace: int,
        *,
        sockets: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        wished: Mapping[str, str] | None = None,
    ) -> list[socket.socket]:
        """Write settings of a network namespace, then open sockets in it (``runtime.network_namespace`` names them)."""
        message: JsonObject = {"op": "netns-of", "sockets": list[JsonValue](sockets)}
        message["settings"] = dict[str, JsonValue](settings or {})
        message["wished"] = dict[str, JsonValue](wished or {})
        _, fds = await self.request(message, [namespace])
        fds.pop(0).close()
        return [socket.socket(fileno=fd.release()) for fd in fds]

    async def unpack(
        self,
        root: OverlayRoot,
        stream_fd: int,
        limits: Limits,
        *,
        apply: bool = False,
        recipe_fd: int | None = None,
        plain: bool = False,
    ) -> Unpacked:
        """Unpack an uncompressed layer tar; the stream is read to its end.

        Args:
            root: one tree, which is written to.
            stream_fd: the tar.
            limits: what it may ask for.
            apply: the directory holds the lower layers' files, too: whiteouts remove them.
            recipe_fd: a file for the tar's recipe.
            plain: it is no layer: a name that begins with ``.wh.`` is a name.
        """
        fds = [stream_fd] if recipe_fd is None else [stream_fd, recipe_fd]
        message: JsonObject = {"op": "unpack", "root": to_message(root), "limits": to_message(limits), "apply": apply}
        message["plain"] = plain
        answer = await self._plain(message, fds)
        return Unpacked(_number(answer, "size"), _number(answer, "entries"), answer.get("recipe") is True)

    async def gather(self, request: JsonObject, out_fd: int) -> JsonObject:
        """Find files for a build and write them as ``runtime.gathering`` says; returns what was found."""
        return await self._plain({"op": "gather", **request}, [out_fd])

    async def missing_paths(self, view: OverlayRoot, paths: Sequence[str]) -> list[str]:
        """Return what mounts at these paths will make in a root: what each path lacks there, links followed."""
        request: JsonObject = {"op": "gather", "action": "stubs", "target": to_message(view)}
        found = (await self._plain({**request, "paths": list[JsonValue](paths)}, [])).get("stubs")
        return [str(path) for path in found] if isinstance(found, list) else []

    async def rebuild(self, overlay: OverlayRoot, recipe_fd: int, *, out_fd: int) -> int:
        """Write the tar that the top layer of ``overlay`` was unpacked from; returns the bytes written."""
        message: JsonObject = {"op": "rebuild", "overlay": to_message(overlay)}
        return _number(await self._plain(message, [recipe_fd, out_fd]), "size")

    async def compare(
        self, overlay: OverlayRoot, stream_fd: int, limits: Limits, *, below: OverlayRoot | None = None
    ) -> list[str]:
        """Compare a tar with the top layer of ``overlay``; returns some of what differs, as ``/path: how``.

        With ``below``, the tree is a whole one: what it has from there is compared, too.
        """
        message: JsonObject = {"op": "compare", "overlay": to_message(overlay), "limits": to_message(limits)}
        message["below"] = None if below is None else to_message(below)
        differences = (await self._plain(message, [stream_fd])).get("differences")
        return [str(one) for one in differences] if isinstance(differences, list) else []

    async def pack(self, overlay: OverlayRoot, out_fd: int) -> int:
        """Write a root file system as tar; returns the bytes written."""
        return _number(await self._plain({"op": "pack", "overlay": to_message(overlay)}, [out_fd]), "size")

    async def pack_layer(
        self,
        tree: OverlayRoot,
        out_fd: int,
        *,
        below: OverlayRoot | None = None,
        stubs: Sequence[str] = (),
        latest: int | None = None,
    ) -> int:
        """Write a layer's tar; returns the bytes written.

        Args:
            tree: the layer's changes, or, with ``below``, its whole tree.
            out_fd: where to.
            below: the tree that it differs from.
            stubs: paths that are left out where nothing is in them (``runtime.mount_stubs``).
            latest: a later time of a file becomes this one, in nanoseconds since the epoch.
        """
        message: JsonObject = {"op": "pack", "layer": to_message(tree)}
        if below is not None:
            message["below"] = to_message(below)
        if stubs:
            message["stubs"] = list[JsonValue](stubs)
        if latest is not None:
            message["latest"] = latest
        return _number(await self._plain(message, [out_fd]), "size")

    async def pack_running(self, pid: int, pidfd: int, *, out_fd: int) -> int:
        """Write a running container's root file system as tar; returns the bytes written."""
        return _number(await self._plain({"op": "pack", "pid": pid}, [pidfd, out_fd]), "size")

    async def copy_up(self, overlay: OverlayRoot, path: str, *, target: str) -> bool:
        """Fill an empty volume with what the image has at ``path``; False when there was nothing to do."""
        message: JsonObject = {"op": "copy-up", "overlay": to_message(overlay), "path": path, "target": target}
        return (await self._plain(message)).get("copied") is True

    async def identify(self, overlay: OverlayRoot, user: str) -> tuple[int, int]:
        """Look a user up in a root file system's own files; returns user and group id."""
        answer = await self._plain({"op": "identify", "overlay": to_message(overlay), "user": user})
        return _number(answer, "uid"), _number(answer, "gid")

    async def remove_tree(self, path: str) -> None:
        """Remove an engine-owned directory tree; a missing one is fine."""
        await self._repeated(self._removes_trees, {"op": "remove-tree", "path": path})

    async def start_container(
        self,
        launch: ContainerLaunch,
        *,
        netns: int | None,
        attach: Sequence[int] = (),
    ) -> ShimConnection:
        """Fork a shim for a container. The descriptors stay the caller's; await the connection's ``started``."""
        message: JsonObject = {"op": "container", "launch": to_message(launch)}
        return await self._shim(message, [*([] if netns is None else [netns]), *attach])

    async def start_exec(self, launch: ExecLaunch, *, pidfd: int, attach: Sequence[int] = ()) -> ShimConnection:
        """Fork a shim for one more process in a running container."""
        return await self._shim({"op": "exec", "launch": to_message(launch)}, [pidfd, *attach])

    async def request(self, message: JsonObject, fds: Sequence[int] = ()) -> tuple[JsonObject, list[OwnedFd]]:
        """Ask for an operation and wait for its one answer; the answer's descriptors are the caller's.

        Raises:
            OrlopError: the class that the answer's ``kind`` names.
            UnavailableError: the spawner, or the child that worked on it, died.
        """
        ours, theirs = pair()
        answer: asyncio.Future[tuple[JsonObject, list[OwnedFd]]] = asyncio.get_running_loop().create_future()
        reply = PacketSocket(ours, lambda got, got_fds: deliver(answer, got, got_fds), lambda: lost(answer))
        try:
            await self._send(message, theirs, fds)
            return await answer
        finally:
            reply.close()

    async def _repeated(self, child: StandingChild, message: JsonObject) -> tuple[JsonObject, list[OwnedFd]]:
        return await (self.request(message) if child.busy else child.request(message))

    async def converse(self, message: JsonObject, fds: Sequence[int] = ()) -> Conversation:
        """Ask for an operation that answers more than once; close what is returned."""
        ours, theirs = pair()
        conversation = Conversation(ours)
        try:
            await self._send(message, theirs, fds)
        except BaseException:
            conversation.close()
            raise
        return conversation

    async def _plain(self, message: JsonObject, fds: Sequence[int] = ()) -> JsonObject:
        answer, extra = await self.request(message, fds)
        for fd in extra:
            fd.close()
        return answer

    async def _shim(self, message: JsonObject, fds: Sequence[int]) -> ShimConnection:
        ours, theirs = pair()
        connection = ShimConnection(ours)
        try:
            await self._send(message, theirs, fds)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _send(self, message: JsonObject, reply: socket.socket, fds: Sequence[int]) -> None:
        with reply:
            if self._packets is None or not self._packets.is_open:
                raise UnavailableError("spawner is being restarted")
            try:
                await self._packets.send(message, [reply.fileno(), *fds])
            except OSError as error:
                raise UnavailableError("spawner is gone") from error

    def _died(self) -> None:
        if not self._closing:
            _LOG.error("spawner ended unexpectedly: starting another")
            self._respawning = asyncio.get_running_loop().create_task(self._respawn())

    async def _respawn(self) -> None:
        while not self._closing:
            # One that dies at once, or cannot start, would otherwise keep the machine busy.
            short = time.monotonic() - self._started < STABLE_SECONDS
            self._delay = min(max(2 * self._delay, 0.05), STABLE_SECONDS) if short else 0.0
            await asyncio.sleep(self._delay)
            try:
                self._started = time.monotonic()
                self._packets = PacketSocket(self._start(), _unexpected, self._died)
            except (OSError, OrlopError):
                _LOG.exception("spawner cannot be started")
            else:
                return


def _unexpected(message: JsonObject, fds: list[OwnedFd]) -> None:
    """The spawner itself never answers; what comes all the same is dropped."""
    del message
    for fd in fds:
        fd.close()


def _namespace_and_socket(answer: tuple[JsonObject, list[OwnedFd]]) -> tuple[OwnedFd, socket.socket]:
    _, fds = answer
    if len(fds) != 2:
        for fd in fds:
            fd.close()
        raise OrlopError(f"malformed answer of the spawner: {len(fds)} descriptors")
    namespace, netlink = fds
    return namespace, socket.socket(fileno=netlink.release())


def _number(answer: JsonObject, name: str) -> int:
    value = answer.get(name)
    return value if isinstance(value, int) else 0
