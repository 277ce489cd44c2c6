from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seccomp_oracle
from orlop.kernel import bpf


def run(code, number):
    return seccomp_oracle.decide(code, "x86_64", number)


@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 3))
def test_branches_of_any_length(true_gap, false_gap, number):
    """Both branches of one comparison, near or far, in both orders."""
    made = bpf.Assembler()
    then, otherwise, end = bpf.Label(), bpf.Label(), bpf.Label()
    made.load(0)
    made.jump_if(bpf.JEQ, 2, then=then, otherwise=otherwise)
    for _ in range(false_gap):
        made.give(99)
    made.place(otherwise)
    made.jump(end)
    for _ in range(true_gap):
        made.give(98)
    made.place(then)
    made.give(1)
    made.place(end)
    made.give(0)
    assert run(made.assemble(), number) == (1 if number == 2 else 0)


def test_chains_whose_stretching_makes_others_too_long():
    made = bpf.Assembler()
    far = [bpf.Label() for _ in range(200)]
    made.load(0)
    for value, label in enumerate(far):
        made.jump_if(bpf.JEQ, value, then=label)
    made.give(1000)
    for value, label in enumerate(far):
        made.place(label)
        made.give(value)
    code = made.assemble()
    assert [run(code, number) for number in (0, 1, 100, 199, 200)] == [0, 1, 100, 199, 1000]


def test_backward_and_unplaced_jumps_are_refused():
    made = bpf.Assembler()
    label = bpf.Label()
    made.place(label)
    made.load(0)
    made.jump(label)
    with pytest.raises(ValueError, match="backwards or nowhere"):
        made.assemble()
    nowhere = bpf.Assembler()
    nowhere.jump_if(bpf.JGE, 1, then=bpf.Label())
    with pytest.raises(ValueError, match="backwards or nowhere"):
        nowhere.assemble()
