"""Does the steps of a build with the engine's own means: containers, layers, images, children of the spawner."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.build.steps import CopyPart, CopyStep, Download, Gathered, Layer, RunStep, Step, Tree
from orlop.engine.builds import git
from orlop.engine.builds.fetching import download, read_file
from orlop.engine.builds.mounting import Mounter
from orlop.engine.builds.repositories import Repositories
from orlop.engine.builds.transfer import copy_files
from orlop.engine.pipes import open_pipe
from orlop.engine.platforms import require_platform
from orlop.engine.registry.pull import PullRequest
from orlop.errors import DataLossError, InvalidParameterError, NotFoundError, OrlopError
from orlop.image.compression import Decompressor
from orlop.image.feed import pour
from orlop.primitives.tar import Limits
from orlop.spec.json import JsonValue
from orlop.spec.launch import OverlayRoot, to_message
from orlop.spec.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.build.parser import Heredoc
    from orlop.build.steps import BuildSecrets
    from orlop.engine.builds.caches import CacheDirectories
    from orlop.engine.builds.history import BuildHistory
    from orlop.engine.builds.output import BuildOutput
    from orlop.engine.builds.records import BuildRecords
    from orlop.engine.builds.running import Runner
    from orlop.engine.builds.service import BuildRequest
    from orlop.engine.builds.sources import CacheSources
    from orlop.engine.commits import CommitService
    from orlop.engine.images import ImageService
    from orlop.engine.registry.service import RegistryService
    from orlop.engine.removals import Removals
    from orlop.engine.spawner import Spawner
    from orlop.image.layer_tar import LayerTars
    from orlop.image.records import Image
    from orlop.spec.image import History, ImageConfig
    from orlop.spec.json import JsonObject
    from orlop.storage.layers import LayerStore

_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The engine's parts that steps are done with."""

    images: ImageService
    layers: LayerStore
    commits: CommitService
    spawner: Spawner
    registry: RegistryService
    records: BuildRecords
    history: BuildHistory
    removals: Removals
    caches: CacheDirectories
    tars: LayerTars


class EngineWorkshop:
    """Fulfils ``build.steps.Workshop`` for one build.

    Args:
        tools: the engine's parts.
        directory: of this build, which goes with it.
        runner: runs commands.
        output: of this build.
        request: the user's.
        private: directory of this build on a tmpfs; it is made when it is needed.
        client: has the build's secrets.
        sources: images that steps may come from.
    """

    def __init__(
        self,
        tools: Tools,
        directory: str,
        *,
        runner: Runner,
        output: BuildOutput,
        request: BuildRequest,
        private: str,
        client: BuildSecrets,
        sources: CacheSources,
    ) -> None:
        self._mounter = Mounter(tools, directory, private=private, client=client, source_of=self._source)
        self._repositories = Repositories(client)
        self._tools = tools
        self._directory = directory
        self._runner = runner
        self._output = output
        self._credentials = request.credentials
        self._remove = request.options.remove
        epoch = request.options.epoch
        self._latest = None if epoch is None else epoch * 1_000_000_000
        self._sources = sources

    async def base_image(self, name: str, *, pull: bool, platform: str) -> Image:
        """Find an image, or pull it."""
        if not pull:
            with contextlib.suppress(NotFoundError):
                image = self._tools.images.resolve(name)
                require_platform(platform, name, image.config)
                return image
        reference = parse_reference(name).with_default_tag()
        credentials = await self._credentials.credentials(reference.domain)
        await self._tools.registry.pull(PullRequest(reference, platform, credentials), self._output.pulls(name))
        return self._tools.images.resolve(name)

    def find_cached(self, key: str) -> Image | None:
        """Return the image that a step gave, if it is still there."""
        found = self._tools.records.image_of(key)
        if found is None:
            return None
        try:
            image = self._tools.images.store.get_by_id(found)
        except NotFoundError:
            return None
        self._tools.records.touch(found)
        return image

    def find_similar(self, below: ImageConfig, told: str, author: str) -> tuple[History, Layer] | None:
        """Return a step of an image that the user named."""
        return self._sources.find(below, told, author)

    def keep_cached(self, key: str, image: Image) -> None:
        """Remember what a step gave."""
        self._tools.records.keep(key, image.id.hex)

    def _source(self, tree: Tree) -> JsonObject:
        if tree.directory:
            return {"directory": tree.directory}
        if tree.image is None or tree.image.chain is None:
            return {"directory": self._empty()}
        return {"source": to_message(self._tools.layers.layer_view(tree.image.chain))}

    def _empty(self) -> str:
        path = f"{self._directory}/empty"
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def _part(self, part: CopyPart) -> JsonObject:
        lists: JsonObject = {"patterns": list[JsonValue](part.patterns), "without": list[JsonValue](part.without)}
        marks: JsonObject = {"keep_owner": part.keep_owner, "unpacked": part.unpacked}
        return {**lists, **marks, **self._source(part.source)}

    async def examine(self, part: CopyPart, *, parents: bool = False, exclude: Sequence[str] = ()) -> Gathered:
        """Find files."""
        request: JsonObject = {
            "action": "sum",
            "parts": [self._part(part)],
            "parents": parents,
            "exclude": list[JsonValue](exclude),
        }
        digest = hashlib.sha256()
        async with open_pipe() as (pieces, writer):
            task = asyncio.ensure_future(self._tools.spawner.gather(request, writer))
            task.add_done_callback(lambda _: os.close(writer))
            try:
                async for piece in pieces:
                    digest.update(piece)
                told = await task
            except BaseException:
                task.cancel()
                raise
        sources, archives = told.get("sources"), told.get("archives")
        return Gathered(
            digest.hexdigest(),
            sources if isinstance(sources, int) else 0,
            told.get("directory") is True,
            tuple(str(name) for name in archives) if isinstance(archives, list) else (),
        )

    async def download(self, url: str) -> Download:
        """Fetch a file, with the permissions and time that Docker gives it."""
        target = self.make_directory("download")
        found = await download(url, f"{target}/.part")
        name = found.name if found.name not in ("", ".", "..") and not {"/", "\0"} & set(found.name) else "download"
        os.chmod(f"{target}/.part", 0o600)
        os.utime(f"{target}/.part", (found.modified or 0, found.modified or 0))
        os.rename(f"{target}/.part", f"{target}/{name}")
        return Download(Tree(directory=target), name, found.sha256)

    async def clone(self, url: str, *, keep_git: bool) -> Tree:
        """Fetch a commit of a git repository."""
        target, work = self.make_directory("git"), self.make_directory("repository")
        for path in await self._repositories.archive(url, work):
            await self._unpack(target, read_file(path))
        if keep_git:
            own = self.make_directory("repository")
            kept = await asyncio.to_thread(git.describe_checkout, git.parse_repository(url), work, own)
            taken: list[JsonValue] = [
                {"directory": work, "patterns": list[JsonValue](kept)},
                {"directory": own, "patterns": ["HEAD", "config", "refs"]},
            ]
            await copy_files(self._tools.spawner, {"parts": taken, "destination": "/.git/", "parents": True}, target)
        return Tree(directory=target)

    async def open_archive(self, source: Tree, path: str) -> Tree | None:
        """Unpack a tar, compressed or not."""
        # The path is taken as it is, whatever characters it holds.
        pattern = "".join(f"\\{char}" if char in "*?[\\" else char for char in path)
        request: JsonObject = {"action": "fetch", "parts": [self._part(CopyPart(source, (pattern,)))]}
        async with open_pipe() as (pieces, writer):
            task = asyncio.ensure_future(self._tools.spawner.gather(request, writer))
            task.add_done_callback(lambda _: os.close(writer))
            try:
                head, is_archive = await _peek(pieces)
                if not is_archive:
                    return None
                target = self.make_directory("archive")
                await self._unpack(target, _chain(head, pieces))
                await task
                return Tree(directory=target)
            finally:
                task.cancel()
                task.add_done_callback(_forget)

    async def _unpack(self, target: str, stream: AsyncIterator[bytes]) -> None:
        tree = OverlayRoot((), upper=target)
        await pour(stream, lambda fd: self._tools.spawner.unpack(tree, fd, Limits(), plain=True))

    def make_directory(self, kind: str) -> str:
        """Make a private directory of this build."""
        path = f"{self._directory}/{kind}-{secrets.token_hex(6)}"
        os.mkdir(path, 0o700)
        return path

    def write_files(self, files: Sequence[Heredoc], *, mode: int = 0o644) -> Tree:
        """Make a tree of here-documents."""
        target = self.make_directory("files")
        for file in files:
            if "/" in file.name or file.name in (".", ".."):
                raise InvalidParameterError(f"invalid name of a here-document: {file.name}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(f"{target}/{file.name}", flags, 0o600)
            with open(fd, "wb") as out:
                os.fchmod(fd, mode)
                out.write(file.content.encode("utf-8", "surrogateescape"))
        return Tree(directory=target)

    async def copy(self, below: Image | None, step: CopyStep) -> Layer:
        """Make a layer of files."""
        chain = None if below is None else below.chain
        seen = None if step.linked else chain
        request: JsonObject = {
            "action": "pack",
            "parts": [self._part(part) for part in step.parts],
            "destination": step.destination,
            "latest": self._latest,
            "owner": step.owner,
            "of_user": step.of_user,
            "root_parents": step.root_parents,
            "mode": step.mode,
            "parents": step.parents,
            "exclude": list[JsonValue](step.exclude),
            "target": None if seen is None else to_message(self._tools.layers.layer_view(seen)),
        }
        top, diff_id = await self._tools.commits.layer_of(chain, lambda fd: self._tools.spawner.gather(request, fd))
        return Layer(top, diff_id)

    async def put_again(self, lender: Image, below: Image | None) -> Layer | None:
        """Put the top layer of one image on another."""
        if lender.chain is None:
            return None
        self._tools.layers.retain(lender.chain)  # it may be pruned meanwhile
        try:
            async with contextlib.aclosing(self._tools.tars.read(lender.config.diff_ids[-1], lender.chain)) as tar:
                top, diff_id = await self._tools.commits.layer_of_stream(None if below is None else below.chain, tar)
        except DataLossError:
            return None
        finally:
            self._tools.removals.bury(self._tools.layers.release(lender.chain))
        return Layer(top, diff_id)

    async def run(self, below: Image, command: RunStep, step: Step) -> Layer:
        """Run a command and make a layer of what it changed."""
        async with self._mounter.prepare(below, command.mounts) as prepared:
            container = await self._runner.run(below, command, step, prepared)
        latest = self._latest
        top, diff_id = await self._tools.commits.layer_of_changes(container, stubs=prepared.stubs, latest=latest)
        return Layer(top, diff_id, container.id if latest is None else "")

    async def end_step(self, step: Step) -> None:
        """Remove the step's container, or leave it to the user."""
        if self._remove:
            self._runner.remove(step)
        else:
            self._runner.leave(step)

    async def commit(self, below: Image | None, config: ImageConfig, layer: Layer) -> Image:
        """Make an image; without a layer of its own it stands on that of the image below."""
        chain = layer.chain
        if layer.diff_id is None and chain is None and below is not None and below.chain is not None:
            chain = below.chain
            self._tools.layers.retain(chain)
        try:
            image, tombstones = await self._tools.images.store.create(
                config.render(), chain, None, parent=None if below is None else below.id, step=True
            )
        except BaseException:
            if chain is not None:
                self._tools.removals.bury(self._tools.layers.release(chain))
            raise
        self._tools.removals.bury(tombstones)
        return image


async def _peek(pieces: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Read as much as tells whether it is a tar, and return that with the answer."""
    head, plain = b"", b""
    decompressor = Decompressor()
    try:
        async for piece in pieces:
            head += piece
            plain += b"".join(decompressor.feed(piece))
            if len(plain) >= _BLOCK:
                break
    except OrlopError:
        return head, False
    return head, len(plain) >= _BLOCK and plain[257:262] == b"ustar"


async def _chain(head: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in pieces:
        yield piece


def _forget(task: asyncio.Future[JsonObject]) -> None:
    """Look at the error of a child whose answer nobody needs."""
    if not task.cancelled():
        task.exception()
