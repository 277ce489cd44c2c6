"""How many files a container may open unless it says otherwise (moby#38814: a million was too many)."""

from __future__ import annotations

import resource

from orlop.kernel.capability import NUMBERS, capget

NOFILE = (1024, 524288)


def default_nofile() -> tuple[int, int]:
    """Return the soft and hard limit, within what this engine may give without CAP_SYS_RESOURCE."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    may_raise = capget().effective >> NUMBERS["CAP_SYS_RESOURCE"] & 1
    if may_raise or hard == resource.RLIM_INFINITY or hard >= NOFILE[1]:
        return NOFILE
    return min(NOFILE[0], hard), hard
