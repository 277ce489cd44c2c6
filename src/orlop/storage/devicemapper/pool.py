"""The thin pool: an existing one, or one that is made of devices or of sparse files on loop devices.

Nobody has to take it down. The device is marked for deferred removal while it is in use: the kernel removes it when the
last thin device and this process have let go of it, and frees its loop devices with it, however this process ended. A
pool that outlived its engine, because containers run, is found by its name again.

::

    <data-root>/layers/devicemapper/.pool/
      data, metadata                    sparse files, if no devices were named
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import OrlopError, SystemFailureError, UnsupportedError
from orlop.kernel import block, loop
from orlop.kernel.device_mapper import CONTROL, NOFLUSH, SECTOR, Control, Target
from orlop.primitives import commands

if TYPE_CHECKING:
    from orlop.storage.devicemapper.options import Settings

_MISC_MAJOR = 10
_METADATA_BLOCK = 4096
_GONE = frozenset((errno.ENXIO, errno.ENODEV, errno.ENOENT))
_ATTEMPTS, _PAUSE = 200, 0.025


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What the pool says of itself (Documentation/admin-guide/device-mapper/thin-provisioning); sizes in blocks."""

    transaction: int
    used_metadata: int
    total_metadata: int
    used_data: int
    total_data: int
    mode: str


def parse_status(text: str) -> PoolStatus:
    """Read a thin pool's status line. Raises SystemFailureError: the pool has failed."""
    words = text.split()
    try:
        used_metadata, total_metadata = map(int, words[1].split("/"))
        used_data, total_data = map(int, words[2].split("/"))
        return PoolStatus(int(words[0]), used_metadata, total_metadata, used_data, total_data, words[4])
    except (IndexError, ValueError):
        raise SystemFailureError(f"devicemapper: the thin pool is broken: {text[:80]}") from None


def open_control(directory: str) -> Control:
    """Open device mapper's control node; ``directory`` is for one of our own where there is none.

    Raises:
        UnsupportedError: this kernel has no device mapper.
    """
    with contextlib.suppress(OSError):
        return Control()
    minor = _misc_minor()
    if minor is None:
        with contextlib.suppress(OrlopError):
            commands.run(("modprobe", "-q", "dm_mod"))
        minor = _misc_minor()
    if minor is None:
        raise UnsupportedError("devicemapper: there is no device mapper in this kernel")
    with contextlib.suppress(OSError):
        return Control()
    path = f"{directory}/.control"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(_MISC_MAJOR, minor))
        return Control(path)
    except OSError as error:
        raise UnsupportedError(f"devicemapper: {CONTROL}: {(error.strerror or '').lower()}") from error


def _misc_minor() -> int | None:
    with open("/proc/misc", encoding="ascii") as table:
        for line in table:
            number, _, name = line.strip().partition(" ")
            if name == "device-mapper":
                return int(number)
    return None


def find_node(directory: str, number: int) -> str:
    """Return a path of the block device; where /dev has none, of a node of our own in ``directory``."""
    path = f"/dev/dm-{os.minor(number)}"
    with contextlib.suppress(OSError):
        found = os.stat(path)
        if stat.S_ISBLK(found.st_mode) and found.st_rdev == number:
            return path
    own = f"{directory}/.nodes"
    os.makedirs(own, mode=0o700, exist_ok=True)
    path = f"{own}/{os.minor(number)}"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_rdev == number:
            return path
        os.unlink(path)
    os.mknod(path, stat.S_IFBLK | 0o600, number)
    return path


class Pool:
    """Owns a descriptor of the pool, which keeps it from being removed.

    Args:
        control: of device mapper.
        directory: the driver's.
        name: of the pool if it is made.
        settings: what it is made of.

    Raises:
        UnsupportedError: this kernel has no thin pools, or a device is something else.
        SystemFailureError: it cannot be made.
    """

    def __init__(self, control: Control, directory: str, name: str, settings: Settings) -> None:
        self._control = control
        self._directory = directory
        self._settings = settings
        self.name = settings.thin_pool or name
        self.found = True  # or made
        self._fd = self._find() if settings.thin_pool else self._find_or_make()
        try:
            line = self._control.table(self.name)[0]
            if line.kind != "thin-pool":
                raise UnsupportedError(f"devicemapper: not a thin pool: {self.name} ({line.kind})")
            words = line.text.split()
            self.metadata_device, self.data_device = _device_name(words[0]), _device_name(words[1])
            self.block_size = int(words[2]) * SECTOR
            self.zeroes = "skip_block_zeroing" not in words
            self.number = os.fstat(self._fd).st_rdev
            self.transaction = self.status().transaction
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def _find(self) -> int:
        try:
            number = self._control.status(self.name).number
            return os.open(find_node(self._directory, number), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            reason = "no such device" if error.errno in _GONE else (error.strerror or "").lower()
            raise SystemFailureError(f"devicemapper: thin pool {self.name}: {reason}") from None

    def _find_or_make(self) -> int:
        for _ in range(_ATTEMPTS):
            try:
                device = self._control.status(self.name)
                if device.has_table:
                    fd = os.open(find_node(self._directory, device.number), os.O_RDONLY | os.O_CLOEXEC)
                    self._control.remove(self.name, deferred=True)
                    return fd
                self._control.remove(self.name)  # somebody was killed while making it
            except OSError as error:
                if error.errno not in _GONE:
                    raise
            with contextlib.suppress(FileExistsError):
                return self._make()
            time.sleep(_PAUSE)  # the one of the engine before is being removed
        raise SystemFailureError(f"devicemapper: thin pool {self.name}: device or resource busy")

    def _make(self) -> int:
        """Make the pool. Raises FileExistsError: there is one, perhaps on its way out."""
        self.found = False
        settings = self._settings
        with contextlib.ExitStack() as always:
            metadata = self._open_part("metadata", settings.metadata_device, settings.loop_metadata_size)
            always.callback(os.close, metadata)
            data = self._open_part("data", settings.data_device, settings.loop_data_size)
            always.callback(os.close, data)
            sectors = settings.block_size // SECTOR
            length = block.size(data) // settings.block_size * sectors
            numbers = [os.fstat(fd).st_rdev for fd in (metadata, data)]
            parts = " ".join(f"{os.major(number)}:{os.minor(number)}" for number in numbers)
            # Without space, an error at once is better than a container that hangs.
            line = Target(0, length, "thin-pool", f"{parts} {sectors} 0 1 error_if_no_space")
            try:
                self._control.create(self.name)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise FileExistsError from None
                raise self._failure(error) from error
            try:
                self._control.load(self.name, (line,))
                number = self._control.resume(self.name).number
                fd = os.open(find_node(self._directory, number), os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._control.remove(self.name)
                raise self._failure(error) from error
            self._control.remove(self.name, deferred=True)
            return fd

    def _failure(self, error: OSError) -> OrlopError:
        if error.errno == errno.EINVAL and "thin-pool" not in self._control.versions():
            return UnsupportedError("devicemapper: this kernel has no thin pools (dm-thin-pool)")
        reason = (error.strerror or "").lower()
        if error.errno in {errno.EINVAL, errno.EILSEQ} and self._settings.metadata_device:
            reason += ": the first 4096 bytes of a new metadata device must be zero"
        return SystemFailureError(f"devicemapper: thin pool {self.name}: {reason}")

    def _open_part(self, part: str, device: str, size: int) -> int:
        try:
            if device:
                fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
                if not stat.S_ISBLK(os.fstat(fd).st_mode):
                    os.close(fd)
                    raise UnsupportedError(f"devicemapper: not a block device: {device}")
                return fd
            os.makedirs(f"{self._directory}/.pool", mode=0o700, exist_ok=True)
            path = f"{self._directory}/.pool/{part}"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(file).st_size < size:
                    os.truncate(file, size)
                return loop.attach(file, path)[0]
            finally:
                os.close(file)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise SystemFailureError(f"devicemapper: {device or part}: {reason}") from error

    # Use.

    def status(self, *, exact: bool = True) -> PoolStatus:
        """Ask it; without ``exact`` it does not write out its metadata first, and may be a second behind."""
        return parse_status(self._control.target_status(self.name, flags=0 if exact else NOFLUSH)[0].text)

    def require_space(self) -> None:
        """Raise SystemFailureError, in dockerd's words, if there is too little for something new."""
        percent = self._settings.least_free
        if not percent:
            return
        status = self.status(exact=False)
        for what, blocks, space, used, total in (
            ("data", "data blocks", "space", status.used_data, status.total_data),
            ("metadata", "metadata blocks", "metadata space", status.used_metadata, status.total_metadata),
        ):
            least = max(total * percent // 100, 1)
            if total - used < least:
                raise SystemFailureError(
                    f"devmapper: Thin Pool has {total - used} free {blocks} which is less than minimum required {least}"
                    f" free {what} blocks. Create more free {space} in thin pool or use dm.min_free_space option to"
                    " change behavior"
                )

    def create_thin(self, device: int) -> None:
        """Make an empty thin device. EEXIST: the number is taken."""
        self._control.message(self.name, f"create_thin {device}")

    def create_snapshot(self, device: int, origin: int) -> None:
        """Make a device with another's content, which is suspended if it is active. EEXIST as above."""
        self._control.message(self.name, f"create_snap {device} {origin}")

    def delete(self, device: int) -> None:
        """Delete a device. EBUSY: it is active. ENODATA: there is none."""
        self._control.message(self.name, f"delete {device}")

    def advance(self) -> None:
        """Let the pool's transaction be one more."""
        self._control.message(self.name, f"set_transaction_id {self.transaction} {self.transaction + 1}")
        self.transaction += 1

    def loop_file(self, device: str) -> str:
        """Return the file behind one of our loop devices; empty for another device."""
        with contextlib.suppress(OSError):
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return loop.file_name(fd)
            finally:
                os.close(fd)
        return ""

    @property
    def metadata_block(self) -> int:
        """Bytes of what metadata is counted in."""
        return _METADATA_BLOCK


def _device_name(number: str) -> str:
    """Return the path of a device that a table names by its number."""
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{number}"))
    except OSError:
        return number
