"""The iptables backend: one ``iptables-restore --noflush`` for each change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.network.firewall import rules
from orlop.network.uninterrupted import run_to_end
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.network.firewall.contract import BridgeRules, PortRule

_TIMEOUT = 30.0


def run_command(arguments: Sequence[str], stdin: bytes) -> commands.Completed:
    """Run an iptables program; raises UnavailableError when it is not installed."""
    return commands.run(arguments, stdin=stdin, timeout=_TIMEOUT)


class IptablesFirewall:
    """Implements :class:`orlop.network.firewall.contract.Firewall` with iptables-save and iptables-restore.

    Published ports are added and removed one by one, at a cost that does not grow with their number. When a removal
    finds that its rule is gone (somebody flushed the tables), the whole rule set is compared and put right.
    """

    name = "iptables"

    def __init__(
        self,
        *,
        prefix: str = "DOCKER",
        policy_drop: bool = False,
        policy_drop6: bool = False,
        run: Callable[[Sequence[str], bytes], commands.Completed] = run_command,
    ) -> None:
        self._prefix = prefix
        self._policy_drop = {4: policy_drop, 6: policy_drop6}
        self._run = run
        self._bridges: dict[str, BridgeRules] = {}
        self._ports: dict[str, tuple[PortRule, ...]] = {}
        self._six = False  # whether there are rules of IPv6
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
            await self._synchronise()

    async def add_bridge(self, bridge: BridgeRules) -> None:
        """Add the rules of a bridge."""
        await run_to_end(self._add_bridge(bridge))

    async def _add_bridge(self, bridge: BridgeRules) -> None:
        rules.check_rule_values(bridge, ())
        async with self._turn:
            before = self._bridges.get(bridge.name)
            self._bridges[bridge.name] = bridge
            try:
                await self._synchronise()
            except BaseException:
                self._bridges.pop(bridge.name)
                if before is not None:
                    self._bridges[bridge.name] = before
                raise

    async def remove_bridge(self, name: str) -> None:
        """Remove them."""
        await run_to_end(self._remove_bridge(name))

    async def _remove_bridge(self, name: str) -> None:
        async with self._turn:
            if self._bridges.pop(name, None) is not None:
                await self._synchronise(gone=(name,))

    async def publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        """Add the rules of published ports."""
        await run_to_end(self._publish(owner, ports))

    async def _publish(self, owner: str, ports: Sequence[PortRule]) -> None:
        rules.check_rule_values(None, ports)
        async with self._turn:
            self._ports[owner] = tuple(ports)
            if not await self._change(ports, rules.render_publish):
                try:
                    await self._synchronise()
                except BaseException:
                    del self._ports[owner]
                    raise

    async def _change(self, ports: Sequence[PortRule], render: Callable[..., str]) -> bool:
        """Add or remove rules of ports; tells whether the tables were as they ought to be."""
        well = True
        for family in self._families():
            own = [port for port in ports if rules.family_of(port.address) is family]
            if own:
                completed = await self._restore(render(own, prefix=self._prefix), family)
                well = well and completed.returncode == 0
        return well

    async def withdraw(self, owner: str) -> None:
        """Remove the owner's."""
        await run_to_end(self._withdraw(owner))

    async def _withdraw(self, owner: str) -> None:
        async with self._turn:
            ports = self._ports.pop(owner, ())
            if not ports:
                return
            if not await self._change(ports, rules.render_withdraw):
                await self._synchronise()

    async def restore(self, links: Collection[str] | None = None) -> bool:
        """Put back what somebody else removed."""
        return await run_to_end(self._put_right(links))

    async def _put_right(self, links: Collection[str] | None) -> bool:
        async with self._turn:
            return await self._synchronise(links=links)

    async def differences(self, links: Collection[str]) -> list[str]:
        """Return what a restoration would change."""
        async with self._turn:
            texts = [self._changes(await self._saved(family), family, links=links) for family in self._families()]
        lines = [line for text in texts for line in text.splitlines()]
        return [line for line in lines if line.startswith(("-", ":"))]

    async def remove_all(self) -> None:
        """Take every rule and chain of ours away (a test's clean-up; the engine leaves them for live containers)."""
        async with self._turn:
            for family in self._families():
                text = rules.render_removal(await self._saved(family), self._wanted(family))
                if text:
                    (await self._restore(text, family)).check()

    def _families(self) -> tuple[rules.Family, ...]:
        self._six = self._six or any(bridge.subnet6 for bridge in self._bridges.values())
        return (rules.IPV4, rules.IPV6) if self._six else (rules.IPV4,)

    def _wanted(self, family: rules.Family) -> rules.RuleSet:
        flat = [port for owned in self._ports.values() for port in owned]
        return rules.compute(self._bridges.values(), flat, prefix=self._prefix, family=family)

    def _changes(
        self, saved: str, family: rules.Family, *, gone: Sequence[str] = (), links: Collection[str] | None = None
    ) -> str:
        """Return the input that puts the tables right; with ``links`` for bridges that are not there as well."""
        stale = () if links is None else rules.bridges_of(saved) - set(links)
        return rules.render_changes(
            saved, self._wanted(family), policy_drop=self._policy_drop[family.version], gone=(*gone, *stale)
        )

    async def _synchronise(self, gone: Sequence[str] = (), links: Collection[str] | None = None) -> bool:
        changed = False
        for family in self._families():
            text = self._changes(await self._saved(family), family, gone=gone, links=links)
            if text:
                completed = await self._restore(text, family)
                if completed.returncode:
                    words = completed.stderr.decode("utf-8", "replace").strip()[:2000]
                    raise SystemFailureError(f"failed to set up firewall rules: {words}")
            changed = changed or bool(text)
        return changed

    async def _saved(self, family: rules.Family) -> str:
        completed = await asyncio.to_thread(self._run, (f"{_program(family)}-save",), b"")
        return completed.check().stdout.decode("utf-8", "replace")

    async def _restore(self, text: str, family: rules.Family) -> commands.Completed:
        program = f"{_program(family)}-restore"
        return await asyncio.to_thread(self._run, (program, "--noflush", "-w"), text.encode())


def _program(family: rules.Family) -> str:
    return "iptables" if family.version == 4 else "ip6tables"


async def is_nf_tables() -> bool:
    """Whether the iptables programs work on nf_tables, whose changes the kernel reports."""
    completed = await asyncio.to_thread(run_command, ("iptables-restore", "--version"), b"")
    return b"nf_tables" in completed.stdout
