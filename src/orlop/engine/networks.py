"""Networks: what can be done with them, and what is told about it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, InvalidParameterError, NotFoundError
from orlop.spec.name_pattern import name_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.engine.containers.connecting import Connector
    from orlop.engine.events import Events
    from orlop.network.networks import Network
    from orlop.network.requests import NetworkRequest
    from orlop.network.sandbox import Endpoint
    from orlop.network.service import NetworkService

BUILTIN = frozenset({"bridge", "host", "none"})
LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


class NetworkCatalogue:
    """The use cases of networks, apart from attaching containers.

    Args:
        service: the networks.
        events: is told what happened.
        name_of: returns a container's name by its id.
        connector: joins containers to networks.
    """

    def __init__(
        self, service: NetworkService, *, events: Events, name_of: Callable[[str], str], connector: Connector
    ) -> None:
        self._service = service
        self.connector = connector
        self._events = events
        self._name_of = name_of

    def get(self, name: str) -> Network:
        """Return a network. Raises NotFoundError ("network x not found")."""
        return self._service.network(name)

    def endpoints(self, network: Network) -> dict[str, tuple[str, Endpoint]]:
        """Return name and endpoint of each running container on a network, by container id."""
        return {
            container_id: (self._name_of(container_id), endpoint)
            for container_id, endpoint in self._service.endpoints_of(network.id).items()
        }

    def select(self, filters: Mapping[str, Sequence[str]]) -> Sequence[Network]:
        """Return the networks that match. Raises InvalidParameterError."""
        for key in filters:
            if key not in LIST_FILTERS:
                raise InvalidParameterError(f"invalid filter '{key}'")
        for kind in filters.get("type", ()):
            if kind not in ("builtin", "custom"):
                raise InvalidParameterError(f"invalid filter: 'type'='{kind}'")
        dangling = _dangling(filters.get("dangling", ()))
        return [
            network
            for network in self._service.networks()
            if self._matches(network, filters) and dangling in (None, self._is_dangling(network))
        ]

    def _matches(self, network: Network, filters: Mapping[str, Sequence[str]]) -> bool:
        def any_of(key: str, test: Callable[[str], bool]) -> bool:
            values = filters.get(key, ())
            return not values or any(test(value) for value in values)

        builtin = network.name in BUILTIN
        return (
            any_of("name", lambda value: name_matches(value, network.name))
            and any_of("id", lambda value: name_matches(value, network.id))
            and any_of("driver", lambda value: value == network.driver)
            and any_of("scope", lambda value: value == "local")
            and any_of("type", lambda value: (value == "builtin") == builtin)
            and all(_has_label(network.labels, label) for label in filters.get("label", ()))
        )

    def _is_dangling(self, network: Network) -> bool:
        return network.name not in BUILTIN and not self._service.endpoints_of(network.id)

    async def create(self, request: NetworkRequest) -> Network:
        """Make a user-defined network. Raises ConflictError, ForbiddenError, UnsupportedError."""
        network = await self._service.create_network(request)
        self._events.publish("network", "create", network.id, _attributes(network))
        return network

    async def remove(self, name: str) -> None:
        """Remove a network that no container is on. Raises NotFoundError, ForbiddenError."""
        network = await self._service.remove_network(name)
        self._events.publish("network", "destroy", network.id, _attributes(network))

    async def prune(self, filters: Mapping[str, Sequence[str]], *, until: int | None = None) -> list[str]:
        """Remove all user-defined networks, made before ``until``, that no running container is on; return names.

        Configurations stay, whether or not others were made from them (Docker).
        """
        unknown = filters.keys() - {"label", "label!"}
        if unknown:
            raise InvalidParameterError(f"invalid filter '{min(unknown)}'")
        removed = []
        for network in self._service.networks():
            if (
                self._is_dangling(network)
                and not network.config_only
                and (until is None or network.created_at < until)
                and all(_has_label(network.labels, label) for label in filters.get("label", ()))
                and not any(_has_label(network.labels, label) for label in filters.get("label!", ()))
            ):
                with contextlib.suppress(ForbiddenError, NotFoundError):  # a container came, or another was faster
                    await self.remove(network.id)
                    removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed


def _dangling(values: Sequence[str]) -> bool | None:
    """Return what the filter wants, None: both."""
    if len(values) > 1:
        raise InvalidParameterError('got more than one value for filter key "dangling"')
    if not values:
        return None
    if values[0] not in ("0", "1", "false", "true"):
        raise InvalidParameterError(
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
        )
    return values[0] in ("1", "true")


def _attributes(network: Network) -> dict[str, str]:
    return {"name": network.name, "type": network.driver}


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
