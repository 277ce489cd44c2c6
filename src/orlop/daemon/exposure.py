"""What the engine's sockets are worth: TLS for those of TCP, and what is said of those without (threats.md H2).

Docker's settings mean what they mean in dockerd 26: naming ``tlsverify`` switches TLS on, ``tls`` alone demands client
certificates as well, and only an explicit ``false`` of either says that whoever comes may come.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from orlop.daemon.options import Options

_NAMES = ("ca.pem", "cert.pem", "key.pem")
_OWN = "/etc/orlop"
_ROOT = """
         Access to the remote API is equivalent to root access on the host. Refer
         to the 'Docker daemon attack surface' section in the documentation for
         more information: https://docs.docker.com/go/attack-surface/"""


def uses_tls(options: Options) -> bool:
    """Whether TCP sockets speak TLS."""
    return bool(options.tls) or options.tlsverify is not None


def verifies_clients(options: Options) -> bool:
    """Whether a client must show a certificate of the authority."""
    return uses_tls(options) and options.tlsverify is not False


def server_context(options: Options) -> ssl.SSLContext | None:
    """Read the certificates; None without TLS.

    Raises:
        InvalidParameterError: a file is missing, unreadable or does not fit, in dockerd's words.
    """
    if not uses_tls(options):
        return None
    from orlop.tls import material

    authority, certificate, key = _files(options)
    try:
        return material.server_context(certificate, key, authority if verifies_clients(options) else None)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"invalid TLS configuration: {error}") from None


def check_exposure(options: Options) -> None:
    """Read the certificates, and refuse a TCP socket that gives root to everybody, unless that was said.

    Raises:
        InvalidParameterError: see there, and settings that contradict each other.
    """
    server_context(options)
    if uses_tls(options) and options.tcp_without_tls:
        raise InvalidParameterError("conflicting options: tcp-without-tls and tls")
    if any(host.startswith("tcp://") for host in options.hosts):
        require_intent(options)


def require_intent(options: Options) -> None:
    """Refuse to listen on TCP for everybody, unless the administrator said that it is meant.

    Raises:
        InvalidParameterError: it was not said.
    """
    meant = options.tcp_without_tls or options.tls is False or options.tlsverify is False
    if not verifies_clients(options) and not meant:
        raise InvalidParameterError(
            "refusing to listen on TCP without TLS: whoever reaches the port is root on this machine"
            " (--tlsverify with --tlscacert, --tlscert and --tlskey protects it, --tcp-without-tls allows it)",
        )


def contexts_of(
    options: Options, sockets: Sequence[socket.socket]
) -> list[tuple[socket.socket, ssl.SSLContext | None]]:
    """Return each listening socket with the TLS that it speaks; also those that systemd opened.

    Raises:
        InvalidParameterError: as :func:`check_exposure`.
    """
    context = server_context(options)
    found: list[tuple[socket.socket, ssl.SSLContext | None]] = []
    for sock in sockets:
        if sock.family == socket.AF_UNIX:
            found.append((sock, None))
            continue
        require_intent(options)
        found.append((sock, context))
    return found


def exposure_warnings(options: Options) -> tuple[str, ...]:
    """Return what ``docker info`` says of sockets that let everybody in, in Docker's words."""
    if verifies_clients(options):
        return ()
    scheme, lack = ("https", "TLS client verification") if uses_tls(options) else ("http", "encryption")
    hosts = [host.removeprefix("tcp://") for host in options.hosts if host.startswith("tcp://")]
    return tuple(f"WARNING: API is accessible on {scheme}://{host} without {lack}.{_ROOT}" for host in hosts)


def _files(options: Options) -> tuple[str, str, str]:
    """Return authority, certificate and key; Docker's defaults, or those of /etc/orlop where a certificate is there."""
    directory = os.environ.get("DOCKER_CERT_PATH") or (
        _OWN if os.path.exists(f"{_OWN}/cert.pem") else os.path.expanduser("~/.docker")
    )
    given = (options.tlscacert, options.tlscert, options.tlskey)
    authority, certificate, key = (chosen or f"{directory}/{name}" for chosen, name in zip(given, _NAMES, strict=True))
    return authority, certificate, key
