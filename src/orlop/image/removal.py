"""``docker rmi`` and ``docker image prune``: Docker's rules of what may go, and its words for what may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import ConflictError
from orlop.image.records import Image, ImageUser, Removal
from orlop.spec.reference import Reference, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.image.store import ImageStore
    from orlop.spec.digest import Digest


def remove_image(
    store: ImageStore,
    name: str,
    users: Sequence[ImageUser],
    *,
    force: bool = False,
    prune_parents: bool = True,
) -> Removal:
    """Remove a name and, with the last one, the image; or, by id, all names and the image.

    Args:
        store: the images.
        name: as the user wrote it.
        users: all containers.
        force: remove although stopped containers use it or several names refer to it.
        prune_parents: parents without names and users go too.

    Raises:
        NotFoundError: "No such image: x:latest".
        ConflictError: "conflict: unable to ...".
    """
    image = store.get(name)
    using = [user for user in users if user.image_id.removeprefix("sha256:") == image.id.hex]
    by_id = image.id.hex.startswith(name.removeprefix("sha256:"))
    if not by_id:
        if not force and using and _is_single(image.references):
            raise ConflictError(
                f'conflict: unable to remove repository reference "{name}" (must force) - container '
                f"{using[0].container_id[:12]} is using its referenced image {image.id.short}",
            )
        reference = parse_reference(name).with_default_tag()
        others = store.without(image, reference)
        if any(other.digest is None for other in others):
            return _untag(store, (reference,))
        references = (reference, *others)
    else:
        references = image.references
    named = by_id and not _is_single(references)
    try:
        _refuse(store, image, using, force=force, named=named)
    except ConflictError:
        if not by_id:
            return _untag(store, references)  # the names are gone, which is what was asked for
        raise
    return _delete(store, image, references, users, prune_parents=prune_parents)


def prune_images(
    store: ImageStore, images: Iterable[Image], users: Sequence[ImageUser], *, prune_parents: bool = True
) -> Removal:
    """Remove every one of these images that no container uses and no other image needs."""
    used = {user.image_id.removeprefix("sha256:") for user in users}
    records: list[tuple[str, str]] = []
    tombstones: list[str] = []
    reclaimed = 0
    deleted: frozenset[str] = frozenset()
    for image in images:
        if image.id.hex in used or str(image.id) in deleted or store.children(image.id):
            continue  # in use, or gone as the parent of one before
        removal = _delete(store, image, image.references, users, prune_parents=prune_parents)
        records.extend(removal.records)
        tombstones.extend(removal.tombstones)
        reclaimed += removal.reclaimed
        deleted |= removal.images
    return Removal(tuple(records), tuple(tombstones), reclaimed, deleted)


def _is_single(references: Sequence[Reference]) -> bool:
    """Tell whether there is at most one tag, and everything is in one repository."""
    tags = sum(reference.digest is None for reference in references)
    return len(references) <= 1 or (tags <= 1 and len({reference.name for reference in references}) == 1)


def _refuse(store: ImageStore, image: Image, using: Sequence[ImageUser], *, force: bool, named: bool) -> None:
    """Raise the first reason against deleting; ``named`` counts the names as one."""
    short = image.id.short
    hard = f"conflict: unable to delete {short} (cannot be forced) - "
    if store.children(image.id):
        raise ConflictError(f"{hard}image has dependent child images")
    running = next((user for user in using if user.running), None)
    if running is not None:
        raise ConflictError(f"{hard}image is being used by running container {running.container_id[:12]}")
    if force:
        return
    soft = f"conflict: unable to delete {short} (must be forced) - "
    if named:
        raise ConflictError(f"{soft}image is referenced in multiple repositories")
    if using:
        raise ConflictError(f"{soft}image is being used by stopped container {using[0].container_id[:12]}")


def _untag(store: ImageStore, references: Sequence[Reference]) -> Removal:
    store.untag(*references)
    return Removal(tuple(("Untagged", reference.familiar) for reference in references))


def _delete(
    store: ImageStore,
    image: Image,
    references: Sequence[Reference],
    users: Sequence[ImageUser],
    *,
    prune_parents: bool,
) -> Removal:
    """Delete an image with its names, which are told in the order of ``references``, and its unused parents."""
    records = [("Untagged", reference.familiar) for reference in references]
    tombstones: list[str] = []
    reclaimed = 0
    deleted = set()
    used = {user.image_id.removeprefix("sha256:") for user in users}
    current: Image | None = image
    while current is not None:
        gone = store.delete(current.id)
        records.append(("Deleted", str(current.id)))
        deleted.add(str(current.id))
        records.extend(("Deleted", str(chain)) for chain in gone.layers)
        tombstones.extend(gone.tombstones)
        reclaimed += gone.reclaimed
        current = _unused_parent(store, current.parent, used) if prune_parents else None
    return Removal(tuple(records), tuple(tombstones), reclaimed, frozenset(deleted))


def _unused_parent(store: ImageStore, parent: Digest | None, used: set[str]) -> Image | None:
    if parent is None:
        return None
    image = next((image for image in store.images() if image.id == parent), None)
    if image is None or image.references or image.id.hex in used or store.children(image.id):
        return None
    return image
