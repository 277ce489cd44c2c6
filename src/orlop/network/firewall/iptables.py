"""The iptables backend: one ``iptables-restore --noflush`` for each change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError
from orlop.network.firewall import rules
from orlop.network.firewall.backend import FirewallBackend
from orlop.primitives import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orlop.network.firewall.backend import EndRefused
    from orlop.network.firewall.contract import PortRule

_TIMEOUT = 30.0


def run_command(arguments: Sequence[str], stdin: bytes) -> commands.Completed:
    """Run an iptables program; raises UnavailableError when it is not installed."""
    return commands.run(arguments, stdin=stdin, timeout=_TIMEOUT)


class IptablesFirewall(FirewallBackend):
    """Keeps the rules with iptables-save and iptables-restore."""

    name = "iptables"

    def __init__(
        self,
        *,
        prefix: str = "DOCKER",
        policy_drop: bool = False,
        policy_drop6: bool = False,
        end_refused: EndRefused,
        run: Callable[[Sequence[str], bytes], commands.Completed] = run_command,
    ) -> None:
        super().__init__(end_refused)
        self._prefix = prefix
        self._policy_drop = {4: policy_drop, 6: policy_drop6}
        self._run = run

    async def _begin(self) -> None:
        """Nothing: all that was left is in the tables and is compared."""

    async def _add(self, ports: Sequence[PortRule]) -> bool:
        return await self._change(ports, rules.render_publish)

    async def _remove(self, ports: Sequence[PortRule]) -> bool:
        return await self._change(ports, rules.render_withdraw)

    async def _change(self, ports: Sequence[PortRule], render: Callable[..., str]) -> bool:
        well = True
        for family in self._families():
            own = [port for port in ports if rules.family_of(port.address) is family]
            if own:
                completed = await self._put(render(own, prefix=self._prefix), family)
                well = well and completed.returncode == 0
        return well

    async def remove_all(self) -> None:
        """Take every rule and chain of ours away (a test's clean-up; the engine leaves them for live containers)."""
        async with self._turn:
            for family in self._families():
                text = rules.render_removal(await self._saved(family), self._wanted(family))
                if text:
                    (await self._put(text, family)).check()

    def _wanted(self, family: rules.Family) -> rules.RuleSet:
        return rules.compute(self._bridges.values(), self._all_ports(), prefix=self._prefix, family=family)

    def _changes(
        self, saved: str, family: rules.Family, *, gone: Sequence[str] = (), links: Collection[str] | None = None
    ) -> str:
        """Return the input that puts the tables right; with ``links`` for bridges that are not there as well."""
        stale = () if links is None else rules.bridges_of(saved) - set(links)
        return rules.render_changes(
            saved, self._wanted(family), policy_drop=self._policy_drop[family.version], gone=(*gone, *stale)
        )

    async def _differences(self, links: Collection[str]) -> list[str]:
        texts = [self._changes(await self._saved(family), family, links=links) for family in self._families()]
        lines = [line for text in texts for line in text.splitlines()]
        return [line for line in lines if line.startswith(("-", ":"))]

    async def _synchronise(self, gone: Sequence[str] = (), links: Collection[str] | None = None) -> bool:
        changed = False
        for family in self._families():
            text = self._changes(await self._saved(family), family, gone=gone, links=links)
            if text:
                completed = await self._put(text, family)
                if completed.returncode:
                    words = completed.stderr.decode("utf-8", "replace").strip()[:2000]
                    raise SystemFailureError(f"failed to set up firewall rules: {words}")
            changed = changed or bool(text)
        return changed

    async def _saved(self, family: rules.Family) -> str:
        completed = await asyncio.to_thread(self._run, (f"{_program(family)}-save",), b"")
        return completed.check().stdout.decode("utf-8", "replace")

    async def _put(self, text: str, family: rules.Family) -> commands.Completed:
        program = f"{_program(family)}-restore"
        return await asyncio.to_thread(self._run, (program, "--noflush", "-w"), text.encode())


def _program(family: rules.Family) -> str:
    return "iptables" if family.version == 4 else "ip6tables"


async def is_nf_tables() -> bool:
    """Whether the iptables programs work on nf_tables, whose changes the kernel reports."""
    completed = await asyncio.to_thread(run_command, ("iptables-restore", "--version"), b"")
    return b"nf_tables" in completed.stdout
