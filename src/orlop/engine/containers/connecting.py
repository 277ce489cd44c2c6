"""Joining containers to networks and taking them off, whether they run or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop.engine.containers.creation import port_requests
from orlop.engine.containers.endpoint_settings import check_endpoint, check_together, wish_of
from orlop.engine.containers.files import name_servers, rewrite_files
from orlop.engine.containers.state import Status
from orlop.errors import ConflictError, InvalidParameterError, NotFoundError, OrlopError, SystemFailureError
from orlop.network.sandbox import AttachRequest
from orlop.network.wishes import check_wish

if TYPE_CHECKING:
    from orlop.engine.containers.container import Container
    from orlop.engine.containers.directory import Directory
    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.settings import Settings
    from orlop.engine.events import Events
    from orlop.network.networks import Network
    from orlop.network.service import NetworkService
    from orlop.spec.docker.containers import EndpointConfig

_PRIVATE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
_HOST = "container cannot be disconnected from host network or connected to host network"
_SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"


class Connector:
    """The use cases ``network connect`` and ``network disconnect``."""

    def __init__(self, settings: Settings, directory: Directory, *, network: NetworkService, events: Events) -> None:
        self._settings = settings
        self._directory = directory
        self._network = network
        self._events = events

    async def connect(self, network_name: str, container_name: str, wanted: EndpointConfig | None) -> None:
        """Join a container to a network.

        Raises:
            NotFoundError, InvalidParameterError, ForbiddenError, ConflictError: in Docker's words; nothing was changed.
        """
        container = self._find(container_name)
        async with container.lock:
            network = self._network.network(network_name)
            self._require_changeable(container, network)
            check_endpoint(network.name, wanted)
            wish = wish_of(container.definition, network.name, wanted)
            check_wish(network, wish)
            if not container.alive and any(self._means(name, network) for name in container.definition.networks):
                return  # what was wanted of it first is kept, as Docker has it
            definition = msgspec.structs.replace(
                container.definition, networks={**container.definition.networks, network.name: wanted}
            )
            check_together(definition.networks)
            if container.alive:
                before = self._network.sandbox(container.id)
                request = attach_request(self._settings, container.definition)
                self._directory.mark(container, unsettled=True)
                try:
                    after = await self._network.connect(container.id, wish, request=request)
                    rewrite_files(self._settings, definition, before, after, gateway=self._network.gateway)
                except BaseException:
                    self._directory.mark(container, unsettled=False)
                    raise
            self._note(container, {**container.definition.networks, network.name: wanted})
            if container.alive:  # else its start tells
                self._tell("connect", container, network)

    async def disconnect(self, network_name: str, container_name: str, *, force: bool) -> None:
        """Take a container off a network.

        Raises:
            NotFoundError, InvalidParameterError, SystemFailureError: in Docker's words.
        """
        try:
            container = self._find(container_name)
        except NotFoundError:
            if not force:
                raise
            self._network.network(network_name)
            # the endpoint of a container that is gone went with it
            raise NotFoundError(f"endpoint {container_name} not found") from None
        async with container.lock:
            network = self._network.network(network_name)
            name = next((name for name in container.definition.networks if self._means(name, network)), "")
            if "host" in (network.name, container.definition.host.network_mode):
                raise InvalidParameterError(_HOST)
            if not name:
                which = f"network {network.name}" if container.alive else f"the network {network.name}"
                raise SystemFailureError(f"container {container.id} is not connected to {which}")
            networks = container.definition.networks
            request = attach_request(self._settings, container.definition)
            rest = {key: value for key, value in networks.items() if key != name}
            self._note(container, rest, unsettled=container.alive)
            if container.alive:
                try:
                    await self._leave(container, network, request)
                except BaseException:
                    self._note(container, networks)
                    raise
                self._directory.mark(container, unsettled=False)
        self._tell("disconnect", container, network)

    async def finish(self, container: Container) -> None:
        """Take a running container off networks that its definition does not name; put in order what depends on them.

        For the engine that comes after one that was killed in the middle of a change.

        Raises:
            OrlopError: it cannot be done.
        """
        sandbox = self._network.sandbox(container.id)
        if sandbox is None or sandbox.mode in {"host", "container"}:
            return
        request = attach_request(self._settings, container.definition)
        for endpoint in sandbox.endpoints:
            network = self._network.network(endpoint.network_id)
            if not any(self._means(name, network) for name in container.definition.networks):
                await self._leave(container, network, request)
        await self._network.put_in_order(container.id, request=request)
        self._network.shape(container.id, request.endpoints or ())

    async def _leave(self, container: Container, network: Network, request: AttachRequest) -> None:
        before = self._network.sandbox(container.id)
        await self._network.disconnect(container.id, network, request=request)
        after = self._network.sandbox(container.id)
        rewrite_files(self._settings, container.definition, before, after, gateway=self._network.gateway)

    def _note(
        self, container: Container, networks: dict[str, EndpointConfig | None], *, unsettled: bool = False
    ) -> None:
        definition = msgspec.structs.replace(container.definition, networks=networks, unsettled=unsettled)
        self._directory.redefine(container, definition)

    def _find(self, name: str) -> Container:
        if not name:
            raise InvalidParameterError('invalid name or ID supplied: ""')
        return self._directory.get(name)

    def _means(self, name: str, network: Network) -> bool:
        try:
            return self._network.network(name).id == network.id
        except OrlopError:
            return False

    def _require_changeable(self, container: Container, network: Network) -> None:
        mode = container.definition.host.network_mode
        if container.removing or container.state.status in {Status.REMOVING, Status.DEAD}:
            raise ConflictError(
                "container is marked for removal and cannot be connected or disconnected to the network"
            )
        if "host" in (mode, network.name):
            raise InvalidParameterError(_HOST)
        if mode.startswith("container:"):
            raise InvalidParameterError(_SHARED)
        on_none = any(name == "none" for name in container.definition.networks)
        private = network.driver == "null" and not network.config_only
        if (private and container.definition.networks) or on_none:
            raise InvalidParameterError(_PRIVATE)

    def _tell(self, action: str, container: Container, network: Network) -> None:
        attributes = {"container": container.id, "name": network.name, "type": network.driver}
        self._events.publish("network", action, network.id, attributes)


def attach_request(settings: Settings, definition: Definition) -> AttachRequest:
    """Return what a container wants of the network at a start, its mode as the user named it."""
    host = definition.host
    mode = host.network_mode
    wishes = tuple(wish_of(definition, name, wanted) for name, wanted in definition.networks.items())
    return AttachRequest(
        network=mode,
        container_name=definition.name,
        ports=port_requests(definition),  # type: ignore[arg-type] # PortRequest values
        endpoints=None if mode.startswith("container:") else wishes,
        name_servers=name_servers(settings, definition),
    )
