"""Cached steps from elsewhere: ``--cache-from`` and ``--cache-to`` of a build.

An image is a cache of its own steps, since its history says what made each layer. So a registry keeps a cache as an
image like any other, with ``mode=max`` those of the other stages as well, under the tags ``TAG-stage-1`` and so on; a
directory keeps one or several as the OCI layout that ``save`` writes.
"""

from __future__ import annotations

import os
import sys

from orlop.cli.build_outputs import unpack
from orlop.cli.documents import member, text
from orlop.cli.invocation import CommandError, Invocation, write_error
from orlop.cli.streaming import tar_pieces
from orlop.cli.transfers import pull_image, push_image
from orlop.errors import OrlopError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.cli.build_request import CacheWishes
    from orlop.cli.build_view import View

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LAYOUT = "oci-layout"
_LOADED = "Loaded image"
_MOST_STAGES = 100


def cached_images(invocation: Invocation, caches: CacheWishes) -> str | None:
    """Bring the engine the images that steps are taken from; returns their names as the API has them.

    One that is not there is told of, and is no error, as in BuildKit.
    """
    import json

    names = []
    for name in caches.images:
        try:
            pull_image(invocation, name, quiet=True, to_stderr=True)
        except (CommandError, OrlopError) as error:
            write_error(f"WARNING: cannot take steps from {name}: {error}")
            try:
                invocation.client.images.inspect(name)
            except OrlopError:
                continue  # nor is it here
        names.append(name)
        names += _pull_stages(invocation, name)
    for directory in caches.sources:
        try:
            names += _load(invocation, directory)
        except (CommandError, OrlopError) as error:
            write_error(f"WARNING: cannot take steps from {directory}: {error}")
    return json.dumps(names) if names else None


def _pull_stages(invocation: Invocation, name: str) -> Iterator[str]:
    """Pull the other stages of a cache, if it has them; yields their names."""
    if "@" in name:
        return
    repository, tag = _split(name)
    for number in range(1, _MOST_STAGES):
        stage = f"{repository}:{_stage_tag(tag, number)}"
        try:
            pull_image(invocation, stage, quiet=True, to_stderr=True)
        except (CommandError, OrlopError):
            return
        yield stage


def _stage_tag(tag: str, number: int) -> str:
    return f"{tag}-stage-{number}"


def _load(invocation: Invocation, directory: str) -> Iterator[str]:
    """Load the images of a directory; yields their ids."""
    from orlop.primitives.tar import pack

    top = os.open(directory, _DIRECTORY)
    try:
        for document in invocation.client.images.load(tar_pieces(lambda out: pack(top, out)), quiet=True):
            problem = text(member(document, "errorDetail"), "message") or text(document, "error")
            if problem:
                raise CommandError(problem)
            for line in text(document, "stream").splitlines():
                if line.startswith(_LOADED):
                    yield line.partition(": ")[2].strip()
    finally:
        os.close(top)


def keep_caches(invocation: Invocation, caches: CacheWishes, view: View) -> None:
    """Bring steps where ``--cache-to`` wants them. Raises CommandError, OrlopError."""
    images = invocation.client.images
    for directory, everything in caches.targets.items():
        names = list(dict.fromkeys([view.image, *(view.stages if everything else ())]))
        with images.save(names) as response:
            _replace(response.chunks(), directory)
    for name, everything in caches.pushed.items():
        repository, tag = _split(name)
        _push(invocation, view.image, repository, tag)
        others = dict.fromkeys(view.stages if everything else ())
        others.pop(view.image, None)
        for number, image in enumerate(others, 1):
            _push(invocation, image, repository, _stage_tag(tag, number))


def _push(invocation: Invocation, image: str, repository: str, tag: str) -> None:
    """Push an image under a name that it has for the push only."""
    images, name = invocation.client.images, f"{repository}:{tag}"
    try:
        before = text(images.inspect(name), "Id")
    except OrlopError:
        before = ""
    images.tag(image, repository=repository, tag=tag)
    try:
        push_image(invocation, name, stream=sys.stderr, quiet=True)
    finally:
        if before:
            images.tag(before, repository=repository, tag=tag)
        else:
            images.remove(name, no_prune=True)


def _split(name: str) -> tuple[str, str]:
    from orlop.spec.reference import parse_reference

    reference = parse_reference(name).with_default_tag()
    if reference.digest is not None:
        raise CommandError(f"a cache needs a tag, not a digest: {name}")
    return reference.name, reference.tag or ""


def _replace(chunks: Iterator[bytes], directory: str) -> None:
    """Put a layout in the place of the one before; something else is left alone. Raises CommandError."""
    from orlop.primitives.removal import remove_tree

    path = os.path.abspath(directory)
    if os.path.lexists(path) and os.listdir(path) and not os.path.exists(os.path.join(path, _LAYOUT)):
        raise CommandError(f"not empty, and no cache of a build: {directory}")
    new, old = (f"{path}.{word}-{os.getpid()}" for word in ("new", "old"))
    try:
        unpack(chunks, new)
        if os.path.lexists(path):
            os.rename(path, old)
        os.rename(new, path)
    except OSError as error:
        raise CommandError(f"cannot write {directory}: {(error.strerror or '').lower()}") from None
    finally:
        for left in (new, old):
            remove_tree(left)
