"""Linux security modules: what can be asked for on this kernel, and clear refusals of the rest.

A profile that cannot be applied is refused, never ignored: Docker ignores ``apparmor=x`` on a kernel without
AppArmor, and the container then runs without the confinement that its owner named (threats.md C10).
"""

from __future__ import annotations

from orlop.errors import InvalidParameterError, UnsupportedError

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
        InvalidParameterError: the kernel has no AppArmor.
        UnsupportedError: it has; orlop does not load or apply profiles yet.
    """
    if profile in {"", UNCONFINED}:
        return ""
    if not (apparmor_enabled() if enabled is None else enabled):
        raise InvalidParameterError(f"AppArmor is not supported on this host, but the profile is set: {profile}")
    raise UnsupportedError(f"AppArmor profiles are not supported: {profile}")


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
