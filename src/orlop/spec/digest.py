"""Content digests: ``sha256:`` and 64 lower-case hexadecimal digits, nothing else.

A digest that came from outside becomes part of a path only as :attr:`Digest.hex` of a value of this type
(threats.md E3: CVE-2014-9358, CVE-2021-21285, CVE-2024-3727). Other algorithms are refused, not guessed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEX = re.compile("[0-9a-f]{64}")
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest.

    Attributes:
        hex: 64 lower-case hexadecimal digits; safe as a file name.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise InvalidParameterError("invalid checksum digest format")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<hex>``.

        Raises:
            InvalidParameterError: any other form, with Docker's words.
        """
        if not text.startswith(_PREFIX):
            known = ":" in text
            raise InvalidParameterError("unsupported digest algorithm" if known else "invalid checksum digest format")
        return cls(text[len(_PREFIX) :])

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the digest of ``data``."""
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The 12 digits that people see."""
        return self.hex[:12]

    def __str__(self) -> str:
        return _PREFIX + self.hex


def chain_id(parent: Digest | None, diff_id: Digest) -> Digest:
    """Return the chain id of a layer on top of ``parent`` (OCI image-spec config.md, "Layer ChainID")."""
    return diff_id if parent is None else Digest.of(f"{parent} {diff_id}".encode("ascii"))


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """Return the chain id of every layer, bottom first."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(chain_id(chains[-1] if chains else None, diff_id))
    return tuple(chains)
