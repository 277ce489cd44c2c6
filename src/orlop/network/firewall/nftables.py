"""The nftables backend: one transaction for each change, through libnftables or, without it, ``nft -f -``."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError, UnavailableError
from orlop.kernel.libnftables import Nftables
from orlop.network.firewall import rules, ruleset
from orlop.network.firewall.backend import FirewallBackend
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.network.firewall.backend import EndRefused
    from orlop.network.firewall.contract import PortRule

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


class NftablesFirewall(FirewallBackend):
    """Keeps the rules in one table for each IP version."""

    name = "nftables"

    def __init__(
        self,
        *,
        table: str = "orlop",
        router: bool = False,
        router6: bool = False,
        end_refused: EndRefused,
        run: Callable[[str], tuple[int, str, str]] | None = None,
    ) -> None:
        super().__init__(end_refused)
        self._table = table
        self._router = {4: router, 6: router6}
        self._run = run
        self._frame: dict[int, Counter[str]] = {}  # IP version -> parts of our table besides published ports

    async def _begin(self) -> None:
        for family in (rules.IPV4, rules.IPV6):
            listing = await self._list(family)
            # forwarding is on by now, but it was we who switched it on
            self._router[family.version] |= ruleset.has_router(listing)
            self._six = self._six or (family.version == 6 and bool(listing))

    async def _add(self, ports: Sequence[PortRule]) -> bool:
        status, _, _ = await self._do(ruleset.render_publish(ports, name=self._table))
        return status == 0

    async def _remove(self, ports: Sequence[PortRule]) -> bool:
        status, _, _ = await self._do(ruleset.render_publish(ports, name=self._table, verb="delete"))
        return status == 0

    async def _synchronise(self, gone: Sequence[str] = (), links: Collection[str] | None = None) -> bool:
        del gone, links  # all is in our own table, which is replaced
        await self._replace()
        return True

    async def _repair(self, links: Collection[str] | None = None) -> bool:
        wrong = bool(await self._differences(links or ()))
        if wrong:
            await self._replace()
        return wrong

    async def _differences(self, links: Collection[str]) -> list[str]:
        del links
        found: list[str] = []
        for family in self._families():
            wanted = self._frame.get(family.version, Counter()) + self._elements(family)
            there = ruleset.parts(await self._list(family))
            found += [f"missing: {part}" for part in wanted - there] + [f"more: {part}" for part in there - wanted]
        return found

    async def remove_all(self) -> None:
        """Take our tables away (a test's clean-up; the engine leaves them for live containers)."""
        async with self._turn:
            for family in self._families():
                whole = ruleset.table(family, self._table)
                await self._do(f"add table {whole}\ndelete table {whole}\n")

    async def _replace(self) -> None:
        script = ""
        for family in self._families():
            script += ruleset.render(
                self._bridges.values(),
                self._all_ports(),
                name=self._table,
                family=family,
                router=self._router[family.version],
                present=await self._list(family),
            )
        status, _, errors = await self._do(script)
        if status:
            raise SystemFailureError(f"failed to set up firewall rules: {errors.strip()[:2000]}")
        for family in self._families():
            self._frame[family.version] = ruleset.parts(await self._list(family)) - self._elements(family)

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
