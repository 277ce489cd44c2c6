"""Loop devices: loop(4), linux/loop.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A  # Linux 5.8
_GET_STATUS64 = 0x4C05
_FLAGS_AUTOCLEAR, _FLAGS_DIRECT_IO = 4, 16
# struct loop_config: fd, block_size, struct loop_info64 (52 bytes to lo_flags, lo_file_name[64]), reserved[8]
_CONFIG = struct.Struct("=II52xI64s112x64x")
_FILE_NAME = struct.Struct("=56x64s112x")  # struct loop_info64, what of it is read
_ATTEMPTS = 64


def attach(file_fd: int, name: str) -> tuple[int, str]:
    """Give a free loop device a file; it lets go of it when nobody has the device open any more.

    Args:
        file_fd: the file, opened for reading and writing.
        name: what ``losetup`` shows, of which the kernel keeps 63 bytes.

    Returns:
        A descriptor of the device, and its path.

    Raises:
        OSError: no loop devices here, and the like.
    """
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            config = _CONFIG.pack(file_fd, 0, _FLAGS_AUTOCLEAR, os.fsencode(name)[:63])
            try:
                fcntl.ioctl(fd, _CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                # somebody else took it between the two calls
                if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return fd, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def file_name(fd: int) -> str:
    """LOOP_GET_STATUS64: the name that :func:`attach` was given. ENXIO: there is no file."""
    data = fcntl.ioctl(fd, _GET_STATUS64, bytes(_FILE_NAME.size))
    return os.fsdecode(_FILE_NAME.unpack(data)[0].partition(b"\0")[0])
