"""The files of a build: from its request's body, from its client, or from a URL.

::

    body            tar, compressed or not              ──▶ unpacked in a child          <build>/context
    client          "dockerfile", where not in the next ──▶ laid out from what is kept   <build>/dockerfile
                    "context", without what is ignored  ──▶ likewise                     <build>/context
    remote=URL      git repository                      ──▶ git, shut in ──▶ tar         <build>/git
                    tar, or a Dockerfile alone          ──▶ downloaded, or uploaded      <build>/remote-<hex>
    named contexts  each of the client's and URL's, or docker-image://NAME

A client that does not choose is told what to leave out: by ``<Dockerfile>.dockerignore`` beside the Dockerfile, or the
context's ``.dockerignore``, which is asked for alone.
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
from orlop.build.steps import LateTree, Tree
from orlop.engine.builds import git
from orlop.engine.builds.client import Choice
from orlop.engine.builds.fetching import SIZE_LIMIT as DOWNLOAD_LIMIT
from orlop.engine.builds.fetching import download, is_url, read_file, write_all
from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError
from orlop.image.compression import Decompressor
from orlop.image.feed import pour
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root
from orlop.primitives.tar import Limits
from orlop.spec.launch import OverlayRoot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from orlop.build.steps import TreeSource
    from orlop.engine.builds.client import BuildClient
    from orlop.engine.builds.repositories import Repositories
    from orlop.engine.spawner import Spawner
    from orlop.image.records import Image
    from orlop.primitives.ignore import IgnoreRules

MAIN = "context"
DOCKERFILE = "dockerfile"
IGNORE = ".dockerignore"
_SESSION, _LOCAL = "session", "local:"
_IMAGE = "docker-image://"
_BLOCK, _PEEK = 512, 4096
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Context:
    """The files of one build.

    Attributes:
        files: the main context.
        dockerfile: the text.
        named: further trees.
        ignored: what its ignore file keeps out; None when it came without one.
    """

    files: TreeSource
    dockerfile: bytes
    named: Mapping[str, TreeSource] = field(default_factory=dict)
    ignored: IgnoreRules | None = None


class ContextMaker:
    """Makes the contexts of one build in its directory.

    Args:
        spawner: unpacks.
        client: has the files that are in no request.
        directory: of the build.
        base_image: finds an image by name, or pulls it.
        repositories: fetches those of git.
    """

    def __init__(
        self,
        spawner: Spawner,
        client: BuildClient,
        directory: str,
        *,
        base_image: Callable[[str], Coroutine[None, None, Image]],
        repositories: Repositories,
    ) -> None:
        self._spawner = spawner
        self._client = client
        self._directory = directory
        self._base_image = base_image
        self._repositories = repositories

    async def make(self, body: AsyncIterator[bytes], *, remote: str, dockerfile: str) -> Context:
        """Make what has to be known before the first step; the rest is made when a step wants it.

        Raises:
            InvalidParameterError, NotFoundError and others: in Docker's words where Docker has some.
        """
        own, root, alone = "", "", False
        if self._client.holds(DOCKERFILE):
            own = self._make_directory(DOCKERFILE)
            await self._client.lay_out(DOCKERFILE, own, Choice(_names(dockerfile)))
        if own and not remote and self._client.holds(MAIN) and not self._client.chooses:
            rules = await asyncio.to_thread(read_rules, own, (f"{dockerfile}{IGNORE}",))
            if rules is None:
                rules = await self._read_rules(MAIN)
            files: TreeSource = LateTree(lambda: self._lay_out(MAIN, MAIN, rules))
        else:
            if remote:
                root, alone = await self._fetch(remote)
            else:
                root = await self._take(body)
            files = Tree(directory=root)
            rules = await asyncio.to_thread(read_rules, root, (f"{dockerfile}{IGNORE}", IGNORE))
        if own:
            data = await asyncio.to_thread(read_own_dockerfile, own, _names(dockerfile))
        else:
            data = await asyncio.to_thread(read_dockerfile, root, "Dockerfile" if alone else dockerfile)
        named = {name: self._named(name, origin) for name, origin in self._client.contexts.items()}
        return Context(files, data, named, rules)

    def _make_directory(self, name: str) -> str:
        path = f"{self._directory}/{name}"
        os.mkdir(path, 0o700)
        return path

    async def _take(self, body: AsyncIterator[bytes]) -> str:
        """Make the main context as the client has chosen it; returns its directory."""
        root = self._make_directory(MAIN)
        if self._client.holds(MAIN):
            await self._client.lay_out(MAIN, root)
        else:
            await self._unpack(root, body)
        return root

    async def _read_rules(self, name: str) -> IgnoreRules | None:
        """Ask for the ignore file of a client's directory alone, and read it; None when there is none."""
        place = self._make_directory(f"ignore-{secrets.token_hex(6)}")
        await self._client.lay_out(name, place, Choice((IGNORE,)))
        return await asyncio.to_thread(read_rules, place, (IGNORE,))

    async def _lay_out(self, name: str, place: str, rules: IgnoreRules | None) -> Tree:
        """Make a directory of the client's without what is to be ignored."""
        target = self._make_directory(place)
        await self._client.lay_out(name, target, Choice(without=() if rules is None else rules.texts))
        return Tree(directory=target)

    def _named(self, name: str, origin: str) -> TreeSource:
        async def make() -> Tree:
            if origin.startswith(_IMAGE):
                return Tree(image=await self._base_image(origin.removeprefix(_IMAGE)))
            if origin == _SESSION or origin.startswith(_LOCAL):
                theirs = name if origin == _SESSION else origin.removeprefix(_LOCAL)
                rules = None if self._client.chooses else await self._read_rules(theirs)
                return await self._lay_out(theirs, f"named-{secrets.token_hex(6)}", rules)
            return Tree(directory=(await self._fetch(origin))[0])

        if not (origin.startswith((_IMAGE, _LOCAL)) or origin == _SESSION or is_url(origin) or git.is_git(origin)):
            raise UnsupportedError(f"unsupported context: {name}={origin[:200]}")
        return LateTree(make)

    async def _unpack(self, target: str, stream: AsyncIterator[bytes]) -> None:
        tree = OverlayRoot((), upper=target)
        await pour(stream, lambda fd: self._spawner.unpack(tree, fd, Limits(), plain=True))

    async def _fetch(self, url: str) -> tuple[str, bool]:
        """Return the directory of what a URL names, and whether that is a Dockerfile alone."""
        target = self._make_directory(f"remote-{secrets.token_hex(6)}")
        if git.is_git(url):
            work = self._make_directory(f"git-{secrets.token_hex(6)}")
            for tar in await self._repositories.archive(url, work):
                await self._unpack(target, read_file(tar))
            return target, False
        if not is_url(url):
            raise InvalidParameterError(f"unable to prepare context: not a URL: {url[:200]}")
        path = f"{self._directory}/download-{secrets.token_hex(6)}"
        sent = self._client.upload(url)
        size = (await download(url, path)).size if sent is None else await _write(sent, path)
        if await asyncio.to_thread(_is_tar, path):
            await self._unpack(target, read_file(path))
            os.unlink(path)
            return target, False
        if size > SIZE_LIMIT:
            raise InvalidParameterError(f"neither a tar archive nor a Dockerfile: {url[:200]}")
        os.rename(path, f"{target}/Dockerfile")
        return target, True


async def _write(stream: AsyncIterator[bytes], path: str) -> int:
    """Write what a client sends into a new file; returns the number of bytes."""
    size = 0
    with OwnedFd(os.open(path, _CREATE, 0o600)) as file:
        async for data in stream:
            size += len(data)
            if size > DOWNLOAD_LIMIT:
                raise InvalidParameterError(f"more than {DOWNLOAD_LIMIT} bytes of a context")
            await asyncio.to_thread(write_all, file.fileno(), data)
    return size


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


def _names(dockerfile: str) -> tuple[str, ...]:
    """Return what may be of use beside a Dockerfile, and as which it may be there, as BuildKit has it."""
    head, slash, last = dockerfile.rpartition("/")
    other = (f"{head}{slash}{last.lower()}",) if last == "Dockerfile" else ()
    return (dockerfile, f"{dockerfile}{IGNORE}", *other)


def read_rules(root: str, names: Sequence[str]) -> IgnoreRules | None:
    """Read the first of these ignore files that is there; None when there is none. Raises InvalidParameterError."""
    with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        for name in names:
            try:
                return parse_ignore(_read(top, name).decode("utf-8", "replace"))
            except OSError:
                continue
    return None


def read_own_dockerfile(root: str, names: Sequence[str]) -> bytes:
    """Read a Dockerfile from a directory of its own: the first of these names, or the last.

    Raises:
        NotFoundError: it is not there.
        InvalidParameterError: it is something else than a file.
    """
    with OwnedFd(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        for name in (names[0], *names[2:]):
            try:
                return _read(top, name)
            except FileNotFoundError:
                continue
    raise NotFoundError(f"failed to read dockerfile: open {names[0]}: no such file or directory")


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
        for ignore in (f"{path}{IGNORE}", IGNORE):
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
