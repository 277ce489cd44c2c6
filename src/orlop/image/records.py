"""What is said of images: values, as they were when somebody asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop.spec.digest import Digest
    from orlop.spec.image import History, ImageConfig
    from orlop.spec.reference import Reference


@dataclass(frozen=True, slots=True)
class Image:
    """One image, as it was when it was asked for.

    Attributes:
        size: bytes of its layers' files.
        references: its names, in order.
        last_tagged: nanoseconds since the epoch; 0 never.
        parent: the image that it was committed or built from, here.
    """

    id: Digest
    config: ImageConfig
    size: int
    references: tuple[Reference, ...] = ()
    last_tagged: int = 0
    parent: Digest | None = None

    @property
    def chain(self) -> Digest | None:
        """The top layer's chain id."""
        chains = self.config.chain_ids
        return chains[-1] if chains else None

    @property
    def tags(self) -> tuple[str, ...]:
        """``RepoTags``."""
        return tuple(reference.familiar for reference in self.references if reference.digest is None)

    @property
    def repo_digests(self) -> tuple[str, ...]:
        """``RepoDigests``."""
        return tuple(reference.familiar for reference in self.references if reference.digest is not None)


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A container that was made from an image."""

    container_id: str
    running: bool
    image_id: str
    image_name: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What went with an image: paths to ``remove_tree``, bytes, and layers, topmost first."""

    tombstones: tuple[str, ...] = ()
    reclaimed: int = 0
    layers: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did.

    Attributes:
        records: in order: (``Untagged`` or ``Deleted``, name or id); layers are deleted by their chain ids.
        tombstones: paths to ``remove_tree``.
        reclaimed: bytes.
        images: the ids among ``records`` that are images'.
    """

    records: tuple[tuple[str, str], ...] = ()
    tombstones: tuple[str, ...] = ()
    reclaimed: int = 0
    images: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of ``docker history``; ``id`` is ``<missing>`` where the image of that step is not here."""

    id: str
    step: History
    size: int
    tags: tuple[str, ...]
