r"""Regular expressions of filters (``docker ps -f name=^web-[0-9]+$``), matched in linear time (threats.md J9).

Docker hands them to Go's regexp, which never goes back. Python's ``re`` does, so this is an automaton of its own: a
pattern becomes a program, and all of its states walk over the text together. What is known: literals, ``.``, classes,
``\d \w \s`` and their opposites, groups, ``|``, ``* + ? {m,n}`` (also with ``?`` behind), ``^ $``. As with Docker, a
pattern that is none matches nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

_LONGEST = 512
_MOST_STEPS = 2000
_DEEPEST = 20
_SPECIAL = frozenset("\\.+*?()|[]{}^$")
_DIGIT = frozenset("0123456789")
_WORD = _DIGIT | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE = frozenset(" \t\n\f\r")
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}

Test: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _One:
    """A step that takes one character."""

    test: Test


@dataclass(frozen=True, slots=True)
class _Split:
    """Go on at both distances from here."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class _Edge:
    """Go on only at the start, or the end, of the text."""

    start: bool


_Program: TypeAlias = list["_One | _Split | _Edge"]


def name_matches(pattern: str, text: str) -> bool:
    """Whether the pattern is the text, or is found in it."""
    if pattern == text:
        return True
    program = _compiled(pattern)
    return program is not None and _found(program, text)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> _Program | None:
    try:
        return _Parser(pattern).program()
    except ValueError:
        return None


def _found(program: _Program, text: str) -> bool:
    states: set[int] = set()
    for position in range(len(text) + 1):
        at_end = position == len(text)
        states.add(0)  # a match may begin everywhere
        states = _spread(program, states, at_start=position == 0, at_end=at_end)
        if len(program) in states:
            return True
        if not at_end:
            following = set()
            for index in states:
                step = program[index]
                if isinstance(step, _One) and step.test(text[position]):
                    following.add(index + 1)
            states = following
    return False


def _spread(program: _Program, states: set[int], *, at_start: bool, at_end: bool) -> set[int]:
    """Return the states and all that are reached from them without a character."""
    reached: set[int] = set()
    waiting = list(states)
    while waiting:
        index = waiting.pop()
        if index in reached:
            continue
        reached.add(index)
        step = program[index] if index < len(program) else None
        if isinstance(step, _Split):
            waiting += (index + step.first, index + step.second)
        elif isinstance(step, _Edge) and (at_start if step.start else at_end):
            waiting.append(index + 1)
    return reached


class _Parser:
    """Turns a pattern into a program. Raises ValueError: it is none, or too long."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        self._text = text
        self._at = 0
        self._depth = 0

    def program(self) -> _Program:
        program = self._choice()
        if self._at < len(self._text):
            raise ValueError("unexpected )")
        return program

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        taken = self._peek()
        if not taken:
            raise ValueError("unexpected end")
        self._at += 1
        return taken

    def _choice(self) -> _Program:
        branch = self._sequence()
        while self._peek() == "|":
            self._take()
            other = self._sequence()
            over = _Split(len(other) + 1, len(other) + 1)
            branch = [_Split(1, len(branch) + 2), *branch, over, *other]
        return branch

    def _sequence(self) -> _Program:
        steps: _Program = []
        while self._peek() not in ("", "|", ")"):
            steps += self._repeated(self._atom())
            if len(steps) > _MOST_STEPS:
                raise ValueError("too long")
        return steps

    def _atom(self) -> _Program:
        match self._take():
            case "(":
                return self._group()
            case "[":
                return [_One(self._class())]
            case ".":
                return [_One(lambda character: character != "\n")]
            case "^":
                return [_Edge(start=True)]
            case "$":
                return [_Edge(start=False)]
            case "\\":
                return [_One(_member(*self._escape()))]
            case "*" | "+" | "?":
                raise ValueError("nothing to repeat")
            case literal:
                return [_One(_member(frozenset(literal)))]

    def _group(self) -> _Program:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("too deep")
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            raise ValueError("unknown group")
        inner = self._choice()
        if self._take() != ")":
            raise ValueError("missing )")
        self._depth -= 1
        return inner

    def _escape(self) -> tuple[frozenset[str], bool]:
        letter = self._take()
        if letter.lower() in _CLASSES:
            return _CLASSES[letter.lower()], letter.isupper()
        if letter in _WORD or not letter.isascii():
            raise ValueError("unknown escape")
        return frozenset(letter), False

    def _class(self) -> Test:
        negated = self._peek() == "^"
        if negated:
            self._take()
        tests: list[Test] = []
        while self._peek() != "]" or not tests:
            tests.append(self._range())
        self._take()
        return lambda character: any(test(character) for test in tests) != negated

    def _range(self) -> Test:
        first = self._take()
        if first == "\\":
            members, opposite = self._escape()
            if len(members) > 1 or opposite:
                return _member(members, opposite)
            (first,) = members
        elif first == "[" and self._peek() == ":":
            raise ValueError("named classes are not known")
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("", "]"):
            return _member(frozenset(first))
        self._take()
        last = self._take()
        if last == "\\":
            members, opposite = self._escape()
            if len(members) > 1 or opposite:
                raise ValueError("bad range")
            (last,) = members
        if last < first:
            raise ValueError("bad range")
        return lambda character: first <= character <= last

    def _repeated(self, steps: _Program) -> _Program:
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek(), (1, 1))
        if self._peek() in ("*", "+", "?"):
            self._take()
        elif (bounds := self._bounds()) is not None:
            least, most = bounds
        else:
            return steps
        if self._peek() == "?":  # as little as possible: whether there is a match is the same
            self._take()
        if self._peek() in ("*", "+", "?"):
            raise ValueError("nothing to repeat")
        if len(steps) * max(least, most or 0, 1) > _MOST_STEPS:
            raise ValueError("too long")
        if most is None:
            tail: _Program = [_Split(1, len(steps) + 2), *steps, _Split(-len(steps) - 1, -len(steps) - 1)]
        else:
            tail = []
            for _ in range(most - least):
                tail = [_Split(1, len(steps) + len(tail) + 1), *steps, *tail]
        return [*(steps * least), *tail]

    def _bounds(self) -> tuple[int, int | None] | None:
        """Return m and n of ``{m}``, ``{m,}``, ``{m,n}``; None, and nothing is taken, where it is no such thing."""
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not _is_number(low) or (high and not _is_number(high)):
            return None
        self._at = end + 1
        least = int(low)
        most = least if not comma else int(high) if high else None
        if most is not None and most < least:
            raise ValueError("bad bounds")
        return least, most


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def _member(members: frozenset[str], opposite: bool = False) -> Test:  # noqa: FBT001, FBT002 - unpacked from a pair
    return lambda character: (character in members) != opposite
