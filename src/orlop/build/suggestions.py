"""What somebody who mistyped a word may have meant. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# As BuildKit, for which a swap of two letters is two, not one.
_FARTHEST = 2
_LONGEST = 64


class Suggestions:
    """Finds the nearest word, until so many have been compared: a text may be all wrong words.

    Args:
        most: comparisons of two words, each at most some twenty microseconds; a hundred times as many are looked at.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._looks = most * 100

    def hint(self, word: str, known: Iterable[str], mark: str = "") -> str:
        """Return `` (did you mean WORD?)``, or nothing when no known word is near; ``mark`` stands before it."""
        best, found = _FARTHEST + 1, ""
        if len(word) > _LONGEST:
            return ""
        for other in known:
            self._looks -= 1
            if self._left <= 0 or self._looks <= 0:
                return ""
            if abs(len(other) - len(word)) >= best:
                continue
            self._left -= 1
            far = distance(word, other)
            if far < best:
                best, found = far, other
        return f" (did you mean {mark}{found}?)" if found else ""


def hint(word: str, known: Iterable[str]) -> str:
    """Return what :meth:`Suggestions.hint` does, of a short list."""
    return Suggestions(_LONGEST).hint(word, sorted(known))


def distance(first: str, second: str) -> int:
    """Return how many letters are to be added, left out, replaced or swapped with the next; linear in ``second``.

    Source: G. Myers, "A fast bit-vector algorithm for approximate string matching based on dynamic programming", in
    the form of H. Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances" (2003).
    """
    places: dict[str, int] = {}
    for at, char in enumerate(first):
        places[char] = places.get(char, 0) | 1 << at
    every, top = (1 << len(first)) - 1, 1 << len(first) >> 1
    score, rising, falling = len(first), every, 0
    diagonal = before = 0
    for char in second:
        equal = places.get(char, 0)
        swapped = (~diagonal & equal) << 1 & before
        diagonal = (((equal & rising) + rising) ^ rising) | equal | falling | swapped
        before = equal
        up = falling | (every & ~(diagonal | rising))
        down = rising & diagonal
        score += bool(up & top) - bool(down & top)
        up = up << 1 | 1
        rising = (down << 1 | ~(diagonal | up)) & every
        falling = up & diagonal & every
    return score if first else len(second)
