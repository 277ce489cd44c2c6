"""Device mapper by ioctl(2) on its control node: linux/dm-ioctl.h, Documentation/admin-guide/device-mapper.

One function per command. A device is named by its name; it has a *table*, lines of (start, length, target, arguments)
in sectors of 512 bytes. A table is loaded beside the live one and becomes it when the device is resumed.

Everything is said to udev that libdevmapper says when nobody waits for it: leave these devices alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel.syscall import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterable

SECTOR = 512
CONTROL = "/dev/mapper/control"
NAME_LENGTH = 128

# _IOWR(0xfd, nr, struct dm_ioctl)
_IOCTL = 0xC138FD00
LIST_DEVICES, DEV_CREATE, DEV_REMOVE, DEV_SUSPEND, DEV_STATUS = 2, 3, 4, 6, 7
TABLE_LOAD, TABLE_STATUS, LIST_VERSIONS, TARGET_MSG = 9, 12, 13, 14
_NAMES = {
    LIST_DEVICES: "DM_LIST_DEVICES",
    DEV_CREATE: "DM_DEV_CREATE",
    DEV_REMOVE: "DM_DEV_REMOVE",
    DEV_SUSPEND: "DM_DEV_SUSPEND",
    DEV_STATUS: "DM_DEV_STATUS",
    TABLE_LOAD: "DM_TABLE_LOAD",
    TABLE_STATUS: "DM_TABLE_STATUS",
    LIST_VERSIONS: "DM_LIST_VERSIONS",
    TARGET_MSG: "DM_TARGET_MSG",
}

READONLY, SUSPEND, STATUS_TABLE = 1 << 0, 1 << 1, 1 << 4
_BUFFER_FULL = 1 << 8
SKIP_LOCKFS, NOFLUSH = 1 << 10, 1 << 11
DEFERRED_REMOVE = 1 << 17

# The oldest interface that has deferred removal (4.27, Linux 3.13); the kernel takes any minor up to its own.
INTERFACE = (4, 27, 0)
# struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr, dev, name, uuid
_HEADER = struct.Struct("=3IIIIiIIxxxxQ128s129s7x")
# struct dm_target_spec: sector_start, length, status, next, target_type; then the arguments
_TARGET = struct.Struct("=QQiI16s")
_MESSAGE = struct.Struct("=Q")  # struct dm_target_msg: sector; then the text
_TARGET_VERSIONS = struct.Struct("=I3I")  # struct dm_target_versions: next, version; then the name
_NAME_LIST = struct.Struct("=QI")  # struct dm_name_list: dev, next; then the name
_ALIGNMENT = 8
_ROOM = 16 * 1024
_ACTIVE_PRESENT = 1 << 5
# DM_UDEV_DISABLE_*_FLAG and DM_UDEV_LOW_PRIORITY_FLAG of libdevmapper, in the upper half of event_nr
_UDEV_QUIET = 0x3F << 16


@dataclass(frozen=True, slots=True)
class Device:
    """What a command tells of a device.

    Attributes:
        number: of the block device, as ``st_rdev`` has it.
        open_count: who has it open: mounts, tables of other devices, descriptors.
        flags: of struct dm_ioctl.
    """

    number: int
    open_count: int
    flags: int

    @property
    def has_table(self) -> bool:
        """Whether a table is live."""
        return bool(self.flags & _ACTIVE_PRESENT)


@dataclass(frozen=True, slots=True)
class Target:
    """One line of a table or of a status; ``text`` is the arguments or the status."""

    start: int
    length: int
    kind: str
    text: str


def encode(
    name: str, payload: bytes = b"", *, targets: int = 0, flags: int = 0, event: int = 0, room: int = _ROOM
) -> bytearray:
    """Return a command's buffer: a struct dm_ioctl with what follows it and ``room`` for the answer."""
    raw = name.encode("ascii")
    if len(raw) >= NAME_LENGTH or b"/" in raw or b"\0" in raw:
        raise ValueError(f"not a name of a device: {name!r:.80}")
    size = _HEADER.size + max(len(payload), room)
    header = _HEADER.pack(*INTERFACE, size, _HEADER.size, targets, 0, flags, event, 0, raw, b"")
    return bytearray(header + payload).ljust(size, b"\0")


def decode(buffer: bytes | bytearray) -> tuple[Device, int, bytes]:
    """Return what an answer says: the device, its number of targets, and what follows the header."""
    fields = _HEADER.unpack_from(buffer)
    size, start, targets, opened, flags, _, number = fields[3:10]
    # huge_encode_dev: 12 bits of major between 8 and 12 bits of minor
    device = os.makedev(number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00))
    return Device(device, opened, flags), targets, bytes(buffer[start:size])


def encode_table(lines: Iterable[Target]) -> bytes:
    """Return a table as DM_TABLE_LOAD takes it: each line tells how far the next one is from itself."""
    table = b""
    for line in lines:
        text = line.text.encode() + b"\0"
        size = _TARGET.size + len(text)
        size += -size % _ALIGNMENT
        spec = _TARGET.pack(line.start, line.length, 0, size, line.kind.encode())
        table += (spec + text).ljust(size, b"\0")
    return table


def decode_table(data: bytes, count: int) -> list[Target]:
    """Return what DM_TABLE_STATUS answered: here each line tells where the next one is from the first."""
    lines, place = [], 0
    for _ in range(count):
        start, length, _status, following, kind = _TARGET.unpack_from(data, place)
        text = data[place + _TARGET.size :].partition(b"\0")[0]
        lines.append(Target(start, length, kind.partition(b"\0")[0].decode(), text.decode("utf-8", "replace")))
        place = following
    return lines


def decode_versions(data: bytes) -> dict[str, tuple[int, ...]]:
    """Return what DM_LIST_VERSIONS answered: the targets that the kernel has, and their versions."""
    found, place = {}, 0
    while True:
        following, *version = _TARGET_VERSIONS.unpack_from(data, place)
        name = data[place + _TARGET_VERSIONS.size :].partition(b"\0")[0].decode()
        if name:
            found[name] = tuple(version)
        if not following:
            return found
        place += following


def decode_names(data: bytes) -> list[str]:
    """Return what DM_LIST_DEVICES answered."""
    names, place = [], 0
    while True:
        device, following = _NAME_LIST.unpack_from(data, place)
        if device:
            names.append(data[place + _NAME_LIST.size :].partition(b"\0")[0].decode("utf-8", "replace"))
        if not following:
            return names
        place += following


class Control:
    """The control node, opened."""

    def __init__(self, path: str = CONTROL) -> None:
        """Open it. Raises FileNotFoundError where there is no device mapper."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _call(self, command: int, name: str, payload: bytes = b"", **header: int) -> tuple[Device, int, bytes]:
        room = _ROOM
        while True:
            buffer = encode(name, payload, room=room, **header)
            try:
                fcntl.ioctl(self._fd, _IOCTL | command, buffer)
            except OSError as error:
                shown = (_NAMES[command], name, *([payload[8:-1].decode()] if command == TARGET_MSG else []))
                raise SyscallError("ioctl", error.errno or errno.EIO, shown) from None
            found = decode(buffer)
            if not found[0].flags & _BUFFER_FULL:
                return found
            room *= 4

    def names(self) -> list[str]:
        """DM_LIST_DEVICES: the names of all devices."""
        return decode_names(self._call(LIST_DEVICES, "")[2])

    def versions(self) -> dict[str, tuple[int, ...]]:
        """DM_LIST_VERSIONS: the targets that the kernel has loaded."""
        return decode_versions(self._call(LIST_VERSIONS, "")[2])

    def create(self, name: str) -> Device:
        """DM_DEV_CREATE: a device without a table. EBUSY: the name is taken."""
        return self._call(DEV_CREATE, name)[0]

    def remove(self, name: str, *, deferred: bool = False) -> None:
        """DM_DEV_REMOVE. ENXIO: there is none. EBUSY: it is open; ``deferred``: then it goes when it is closed."""
        self._call(DEV_REMOVE, name, flags=DEFERRED_REMOVE if deferred else 0, event=_UDEV_QUIET)

    def load(self, name: str, lines: Iterable[Target], *, read_only: bool = False) -> None:
        """DM_TABLE_LOAD: the table that the device has from its next resume on."""
        lines = tuple(lines)
        self._call(TABLE_LOAD, name, encode_table(lines), targets=len(lines), flags=READONLY if read_only else 0)

    def suspend(self, name: str, *, flags: int = 0) -> None:
        """DM_DEV_SUSPEND: wait for what is on its way and hold back what comes (SKIP_LOCKFS, NOFLUSH)."""
        self._call(DEV_SUSPEND, name, flags=SUSPEND | flags)

    def resume(self, name: str) -> Device:
        """DM_DEV_SUSPEND without its flag: take the loaded table and let requests through."""
        return self._call(DEV_SUSPEND, name, event=_UDEV_QUIET)[0]

    def status(self, name: str) -> Device:
        """DM_DEV_STATUS. ENXIO: there is none."""
        return self._call(DEV_STATUS, name)[0]

    def table(self, name: str) -> list[Target]:
        """DM_TABLE_STATUS with its flag: the lines of the live table."""
        _, count, data = self._call(TABLE_STATUS, name, flags=STATUS_TABLE)
        return decode_table(data, count)

    def target_status(self, name: str, *, flags: int = 0) -> list[Target]:
        """DM_TABLE_STATUS: what each target says of itself; without NOFLUSH it writes out what it knows first."""
        _, count, data = self._call(TABLE_STATUS, name, flags=flags)
        return decode_table(data, count)

    def message(self, name: str, text: str) -> None:
        """DM_TARGET_MSG to the target at sector 0; ``@cancel_deferred_remove`` is for the device itself."""
        self._call(TARGET_MSG, name, _MESSAGE.pack(0) + text.encode("ascii") + b"\0")
