"""The build cache as users see it (``system df``, ``builder prune``): what there is, of what size, and what may go.

================  =========================================================  =========================================
type              what                                                       removed
================  =========================================================  =========================================
regular           an image that a step gave                                  its key, and itself if nobody needs it
exec.cachemount   a directory of ``RUN --mount=type=cache``                  unless a step has it mounted
source.local      all contents of contexts that travelled                    what was not of use since
================  =========================================================  =========================================

An image that a name or a container stands on is ``shared``: its key goes with ``all`` only, and it stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.image.filters import boolean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.engine.builds.caches import CacheDirectories
    from orlop.engine.builds.context_files import ContextFiles
    from orlop.engine.builds.records import BuildRecords, Uses
    from orlop.engine.events import Events
    from orlop.engine.images import ImageService
    from orlop.image.records import Image, ImageUser
    from orlop.spec.digest import Digest

STEP, DIRECTORY, CONTEXTS = "regular", "exec.cachemount", "source.local"
_CONTEXTS_ID = "contexts"
_FILTERS = frozenset(("id", "type", "inuse", "shared", "private", "until", "unused-for"))
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache.

    Attributes:
        id: hex of the image, or the directory's.
        kind: of the table above.
        description: what made it.
        size: bytes of its own.
        created: nanoseconds since the epoch.
        used: likewise, when it was of use last.
        uses: how often.
        in_use: it cannot go now.
        shared: what it takes on disk is an image's or a container's as well.
        parents: ids that it stands on.
    """

    id: str
    kind: str
    description: str
    size: int
    created: int
    used: int
    uses: int = 0
    in_use: bool = False
    shared: bool = False
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What is to go.

    Attributes:
        filters: by Docker's names; all must match.
        before: only what was not of use since then, in nanoseconds since the epoch; None for any time.
        everything: also what is shared.
        keep: bytes that may stay: what was of use last.
    """

    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    before: int | None = None
    everything: bool = False
    keep: int = 0


class BuildCache:
    """Looks at all kinds, and removes; owns none.

    Args:
        records: of steps.
        images: that steps gave.
        directories: of cache mounts.
        files: of contexts.
        events: is told of prunes.
        users: returns all containers with their images.
        layer_size: bytes of a layer and all below it, by chain id.
    """

    def __init__(
        self,
        *,
        records: BuildRecords,
        images: ImageService,
        directories: CacheDirectories,
        files: ContextFiles,
        events: Events,
        users: Callable[[], Sequence[ImageUser]],
        layer_size: Callable[[Digest | None], int],
    ) -> None:
        self._records = records
        self._images = images
        self._directories = directories
        self._files = files
        self._events = events
        self._users = users
        self._layer_size = layer_size

    async def entries(self) -> list[CacheEntry]:
        """Return everything, what was of use last first."""
        found = self._steps()
        found += [
            CacheEntry(one.id, DIRECTORY, one.name, one.size, one.created_at, one.used_at, one.uses, in_use=one.in_use)
            for one in await self._directories.usage()
        ]
        count, size, oldest, newest = await asyncio.to_thread(self._files.usage)
        if count:
            times = int(oldest * _BILLION), int(newest * _BILLION)
            found.append(CacheEntry(_CONTEXTS_ID, CONTEXTS, f"{count} files of contexts", size, *times))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def _steps(self) -> list[CacheEntry]:
        known = {image.id.hex: image for image in self._images.store.images()}
        needed = self._needed(known)
        all_uses = {name: uses for name, uses in self._records.uses().items() if name in known}
        names = sorted(all_uses, key=lambda name: len(known[name].config.history))
        # What others stand on is of use whenever they are, so that it never goes before them.
        for name in reversed(names):
            parent = known[name].parent
            if parent is not None and parent.hex in all_uses and all_uses[parent.hex].used < all_uses[name].used:
                all_uses[parent.hex] = replace(all_uses[parent.hex], used=all_uses[name].used)
        return [self._step(known[name], all_uses[name], known, shared=name in needed) for name in names]

    def _step(self, image: Image, uses: Uses, known: Mapping[str, Image], *, shared: bool) -> CacheEntry:
        below = known.get(image.parent.hex) if image.parent is not None else None
        own = self._layer_size(image.chain) - self._layer_size(None if below is None else below.chain)
        history = image.config.history
        return CacheEntry(
            image.id.hex,
            STEP,
            history[-1].created_by if history else "",
            max(own, 0),
            uses.created,
            uses.used,
            uses.count,
            in_use=shared,
            shared=shared,
            parents=() if below is None else (below.id.hex,),
        )

    def _needed(self, known: Mapping[str, Image]) -> set[str]:
        """Return the images that names and containers stand on."""
        used = {user.image_id.removeprefix("sha256:") for user in self._users()}
        needed: set[str] = set()
        for image in known.values():
            current: Image | None = image if image.references or image.id.hex in used else None
            while current is not None and current.id.hex not in needed:
                needed.add(current.id.hex)
                current = known.get(current.parent.hex) if current.parent is not None else None
        return needed

    async def prune(self, request: PruneRequest) -> tuple[list[str], int]:
        """Remove; returns the ids of what went, and the bytes.

        Raises:
            InvalidParameterError: a filter that is none.
        """
        if unknown := set(request.filters) - _FILTERS:
            raise InvalidParameterError(f"invalid filter '{min(unknown)}'")
        entries = await self.entries()
        chosen = [entry for entry in entries if _is_chosen(entry, request)]
        if request.keep:
            chosen = _beyond(entries, chosen, request.keep)
        names = {kind: [entry.id for entry in chosen if entry.kind == kind] for kind in (STEP, DIRECTORY)}
        reclaimed = 0
        if any(entry.kind == CONTEXTS for entry in chosen):
            before = None if request.before is None else request.before / _BILLION
            reclaimed += await asyncio.to_thread(self._files.trim, 0, before=before)
        gone = set(self._directories.remove(names[DIRECTORY]))
        reclaimed += sum(entry.size for entry in chosen if entry.id in gone)
        self._records.forget(names[STEP])
        known = {image.id.hex: image for image in self._images.store.images()}
        removed = [known[name] for name in names[STEP] if name in known]
        # What stands on others goes before them.
        reclaimed += self._images.discard(sorted(removed, key=lambda image: -len(image.config.history)))
        self._events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return [entry.id for entry in chosen if entry.kind != DIRECTORY or entry.id in gone], reclaimed


def _is_chosen(entry: CacheEntry, request: PruneRequest) -> bool:
    filters = request.filters
    if entry.shared and not request.everything:
        return False
    if entry.in_use and not entry.shared:
        return False
    if filters.get("id") and not any(entry.id.startswith(name.removeprefix("sha256:")) for name in filters["id"]):
        return False
    if filters.get("type") and entry.kind not in filters["type"]:
        return False
    if any(boolean(filters, name, default=value) is not value for name, value in _facts(entry).items()):
        return False
    return request.before is None or (entry.used if entry.kind != CONTEXTS else entry.created) < request.before


def _facts(entry: CacheEntry) -> dict[str, bool]:
    return {"inuse": entry.in_use, "shared": entry.shared, "private": not entry.shared}


def _beyond(entries: Sequence[CacheEntry], chosen: Sequence[CacheEntry], keep: int) -> list[CacheEntry]:
    """Return of the chosen what has to go, oldest first, so that no more than ``keep`` bytes are left."""
    total = sum(entry.size for entry in entries if not entry.shared)
    going = []
    for entry in reversed(chosen):
        if total <= keep:
            break
        going.append(entry)
        total -= 0 if entry.shared else entry.size
    return going
