"""The network service: what the engine calls when containers start and end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING

from orlop.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    OrlopError,
)
from orlop.network import defining, networks, restoring, sysctl
from orlop.network.attachments import Attachments
from orlop.network.audit import Audit, Stray
from orlop.network.catalogue import Catalogue
from orlop.network.container import ContainerDriver
from orlop.network.drivers import make_driver
from orlop.network.firewall.iptables import is_nf_tables
from orlop.network.firewall.watch import RulesWatch
from orlop.network.opening import open_surroundings
from orlop.network.records import Records
from orlop.network.relay_peers import is_a_containers
from orlop.network.relayed import RelayedPorts
from orlop.network.releases import Releases
from orlop.network.resolvers import Resolvers
from orlop.network.statistics import interface_statistics
from orlop.network.uninterrupted import run_to_end
from orlop.network.wishes import check_joinable, check_wish, find_wishes

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence

    from orlop.kernel.rtnetlink import LinkStatistics
    from orlop.network.bridge_device import Surroundings
    from orlop.network.driver import Driver
    from orlop.network.host import HostDriver
    from orlop.network.networks import Network
    from orlop.network.none import NoneDriver
    from orlop.network.options import NetworkOptions
    from orlop.network.pool import NamespaceFactory
    from orlop.network.requests import NetworkRequest
    from orlop.network.sandbox import AttachRequest, Endpoint, EndpointWish, Sandbox

_log = logging.getLogger(__name__)


class NetworkService:
    """Owns the networks, their endpoints and everything in the host's tables that stands for them.

    Call :meth:`start` once before anything else, inside the running event loop.
    """

    def __init__(self, options: NetworkOptions, *, database: sqlite3.Connection, namespaces: NamespaceFactory) -> None:
        options.validate()
        self._options = options
        self._records = Records(database)
        self._namespaces = namespaces
        self._catalogue = Catalogue(options, self._records)
        self._drivers: dict[str, Driver | HostDriver | NoneDriver] = {}  # by network id
        self._sandboxes: dict[str, Sandbox] = {}  # by container id
        self._changes: dict[str, asyncio.Task[object]] = {}  # connects and disconnects under way, by container id
        self._defining = asyncio.Lock()  # one network is made or removed at a time
        self._joining: Counter[str] = Counter()  # network id -> joins under way: it cannot be removed
        self._shared = ContainerDriver(self.sandbox)
        self._releases = Releases(self._changes, shared=self._shared)
        self._relay = RelayedPorts(namespaces, self._is_kept_apart) if options.userland_proxy else None
        self._around: Surroundings | None = None
        self._resolvers = Resolvers(namespaces)
        self._attached: Attachments | None = None
        self._watch: RulesWatch | None = None

    # --- life ---

    async def start(self, running: Mapping[str, int]) -> list[str]:
        """Bring bridges and rules up, take up running containers, clean up after the others.

        Args:
            running: container id -> pidfd (borrowed) of containers that kept running.

        Returns:
            warnings for the administrator.

        Raises:
            OrlopError: the networks can't be set up.
        """
        endpoints = self._records.endpoints()
        try:
            self._look_around(keep=any(owner in running for owner, _ in endpoints))
            await self._set_up(endpoints, running)
        except BaseException:
            await self.close()
            raise
        return list(self._catalogue.warnings)

    def _look_around(self, *, keep: bool) -> None:
        """Find out which networks there are, where they go, and what they need."""
        self._around = open_surroundings(
            self._options,
            self._records,
            catalogue=self._catalogue,
            namespaces=self._namespaces,
            relay=self._relay,
            keep=keep,
        )
        for network in self._catalogue:
            if not network.config_only:
                self._drivers[network.id] = make_driver(network, self._around)
        self._attached = Attachments(self._around, self._drivers, self._resolvers)

    async def _set_up(self, endpoints: list[tuple[str, Endpoint]], running: Mapping[str, int]) -> None:
        """Make bridges, then rules, then take up containers; forwarding is switched on under the rules only."""
        around = self._surroundings
        bridges = restoring.make_links(self._catalogue, self._drivers)
        rules = restoring.claim(self._drivers, endpoints, running)
        kept = self._attachments.load(running)
        if around.firewall is not None:
            await around.firewall.start([bridge.rules for bridge in bridges], rules)
        await around.guard.start(restoring.guarded(self._catalogue, endpoints, running))
        if self._options.ip_forward:
            sysctl.enable_forwarding()
            if any(network.subnet6 for network in self._catalogue):
                sysctl.enable_forwarding6()
        alive = await restoring.clean_up(self._drivers, self._catalogue, self._records, endpoints, running=running)
        for container_id in kept:
            alive.setdefault(container_id, [])
        for container_id, own in alive.items():
            try:
                self._sandboxes[container_id] = await self._attachments.adopt(container_id, own, running[container_id])
            except (OrlopError, OSError) as error:
                _log.warning("cannot take up the network of container %.12s: %s", container_id, error)
        for bridge in bridges:
            bridge.device.route_loopback()
            bridge.remove_strays()
        around.pool.refill_soon()
        if around.firewall is not None:
            reported = around.firewall.name == "nftables" or await is_nf_tables()
            self._watch = RulesWatch(self.restore_rules, reported=reported)
            self._watch.start()

    async def close(self) -> None:
        """End background work; running containers keep their network."""
        await self.settle()
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()
        self._resolvers.close()
        await self._releases.close()
        if self._around is not None:
            await self._around.pool.close()
            self._around.ports.close()
            if self._relay is not None:
                self._relay.close_all()
            self._around.host.close()
        for sandbox in self._sandboxes.values():
            if sandbox.netns is not None:
                sandbox.netns.close()
        self._sandboxes.clear()

    async def settle(self) -> None:
        """Wait until the releases that are under way are done."""
        await self._releases.settle()

    @property
    def firewall_name(self) -> str:
        """What keeps the rules: "iptables", "nftables", or "" when they are switched off."""
        return self._around.firewall.name if self._around is not None and self._around.firewall is not None else ""

    async def find_strays(self) -> list[Stray]:
        """Return links and rules that nobody owns. Raises OrlopError."""
        return await self._audit().find()

    async def remove_stray(self, stray: Stray) -> None:
        """Remove one of them. Raises OrlopError."""
        await self._audit().remove(stray)

    def _audit(self) -> Audit:
        return Audit(self._surroundings, self._drivers, self._catalogue)

    async def restore_rules(self) -> bool:
        """Put back firewall rules that somebody else removed; returns whether any were missing (threats.md G5)."""
        return await restoring.put_rules_back(self._surroundings)

    # --- containers ---

    async def attach(self, container_id: str, request: AttachRequest) -> Sandbox:
        """Return the network of a container that starts.

        Raises:
            OrlopError: in Docker's words; nothing is left behind.
        """
        await self._releases.wait_for(container_id)
        if container_id in self._sandboxes:
            raise ConflictError(f"endpoint with name {request.container_name} already exists in network")
        if request.network.startswith("container:"):
            sandbox = self._shared.attach(request.network.partition(":")[2], by=container_id)
        else:
            wishes = find_wishes(self._catalogue, self._drivers, request)
            with self._joins(network for network, _ in wishes):
                if request.ports:
                    await self.settle()  # a container that just ended may still hold the port
                sandbox = await self._attachments.attach(container_id, request, wishes)
                self._sandboxes[container_id] = sandbox
                return sandbox
        self._sandboxes[container_id] = sandbox
        return sandbox

    async def connect(self, container_id: str, wish: EndpointWish, *, request: AttachRequest) -> Sandbox:
        """Join a running container to one more network.

        Args:
            container_id: whose.
            wish: the network and what is wanted of it.
            request: how the container was started: its name, ports and name servers.

        Raises:
            OrlopError: in Docker's words; nothing was changed.
        """
        sandbox = self._running(container_id)
        network = self.network(wish.network)
        check_joinable(network)
        check_wish(network, wish)
        if sandbox.mode == "container":
            raise ForbiddenError(
                "container sharing network namespace with another container or host cannot be connected to any other"
                " network"
            )
        if sandbox.on(network.id) is not None:
            raise ForbiddenError(
                f"endpoint with name {request.container_name} already exists in network {network.name}"
            )
        work = self._attachments.connect(container_id, sandbox, network, wish, request=request)
        with self._joins((network,)):
            await self._releases.hasten()
            return await run_to_end(self._keep_changed(container_id, sandbox, work))

    async def disconnect(self, container_id: str, network: Network, *, request: AttachRequest) -> Endpoint:
        """Take a running container off a network; returns the endpoint that it had. Raises OrlopError."""
        sandbox = self._running(container_id)
        endpoint = sandbox.on(network.id)
        if endpoint is None:
            raise ForbiddenError(f"container {container_id} is not connected to network {network.name}")
        work = self._attachments.disconnect(container_id, sandbox, endpoint, request=request)
        await run_to_end(self._keep_changed(container_id, sandbox, work))
        return endpoint

    async def put_in_order(self, container_id: str, *, request: AttachRequest) -> None:
        """Bring a running container's routes, ports and name server in step with its networks. Raises OrlopError."""
        sandbox = self._running(container_id)
        if sandbox.mode == "bridge":
            work = self._attachments.put_in_order(container_id, sandbox, request)
            await run_to_end(self._keep_changed(container_id, sandbox, work))

    async def _keep_changed(
        self, container_id: str, before: Sandbox, work: Coroutine[object, object, Sandbox]
    ) -> Sandbox:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._changes[container_id] = task
        try:
            changed = await work
            if self._sandboxes.get(container_id) is before:
                self._sandboxes[container_id] = changed
                return changed
            await self._attachments.drop(container_id, before, changed)
        finally:
            del self._changes[container_id]
        raise ConflictError(f"container {container_id} is not running")

    def _running(self, container_id: str) -> Sandbox:
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            raise NotFoundError(f"no sandbox present for {container_id}")
        return sandbox

    def shape(self, container_id: str, wishes: Sequence[EndpointWish]) -> None:
        """Hold a running container to the rates that the wishes' options name. Raises OrlopError."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is not None:
            found = [(self.network(wish.network), wish) for wish in wishes]
            self._sandboxes[container_id] = self._attachments.shape(sandbox, found)

    def rename(self, container_id: str, old: str, new: str) -> None:
        """Let the others find a running container by another name."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is not None:
            self._sandboxes[container_id] = self._attachments.rename(container_id, sandbox, old, new)

    def release(self, container_id: str) -> None:
        """Take a container's network down in the background; one that has none is no error."""
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is not None:
            self._releases.begin(container_id, sandbox, self._attachments)

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return the network of a running container."""
        return self._sandboxes.get(container_id)

    def statistics(self, container_id: str) -> dict[str, LinkStatistics]:
        """Return the counters of each interface of a container, as the container sees them."""
        return interface_statistics(self._surroundings.host, self._sandboxes.get(container_id))

    # --- networks ---

    @property
    def gateway(self) -> str:
        """The default bridge's address, "" when there is no default bridge."""
        return self._catalogue.default.gateway if self._catalogue.default is not None else ""

    @property
    def bridge_name(self) -> str:
        """The default bridge's interface, "" when there is no default bridge."""
        return self._catalogue.default.bridge_name if self._catalogue.default is not None else ""

    def networks(self) -> list[Network]:
        """Return all networks."""
        return list(self._catalogue)

    def network(self, name_or_id: str) -> Network:
        """Return a network by name, full id or unique beginning of an id. Raises NotFoundError."""
        return self._catalogue.find(name_or_id)

    def endpoints_of(self, network_id: str) -> dict[str, Endpoint]:
        """Return container id -> endpoint of the running containers on a network."""
        return {
            container_id: endpoint
            for container_id, sandbox in self._sandboxes.items()
            for endpoint in sandbox.endpoints
            if endpoint.network_id == network_id
        }

    async def create_network(self, request: NetworkRequest) -> Network:
        """Make a user-defined network.

        Raises:
            OrlopError: in Docker's words; nothing is left behind.
        """
        async with self._defining:
            work = defining.create(self._surroundings, self._catalogue, self._drivers, request)
            return await run_to_end(work)

    async def remove_network(self, name_or_id: str) -> Network:
        """Remove a user-defined network that no running container uses; returns it.

        Raises:
            ForbiddenError: it is one of the three, or in use.
        """
        async with self._defining:
            network = self.network(name_or_id)
            if network.name in networks.BUILTIN:
                raise ForbiddenError(f"{network.name} is a pre-defined network and cannot be removed")
            await self.settle()
            await run_to_end(self._remove_unused(network))
            return network

    async def _remove_unused(self, network: Network) -> None:
        # Looked at in one step with what makes it unknown: who finds it between the two would join what is going.
        if self._joining[network.id] or self.endpoints_of(network.id):
            raise ForbiddenError(
                f"error while removing network: network {network.name} id {network.id} has active endpoints"
            )
        await defining.remove(self._surroundings, self._catalogue, self._drivers, network)

    # --- parts ---

    @contextlib.contextmanager
    def _joins(self, joined: Iterable[Network]) -> Iterator[None]:
        """Keep networks from being removed while a container joins them."""
        ids = [network.id for network in joined]
        self._joining.update(ids)
        try:
            yield
        finally:
            self._joining.subtract(ids)
            self._joining = +self._joining

    @property
    def _surroundings(self) -> Surroundings:
        if self._around is None:
            raise RuntimeError("the network service was not started")
        return self._around

    @property
    def _attachments(self) -> Attachments:
        if self._attached is None:
            raise RuntimeError("the network service was not started")
        return self._attached

    def _is_kept_apart(self, peer: str) -> bool:
        """Tell whether an address is a container's, which may not reach other networks' ports (threats.md G8)."""
        return not self._options.allow_published_between_networks and is_a_containers(peer, self._catalogue)
