"""Which devices may be opened and made.

v1: Documentation/admin-guide/cgroup-v1/devices.rst, text in devices.allow and devices.deny.
v2: an eBPF program (``kernel.ebpf``).

The two are not the same: a v2 program takes the last rule that matches; v1 keeps a default and a list of exceptions,
and cannot take a device out of a wider exception. Rules that would come out differently are refused, not weakened.
"""

from __future__ import annotations

from orlop.errors import UnsupportedError
from orlop.kernel import ebpf
from orlop.kernel.ebpf import Instruction
from orlop.runtime.cgroups.controllers.write import Write
from orlop.spec.oci import DeviceRule
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.spec.oci import Resources

_ACCESS = {"r": ebpf.BPF_DEVCG_ACC_READ, "w": ebpf.BPF_DEVCG_ACC_WRITE, "m": ebpf.BPF_DEVCG_ACC_MKNOD}
_TYPES = {"b": ebpf.BPF_DEVCG_DEV_BLOCK, "c": ebpf.BPF_DEVCG_DEV_CHAR}
# registers of the program: context, type, access, major, minor, scratch
_CTX, _TYPE, _ASKED, _MAJOR, _MINOR, _SCRATCH = 1, 2, 3, 4, 5, 6


def v1(resources: Resources) -> list[Write]:
    """Return the writes, in the rules' order.

    Raises:
        UnsupportedError: a rule takes something out of an earlier, wider one of the opposite kind.
    """
    writes = []
    exceptions: list[DeviceRule] = []
    allowed_by_default = True
    for rule in _expanded(resources.devices):
        file = "devices.allow" if rule.allow else "devices.deny"
        if rule.type == "a":
            allowed_by_default, exceptions = rule.allow, []
            writes.append(Write("devices", file, "a"))
            continue
        line = f"{rule.type} {_number(rule.major)}:{_number(rule.minor)} {rule.access}"
        if rule.allow == allowed_by_default:
            # gives back: the kernel only removes an exception with the same numbers
            for other in exceptions:
                if _wider(other, rule):
                    raise UnsupportedError(f"device rule cannot be expressed on cgroup v1: {file} {line}")
        else:
            exceptions.append(rule)
        writes.append(Write("devices", file, line))
    return writes


def _expanded(rules: Iterable[DeviceRule]) -> Iterable[DeviceRule]:
    """v1 reads ``a`` as "everything" whatever follows it, so a narrower rule for both types becomes two."""
    for rule in rules:
        if rule.type == "a" and (rule.access != "rwm" or rule.major is not None or rule.minor is not None):
            for kind in ("b", "c"):
                yield DeviceRule(rule.allow, kind, rule.major, rule.minor, rule.access)
        else:
            yield rule


def _wider(rule: DeviceRule, than: DeviceRule) -> bool:
    """Whether ``rule`` still covers something of ``than`` after an exception with ``than``'s numbers is removed."""
    if rule.type != than.type or not set(rule.access) & set(than.access):
        return False
    same = (rule.major, rule.minor) == (than.major, than.minor)
    overlaps = all(
        one is None or other is None or one == other
        for one, other in ((rule.major, than.major), (rule.minor, than.minor))
    )
    return overlaps and not same


def _number(value: int | None) -> str:
    return "*" if value is None else str(value)


def program(rules: Iterable[DeviceRule]) -> bytes:
    """Return the v2 program: the last rule that matches decides, rules are tested backwards, no match refuses.

    A request may ask for several accesses at once (``rw``). A rule that allows must cover them all; a rule that
    refuses needs to hit only one.
    """
    code = [
        Instruction(ebpf.LDX_MEM_W, _TYPE, _CTX, ebpf.CTX_ACCESS_TYPE),
        Instruction(ebpf.ALU_MOV_X, _ASKED, _TYPE),
        Instruction(ebpf.ALU_AND_K, _TYPE, immediate=0xFFFF),
        Instruction(ebpf.ALU_RSH_K, _ASKED, immediate=16),
        Instruction(ebpf.LDX_MEM_W, _MAJOR, _CTX, ebpf.CTX_MAJOR),
        Instruction(ebpf.LDX_MEM_W, _MINOR, _CTX, ebpf.CTX_MINOR),
    ]
    for rule in reversed(list(rules)):
        block = _rule(rule)
        code.extend(block)
        if len(block) == 2:
            break  # it matches everything: whatever came before it is dead, and dead code is refused by the verifier
    else:
        code.extend(_verdict(allow=False))
    return ebpf.assemble(code)


def _rule(rule: DeviceRule) -> list[Instruction]:
    """Return the test of one rule and its verdict; each failing test jumps behind the verdict."""
    tests: list[Instruction] = []
    if rule.type != "a":
        tests.append(Instruction(ebpf.JMP32_JNE_K, _TYPE, immediate=_TYPES[rule.type]))
    access = sum(_ACCESS[flag] for flag in rule.access)
    if access != sum(_ACCESS.values()):
        tests.append(Instruction(ebpf.ALU_MOV_X, _SCRATCH, _ASKED))
        tests.append(Instruction(ebpf.ALU_AND_K, _SCRATCH, immediate=access))
        if rule.allow:
            tests.append(Instruction(ebpf.JMP_JNE_X, _SCRATCH, _ASKED))
        else:
            tests.append(Instruction(ebpf.JMP_JEQ_K, _SCRATCH, immediate=0))
    if rule.major is not None:
        tests.append(Instruction(ebpf.JMP32_JNE_K, _MAJOR, immediate=rule.major))
    if rule.minor is not None:
        tests.append(Instruction(ebpf.JMP32_JNE_K, _MINOR, immediate=rule.minor))
    verdict = _verdict(allow=rule.allow)
    length = len(tests) + len(verdict)
    return [
        replace(test, offset=length - index - 1) if test.opcode in _JUMPS else test for index, test in enumerate(tests)
    ] + verdict


_JUMPS = frozenset({ebpf.JMP32_JNE_K, ebpf.JMP_JNE_X, ebpf.JMP_JEQ_K})


def _verdict(*, allow: bool) -> list[Instruction]:
    return [Instruction(ebpf.ALU64_MOV_K, 0, immediate=int(allow)), Instruction(ebpf.JMP_EXIT)]
