"""Project quotas: quotactl_fd(2) and the file attributes that say to which project a directory belongs.

linux/quota.h, linux/dqblk_xfs.h, linux/fs.h; ext4 and xfs differ in their structs.
"""

from __future__ import annotations

import errno
import fcntl
import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import SyscallError, call

EXT4_SUPER_MAGIC = 0xEF53
XFS_SUPER_MAGIC = 0x58465342

_PRJQUOTA = 2
_Q_GETFMT, _Q_GETQUOTA, _Q_SETQUOTA = 0x800004, 0x800007, 0x800008
_Q_XGETQUOTA, _Q_XSETQLIM, _Q_XGETQSTAT = 0x5803, 0x5804, 0x5805
_QIF_BLIMITS = 1
# struct if_dqblk: bhardlimit, bsoftlimit, curspace, ihardlimit, isoftlimit, curinodes, btime, itime, valid
_DQBLK = struct.Struct("=8QI4x")
_DQBLK_UNIT = 1024
# struct fs_disk_quota: version, flags, fieldmask, id, blk_hardlimit, blk_softlimit, 40 bytes to bcount at 48, ...
_XFS = struct.Struct("=bbHIQQ88x")
_FS_DQUOT_VERSION, _FS_PROJ_QUOTA, _FS_DQ_BLIMITS = 1, 2, (1 << 2) | (1 << 3)
_XFS_UNIT = 512

# struct fsxattr: xflags, extsize, nextents, projid, cowextsize, pad
_FSXATTR = struct.Struct("=5I8x")
_FS_IOC_FSGETXATTR, _FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_FS_XFLAG_PROJINHERIT = 0x200


def _quotactl(fd: int, command: int, identity: int, buffer: object) -> None:
    """quotactl_fd(2), Linux 5.14."""
    call("quotactl_fd", fd, command << 8 | _PRJQUOTA, identity, buffer, shown=(fd, hex(command), identity))


def is_enforced(fd: int, magic: int) -> bool:
    """Tell whether the file system of ``fd`` counts and limits projects."""
    buffer = ctypes.create_string_buffer(256)
    try:
        if magic == XFS_SUPER_MAGIC:
            _quotactl(fd, _Q_XGETQSTAT, 0, buffer)
            flags = int(struct.unpack_from("=H", buffer.raw, 2)[0])
            return flags & 0x30 == 0x30  # XFS_QUOTA_PDQ_ACCT, XFS_QUOTA_PDQ_ENFD
        _quotactl(fd, _Q_GETFMT, 0, buffer)
    except SyscallError as error:
        if error.errno in {errno.ESRCH, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM}:
            return False
        raise
    return True


def set_limit(fd: int, magic: int, project: int, size: int) -> None:
    """Let a project have ``size`` bytes; 0 is no limit."""
    if magic == XFS_SUPER_MAGIC:
        blocks = -(-size // _XFS_UNIT)
        data = _XFS.pack(_FS_DQUOT_VERSION, _FS_PROJ_QUOTA, _FS_DQ_BLIMITS, project, blocks, blocks)
        _quotactl(fd, _Q_XSETQLIM, project, ctypes.create_string_buffer(data, len(data)))
        return
    blocks = -(-size // _DQBLK_UNIT)
    data = _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS)
    _quotactl(fd, _Q_SETQUOTA, project, ctypes.create_string_buffer(data, len(data)))


def is_used(fd: int, magic: int, project: int) -> bool:
    """Tell whether a project has files or a limit."""
    buffer = ctypes.create_string_buffer(256)
    try:
        _quotactl(fd, _Q_XGETQUOTA if magic == XFS_SUPER_MAGIC else _Q_GETQUOTA, project, buffer)
    except SyscallError as error:
        if error.errno in {errno.ENOENT, errno.ESRCH}:
            return False
        raise
    if magic == XFS_SUPER_MAGIC:
        hard, count, inodes = (struct.unpack_from("=Q", buffer.raw, place)[0] for place in (8, 40, 48))
        return bool(hard or count or inodes)
    hard, _, space, _, _, inodes = struct.unpack_from("=6Q", buffer.raw)
    return bool(hard or space or inodes)


def project_of(fd: int) -> int:
    """FS_IOC_FSGETXATTR: the project that a directory belongs to; 0 for none."""
    return int(_FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))[3])


def set_project(fd: int, project: int) -> None:
    """FS_IOC_FSSETXATTR: put a directory, and what is made in it, into a project."""
    flags, extent, extents, _, cow = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))
    data = _FSXATTR.pack(flags | _FS_XFLAG_PROJINHERIT, extent, extents, project, cow)
    fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, data)
