"""keyctl(2): only what keeps a container away from the daemon's keys."""

from __future__ import annotations

import errno

from orlop.errors import UnavailableError
from orlop.kernel.syscall import SyscallError, call

_KEYCTL_JOIN_SESSION_KEYRING = 1


def join_session_keyring(name: bytes | None = None) -> int:
    """Leave the inherited session keyring for a new one, and return its serial number (threats.md C7).

    Args:
        name: join or make the keyring of this name; None makes an anonymous one.

    Raises:
        UnavailableError: the user's key quota is used up (/proc/sys/kernel/keys/maxkeys, root_maxkeys).
        SyscallError: any other failure; ENOSYS on a kernel without keyrings, where there is nothing to leave.
    """
    try:
        return call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name, shown=("KEYCTL_JOIN_SESSION_KEYRING", name))
    except SyscallError as error:
        if error.errno == errno.EDQUOT:
            raise UnavailableError(f"could not create session key: {error.strerror}".lower()) from error
        raise
