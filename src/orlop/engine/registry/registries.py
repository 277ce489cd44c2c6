"""From a reference and a user's credentials to a repository that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from orlop.registry.authorization import Authorization
from orlop.registry.challenge import pull_scope, push_scope
from orlop.registry.failures import RegistryError
from orlop.registry.repository import Repository
from orlop.registry.search import search

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orlop.registry.credentials import Credentials
    from orlop.registry.endpoints import Endpoint, Endpoints
    from orlop.registry.http import Http
    from orlop.registry.search import SearchQuery, SearchResult
    from orlop.spec.reference import Reference

T = TypeVar("T")


class Registries:
    """Owns what is known of the registries' endpoints."""

    def __init__(self, http: Http, endpoints: Endpoints) -> None:
        self._http = http
        self.endpoints = endpoints
        self._working: dict[str, Endpoint] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def pull(
        self, reference: Reference, credentials: Credentials, work: Callable[[Repository], Awaitable[T]]
    ) -> T:
        """Do something that reads a repository, at a mirror or at the registry itself.

        Raises:
            RegistryError: of the last endpoint that was tried.
        """
        candidates = await _in_thread(self.endpoints.pull, reference.domain)
        return await self._attempt(candidates, reference, credentials, work, (pull_scope(reference.path),))

    async def push(
        self,
        reference: Reference,
        credentials: Credentials,
        work: Callable[[Repository], Awaitable[T]],
        *,
        sources: Sequence[str] = (),
    ) -> T:
        """Do something that writes to a repository; ``sources`` are others there that blobs may be mounted from."""
        candidates = await _in_thread(self.endpoints.push, reference.domain)
        scopes = (push_scope(reference.path), *map(pull_scope, sources))
        return await self._attempt(candidates, reference, credentials, work, scopes)

    async def search(self, query: SearchQuery, credentials: Credentials) -> list[SearchResult]:
        """Ask an index. Raises RegistryError."""
        return await search(self._http, await _in_thread(self.endpoints.push, query.domain), query, credentials)

    async def _attempt(
        self,
        candidates: Sequence[Endpoint],
        reference: Reference,
        credentials: Credentials,
        work: Callable[[Repository], Awaitable[T]],
        scopes: Sequence[str],
    ) -> T:
        failure: RegistryError | None = None
        working = self._working.get(reference.domain)
        if working not in candidates:
            working = None  # the settings are files, and have changed
        for endpoint in candidates:
            if working is not None and not endpoint.mirror and endpoint != working:
                continue
            http = self._http.trusting(endpoint)
            authorization = Authorization(http, endpoint, credentials, scopes)
            repository = Repository(http, endpoint, reference.path, authorization)
            try:
                if endpoint != working:
                    await repository.ping()
            except RegistryError as error:
                failure = error
                continue
            if not endpoint.mirror:
                self._working[reference.domain] = endpoint
            try:
                return await work(repository)
            except RegistryError as error:
                if not error.status and working is endpoint:
                    self._working.pop(reference.domain, None)
                if not endpoint.mirror:
                    raise
                failure = error
        assert failure is not None  # noqa: S101 - there is at least one endpoint
        raise failure

    async def log_in(self, domain: str, credentials: Credentials) -> str:
        """Check credentials; returns a token that stands for them, or nothing.

        Raises:
            RegistryError: in Docker's words.
        """
        failure: RegistryError | None = None
        for endpoint in await _in_thread(self.endpoints.push, domain):
            http = self._http.trusting(endpoint)
            authorization = Authorization(http, endpoint, credentials, (), offline=True)
            url = f"{endpoint.api}/"
            try:
                response = await http.send("GET", url, {})
            except RegistryError as error:
                failure = error
                continue
            response.release()
            if response.status == 401 and await authorization.answer(
                response.headers.getall("WWW-Authenticate", []), ""
            ):
                response = await http.send("GET", url, {"Authorization": authorization.header()})
                response.release()
            if response.status != 200:
                raise RegistryError(
                    f"login attempt to {url} failed with status: {response.status} {response.reason}",
                    status=response.status,
                )
            return authorization.identity_token
        assert failure is not None  # noqa: S101 - there is at least one endpoint
        raise failure


async def _in_thread(find: Callable[[str], list[Endpoint]], domain: str) -> list[Endpoint]:
    """Look endpoints up, which may ask the name service, in a thread."""
    import asyncio

    return await asyncio.to_thread(find, domain)
