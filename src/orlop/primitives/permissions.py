"""Permissions as chmod(1) writes them: ``755``, ``u=rwX,go=rX``. No I/O.

Source: POSIX, chmod ("operands"); ``X`` and copied classes as everywhere. The umask is 0, as in BuildKit.
"""

from __future__ import annotations

import re

from orlop.errors import InvalidParameterError

_OCTAL = re.compile(r"[0-7]{1,9}", re.ASCII)
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)", re.ASCII)
_ACTION = re.compile(r"([-+=])([ugorwxXst]*)", re.ASCII)
_LONGEST = 200
_ALL = 0o7777
_CLASSES = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0o111, "s": 0o6000, "t": 0o1000}


class Permissions:
    """What a file's permissions become.

    Args:
        text: an octal number up to 7777, or clauses with commas between them.

    Raises:
        InvalidParameterError: neither.
    """

    def __init__(self, text: str) -> None:
        self._actions: list[tuple[int, str, str]] = []
        self._fixed: int | None = None
        if len(text) <= _LONGEST and _OCTAL.fullmatch(text) and int(text, 8) <= _ALL:
            self._fixed = int(text, 8)
            return
        for clause in text.split(",") if len(text) <= _LONGEST else [""]:
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise InvalidParameterError(
                    f"invalid chmod parameter: '{text[:80]}'. it should be octal string and between 0 and 07777, or as"
                    " u=rwX,go=rX"
                )
            classes = 0
            for letter in match[1] or "a":
                classes |= _CLASSES[letter]
            self._actions += [(classes, action[1], action[2]) for action in _ACTION.finditer(match[2])]

    def apply(self, mode: int, *, directory: bool) -> int:
        """Return the permissions of a file that has ``mode``."""
        if self._fixed is not None:
            return self._fixed
        for classes, operator, letters in self._actions:
            bits = classes & _named(letters, mode, directory=directory)
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                mode = mode & ~classes | bits
        return mode & _ALL


def _named(letters: str, mode: int, *, directory: bool) -> int:
    bits = 0
    for letter in letters:
        if letter in _SHIFTS:
            bits |= (mode >> _SHIFTS[letter] & 7) * 0o111
        elif letter != "X" or directory or mode & 0o111:
            bits |= _BITS[letter]
    return bits
