"""One write to one file of a cgroup: what controllers compute and cgroups carry out."""

from __future__ import annotations

from orlop.spec.record import dataclass


@dataclass(frozen=True)
class Write:
    """Write ``text`` to ``file``.

    Attributes:
        controller: whose hierarchy it is on v1.
        file: name in the cgroup's directory.
        text: what is written, in one write(2).
        instead: what is written where ``file`` does not exist (another kernel's name for the same).
        optional: a kernel without the file has nothing to set; nothing is lost.
    """

    controller: str
    file: str
    text: str
    instead: Write | None = None
    optional: bool = False
