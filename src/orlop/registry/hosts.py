"""``hosts.toml``: where one registry's images are pulled from, as containerd's users write it down.

::

    certs.d/<host:port>/hosts.toml        of one registry, or
    certs.d/_default/hosts.toml           of all that have none

    server = "https://registry.example"          where what no mirror has comes from, and what is pushed goes

    [host."https://mirror.example:5000"]         tried before it, in the file's order
      capabilities = ["pull", "resolve"]
      ca = "mirror.crt"                          beside the system's; paths are the directory's unless absolute
      client = [["mirror.cert", "mirror.key"]]
      skip_verify = false
      override_path = true                       the URL's path is the API's, without /v2
      [host."https://mirror.example:5000".header]
        x-custom = "value"

As any mirror, a host never gets the user's credentials and is never pushed to (threats.md E9). What is not in this list
is refused, and so is a host that may be pulled from and not be asked for tags.
"""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orlop.errors import InvalidParameterError, SystemFailureError
from orlop.registry.endpoints import HUB, Endpoint, Trust
from orlop.spec.reference import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "hosts.toml"
_DEFAULT = "_default"
_LIMIT = 1 << 20
_OF_HOST = frozenset({"capabilities", "ca", "client", "skip_verify", "override_path", "header"})


def read_hosts(directories: Sequence[str], domain: str) -> list[Endpoint] | None:
    """Return a registry's mirrors in order, and the registry itself as the last; None if no file says so.

    Raises:
        InvalidParameterError: the file is not as above; the message names it.
        SystemFailureError: it cannot be read.
    """
    if "/" in domain or domain in ("", ".", ".."):
        return None
    for name in (domain, _DEFAULT):
        for directory in directories:
            path = os.path.join(directory, name, NAME)
            try:
                with open(path, "rb") as file:
                    data = file.read(_LIMIT)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise SystemFailureError(f"{path}: {(error.strerror or '').lower()}") from error
            return _File(path, data).endpoints(domain)
    return None


class _File:
    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        try:
            self._document = tomllib.loads(data.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise self._fault(str(error)) from None

    def _fault(self, text: str) -> InvalidParameterError:
        return InvalidParameterError(f"{self._path}: {text}")

    def endpoints(self, domain: str) -> list[Endpoint]:
        hosts = self._document.get("host", {})
        if not isinstance(hosts, dict):
            raise self._fault("host is not a table")
        found = [self._endpoint(url, table, mirror=True) for url, table in hosts.items()]
        server = self._document.get("server", HUB if domain == DEFAULT_DOMAIN else f"https://{domain}")
        own = {key: value for key, value in self._document.items() if key not in ("server", "host")}
        return [*found, self._endpoint(server, own, mirror=False)]

    def _endpoint(self, url: object, table: object, *, mirror: bool) -> Endpoint:
        if not isinstance(url, str) or not isinstance(table, dict):
            raise self._fault(f"not a host: {url!r:.100}")
        text = url if "://" in url else f"https://{url}"
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username is not None:
            raise self._fault(f"not the URL of a host: {url:.200}")
        if unknown := sorted(set(table) - _OF_HOST):
            raise self._fault(f"unknown key: {unknown[0]}")
        capabilities = self._texts(table, "capabilities") or ("pull", "resolve")
        if mirror and not {"pull", "resolve"} <= set(capabilities):
            raise self._fault(f"a host must have the capabilities pull and resolve: {url:.200}")
        trust = Trust(
            authorities=tuple(self._beside(name) for name in self._texts(table, "ca")),
            clients=self._clients(table),
            skip_verify=self._boolean(table, "skip_verify"),
            headers=self._headers(table),
        )
        path = parts.path.rstrip("/")
        api = f"{parts.scheme}://{parts.netloc}{path}"
        if not self._boolean(table, "override_path") and not path.endswith("/v2"):
            api += "/v2"
        insecure = trust.skip_verify or parts.scheme == "http"  # the administrator says so
        return Endpoint(f"{parts.scheme}://{parts.netloc}", insecure=insecure, mirror=mirror, path=api, trust=trust)

    def _texts(self, table: Mapping[str, object], key: str) -> tuple[str, ...]:
        value = table.get(key, ())
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise self._fault(f"{key} is not a list of texts")
        return tuple(str(item) for item in items)

    def _boolean(self, table: Mapping[str, object], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self._fault(f"{key} is neither true nor false")
        return value

    def _clients(self, table: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
        value = table.get("client", ())
        items = (value,) if isinstance(value, str) else value
        found = []
        for item in items if isinstance(items, list | tuple) else (None,):
            match item:
                case str():
                    found.append((self._beside(item), ""))
                case [str() as certificate]:
                    found.append((self._beside(certificate), ""))
                case [str() as certificate, str() as key]:
                    found.append((self._beside(certificate), self._beside(key) if key else ""))
                case _:
                    raise self._fault("client is not a list of certificates and keys")
        return tuple(found)

    def _headers(self, table: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
        value = table.get("header", {})
        if not isinstance(value, dict):
            raise self._fault("header is not a table")
        found = []
        for name in value:
            for text in self._texts(value, name):
                if not (text + name).isprintable() or not name.isascii():
                    raise self._fault(f"bad header: {name!r:.100}")
                found.append((name, text))
        return tuple(found)

    def _beside(self, name: str) -> str:
        return os.path.join(os.path.dirname(self._path), name)
