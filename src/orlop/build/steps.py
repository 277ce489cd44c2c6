"""What a builder needs done outside of the text: the protocols that the engine fulfils, and their values."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orlop.errors import OrlopError, SystemFailureError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orlop.build.mounts import Mount
    from orlop.build.parser import Heredoc
    from orlop.image.records import Image
    from orlop.spec.digest import Digest
    from orlop.spec.image import History, ImageConfig


ENTITLEMENTS = frozenset(("network.host", "security.insecure"))


class StepFailedError(SystemFailureError):
    """A RUN ended with another code than 0, which is ``code``; ``command`` is what ran."""

    def __init__(self, message: str, code: int, command: str) -> None:
        super().__init__(message)
        self.code = code
        self.command = command


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the user asked for beside the Dockerfile.

    Attributes:
        target: the stage to build; empty for the last.
        build_args: values of ARGs.
        labels: of the image, over what the Dockerfile says.
        no_cache: run every step.
        no_cache_stages: run every step of the stages of these names or numbers.
        pull: look for newer base images.
        platform: ``os/architecture``; empty for this machine's.
        epoch: seconds since 1970 that the image and its history bear, and that no file of a new layer is later than;
            None for the time as it is.
        remove: remove the containers of steps that succeeded.
        force_remove: remove those of steps that failed as well.
        allowed: of :data:`ENTITLEMENTS`; a step that needs another is refused.
        like_buildkit: where BuildKit gives directories another owner than Docker's classic builder, as BuildKit: what
            WORKDIR makes belongs to the stage's user, and what is missing above a copied directory to ``--chown``.
    """

    target: str = ""
    build_args: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    pull: bool = False
    platform: str = ""
    epoch: int | None = None
    remove: bool = True
    force_remove: bool = False
    allowed: frozenset[str] = frozenset()
    like_buildkit: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """Where files are copied from: a directory of the build, or an image (None: one without layers)."""

    directory: str = ""
    image: Image | None = None

    async def get(self) -> Tree:
        """Return itself: it is a source of trees whose tree is there."""
        return self


class TreeSource(Protocol):
    """Where a tree comes from that a build may not need."""

    async def get(self) -> Tree:
        """Return it, always the same one. Raises OrlopError."""
        ...


class LateTree:
    """A tree that is made when a step wants it, once; whoever wants it meanwhile waits."""

    def __init__(self, make: Callable[[], Awaitable[Tree]]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._made: Tree | OrlopError | None = None

    async def get(self) -> Tree:
        """Return it. Raises what making it raises, also to those who come later."""
        async with self._making:
            if self._made is None:
                try:
                    self._made = await self._make()
                except OrlopError as error:
                    self._made = error
        if isinstance(self._made, OrlopError):
            raise self._made
        return self._made


@dataclass(frozen=True, slots=True)
class Gathered:
    """What patterns found.

    Attributes:
        digest: of it all, without times.
        sources: how many things.
        directory: one of them is a directory.
        archives: paths of files that begin as archives do.
    """

    digest: str
    sources: int
    directory: bool
    archives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyPart:
    """What is taken of one tree.

    Attributes:
        source: where from.
        patterns: below the source.
        keep_owner: owners stay as they are in the source, unless the step names another.
        without: paths that are left out of what the patterns find.
        unpacked: an archive's content, which keeps owners and permissions whatever the step says, as in Docker.
    """

    source: Tree
    patterns: tuple[str, ...]
    keep_owner: bool = False
    without: tuple[str, ...] = ()
    unpacked: bool = False


@dataclass(frozen=True, slots=True)
class CopyStep:
    """What is to be copied where.

    Attributes:
        parts: none to make the destination only.
        destination: absolute; a slash at its end says that it is a directory.
        owner: ``user:group`` as written; empty for root.
        mode: permissions of everything, as chmod(1) writes them; empty for those of the source.
        parents: the directories above each file come along.
        exclude: patterns of what does not.
        linked: the image below is not looked at: its links are not followed, its users not known.
        of_user: the owner is written as USER has it: a name alone is in its own group.
        root_parents: what is missing above a copied directory belongs to root, whoever the owner is.
    """

    parts: tuple[CopyPart, ...]
    destination: str
    owner: str = ""
    mode: str = ""
    parents: bool = False
    exclude: tuple[str, ...] = ()
    linked: bool = False
    of_user: bool = False
    root_parents: bool = False


@dataclass(frozen=True, slots=True)
class Download:
    """A file of a URL: ``name`` in a tree of its own, which the server may have left empty; ``digest`` is sha256."""

    tree: Tree
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class StepMount:
    """What a command sees beside its image.

    Attributes:
        mount: its kind and options.
        target: where: absolute; empty for none (a secret in a variable).
        tree: of a bind; of a cache what it begins with, None for nothing.
    """

    mount: Mount
    target: str
    tree: Tree | None = None


@dataclass(frozen=True, slots=True)
class RunStep:
    """A command.

    Attributes:
        command: its words.
        env: variables beside those of the image.
        shown: the command as errors name it.
        mounts: what it sees beside the image.
        network: ``none``, ``host``, or empty for that of the build.
        insecure: without the boundary (``--security=insecure``).
    """

    command: tuple[str, ...]
    env: tuple[str, ...]
    shown: str
    mounts: tuple[StepMount, ...] = ()
    network: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """The top of a stack of layers, retained for whoever gets it; ``diff_id`` is None when nothing changed."""

    chain: Digest | None
    diff_id: Digest | None
    container: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a Dockerfile as users see it go by.

    Attributes:
        number: from 1, in the order of the text; what is not built has none.
        total: how many there are.
        stage: the stage's name, or its number from 0; empty for an ARG before the stages.
        text: the instruction as written.
    """

    number: int
    total: int
    stage: str
    text: str


class Console(Protocol):
    """Where the build is told of. Steps of different stages go on at the same time."""

    def begin(self, step: Step) -> None:
        """Tell that a step begins."""
        ...

    def say(self, step: Step | None, text: str) -> None:
        """Put text of a step as it is: a container's output, with Docker's words around it; None: of the build."""
        ...

    def result(self, step: Step, image: str, *, cached: bool = False) -> None:
        """Tell what a step gave: twelve digits of an image's id, or nothing. A FROM with triggers has several."""
        ...

    def end(self, step: Step) -> None:
        """Tell that nothing more comes of a step, which did what it should."""
        ...


class BuildSecrets(Protocol):
    """What only the client of a build has, asked for when a step mounts it; never cached, logged or in an image."""

    async def secret(self, name: str) -> bytes | None:
        """Return a secret's bytes; None when the client has none of this name."""
        ...

    async def has_agent(self, name: str) -> bool:
        """Tell whether the client forwards an SSH agent of this name (``default``)."""
        ...

    async def connect_agent(self, name: str) -> socket.socket:
        """Return a stream to the client's agent, which the caller owns. Raises OrlopError."""
        ...

    def known_hosts(self) -> str:
        """Return the client's known_hosts, see sshd(8)."""
        ...


class NoSecrets:
    """A client without any."""

    async def secret(self, name: str) -> bytes | None:
        """There is none."""
        del name
        return None

    async def has_agent(self, name: str) -> bool:
        """There is none."""
        del name
        return False

    async def connect_agent(self, name: str) -> socket.socket:
        """There is none."""
        raise SystemFailureError(f"the client forwards no SSH agent: {name}")

    def known_hosts(self) -> str:
        """There are none."""
        return ""


class Workshop(Protocol):
    """Does the steps of one build, several at the same time."""

    async def base_image(self, name: str, *, pull: bool, platform: str) -> Image:
        """Find an image, or pull it. Raises NotFoundError and others in Docker's words."""
        ...

    def find_cached(self, key: str) -> Image | None:
        """Return the image that a step of this key gave, here, by a build."""
        ...

    def find_similar(self, below: ImageConfig, told: str, author: str) -> tuple[History, Layer] | None:
        """Return the step of this history that follows ``below`` in an image that the user named as a cache."""
        ...

    def keep_cached(self, key: str, image: Image) -> None:
        """Remember what a step gave."""
        ...

    async def examine(self, part: CopyPart, *, parents: bool = False, exclude: Sequence[str] = ()) -> Gathered:
        """Find files. Raises NotFoundError ``stat x: file does not exist``."""
        ...

    async def download(self, url: str) -> Download:
        """Fetch a file. Raises InvalidParameterError and others."""
        ...

    async def clone(self, url: str, *, keep_git: bool) -> Tree:
        """Fetch a commit of a git repository, with ``.git`` if wanted. Raises InvalidParameterError and others."""
        ...

    async def open_archive(self, source: Tree, path: str) -> Tree | None:
        """Unpack a tar, compressed or not, into a tree; None when the file is none."""
        ...

    def write_files(self, files: Sequence[Heredoc], *, mode: int = 0o644) -> Tree:
        """Make a tree of these files, with these permissions."""
        ...

    async def copy(self, below: Image | None, step: CopyStep) -> Layer:
        """Make a layer of files."""
        ...

    async def put_again(self, lender: Image, below: Image | None) -> Layer | None:
        """Put the top layer of one image on another; None: it is damaged."""
        ...

    async def run(self, below: Image, command: RunStep, step: Step) -> Layer:
        """Run a command. Raises StepFailedError."""
        ...

    async def end_step(self, step: Step) -> None:
        """Remove what a step needed, if the user wants that."""
        ...

    async def commit(self, below: Image | None, config: ImageConfig, layer: Layer) -> Image:
        """Make an image; the layer is taken over."""
        ...
