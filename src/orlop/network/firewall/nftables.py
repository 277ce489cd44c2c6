"""The nftables backend: one transaction for each change, through libnftables or, without it, ``nft -f -``."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError, UnavailableError
from orlop.kernel.libnftables import Nftables
from orlop.network.firewall import rules, ruleset
from orlop.network.uninterrupted import run_to_end
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.network.firewall.contract import BridgeRules, PortRule

_TIMEOUT = 30.0


def run_nft(script: str) -> tuple[int, str, str]:
    """Carry out commands with the program; returns status, output and errors. Raises UnavailableError."""
    completed = commands.run(("nft", "-s", "-f", "-"), stdin=script.encode(), timeout=_TIMEOUT)
    words = (completed.stdout.decode("utf-8", "replace"), completed.stderr.decode("utf-8", "replace"))
    return completed.returncode, *words


def open_nft() -> Callable[[str], tuple[int, str, str]]:
    """Return what carries out commands: the library, else the program.

    Raises:
        UnavailableError: neither is installed.
    """
    try:
        return Nftables().run
    except UnavailableError:
        commands.find("nft")
        return run_nft


class NftablesFirewall:
    """Implements :class:`orlop.network.firewall.contract.Firewall` with one table for each IP version.

    Published ports are elements that are added and removed one by one. When that finds that the table is gone
    (somebody flushed the rules), it is made anew.
    """

    name = "nftables"

    def __init__(
        self,
        *,
        table: str = "orlop",
        router: bool = False,
        router6: bool = False,
        run: Callable[[str], tuple[int, str, str]] | None = None,
    ) -> None:
        self._table = table
        self._router = {4: router, 6: router6}
        self._run = run
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: dict[str, tuple[PortRule, ...]] = {}
        self._six = False  # whether there are rules of IPv6
        self._frame: dict[int, Counter[str]] = {}  # IP version -> parts of our table besides published ports
        self._turn = asyncio.Lock()

    async def start(self, bridges: Sequence[BridgeRules], ports: dict[str, tuple[PortRule, ...]]) -> None:
        """Make the tables hold exactly these."""
        await run_to_end(self._start(bridges, ports))

    async def _start(self, bridges: Sequence[BridgeRules], ports: dict[str, tuple[PortRule, ...]]) -> None:
        async with self._turn:
            for bridge in bridges:
                rules.check_rule_values(bridge, ())
            for owned in ports.values():
                rules.check_rule_values(None, owned)
            self._bridges = {bridge.name: bridge for bridge in bridges}
            self._ports = dict(ports)
            for family in (rules.IPV4, rules.IPV6):
                listing = await self._list(family)
                # forwarding is on by now, but it was we who switched it on
                self._router[family.version] |= ruleset.has_router(listing)
                self._six = self._six or (family.version == 6 and bool(listing))
            await self._replace()

    async def add_bridge(self, bridge: BridgeRules) -> None:
        """Add the rules of a bridge."""
        rules.check_rule_values(bridge, ())
        await run_to_end(self._change_bridges({**self._bridges, bridge.name: bridge}))

    async def remove_bridge(self, name: str) -> None:
        """Remove them."""
        if name in self._bridges:
            rest = {other: bridge for other, bridge in self._bridges.items() if other != name}
            await run_to_end(self._change_bridges(rest))

    async def _change_bridges(self, bridges: dict[str, BridgeRules]) -> None:
        async with self._turn:
            before, self._bridges = self._bridges, bridges
            try:
                await self._replace()
            except BaseException:
                self._bridges = before
                raise

    async def publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        """Add the elements of published ports."""
        rules.check_rule_values(None, ports)
        await run_to_end(self._publish(owner, ports))

    async def _publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        async with self._turn:
            status, _, _ = await self._do(ruleset.render_publish(ports, name=self._table))
            self._ports[owner] = tuple(ports)
            if status:
                try:
                    await self._replace()
                except BaseException:
                    del self._ports[owner]
                    raise

    async def withdraw(self, owner: str) -> None:
        """Remove the owner's."""
        await run_to_end(self._withdraw(owner))

    async def _withdraw(self, owner: str) -> None:
        async with self._turn:
            ports = self._ports.pop(owner, ())
            if ports:
                status, _, _ = await self._do(ruleset.render_publish(ports, name=self._table, verb="delete"))
                if status:
                    await self._replace()

    async def restore(self, links: Collection[str] | None = None) -> bool:  # noqa: ARG002 - all is in our own table
        """Put back what somebody else removed."""
        return await run_to_end(self._put_right())

    async def differences(self, links: Collection[str]) -> list[str]:  # noqa: ARG002 - all is in our own table
        """Return what a restoration would change."""
        async with self._turn:
            found: list[str] = []
            for family in self._families():
                wanted = self._frame.get(family.version, Counter()) + self._elements(family)
                there = ruleset.parts(await self._list(family))
                found += [f"missing: {part}" for part in wanted - there] + [f"more: {part}" for part in there - wanted]
            return found

    async def _put_right(self) -> bool:
        async with self._turn:
            wrong = False
            for family in self._families():
                wanted = self._frame.get(family.version, Counter()) + self._elements(family)
                wrong |= ruleset.parts(await self._list(family)) != wanted
            if wrong:
                await self._replace()
            return wrong

    async def remove_all(self) -> None:
        """Take our tables away (a test's clean-up; the engine leaves them for live containers)."""
        async with self._turn:
            for family in self._families():
                whole = ruleset.table(family, self._table)
                await self._do(f"add table {whole}\ndelete table {whole}\n")

    def _families(self) -> tuple[rules.Family, ...]:
        self._six = self._six or any(bridge.subnet6 for bridge in self._bridges.values())
        return (rules.IPV4, rules.IPV6) if self._six else (rules.IPV4,)

    async def _replace(self) -> None:
        flat = self._all_ports()
        script = "".join(
            ruleset.render(
                self._bridges.values(), flat, name=self._table, family=family, router=self._router[family.version]
            )
            for family in self._families()
        )
        status, _, errors = await self._do(script)
        if status:
            raise SystemFailureError(f"failed to set up firewall rules: {errors.strip()[:2000]}")
        for family in self._families():
            self._frame[family.version] = ruleset.parts(await self._list(family)) - self._elements(family)

    def _all_ports(self) -> list[PortRule]:
        return [port for owned in self._ports.values() for port in owned]

    def _elements(self, family: rules.Family) -> Counter[str]:
        own = [port for port in self._all_ports() if rules.family_of(port.address) is family]
        return Counter(element for elements in ruleset.elements(own, family).values() for element in elements)

    async def _list(self, family: rules.Family) -> str:
        """Return our table of an IP version as it is, "" when it is not there."""
        status, output, _ = await self._do(f"list table {ruleset.table(family, self._table)}\n")
        return output if status == 0 else ""

    async def _do(self, script: str) -> tuple[int, str, str]:
        if self._run is None:
            self._run = await asyncio.to_thread(open_nft)
        return await asyncio.to_thread(self._run, script)


def is_available() -> bool:
    """Tell whether the library or the program is there."""
    try:
        open_nft()
    except UnavailableError:
        return False
    return True
