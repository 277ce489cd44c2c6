"""Tar archives of file system trees: parsed without I/O, unpacked and packed through directory descriptors."""

from orlop.primitives.tar.entry import Entry, Kind, Limits, TarError
from orlop.primitives.tar.pack import Packed, pack
from orlop.primitives.tar.reader import Signal, TarReader
from orlop.primitives.tar.recipe import rebuild
from orlop.primitives.tar.unpack import Unpacked, unpack
from orlop.primitives.tar.writer import END, render_entry

__all__ = [
    "END",
    "Entry",
    "Kind",
    "Limits",
    "Packed",
    "Signal",
    "TarError",
    "TarReader",
    "Unpacked",
    "pack",
    "rebuild",
    "render_entry",
    "unpack",
]
