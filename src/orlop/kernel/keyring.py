"""keyctl(2): only what keeps a container away from the daemon's keys."""

from __future__ import annotations

from orlop.kernel.syscall import call

_KEYCTL_JOIN_SESSION_KEYRING = 1


def join_session_keyring(name: bytes | None = None) -> int:
    """Leave the inherited session keyring for a new one, and return its serial number (threats.md C7).

    Args:
        name: join or make the keyring of this name; None makes an anonymous one.

    Raises:
        SyscallError: EDQUOT when the user's quota of keys is used up (keyrings(7)); ENOSYS on a kernel without
            keyrings, where there is nothing to leave.
    """
    return call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name, shown=("KEYCTL_JOIN_SESSION_KEYRING", name))
