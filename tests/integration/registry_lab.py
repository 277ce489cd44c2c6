"""A real registry for an engine under test: Debian's docker-registry, in the engine's network namespace."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

from harness import REGISTRY, Engine, wait_for

# "user" with the password "secret"; bcrypt
HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


class Registry:
    """A running registry at ``host`` (127.0.0.1:port), data in ``home``."""

    def __init__(self, engine: Engine, *, port: int = 5000, htpasswd: bool = False, tls: Path | None = None) -> None:
        self.engine = engine
        self.host = f"127.0.0.1:{port}"
        self.scheme = "https" if tls else "http"
        self.home = engine.home / f"registry-{port}"
        self.home.mkdir()
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.home / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if htpasswd:
            (self.home / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self.home / "htpasswd")}}
        if tls:
            config["http"]["tls"] = {"certificate": str(tls / "cert.pem"), "key": str(tls / "key.pem")}
        (self.home / "config.yml").write_text(json.dumps(config))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert self.engine.netns_holder is not None
        net = f"--net=/proc/{self.engine.netns_holder.pid}/ns/net"
        log = (self.home / "log").open("ab")
        self.process = subprocess.Popen(
            ["nsenter", net, "--", REGISTRY, "serve", str(self.home / "config.yml")], stdout=log, stderr=log
        )
        log.close()
        wait_for(lambda: self.curl("/v2/", check=False).returncode == 0, what="registry")

    def curl(self, path: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.engine.in_network("curl", "-sk", *options, f"{self.scheme}://{self.host}{path}", check=check)

    def manifest(self, repository: str, reference: str) -> bytes:
        accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        return self.curl(f"/v2/{repository}/manifests/{reference}", "-H", f"Accept: {accept}").stdout.encode()

    def blob_path(self, digest: str) -> Path:
        hexadecimal = digest.removeprefix("sha256:")
        return self.home / f"data/docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.home)


def make_certificate(directory: Path) -> Path:
    """Make a certificate for 127.0.0.1 that vouches for itself: cert.pem and key.pem in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=orlop-test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return directory
