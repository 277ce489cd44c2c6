"""What ``RUN --mount`` shows in a step's container, from its making to the step's end.

::

    <exec-root>/builds/<hex>/                    0700   one build: on a tmpfs, as all of exec-root
      secret-<hex>                               a secret's bytes while the step runs (threats.md F9)
      agent-<hex>                                socket of the client's SSH agent
    <data-root>/builds/<hex>/writable-<hex>/t    copy for a bind that can be written, thrown away with the build

Sources are resolved below their own root by the kernel, when they are mounted (threats.md F1, F7): the path of a bind
is the ``subpath`` of a directory of the build's own, or of an image.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.engine.builds.agents import listen
from orlop.engine.builds.caches import CacheWish
from orlop.engine.builds.transfer import copy_files
from orlop.engine.containers.records import MountPoint
from orlop.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orlop.build.mounts import Mount
    from orlop.build.steps import BuildSecrets, StepMount, Tree
    from orlop.engine.builds.workshop import Tools
    from orlop.image.records import Image
    from orlop.spec.json import JsonObject

_PIECE = 1 << 16
_ENTERED = 0o755  # a context's parent is root's alone; whoever a step runs as sees the context itself
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Prepared:
    """What a container gets.

    Attributes:
        points: its mounts.
        env: variables that are in the container's record.
        private_env: variables that are in none.
        stubs: what the mounts make in the container's layer.
    """

    points: list[MountPoint] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    private_env: list[str] = field(default_factory=list)
    stubs: tuple[str, ...] = ()


class Mounter:
    """Makes the mounts of one build's steps.

    Args:
        tools: the engine's parts.
        directory: of the build, on disk.
        private: of the build, on a tmpfs; made when it is needed.
        client: has the secrets.
        source_of: a tree as a request to the spawner has it.
    """

    def __init__(
        self,
        tools: Tools,
        directory: str,
        *,
        private: str,
        client: BuildSecrets,
        source_of: Callable[[Tree], JsonObject],
    ) -> None:
        self._tools = tools
        self._directory = directory
        self._private = private
        self._client = client
        self._source_of = source_of

    @contextlib.asynccontextmanager
    async def prepare(self, below: Image, mounts: Sequence[StepMount]) -> AsyncIterator[Prepared]:
        """Make what the mounts of a step on an image show, until the step has ended.

        Raises:
            NotFoundError: a required secret or agent.
            OrlopError: a source could not be copied.
        """
        made = Prepared()
        if not mounts:
            yield made
            return
        async with contextlib.AsyncExitStack() as stack:
            caches = [item for item in mounts if item.mount.kind == "cache"]
            wishes = [self._wish(item) for item in caches]
            paths = await stack.enter_async_context(self._tools.caches.hold(wishes)) if wishes else {}
            for item, wish in zip(caches, wishes, strict=True):
                made.points.append(
                    MountPoint(
                        kind="bind",
                        source=paths[wish.name],
                        destination=item.target,
                        writable=not item.mount.readonly,
                        propagation="rprivate",
                        options=("nodev",),
                    )
                )
            for item in mounts:
                if item.mount.kind == "bind":
                    made.points.append(await self._bind(item))
                elif item.mount.kind == "tmpfs":
                    size = (f"size={item.mount.size}",) if item.mount.size else ()
                    made.points.append(MountPoint(kind="tmpfs", destination=item.target, options=("exec", *size)))
                elif item.mount.kind == "secret":
                    await self._add_secret(made, item, stack)
                elif item.mount.kind == "ssh":
                    await self._add_agent(made, item, stack)
            made.stubs = await self._stubs(below, made.points)
            yield made

    async def _stubs(self, below: Image, points: Sequence[MountPoint]) -> tuple[str, ...]:
        if below.chain is None or not points:
            return ()
        view = self._tools.layers.layer_view(below.chain)
        return tuple(await self._tools.spawner.missing_paths(view, [point.destination for point in points]))

    # Binds and caches.

    async def _bind(self, item: StepMount) -> MountPoint:
        tree = item.tree
        part = item.mount.source.strip("/")
        if tree is not None and not item.mount.readonly:
            target = f"{self._directory}/writable-{secrets.token_hex(6)}"
            os.mkdir(target, 0o700)
            await self._copy(tree, item.mount.source, target, "/t")
            return MountPoint(
                kind="bind",
                source=f"{target}/t",
                destination=item.target,
                propagation="rprivate",
                options=("nodev", "nosuid"),
            )
        if tree is not None and tree.image is not None and tree.image.chain is not None:
            name = str(tree.image.id)
            return MountPoint(
                kind="image", source=name, name=name, destination=item.target, writable=False, subpath=part
            )
        source = self._source_of(tree).get("directory") if tree is not None else None
        if not isinstance(source, str):
            raise NotFoundError(f"nothing to mount at {item.target}")
        os.chmod(source, _ENTERED)
        return MountPoint(
            kind="bind",
            source=source,
            subpath=part,
            destination=item.target,
            writable=False,
            propagation="rprivate",
            options=("nodev", "nosuid"),
        )

    def _wish(self, item: StepMount) -> CacheWish:
        mount, tree = item.mount, item.tree
        name = mount.name or item.target

        async def fill(target: str) -> None:
            if tree is not None:
                await self._copy(tree, mount.source, target, "/")
            os.chown(target, mount.uid, mount.gid)
            os.chmod(target, 0o755 if mount.mode is None else mount.mode)

        origin = "" if tree is None else f"\0{mount.origin}\0{mount.source}"
        return CacheWish(f"{name}{origin}", mount.sharing, fill)

    async def _copy(self, tree: Tree, source: str, target: str, destination: str) -> None:
        """Copy a part of a tree below a private directory, in two children."""
        pattern = "".join(f"\\{char}" if char in "*?[\\" else char for char in source)
        part: JsonObject = {"patterns": [pattern], "keep_owner": True, **self._source_of(tree)}
        await copy_files(self._tools.spawner, {"parts": [part], "destination": destination}, target)

    # What only the client has.

    def _make_private(self) -> str:
        os.makedirs(self._private, mode=0o700, exist_ok=True)
        return self._private

    async def _add_secret(self, made: Prepared, item: StepMount, stack: contextlib.AsyncExitStack) -> None:
        mount = item.mount
        data = await self._client.secret(mount.name)
        if data is None:
            if mount.required:
                raise NotFoundError(f"secret {mount.name}: not found")
            return
        if mount.env:
            made.private_env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
        if not item.target:
            return
        path = f"{self._make_private()}/secret-{secrets.token_hex(8)}"
        stack.callback(_unlink, path)
        _write(path, data, mount)
        made.points.append(_file(path, item.target))

    async def _add_agent(self, made: Prepared, item: StepMount, stack: contextlib.AsyncExitStack) -> None:
        mount = item.mount
        if not await self._client.has_agent(mount.name):
            if mount.required:
                raise NotFoundError(f"unset ssh forward key {mount.name}")
            return
        path = f"{self._make_private()}/agent-{secrets.token_hex(8)}"
        stack.callback(_unlink, path)
        await stack.enter_async_context(listen(path, lambda: self._client.connect_agent(mount.name)))
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, 0o600 if mount.mode is None else mount.mode)
        made.points.append(_file(path, item.target))
        if not any(entry.startswith("SSH_AUTH_SOCK=") for entry in made.env):
            made.env.append(f"SSH_AUTH_SOCK={item.target}")


def _file(path: str, target: str) -> MountPoint:
    return MountPoint(
        kind="bind",
        source=path,
        destination=target,
        writable=False,
        propagation="rprivate",
        options=("nodev", "nosuid", "noexec"),
    )


def _write(path: str, data: bytes, mount: Mount) -> None:
    with open(os.open(path, _NEW, 0o600), "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), mount.uid, mount.gid)
        os.fchmod(file.fileno(), 0o400 if mount.mode is None else mount.mode)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
