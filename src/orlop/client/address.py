"""Where the engine listens: ``-H``, DOCKER_HOST, contexts, the default socket (conventions.md, Environment)."""

from __future__ import annotations

import os

from orlop.errors import InvalidParameterError, NotFoundError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET = "/run/orlop/orlop.sock"
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"


class Address:
    """An engine's address.

    Attributes:
        text: as the user wrote it, for messages.
        path: the unix socket, or None.
        host: the TCP host, with ``port``, when ``path`` is None.
        is_default: nothing named it: the command line may start an engine there.
    """

    __slots__ = ("host", "is_default", "path", "port", "text")

    def __init__(self, text: str, *, path: str | None = None, host: str = "", port: int = 0) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.is_default = False


def parse_address(text: str) -> Address:
    """Parse ``unix:///path`` or ``tcp://host[:port]``.

    Raises:
        UnsupportedError: ssh, npipe and fd addresses.
        InvalidParameterError: anything else.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidParameterError(f"invalid bind address format: {text}")
    if scheme == "unix":
        return Address(text, path=rest or DEFAULT_SOCKET)
    if scheme in ("tcp", "http"):
        host, port = _host_port(rest.partition("/")[0], text)
        return Address(text, host=host, port=port)
    if scheme in ("ssh", "npipe", "fd", "https"):
        raise UnsupportedError(f"addresses of this kind are not supported yet: {text}")
    raise InvalidParameterError(f"invalid bind address format: {text}")


def find_address(
    *, host: str | None = None, context: str | None = None, environment: Mapping[str, str] | None = None
) -> Address:
    """Choose the engine: ``-H``, ``--context``, DOCKER_HOST, DOCKER_CONTEXT, the current context, else the default.

    Raises:
        InvalidParameterError: bad address, or both a host and a context.
        NotFoundError: no such context.
        UnsupportedError: an address that this client can't reach, or TLS.
    """
    environment = os.environ if environment is None else environment
    if host and context:
        raise InvalidParameterError("conflicting options: cannot specify both --host and --context")
    if environment.get("DOCKER_TLS_VERIFY") and not (host or "").startswith("unix://"):
        raise UnsupportedError("TLS connections are not supported yet: unset DOCKER_TLS_VERIFY")
    if host:
        return parse_address(host)
    if not context:
        if environment.get("DOCKER_HOST"):
            return parse_address(environment["DOCKER_HOST"])
        context = environment.get("DOCKER_CONTEXT") or _current_context(environment)
    if context and context != "default":
        return parse_address(_context_host(context, environment))
    default = parse_address(DEFAULT_HOST)
    default.is_default = True
    return default


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


def _context_host(name: str, environment: Mapping[str, str]) -> str:
    import hashlib

    digest = hashlib.sha256(name.encode()).hexdigest()
    path = os.path.join(config_directory(environment), "contexts", "meta", digest, "meta.json")
    if not os.path.exists(path):
        raise NotFoundError(f'context "{name}": context not found: open {path}: no such file or directory')
    endpoints = _read_json(path).get("Endpoints")
    endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
    host = endpoint.get("Host") if isinstance(endpoint, dict) else None
    if not isinstance(host, str) or not host:
        raise InvalidParameterError(f'context "{name}" has no docker endpoint')
    return host


def _read_json(path: str) -> dict[str, object]:
    import json

    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidParameterError(f"cannot read {path}: {error}") from None
    return document if isinstance(document, dict) else {}


def _host_port(text: str, whole: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        host, colon, port = text, "", ""
    if not colon:
        host, port = text, "2375"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidParameterError(f"invalid bind address format: {whole}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
