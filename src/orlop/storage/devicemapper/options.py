"""The driver's options, ``dm.*``, as dockerd had them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.spec.truth import parse_bool
from orlop.storage.limits import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_GIB = 1 << 30
# of dm-thin: between 64 KiB and 1 GiB, in steps of 64 KiB
_BLOCK_UNIT, _BLOCK_LARGEST = 64 << 10, 1 << 30
# fsconfig(2) takes none of them
_OF_THE_MOUNT = frozenset(
    [
        *("ro", "rw", "noatime", "atime", "nodiratime", "diratime", "relatime", "norelatime", "strictatime"),
        *("nosuid", "suid", "nodev", "dev", "noexec", "exec", "defaults"),
    ]
)
_REFUSED = {
    "dm.directlvm_device": "make a thin pool with lvm2 and name it with dm.thinpooldev",
    "dm.directlvm_device_force": "make a thin pool with lvm2 and name it with dm.thinpooldev",
    "dm.thinp_percent": "it belongs to dm.directlvm_device",
    "dm.thinp_metapercent": "it belongs to dm.directlvm_device",
    "dm.thinp_autoextend_threshold": "it belongs to dm.directlvm_device",
    "dm.thinp_autoextend_percent": "it belongs to dm.directlvm_device",
    "dm.xfs_nospace_max_retries": "containers mount their file systems where nobody could set it; use dm.fs=ext4",
    "dm.libdm_log_level": "libdm is not used",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options say; sizes in bytes.

    Attributes:
        thin_pool: name of an existing pool; empty: one is made.
        data_device: what it is made of; empty: a sparse file.
        metadata_device: likewise.
        loop_data_size: of the sparse file.
        loop_metadata_size: likewise.
        block_size: of a pool that is made.
        base_size: of the empty file system that all others come from; 0: as it is, at first 10 GiB.
        kind: of that file system; empty: as it is, at first ext4.
        mkfs_arguments: for making it.
        mount_options: for all mounts.
        discard: give a removed device's blocks back to what is below the pool.
        least_free: percent of the pool that have to be free for something new.
    """

    thin_pool: str = ""
    data_device: str = ""
    metadata_device: str = ""
    loop_data_size: int = 100 * _GIB
    loop_metadata_size: int = 2 * _GIB
    block_size: int = _BLOCK_UNIT
    base_size: int = 0
    kind: str = ""
    mkfs_arguments: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    discard: bool = True
    least_free: int = 10


def parse_options(options: Mapping[str, str]) -> Settings:
    """Read them.

    Raises:
        InvalidParameterError: an unknown option or a bad value, in dockerd's words.
        UnsupportedError: one of dockerd's that is not supported here.
    """
    values: dict[str, object] = {}
    for name, value in options.items():
        if name in _REFUSED:
            raise UnsupportedError(f"devicemapper: {name} is not supported: {_REFUSED[name]}")
        if name not in _READERS:
            raise InvalidParameterError(f"devmapper: Unknown option {name}")
        field, reader = _READERS[name]
        read = reader(name, value)
        if field:
            values[field] = read
    if values.get("thin_pool") and (values.get("data_device") or values.get("metadata_device")):
        raise InvalidParameterError("devicemapper: dm.thinpooldev excludes dm.datadev and dm.metadatadev")
    if values.get("data_device") or values.get("thin_pool"):
        values.setdefault("discard", False)  # of use for sparse files only, and slow elsewhere
    return Settings(**values)  # type: ignore[arg-type]  # by the readers' types


def _text(name: str, value: str) -> str:
    if not value or len(value) > 200:
        raise InvalidParameterError(f"devicemapper: invalid value for option {name}: {value!r:.80}")
    return value


def _pool(name: str, value: str) -> str:
    pool = _text(name, value).removeprefix("/dev/mapper/")
    if "/" in pool or not pool.isascii() or len(pool) > 127:
        raise InvalidParameterError(f"devicemapper: not a device mapper device: {value:.80}")
    return pool


def _device(name: str, value: str) -> str:
    if not _text(name, value).startswith("/"):
        raise InvalidParameterError(f"devicemapper: {name} must be an absolute path: {value:.80}")
    return value


def _size(_name: str, value: str) -> int:
    size = parse_size(value)
    if not size:
        raise InvalidParameterError(f"invalid size: '{value}'")
    return size


def _block_size(name: str, value: str) -> int:
    size = _size(name, value)
    if size % _BLOCK_UNIT or size > _BLOCK_LARGEST:
        raise InvalidParameterError(f"devicemapper: {name} must be a multiple of 64K and at most 1G: {value}")
    return size


def _file_system(_name: str, value: str) -> str:
    if value not in {"ext4", "xfs"}:
        raise InvalidParameterError(f"devmapper: Unsupported filesystem {value}")
    return value


def _words(name: str, value: str) -> tuple[str, ...]:
    return tuple(_text(name, value).split())


def _mount_options(name: str, value: str) -> tuple[str, ...]:
    words = tuple(word for word in _text(name, value).split(",") if word)
    for word in words:
        if word in _OF_THE_MOUNT:
            raise UnsupportedError(
                f"devicemapper: {name} takes the file system's own options, not those of a mount: {word}"
            )
    return words


def _boolean(_name: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError as error:
        raise InvalidParameterError(str(error)) from None


def _always(name: str, value: str) -> None:
    if not _boolean(name, value):
        raise UnsupportedError(
            f"devicemapper: {name}=false is not supported: devices always go when the last user does"
        )


def _percent(name: str, value: str) -> int:
    number = value.removesuffix("%")
    if number == value:
        raise InvalidParameterError(f"devmapper: Option {name} requires % suffix")
    if not (number.isascii() and number.isdigit() and int(number[:9]) < 100):
        raise InvalidParameterError(f"devmapper: Invalid value {value} for option {name}")
    return int(number)


_READERS = {
    "dm.thinpooldev": ("thin_pool", _pool),
    "dm.datadev": ("data_device", _device),
    "dm.metadatadev": ("metadata_device", _device),
    "dm.loopdatasize": ("loop_data_size", _size),
    "dm.loopmetadatasize": ("loop_metadata_size", _size),
    "dm.blocksize": ("block_size", _block_size),
    "dm.basesize": ("base_size", _size),
    "dm.fs": ("kind", _file_system),
    "dm.mkfsarg": ("mkfs_arguments", _words),
    "dm.mountopt": ("mount_options", _mount_options),
    "dm.blkdiscard": ("discard", _boolean),
    "dm.min_free_space": ("least_free", _percent),
    "dm.use_deferred_removal": ("", _always),
    "dm.use_deferred_deletion": ("", _always),
    # dockerd refused to start without udev's synchronisation unless it was set; nothing here needs that
    "dm.override_udev_sync_check": ("", _boolean),
}
