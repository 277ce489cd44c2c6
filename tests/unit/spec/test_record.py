"""orlop.spec.record behaves as the standard library's dataclasses where the runtime uses them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from orlop.spec import record


def define(module):
    @module.dataclass(frozen=True)
    class Value:
        a: int
        b: str = "x"
        c: list[int] = module.field(default_factory=list)
        kind: ClassVar[str] = "value"

    return Value


@pytest.fixture(params=[record, dataclasses], ids=["record", "dataclasses"])
def module(request):
    return request.param


def test_construction(module):
    cls = define(module)
    value = cls(1, c=[2])
    assert (value.a, value.b, value.c, value.kind) == (1, "x", [2], "value")
    assert repr(value).endswith("Value(a=1, b='x', c=[2])")
    assert cls(1).c is not cls(1).c

    for wrong in ((), (1, 2, 3, 4)):
        with pytest.raises(TypeError):
            cls(*wrong)
    with pytest.raises(TypeError):
        cls(1, d=2)
    with pytest.raises(TypeError):
        cls(1, a=2)


def test_frozen(module):
    value = define(module)(1)
    with pytest.raises(AttributeError):
        value.a = 2
    with pytest.raises(AttributeError):
        del value.a
    with pytest.raises(AttributeError):
        value.other = 2


def test_defaults_of_a_class(module):
    cls = define(module)
    assert cls.b == "x"
    cls(1)
    assert not hasattr(cls, "c")  # what makes a default is none


def test_undecorated_subclass(module):
    class Beneath(define(module)):
        pass

    assert Beneath(1, "y") == Beneath(1, "y")
    assert repr(Beneath(1)).endswith("(a=1, b='x', c=[])")
    assert module.replace(Beneath(1), a=3).a == 3


def test_equality_and_hash(module):
    one, two = define(module), define(module)
    assert one(1) == one(1)
    assert one(1) != one(2)
    assert one(1) != two(1)
    with pytest.raises(TypeError):
        hash(one(1))  # of the list inside

    @module.dataclass(frozen=True)
    class Hashable:
        a: int

    assert len({Hashable(1), Hashable(1), Hashable(2)}) == 2

    @module.dataclass
    class Changing:
        a: int = 5

    changing = Changing()
    changing.a = 6
    assert changing == Changing(6)
    assert Changing.a == 5
    with pytest.raises(TypeError):
        hash(changing)


def test_replace(module):
    value = define(module)(1)
    assert module.replace(value, b="y") == define(module)(1, "y") or module.replace(value, b="y").b == "y"
    with pytest.raises(TypeError):
        module.replace(value, z=1)


def test_inheritance_and_post_init(module):
    @module.dataclass
    class Base:
        a: int
        seen: int = 0

        def __post_init__(self):
            self.seen = self.a + 1

    @module.dataclass
    class Derived(Base):
        b: int = 7

    derived = Derived(1)
    assert (derived.a, derived.b, derived.seen) == (1, 7, 2)
    assert Base(4).seen == 5
