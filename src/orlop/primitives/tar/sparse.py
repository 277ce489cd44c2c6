"""Sparse files in tar: GNU's old form and its three pax forms (info tar, "Sparse Formats"), without I/O."""

from __future__ import annotations

from itertools import pairwise

from orlop.primitives.tar.entry import INVALID_HEADER, Limits, TarError
from orlop.primitives.tar.header import BLOCK, parse_number
from orlop.spec.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.primitives.tar.pax import PaxRecords

_REGION = 24
_REGION_BYTES = 16  # a region is charged against Limits.metadata as two numbers


@dataclass(frozen=True)
class SparseMap:
    """Where a sparse file has data.

    Attributes:
        regions: (offset, length) in bytes.
        real_size: the file's size with its holes.
        more: an extension block with further regions follows (old form only).
    """

    regions: tuple[tuple[int, int], ...]
    real_size: int
    more: bool = False

    @classmethod
    def from_gnu(cls, block: bytes, limits: Limits) -> SparseMap:
        """Read the four regions of an old GNU header."""
        regions = _gnu_regions(block[386 : 386 + 4 * _REGION])
        return cls(regions, parse_number(block[483:495]), more=block[482] != 0).limited(limits)

    def extended(self, block: bytes, limits: Limits) -> SparseMap:
        """Add the 21 regions of an extension block."""
        regions = self.regions + _gnu_regions(block[: 21 * _REGION])
        return replace(self, regions=regions, more=block[504] != 0).limited(limits)

    def limited(self, limits: Limits) -> SparseMap:
        """Return this map unless it takes more memory than metadata may."""
        if limits.metadata and len(self.regions) * _REGION_BYTES > limits.metadata:
            raise TarError("archive/tar: sparse map too long")
        return self

    def checked(self, stored: int) -> SparseMap:
        """Return this map if its regions are in order, inside the file, and add up to ``stored`` bytes."""
        if any(offset < 0 or length < 0 or offset + length > self.real_size for offset, length in self.regions):
            raise TarError(INVALID_HEADER)
        if any(first[0] + first[1] > second[0] for first, second in pairwise(self.regions)):
            raise TarError(INVALID_HEADER)
        if sum(length for _, length in self.regions) != stored:
            raise TarError(INVALID_HEADER)
        return self


def _gnu_regions(data: bytes) -> tuple[tuple[int, int], ...]:
    regions = []
    for start in range(0, len(data) - len(data) % _REGION, _REGION):
        if not data[start]:
            break
        offset, length = parse_number(data[start : start + 12]), parse_number(data[start + 12 : start + 24])
        regions.append((offset, length))
    return tuple(regions)


def pax_zero_map(pax: PaxRecords, stored: int) -> SparseMap:
    """Read the map of formats 0.0 and 0.1, which is in the records; ``stored`` bytes of data follow."""
    numbers = pax.sparse_map.split(b",") if pax.sparse_map else pax.sparse_numbers
    return SparseMap(_pairs(numbers), _real_size(pax)).checked(stored)


def pax_one_map(pax: PaxRecords, data: bytes, *, complete: bool) -> tuple[SparseMap, int] | None:
    """Read the map of format 1.0 from the start of the payload.

    Args:
        pax: the member's records.
        data: the payload as far as it is known.
        complete: no more of it will come.

    Returns:
        The map and the bytes it took, a multiple of 512; None when more is needed.
    """
    lines = data.split(b"\n")
    count = int(lines[0]) if len(lines) > 1 and len(lines[0]) < 12 and lines[0].isdigit() else None
    if count is None:
        if complete or len(lines) > 1:
            raise TarError(INVALID_HEADER)
        return None
    if len(lines) < 2 * count + 2:
        if complete:
            raise TarError(INVALID_HEADER)
        return None
    numbers = lines[1 : 2 * count + 1]
    used = len(lines[0]) + 1 + sum(len(line) + 1 for line in numbers)
    padded = -(-used // BLOCK) * BLOCK
    if len(data) < padded:
        if complete:
            raise TarError(INVALID_HEADER)
        return None
    return SparseMap(_pairs(numbers), _real_size(pax)), padded


def _real_size(pax: PaxRecords) -> int:
    if pax.sparse_size is None:
        raise TarError(INVALID_HEADER)
    return pax.sparse_size


def _pairs(numbers: list[bytes]) -> tuple[tuple[int, int], ...]:
    if len(numbers) % 2 or not all(number.isdigit() and len(number) < 19 for number in numbers):
        raise TarError(INVALID_HEADER)
    values = [int(number) for number in numbers]
    return tuple(zip(values[::2], values[1::2], strict=True))
