"""Registries: what clients can ask of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.engine.registry.pull import fetch_config, translate
from orlop.errors import InvalidParameterError, NotFoundError
from orlop.image.filters import boolean, check_names
from orlop.registry.endpoints import login_domain
from orlop.registry.failures import RegistryError
from orlop.registry.search import SearchQuery
from orlop.spec.image import ImageConfig
from orlop.spec.manifest import Index, parse_document
from orlop.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from orlop.engine.events import Events
    from orlop.engine.registry.output import Output
    from orlop.engine.registry.pull import Puller, PullRequest
    from orlop.engine.registry.push import Pusher, PushRequest
    from orlop.engine.registry.registries import Registries
    from orlop.image.sweeping import BlobSweeper
    from orlop.registry.credentials import Credentials
    from orlop.registry.endpoints import RegistryOptions
    from orlop.registry.remote_file import RemoteFile, RemoteFiles
    from orlop.registry.repository import Repository
    from orlop.registry.search import SearchResult
    from orlop.spec.digest import Digest
    from orlop.spec.reference import Reference


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a registry has under a name."""

    media_type: str
    digest: Digest
    size: int
    platforms: tuple[Platform, ...]


_SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})


def _stars(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameterError(f"invalid filter 'stars=[{text}]'") from None


class RegistryService:
    """The use cases of registries."""

    def __init__(
        self,
        registries: Registries,
        puller: Puller,
        pusher: Pusher,
        *,
        sweeper: BlobSweeper,
        events: Events,
        files: RemoteFiles,
    ) -> None:
        self._files = files
        self._sweeper = sweeper
        self._registries = registries
        self._puller = puller
        self._pusher = pusher
        self._events = events

    @property
    def options(self) -> RegistryOptions:
        """The administrator's settings."""
        return self._registries.endpoints.options

    async def close(self) -> None:
        """Close all connections."""
        await self._registries.close()

    async def pull(self, request: PullRequest, output: Output) -> None:
        """Pull an image. Raises NotFoundError and others in Docker's words."""
        with self._sweeper.held():
            images = await self._puller.run(request, output)
        for image in images[:1]:
            labels = image.config.config.labels or {}
            name = request.reference.familiar
            self._events.publish("image", "pull", name, {**labels, "name": request.reference.familiar_name})

    async def push(self, request: PushRequest, output: Output) -> None:
        """Push an image. Raises NotFoundError and others in Docker's words."""
        with self._sweeper.held():
            await self._pusher.run(request, output)
        name = request.reference.familiar
        self._events.publish("image", "push", name, {"name": request.reference.familiar_name})

    async def search(
        self, text: str, limit: int, *, filters: Mapping[str, Sequence[str]], credentials: Credentials
    ) -> list[SearchResult]:
        """Return what an index finds, as dockerd filters it.

        Raises:
            InvalidParameterError: a bad term, limit or filter.
            RegistryError: the index is not there, or refused.
        """
        check_names(filters, _SEARCH_FILTERS)
        automated = boolean(filters, "is-automated", default=False)
        official = boolean(filters, "is-official", default=False)
        least = max(map(_stars, filters.get("stars", ())), default=0)
        query = SearchQuery.parse(text, limit)
        if automated:
            return []  # nothing is any more
        found = await self._registries.search(query, credentials)
        return [
            one for one in found if one.stars >= least and ("is-official" not in filters or one.official is official)
        ]

    def open_url(self, url: str) -> AbstractAsyncContextManager[RemoteFile]:
        """Begin to get a file from somewhere. Raises InvalidParameterError, RegistryError."""
        return self._files.open(url)

    async def log_in(self, credentials: Credentials) -> str:
        """Check credentials; returns a token that stands for them, or nothing. Raises RegistryError."""
        return await self._registries.log_in(login_domain(credentials.server), credentials)

    async def inspect(self, reference: Reference, credentials: Credentials) -> Distribution:
        """Return what a registry has under a name, without fetching layers. Raises NotFoundError, RegistryError."""

        async def look(repository: Repository) -> Distribution:
            received = await repository.manifest(reference.digest or str(reference.tag))
            document = parse_document(received.data, received.media_type)
            if isinstance(document, Index):
                platforms = [entry.platform for entry in document.manifests if entry.platform is not None]
            else:
                config = ImageConfig.parse(await fetch_config(repository, document.config))
                platforms = [Platform.of(config.os, config.architecture, config.variant)]
            return Distribution(document.media_type, received.digest, len(received.data), tuple(platforms))

        try:
            return await self._registries.pull(reference, credentials, look)
        except RegistryError as error:
            if isinstance(translate(error, reference), NotFoundError):
                words = str(error) if error.code else "manifest unknown: manifest unknown"
                raise NotFoundError(words) from None
            raise
        except InvalidParameterError as error:
            raise RegistryError(str(error)) from None
