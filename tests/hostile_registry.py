"""A registry that behaves badly, in the way that a repository's first component says; also a program of its own.

``python hostile_registry.py PORT DIRECTORY`` serves the blobs and manifests of DIRECTORY (:func:`put_image`). What was
asked for is told by ``GET /log``; by ``GET /most`` how many layers were sent at the same time since it was asked last, and by
``GET /now`` how many are.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

from aiohttp import web

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from image_builder import BuiltImage, descriptor, sha256

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def put_image(directory: Path, image: BuiltImage, *, manifest: bytes | None = None) -> bytes:
    """Store an image under the tag ``1`` of every repository; returns its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest = manifest or image.manifest()
    for data in (*image.blobs, image.config, manifest):
        (directory / sha256(data)).write_bytes(data)
    (directory / "1").write_bytes(manifest)
    return manifest


class HostileRegistry:
    """The application; ``log`` holds (method, path, Authorization, Range)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log: list[tuple[str, str, str, str]] = []
        self.counts: dict[str, int] = {}
        self.app = web.Application(client_max_size=1 << 30)
        self.app.router.add_route("*", "/{tail:.*}", self.answer)
        self.uploads: dict[str, bytearray] = {}
        self.under_way = self.most_under_way = 0  # layers that are being sent

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/log":
            return web.json_response(self.log)
        if request.path == "/now":
            return web.json_response(self.under_way)
        if request.path == "/most":
            most, self.most_under_way = self.most_under_way, self.under_way
            return web.json_response(most)
        headers = request.headers
        self.log.append((request.method, request.path, headers.get("Authorization", ""), headers.get("Range", "")))
        if request.path == "/v2/":
            return web.Response()
        if request.path == "/token":
            return web.json_response({"token": "t0ken", "expires_in": 300})
        if request.path.startswith("/cdn/"):
            return await self.blob(request, "good", request.path[5:])
        match = re.fullmatch(r"/v2/([^/]+)/(.+)/(manifests|blobs)/(.+)", request.path)
        if match is None:
            return web.Response(status=404)
        behaviour, _, kind, name = match.groups()
        refusal = self.refuse(request, behaviour, kind)
        if refusal is not None:
            return refusal
        if name.startswith("uploads"):
            return await self.upload(request, behaviour, name)
        if kind == "manifests":
            return self.manifest(request, behaviour, name)
        return await self.blob(request, behaviour, name.removeprefix("sha256:"))

    def count(self, key: str) -> int:
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key]

    def refuse(self, request: web.Request, behaviour: str, kind: str) -> web.Response | None:
        times = self.count(f"{behaviour} {request.path} {request.method}")
        if behaviour == "toomany" and times <= 2:
            errors = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}
            return web.json_response(errors, status=429, headers={"Retry-After": "0"})
        if behaviour == "flaky" and times <= 2:
            return web.Response(status=503)
        if behaviour == "down":
            return web.Response(status=503, text="<html>maintenance</html>")
        if behaviour == "denied":
            return web.json_response(
                {"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}, status=403
            )
        if behaviour == "html":
            return web.Response(text="<html>log in please</html>", content_type="text/html", status=200)
        if behaviour == "forbidden":
            return web.Response(text="<html>no\x1b[31m</html>", content_type="text/html", status=403)
        token = request.headers.get("Authorization", "")
        realms = {
            "token": f"http://127.0.0.1:{request.url.port}/token",
            "evilrealm": "http://attacker.example/token",
            "ftprealm": "ftp://127.0.0.1/token",
            "norealm": "",
        }
        if behaviour in realms and token != "Bearer t0ken":
            challenge = f'Bearer realm="{realms[behaviour]}",service="test",scope="repository:x:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if behaviour in ("basic", "elsewhere", "ask") and not token:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        del kind
        return None

    def manifest(self, request: web.Request, behaviour: str, name: str) -> web.StreamResponse:
        path = self.directory / name.removeprefix("sha256:")
        data = path.read_bytes() if path.exists() else None
        media_type = MANIFEST
        if data is None:
            return web.json_response(
                {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}, status=404
            )
        document = json.loads(data)
        media_type = document.get("mediaType", MANIFEST)
        by_tag = not name.startswith("sha256:")
        if behaviour == "hugemanifest" and by_tag:
            data = b'{"x":"' + b"y" * (5 << 20) + b'"}'
        elif behaviour == "confused" and by_tag:
            data = json.dumps({**document, "manifests": []}).encode()
        elif behaviour == "twice" and by_tag:
            data = data[:-1] + b', "layers": []}'
        elif behaviour == "othertype" and by_tag:
            media_type = INDEX
        elif behaviour == "schema1" and by_tag:
            data, media_type = b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws"
        elif behaviour == "otherdigest" and not by_tag:
            data += b" "
        elif behaviour == "nested" and by_tag:
            data = self.nested(data)
            media_type = INDEX
        elif behaviour == "index" and by_tag:
            data = self.index(data, {"linux/amd64": data})
            media_type = INDEX
        elif behaviour == "arm" and by_tag:
            data = self.index(data, {"linux/arm64/v8": data})
            media_type = INDEX
        elif behaviour == "plugin" and by_tag:
            document["config"]["mediaType"] = "application/vnd.docker.plugin.v1+json"
            data = json.dumps(document).encode()
        elif behaviour == "foreign" and by_tag:
            document["layers"][0] |= {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "urls": [f"http://127.0.0.1:{request.url.port}/stolen"],
            }
            data = json.dumps(document).encode()
        elif behaviour == "many" and by_tag:
            document["layers"] = document["layers"] * 200
            data = json.dumps(document).encode()
        elif behaviour == "hugeconfig" and by_tag:
            document["config"]["size"] = 1 << 40
            data = json.dumps(document).encode()
        elif behaviour == "traversal" and by_tag:
            document["layers"][0]["digest"] = "sha256:../../../../etc/passwd"
            data = json.dumps(document).encode()
        digest = f"sha256:{sha256(data)}" if behaviour != "headerlies" else f"sha256:{'a' * 64}"
        headers = {"Docker-Content-Digest": digest}
        if by_tag:
            (self.directory / sha256(data)).write_bytes(data)
        body = b"" if request.method == "HEAD" else data
        return web.Response(body=body, headers={**headers, "Content-Type": media_type})

    def index(self, manifest: bytes, platforms: dict[str, bytes]) -> bytes:
        entries = []
        for platform, data in platforms.items():
            system, architecture, *variant = platform.split("/")
            entries.append(
                descriptor(
                    MANIFEST,
                    data,
                    platform={
                        "os": system,
                        "architecture": architecture,
                        **({"variant": variant[0]} if variant else {}),
                    },
                )
            )
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        (self.directory / sha256(data)).write_bytes(data)
        del manifest
        return data

    def nested(self, manifest: bytes) -> bytes:
        data, kind = manifest, MANIFEST
        for _ in range(5):
            entry = descriptor(kind, data, platform={"os": "linux", "architecture": "amd64"})
            data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
            kind = INDEX
            (self.directory / sha256(data)).write_bytes(data)
        return data

    async def blob(self, request: web.Request, behaviour: str, name: str) -> web.StreamResponse:
        path = self.directory / name
        if not path.exists():
            return web.Response(status=404)
        data = path.read_bytes()
        port = request.url.port
        if behaviour == "elsewhere":  # another host as far as names go
            return web.Response(status=307, headers={"Location": f"http://localhost:{port}/cdn/{name}"})
        if behaviour == "loop":
            return web.Response(status=307, headers={"Location": request.path})
        if behaviour == "nowhere":
            return web.Response(status=307, headers={"Location": "file:///etc/passwd"})
        is_layer = len(data) > 1000 or path.name.startswith("layer")
        if request.method == "HEAD" or not is_layer:
            return web.Response(body=data)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if behaviour == "patient":
                await asyncio.sleep(0.3)
            return await self.layer(request, behaviour, data)
        finally:
            self.under_way -= 1

    async def layer(self, request: web.Request, behaviour: str, data: bytes) -> web.StreamResponse:
        asked = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("Range", ""))
        start = int(asked[1]) if asked and behaviour != "noranges" else 0
        if behaviour == "unsatisfiable" and asked and self.count("416") == 1:
            return web.Response(status=416)
        if behaviour == "liar":
            data = bytes([data[0], data[1], data[2], *data[3:-10], *bytes(10)])
        if behaviour == "liaronce" and self.count("liaronce") == 1:
            data = data[:100] + bytes(100) + data[200:]
        size = len(data)
        headers = {"Content-Length": str(size - start)}
        if behaviour == "wrongrange" and start:
            headers["Content-Range"] = f"bytes 0-{size - 1}/{size}"
        elif start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        end = size
        if behaviour in ("cut", "wrongrange", "noranges", "unsatisfiable", "liaronce"):
            cuts = self.count(f"cut {request.path}")
            end = size if behaviour != "cut" and cuts > 2 else min(start + size // 3 + 1, size)
        if behaviour == "short":
            end = max(size // 2, start)
            headers["Content-Length"] = str(end - start)
        if behaviour == "long":
            headers["Content-Length"], data = str(size + 5), data + b"extra"
            end = len(data)
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if behaviour == "stall":
            await response.write(data[start : size // 2])
            await asyncio.sleep(3600)
        if behaviour == "slow" or (behaviour == "slowfirst" and self.is_first(request.path)):
            for position in range(start, size, size // 50 + 1):
                await response.write(data[position : position + size // 50 + 1])
                await asyncio.sleep(0.1)
        else:
            await response.write(data[start:end])
        if end < size and behaviour != "short":
            assert request.transport is not None
            request.transport.close()
        return response

    def is_first(self, path: str) -> bool:
        layers = json.loads((self.directory / "1").read_bytes())["layers"]
        return path.endswith(layers[0]["digest"])

    async def upload(self, request: web.Request, behaviour: str, name: str) -> web.Response:
        port = request.url.port
        place = f"/v2/{behaviour}/x/blobs/uploads/1"
        if behaviour == "uploadelsewhere":
            place = f"http://localhost:{port}{place}"
        store = self.uploads.setdefault("1", bytearray())
        if request.method == "POST":
            store.clear()
            return web.Response(status=202, headers={"Location": place})
        if request.method == "GET":
            return web.Response(status=204, headers={"Location": place, "Range": f"0-{max(len(store) - 1, 0)}"})
        if behaviour == "uploadcut" and request.method == "PATCH" and self.count("uploadcut") <= 2:
            store += await request.content.read(3 << 20)
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        store += await request.read()
        if request.method == "PATCH":
            return web.Response(status=202, headers={"Location": place})
        wanted = request.query.get("digest", "")
        if f"sha256:{sha256(bytes(store))}" != wanted:
            return web.json_response({"errors": [{"code": "DIGEST_INVALID", "message": "digest"}]}, status=400)
        return web.Response(status=201)


if __name__ == "__main__":
    web.run_app(
        HostileRegistry(Path(sys.argv[2])).app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        handle_signals=False,
    )
