"""Images made of nothing but Python, for tests: layers, configuration, and the archives that hold them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass, field


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_of(members: dict[str, bytes | None]) -> bytes:
    """Return a tar; None makes a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            out.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


@dataclass
class BuiltImage:
    """An image: ``tars`` bottom first; ``blobs`` what they are sent as."""

    tars: list[bytes]
    blobs: list[bytes]
    config: bytes = b""
    extra: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.config:
            document = {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(tar)}" for tar in self.tars]},
                "history": [{"created_by": f"layer {number}"} for number in range(len(self.tars))],
                **self.extra,
            }
            self.config = json.dumps(document).encode()

    @property
    def id(self) -> str:
        return f"sha256:{sha256(self.config)}"

    def manifest(self, *, oci: bool = False) -> bytes:
        kinds = (
            (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
            if oci
            else (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        )
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": kinds[0],
                "config": descriptor(kinds[1], self.config),
                "layers": [descriptor(kinds[2], blob) for blob in self.blobs],
            }
        ).encode()


def descriptor(media_type: str, data: bytes, **more: object) -> dict:
    return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data), **more}


def build_image(layers: int = 1, *, size: int = 2000, seed: int = 0, **extra: object) -> BuiltImage:
    """Make an image whose layer n holds ``file-n`` of random bytes, and ``top`` that each layer replaces."""
    generator = random.Random(f"{layers}-{size}-{seed}")
    tars = [
        tar_of({f"file-{number}": generator.randbytes(size), "top": f"{number}".encode()}) for number in range(layers)
    ]
    return BuiltImage(tars, [gzip.compress(tar, 1, mtime=0) for tar in tars], extra=dict(extra))


def docker_archive(image: BuiltImage, *names: str, compressed: bool = False, old: bool = False) -> bytes:
    """Return a Docker archive; ``old`` is the layout before Docker 25."""
    members: dict[str, bytes | None] = {}
    paths = []
    for tar, blob in zip(image.tars, image.blobs, strict=True):
        data = blob if compressed else tar
        path = f"{sha256(b'v1' + data)}/layer.tar" if old else f"blobs/sha256/{sha256(data)}"
        if old:
            members[path.replace("layer.tar", "VERSION")] = b"1.0"
        members[path] = data
        paths.append(path)
    config = f"{sha256(image.config)}.json" if old else f"blobs/sha256/{sha256(image.config)}"
    members[config] = image.config
    members["manifest.json"] = json.dumps(
        [{"Config": config, "RepoTags": list(names) or None, "Layers": paths}]
    ).encode()
    return tar_of(members)


def oci_archive(image: BuiltImage, name: str = "") -> bytes:
    """Return an OCI layout in a tar."""
    manifest = image.manifest(oci=True)
    annotations = {"org.opencontainers.image.ref.name": name} if name else {}
    index = {
        "schemaVersion": 2,
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", manifest, annotations=annotations)],
    }
    members: dict[str, bytes | None] = {f"blobs/sha256/{sha256(blob)}": blob for blob in image.blobs}
    members[f"blobs/sha256/{sha256(image.config)}"] = image.config
    members[f"blobs/sha256/{sha256(manifest)}"] = manifest
    members["index.json"] = json.dumps(index).encode()
    members["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return tar_of(members)
