"""What an archive of images holds: Docker's ``manifest.json`` and OCI's ``index.json``, read strictly. No I/O.

Members are found by their exact names in the archive and nowhere else (threats.md E12): a name that leads anywhere is
just a name that is not there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.spec.digest import Digest
from orlop.spec.image import LAYER_LIMIT
from orlop.spec.manifest import OCI_INDEX, SIZE_LIMIT, Descriptor, Index, parse_document
from orlop.spec.reference import Reference, parse_reference
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.spec.json import JsonObject

MANIFEST = "manifest.json"
INDEX = "index.json"
LAYOUT = "oci-layout"
REPOSITORIES = "repositories"
DOCUMENTS = (MANIFEST, INDEX, LAYOUT, REPOSITORIES)
IMAGES_LIMIT = 1000
_NAME = "io.containerd.image.name"
_REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """One image of an archive.

    Attributes:
        config: the member that is its configuration.
        layers: the members that are its layers, bottom first.
        names: what to call it.
    """

    config: str
    layers: tuple[str, ...]
    names: tuple[Reference, ...] = ()


def clean_name(name: str) -> str:
    """Return a member's name as documents write it: without ``./`` at the beginning and ``/`` at the end."""
    while name.startswith("./"):
        name = name[2:]
    return name.rstrip("/")


def blob_name(digest: Digest) -> str:
    """Return the name of a blob's member in an OCI layout."""
    return f"blobs/sha256/{digest.hex}"


def digest_of_name(name: str) -> Digest | None:
    """Return the digest that a member must have by its name; None when its name says nothing."""
    prefix, _, last = name.rpartition("/")
    if prefix != "blobs/sha256":
        return None
    try:
        return Digest(last)
    except InvalidParameterError:
        return None


def parse_docker_manifest(data: bytes) -> list[ArchivedImage]:
    """Read ``manifest.json``.

    Raises:
        InvalidParameterError: malformed, too large, too many images or layers.
    """
    # It is a list: the strict reader takes objects.
    fields = Fields(parse_object(b'{"images":' + data + b"}", limit=SIZE_LIMIT + 16, what=MANIFEST), MANIFEST)
    found = []
    for item in fields.objects("images"):
        layers = item.texts("Layers") or ()
        if len(layers) > LAYER_LIMIT:
            raise InvalidParameterError(f"max depth exceeded: {len(layers)} layers")
        names = []
        for text in item.texts("RepoTags") or ():
            reference = parse_reference(text)
            if reference.tag is None or reference.digest is not None:
                raise InvalidParameterError(f'invalid tag "{text[:200]}"')
            names.append(reference)
        found.append(
            ArchivedImage(clean_name(item.text("Config")), tuple(clean_name(layer) for layer in layers), tuple(names))
        )
    if len(found) > IMAGES_LIMIT:
        raise InvalidParameterError(f"too many images in the archive: more than {IMAGES_LIMIT}")
    return found


def parse_index(data: bytes) -> Index:
    """Read ``index.json``. Raises InvalidParameterError."""
    document = parse_document(data, OCI_INDEX)
    if not isinstance(document, Index):
        raise InvalidParameterError("invalid index.json: not an index")
    if len(document.manifests) > IMAGES_LIMIT:
        raise InvalidParameterError(f"too many images in the archive: more than {IMAGES_LIMIT}")
    return document


def names_of(descriptor: Descriptor) -> tuple[Reference, ...]:
    """Return what an index calls a manifest; a bare tag, which OCI allows, is no name."""
    for key in (_NAME, _REF):
        text = descriptor.annotations.get(key, "")
        if "/" in text or ":" in text:
            try:
                return (parse_reference(text).with_default_tag(),)
            except InvalidParameterError:
                continue
    return ()


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image that is being written: its manifest in the layout, and its parts."""

    manifest: Descriptor
    config: Digest
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...]
    names: tuple[Reference, ...]


def render_docker_manifest(images: Sequence[SavedImage]) -> bytes:
    """Write ``manifest.json``, with what Docker 25 and later add."""
    document = []
    for image in images:
        sources = {str(diff_id): layer.render() for diff_id, layer in zip(image.diff_ids, image.layers, strict=True)}
        item: JsonObject = {
            "Config": blob_name(image.config),
            "RepoTags": [name.familiar for name in image.names] or None,
            "Layers": [blob_name(layer.digest) for layer in image.layers],
        }
        if sources:
            item["LayerSources"] = sources  # type: ignore[assignment]
        document.append(item)
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def render_index(images: Sequence[SavedImage]) -> bytes:
    """Write ``index.json``: an entry for each name, or one without."""
    entries: list[JsonObject] = []
    for image in images:
        entry = image.manifest.render()
        if not image.names:
            entries.append(entry)
        for name in image.names:
            annotations: JsonObject = {_NAME: str(name), _REF: name.tag or ""}
            entries.append({**entry, "annotations": annotations})
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def render_repositories(images: Sequence[SavedImage]) -> bytes | None:
    """Write ``repositories``, of Docker's first format; None when nothing has a name."""
    found: dict[str, dict[str, str]] = {}
    for image in images:
        for name in image.names:
            if image.layers:
                found.setdefault(name.familiar_name, {})[name.tag or ""] = image.layers[-1].digest.hex
    return json.dumps(found, separators=(",", ":"), sort_keys=True).encode("ascii") if found else None
