"""Linux security modules: which there are, and the label that a container's program is executed with.

A profile or label that cannot be applied is refused, never ignored: Docker ignores ``apparmor=x`` on a kernel without
AppArmor, and the container then runs without the confinement that its owner named (threats.md C10).
"""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError
from orlop.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2
from orlop.primitives.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.primitives.owned_fd import OwnedFd
    from orlop.spec.oci.process import Process

UNCONFINED = "unconfined"
_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"
_CURRENT = "/proc/self/attr/current"
_WITHOUT_POLICY = b"kernel"  # the name of the first label of all; with a policy a label has colons
# attr/apparmor is from 5.1 on; attr/exec is of whichever module is first
_APPARMOR_ATTRIBUTES = ("self/attr/apparmor/", "self/attr/")
_SELINUX_ATTRIBUTES = ("self/attr/",)
# "self" is a link of procfs itself; anything mounted over an attribute is another file system (CVE-2019-19921)
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS


def apparmor_enabled() -> bool:
    """Whether the running kernel has AppArmor switched on."""
    return _begin(_APPARMOR).startswith(b"Y")


def selinux_enabled() -> bool:
    """Whether the running kernel has SELinux switched on, and a policy: without one every label means the same."""
    return _begin(_SELINUX) != b"" and _begin(_CURRENT).rstrip(b"\0\n") != _WITHOUT_POLICY


def _begin(path: str) -> bytes:
    """Return the beginning of a file, nothing when there is none; without the text layer, which would be loaded."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 256)
    finally:
        os.close(fd)


def check_apparmor(profile: str, *, enabled: bool | None = None) -> None:
    """Check that a profile can be applied; whether it is loaded only the kernel knows.

    Raises:
        InvalidParameterError: no name of a profile, or the kernel has no AppArmor.
    """
    if profile in {"", UNCONFINED}:
        return
    # the kernel takes "exec <name>" as words of a line
    if not profile.isprintable() or " " in profile or len(profile) > 255:
        raise InvalidParameterError(f"invalid AppArmor profile: {profile!r:.80}")
    if not (apparmor_enabled() if enabled is None else enabled):
        raise InvalidParameterError(f"AppArmor is not supported on this host, but the profile is set: {profile}")


def check_selinux(label: str, *, enabled: bool | None = None) -> None:
    """Check that a label can be applied; whether there is such a context only the kernel knows.

    Raises:
        InvalidParameterError: no label, or the kernel has no SELinux.
    """
    if not label:
        return
    if not label.isprintable() or len(label) > 4095:
        raise InvalidParameterError(f"invalid SELinux label: {label!r:.80}")
    if not (selinux_enabled() if enabled is None else enabled):
        raise InvalidParameterError(f"SELinux is not supported on this host, but a label is set: {label}")


def confine(process: Process, proc: Callable[[], OwnedFd], *, now: bool) -> None:
    """Have the next execve(2) of this process, and those of its children, apply the process's labels.

    Args:
        process: whose labels; both were checked.
        proc: opens a procfs that is the kernel's own.
        now: change at once as well, for a process that stays.

    Raises:
        InvalidParameterError: the kernel does not know the profile or label, in runc's words.
    """
    profile, label = process.apparmor_profile, process.selinux_label
    if profile and (profile != UNCONFINED or apparmor_enabled()):
        what = f"unable to apply apparmor profile {profile}"
        with proc() as root:
            _write(root.fileno(), _APPARMOR_ATTRIBUTES, "exec", f"exec {profile}", what)
            if now:
                _write(root.fileno(), _APPARMOR_ATTRIBUTES, "current", f"changeprofile {profile}", what)
    if label:
        with proc() as root:
            _write(root.fileno(), _SELINUX_ATTRIBUTES, "exec", label, "unable to set SELinux exec label")
            if now:
                _write(root.fileno(), _SELINUX_ATTRIBUTES, "current", label, "unable to set SELinux label")


def _write(proc_fd: int, directories: tuple[str, ...], name: str, text: str, what: str) -> None:
    """Write an attribute of this process, with one write(2), in the first directory that has it."""
    for directory in directories:
        with suppress(FileNotFoundError):
            fd = openat2(proc_fd, directory + name, os.O_WRONLY | os.O_CLOEXEC, resolve=_RESOLVE)
            break
    else:
        raise InvalidParameterError(f"{what}: this kernel has no attribute for it")
    try:
        os.write(fd, text.encode())
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidParameterError(f"{what}: write /proc/{directory}{name}: {reason}") from None
    finally:
        os.close(fd)
