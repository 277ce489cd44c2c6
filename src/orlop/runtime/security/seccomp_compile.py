"""From an OCI seccomp profile to the classic BPF program that the kernel runs before each system call.

Decisions equal those of libseccomp as runc uses it: the architecture is checked first; the x32 bit of x86_64 is a
table of its own; a rule without conditions beats those with conditions; calls newer than every call that the profile
names answer ENOSYS, so that programs fall back instead of failing (threats.md C5, C6). One decision is stricter:
``socket``'s first argument is compared as the 32-bit int that the kernel makes of it, see :data:`_NARROW`.
"""

from __future__ import annotations

import errno

from orlop.errors import InvalidParameterError, UnsupportedError
from orlop.kernel import bpf
from orlop.kernel.seccomp import (
    DATA_ARCH,
    DATA_ARGS,
    DATA_NR,
    FLAGS,
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_KILL_THREAD,
    RET_LOG,
    RET_TRACE,
    RET_TRAP,
    RET_USER_NOTIF,
    FilterProgram,
)
from orlop.kernel.syscall import MACHINE
from orlop.runtime.security.data.syscalls import TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci.seccomp import Seccomp, SyscallArg, SyscallRule

# include/uapi/linux/audit.h
AUDIT_ARCH = {
    "x86_64": 0xC000_003E,
    "x86": 0x4000_0003,
    "x32": 0xC000_003E,
    "aarch64": 0xC000_00B7,
    "arm": 0x4000_0028,
}
X32_BIT = 0x4000_0000

_OCI_NAMES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
# the native architecture first; others of a profile can never call into this kernel
_FAMILIES = {"x86_64": ("x86_64", "x32", "x86"), "aarch64": ("aarch64", "arm")}

# where all six arguments are compared in full; the rest has 32-bit registers, or ABIs that libseccomp treats so
_WIDE = frozenset({"x86_64", "aarch64"})

_ACTIONS = {
    "SCMP_ACT_KILL": RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": RET_TRAP,
    "SCMP_ACT_ERRNO": RET_ERRNO,
    "SCMP_ACT_TRACE": RET_TRACE,
    "SCMP_ACT_LOG": RET_LOG,
    "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_NOTIFY": RET_USER_NOTIF,
}
_WITH_ERRNO = frozenset({RET_ERRNO, RET_TRACE})
# with these as default, a call nobody has heard of goes where the profile's author said
_PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})

# int family: with compared 64 bits, (1 << 32 | AF_ALG) > 40 would be allowed and then mean AF_ALG (CVE-2026-31431)
_NARROW = frozenset({("socket", 0)})

# x86's multiplexers: the call's number is their first argument (ipc(2), socketcall(2))
_SOCKETCALL = {
    name: number
    for number, name in enumerate(
        (
            *("socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send"),
            *("recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4"),
            *("recvmmsg", "sendmmsg"),
        ),
        start=1,
    )
}
_IPC = {"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14}
_IPC |= {"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24}
_MULTIPLEXED = {
    **{name: ("socketcall", number) for name, number in _SOCKETCALL.items()},
    **{name: ("ipc", number) for name, number in _IPC.items()},
}

_WORD = 0xFFFF_FFFF

# index, value, second value, operator, 64 bits compared
_Condition = tuple[int, int, int, str, bool]
# all conditions of one rule, and what it returns
_Case = tuple[tuple[_Condition, ...], int]
# what a call leads to: a return value, or cases in order with the default last
_Decision = int | tuple[_Case, ...]

_tables: dict[str, dict[str, int]] = {}
_programs: dict[tuple[Seccomp, str], FilterProgram] = {}


def compile_filter(profile: Seccomp, *, machine: str = MACHINE) -> FilterProgram:
    """Return the program of a profile; the same object for an equal profile.

    Raises:
        InvalidParameterError: an unknown action or operator.
        UnsupportedError: no tables for this machine, or a program longer than the kernel takes.
    """
    program = _programs.get((profile, machine))
    if program is None:
        code = assemble_filter(profile, machine=machine)
        flags = _flags(profile)
        try:
            program = FilterProgram(code, flags=flags)
        except ValueError as error:
            raise UnsupportedError(f"seccomp profile is too large: {error}") from None
        _programs[profile, machine] = program
    return program


def _flags(profile: Seccomp) -> int:
    """Return seccomp(2)'s flags; which of them go together is libseccomp's knowledge."""
    names = set(profile.flags)
    if profile.notifies:
        names.add("SECCOMP_FILTER_FLAG_NEW_LISTENER")
        if "SECCOMP_FILTER_FLAG_TSYNC" in names:
            names.add("SECCOMP_FILTER_FLAG_TSYNC_ESRCH")
    else:  # the kernel refuses it without a listener; there is nothing that it could change
        names.discard("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
    return sum(FLAGS[name] for name in names)


def syscall_numbers(architecture: str) -> dict[str, int]:
    """Return the numbers by name of ``x86_64``, ``x86``, ``x32`` (without its bit), ``aarch64`` or ``arm``."""
    table = _tables.get(architecture)
    if table is None:
        table = _tables[architecture] = {}
        number = 0
        for word in TABLES[architecture].split():
            if word.isdecimal():
                number = int(word)
            elif word.startswith("="):
                table[word[1:]] = number - 1
            else:
                table[word] = number
                number += 1
    return table


def assemble_filter(profile: Seccomp, *, machine: str = MACHINE) -> bytes:
    """Return the instructions of a profile; see :func:`compile_filter`."""
    family = _FAMILIES.get(machine)
    if family is None:
        raise UnsupportedError(f"seccomp filters are not supported on this machine: {machine}")
    wanted = {_OCI_NAMES.get(name) for name in profile.architectures} | {machine}
    default = _return_value(profile.default_action, profile.default_errno)
    output = bpf.Assembler()
    starts = {name: bpf.Label() for name in family if name in wanted}
    output.load(DATA_ARCH)
    for name, label in starts.items():
        if name != "x32":
            output.jump_if(bpf.JEQ, AUDIT_ARCH[name], then=label)
    # nothing of this process comes from another architecture but an attempt to get around the tables
    output.give(RET_KILL_PROCESS)
    for name, label in starts.items():
        output.place(label)
        if name != "x32":
            output.load(DATA_NR)
        if name == "x86_64":
            _x32_gate(output, starts.get("x32"), default)
        ranges = _ranges(_decisions(profile, name, default), _beyond(profile, name, default), default, name)
        _search(output, ranges)
    return output.assemble()


def _x32_gate(output: bpf.Assembler, x32: bpf.Label | None, default: int) -> None:
    if x32 is not None:
        output.jump_if(bpf.JGE, X32_BIT, then=x32)
        return
    native, skipped = bpf.Label(), bpf.Label()
    output.jump_if(bpf.JGE, X32_BIT, otherwise=native)
    # -1 is a call that a tracer cancelled (seccomp(2)), not one of x32
    output.jump_if(bpf.JEQ, _WORD, then=skipped)
    output.give(RET_KILL_PROCESS)
    output.place(skipped)
    output.give(default)
    output.place(native)


def _return_value(action: str, code: int | None) -> int:
    value = _ACTIONS.get(action)
    if value is None:
        raise InvalidParameterError(f"unknown seccomp action: {action!r:.80}")
    return value | (errno.EPERM if code is None else code) if value in _WITH_ERRNO else value


def _beyond(profile: Seccomp, architecture: str, default: int) -> tuple[int, int]:
    """Return the first number after all that the profile names, and what happens from there on."""
    numbers = syscall_numbers(architecture)
    last = max((numbers.get(name, -1) for rule in profile.syscalls for name in rule.names), default=-1)
    if profile.default_action in _PERMISSIVE or last < 0:
        return last + 1, default
    return last + 1, RET_ERRNO | errno.ENOSYS


def _decisions(profile: Seccomp, architecture: str, default: int) -> dict[int, _Decision]:
    numbers = syscall_numbers(architecture)
    always: dict[int, int] = {}
    cases: dict[int, list[_Case]] = {}
    for rule in profile.syscalls:
        action = _return_value(rule.action, rule.errno)
        if action == default:
            continue
        for name in rule.names:
            number = numbers.get(name)
            for conditions in _alternatives(rule, name, wide=architecture in _WIDE):
                if number is not None:
                    _add(always, cases, number, conditions, action)
                if architecture == "x86" and name in _MULTIPLEXED:
                    entry, selector = _MULTIPLEXED[name]
                    rest = tuple(condition for condition in conditions if condition[0] != 0)
                    _add(always, cases, numbers[entry], ((0, selector, 0, "SCMP_CMP_EQ", False), *rest), action)
    decisions: dict[int, _Decision] = {number: (*listed, ((), default)) for number, listed in cases.items()}
    return {**decisions, **always}


def _add(
    always: dict[int, int],
    cases: dict[int, list[_Case]],
    number: int,
    conditions: tuple[_Condition, ...],
    action: int,
) -> None:
    if not conditions:
        always.setdefault(number, action)
    elif (conditions, action) not in cases.setdefault(number, []):
        cases[number].append((conditions, action))


def _alternatives(rule: SyscallRule, name: str, *, wide: bool) -> list[tuple[_Condition, ...]]:
    """Return the conjunctions of a rule; conditions on one argument twice are alternatives, as in runc."""
    conditions = tuple(_condition(argument, name, wide=wide) for argument in rule.args)
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [conditions]


def _condition(argument: SyscallArg, name: str, *, wide: bool) -> _Condition:
    wide = wide and (name, argument.index) not in _NARROW
    limit = (1 << 64) - 1 if wide else _WORD
    return argument.index, argument.value & limit, argument.value_two & limit, argument.op, wide


def _ranges(
    decisions: dict[int, _Decision], beyond: tuple[int, int], default: int, architecture: str
) -> list[tuple[int, _Decision]]:
    """Return where each run of equal decisions begins, from 0 upwards."""
    offset = X32_BIT if architecture == "x32" else 0
    ranges: list[tuple[int, _Decision]] = [(offset, default)]

    def extend(start: int, decision: _Decision) -> None:
        if ranges[-1][0] == start:
            ranges.pop()
        if not ranges or ranges[-1][1] != decision:
            ranges.append((start, decision))

    end, after = beyond
    # a multiplexer can have a higher number than all that is named
    for number in sorted(set(decisions) | {number + 1 for number in decisions} | {end}):
        rest = default if number < end else after
        extend(number + offset, decisions.get(number, rest))
    return ranges


def _search(output: bpf.Assembler, ranges: list[tuple[int, _Decision]]) -> None:
    """Write a binary search over ``ranges``; the accumulator holds the number."""
    if len(ranges) == 1:
        _decide(output, ranges[0][1])
        return
    middle = len(ranges) // 2
    upper = bpf.Label()
    output.jump_if(bpf.JGE, ranges[middle][0], then=upper)
    _search(output, ranges[:middle])
    output.place(upper)
    _search(output, ranges[middle:])


def _decide(output: bpf.Assembler, decision: _Decision) -> None:
    if isinstance(decision, int):
        output.give(decision)
        return
    for conditions, action in decision:
        miss = bpf.Label()
        for condition in conditions:
            _test(output, condition, miss)
        output.give(action)
        output.place(miss)


def _test(output: bpf.Assembler, condition: _Condition, miss: bpf.Label) -> None:
    """Write one comparison: falls through when it holds, jumps to ``miss`` when not."""
    index, value, second, operator, wide = condition
    offset = DATA_ARGS + 8 * index
    hit = bpf.Label()
    if operator == "SCMP_CMP_MASKED_EQ":
        if wide:
            output.load(offset + 4)
            output.bit_and(value >> 32)
            output.jump_if(bpf.JEQ, second >> 32, otherwise=miss)
        output.load(offset)
        output.bit_and(value & _WORD)
        output.jump_if(bpf.JEQ, second & _WORD, otherwise=miss)
        return
    comparison = _COMPARISONS.get(operator)
    if comparison is None:
        raise InvalidParameterError(f"unknown seccomp operator: {operator!r:.80}")
    code, holds = comparison
    then, otherwise = (hit, miss) if holds else (miss, hit)
    if wide:
        output.load(offset + 4)
        if code != bpf.JEQ:
            output.jump_if(bpf.JGT, value >> 32, then=then)
        output.jump_if(bpf.JEQ, value >> 32, otherwise=otherwise)
    output.load(offset)
    output.jump_if(code, value & _WORD, then=then, otherwise=otherwise)
    output.place(hit)


# each operator is one of three jumps or its opposite
_COMPARISONS = {
    "SCMP_CMP_EQ": (bpf.JEQ, True),
    "SCMP_CMP_NE": (bpf.JEQ, False),
    "SCMP_CMP_GT": (bpf.JGT, True),
    "SCMP_CMP_LE": (bpf.JGT, False),
    "SCMP_CMP_GE": (bpf.JGE, True),
    "SCMP_CMP_LT": (bpf.JGE, False),
}
