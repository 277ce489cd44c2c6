"""Image manifests and indexes: OCI image-spec 1.1 and Docker's schema 2, read strictly.

A document is what its media type says and nothing else: one that could be read as both a manifest and an index, or
that names another media type than the one it was delivered with, is refused (threats.md E6, CVE-2021-41190). ``urls``
are never followed (E9).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, NotFoundError
from orlop.spec.digest import Digest
from orlop.spec.image import LAYER_LIMIT
from orlop.spec.platform import Platform
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.spec.json import JsonObject

SIZE_LIMIT = 4 << 20

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
MANIFESTS = (DOCKER_MANIFEST, OCI_MANIFEST)
INDEXES = (DOCKER_INDEX, OCI_INDEX)
ACCEPTED = (*MANIFESTS, *INDEXES)
_ANY = frozenset({"", "application/json", "text/plain", "application/octet-stream"})
_CONFIGS = frozenset({DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "text/html", ""})
_LAYERS = frozenset(
    {
        DOCKER_LAYER,
        DOCKER_LAYER.removesuffix(".gzip"),
        DOCKER_LAYER.removesuffix("gzip") + "zstd",
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
    }
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob that a document refers to.

    Attributes:
        size: bytes, exactly.
        platform: what an index says of it; None when it does not say.
        annotations: of the descriptor itself.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> JsonObject:
        """Write it without its platform."""
        document: JsonObject = {"mediaType": self.media_type, "size": self.size, "digest": str(self.digest)}
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and layers, bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests, or indexes of manifests, to choose from."""

    media_type: str
    manifests: tuple[Descriptor, ...]


def parse_document(data: bytes, media_type: str) -> Manifest | Index:
    """Read a manifest or an index.

    Args:
        data: the bytes whose digest was asked for.
        media_type: what it was delivered or referred to as; empty or ``application/json`` leaves it to the document.

    Raises:
        InvalidParameterError: too large, malformed, ambiguous, of an unsupported type, or too many layers.
    """
    media_type = media_type.partition(";")[0].strip()
    if media_type not in _ANY:
        _check_type(media_type)
    fields = Fields(parse_object(data, limit=SIZE_LIMIT, what="manifest"), "manifest")
    named = fields.text("mediaType")
    if media_type in _ANY:
        media_type = named or _guess(fields)
        _check_type(media_type)
    if named and named != media_type:
        raise InvalidParameterError(f"manifest is delivered as {media_type}, but says that it is {named:.100}")
    if fields.integer("schemaVersion") != 2:
        raise InvalidParameterError(f"unrecognized manifest schema version {fields.integer('schemaVersion')}")
    has_list = fields.has("manifests")
    has_image = fields.has("layers") or fields.has("config")
    if has_list and has_image:
        raise InvalidParameterError("manifest is both an image and a list of images")
    if media_type in INDEXES:
        if not has_list:
            raise InvalidParameterError("invalid manifest list: no manifests")
        return Index(media_type, tuple(_descriptor(item) for item in fields.objects("manifests")))
    return _manifest(fields, media_type)


def _check_type(media_type: str) -> None:
    if media_type in SCHEMA1:
        raise InvalidParameterError("Docker image format v1 and manifest version 2, schema 1 are not supported")
    if media_type not in ACCEPTED:
        raise InvalidParameterError(f"unsupported manifest media type: {media_type:.100}")


def _guess(fields: Fields) -> str:
    return OCI_INDEX if fields.has("manifests") else OCI_MANIFEST


def _manifest(fields: Fields, media_type: str) -> Manifest:
    config = fields.object("config")
    if config is None:
        raise InvalidParameterError("invalid manifest: no config")
    descriptor = _descriptor(config)
    if descriptor.media_type not in _CONFIGS:
        kind = "plugin" if descriptor.media_type == "application/vnd.docker.plugin.v1+json" else "unknown"
        raise InvalidParameterError(f'Encountered remote "{descriptor.media_type:.100}"({kind}) when fetching')
    layers = tuple(_descriptor(item) for item in fields.objects("layers"))
    if len(layers) > LAYER_LIMIT:
        raise InvalidParameterError(f"max depth exceeded: {len(layers)} layers")
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise InvalidParameterError(f"unsupported layer media type: {layer.media_type:.100}")
    return Manifest(media_type, descriptor, layers)


def _descriptor(fields: Fields) -> Descriptor:
    size = fields.integer("size")
    if size < 0:
        raise InvalidParameterError(f"invalid size in descriptor: {size}")
    platform = fields.object("platform")
    return Descriptor(
        fields.text("mediaType"),
        Digest.parse(fields.text("digest")),
        size,
        None
        if platform is None
        else Platform.of(platform.text("os"), platform.text("architecture"), platform.text("variant")),
        fields.labels("annotations") or {},
    )


def choose(index: Index, wanted: Platform) -> Descriptor:
    """Return the entry that suits a platform best.

    Raises:
        NotFoundError: in Docker's words.
    """
    candidates = wanted.candidates()
    best: tuple[int, Descriptor] | None = None
    for entry in index.manifests:
        if entry.media_type not in ACCEPTED or "vnd.docker.reference.type" in entry.annotations:
            continue  # an attestation, or something that is no image
        if entry.platform is None:
            rank = len(candidates)
        elif entry.platform in candidates:
            rank = candidates.index(entry.platform)
        else:
            continue
        if best is None or rank < best[0]:
            best = rank, entry
    if best is None:
        raise NotFoundError(f"no matching manifest for {wanted} in the manifest list entries")
    return best[1]


def retyped(layer: Descriptor, *, oci: bool) -> Descriptor:
    """Return a layer under the name that its compression has in OCI's or in Docker's manifests."""
    compression = next((name for name in ("gzip", "zstd") if layer.media_type.endswith(name)), "")
    if oci:
        return replace(layer, media_type=f"{OCI_LAYER}+{compression}" if compression else OCI_LAYER)
    plain = DOCKER_LAYER.removesuffix(".gzip")
    return replace(layer, media_type=f"{plain}.{compression}" if compression else plain)


def render_manifest(media_type: str, config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """Write a manifest as dockerd does: indented by three for schema 2, compact for OCI."""
    document: JsonObject = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": config.render(),
        "layers": [layer.render() for layer in layers],
    }
    if media_type == DOCKER_MANIFEST:
        return json.dumps(document, indent=3).encode("ascii")
    return json.dumps(document, separators=(",", ":")).encode("ascii")
