"""Pack what differs between two whole trees as a layer's tar: what is new or changed, and whiteouts for the rest."""

from __future__ import annotations

import os

from orlop.errors import SystemFailureError
from orlop.primitives.difference import DELETED, differences
from orlop.primitives.tar.entry import Entry, Kind
from orlop.primitives.tar.pack import Packed, Packer
from orlop.primitives.tar.unpack import WHITEOUT


def pack_difference(
    upper_fd: int, lower_fd: int, out_fd: int, *, omit: frozenset[bytes] = frozenset(), latest: int | None = None
) -> Packed:
    """Write the tar; the same two trees always give the same bytes; ``omit`` and ``latest`` are those of ``pack``.

    Raises:
        SystemFailureError: the reader of the stream went away, or the file system refused.
    """
    packer = Packer(out_fd, layer=True, devices=frozenset((os.fstat(upper_fd).st_dev,)), omit=omit)
    packer.latest = latest
    try:
        for entry in differences(upper_fd, lower_fd):
            if entry.kind == DELETED:
                head = entry.path[: len(entry.path) - len(entry.name)]
                mark = Entry(head + WHITEOUT + entry.name, Kind.FILE, 0o600, 0, 0, 0)
                packer.put_entry(mark)
            else:
                packer.add(entry.parent, entry.name, entry.path, descend=False)
        return packer.pack()
    except OSError as error:
        raise SystemFailureError(f"pack: {(error.strerror or '').lower()}") from error
