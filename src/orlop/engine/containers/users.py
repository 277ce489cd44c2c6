"""What containers use, for the services whose things those are: images and volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine.containers.state import Status
from orlop.image.records import ImageUser

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.engine.containers.container import Container


def image_users(containers: Iterable[Container]) -> list[ImageUser]:
    """Return which containers were made from, or mount, which image."""
    return [
        ImageUser(container.id, container.state.running, image_id, name)
        for container in containers
        for image_id, name in container.definition.images
    ]


def volume_users(containers: Iterable[Container]) -> dict[str, list[str]]:
    """Return volume name to ids of containers."""
    users: dict[str, list[str]] = {}
    for container in containers:
        for point in container.definition.mounts:
            if point.kind == "volume":
                users.setdefault(point.name, []).append(container.id)
    return users


def count_states(containers: Iterable[Container]) -> tuple[int, int, int]:
    """Return how many run, are paused, are stopped."""
    states = [container.state.status for container in containers]
    running = sum(status in {Status.RUNNING, Status.RESTARTING} for status in states)
    paused = states.count(Status.PAUSED)
    return running, paused, len(states) - running - paused
