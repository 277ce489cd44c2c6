"""Filters of ``docker buildx history ls --filter``: each text is a line of CSV whose conditions must all hold.

::

    ref~=abc    repository~=project,status==error    startedAt>=24h    completedAt<2026-01-02T03:04:05Z    duration>90s

Of several texts one has to match. Source: github.com/moby/buildkit 0.25, ``solver/llbsolver/history.go``.
"""

from __future__ import annotations

import csv
import re
import time
from typing import TYPE_CHECKING

from orlop.api.moments import parse_moment
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.engine.builds import PastBuild

    Condition = Callable[[PastBuild], bool]

_CONDITION = re.compile(r"(ref|repository|status|startedAt|completedAt|duration)(==|!=|~=|<=|>=|<|>)(.*)", re.DOTALL)
_MOST_TEXT = 4096


def read_filters(texts: Sequence[str]) -> Condition:
    """Return whether a build is meant.

    Raises:
        InvalidParameterError: no such condition.
    """
    choices = [_read_line(text) for text in texts]
    return lambda build: not choices or any(all(one(build) for one in conditions) for conditions in choices)


def _read_line(text: str) -> list[Condition]:
    try:
        (row,) = csv.reader([text[:_MOST_TEXT]], strict=True)
    except (csv.Error, ValueError):
        raise InvalidParameterError(f"invalid filter: {text[:80]}") from None
    if not row:
        raise InvalidParameterError("invalid filter: empty")
    return [_read(condition) for condition in row]


def _read(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InvalidParameterError(f"invalid filter: {text[:80]}")
    name, operator, value = found.groups()
    if name in ("ref", "repository", "status"):
        if operator not in ("==", "!=", "~="):
            raise InvalidParameterError(f"invalid filter: {text[:80]}: expected ==, != or ~=")
        return lambda build: _matches(_word(build, name), operator, value)
    if operator not in ("<", "<=", ">", ">="):
        raise InvalidParameterError(f"invalid filter: {text[:80]}: expected <, <=, > or >=")
    limit = _nanoseconds(name, value)
    return lambda build: _compares(_number(build, name), operator, limit)


def _nanoseconds(name: str, value: str) -> int:
    moment = parse_moment(value)
    if moment is None:
        raise InvalidParameterError(f"invalid filter: {name} without a value")
    return time.time_ns() - moment if name == "duration" else moment


def _word(build: PastBuild, name: str) -> str:
    if name == "ref":
        return build.ref
    if name == "repository":
        return build.attributes.get("vcs:source", "") or build.attributes.get("context", "")
    if not build.completed:
        return "running"
    if not build.code:
        return "completed"
    return "canceled" if "context canceled" in build.message else "error"


def _number(build: PastBuild, name: str) -> int:
    if name == "duration":
        return (build.completed or time.time_ns()) - build.created
    return build.created if name == "startedAt" else build.completed


def _matches(word: str, operator: str, value: str) -> bool:
    if operator == "~=":
        return value in word
    return (word == value) == (operator == "==")


def _compares(number: int, operator: str, limit: int) -> bool:
    if operator.startswith("<"):
        return number < limit or (operator == "<=" and number == limit)
    return number > limit or (operator == ">=" and number == limit)
