"""The base device: an empty file system, of which every snapshot without a parent is a snapshot.

::

    <data-root>/layers/devicemapper/.pool/base.json     {"device", "kind", "uuid", "size", "grown"}
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orlop.errors import DataLossError, InvalidParameterError, OrlopError, SystemFailureError
from orlop.kernel.device_mapper import SECTOR
from orlop.primitives.atomic import write_atomic
from orlop.storage.devicemapper import filesystem
from orlop.storage.devicemapper.devices import Record
from orlop.storage.limits import human_size

if TYPE_CHECKING:
    from orlop.storage.devicemapper.devices import Devices
    from orlop.storage.devicemapper.options import Settings
    from orlop.storage.devicemapper.pool import Pool

_log = logging.getLogger(__name__)
_DEFAULT_SIZE = 10 << 30
_DEFAULT_KIND = "ext4"


@dataclass(frozen=True, slots=True)
class Base:
    """The base device; sizes in bytes.

    Attributes:
        device: its number.
        kind: ext4 or xfs; of all file systems of this driver's directory.
        uuid: of the file system, by which another pool is noticed.
        size: of the device.
        grown: of the file system on it, as far as it was asked to be.
    """

    device: int
    kind: str
    uuid: str
    size: int
    grown: int

    @property
    def record(self) -> Record:
        """Return it as a thin device."""
        return Record(self.device, 0, self.size // SECTOR)


def open_base(root: str, pool: Pool, devices: Devices, settings: Settings) -> Base:
    """Return the base device, made if this is a new pool, and grown if that is asked for.

    Raises:
        InvalidParameterError: it would have to shrink.
        SystemFailureError: the pool is another one than before, or cannot be taken; mkfs failed.
    """
    base = _read(root)
    if base is None:
        base = _make(root, pool, devices, settings)
    else:
        _require_same(base, devices)
    if settings.kind and settings.kind != base.kind:
        _log.warning("devmapper: Base device already exists and has filesystem %s on it", base.kind)
    if settings.base_size and settings.base_size < base.size:
        raise InvalidParameterError(f"devmapper: Base device size cannot be smaller than {human_size(base.size)}")
    if settings.base_size > base.size:
        base = replace(base, size=settings.base_size // SECTOR * SECTOR)
        _write(root, base)
    if base.grown < base.size:
        base = _grow(root, base, devices, settings)
    return base


def _path(root: str) -> str:
    return f"{root}/.pool/base.json"


def _read(root: str) -> Base | None:
    try:
        with open(_path(root), "rb") as file:
            found = json.loads(file.read(4096))
        return Base(
            int(found["device"]), str(found["kind"]), str(found["uuid"]), int(found["size"]), int(found["grown"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise DataLossError(f"devicemapper: damaged record: {_path(root)}") from None


def _write(root: str, base: Base) -> None:
    values = {name: getattr(base, name) for name in ("device", "kind", "uuid", "size", "grown")}
    os.makedirs(f"{root}/.pool", mode=0o700, exist_ok=True)
    write_atomic(_path(root), json.dumps(values).encode(), 0o600, durable=True)


def _make(root: str, pool: Pool, devices: Devices, settings: Settings) -> Base:
    if settings.thin_pool and not devices.records:
        status = pool.status()
        if status.used_data:
            raise SystemFailureError(
                f"devmapper: Unable to take ownership of thin-pool ({pool.name}) that already has used data blocks"
            )
        if status.transaction:
            raise SystemFailureError(
                f"devmapper: Unable to take ownership of thin-pool ({pool.name}) with non-zero transaction ID"
            )
    kind = settings.kind or _DEFAULT_KIND
    sectors = (settings.base_size or _DEFAULT_SIZE) // SECTOR
    try:
        record = devices.create(None, sectors)
        path = devices.activate(record)
        filesystem.make(path, kind, settings.mkfs_arguments, zeroed=pool.zeroes)
        fd = filesystem.mount(path, kind, filesystem.mount_options(kind, settings.mount_options))
        try:
            filesystem.clear(fd)
        finally:
            os.close(fd)
        base = Base(record.number, kind, filesystem.uuid_of(path, kind), sectors * SECTOR, sectors * SECTOR)
        devices.retire(record.number)
        _write(root, base)
    except OSError as error:
        raise SystemFailureError(f"devicemapper: base device: {(error.strerror or '').lower()}") from error
    return base


def _require_same(base: Base, devices: Devices) -> None:
    uuid = ""
    with contextlib.suppress(OSError, OrlopError):
        uuid = filesystem.uuid_of(devices.activate(base.record, read_only=True), base.kind)
    with contextlib.suppress(OrlopError):
        devices.retire(base.device)
    if uuid != base.uuid:
        raise SystemFailureError(
            f"devmapper: Current Base Device UUID:{uuid} does not match with stored UUID:{base.uuid}."
            " Possibly using a different thin pool than last invocation"
        )


def _grow(root: str, base: Base, devices: Devices, settings: Settings) -> Base:
    try:
        options = filesystem.mount_options(base.kind, settings.mount_options)
        fd = filesystem.mount(devices.activate(base.record), base.kind, options)
        try:
            filesystem.grow(fd, base.kind, base.size)
        finally:
            os.close(fd)
        devices.retire(base.device)
        base = replace(base, grown=base.size)
        _write(root, base)
    except OSError as error:
        raise SystemFailureError(f"devicemapper: base device: {(error.strerror or '').lower()}") from error
    return base
