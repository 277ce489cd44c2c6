"""bpf(2): the device programs of cgroup v2, and the few instructions they are made of.

cgroup v2 has no device files; a program of type BPF_PROG_TYPE_CGROUP_DEVICE attached to the cgroup decides each
``open`` and ``mknod`` (Documentation/admin-guide/cgroup-v2.rst, "Device controller"). The instruction format is that of
Documentation/bpf/standardization/instruction-set.rst: eight bytes of opcode, registers, offset and immediate.
"""

from __future__ import annotations

import struct

from orlop.kernel import foreign as ctypes
from orlop.kernel.syscall import call
from orlop.spec.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
# struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor
BPF_DEVCG_ACC_MKNOD = 1
BPF_DEVCG_ACC_READ = 2
BPF_DEVCG_ACC_WRITE = 4
BPF_DEVCG_DEV_BLOCK = 1
BPF_DEVCG_DEV_CHAR = 2
CTX_ACCESS_TYPE = 0
CTX_MAJOR = 4
CTX_MINOR = 8

# opcodes: class | source | operation
LDX_MEM_W = 0x61
ALU_AND_K = 0x54
ALU_RSH_K = 0x74
ALU_MOV_X = 0xBC
ALU64_MOV_K = 0xB7
JMP_JNE_K = 0x55
JMP32_JNE_K = 0x56
JMP_JEQ_K = 0x15
JMP_JNE_X = 0x5D
JMP_EXIT = 0x95

_CLASS = 0x07
_JUMP_CLASSES = (0x05, 0x06)
_INSTRUCTION = struct.Struct("<BBhi")
# A program this long would not be one of ours; the kernel's own bound for privileged programs is a million.
MAX_INSTRUCTIONS = 65536
MAX_PROGRAMS = 64


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``offset`` is a load's displacement, or how many instructions a taken jump leaves out."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    immediate: int = 0

    def encode(self) -> bytes:
        """Return its eight bytes."""
        signed = self.immediate - (1 << 32) if self.immediate >= 1 << 31 else self.immediate
        return _INSTRUCTION.pack(self.opcode, self.dst | self.src << 4, self.offset, signed)


def assemble(instructions: Sequence[Instruction]) -> bytes:
    """Return a program's bytes. Raises ValueError when a jump leaves the program or it is too long."""
    if len(instructions) > MAX_INSTRUCTIONS:
        raise ValueError(f"program too long: {len(instructions)} instructions")
    for index, instruction in enumerate(instructions):
        jumps = instruction.opcode & _CLASS in _JUMP_CLASSES and instruction.opcode != JMP_EXIT
        if jumps and not 0 < index + 1 + instruction.offset < len(instructions):
            raise ValueError(f"jump out of the program at {index}")
    return b"".join(instruction.encode() for instruction in instructions)


def _bpf(command: int, attributes: bytes, shown: Sequence[object]) -> int:
    # the kernel writes into the attribute for some commands, so it is a buffer of our own
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return call("bpf", command, ctypes.byref(buffer), len(attributes), shown=shown)


def prog_load_cgroup_device(program: bytes) -> int:
    """Load a device program and return its (close-on-exec) descriptor. Raises SyscallError."""
    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,  # log_level
        0,  # log_size
        0,  # log_buf
        0,  # kern_version
        0,  # prog_flags
        b"orlop_devices",
        0,  # prog_ifindex
        BPF_CGROUP_DEVICE,  # expected_attach_type
    )
    return _bpf(BPF_PROG_LOAD, attributes, ("BPF_PROG_LOAD", "BPF_PROG_TYPE_CGROUP_DEVICE", len(program) // 8))


def prog_attach_cgroup_device(cgroup_fd: int, prog_fd: int) -> None:
    """Attach a loaded program to a cgroup v2 directory. Raises SyscallError."""
    attributes = struct.pack("=IIII", cgroup_fd, prog_fd, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI)
    _bpf(BPF_PROG_ATTACH, attributes, ("BPF_PROG_ATTACH", cgroup_fd, prog_fd, "BPF_CGROUP_DEVICE"))


def prog_detach_cgroup_device(cgroup_fd: int, prog_fd: int) -> None:
    """Detach a program from a cgroup. Raises SyscallError."""
    attributes = struct.pack("=IIII", cgroup_fd, prog_fd, BPF_CGROUP_DEVICE, 0)
    _bpf(BPF_PROG_DETACH, attributes, ("BPF_PROG_DETACH", cgroup_fd, prog_fd, "BPF_CGROUP_DEVICE"))


def prog_query_cgroup_device(cgroup_fd: int) -> list[int]:
    """Return the ids of the device programs attached to exactly this cgroup. Raises SyscallError."""
    ids = (ctypes.c_uint32 * MAX_PROGRAMS)()
    query = ctypes.create_string_buffer(
        struct.pack("=IIIIQII", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), MAX_PROGRAMS, 0), 32
    )
    call("bpf", BPF_PROG_QUERY, ctypes.byref(query), 32, shown=("BPF_PROG_QUERY", cgroup_fd, "BPF_CGROUP_DEVICE"))
    (count,) = struct.unpack_from("=I", query.raw, 24)
    return list(ids[:count])


def prog_get_fd_by_id(identity: int) -> int:
    """Return a descriptor of the loaded program with this id. Raises SyscallError."""
    attributes = struct.pack("=III", identity, 0, 0)
    return _bpf(BPF_PROG_GET_FD_BY_ID, attributes, ("BPF_PROG_GET_FD_BY_ID", identity))
