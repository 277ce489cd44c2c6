"""What only the client of a build has, as a build asks for it: when it is needed, and no more than is needed.

============================  ========================================  =======================================
what                          ``orlop build`` (``sessions.Session``)    BuildKit's clients (``api/buildkit``)
============================  ========================================  =======================================
files                         announced and sent before the build       asked for, which the engine chooses
secrets, agents               sent before, connected before             asked for when a step mounts them
credentials                   come with the request (``Logins``)        asked for when a registry is spoken to
============================  ========================================  =======================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orlop.build.steps import BuildSecrets, NoSecrets
from orlop.errors import InvalidParameterError
from orlop.registry.credentials import ANONYMOUS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orlop.registry.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Choice:
    """Which files of a client's directory are wanted.

    Attributes:
        paths: these alone, and what they link to; all when empty. One that is not there is none.
        without: patterns of an ignore file, in order.
    """

    paths: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


EVERYTHING = Choice()


class CredentialSource(Protocol):
    """Where a build has credentials for pulls from."""

    async def credentials(self, domain: str) -> Credentials:
        """Return those for a registry, anonymous ones when there are none. Raises OrlopError."""
        ...


class Logins:
    """Credentials that came with the request, by the registry's domain."""

    def __init__(self, by_domain: Mapping[str, Credentials] | None = None) -> None:
        self._by_domain = by_domain or {}

    async def credentials(self, domain: str) -> Credentials:
        """Return those that came."""
        return self._by_domain.get(domain, ANONYMOUS)


class BuildClient(BuildSecrets, Protocol):
    """The client of one build.

    Attributes:
        contexts: where named contexts come from: ``session`` (a directory of that name), ``local:DIRECTORY``,
            ``docker-image://NAME``, or a URL.
        chooses: it knows itself what the ignore file keeps out; else the engine reads that first, and says it.
    """

    @property
    def contexts(self) -> Mapping[str, str]: ...  # noqa: D102 - above

    @property
    def chooses(self) -> bool: ...  # noqa: D102

    def holds(self, name: str) -> bool:
        """Tell whether it has a directory of this name: ``context``, ``dockerfile``, or a named one."""
        ...

    async def lay_out(self, name: str, target: str, choice: Choice = EVERYTHING) -> None:
        """Make the files of a directory in an empty private one.

        Raises:
            InvalidParameterError: it has none of this name, or what it sends is not what it should be.
            OrlopError: it has gone; no space left on device, and the like.
        """
        ...

    def upload(self, url: str) -> AsyncIterator[bytes] | None:
        """Return what the client itself sends under a URL; None when the URL is somebody else's."""
        ...


class NoClient(NoSecrets):
    """A client with a request, and nothing else."""

    chooses = True

    def __init__(self) -> None:
        self.contexts: Mapping[str, str] = {}

    def holds(self, name: str) -> bool:
        """It holds nothing."""
        del name
        return False

    async def lay_out(self, name: str, target: str, choice: Choice = EVERYTHING) -> None:
        """There is nothing."""
        del target, choice
        raise InvalidParameterError(f"the session does not hold the context: {name}")

    def upload(self, url: str) -> AsyncIterator[bytes] | None:
        """It sends nothing."""
        del url
        return None
