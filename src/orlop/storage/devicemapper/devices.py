"""The thin devices: which there are, which are active, and how they go.

::

    <data-root>/layers/devicemapper/
      .devices/<number>                 a record of a device, there before the device is and until after it was deleted
      .nodes/                           block devices, only where /dev has none
      <key>/device                      the record of the device of a snapshot, a hard link

A record says by which transaction of the pool its device was made. The pool writes its metadata with the transaction's
number; a record with a higher one than the pool's is of a device that was not finished. A device whose record no
snapshot has is on its way out; at the start all such are deleted.

An active device is marked for deferred removal while this process has it open. It stays as long as that or a mount
does, and goes with the last of them, also after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import DataLossError, OrlopError, SystemFailureError
from orlop.kernel import block
from orlop.kernel.device_mapper import SECTOR, SKIP_LOCKFS, Control, Target
from orlop.primitives.atomic import write_atomic
from orlop.storage.devicemapper.pool import find_node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.storage.devicemapper.pool import Pool

_RECORDS = ".devices"
_GONE = frozenset((errno.ENXIO, errno.ENODEV, errno.ENOENT))
_LAST_NUMBER = (1 << 24) - 1
_ATTEMPTS, _FIRST_PAUSE, _PAUSE = 200, 0.001, 0.025
# Seconds for which an activated device waits to be mounted.
_PATIENCE = 600.0
_SETTLED = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """One thin device: its number in the pool, the pool's transaction that made it, and its size in sectors."""

    number: int
    transaction: int
    sectors: int

    def render(self) -> bytes:
        """Return it as a file has it."""
        return json.dumps({"device": self.number, "transaction": self.transaction, "sectors": self.sectors}).encode()


def read_record(path: str) -> Record:
    """Read a record. Raises FileNotFoundError, and DataLossError for one that is damaged."""
    with open(path, "rb") as file:
        data = file.read(4096)
    try:
        found = json.loads(data)
        return Record(int(found["device"]), int(found["transaction"]), int(found["sectors"]))
    except (ValueError, TypeError, KeyError):
        raise DataLossError(f"devicemapper: damaged record: {path}") from None


@dataclass(slots=True)
class _Active:
    """A device that this process has open since ``used``, by :func:`time.monotonic`."""

    fd: int
    path: str
    used: float


class Devices:
    """Owns the records, and a descriptor of each device that was activated and not let go of.

    Methods may be called from any thread.
    """

    def __init__(self, control: Control, pool: Pool, root: str, prefix: str) -> None:
        self._control = control
        self._pool = pool
        self._root = root
        self._prefix = prefix
        self._active: dict[int, _Active] = {}
        self._creating = threading.Lock()
        self._activating = threading.Lock()
        os.makedirs(f"{root}/{_RECORDS}", mode=0o700, exist_ok=True)
        self.records = dict(self._read())
        self._last = max(self.records, default=0)
        self._abandon_all()

    def _read(self) -> Iterable[tuple[int, Record]]:
        for name in os.listdir(f"{self._root}/{_RECORDS}"):
            if not (name.isascii() and name.isdigit()):  # a record that was being written
                os.unlink(f"{self._root}/{_RECORDS}/{name}")
                continue
            try:
                record = read_record(f"{self._root}/{_RECORDS}/{name}")
            except DataLossError:  # written when the machine lost its power, before there was a device
                record = Record(int(name), _LAST_NUMBER, 0)
            yield int(name), record

    def _abandon_all(self) -> None:
        """Let devices of an engine that was killed go, if nobody has them open."""
        for name in self._control.names():
            if name.startswith(f"{self._prefix}-") and name.isascii() and name[len(self._prefix) + 1 :].isdigit():
                with contextlib.suppress(OSError):
                    self._control.remove(name, deferred=True)

    def close(self) -> None:
        """Let go of all."""
        for number in list(self._active):
            self.release(number)

    def name(self, number: int) -> str:
        """Return a device's name in device mapper."""
        return f"{self._prefix}-{number}"

    # Making and deleting.

    def create(self, origin: Record | None, sectors: int, *, link: str = "") -> Record:
        """Make a device, empty or with the content of ``origin``, which nobody writes to meanwhile.

        Args:
            origin: see above.
            sectors: its size.
            link: a second path for the record, made before the device.

        Raises:
            OSError: the pool or the disk of the records refused; nothing is left but what :meth:`delete` knows of.
        """
        with self._creating:
            while True:
                self._last = self._last % _LAST_NUMBER + 1
                if self._last in self.records:
                    continue
                record = Record(self._last, self._pool.transaction + 1, sectors)
                try:
                    self._write(record, link)
                    self._create(record.number, origin)
                except FileExistsError:
                    self._forget(record.number, link)
                    continue
                except BaseException:
                    self._forget(record.number, link)
                    raise
                self.records[record.number] = record
                try:
                    self._pool.advance()
                except BaseException:
                    self.delete(record.number, discard=False)
                    raise
                return record

    def _write(self, record: Record, link: str) -> None:
        path = f"{self._root}/{_RECORDS}/{record.number}"
        write_atomic(path, record.render(), 0o600, durable=True)
        if link:
            os.link(path, link)

    def _forget(self, number: int, link: str = "") -> None:
        for path in (*([link] if link else []), f"{self._root}/{_RECORDS}/{number}"):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _create(self, number: int, origin: Record | None) -> None:
        if origin is None:
            self._pool.create_thin(number)
            return
        name = self.name(origin.number)
        try:
            self._control.suspend(name, flags=SKIP_LOCKFS)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._pool.create_snapshot(number, origin.number)
            return
        try:
            self._pool.create_snapshot(number, origin.number)
        finally:
            with contextlib.suppress(OSError):  # it went meanwhile
                self._control.resume(name)

    def delete(self, number: int, *, discard: bool) -> bool:
        """Delete a device with its record; False as long as somebody has it open.

        Args:
            number: its number.
            discard: give its blocks back to what is below the pool first.
        """
        record = self.records.get(number)
        self.release(number)
        if not self._remove(number):
            return False
        if discard and record is not None and record.sectors:
            self._discard(record)
        try:
            self._pool.delete(number)
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENODATA:
                raise
        self._forget(number)
        self.records.pop(number, None)
        return True

    def _discard(self, record: Record) -> None:
        with contextlib.suppress(OSError, OrlopError):  # it was not made, or the disk cannot
            path = self.activate(record)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    block.discard(fd, record.sectors * SECTOR)
                finally:
                    os.close(fd)
            finally:
                self.release(record.number)
                self._remove(record.number)

    # Activation.

    def activate(self, record: Record, *, read_only: bool = False) -> str:
        """Return the path of a device that can be mounted now.

        Raises:
            SystemFailureError: the pool has no such device, and the like.
        """
        with self._activating:
            self._trim()
            active = self._active.get(record.number)
            if active is None:
                active = self._activate(record, read_only=read_only)
                self._active[record.number] = active
            active.used = time.monotonic()
            return active.path

    def _activate(self, record: Record, *, read_only: bool) -> _Active:
        name = self.name(record.number)
        line = self._line(record)
        for attempt in range(_ATTEMPTS):
            try:
                return self._open(name) or self._make(name, line, read_only=read_only)
            except OSError as error:
                if error.errno not in _GONE and error.errno != errno.EBUSY:
                    raise SystemFailureError(f"devicemapper: {name}: {(error.strerror or '').lower()}") from error
            time.sleep(min(_PAUSE, _FIRST_PAUSE * attempt))  # the last one who had it open has just closed it
        raise SystemFailureError(f"devicemapper: {name}: device or resource busy")

    def _line(self, record: Record) -> Target:
        pool = self._pool.number
        return Target(0, record.sectors, "thin", f"{os.major(pool)}:{os.minor(pool)} {record.number}")

    def _open(self, name: str) -> _Active | None:
        """Open a device that is active already, for a container that runs; None if there is none."""
        try:
            device = self._control.status(name)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return None
        if not device.has_table:  # somebody was killed while making it
            self._control.remove(name)
            return None
        path = find_node(self._root, device.number)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return _Active(fd, path, 0.0)

    def _make(self, name: str, line: Target, *, read_only: bool) -> _Active:
        self._control.create(name)
        try:
            self._control.load(name, (line,), read_only=read_only)
            path = find_node(self._root, self._control.resume(name).number)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._control.remove(name)
            if error.errno in _GONE:
                raise SystemFailureError(f"devicemapper: {name}: {(error.strerror or '').lower()}") from error
            raise
        self._control.remove(name, deferred=True)
        return _Active(fd, path, 0.0)

    def _trim(self) -> None:
        """Let go of devices that somebody has mounted by now, or that nobody will."""
        now = time.monotonic()
        for number, active in list(self._active.items()):
            idle = now - active.used
            if idle > _PATIENCE or (idle > _SETTLED and self._is_mounted(number)):
                self.release(number)

    def _is_mounted(self, number: int) -> bool:
        try:
            return self._control.status(self.name(number)).open_count > 1
        except OSError:
            return True

    def release(self, number: int) -> None:
        """Let go of a device: it goes if nobody has it mounted."""
        active = self._active.pop(number, None)
        if active is not None:
            os.close(active.fd)

    def retire(self, number: int) -> None:
        """Let go of a device and wait until it has gone, so that nobody can write to it any more.

        Raises:
            SystemFailureError: somebody keeps it.
        """
        self.release(number)
        for attempt in range(_ATTEMPTS):
            if self._remove(number):
                return
            time.sleep(min(_PAUSE, _FIRST_PAUSE * attempt))
        raise SystemFailureError(f"devicemapper: {self.name(number)}: device or resource busy")

    def _remove(self, number: int) -> bool:
        """Remove a device; False if somebody has it open."""
        try:
            self._control.remove(self.name(number))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno not in _GONE:
                raise
        return True
