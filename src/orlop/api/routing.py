"""From a method and a path to a route, in constant time for all but paths with slashes in a name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orlop
from orlop.api.errors import PageNotFoundError
from orlop.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.api.call import Route

API_VERSION = (1, 50)
MIN_API_VERSION = (1, 24)
SERVER = f"orlop/{orlop.__version__} (linux)"

_VERSION = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(?=/|$)", re.ASCII)


def version_text(version: tuple[int, int]) -> str:
    """Return ``1.50``."""
    return f"{version[0]}.{version[1]}"


def split_version(path: str) -> tuple[tuple[int, int], str]:
    """Return the version that the path asks for and the path without it.

    Raises:
        InvalidParameterError: too old or too new, in dockerd's words.
    """
    match = _VERSION.match(path)
    if match is None:
        return API_VERSION, path
    version = int(match[1]), int(match[2])
    if version > API_VERSION:
        raise InvalidParameterError(
            f"client version {version_text(version)} is too new."
            f" Maximum supported API version is {version_text(API_VERSION)}",
        )
    if version < MIN_API_VERSION:
        raise InvalidParameterError(
            f"client version {version_text(version)} is too old. Minimum supported API version is"
            f" {version_text(MIN_API_VERSION)}, please upgrade your client to a newer version",
        )
    return version, path[match.end() :]


class Router:
    """Owns the table of routes. Paths arrive still percent-encoded, so an encoded slash stays inside its name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._literal: dict[tuple[str, str], Route] = {}
        self._segmented: dict[tuple[str, int], list[tuple[tuple[str, ...], Route]]] = {}
        self._open: list[tuple[str, str, str, Route]] = []
        for route in routes:
            self._add(route)
        for candidates in self._segmented.values():
            # The pattern with the most literal segments wins: /images/json before /images/{name}.
            candidates.sort(key=lambda candidate: sum(part.startswith("{") for part in candidate[0]))
        self._open.sort(key=lambda entry: -len(entry[0]) - len(entry[2]))

    def _add(self, route: Route) -> None:
        if "{" not in route.path:
            self._literal[route.method, route.path] = route
            return
        if ":.*}" in route.path:
            prefix, rest = route.path.split("{", 1)
            name, suffix = rest.split(":.*}", 1)
            self._open.append((prefix, name, suffix, route))
            return
        parts = tuple(route.path.split("/"))
        self._segmented.setdefault((route.method, len(parts)), []).append((parts, route))

    def find(self, method: str, path: str, version: tuple[int, int]) -> tuple[Route, dict[str, str]]:
        """Return the route and its variables.

        Raises:
            PageNotFoundError: none has this method and path at this version.
        """
        if method == "HEAD":
            try:
                return self._find("HEAD", path, version)
            except PageNotFoundError:
                method = "GET"
        return self._find(method, path, version)

    def _find(self, method: str, path: str, version: tuple[int, int]) -> tuple[Route, dict[str, str]]:
        route = self._literal.get((method, path))
        if route is not None and version >= route.since:
            return route, {}
        parts = path.split("/")
        for pattern, route in self._segmented.get((method, len(parts)), ()):
            variables = _match(pattern, parts)
            if variables is not None and version >= route.since:
                return route, variables
        for prefix, name, suffix, route in self._open:
            if (
                route.method == method
                and path.startswith(prefix)
                and path.endswith(suffix)
                and len(path) > len(prefix) + len(suffix)
                and version >= route.since
            ):
                return route, {name: unquote(path[len(prefix) : len(path) - len(suffix)])}
        raise PageNotFoundError("page not found")


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    variables: dict[str, str] = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected.startswith("{"):
            if not part:
                return None
            variables[expected[1:-1]] = unquote(part)
        elif expected != part:
            return None
    return variables
