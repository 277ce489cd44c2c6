"""What is left on the host of networks and containers that are not there: links, and rules of the firewall."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.kernel import rtnetlink
from orlop.network.bandwidth import ifb_name
from orlop.network.bridge import BridgeDriver
from orlop.network.bridge_device import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orlop.network.bridge_device import Surroundings
    from orlop.network.catalogue import Catalogue
    from orlop.network.driver import Driver
    from orlop.network.host import HostDriver
    from orlop.network.none import NoneDriver

_USERS_BRIDGE = re.compile("br-[0-9a-f]{12}")
_IFB = re.compile("ifb([0-9a-f]{7})")


@dataclass(frozen=True, slots=True)
class Stray:
    """Something that nobody owns.

    Attributes:
        kind: ``link`` or ``rules``.
        name: of the link, or of what keeps the rules.
        detail: more, for people.
        sure: whether it can only be ours; else it may be another engine's.
    """

    kind: str
    name: str
    detail: str = ""
    sure: bool = True


class Audit:
    """Compares the host with what the network service knows."""

    def __init__(
        self, around: Surroundings, drivers: Mapping[str, Driver | HostDriver | NoneDriver], catalogue: Catalogue
    ) -> None:
        self._around = around
        self._drivers = drivers
        self._catalogue = catalogue

    async def find(self) -> list[Stray]:
        """Return what nobody owns. Raises OrlopError: the tables cannot be read."""
        found = list(self._links())
        if self._around.firewall is not None:
            wrong = await self._around.firewall.differences(self._names())
            if wrong:
                found.append(Stray("rules", self._around.firewall.name, "; ".join(wrong)))
        return found

    async def remove(self, stray: Stray) -> None:
        """Remove it; gone already is fine. Raises OrlopError: the tables cannot be changed."""
        if stray.kind == "link":
            self._around.execute_unless_gone(rtnetlink.delete_link(name=stray.name))
            if is_ours(stray.name):
                self._around.execute_unless_gone(rtnetlink.delete_link(name=ifb_name(stray.name)))
            await asyncio.sleep(0)
        elif self._around.firewall is not None:
            await self._around.firewall.restore(self._names())

    def _names(self) -> frozenset[str]:
        return frozenset(link.name for link in self._around.host.links())

    def _links(self) -> Iterator[Stray]:
        links = self._around.host.links()
        names = {link.name for link in links}
        bridges = [driver for driver in self._drivers.values() if isinstance(driver, BridgeDriver)]
        masters = {bridge.device.index for bridge in bridges}
        plugged = {name for bridge in bridges for name in bridge.plugged()}
        known = {network.bridge_name for network in self._catalogue if network.driver == "bridge"}
        for link in links:
            pair = _IFB.fullmatch(link.name)
            is_port = link.kind == "veth" and link.master in masters and is_ours(link.name)
            lost_port = is_port and link.name not in plugged
            lost_device = pair is not None and link.kind == "ifb" and f"veth{pair[1]}" not in names
            if lost_port or lost_device:
                yield Stray("link", link.name)
            elif link.kind == "bridge" and _USERS_BRIDGE.fullmatch(link.name) and link.name not in known:
                yield Stray("link", link.name, sure=False)
