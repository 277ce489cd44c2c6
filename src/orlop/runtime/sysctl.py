"""Writing to procfs: each file opened in a private procfs, written once (CVE-2025-52881, CVE-2022-0811)."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from orlop.spec.oci.sysctl import sysctl_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def write_sysctls(proc_fd: int, sysctls: Mapping[str, str]) -> None:
    """Set each sysctl through ``proc_fd``, a private procfs.

    Raises:
        InvalidParameterError: the kernel does not have it or refuses the value.
    """
    for name, value in sysctls.items():
        path = "sys/" + sysctl_path(name)
        try:
            fd = openat2(proc_fd, path, os.O_WRONLY | os.O_CLOEXEC, resolve=_RESOLVE)
        except OSError as error:
            raise InvalidParameterError(f"open sysctl {name} file: {(error.strerror or '').lower()}") from None
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise InvalidParameterError(f"write sysctl {name}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(fd)


def write_proc(path: str, value: str) -> None:
    """Write a file of the host's own procfs, before anything of the container is mounted."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
