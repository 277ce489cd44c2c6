"""Tar archives of file system trees: parsed without I/O, unpacked and packed through directory descriptors."""

from orlop.primitives.tar.compare import compare
from orlop.primitives.tar.entry import Entry, Kind, Limits, TarError
from orlop.primitives.tar.pack import Packed, pack, pack_member
from orlop.primitives.tar.reader import Signal, TarReader
from orlop.primitives.tar.recipe import rebuild
from orlop.primitives.tar.rules import Rules
from orlop.primitives.tar.unpack import Unpacked, unpack, unpack_chunks
from orlop.primitives.tar.writer import END, render_entry

__all__ = [
    "END",
    "Entry",
    "Kind",
    "Limits",
    "Packed",
    "Rules",
    "Signal",
    "TarError",
    "TarReader",
    "Unpacked",
    "compare",
    "pack",
    "pack_member",
    "rebuild",
    "render_entry",
    "unpack",
    "unpack_chunks",
]
