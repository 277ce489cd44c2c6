"""The last steps before execve: giving up what the program must not have.

:func:`prepare` does all that allocates, reads or may fail for the configuration's sake, outside the container's root.
:func:`apply_privileges` then makes system calls only.
"""

from __future__ import annotations

import os

from orlop.errors import CommandNotExecutableError, InvalidParameterError
from orlop.kernel import capability, prctl
from orlop.kernel.process import close_all_but
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.kernel.seccomp import FilterProgram
    from orlop.runtime.users import Identity
    from orlop.spec.oci.process import Process
    from orlop.spec.oci.seccomp import Seccomp

DEFAULT_UMASK = 0o022


@dataclass(frozen=True)
class PreparedPrivileges:
    """What :func:`apply_privileges` leaves to the program.

    Attributes:
        dropped: capability numbers to take out of the bounding set.
        sets: effective, permitted and inheritable capabilities when the user is root.
        ambient: capability numbers; they are what a user other than root keeps.
        no_new_privileges: set no_new_privs.
        program: the seccomp filter, or None.
        umask: file mode creation mask.
        listens: the filter has a listener, see :mod:`orlop.runtime.seccomp_listener`.
        keeps_groups: setgroups(2) is denied in this user namespace, and not called for the primary group alone.
    """

    dropped: tuple[int, ...]
    sets: capability.CapabilitySets
    ambient: tuple[int, ...]
    no_new_privileges: bool
    program: FilterProgram | None
    umask: int
    listens: bool = False
    keeps_groups: bool = False


def preload() -> None:
    """Compile Docker's default filter and read the kernel's limits; once, in the spawner, so that forks inherit it."""
    from orlop.runtime.security.capabilities import DEFAULT
    from orlop.runtime.security.seccomp_compile import compile_filter
    from orlop.runtime.security.seccomp_profile import default_seccomp
    from orlop.spec.oci.seccomp import parse_seccomp

    capability.last_cap()
    profile = parse_seccomp(default_seccomp(DEFAULT))
    if profile is not None:
        compile_filter(profile)


def prepare(process: Process, seccomp: Seccomp | None = None, *, rootless: bool = False) -> PreparedPrivileges:
    """Work out the sets and compile the filter; call it before entering the container's root.

    Capabilities that the runtime itself does not have cannot be granted and are left out (runtime-spec, capabilities).
    An ordinary user has none, and all of them in the user namespace that he makes (``rootless``).

    Raises:
        InvalidParameterError: a capability or a seccomp action that does not exist, a label without its kernel module.
        UnsupportedError: the filter cannot be made on this machine; a label.
    """
    if process.apparmor_profile or process.selinux_label:
        from orlop.runtime.security.lsm import check_apparmor, check_selinux

        check_apparmor(process.apparmor_profile)
        check_selinux(process.selinux_label)
    asked = process.capabilities
    numbers = range(capability.last_cap() + 1)
    held = (1 << len(numbers)) - 1 if rootless else capability.capget().permitted
    masks: dict[str, int] = {}
    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        names = getattr(asked, kind) if asked is not None else ()
        try:
            masks[kind] = capability.mask(names) & held
        except KeyError as error:
            raise InvalidParameterError(f"unknown capability: {error.args[0]}") from None
    return PreparedPrivileges(
        dropped=tuple(number for number in numbers if not masks["bounding"] >> number & 1),
        sets=capability.CapabilitySets(masks["effective"], masks["permitted"], masks["inheritable"]),
        ambient=tuple(number for number in numbers if masks["ambient"] >> number & 1),
        no_new_privileges=process.no_new_privileges,
        program=_compile(seccomp) if seccomp is not None else None,
        umask=DEFAULT_UMASK if process.user.umask is None else process.user.umask,
        listens=seccomp is not None and seccomp.notifies,
    )


def _compile(seccomp: Seccomp) -> FilterProgram:
    from orlop.runtime.security.seccomp_compile import compile_filter

    return compile_filter(seccomp)


def apply_privileges(prepared: PreparedPrivileges, identity: Identity, cwd: bytes, *, keep: Sequence[int] = ()) -> None:
    """Become the container's user with its capabilities and filter; afterwards only execve may follow.

    Order: without no_new_privs the filter first, while CAP_SYS_ADMIN is there; bounding set, keepcaps, groups, gid,
    uid, working directory and the check that it is inside the root (CVE-2024-21626), capabilities, no_new_privs,
    close all descriptors; with no_new_privs the filter as the last call.

    Args:
        prepared: from :func:`prepare`.
        identity: from ``orlop.runtime.users``.
        cwd: working directory in the container.
        keep: descriptors above 2 that stay open; they must be close-on-exec and no directories.

    Raises:
        SyscallError, OSError: the kernel refused a step. The process must end then.
        CommandNotExecutableError, InvalidParameterError: the working directory cannot be entered.
    """
    if prepared.program is not None and not prepared.no_new_privileges:
        prepared.program.install()
    for number in prepared.dropped:
        prctl.capbset_drop(number)
    prctl.set_keepcaps(True)
    entered = _enter(cwd)
    if not prepared.keeps_groups or {*identity.groups} - {identity.gid}:
        os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    # a change of ids has set it to fs.suid_dumpable: the heap of this interpreter is not for the container to read
    prctl.set_dumpable(0)
    if not entered:
        # only the user may enter, as on a network file system that distrusts root
        _enter(cwd, last=True)
    _check_inside(cwd)
    prctl.set_keepcaps(False)
    _set_capabilities(prepared, identity)
    os.umask(prepared.umask)
    if prepared.no_new_privileges:
        prctl.set_no_new_privs()
    close_all_but(keep)
    if prepared.program is not None and prepared.no_new_privileges:
        prepared.program.install()


def _set_capabilities(prepared: PreparedPrivileges, identity: Identity) -> None:
    sets = prepared.sets
    if identity.uid != 0:
        # what execve makes of it for a user without ambient capabilities (CVE-2016-8867)
        kept = sum(1 << number for number in prepared.ambient)
        sets = capability.CapabilitySets(sets.effective & kept, sets.permitted & kept, sets.inheritable)
    # inheritable needs to be within the bounding set, which was cut before
    capability.capset(sets)
    prctl.cap_ambient_clear_all()
    for number in prepared.ambient:
        prctl.cap_ambient_raise(number)


def _enter(cwd: bytes, *, last: bool = False) -> bool:
    try:
        os.chdir(cwd)
    except OSError as error:
        if isinstance(error, PermissionError) and not last:
            return False
        shown = cwd.decode(errors="backslashreplace")
        message = f'chdir to cwd ("{shown}") set in config.json failed: {(error.strerror or "").lower()}'
        kind = CommandNotExecutableError if isinstance(error, PermissionError) else InvalidParameterError
        raise kind(message) from None
    return True


def _check_inside(cwd: bytes) -> None:
    try:
        # glibc refuses what the kernel calls "(unreachable)"
        inside = os.getcwdb().startswith(b"/")
    except OSError:
        inside = False
    if not inside:
        shown = cwd.decode(errors="backslashreplace")
        raise InvalidParameterError(
            f"current working directory is outside of container mount namespace root -- possible container breakout "
            f"detected: {shown}"
        )
