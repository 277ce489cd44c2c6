"""Filters of ``docker images`` and ``docker image prune``."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.truth import find_bool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.image.records import Image
    from orlop.image.store import ImageStore
    from orlop.spec.reference import Reference

LIST_FILTERS = frozenset(("dangling", "label", "before", "since", "reference", "until"))
PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))


def check_names(filters: Mapping[str, Sequence[str]], known: frozenset[str]) -> None:
    """Refuse filters that do not exist.

    Raises:
        InvalidParameterError: "invalid filter 'x'".
    """
    for name in filters:
        if name not in known:
            raise InvalidParameterError(f"invalid filter '{name}'")


def boolean(filters: Mapping[str, Sequence[str]], name: str, *, default: bool) -> bool:
    """Read a boolean filter.

    Raises:
        InvalidParameterError: "invalid filter 'dangling=[zz]'".
    """
    values = filters.get(name)
    if not values:
        return default
    value = find_bool(values[0]) if len(values) == 1 else None
    if value is not None:
        return value
    raise InvalidParameterError(f"invalid filter '{name}=[{' '.join(values)}]'")


def matches_labels(labels: Mapping[str, str] | None, wanted: Sequence[str]) -> bool:
    """Tell whether all of ``key`` or ``key=value`` are there."""
    have = labels or {}
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in have or (equals and have[key] != value):
            return False
    return True


def matches_reference(pattern: str, reference: Reference) -> bool:
    """Match like Go's path.Match on the short reference, or on the short name alone; ``*`` stops at a slash."""
    return _path_match(pattern, reference.familiar) or _path_match(pattern, reference.familiar_name)


def _path_match(pattern: str, text: str) -> bool:
    patterns, parts = pattern.replace("[^", "[!").split("/"), text.split("/")
    return len(patterns) == len(parts) and all(map(fnmatch.fnmatchcase, parts, patterns))


def filter_images(
    store: ImageStore,
    filters: Mapping[str, Sequence[str]],
    *,
    every: bool = False,
    until: str | None = None,
) -> list[Image]:
    """Return the images that ``docker images`` shows, newest first.

    Args:
        store: the images.
        filters: as decoded from the request.
        every: also those without names that others were built from (``-a``).
        until: only images created before this time, RFC 3339 in UTC; the caller reads the filter of that name.

    Raises:
        InvalidParameterError: unknown filter or bad value.
        NotFoundError: the image of ``before`` or ``since``.
    """
    check_names(filters, LIST_FILTERS)
    dangling_only = boolean(filters, "dangling", default=False)
    has_dangling = "dangling" in filters
    before = min((store.get(name).config.created for name in filters.get("before", ())), default=None)
    since = max((store.get(name).config.created for name in filters.get("since", ())), default=None)
    found = []
    for image in store.images():
        created = image.config.created
        too_new = (before is not None and created >= before) or (until is not None and created >= until)
        too_old = since is not None and created <= since
        if too_new or too_old or not matches_labels(image.config.config.labels, filters.get("label", ())):
            continue
        if has_dangling and dangling_only != (not image.references):
            continue
        if not image.references and not every and store.children(image.id):
            continue
        shown = _matching(image, filters.get("reference", ()))
        if shown is not None:
            found.append(shown)
    return found


def _matching(image: Image, patterns: Sequence[str]) -> Image | None:
    """Return the image with the names that match, or None if none does."""
    if not patterns:
        return image
    references = tuple(
        reference
        for reference in image.references
        if any(matches_reference(pattern, reference) for pattern in patterns)
    )
    return replace(image, references=references) if references else None
