"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

SOMEBODYS = "kept: it may be somebody's data"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: one of those that the searches' tables name.
        name: key, digest, path, or name of the thing.
        size: bytes on disk.
        note: why a repair leaves it; empty if a repair would mend it.
        repaired: whether this one did.
        detail: what exactly is wrong, for people.
    """

    kind: str
    name: str
    size: int = 0
    note: str = ""
    repaired: bool = False
    detail: str = ""

    @property
    def repairable(self) -> bool:
        """Whether a repair would mend it."""
        return not self.note
