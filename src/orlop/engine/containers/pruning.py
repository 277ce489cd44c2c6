"""``docker container prune``: which containers go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.containers.listing import label_matches, now
from orlop.engine.containers.state import Status
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory


def prunable(filters: Mapping[str, list[str]], directory: Directory, *, until: int | None) -> list[Container]:
    """Return the stopped containers that pass the filters ``label`` and ``label!`` and were made before ``until``.

    Raises:
        InvalidParameterError: unknown filter.
    """
    for name in filters:
        if name not in {"label", "label!", "until"}:
            raise InvalidParameterError(f"invalid filter '{name}'")
    before = now() if until is None else until
    return [container for container in directory if _passes(container, filters, before)]


def _passes(container: Container, filters: Mapping[str, list[str]], until: int) -> bool:
    labels = container.definition.config.labels or {}
    return (
        container.state.status in {Status.CREATED, Status.EXITED}
        and container.definition.created_at < until
        and all(label_matches(wanted, labels) for wanted in filters.get("label", ()))
        and not any(label_matches(unwanted, labels) for unwanted in filters.get("label!", ()))
    )
