"""Filters of ``docker volume ls`` and ``docker volume prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.name_pattern import name_matches
from orlop.spec.truth import find_bool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.volumes.store import Volume, VolumeStore

LIST_FILTERS = frozenset(("dangling", "driver", "label", "name"))
PRUNE_FILTERS = frozenset(("label", "label!", "all"))


def filter_volumes(
    store: VolumeStore,
    filters: Mapping[str, Sequence[str]],
    users: Mapping[str, Sequence[str]],
) -> list[Volume]:
    """Return the volumes that ``docker volume ls`` shows, by name.

    Args:
        store: the volumes.
        filters: as decoded from the request.
        users: container ids by volume name.

    Raises:
        InvalidParameterError: "invalid filter 'x'".
    """
    _check(filters, LIST_FILTERS)
    found = []
    for volume in store.volumes():
        dangling = filters.get("dangling")
        if dangling and _boolean("dangling", dangling) == bool(users.get(volume.name)):
            continue
        if filters.get("driver") and volume.driver not in filters["driver"]:
            continue
        if filters.get("name") and not any(name_matches(part, volume.name) for part in filters["name"]):
            continue
        if _has_labels(volume, filters.get("label", ())):
            found.append(volume)
    return found


def prune_candidates(store: VolumeStore, filters: Mapping[str, Sequence[str]], *, every: bool = False) -> list[Volume]:
    """Return the volumes that ``docker volume prune`` considers: anonymous ones, or all, but for those with options.

    What a volume with options shows lies elsewhere: such a one was made with a purpose, and dockerd leaves it, too.

    Args:
        store: the volumes.
        filters: as decoded from the request.
        every: all volumes, as API versions below 1.42 do; also by the filter ``all=true``.

    Raises:
        InvalidParameterError: "invalid filter 'x'".
    """
    _check(filters, PRUNE_FILTERS)
    if values := filters.get("all"):
        if len(values) == 1 and find_bool(values[0]) is None:
            text = f"invalid filter 'all': strconv.ParseBool: parsing \"{values[0]}\": invalid syntax"
            raise InvalidParameterError(text)
        every = _boolean("all", values)
    found = []
    for volume in store.volumes():
        if volume.options:
            continue
        unwanted = any(_has_labels(volume, (item,)) for item in filters.get("label!", ()))
        if (every or volume.anonymous) and not unwanted and _has_labels(volume, filters.get("label", ())):
            found.append(volume)
    return found


def _check(filters: Mapping[str, Sequence[str]], known: frozenset[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidParameterError(f"invalid filter '{name}'")


def _boolean(name: str, values: Sequence[str]) -> bool:
    value = find_bool(values[0]) if len(values) == 1 else None
    if value is not None:
        return value
    raise InvalidParameterError(f"invalid filter '{name}=[{' '.join(values)}]'")


def _has_labels(volume: Volume, wanted: Sequence[str]) -> bool:
    have = volume.labels or {}
    pairs = [item.partition("=") for item in wanted]
    return all(key in have and (not equals or have[key] == value) for key, equals, value in pairs)
