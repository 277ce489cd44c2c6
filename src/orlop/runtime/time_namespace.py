"""A time namespace with offsets (time_namespaces(7)); only for configurations that have some."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel import process as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.spec.oci.namespaces import TimeOffset

_FILE = "/proc/self/timens_offsets"


def enter_for_children(offsets: Iterable[TimeOffset]) -> None:
    """Make a time namespace that the caller's next child will be in.

    The offsets can be written only while nobody is in it, so clone3's own flag is of no use.

    Raises:
        InvalidParameterError: the kernel refuses an offset: the clock would be negative, or run past 146 years.
    """
    k.unshare(k.CLONE_NEWTIME)
    text = "".join(f"{offset.clock} {offset.seconds} {offset.nanoseconds}\n" for offset in offsets)
    fd = os.open(_FILE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise InvalidParameterError(f"linux.timeOffsets: {(error.strerror or '').lower()}") from None
    finally:
        os.close(fd)
