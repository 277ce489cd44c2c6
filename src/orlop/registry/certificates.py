"""TLS: which certificates a registry must show, and which we show it.

::

    certs.d/<host:port>/*.crt            authorities, beside the system's
    certs.d/<host:port>/<name>.cert      a client certificate, with
    certs.d/<host:port>/<name>.key       its key
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.registry.endpoints import Trust

DIRECTORIES = ("/etc/orlop/certs.d", "/etc/docker/certs.d")


class Certificates:
    """Makes TLS contexts and keeps each as long as its files do not change."""

    def __init__(self, directories: Sequence[str] = DIRECTORIES) -> None:
        self._directories = directories
        self._contexts: dict[tuple[str, bool], tuple[tuple[object, ...], ssl.SSLContext]] = {}
        self._trusting: dict[tuple[str, Trust], tuple[tuple[object, ...], ssl.SSLContext]] = {}

    def context(self, host: str, *, insecure: bool) -> ssl.SSLContext:
        """Return the context for a host and port. Reads files: call it from a thread.

        Raises:
            InvalidParameterError: half of a client certificate, in Docker's words.
            SystemFailureError: a file cannot be read or is no certificate.
        """
        files = self._files(host)
        state = tuple((path, os.stat(path).st_mtime_ns, os.stat(path).st_size) for path in files)
        known = self._contexts.get((host, insecure))
        if known is not None and known[0] == state:
            return known[1]
        context = _make_context(files, insecure=insecure)
        self._contexts[host, insecure] = state, context
        return context

    def context_of(self, host: str, trust: Trust) -> ssl.SSLContext:
        """Return the context for a host of which ``hosts.toml`` says more. Reads files: call it from a thread.

        Raises:
            InvalidParameterError, SystemFailureError: as :meth:`context`.
        """
        files = [*trust.authorities, *(path for pair in trust.clients for path in pair if path)]
        try:
            state = (trust, *((path, os.stat(path).st_mtime_ns) for path in files))
        except OSError as error:
            raise SystemFailureError(f"{error.filename}: {(error.strerror or '').lower()}") from error
        known = self._trusting.get((host, trust))
        if known is not None and known[0] == state:
            return known[1]
        # a copy of what certs.d says without it would be shared with others
        context = _make_context(self._files(host), insecure=trust.skip_verify)
        try:
            for path in trust.authorities:
                context.load_verify_locations(cafile=path)
            for certificate, key in trust.clients:
                context.load_cert_chain(certificate, key or None)
        except OSError as error:  # ssl.SSLError is one
            raise SystemFailureError(f"certificates of {host}: {(error.strerror or str(error)).lower()}") from error
        self._trusting[host, trust] = state, context
        return context

    def _files(self, host: str) -> list[str]:
        if "/" in host or host in ("", ".", ".."):
            return []
        for directory in self._directories:
            path = os.path.join(directory, host)
            try:
                names = sorted(os.listdir(path))
            except OSError:
                continue
            return [os.path.join(path, name) for name in names if name.endswith((".crt", ".cert", ".key"))]
        return []


def _make_context(files: Sequence[str], *, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in files:
        _load(context, path)
    return context


def _load(context: ssl.SSLContext, path: str) -> None:
    stem, extension = os.path.splitext(path)
    try:
        if extension == ".crt":
            context.load_verify_locations(cafile=path)
        elif extension == ".cert":
            if not os.path.exists(f"{stem}.key"):
                name = os.path.basename(stem)
                raise InvalidParameterError(f"missing key {name}.key for client certificate {name}.cert")
            context.load_cert_chain(path, f"{stem}.key")
        elif not os.path.exists(f"{stem}.cert"):
            name = os.path.basename(stem)
            raise InvalidParameterError(f"missing client certificate {name}.cert for key {name}.key")
    except OSError as error:  # ssl.SSLError is one
        raise SystemFailureError(f"{path}: {(error.strerror or str(error)).lower()}") from error
