"""rt_sigaction(2) for the signals that libc keeps to itself."""

from __future__ import annotations

from orlop.kernel.syscall import call

# SIGCANCEL and SIGSETXID of glibc (nptl); its sigaction(3) refuses them
RESERVED = (32, 33)

# struct kernel_sigaction with SIG_DFL, no flags, no restorer, empty mask: at most 32 bytes on 64-bit machines
_DEFAULT = bytes(32)
_MASK_BYTES = 8


def reset_reserved_signals() -> None:
    """Give libc's own signals their default action.

    glibc's posix_spawn(3) leaves them ignored in the new program, which every descendant would inherit.
    """
    for number in RESERVED:
        call("rt_sigaction", number, _DEFAULT, None, _MASK_BYTES)
