"""The engine's AppArmor profile, and what the kernel has loaded.

The profile is Docker's in effect and has its name, so that ``--security-opt apparmor=docker-default`` and what reads
``docker inspect`` mean the same; one that a Docker on this machine has loaded is used as it is.
"""

from __future__ import annotations

import contextlib

from orlop.errors import InvalidParameterError, OrlopError, UnavailableError
from orlop.primitives.commands import find, run
from orlop.runtime.security.lsm import UNCONFINED, apparmor_enabled

DEFAULT_PROFILE = "docker-default"
_LOADED = "/sys/kernel/security/apparmor/profiles"
_PARSER = "apparmor_parser"

# Everything that namespaces, capabilities and seccomp leave is allowed, but for what is the machine's and not the
# container's. A path is denied character by character where all but one name is meant: there is no "all but" for deny.
_PROFILE = """\
profile docker-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  umount,

  # the engine and the administrator are not confined; containers see each other's processes by a namespace only
  signal (receive) peer=unconfined,
  signal (send, receive) peer=docker-default,
  ptrace (trace, tracedby, read, readby) peer=docker-default,

  deny mount,

  # of /proc the processes' directories, and of /proc/sys kernel/shm*
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # of /sys the cgroups
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
"""


def default_profile() -> str:
    """Return the profile of containers that name none: empty without AppArmor, "unconfined" if nothing can load it."""
    if not apparmor_enabled():
        return ""
    if is_loaded(DEFAULT_PROFILE):
        return DEFAULT_PROFILE
    with contextlib.suppress(UnavailableError):
        find(_PARSER)
        return DEFAULT_PROFILE
    return UNCONFINED


def is_loaded(profile: str) -> bool | None:
    """Whether the kernel has a profile; None when it does not say (no securityfs)."""
    try:
        with open(_LOADED, encoding="utf-8", errors="replace") as file:
            return any(line.rpartition(" (")[0] == profile for line in file)
    except OSError:
        return None


def require_loaded(profile: str) -> None:
    """Check a profile at creation; at the start the kernel has the last word.

    Raises:
        InvalidParameterError: the kernel does not have it.
    """
    if profile in {"", UNCONFINED, DEFAULT_PROFILE}:  # ours is loaded when it is needed
        return
    if is_loaded(profile) is False:
        raise InvalidParameterError(f"AppArmor profile is not loaded: {profile}")


def load_default_profile() -> None:
    """Load the default profile unless it is there; blocks for a tenth of a second when it is not.

    Raises:
        OrlopError: the parser is missing or refuses it.
    """
    if is_loaded(DEFAULT_PROFILE):
        return
    try:
        # no cache: it is compiled once a boot, and a stale one would be another profile
        run([find(_PARSER), "--replace", "--skip-cache"], stdin=_PROFILE.encode()).check()
    except OrlopError as error:
        raise type(error)(
            f"AppArmor enabled on system but the {DEFAULT_PROFILE} profile could not be loaded: {error}"
        ) from error
