"""The sandboxes of running containers: which networks they are on, and changes of that while they run."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

from orlop.errors import ForbiddenError, OrlopError, SystemFailureError, UnavailableError
from orlop.kernel.netlink import NetlinkError
from orlop.kernel.rtnetlink import Rtnetlink, delete_link
from orlop.network import interfaces
from orlop.network.bridge import BridgeDriver
from orlop.network.driver import Spot
from orlop.network.host import HostDriver
from orlop.network.interface_sysctls import OPTION_SYSCTLS, settings_of
from orlop.network.none import NoneDriver
from orlop.network.pool import INTERFACE
from orlop.network.publishing import publish_by_way_out
from orlop.network.records import SandboxRow
from orlop.network.routing import set_default_routes
from orlop.network.sandbox import NameServerWish, Sandbox
from orlop.spec.ids import generate_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from orlop.network.bridge_device import Surroundings
    from orlop.network.driver import Driver
    from orlop.network.networks import Network
    from orlop.network.pool import ReadyNamespace
    from orlop.network.resolvers import Resolvers
    from orlop.network.sandbox import AttachRequest, Endpoint, EndpointWish
    from orlop.spec.ports import PortRequest

_LOOK = 0.0005  # seconds between looks whether a link is gone
_log = logging.getLogger(__name__)


class Attachments:
    """Joins containers to networks.

    Args:
        around: what all networks share.
        drivers: by network id; the service's own mapping.
        resolvers: the name servers.
    """

    def __init__(
        self,
        around: Surroundings,
        drivers: Mapping[str, Driver | HostDriver | NoneDriver],
        resolvers: Resolvers,
    ) -> None:
        self._around = around
        self._drivers = drivers
        self._resolvers = resolvers
        self._kept: dict[str, SandboxRow] = {}  # by container id
        self._removals: set[asyncio.Task[None]] = set()  # of links

    async def attach(
        self, container_id: str, request: AttachRequest, wishes: Sequence[tuple[Network, EndpointWish]]
    ) -> Sandbox:
        """Return the sandbox of a container that starts.

        Raises:
            OrlopError: nothing is left behind.
        """
        main = self._driver(wishes[0][0].id) if wishes else None
        try:
            if isinstance(main, HostDriver | NoneDriver):
                return await main.attach(container_id)
            return await self._join_all(container_id, request, wishes)
        except (OSError, sqlite3.Error) as error:
            raise SystemFailureError(f"failed to set up container networking: {error}") from error

    async def _join_all(
        self, container_id: str, request: AttachRequest, wishes: Sequence[tuple[Network, EndpointWish]]
    ) -> Sandbox:
        pool = self._around.pool
        names = interfaces.name_all([(wish.options, network.interface_prefix) for network, wish in wishes])
        usual = next((network for (network, _), name in zip(wishes, names, strict=True) if name == INTERFACE), None)
        bridged = usual is not None and isinstance(self._driver(usual.id), BridgeDriver)
        ready = await (pool.take() if bridged else pool.take_plain())
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(ready.close)
            endpoints: list[Endpoint] = []
            for (network, wish), name in zip(wishes, names, strict=True):
                driver = self._joinable(network.id)
                pair = ready.pair if name == INTERFACE else None
                spot = Spot(ready.netns, ready.inside, name, request.container_name, pair)
                endpoints.append(await driver.join(container_id, wish, spot))
                undo.push_async_callback(driver.leave, endpoints[-1])
                await self._set_sysctls(endpoints[-1], spot)
            set_default_routes(ready.inside, endpoints, fresh=True)
            endpoints = await self._publish(endpoints, request.ports, request.container_name)
            named = any(endpoint.names for endpoint in endpoints)
            sandbox = Sandbox(
                generate_id(), "bridge", ready.netns, tuple(endpoints), _sysctls(ready, endpoints), name_server=named
            )
            if named or request.ports or not endpoints:
                self._keep(container_id, SandboxRow(sandbox.id, request.ports, request.name_servers))
                undo.callback(self._forget, container_id)
            if named:
                sockets = ready.take_resolver()
                await self._resolvers.serve(container_id, sandbox, request.name_servers, sockets=sockets)
                undo.callback(self._resolvers.stop, container_id)
            for endpoint in endpoints:
                self._resolvers.names.add(endpoint)
                self._around.ports.watch(endpoint.id, ready.netns)
            undo.pop_all()
        ready.close_sockets()
        return sandbox

    async def adopt(self, container_id: str, endpoints: Sequence[Endpoint], pidfd: int) -> Sandbox:
        """Take up a container that kept running while the engine was away. Raises OrlopError."""
        main = self._driver(endpoints[0].network_id) if endpoints else None
        if isinstance(main, HostDriver | NoneDriver):
            return await main.adopt(endpoints[0], pidfd)
        netns, sock = await self._around.namespaces.network_namespace_of(pidfd)
        sock.close()
        ordered = sorted(endpoints, key=lambda endpoint: (len(endpoint.interface), endpoint.interface))
        for endpoint in ordered:
            self._joinable(endpoint.network_id).adopt(endpoint)
            self._around.ports.watch(endpoint.id, netns)
            self._resolvers.names.add(endpoint)
        row = self._kept.get(container_id, SandboxRow("", (), NameServerWish()))
        named = any(endpoint.names for endpoint in ordered)
        sandbox = Sandbox(row.id or generate_id(), "bridge", netns, tuple(ordered), name_server=named)
        if named:
            try:
                await self._resolvers.serve(container_id, sandbox, row.name_servers)
            except (OrlopError, OSError) as error:  # the rest of its network is well
                _log.warning("container %.12s has no name server: %s", container_id, error)
        return sandbox

    def load(self, running: Iterable[str]) -> list[str]:
        """Read what was kept of running containers, forget the rest; returns the ids of what was kept."""
        alive = set(running)
        for container_id, row in self._around.records.sandboxes().items():
            if container_id in alive:
                self._kept[container_id] = row
            else:
                self._around.records.delete_sandbox(container_id)
        return list(self._kept)

    async def connect(
        self, container_id: str, sandbox: Sandbox, network: Network, wish: EndpointWish, *, request: AttachRequest
    ) -> Sandbox:
        """Join a running container to one more network; returns its sandbox.

        Args:
            container_id: whose.
            sandbox: as it is.
            network: not yet among its networks.
            wish: what is wanted of it.
            request: the container's name, name servers and ports, for what depends on them from now on.

        Raises:
            OrlopError: nothing was changed.
        """
        if sandbox.netns is None:
            raise ForbiddenError("container cannot be connected to host network")
        driver = self._joinable(network.id)
        try:
            async with contextlib.AsyncExitStack() as undo:
                inside = await undo.enter_async_context(self._inside(sandbox))
                taken = {endpoint.interface for endpoint in sandbox.endpoints}
                name = interfaces.chosen_name(wish.options, network.interface_prefix, taken)
                spot = Spot(sandbox.netns, inside, name, request.container_name)
                endpoint = await driver.join(container_id, wish, spot)
                failed = contextlib.AsyncExitStack()
                async with failed:
                    failed.push_async_callback(self._leave, driver, endpoint, inside)
                    await self._set_sysctls(endpoint, spot)
                    changed = replace(sandbox, endpoints=(*sandbox.endpoints, endpoint))
                    changed = await self._rearrange(container_id, changed, inside, request)
                    failed.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise SystemFailureError(f"failed to set up container networking: {error}") from error
        self._resolvers.names.add(endpoint)
        return changed

    async def disconnect(
        self, container_id: str, sandbox: Sandbox, endpoint: Endpoint, *, request: AttachRequest
    ) -> Sandbox:
        """Take a running container off a network; returns its sandbox. Raises OrlopError."""
        none = self._driver(endpoint.network_id)
        if isinstance(none, NoneDriver):  # the namespace stays, and may join networks from now on
            await none.leave(endpoint)
            self._keep(container_id, SandboxRow(sandbox.id, request.ports, request.name_servers))
            return replace(sandbox, mode="bridge", endpoints=())
        driver = self._joinable(endpoint.network_id)
        self._resolvers.names.remove(endpoint)
        rest = tuple(other for other in sandbox.endpoints if other.id != endpoint.id)
        changed = replace(sandbox, endpoints=rest)
        try:
            async with self._inside(sandbox) as inside:
                await self._leave(driver, endpoint, inside)
                try:
                    return await self._rearrange(container_id, changed, inside, request)
                except OrlopError as error:
                    # it is off the network; what else leads out has its ports taken, say
                    _log.warning("container %.12s: %s", container_id, error)
                    return changed
        except (OSError, sqlite3.Error) as error:
            raise SystemFailureError(f"failed to set up container networking: {error}") from error

    async def put_in_order(self, container_id: str, sandbox: Sandbox, request: AttachRequest) -> Sandbox:
        """Do what follows a change of a running container's networks; returns its sandbox. Raises OrlopError."""
        try:
            async with self._inside(sandbox) as inside:
                return await self._rearrange(container_id, sandbox, inside, request)
        except (OSError, sqlite3.Error) as error:
            raise SystemFailureError(f"failed to set up container networking: {error}") from error

    def hide(self, container_id: str, sandbox: Sandbox) -> None:
        """Make a container that has ended unknown to the others: who hears of its end finds it no more."""
        self._resolvers.stop(container_id)
        for endpoint in sandbox.endpoints:
            self._resolvers.names.remove(endpoint)

    async def release(self, container_id: str, sandbox: Sandbox) -> list[tuple[Driver, Endpoint]]:
        """Take a hidden container's network down; returns links that may have to be removed a little later."""
        links: list[tuple[Driver, Endpoint]] = []
        try:
            for endpoint in sandbox.endpoints:
                driver = self._drivers.get(endpoint.network_id)
                if driver is None:
                    continue
                await driver.leave(endpoint)
                if not isinstance(driver, HostDriver | NoneDriver):
                    links.append((driver, endpoint))
            self._forget(container_id)
        finally:
            if sandbox.netns is not None:
                sandbox.netns.close()
        return links

    async def drop(self, container_id: str, before: Sandbox, changed: Sandbox) -> None:
        """Undo what a change made of a container that ended meanwhile, whose sandbox was released as it was before."""
        self._resolvers.stop(container_id)
        known = {endpoint.id for endpoint in before.endpoints}
        for endpoint in changed.endpoints:
            if endpoint.id not in known:
                self._resolvers.names.remove(endpoint)
                await self._joinable(endpoint.network_id).leave(endpoint)
        self._forget(container_id)

    def rename(self, container_id: str, sandbox: Sandbox, old: str, new: str) -> Sandbox:
        """Call a container by another name; returns its sandbox."""
        del container_id
        changed = []
        for endpoint in sandbox.endpoints:
            if old not in endpoint.names:
                changed.append(endpoint)
                continue
            names = tuple(dict.fromkeys(new if name == old else name for name in endpoint.names))
            renamed = replace(endpoint, names=names)
            self._resolvers.names.remove(endpoint)
            self._resolvers.names.add(renamed)
            self._around.records.update_endpoint(renamed)
            changed.append(renamed)
        return replace(sandbox, endpoints=tuple(changed))

    def shape(self, sandbox: Sandbox, wishes: Sequence[tuple[Network, EndpointWish]]) -> Sandbox:
        """Hold a running container to other rates; returns its sandbox. Raises OrlopError."""
        changed = {endpoint.id: endpoint for endpoint in sandbox.endpoints}
        for network, wish in wishes:
            endpoint, driver = sandbox.on(network.id), self._drivers.get(network.id)
            if endpoint is None or not isinstance(driver, BridgeDriver) or dict(wish.options) == endpoint.options:
                continue
            shaped = replace(endpoint, options=dict(wish.options))
            driver.shape(shaped, again=True)
            self._around.records.update_endpoint(shaped)
            changed[endpoint.id] = shaped
        return replace(sandbox, endpoints=tuple(changed.values()))

    # --- parts ---

    async def _set_sysctls(self, endpoint: Endpoint, spot: Spot) -> None:
        """Set the kernel's parameters of an interface that its options name. Raises SystemFailureError."""
        text = endpoint.options.get(OPTION_SYSCTLS)
        if text:
            wished = settings_of(text, endpoint.interface)
            try:
                await self._around.namespaces.open_inside(spot.namespace.fileno(), wished=wished)
            except SystemFailureError as error:
                raise SystemFailureError(f"failed to add interface {endpoint.interface} to sandbox: {error}") from error

    async def _rearrange(
        self, container_id: str, sandbox: Sandbox, inside: Rtnetlink, request: AttachRequest
    ) -> Sandbox:
        """Bring default routes, published ports and name server in step with the networks."""
        set_default_routes(inside, sandbox.endpoints, fresh=False)
        row = self._kept.get(container_id)
        ports = row.ports if row is not None else request.ports
        endpoints = await self._publish(sandbox.endpoints, ports, request.container_name)
        if sandbox.netns is not None:
            for endpoint in endpoints:
                self._around.ports.watch(endpoint.id, sandbox.netns)
        named = any(endpoint.names for endpoint in endpoints)
        changed = replace(sandbox, endpoints=tuple(endpoints), name_server=named or sandbox.name_server)
        if changed.name_server or not endpoints:  # nothing else would tell the next engine of this sandbox
            servers = row.name_servers if row is not None and row.name_servers.servers else request.name_servers
            self._keep(container_id, SandboxRow(sandbox.id, ports, servers))
            if changed.name_server:
                await self._resolvers.serve(container_id, changed, servers)
        return changed

    async def _publish(
        self, endpoints: Sequence[Endpoint], ports: Sequence[PortRequest], container_name: str
    ) -> list[Endpoint]:
        records = self._around.records
        return await publish_by_way_out(endpoints, ports, container_name, driver=self._joinable, records=records)

    @contextlib.asynccontextmanager
    async def _inside(self, sandbox: Sandbox) -> AsyncIterator[Rtnetlink]:
        assert sandbox.netns is not None  # noqa: S101 - sandboxes of bridges have one
        (sock,) = await self._around.namespaces.open_inside(sandbox.netns.fileno(), sockets=["route"])
        with Rtnetlink(sock) as inside:
            yield inside

    async def _leave(self, driver: Driver, endpoint: Endpoint, inside: Rtnetlink) -> None:
        """Take an endpoint away for good: the container goes on and must not keep the link.

        A pair of links is gone from both namespaces after 1 ms, but the kernel answers only when it has freed them,
        20 ms later (``netdev_run_todo`` waits in ``rcu_barrier``). Nobody waits for that.
        """
        await driver.leave(endpoint)
        if endpoint.host_interface:
            removal = asyncio.get_running_loop().create_task(asyncio.to_thread(driver.delete_link, endpoint))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)
            while not removal.done() and inside.find_link(endpoint.interface):
                await asyncio.wait([removal], timeout=_LOOK)
            if removal.done():
                removal.result()
            return
        try:
            inside.execute(delete_link(name=endpoint.interface))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise

    def _driver(self, network_id: str) -> Driver | HostDriver | NoneDriver:
        driver = self._drivers.get(network_id)
        if driver is None:
            raise UnavailableError("the network could not be set up when the engine started")
        return driver

    def _joinable(self, network_id: str) -> Driver:
        driver = self._driver(network_id)
        if isinstance(driver, HostDriver | NoneDriver):
            raise ForbiddenError(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        return driver

    def _keep(self, container_id: str, row: SandboxRow) -> None:
        if self._kept.get(container_id) != row:
            self._kept[container_id] = row
            self._around.records.put_sandbox(container_id, row)

    def _forget(self, container_id: str) -> None:
        if self._kept.pop(container_id, None) is not None:
            self._around.records.delete_sandbox(container_id)


def _sysctls(ready: ReadyNamespace, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """Return what the runtime has to set where the spawner did not see to it."""
    usual = next((endpoint for endpoint in endpoints if endpoint.interface == INTERFACE), None)
    if ready.pair is None or ready.pair.ipv6_off or usual is None or usual.address6:
        return {}
    conf = f"net.ipv6.conf.{INTERFACE}"
    return {f"{conf}.disable_ipv6": "1", f"{conf}.accept_ra": "0"}
