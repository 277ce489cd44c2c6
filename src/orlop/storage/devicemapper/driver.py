"""Snapshots as thin devices: a pool, devices and files behind :class:`orlop.storage.contract.Snapshotter`.

::

    <data-root>/layers/devicemapper/<key>/  (orlop.storage.snapshots)
      device                                   the record of its thin device
      active/                         0700     only while active

The device of an active snapshot is mounted by whoever needs its tree, and its file system's root is the tree. That of a
committed one was unmounted by all, and can only be read. Who mounts a device keeps it: nothing has to be unmounted or
removed when a container ends or the engine dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, OrlopError, SystemFailureError
from orlop.kernel.device_mapper import SECTOR
from orlop.kernel.statfs import syncfs
from orlop.spec.launch import DeviceRoot, OverlayRoot
from orlop.storage.comparing import Comparison
from orlop.storage.contract import Difference
from orlop.storage.devicemapper import filesystem
from orlop.storage.devicemapper.base import Base, open_base
from orlop.storage.devicemapper.devices import Devices, Record, read_record
from orlop.storage.devicemapper.options import Settings, parse_options
from orlop.storage.devicemapper.pool import Pool, open_control
from orlop.storage.devicemapper.reaper import Reaper
from orlop.storage.limits import human_size
from orlop.storage.snapshots import Snapshots, make_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orlop.kernel.device_mapper import Control

NAME = "devicemapper"
_RECORD = "device"
_log = logging.getLogger(__name__)


def open_driver(layers_root: str, options: Mapping[str, str] | None = None) -> DeviceMapper:
    """Open the driver: find or make the pool and the base device, and finish what a crash left.

    Raises:
        InvalidParameterError: an unknown option, or a value that cannot be.
        UnsupportedError: no device mapper, no thin pools or no such file system in this kernel.
        SystemFailureError: the pool or a file system cannot be made; the message says why.
    """
    settings = parse_options(options or {})
    root = make_root(layers_root, NAME)
    control = open_control(root)
    with contextlib.ExitStack() as undo:
        undo.callback(control.close)
        status = os.stat(root)
        prefix = f"orlop-{os.major(status.st_dev)}:{os.minor(status.st_dev)}-{status.st_ino}"
        pool = Pool(control, root, f"{prefix}-pool", settings)
        undo.callback(pool.close)
        devices = Devices(control, pool, root, prefix)
        undo.callback(devices.close)
        base = open_base(root, pool, devices, settings)
        driver = DeviceMapper(root, pool, devices, base, settings)
        driver.closing(control)
        undo.pop_all()
    return driver


class DeviceMapper:
    """See :class:`orlop.storage.contract.Snapshotter` for what each method promises."""

    whole = True
    slow = True
    default_size = 0

    def __init__(self, root: str, pool: Pool, devices: Devices, base: Base, settings: Settings) -> None:
        self._root = root
        self._pool = pool
        self._devices = devices
        self._base = base
        self._settings = settings
        self._options = filesystem.mount_options(base.kind, settings.mount_options)
        self._mounted: dict[str, int] = {}
        self._mounting = threading.Lock()
        self._control: Control | None = None
        self._snapshots = Snapshots(NAME, root, marker="active")
        self.keys = self._snapshots.keys
        compared = Comparison(self._compared)
        self.usage, self.diff = compared.usage, compared.diff
        self.is_active = self._snapshots.is_active
        self.tombstones = self._snapshots.tombstones
        self._records: dict[str, Record] = {}
        self._reaper = Reaper(lambda number: devices.delete(number, discard=settings.discard))
        self._load()

    def _load(self) -> None:
        """Read which device is whose; those of nobody were being made or deleted."""
        for key in self.keys():
            try:
                record = read_record(f"{self._root}/{key}/{_RECORD}")
            except (OSError, OrlopError):
                _log.exception("the device of a layer is unknown: %s", key)
                continue
            if record.transaction > self._pool.transaction:
                raise SystemFailureError(
                    f"devicemapper: the thin pool is older than its layers (transaction {self._pool.transaction},"
                    f" {key:.12} was made by {record.transaction}): was its metadata restored?"
                )
            self._records[key] = record
        used = {record.number for record in self._records.values()} | {self._base.device}
        for number in self._devices.records.keys() - used:
            self._reaper.add(number)

    def closing(self, control: Control) -> None:
        """Have :meth:`close` close the control node, too."""
        self._control = control

    def close(self) -> None:
        """Let go of everything: what nobody has mounted goes, and the pool with the last one."""
        self._reaper.close()
        for fd in self._mounted.values():
            os.close(fd)
        self._mounted.clear()
        self._devices.close()
        self._pool.close()
        if self._control is not None:
            self._control.close()
        self._snapshots.close()

    @property
    def name(self) -> str:
        """``devicemapper``."""
        return NAME

    def status(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs that dockerd showed for devicemapper."""
        pool = self._pool
        try:
            used = pool.status(exact=False)
        except (OSError, OrlopError) as error:  # the rest of what the engine tells is not worse for it
            return (("Pool Name", pool.name), ("Pool Error", str(error)))
        data, metadata = pool.block_size, pool.metadata_block
        loops = [
            (label, file)
            for label, device in (
                ("Data loop file", pool.data_device),
                ("Metadata loop file", pool.metadata_device),
            )
            if (file := pool.loop_file(device))
        ]
        return (
            ("Pool Name", pool.name),
            ("Pool Blocksize", human_size(pool.block_size)),
            ("Base Device Size", human_size(self._base.size)),
            ("Backing Filesystem", self._base.kind),
            ("Udev Sync Supported", "false"),
            ("Data file", pool.data_device),
            ("Metadata file", pool.metadata_device),
            *loops,
            ("Data Space Used", human_size(used.used_data * data)),
            ("Data Space Total", human_size(used.total_data * data)),
            ("Data Space Available", human_size((used.total_data - used.used_data) * data)),
            ("Metadata Space Used", human_size(used.used_metadata * metadata)),
            ("Metadata Space Total", human_size(used.total_metadata * metadata)),
            ("Metadata Space Available", human_size((used.total_metadata - used.used_metadata) * metadata)),
            ("Thin Pool Minimum Free Space", human_size(used.total_data * data * self._settings.least_free // 100)),
            ("Deferred Removal Enabled", "true"),
            ("Deferred Deletion Enabled", "true"),
            ("Deferred Deleted Device Count", str(self._reaper.pending)),
        )

    # Changing.

    def prepare(self, key: str, parent: str | None, *, size: int = 0) -> None:
        """Make an active snapshot."""
        if size and size < self._base.size:
            smallest = human_size(self._base.size)
            raise InvalidParameterError(f"devmapper: Container size cannot be smaller than {smallest}")
        made: list[Record] = []
        try:
            self._pool.require_space()
            self._snapshots.prepare(key, parent, lambda draft, below: made.append(self._make(draft, below, size)))
        except OSError as error:
            raise SystemFailureError(f"devicemapper: {key:.12}: {(error.strerror or '').lower()}") from error
        finally:
            for record in made:
                if key in self._snapshots.keys():  # noqa: SIM118
                    self._records[key] = record
                else:
                    self._reaper.add(record.number)

    def _make(self, draft: str, parent: str | None, size: int) -> Record:
        origin = self._base.record if parent is None else self._record(parent)
        sectors = max(size // SECTOR, origin.sectors)
        record = self._devices.create(origin, sectors, link=f"{self._root}/{draft}/{_RECORD}")
        if sectors > origin.sectors:
            try:
                with self._mount(record) as fd:
                    filesystem.grow(fd, self._base.kind, sectors * SECTOR)
            except BaseException:
                self._reaper.add(record.number)
                raise
        return record

    @contextlib.contextmanager
    def _mount(self, record: Record, *, sealed: bool = False, view: bool = False) -> Iterator[int]:
        path = self._devices.activate(record, read_only=sealed)
        fd = filesystem.mount(path, self._base.kind, self._options, sealed=sealed, view=view)
        try:
            yield fd
        finally:
            os.close(fd)

    def commit(self, key: str, name: str) -> None:
        """Turn an active snapshot into a committed one, when all that was written to it is on the disk."""
        if not self.is_active(key) or name in self._snapshots.keys():  # noqa: SIM118
            self._snapshots.commit(key, name)  # which says why not
        self._finish(key)
        self._snapshots.commit(key, name)
        self._records[name] = self._records.pop(key)

    def replace(self, key: str, name: str) -> None:
        """Let an active snapshot take a committed one's place, likewise."""
        self._snapshots.check_replace(key, name)
        self._finish(key)
        self._snapshots.replace(key, name)
        old = self._records.pop(name, None)  # unknown if that is what is damaged
        self._records[name] = self._records.pop(key)
        if old is not None:
            self._records[key] = old

    def _finish(self, key: str) -> None:
        """Write a snapshot out. Raises SystemFailureError: the pool is full."""
        record = self._record(key)
        failure: OSError | None = None
        try:
            self._settle(key, record)
        except OSError as error:
            failure = error
        if (mode := self._pool.status().mode) != "rw":
            # also if nothing was told: what failed while it was unmounted is told to nobody
            full = "no space left on device: the thin pool is full"
            reason = full if mode == "out_of_data_space" else f"the thin pool is {mode}"
            raise SystemFailureError(f"devicemapper: commit {key:.12}: {reason}") from failure
        if failure is not None:
            raise SystemFailureError(f"devicemapper: commit {key:.12}: {(failure.strerror or '').lower()}") from failure

    def _settle(self, key: str, record: Record) -> None:
        """Write everything out, see that nobody can write any more, and that what is there can be mounted so."""
        try:
            mounted = self._mounted_at(key)
            with filesystem.root_of(mounted) as root:
                status = os.fstat(root)
                if stat.S_IMODE(status.st_mode) != 0o755:  # whatever the archive's root says
                    os.fchmod(root, 0o755)
                syncfs(root)
        finally:
            self._unmount(key)
        self._devices.retire(record.number)
        with self._mount(record, sealed=True):
            pass

    def remove(self, key: str) -> str | None:
        """Make the snapshot disappear; its device is deleted when nobody uses it."""
        path = self._snapshots.remove(key)
        if path is not None:
            with self._mounting:
                mounted = self._mounted.pop(key, -1)
            record = self._records.pop(key, None)
            if record is not None:
                self._reaper.add(record.number, mounted)
        return path

    # Looking.

    def _record(self, key: str) -> Record:
        self._snapshots.check(key)
        try:
            return self._records[key]
        except KeyError:
            raise SystemFailureError(f"devicemapper: the device of a layer is unknown: {key}") from None

    def _mounted_at(self, key: str) -> int:
        """Return this process's own mount of an active snapshot."""
        with self._mounting:
            fd = self._mounted.get(key)
            if fd is None:
                path = self._devices.activate(self._record(key))
                fd = filesystem.mount(path, self._base.kind, self._options)
                self._mounted[key] = fd
            return fd

    def _unmount(self, key: str) -> None:
        with self._mounting:
            fd = self._mounted.pop(key, None)
        if fd is not None:
            os.close(fd)

    def directory(self, key: str) -> str:
        """Return the root of a mount that only this process has: it is in no mount table."""
        self._snapshots.check(key)
        try:
            return f"/proc/{os.getpid()}/fd/{self._mounted_at(key)}/."
        except OSError as error:
            raise SystemFailureError(f"devicemapper: {key:.12}: {(error.strerror or '').lower()}") from error

    def tree(self, key: str) -> OverlayRoot:
        """Return the device, to be mounted; our own mount keeps what could not be written from being forgotten."""
        self._mounted_at(key)
        return self.mounts(key)

    def difference(self, key: str) -> Difference:
        """Return views of the snapshot's tree and of the one that it began as."""
        tree = self.mounts(key, writable=False)
        parent = self._snapshots.parent(key)
        return Difference(tree, None if parent is None else self.mounts(parent, writable=False))

    def mounts(self, key: str, *, writable: bool = True) -> OverlayRoot:
        """Return how to mount the snapshot: its device, active for some minutes or as long as it is mounted."""
        record, sealed = self._record(key), not self.is_active(key)
        path = self._devices.activate(record, read_only=sealed)
        view = sealed or not writable
        return OverlayRoot((), device=DeviceRoot(path, self._base.kind, self._options, sealed=sealed, view=view))

    @contextlib.contextmanager
    def _compared(self, key: str) -> Iterator[tuple[int, int | None]]:
        """Open the tree and the parent's for reading."""
        record, parent = self._record(key), self._snapshots.parent(key)
        try:
            with contextlib.ExitStack() as stack:
                sealed = not self.is_active(key)
                mounted = stack.enter_context(self._mount(record, sealed=sealed, view=True))
                tree = stack.enter_context(filesystem.root_of(mounted))
                below = None
                if parent is not None:
                    mounted = stack.enter_context(self._mount(self._record(parent), sealed=True))
                    below = stack.enter_context(filesystem.root_of(mounted))
                yield tree, below
        except OSError as error:
            raise SystemFailureError(f"devicemapper: {key:.12}: {(error.strerror or '').lower()}") from error

    def describe(self, key: str) -> dict[str, str]:
        """Return what dockerd showed: the thin device."""
        record = self._record(key)
        return {
            "DeviceId": str(record.number),
            "DeviceName": self._devices.name(record.number),
            "DeviceSize": str(record.sectors * SECTOR),
        }
