"""Linux security modules: what can be asked for on this kernel, and clear refusals of the rest.

A profile that cannot be applied is refused, never ignored: Docker ignores ``apparmor=x`` on a kernel without
AppArmor, and the container then runs without the confinement that its owner named (threats.md C10).
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

UNCONFINED = "unconfined"
_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"


def apparmor_enabled() -> bool:
    """Whether the running kernel has AppArmor switched on."""
    try:
        with open(_APPARMOR, "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def selinux_enabled() -> bool:
    """Whether the running kernel has SELinux switched on."""
    try:
        with open(_SELINUX, "rb"):
            return True
    except OSError:
        return False


def check_apparmor(profile: str, *, enabled: bool | None = None) -> str:
    """Return the profile to put into the configuration: empty for none.

    Raises:
        InvalidParameterError: the kernel has no AppArmor, or that is no profile's name.
    """
    if profile in {"", UNCONFINED}:
        return ""
    if not (apparmor_enabled() if enabled is None else enabled):
        raise InvalidParameterError(f"AppArmor is not supported on this host, but the profile is set: {profile}")
    if any(character.isspace() or not character.isprintable() for character in profile):
        raise InvalidParameterError(f"invalid AppArmor profile: {profile!r:.80}")
    return profile


def change_profile_on_exec(proc_fd: int, pid: int, profile: str) -> None:
    """Have the caller's next execve enter a loaded AppArmor profile (aa_change_onexec(2)).

    Args:
        proc_fd: a procfs that nothing of the container can stand in for (CVE-2019-16884, CVE-2025-52881).
        pid: the caller's, in that procfs.
        profile: its name.

    Raises:
        InvalidParameterError: there is no such profile, in runc's words.
    """
    try:
        fd = _open_attribute(proc_fd, f"{pid}/attr/apparmor/exec")
    except FileNotFoundError:  # before Linux 5.8
        fd = _open_attribute(proc_fd, f"{pid}/attr/exec")
    try:
        os.write(fd, f"exec {profile}".encode())
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameterError(f"unable to apply apparmor profile {profile}: {reason}") from None
    finally:
        os.close(fd)


def _open_attribute(proc_fd: int, path: str) -> int:
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(proc_fd, path, os.O_WRONLY | os.O_CLOEXEC, resolve=resolve)


def check_selinux(label: str, *, enabled: bool | None = None) -> str:
    """Return the label to put into the configuration: empty for none.

    Raises:
        InvalidParameterError: the kernel has no SELinux.
        UnsupportedError: it has; orlop does not label processes yet.
    """
    if label in {"", "disable"}:
        return ""
    if not (selinux_enabled() if enabled is None else enabled):
        raise InvalidParameterError(f"SELinux is not supported on this host, but a label is set: {label}")
    raise UnsupportedError(f"SELinux labels are not supported: {label}")
