"""``linux.resources.unified``: files of cgroup v2 by name; the parser has checked that they are limits."""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.runtime.cgroups.controllers.write import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.spec.oci import Resources


def v1(resources: Resources) -> list[Write]:
    """Return nothing, or refuse."""
    if resources.unified:
        raise UnsupportedError("linux.resources.unified is not supported on cgroup v1")
    return []


def v2(resources: Resources) -> list[Write]:
    """Return the writes: one per line, since io.max and the like take one device a write."""
    return [
        Write(file.split(".", 1)[0], file, line)
        for file, text in resources.unified
        for line in text.splitlines() or [""]
    ]


def refuse_contradictions(resources: Resources, writes: Sequence[Write]) -> None:
    """Refuse a file that the fields above give another value: which of the two is meant nobody can know.

    A file with a line for each device (``io.max``) is compared device by device.
    """
    told = {(write.file, _key(write.text)): write.text for write in writes}
    for write in v2(resources):
        other = told.get((write.file, _key(write.text)), write.text)
        if other != write.text:
            raise InvalidParameterError(
                f"linux.resources.unified contradicts linux.resources: {write.file}: {write.text!r:.80}, {other!r:.80}"
            )


def _key(text: str) -> str:
    """Return the device that a line is about; empty in files with one value."""
    first = text.split(" ", 1)[0]
    return first if ":" in first or first == "default" else ""
