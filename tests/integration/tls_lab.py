"""An authority with an engine's and clients' certificates, made with openssl, and an engine that listens by TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import Engine

PORT = 23760
ADDRESS = f"tcp://127.0.0.1:{PORT}"


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory: Path, name: str = "orlop test authority") -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca-key.pem"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, into: Path, *, usage: str, names: str = "", kind: tuple[str, ...] = ()) -> Path:
        """Make ``ca.pem``, ``cert.pem`` and ``key.pem`` in a directory: an engine's or a client's."""
        into.mkdir(parents=True)
        request, extensions = into / "request", into / "extensions"
        extensions.write_text(f"extendedKeyUsage={usage}\n" + (f"subjectAltName={names}\n" if names else ""))
        kind = kind or ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        _openssl("req", "-newkey", *kind, "-nodes", "-subj", "/CN=x", "-keyout", into / "key.pem", "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", into / "cert.pem"),
        )
        (into / "ca.pem").write_bytes(self.certificate.read_bytes())
        return into


class Material:
    """What the tests show each other: ``server``, ``client``, and a ``stranger`` of another authority."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "authority")
        self.server = authority.issue(
            directory / "server", usage="serverAuth", names="IP:127.0.0.1,DNS:localhost,DNS:engine.example"
        )
        self.client = authority.issue(directory / "client", usage="clientAuth")
        self.elsewhere = authority.issue(directory / "elsewhere", usage="serverAuth", names="DNS:elsewhere.example")
        self.stranger = Authority(directory / "other", "another authority").issue(
            directory / "stranger", usage="clientAuth"
        )


def tls_flags(directory: Path) -> tuple[str, ...]:
    """Return an engine's or a client's flags for the files of a directory."""
    return (
        *("--tlsverify", "--tlscacert", str(directory / "ca.pem")),
        *("--tlscert", str(directory / "cert.pem"), "--tlskey", str(directory / "key.pem")),
    )


def tls_environment(engine: Engine, directory: Path) -> dict[str, str]:
    """Return the environment of a client that finds the engine by TLS, in the engine's network namespace."""
    return {
        **engine.environment,
        "DOCKER_HOST": ADDRESS,
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(directory),
    }


class Lab:
    """An engine that listens by TLS, and clients in its network namespace."""

    def __init__(self, engine: Engine, material: Material) -> None:
        self.engine = engine
        self.material = material

    @property
    def environment(self) -> dict[str, str]:
        return tls_environment(self.engine, self.material.client)

    def command(self, *words) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.engine.netns_holder.pid}/ns/net", "--", *map(str, words)]

    def run(self, *words, check=True, text=True, env=None, **options):
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        environment = {name: text for name, text in {**self.environment, **(env or {})}.items() if text is not None}
        done = subprocess.run(
            self.command(*words), capture_output=True, check=False, env=environment, text=text, timeout=120, **options
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr, self.engine.log_text()[-3000:])
        return done

    def start(self, *words, **options) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*words), env=self.environment, **options)

    def joined(self) -> int:
        """How many sockets of TCP the engine has."""
        text = self.engine.in_network("ss", "-Htn", "state", "connected", f"( sport = :{PORT} )").stdout
        return len([line for line in text.splitlines() if not line.startswith(("TIME-WAIT", "FIN-WAIT"))])
