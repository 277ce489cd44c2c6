"""Device programs: their bytes, and what they decide, on a simulator of the few instructions they use."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.ebpf import JMP32_JNE_K, JMP_EXIT, Instruction, assemble
from orlop.runtime.cgroups.controllers.devices import program
from orlop.spec.oci import DeviceRule, default_device_rules, parse_resources, privileged_device_rules

ACCESS = {"m": 1, "r": 2, "w": 4}
KIND = {"b": 1, "c": 2}


def simulate(code: bytes, kind: str, numbers: tuple[int, int], access: str) -> bool:
    """Interpret a program as the kernel would, on one request."""
    context = struct.pack("=III", sum(ACCESS[flag] for flag in access) << 16 | KIND[kind], *numbers)
    registers = [0] * 11
    registers[1] = -1  # the context
    counter = 0
    for _ in range(len(code)):
        opcode, nibbles, offset, immediate = struct.unpack_from("<BBhi", code, counter * 8)
        dst, src = nibbles & 15, nibbles >> 4
        counter += 1
        if opcode == 0x61:
            assert registers[src] == -1
            (registers[dst],) = struct.unpack_from("=I", context, offset)
        elif opcode == 0xBC:
            registers[dst] = registers[src] & 0xFFFFFFFF
        elif opcode == 0x54:
            registers[dst] &= immediate & 0xFFFFFFFF
        elif opcode == 0x74:
            registers[dst] >>= immediate
        elif opcode == 0xB7:
            registers[dst] = immediate
        elif opcode == 0x56:
            counter += offset if registers[dst] != immediate & 0xFFFFFFFF else 0
        elif opcode == 0x5D:
            counter += offset if registers[dst] != registers[src] else 0
        elif opcode == 0x15:
            counter += offset if registers[dst] == immediate else 0
        elif opcode == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(f"unexpected opcode {opcode:#x}")
    raise AssertionError("no exit")


def expected(rules: list[DeviceRule], kind: str, numbers: tuple[int, int], access: str) -> bool:
    """The specification: the last rule that matches decides."""
    for rule in reversed(rules):
        if rule.type not in ("a", kind):
            continue
        if any(want is not None and want != have for want, have in zip((rule.major, rule.minor), numbers, strict=True)):
            continue
        if rule.allow and set(access) <= set(rule.access):
            return True
        if not rule.allow and set(access) & set(rule.access):
            return False
    return False


def test_bytes_of_the_smallest_program():
    """Checked by hand against the instruction set: six loads, return 1."""
    assert program([DeviceRule(allow=True)]).hex() == (
        "6112000000000000"  # r2 = access_type
        "bc23000000000000"  # r3 = r2
        "54020000ffff0000"  # r2 &= 0xffff
        "7403000010000000"  # r3 >>= 16
        "6114040000000000"  # r4 = major
        "6115080000000000"  # r5 = minor
        "b700000001000000"  # r0 = 1
        "9500000000000000"  # exit
    )


def test_no_rules_refuse():
    assert simulate(program([]), "c", (1, 3), "r") is False


@pytest.mark.parametrize(
    ("kind", "numbers", "access", "allowed"),
    [
        ("c", (1, 3), "rw", True),
        ("c", (1, 3), "rwm", True),
        ("c", (136, 77), "rw", True),
        ("c", (10, 229), "rw", False),
        ("c", (10, 200), "m", True),
        ("c", (10, 200), "r", False),
        ("b", (8, 0), "m", True),
        ("b", (8, 0), "r", False),
        ("b", (8, 0), "rm", False),
        ("b", (1, 3), "r", False),
    ],
)
def test_default_rules(kind, numbers, access, allowed):
    rules = parse_resources({"devices": default_device_rules()}).devices
    assert simulate(program(rules), kind, numbers, access) is allowed


def test_privileged():
    rules = parse_resources({"devices": privileged_device_rules()}).devices
    assert simulate(program(rules), "b", (8, 0), "rwm") is True


def test_nothing_follows_a_rule_that_matches_everything():
    """The verifier refuses unreachable instructions."""
    assert program([DeviceRule(allow=True, type="c", major=1), DeviceRule(allow=False)]) == program(
        [DeviceRule(allow=False)]
    )


NUMBERS = st.one_of(st.none(), st.integers(0, 3), st.just(2**32 - 1))
RULES = st.builds(
    DeviceRule,
    allow=st.booleans(),
    type=st.sampled_from("abc"),
    major=NUMBERS,
    minor=NUMBERS,
    access=st.sets(st.sampled_from("rwm"), min_size=1).map("".join),
)


@given(
    st.lists(RULES, max_size=8),
    st.sampled_from("bc"),
    st.tuples(*[st.sampled_from([0, 1, 2, 3, 2**32 - 1])] * 2),
    st.sets(st.sampled_from("rwm"), min_size=1).map("".join),
)
def test_last_matching_rule_decides(rules, kind, numbers, access):
    assert simulate(program(rules), kind, numbers, access) is expected(rules, kind, numbers, access)


def test_jumps_out_of_the_program_are_refused():
    with pytest.raises(ValueError, match="jump out"):
        assemble([Instruction(JMP32_JNE_K, 1, offset=1), Instruction(JMP_EXIT)])
    assemble([Instruction(JMP32_JNE_K, 1, offset=0), Instruction(JMP_EXIT)])
