"""Contexts that travel once: a client tells what its files are, and sends those whose content is not here yet.

::

    <data-root>/build-files/              0700   cleared when the machine has started anew: contents are not synced
      boot                                       the kernel's boot id
      <sha256>                            0600   one file's content; its mtime is when it was last of use
      seen-<sha256>                       0600   what a client's files were that held which (seen_files.py)
      .new-<random>                              being received

Nothing is taken for granted about a content's name: it is stored under the digest of what came (contents.py). How a
manifest becomes a tree: context_tree.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from typing import TYPE_CHECKING

import msgspec

from orlop.engine.builds.contents import NEW, NewContent, Receiver
from orlop.engine.builds.context_tree import Entry, lay_out
from orlop.engine.builds.seen_files import SeenFiles
from orlop.errors import InvalidParameterError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MANIFEST_LIMIT = 64 << 20
MOST_ENTRIES = 1_000_000
_MOST_LISTED = 2 * MOST_ENTRIES  # of all contexts that come at the same time: a file takes 600 bytes
_MOST_TURNS = 2  # the threads are everybody's
_DIGEST = 64
_CLOCK_SECONDS = 1.0  # by which a file system's time can be behind
_BOOT = "boot"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def parse_manifest(data: bytes) -> list[Entry]:
    """Read a manifest, a JSON list of entries, and check everything about it that can be wrong.

    Raises:
        InvalidParameterError: malformed, or a path that is none.
    """
    try:
        entries = msgspec.json.decode(data, type=list[Entry])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidParameterError(f"invalid manifest of a context: {error}") from None
    if len(entries) > MOST_ENTRIES:
        raise InvalidParameterError(f"invalid manifest of a context: more than {MOST_ENTRIES} files")
    for entry in entries:
        check_entry(entry)
    return entries


def check_entry(entry: Entry) -> None:
    """Check everything about one file that can be wrong. Raises InvalidParameterError."""
    names = entry.path.split("/")
    if (
        (not entry.path.isascii() and max(entry.path) > "\xff")
        or any(name in ("", ".", "..") or len(name) > 255 for name in names)
        or "\0" in entry.path
    ):
        raise InvalidParameterError(f"invalid path in a context: {entry.path[:200]!r}")
    numbers = 0 <= entry.mode <= 0o7777 and abs(entry.mtime) < 1 << 62 and 0 <= entry.size < 1 << 62
    text = entry.kind != "f" or (len(entry.text) == _DIGEST and set(entry.text) <= set("0123456789abcdef"))
    link = entry.kind != "l" or (0 < len(entry.text) < 4096 and "\0" not in entry.text and max(entry.text) <= "\xff")
    if not (numbers and text and link):
        raise InvalidParameterError(f"invalid file in a context: {entry.path[:200]!r}")


class ContextFiles:
    """Owns the directory drawn above. All methods but the constructor block: call them in a thread.

    Attributes:
        turns: is held by who has a thread do something to each file of a context.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.seen = SeenFiles(root)
        self.turns = asyncio.Semaphore(_MOST_TURNS)
        self._uses: list[float] = []
        self._listed = 0
        os.makedirs(root, mode=0o700, exist_ok=True)
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read()
        try:
            with open(f"{root}/{_BOOT}", encoding="ascii") as file:
                known = file.read()
        except FileNotFoundError:
            known = ""
        for name in os.listdir(root):
            if name.startswith(NEW) or known != boot:
                os.unlink(f"{root}/{name}")
        if known != boot:
            with open(f"{root}/{_BOOT}", "w", encoding="ascii") as file:
                file.write(boot)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep every content that is of use from now on until the block ends; does not block."""
        began = time.time() - _CLOCK_SECONDS
        self._uses.append(began)
        try:
            yield
        finally:
            self._uses.remove(began)

    def count_listed(self, change: int) -> None:
        """Know of files that are listed now, or not any more; does not block. Raises UnavailableError: too many."""
        if change > 0 and self._listed + change > _MOST_LISTED:
            raise UnavailableError(f"too many files in all contexts that are being sent: {self._listed}")
        self._listed += change

    def missing(self, entries: Iterable[Entry]) -> list[str]:
        """Return the digests of contents that are not here, each once; the others are of use now."""
        wanted = {entry.text: entry.size for entry in entries if entry.kind == "f"}
        return [digest for digest, size in wanted.items() if not self.touch(digest, size)]

    def touch(self, digest: str, size: int) -> bool:
        """Tell whether a content of this digest and size is here; it is of use now."""
        path = f"{self._root}/{digest}"
        try:
            if os.stat(path).st_size == size:
                os.utime(path)
                return True
        except FileNotFoundError:
            return False
        return False

    def receive(self) -> Receiver:
        """Begin to receive contents."""
        return Receiver(self._root)

    def new_content(self) -> NewContent:
        """Begin to receive one content whose digest nobody knows yet. Raises OSError."""
        return NewContent(self._root)

    def lay_out(self, entries: Sequence[Entry], target: str) -> None:
        """Make the tree of a manifest in an empty private directory.

        Raises:
            InvalidParameterError: a file in what is no directory, or twice.
            SystemFailureError: a content is not here, no space left on device, and the like.
        """
        lay_out(self._root, entries, target)

    def usage(self) -> tuple[int, int, float, float]:
        """Return how many contents there are, their bytes, and the times of the oldest and newest use."""
        found = [status for _, status in self._contents()]
        times = [status.st_mtime for status in found]
        size = sum(status.st_size for status in found) + self.seen.usage()
        return len(found), size, min(times, default=0.0), max(times, default=0.0)

    def trim(self, limit: int, *, before: float | None = None) -> int:
        """Remove what was not of use for longest until at most ``limit`` bytes are left; returns the bytes removed.

        What has been of use since a block of :meth:`in_use` began stays in any case.

        Args:
            limit: bytes that may stay; with 0 empty contents go, too, and what is known of clients' files.
            before: only what was last of use before this time (seconds since the epoch).
        """
        found = sorted(self._contents(), key=lambda item: item[1].st_mtime)
        left = sum(status.st_size for _, status in found)
        removed = 0
        latest = min((*self._uses, math.inf if before is None else before))
        for name, status in found:
            if (limit and left <= limit) or status.st_mtime >= latest:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._root}/{name}")
                removed += status.st_size
            left -= status.st_size
        return removed if limit else removed + self.seen.forget(before)

    def _contents(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in os.listdir(self._root):
            if len(name) == _DIGEST:
                with contextlib.suppress(FileNotFoundError):
                    yield name, os.stat(f"{self._root}/{name}")
