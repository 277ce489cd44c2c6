"""What both backends have in common: what is known of bridges and ports, one change at a time, undone when it fails."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from orlop.network.firewall import rules
from orlop.network.uninterrupted import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.network.firewall.contract import BridgeRules, PortRule

    EndRefused = Callable[[Collection[BridgeRules]], None]


class FirewallBackend(ABC):
    """Implements :class:`orlop.network.firewall.contract.Firewall`, but for the tables themselves.

    Published ports are added and removed one by one, at a cost that does not grow with their number. When that finds
    that the tables are not as they ought to be (somebody flushed them), everything is compared and put right, and
    connections that could begin meanwhile, but should not, are ended.

    Args:
        end_refused: ends connections that the rules of these bridges let nobody begin; called in a worker thread.
    """

    name: str

    def __init__(self, end_refused: EndRefused) -> None:
        self._end_refused = end_refused
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: dict[str, tuple[PortRule, ...]] = {}
        self._six = False  # whether there are rules of IPv6
        self._turn = asyncio.Lock()

    # --- what a backend does ---

    @abstractmethod
    async def _begin(self) -> None:
        """Look at what an earlier engine left, before the first :meth:`_synchronise`."""

    @abstractmethod
    async def _synchronise(self, gone: Sequence[str] = (), links: Collection[str] | None = None) -> bool:
        """Make the tables hold what is known; tells whether anything changed.

        Args:
            gone: bridges that are no more.
            links: all that there are: rules of ours for other bridges go as well.
        """

    async def _repair(self, links: Collection[str] | None = None) -> bool:
        """Compare and put right; tells whether anything was missing or too much."""
        return await self._synchronise(links=links)

    @abstractmethod
    async def _differences(self, links: Collection[str]) -> list[str]:
        """Return, for people, what a restoration would change."""

    @abstractmethod
    async def _add(self, ports: Sequence[PortRule]) -> bool:
        """Add the rules of ports; tells whether the tables were as they ought to be."""

    @abstractmethod
    async def _remove(self, ports: Sequence[PortRule]) -> bool:
        """Remove the rules of ports; likewise."""

    # --- the contract ---

    async def start(self, bridges: Sequence[BridgeRules], ports: dict[str, tuple[PortRule, ...]]) -> None:
        """Make the tables hold exactly these."""
        for bridge in bridges:
            rules.check_rule_values(bridge, ())
        for owned in ports.values():
            rules.check_rule_values(None, owned)
        await run_to_end(self._start(bridges, ports))

    async def _start(self, bridges: Sequence[BridgeRules], ports: dict[str, tuple[PortRule, ...]]) -> None:
        async with self._turn:
            self._bridges = {bridge.name: bridge for bridge in bridges}
            self._ports = dict(ports)
            await self._begin()
            await self._put_right()

    async def add_bridge(self, bridge: BridgeRules) -> None:
        """Add the rules of a bridge."""
        rules.check_rule_values(bridge, ())
        await run_to_end(self._change_bridge(bridge.name, bridge))

    async def remove_bridge(self, name: str) -> None:
        """Remove them."""
        await run_to_end(self._change_bridge(name, None))

    async def _change_bridge(self, name: str, bridge: BridgeRules | None) -> None:
        async with self._turn:
            before = dict(self._bridges)
            if bridge is not None:
                self._bridges[name] = bridge
            elif self._bridges.pop(name, None) is None:
                return
            try:
                await self._synchronise(gone=(name,) if bridge is None else ())
            except BaseException:
                self._bridges = before
                raise

    async def publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        """Add the rules of published ports."""
        rules.check_rule_values(None, ports)
        await run_to_end(self._publish(owner, ports))

    async def _publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        async with self._turn:
            self._ports[owner] = tuple(ports)
            try:
                if not await self._add(ports):
                    await self._put_right()
            except BaseException:
                del self._ports[owner]
                raise

    async def withdraw(self, owner: str) -> None:
        """Remove the owner's."""
        await run_to_end(self._withdraw(owner))

    async def _withdraw(self, owner: str) -> None:
        async with self._turn:
            ports = self._ports.pop(owner, ())
            if ports and not await self._remove(ports):
                await self._put_right()

    async def restore(self, links: Collection[str] | None = None) -> bool:
        """Put back what somebody else removed."""
        return await run_to_end(self._restore(links))

    async def _restore(self, links: Collection[str] | None) -> bool:
        async with self._turn:
            changed = await self._repair(links)
            if changed:
                await self._end_strays()
            return changed

    async def differences(self, links: Collection[str]) -> list[str]:
        """Return what a restoration would change."""
        async with self._turn:
            return await self._differences(links)

    # --- parts ---

    async def _put_right(self) -> None:
        if await self._synchronise():
            await self._end_strays()

    async def _end_strays(self) -> None:
        await asyncio.to_thread(self._end_refused, tuple(self._bridges.values()))

    def _families(self) -> tuple[rules.Family, ...]:
        self._six = self._six or any(bridge.subnet6 for bridge in self._bridges.values())
        return (rules.IPV4, rules.IPV6) if self._six else (rules.IPV4,)

    def _all_ports(self) -> list[PortRule]:
        return [port for owned in self._ports.values() for port in owned]
