"""Two independent ways to decide a system call: a BPF interpreter, and libseccomp's own compilation of a profile."""

from __future__ import annotations

import struct
import tempfile

import pyseccomp

AUDIT = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
ARCHES = {
    "x86_64": pyseccomp.Arch.X86_64,
    "x86": pyseccomp.Arch.X86,
    "x32": pyseccomp.Arch.X32,
    "aarch64": pyseccomp.Arch.AARCH64,
    "arm": pyseccomp.Arch.ARM,
}
FAMILIES = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}

_OPERATORS = {
    "SCMP_CMP_NE": pyseccomp.NE,
    "SCMP_CMP_LT": pyseccomp.LT,
    "SCMP_CMP_LE": pyseccomp.LE,
    "SCMP_CMP_EQ": pyseccomp.EQ,
    "SCMP_CMP_GE": pyseccomp.GE,
    "SCMP_CMP_GT": pyseccomp.GT,
    "SCMP_CMP_MASKED_EQ": pyseccomp.MASKED_EQ,
}


def decide(code: bytes, architecture: str, number: int, arguments=(0, 0, 0, 0, 0, 0)) -> int:
    """Run classic BPF over struct seccomp_data as seccomp(2) does; a program that cannot be right raises."""
    if architecture == "x32":
        number |= 0x40000000
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, AUDIT[architecture], 0, *arguments)
    program = list(struct.iter_unpack("<HBBI", code))
    position, accumulator = 0, 0
    for _ in range(len(program)):
        operation, if_true, if_false, value = program[position]
        position += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            assert value % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x05:
            position += value
        else:
            test = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            position += if_true if test else if_false
    raise AssertionError("the program has a loop or no end")


def _action(name: str, code: int | None):
    number = 1 if code is None else code
    return {
        "SCMP_ACT_KILL": pyseccomp.KILL,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
        "SCMP_ACT_ERRNO": pyseccomp.ERRNO(number),
        "SCMP_ACT_TRACE": pyseccomp.TRACE(number),
        "SCMP_ACT_LOG": pyseccomp.LOG,
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_NOTIFY": pyseccomp.NOTIFY,
    }[name]


def known(name: str) -> bool:
    """Whether this libseccomp has heard of a call."""
    return pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != -1


def libseccomp_code(profile, machine: str) -> bytes:
    """Compile a profile with libseccomp, as runc does."""
    default = _action(profile.default_action, profile.default_errno)
    made = pyseccomp.SyscallFilter(default)
    # this machine's own architecture is there from the beginning
    wanted = FAMILIES[machine]
    for name in wanted:
        if not made.exist_arch(ARCHES[name]):
            made.add_arch(ARCHES[name])
    if machine != "x86_64":
        made.remove_arch(pyseccomp.Arch.X86_64)
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    for rule in profile.syscalls:
        action = _action(rule.action, rule.errno)
        if action == default:
            continue
        for name in rule.names:
            arguments = [
                pyseccomp.Arg(item.index, _OPERATORS[item.op], item.value, item.value_two)
                if item.op == "SCMP_CMP_MASKED_EQ"
                else pyseccomp.Arg(item.index, _OPERATORS[item.op], item.value)
                for item in rule.args
            ]
            made.add_rule(action, name, *arguments)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()
