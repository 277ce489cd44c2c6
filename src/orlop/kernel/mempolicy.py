"""set_mempolicy(2): on which memory nodes a thread's pages are allocated."""

from __future__ import annotations

from orlop.kernel.syscall import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# include/uapi/linux/mempolicy.h
MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_WORD_BITS = 64


def set_mempolicy(mode: int, nodes: Collection[int] = ()) -> None:
    """set_mempolicy(2) of this thread, inherited by its children and kept over execve.

    Raises:
        SyscallError: ENOSYS on a kernel without NUMA; EINVAL for a node that is not there.
    """
    mask = sum(1 << node for node in set(nodes))
    words = max(1, -(-mask.bit_length() // _WORD_BITS))
    # the kernel reads one bit less than it is told of
    raw = mask.to_bytes(words * _WORD_BITS // 8, "little") if mask else None
    call("set_mempolicy", mode, raw, words * _WORD_BITS + 1 if mask else 0, shown=(mode, sorted(nodes)))
