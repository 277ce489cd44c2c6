"""What a build's mounts leave in a container's layer: the empty files and directories that they were mounted on.

Nothing is ever removed (CVE-2024-23652: a cleaner that the container led to the host's files): what was made for a
mount, and holds nothing, is left out of the layer's tar. Which paths those may be is asked before the container exists.
"""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidParameterError
from orlop.primitives.owned_fd import OwnedFd
from orlop.primitives.rootpath import open_in_root

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST = 10_000


def find_stubs(top_fd: int, paths: object) -> frozenset[bytes]:
    """Return which of these paths below a directory are empty, or hold only others that are.

    Args:
        top_fd: O_RDONLY descriptor of the layer's directory.
        paths: of what was not there before, without links, relative; None for none.
    """
    if paths is None:
        return frozenset()
    if not isinstance(paths, list) or len(paths) > _MOST:
        raise InvalidParameterError("bad stubs")
    names = sorted({os.fsencode(str(path)) for path in paths}, key=lambda name: -name.count(b"/"))
    found: set[bytes] = set()
    for name in names:
        try:
            with open_in_root(top_fd, name, os.O_PATH | os.O_NOFOLLOW) as fd:
                status = os.fstat(fd.fileno())
                file = stat.S_ISREG(status.st_mode) and not status.st_size and status.st_nlink == 1
                if file or (stat.S_ISDIR(status.st_mode) and _holds_only(fd.fileno(), name, found)):
                    found.add(name)
        except OSError:
            continue  # the container removed it, or put something else there
    return frozenset(found)


def _holds_only(fd: int, name: bytes, omitted: set[bytes]) -> bool:
    with OwnedFd(os.open(".", _READ, dir_fd=fd)) as directory:
        return all(name + b"/" + os.fsencode(child) in omitted for child in os.listdir(directory.fileno()))
