"""The files of a build: from its request's body, from its session, or from a URL.

::

    body            tar, compressed or not            ──▶ unpacked in a child          <build>/context
    session         manifest "context", "dockerfile"  ──▶ laid out from what is kept   <build>/context, dockerfile
    remote=URL      git repository                    ──▶ git, shut in ──▶ tar         <build>/git
                    tar, or a Dockerfile alone        ──▶ downloaded                   <build>/remote-<hex>
    named contexts  each of the session's and URL's, or docker-image://NAME
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.build.ignore import parse_ignore
from orlop.build.parser import SIZE_LIMIT
from orlop.build.steps import Tree
from orlop.engine.builds import git
from orlop.engine.builds.fetching import download, is_url, read_file
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError
from orlop.image.compression import Decompressor
from orlop.image.feed import pour
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root
from orlop.primitives.tar import Limits
from orlop.spec.launch import OverlayRoot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from orlop.engine.builds.context_files import ContextFiles
    from orlop.engine.builds.repositories import Repositories
    from orlop.engine.builds.sessions import Session
    from orlop.engine.spawner import Spawner
    from orlop.image.records import Image
    from orlop.primitives.ignore import IgnoreRules

MAIN = "context"
DOCKERFILE = "dockerfile"
_SESSION = "session"
_IMAGE = "docker-image://"
_BLOCK, _PEEK = 512, 4096
_READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Context:
    """The files of one build.

    Attributes:
        directory: of the main context.
        dockerfile: the text.
        named: further trees.
        ignored: what its ignore file keeps out; None when it came without one.
    """

    directory: str
    dockerfile: bytes
    named: Mapping[str, Tree] = field(default_factory=dict)
    ignored: IgnoreRules | None = None


class ContextMaker:
    """Makes the contexts of one build in its directory.

    Args:
        spawner: unpacks.
        files: contents that sessions' manifests name.
        directory: of the build.
        base_image: finds an image by name, or pulls it.
        repositories: fetches those of git.
    """

    def __init__(
        self,
        spawner: Spawner,
        files: ContextFiles,
        directory: str,
        *,
        base_image: Callable[[str], Coroutine[None, None, Image]],
        repositories: Repositories,
    ) -> None:
        self._spawner = spawner
        self._files = files
        self._directory = directory
        self._base_image = base_image
        self._repositories = repositories

    async def make(
        self, body: AsyncIterator[bytes], session: Session | None, *, remote: str, dockerfile: str
    ) -> Context:
        """Make everything that the build needs of files.

        Raises:
            InvalidParameterError, NotFoundError and others: in Docker's words where Docker has some.
        """
        manifests = {} if session is None else session.manifests
        root, alone = f"{self._directory}/{MAIN}", False
        if remote:
            root, alone = await self._fetch(remote)
        else:
            os.mkdir(root, 0o700)
            if MAIN in manifests:
                await asyncio.to_thread(self._files.lay_out, manifests[MAIN], root)
            else:
                await self._unpack(root, body)
        ignored = await asyncio.to_thread(read_rules, root, dockerfile)
        if DOCKERFILE in manifests:
            of_its_own = f"{self._directory}/{DOCKERFILE}"
            os.mkdir(of_its_own, 0o700)
            await asyncio.to_thread(self._files.lay_out, manifests[DOCKERFILE], of_its_own)
            data = await asyncio.to_thread(read_dockerfile, of_its_own, dockerfile)
        else:
            data = await asyncio.to_thread(read_dockerfile, root, "Dockerfile" if alone else dockerfile)
        named = {name: await self._named(name, origin, session) for name, origin in self._origins(session).items()}
        return Context(root, data, named, ignored)

    @staticmethod
    def _origins(session: Session | None) -> Mapping[str, str]:
        return {} if session is None else session.contexts

    async def _named(self, name: str, origin: str, session: Session | None) -> Tree:
        if origin.startswith(_IMAGE):
            return Tree(image=await self._base_image(origin.removeprefix(_IMAGE)))
        if origin == _SESSION:
            if session is None or name not in session.manifests:
                raise InvalidParameterError(f"the session does not hold the context: {name}")
            target = f"{self._directory}/named-{secrets.token_hex(6)}"
            os.mkdir(target, 0o700)
            await asyncio.to_thread(self._files.lay_out, session.manifests[name], target)
            return Tree(directory=target)
        if is_url(origin) or git.is_git(origin):
            return Tree(directory=(await self._fetch(origin))[0])
        raise UnsupportedError(f"unsupported context: {name}={origin[:200]}")

    async def _unpack(self, target: str, stream: AsyncIterator[bytes]) -> None:
        tree = OverlayRoot((), upper=target)
        await pour(stream, lambda fd: self._spawner.unpack(tree, fd, Limits(), plain=True))

    async def _fetch(self, url: str) -> tuple[str, bool]:
        """Return the directory of what a URL names, and whether that is a Dockerfile alone."""
        target = f"{self._directory}/remote-{secrets.token_hex(6)}"
        os.mkdir(target, 0o700)
        if git.is_git(url):
            work = f"{self._directory}/git-{secrets.token_hex(6)}"
            os.mkdir(work, 0o700)
            for tar in await self._repositories.archive(url, work):
                await self._unpack(target, read_file(tar))
            return target, False
        if not is_url(url):
            raise InvalidParameterError(f"unable to prepare context: not a URL: {url[:200]}")
        path = f"{self._directory}/download-{secrets.token_hex(6)}"
        found = await download(url, path)
        if await asyncio.to_thread(_is_tar, path):
            await self._unpack(target, read_file(path))
            os.unlink(path)
            return target, False
        if found.size > SIZE_LIMIT:
            raise InvalidParameterError(f"neither a tar archive nor a Dockerfile: {url[:200]}")
        os.rename(path, f"{target}/Dockerfile")
        return target, True


def _is_tar(path: str) -> bool:
    """Tell whether a file is a tar, compressed or not."""
    plain, decompressor = b"", Decompressor()
    with open(path, "rb") as file:
        try:
            while len(plain) < _BLOCK and (data := file.read(_PEEK)):
                plain += b"".join(decompressor.feed(data))
        except InvalidParameterError:
            return False
    return plain[257:262] == b"ustar"


def read_rules(root: str, dockerfile: str) -> IgnoreRules | None:
    """Read what the context's ignore file keeps out; None when there is none. Raises InvalidParameterError."""
    with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        for ignore in (f"{dockerfile}.dockerignore", ".dockerignore"):
            try:
                return parse_ignore(_read(top, ignore).decode("utf-8", "replace"))
            except OSError:
                continue
    return None


def read_dockerfile(root: str, path: str) -> bytes:
    """Read the Dockerfile, resolved in the context; then take it and .dockerignore away if they are to be ignored.

    Raises:
        NotFoundError: it is not there, in Docker's words.
        InvalidParameterError: it is something else than a file.
    """
    with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        try:
            data = _read(top, path)
        except FileNotFoundError:
            message = f"failed to read dockerfile: open {path}: no such file or directory"
            raise NotFoundError(f"Cannot locate specified Dockerfile: {path}" if path else message) from None
        for ignore in (f"{path}.dockerignore", ".dockerignore"):
            try:
                rules = parse_ignore(_read(top, ignore).decode("utf-8", "replace"))
            except FileNotFoundError:
                continue
            break
        else:
            return data
        for name in (path, ignore):
            clean = os.path.normpath(f"/{name}").lstrip("/")
            if rules.ignores(clean):
                head, _, last = clean.rpartition("/")
                with open_in_root(top.fileno(), head or ".", os.O_PATH | os.O_DIRECTORY) as parent:
                    os.unlink(last, dir_fd=parent.fileno())
    return data


def _read(top: OwnedFd, path: str) -> bytes:
    if "\0" in path:
        raise InvalidParameterError("the Dockerfile's path holds a NUL")
    with open_in_root(top.fileno(), path, _READ_FILE) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidParameterError(f"not a regular file: {path}")
        data = bytearray()
        while len(data) <= SIZE_LIMIT and (piece := os.read(file.fileno(), SIZE_LIMIT)):
            data += piece
    return bytes(data)
