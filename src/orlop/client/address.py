"""Where the engine listens: ``-H``, DOCKER_HOST, contexts, the default socket."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

DEFAULT_SOCKET = "/run/orlop/orlop.sock"
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"


class Address:
    """An engine's address.

    Attributes:
        text: as the user wrote it, for messages.
        path: the unix socket, or None.
        host: the TCP host, with ``port``, when ``path`` is None.
        tls: what is spoken there by TLS with; None for plain TCP and unix sockets.
        is_default: nothing named it: the command line may start an engine there.
    """

    __slots__ = ("host", "is_default", "path", "port", "text", "tls")

    def __init__(
        self, text: str, *, path: str | None = None, host: str = "", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.tls = tls
        self.is_default = False


class Tls:
    """How a client makes sure of an engine, and shows who it is; paths of PEM files, empty for none.

    Attributes:
        authority: what signs the engine's certificate.
        certificate: the client's own, with ``key``.
        verify: whether the engine's certificate is looked at, at all.
    """

    __slots__ = ("authority", "certificate", "key", "verify")

    def __init__(self, *, authority: str = "", certificate: str = "", key: str = "", verify: bool = True) -> None:
        self.authority = authority
        self.certificate = certificate
        self.key = key
        self.verify = verify

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises InvalidParameterError."""
        from orlop.tls.material import client_context

        return client_context(authority=self.authority, certificate=self.certificate, key=self.key, verify=self.verify)


class TlsFlags:
    """The flags of the command line; None where one was not given."""

    __slots__ = ("cacert", "cert", "key", "tls", "tlsverify")

    def __init__(
        self,
        *,
        tls: bool | None = None,
        tlsverify: bool | None = None,
        cacert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        self.tls = tls
        self.tlsverify = tlsverify
        self.cacert = cacert
        self.cert = cert
        self.key = key

    def choose(self, environment: Mapping[str, str]) -> Tls | None:
        """Join flags and DOCKER_TLS, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH as the docker client does; None: no TLS."""
        verify = bool(environment.get("DOCKER_TLS_VERIFY")) if self.tlsverify is None else self.tlsverify
        wanted = bool(environment.get("DOCKER_TLS")) if self.tls is None else self.tls
        if not wanted and not verify and self.tlsverify is None:
            return None
        directory = environment.get("DOCKER_CERT_PATH") or config_directory(environment)
        default = {name: os.path.join(directory, f"{name}.pem") for name in ("ca", "cert", "key")}
        return Tls(
            authority=default["ca"] if self.cacert is None else self.cacert,
            certificate=_existing(default["cert"]) if self.cert is None else self.cert,
            key=_existing(default["key"]) if self.key is None else self.key,
            verify=verify,
        )

    @property
    def given(self) -> bool:
        """Whether a flag asks for TLS."""
        return bool(self.tls) or self.tlsverify is not None


def parse_address(text: str, tls: Tls | None = None) -> Address:
    """Parse ``unix:///path`` or ``tcp://host[:port]``; ``tls`` is for the latter.

    Raises:
        UnsupportedError: ssh, npipe and fd addresses.
        InvalidParameterError: anything else, and what is wrong with the files of ``tls``.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidParameterError(f"invalid bind address format: {text}")
    if scheme == "unix":
        return Address(text, path=rest or DEFAULT_SOCKET)
    if scheme in ("tcp", "http"):
        host, port = _host_port(rest.partition("/")[0], text, default="2376" if tls else "2375")
        return Address(text, host=host, port=port, tls=tls.context() if tls is not None else None)
    if scheme in ("ssh", "npipe", "fd", "https"):
        raise UnsupportedError(f"addresses of this kind are not supported yet: {text}")
    raise InvalidParameterError(f"invalid bind address format: {text}")


def find_address(
    *,
    host: str | None = None,
    context: str | None = None,
    environment: Mapping[str, str] | None = None,
    tls: TlsFlags | None = None,
) -> Address:
    """Choose the engine: ``-H``, ``--context``, DOCKER_HOST, DOCKER_CONTEXT, the current context, else the default.

    TLS is what flags and environment say for an address, and what a context says for its own.

    Raises:
        InvalidParameterError: bad address, both a host and a context, or TLS for what is no TCP address.
        NotFoundError: no such context.
        UnsupportedError: an address that this client can't reach.
    """
    environment = os.environ if environment is None else environment
    flags = tls or TlsFlags()
    if host and context:
        raise InvalidParameterError("conflicting options: cannot specify both --host and --context")
    host = host or ("" if context else environment.get("DOCKER_HOST"))
    if not host:
        context = context or environment.get("DOCKER_CONTEXT") or _current_context(environment)
    if host:
        found = parse_address(host, flags.choose(environment))
    elif context and context != "default":
        return parse_address(*_endpoint(context, environment))
    else:
        found = parse_address(DEFAULT_HOST)
        found.is_default = True
    if flags.given and found.path is not None:
        raise InvalidParameterError(f"TLS is spoken on tcp:// addresses only: {found.text}")
    return found


def config_directory(environment: Mapping[str, str]) -> str:
    """Return the directory of config.json and contexts."""
    home = environment.get("HOME") or os.path.expanduser("~")
    return environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker")


def _current_context(environment: Mapping[str, str]) -> str:
    path = os.path.join(config_directory(environment), "config.json")
    if not os.path.exists(path):
        return ""
    document = _read_json(path)
    current = document.get("currentContext")
    return current if isinstance(current, str) else ""


def _endpoint(name: str, environment: Mapping[str, str]) -> tuple[str, Tls | None]:
    """Return a context's address and what it is spoken to with (docker/cli, context/docker)."""
    import hashlib

    digest = hashlib.sha256(name.encode()).hexdigest()
    contexts = os.path.join(config_directory(environment), "contexts")
    path = os.path.join(contexts, "meta", digest, "meta.json")
    if not os.path.exists(path):
        raise NotFoundError(f'context "{name}": context not found: open {path}: no such file or directory')
    endpoints = _read_json(path).get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    host = endpoint.get("Host") if isinstance(endpoint, dict) else None
    if not isinstance(host, str) or not host:
        raise InvalidParameterError(f'context "{name}" has no docker endpoint')
    files = [
        _existing(os.path.join(contexts, "tls", digest, "docker", f"{what}.pem")) for what in ("ca", "cert", "key")
    ]
    unchecked = isinstance(endpoint, dict) and endpoint.get("SkipTLSVerify") is True
    if not any(files) and not unchecked:
        return host, None
    authority, certificate, key = files
    return host, Tls(authority=authority, certificate=certificate, key=key, verify=not unchecked)


def _existing(path: str) -> str:
    return path if os.path.exists(path) else ""


def _read_json(path: str) -> dict[str, object]:
    import json

    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidParameterError(f"cannot read {path}: {error}") from None
    return document if isinstance(document, dict) else {}


def _host_port(text: str, whole: str, *, default: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, colon, port = text, "", ""
    if not colon:
        host, port = text, default
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidParameterError(f"invalid bind address format: {whole}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
