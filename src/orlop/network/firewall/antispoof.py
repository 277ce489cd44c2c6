"""Networks whose containers cannot pass for others: an option, since Docker's networks are without it (threats.md G7).

    table bridge orlop
    prerouting -300   ports        verdict map on the incoming bridge port
                      <port>       one chain for each: its own hardware address and IP addresses only, in the frame,
                                   in ARP and in neighbour advertisements; no router advertisement, no DHCP server

A port's chain is in force before its link is plugged into the bridge. It is on the outer end of the veth pair, so that
no capability of the container takes it away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections import Counter
from typing import TYPE_CHECKING

from orlop.errors import SystemFailureError, UnavailableError
from orlop.network.firewall.nftables import open_nft
from orlop.network.uninterrupted import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.network.sandbox import Endpoint


class SpoofGuard:
    """Keeps the table; it exists only while there is a port in it.

    Args:
        table: its name.
        run: carries out commands; None: libnftables, else nft.
    """

    def __init__(self, *, table: str = "orlop", run: Callable[[str], tuple[int, str, str]] | None = None) -> None:
        self._table = f"bridge {table}"
        self._run = run
        self._ports: dict[str, Endpoint] = {}  # by the name of the bridge port
        self._expected: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    async def start(self, endpoints: Iterable[Endpoint]) -> None:
        """Guard exactly these. Raises OrlopError."""
        async with self._turn:
            self._ports = {endpoint.host_interface: endpoint for endpoint in endpoints}
            if self._ports:
                await run_to_end(self._replace())

    async def add(self, endpoint: Endpoint) -> None:
        """Guard a port.

        Raises:
            OrlopError: it is not guarded: the container must not start.
        """
        async with self._turn:
            self._ports[endpoint.host_interface] = endpoint
            try:
                await run_to_end(self._replace())
            except BaseException:
                del self._ports[endpoint.host_interface]
                raise

    async def remove(self, endpoint: Endpoint) -> None:
        """Stop guarding a port; one that is not known is no error. Raises OrlopError."""
        async with self._turn:
            if self._ports.pop(endpoint.host_interface, None) is not None:
                await run_to_end(self._replace())

    async def restore(self) -> bool:
        """Put back what somebody else removed; returns whether anything was missing. Raises OrlopError."""
        async with self._turn:
            if not self._ports or _parts(await self._list()) == self._expected:
                return False
            await run_to_end(self._replace())
            return True

    async def check(self) -> None:
        """Raise UnavailableError unless this machine can guard ports."""
        try:
            await self._do("list tables bridge\n")
        except UnavailableError as error:
            raise UnavailableError(f"protection from spoofed addresses needs nftables: {error}") from error

    async def _replace(self) -> None:
        status, _, errors = await self._do(render(self._ports.values(), table=self._table))
        if status:
            raise SystemFailureError(f"failed to protect from spoofed addresses: {errors.strip()[:2000]}")
        self._expected = _parts(await self._list()) if self._ports else Counter()

    async def _list(self) -> str:
        status, output, _ = await self._do(f"list table {self._table}\n")
        return output if status == 0 else ""

    async def _do(self, script: str) -> tuple[int, str, str]:
        if self._run is None:
            self._run = await asyncio.to_thread(open_nft)
        return await asyncio.to_thread(self._run, script)


def render(endpoints: Iterable[Endpoint], *, table: str) -> str:
    """Return commands that replace the table in one transaction, or remove it when there is nothing to guard."""
    head = f"add table {table}\ndelete table {table}\n"
    chains, elements = [], []
    for endpoint in endpoints:
        port = endpoint.host_interface
        if re.fullmatch(r"[A-Za-z0-9]{1,15}", port) is None:
            raise ValueError(f"not an interface name: {port!r}")
        elements.append(f'"{port}" : jump {port}')
        chains.append(f"\tchain {port} {{\n" + "".join(f"\t\t{rule}\n" for rule in _rules(endpoint)) + "\t}\n")
    if not chains:
        return head
    first = (
        "\tchain prerouting {\n\t\ttype filter hook prerouting priority -300; policy accept;\n"
        f"\t\tiifname vmap {{ {', '.join(elements)} }}\n\t}}\n"
    )
    return f"{head}table {table} {{\n{''.join(chains)}{first}}}\n"


def _rules(endpoint: Endpoint) -> Iterable[str]:
    mac = endpoint.mac
    if re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) is None:
        raise ValueError(f"not a hardware address: {mac!r}")
    yield f"ether saddr != {mac} drop"
    yield f"ether type arp arp saddr ether != {mac} drop"
    if endpoint.address:
        address = ipaddress.IPv4Address(endpoint.address)
        own = [address, *map(ipaddress.IPv4Address, (text for text in endpoint.link_local if ":" not in text))]
        shown = ", ".join(map(str, own))
        yield f"ether type arp arp saddr ip {{ 0.0.0.0, {shown} }} accept"  # the former asks whether it is free
        yield "ether type ip udp sport 67 drop"
        yield f"ether type ip ip saddr {{ {shown} }} accept"
    if endpoint.address6:
        own6 = [ipaddress.IPv6Address(endpoint.address6), link_local(mac)]
        own6 += map(ipaddress.IPv6Address, (text for text in endpoint.link_local if ":" in text))
        yield "icmpv6 type { nd-router-advert, nd-redirect } drop"
        # the target; nft before 1.0.9 has no name for it
        targets = ", ".join(f"0x{int(address):032x}" for address in own6)
        yield f"icmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop"
        yield f"ip6 saddr {{ {', '.join(map(str, own6))} }} accept"
        yield "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } accept"
    yield "drop"


def link_local(mac: str) -> ipaddress.IPv6Address:
    """Return the link-local address that the kernel makes of a hardware address (RFC 4291, appendix A)."""
    packed = bytes.fromhex(mac.replace(":", ""))
    return ipaddress.IPv6Address(
        b"\xfe\x80" + bytes(6) + bytes([packed[0] ^ 2]) + packed[1:3] + b"\xff\xfe" + packed[3:]
    )


def _parts(listing: str) -> Counter[str]:
    split = re.split(r"[{},\n;]", listing)
    return Counter(part for part in (part.strip() for part in split) if part)
