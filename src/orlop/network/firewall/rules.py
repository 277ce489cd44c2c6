"""The rule set of the iptables backend: computed, compared and rendered without touching anything.

Chains (Docker's names; ``ORLOP`` in place of ``DOCKER`` beside a live Docker, except for DOCKER-USER, which is shared):

    raw     PREROUTING  -> DOCKER                    127/8 and containers' addresses from elsewhere (G3, G4)
    filter  FORWARD     -> DOCKER-USER               the administrator's; made when missing, never rewritten (G6)
                        -> DOCKER-FORWARD            what belongs to a connection that was let through, then
                                          -> DOCKER-ISOLATION-STAGE-1 -> DOCKER-ISOLATION-STAGE-2     (G8)
                                          -> DOCKER  one ACCEPT for each published port, then DROP
    nat     PREROUTING, OUTPUT -> DOCKER             one DNAT for each published port
            POSTROUTING                              masquerade

Rules are text exactly as iptables-save prints it, so that what is there can be compared with what should be.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orlop.network.gateway_modes import NAT, ROUTED, UNPROTECTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orlop.network.firewall.contract import BridgeRules, PortRule

USER_CHAIN = "DOCKER-USER"
_NET = r"[0-9a-fA-F:./]+"
_LINK = r"[A-Za-z0-9._-]+"
# Masquerade rules of ours live in a built-in chain; these patterns find those of subnets that are no more.
_STALE_POSTROUTING = (
    rf"-s {_NET} ! -o {{bridge}} -j MASQUERADE",
    rf"-s (?:127.0.0.0/8|::1/128) -o {_LINK} -j MASQUERADE",
    rf"-s ({_NET}) -d \1 -o {_LINK} -m conntrack --ctstate DNAT -j MASQUERADE",
)


@dataclass(frozen=True, slots=True)
class Family:
    """An IP version as iptables writes it.

    Attributes:
        version: 4 or 6.
        every: the address that means all of the host's.
        single: the prefix length of one address.
        loopback: the host's own.
        icmp: the protocol that ping is of, as iptables-save names it.
    """

    version: int
    every: str
    single: str
    loopback: str
    icmp: str

    def subnet(self, bridge: BridgeRules) -> str:
        """Return a bridge's subnet, "" when it has none of this version."""
        return bridge.subnet if self.version == 4 else bridge.subnet6

    def mode(self, bridge: BridgeRules) -> str:
        """Return how a bridge and what is elsewhere reach each other; an internal one does not."""
        if bridge.internal:
            return NAT
        return bridge.mode if self.version == 4 else bridge.mode6

    def is_hidden(self, bridge: BridgeRules) -> bool:
        """Tell whether nobody elsewhere may send to containers' own addresses."""
        hidden = bridge.internal or (bridge.masquerade and self.mode(bridge) == NAT)
        return hidden and not bridge.direct_routing


IPV4 = Family(4, "0.0.0.0", "/32", "127.0.0.0/8", "icmp")
IPV6 = Family(6, "::", "/128", "::1/128", "ipv6-icmp")


def family_of(address: str) -> Family:
    """Return the IP version of an address."""
    return IPV6 if ":" in address else IPV4


@dataclass(slots=True)
class Table:
    """One table's part of the rule set.

    Attributes:
        own: chain -> its rules, all of them ("-i lo -j RETURN").
        builtin: built-in chain -> rules that have to be in it, at its head when they are put there.
        kept: chains of the administrator -> rules that they are made with when they are missing.
    """

    own: dict[str, list[str]] = field(default_factory=dict)
    builtin: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)


RuleSet = dict[str, Table]


def dnat_rule(port: PortRule) -> str:
    """Return the rule of nat DOCKER for a published port."""
    family = family_of(port.address)
    where = "" if port.host_ip in ("", family.every) else f"-d {port.host_ip}{family.single} "
    match = f"{where}-p {port.protocol} -m {port.protocol} --dport {port.host_port}"
    address = port.address if family.version == 4 else f"[{port.address}]"
    return f"{match} -j DNAT --to-destination {address}:{port.container_port}"


def accept_rule(port: PortRule) -> str:
    """Return the rule of filter DOCKER for a published port."""
    match = f"-p {port.protocol} -m {port.protocol} --dport {port.container_port}"
    single = family_of(port.address).single
    return f"-d {port.address}{single} ! -i {port.bridge} -o {port.bridge} {match} -j ACCEPT"


def compute(
    bridges: Iterable[BridgeRules], ports: Iterable[PortRule], *, prefix: str = "DOCKER", family: Family = IPV4
) -> RuleSet:
    """Return the whole rule set of an IP version.

    ``ports`` are in the order in which they were published; the newest comes first.
    """
    bridges = [bridge for bridge in bridges if family.subnet(bridge)]
    ports = [port for port in ports if family_of(port.address) is family]
    return {
        "raw": _raw(bridges, prefix, family),
        "filter": _filter(bridges, ports, prefix=prefix, family=family),
        "nat": _nat(bridges, ports, prefix=prefix, family=family),
    }


def _raw(bridges: Sequence[BridgeRules], prefix: str, family: Family) -> Table:
    # Bridges have route_localnet on, so that a port published on loopback can be answered. Nothing that arrives from
    # elsewhere may therefore claim to be from or for 127/8 (CVE-2020-8558's class; moby#45610).
    # (The kernel itself drops ::1 from elsewhere.)
    rules = ["-i lo -j RETURN"]
    if family.version == 4:
        rules += ["-d 127.0.0.0/8 -j DROP", "-s 127.0.0.0/8 -j DROP"]
    rules += [rule for bridge in bridges if family.is_hidden(bridge) for rule in _hide(bridge, family)]
    return Table(own={prefix: rules}, builtin={"PREROUTING": [f"-j {prefix}"]})


def _hide(bridge: BridgeRules, family: Family) -> Iterable[str]:
    own, *trusted = bridge.entrances
    subnet = family.subnet(bridge)
    yield from (f"-d {subnet} -i {name} -j RETURN" for name in trusted)
    yield f"-d {subnet} ! -i {own} -j DROP"


def _filter(bridges: Sequence[BridgeRules], ports: Sequence[PortRule], *, prefix: str, family: Family) -> Table:
    forward, one, two = f"{prefix}-FORWARD", f"{prefix}-ISOLATION-STAGE-1", f"{prefix}-ISOLATION-STAGE-2"
    own: dict[str, list[str]] = {prefix: [accept_rule(port) for port in reversed(ports)]}
    # What goes from port to port of one bridge is most of all packets and nothing else is about it: it comes first.
    # (An internal network's packets are asked for their addresses before.)
    among = [bridge.name for bridge in bridges if bridge.icc and not bridge.internal]
    # Then what belongs to a connection that was let through. One that began while the rules were gone is forgotten
    # when they are put back (connections.end_refused).
    open_ = [bridge.name for bridge in bridges if not bridge.internal]
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    own[forward] = [
        *(f"-i {name} -o {name} -j ACCEPT" for name in among),
        *(f"{way} {name} {known}" for way in ("-i", "-o") for name in open_),
        f"-j {one}",
    ]
    own[one], own[two] = [], []
    for bridge in bridges:
        name = bridge.name
        mode = family.mode(bridge)
        if mode == ROUTED:
            own[prefix].append(f"! -i {name} -o {name} -p {family.icmp} -j ACCEPT")
        own[prefix].append(f"! -i {name} -o {name} -j {'ACCEPT' if mode == UNPROTECTED else 'DROP'}")
        if bridge.internal:
            if family.version == 6:
                # what asks for a neighbour's hardware address, and the answer, is for other addresses
                found = f"-i {name} -o {name} -p {family.icmp} -m icmp6 --icmpv6-type"
                own[one] += [f"{found} 135 -j RETURN", f"{found} 136 -j RETURN"]
            own[one].append(f"! -s {family.subnet(bridge)} -o {name} -j DROP")
            own[one].append(f"! -d {family.subnet(bridge)} -i {name} -j DROP")
        else:
            own[one].append(f"-i {name} ! -o {name} -j {two}")
            if mode != ROUTED and bridge.crossing:
                own[two].append(f"-o {name} -m conntrack --ctstate DNAT -j RETURN")
            if mode != ROUTED:
                own[two].append(f"-o {name} -j DROP")
            own[forward].append(f"-o {name} -j {prefix}")
            own[forward].append(f"-i {name} ! -o {name} -j ACCEPT")
        if not bridge.icc:
            # to a published port of a neighbour by way of the host's address: as from anywhere else
            own[forward].append(f"-i {name} -o {name} -m conntrack --ctstate DNAT -j ACCEPT")
            own[forward].append(f"-i {name} -o {name} -j DROP")
        elif bridge.internal:
            own[forward].append(f"-i {name} -o {name} -j ACCEPT")
    return Table(
        own=own,
        builtin={"FORWARD": [f"-j {USER_CHAIN}", f"-j {forward}"]},
        kept={USER_CHAIN: ["-j RETURN"]},
    )


def _nat(bridges: Sequence[BridgeRules], ports: Sequence[PortRule], *, prefix: str, family: Family) -> Table:
    local = f"-m addrtype --dst-type LOCAL -j {prefix}"
    # what the host sends to [::1] would never be answered (no route_localnet): the relay carries it
    own = local if family.version == 4 else f"! -d {family.loopback} {local}"
    masquerade: list[str] = []
    for bridge in bridges:
        if bridge.internal or family.mode(bridge) == ROUTED:
            continue
        subnet = family.subnet(bridge)
        if bridge.masquerade:
            masquerade.append(f"-s {subnet} ! -o {bridge.name} -j MASQUERADE")
        # the host's own loopback connections to published ports: the container must be able to answer
        if family.version == 4:
            masquerade.append(f"-s {family.loopback} -o {bridge.name} -j MASQUERADE")
        # a neighbour, or the container itself, by way of the host's address: the answer must come back this way
        back = f"-s {subnet} -d {subnet} -o {bridge.name}"
        masquerade.append(f"{back} -m conntrack --ctstate DNAT -j MASQUERADE")
    return Table(
        own={prefix: [dnat_rule(port) for port in reversed(ports) if port.host_port]},
        builtin={"PREROUTING": [local], "OUTPUT": [own], "POSTROUTING": masquerade},
    )


def parse_saved(saved: str) -> dict[str, dict[str, list[str]]]:
    """Return table -> chain -> rules of what iptables-save printed."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            chains.setdefault(chain, []).append(rule.strip())
    return tables


def render_changes(saved: str, wanted: RuleSet, *, policy_drop: bool = False, gone: Iterable[str] = ()) -> str:
    """Return the input of ``iptables-restore --noflush`` that turns what is there into what is wanted; "" for nothing.

    Args:
        saved: what iptables-save printed.
        wanted: the rule set.
        policy_drop: also set the policy of FORWARD to DROP (the engine switched forwarding on: the host must not
            become everybody's router).
        gone: names of bridges whose masquerade rules are to be removed.
    """
    present = parse_saved(saved)
    bridges = set(gone)
    for rule in wanted["nat"].builtin["POSTROUTING"]:
        bridges.update(re.findall(rf"-o ({_LINK})", rule))
    parts: list[str] = []
    for name, table in wanted.items():
        chains = present.get(name, {})
        lines = [*_kept(chains, table), *_own(chains, table), *_builtin(chains, table, bridges)]
        if name == "filter" and policy_drop and ":FORWARD DROP" not in saved:
            lines.insert(0, ":FORWARD DROP [0:0]")
        if lines:
            # declarations come before rules, or the input is refused
            lines.sort(key=lambda line: not line.startswith(":"))
            parts += [f"*{name}", *lines, "COMMIT"]
    return "".join(f"{line}\n" for line in parts)


def bridges_of(saved: str) -> set[str]:
    """Return the bridges of which there are masquerade rules of our form."""
    found = set()
    for rule in parse_saved(saved).get("nat", {}).get("POSTROUTING", ()):
        links = set(re.findall(rf"-o ({_LINK})", rule))
        found |= {link for link in links if _is_stale(rule, links)}
    return found


def _kept(chains: Mapping[str, list[str]], table: Table) -> Iterable[str]:
    for chain, rules in table.kept.items():
        if chain not in chains:
            yield f":{chain} - [0:0]"
            yield from (f"-A {chain} {rule}" for rule in rules)


def _own(chains: Mapping[str, list[str]], table: Table) -> Iterable[str]:
    for chain, rules in table.own.items():
        if chains.get(chain) != rules:
            yield f":{chain} - [0:0]"  # makes it, or empties it
            yield from (f"-A {chain} {rule}" for rule in rules)


def _builtin(chains: Mapping[str, list[str]], table: Table, bridges: set[str]) -> Iterable[str]:
    for chain, rules in table.builtin.items():
        there = chains.get(chain, [])
        ours = [rule for rule in there if rule in rules or (chain == "POSTROUTING" and _is_stale(rule, bridges))]
        if ours == rules:
            continue
        yield from (f"-D {chain} {rule}" for rule in ours)
        yield from (f"-I {chain} {place} {rule}" for place, rule in enumerate(rules, 1))


def _is_stale(rule: str, bridges: set[str]) -> bool:
    links = re.findall(rf"-o ({_LINK})", rule)
    if len(links) != 1 or links[0] not in bridges:
        return False
    return any(re.fullmatch(pattern.format(bridge=_LINK), rule) for pattern in _STALE_POSTROUTING)


def render_publish(ports: Sequence[PortRule], *, prefix: str = "DOCKER") -> str:
    """Return the input of iptables-restore that adds published ports."""
    nat = "".join(f"-I {prefix} 1 {dnat_rule(port)}\n" for port in ports if port.host_port)
    accept = "".join(f"-I {prefix} 1 {accept_rule(port)}\n" for port in ports)
    return f"*nat\n{nat}COMMIT\n*filter\n{accept}COMMIT\n"


def render_withdraw(ports: Sequence[PortRule], *, prefix: str = "DOCKER") -> str:
    """Return the input of iptables-restore that removes published ports; it fails if one of them is not there."""
    nat = "".join(f"-D {prefix} {dnat_rule(port)}\n" for port in ports if port.host_port)
    accept = "".join(f"-D {prefix} {accept_rule(port)}\n" for port in ports)
    return f"*nat\n{nat}COMMIT\n*filter\n{accept}COMMIT\n"


def render_removal(saved: str, wanted: RuleSet) -> str:
    """Return the input that takes all of our rules and chains away again (DOCKER-USER stays)."""
    present = parse_saved(saved)
    parts: list[str] = []
    for name, table in wanted.items():
        chains = present.get(name, {})
        lines = [
            f"-D {chain} {rule}"
            for chain, ours in table.builtin.items()
            for rule in chains.get(chain, [])
            if rule in ours and rule != f"-j {USER_CHAIN}"
        ]
        own = [chain for chain in table.own if chain in chains]
        lines += [f"-F {chain}" for chain in own] + [f"-X {chain}" for chain in own]
        if lines:
            parts += [f"*{name}", *lines, "COMMIT"]
    return "".join(f"{line}\n" for line in parts)


def check_rule_values(bridge: BridgeRules | None, ports: Iterable[PortRule]) -> None:
    """Refuse values that could be more than one word of a rule; the last line of defence (threats.md G10)."""
    if bridge is not None:
        for name in (bridge.name, *bridge.trusted):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", name):
                raise ValueError(f"not an interface name: {name!r}")
        for subnet in filter(None, (bridge.subnet, bridge.subnet6)):
            ipaddress.ip_network(subnet)
    for port in ports:
        if port.protocol not in ("tcp", "udp", "sctp"):
            raise ValueError(f"not a protocol: {port.protocol!r}")
        if ipaddress.ip_address(port.host_ip).version != ipaddress.ip_address(port.address).version:
            raise ValueError(f"not of one IP version: {port.host_ip} and {port.address}")
        if not 0 <= port.host_port < 65536:
            raise ValueError(f"not a port: {port.host_port}")
        if not 0 < port.container_port < 65536:
            raise ValueError(f"not a port: {port.container_port}")
