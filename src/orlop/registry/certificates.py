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

DIRECTORIES = ("/etc/orlop/certs.d", "/etc/docker/certs.d")


class Certificates:
    """Makes TLS contexts and keeps each as long as its files do not change."""

    def __init__(self, directories: Sequence[str] = DIRECTORIES) -> None:
        self._directories = directories
        self._contexts: dict[tuple[str, bool], tuple[tuple[object, ...], ssl.SSLContext]] = {}

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
        context = ssl.create_default_context()
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for path in files:
            _load(context, path)
        self._contexts[host, insecure] = state, context
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
