"""``docker search``: the search of the old registry protocol, version 1, which Docker Hub's index still answers.

::

    GET <index>/v1/_ping                     of a private index: whether it is there, by TLS or else without
    GET <index>/v1/search?q=TERM&n=LIMIT  ──▶ {"results": [{"name", "description", "star_count", "is_official"}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from orlop.errors import InvalidParameterError
from orlop.registry.authorization import read_limited
from orlop.registry.failures import RegistryError
from orlop.spec.reference import DEFAULT_DOMAIN
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.registry.credentials import Credentials
    from orlop.registry.endpoints import Endpoint
    from orlop.registry.http import Http

HUB_INDEX = "https://index.docker.io"
DEFAULT_LIMIT = 25
_MOST = 100
_BODY = 4 << 20


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One repository that was found."""

    name: str
    description: str
    stars: int
    official: bool


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What is looked for.

    Attributes:
        domain: the index's.
        term: what a name or description should have.
        limit: how many results are wanted at most.
    """

    domain: str
    term: str
    limit: int

    @classmethod
    def parse(cls, text: str, limit: int) -> SearchQuery:
        """Read what a user wrote: a term, with or without an index before it.

        Raises:
            InvalidParameterError: in dockerd's words.
        """
        if "://" in text:
            raise InvalidParameterError(
                f"invalid repository name: repository name ({text:.200}) should not have a scheme"
            )
        if not 1 <= (limit or DEFAULT_LIMIT) <= _MOST:
            raise InvalidParameterError(f"limit {limit} is outside the range of [1, {_MOST}]")
        first, slash, rest = text.partition("/")
        if not slash or not (first == "localhost" or "." in first or ":" in first):
            first, rest = DEFAULT_DOMAIN, text
        if first in (DEFAULT_DOMAIN, "index.docker.io"):
            return cls(DEFAULT_DOMAIN, rest.removeprefix("library/"), limit or DEFAULT_LIMIT)
        return cls(first, rest, limit or DEFAULT_LIMIT)


async def search(
    http: Http, endpoints: Sequence[Endpoint], query: SearchQuery, credentials: Credentials
) -> list[SearchResult]:
    """Ask an index.

    Args:
        http: makes the requests.
        endpoints: where a private index may be, in order; not used for Docker Hub.
        query: what for.
        credentials: the user's, for this index.

    Raises:
        RegistryError: it is not there, refused, or answered nonsense.
    """
    base = HUB_INDEX if query.domain == DEFAULT_DOMAIN else await _find(http, endpoints, query.domain)
    secret = {"Authorization": credentials.basic()} if credentials.has_password else {}
    url = f"{base}/v1/search?{urlencode({'q': query.term, 'n': query.limit})}"
    response = await http.follow("GET", url, {"X-Docker-Token": "true"}, secret=secret)
    try:
        if response.status != 200:
            raise RegistryError(f"Unexpected status code {response.status}", status=response.status)
        return _results(await read_limited(response, _BODY))
    finally:
        response.release()


async def _find(http: Http, endpoints: Sequence[Endpoint], domain: str) -> str:
    attempts = []
    for endpoint in endpoints:
        try:
            response = await http.follow("GET", f"{endpoint.url}/v1/_ping", {})
        except RegistryError as error:
            attempts.append(f"{'HTTP' if endpoint.plain else 'HTTPS'} attempt: {error}.")
            continue
        response.release()
        return endpoint.url
    words = f'invalid registry endpoint "https://{domain}/v1/": {" ".join(attempts)}'
    if len(endpoints) == 1:
        words += (
            " If this private registry supports only HTTP or HTTPS with an unknown CA certificate, add"
            f" `--insecure-registry {domain}` to the daemon's arguments. In the case of HTTPS, if you have access to"
            " the registry's CA certificate, no need for the flag; place the CA certificate at"
            f" /etc/docker/certs.d/{domain}/ca.crt"
        )
    raise RegistryError(words)


def _results(data: bytes) -> list[SearchResult]:
    try:
        fields = Fields(parse_object(data, limit=_BODY, what="search results"), "search results")
        return [
            SearchResult(
                one.text("name"), one.text("description"), one.integer("star_count"), one.boolean("is_official")
            )
            for one in fields.objects("results")
        ]
    except InvalidParameterError as error:
        raise RegistryError(f"error decoding search results: {error}") from None
