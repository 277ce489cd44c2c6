"""The rule set of the nftables backend: one table for each IP version, rendered without touching anything.

    prerouting         -300  raw          127/8 and containers' addresses from elsewhere (G3, G4)
    prerouting, output -100  ports        one look-up in a map leads to the published port's container
    forward               0  forward      DOCKER-USER: the administrator's; made when missing, never rewritten (G6);
                                          what belongs to a connection that was let through (one that began while the
                                          rules were gone is forgotten when they are put back);
                                          then verdict maps on the outgoing and the incoming interface (G8):
                                          to-<bridge>, from-<bridge>; the policy drops the rest when it was the
                                          engine that made a router of the host
    postrouting         100  masquerade

A published port is an element of a map and one of a set, so its cost does not grow with the number of ports, neither
for packets nor for changes. What else an administrator puts into the table (sets and chains that DOCKER-USER uses) is
left alone as well.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from orlop.network.firewall.rules import IPV4, USER_CHAIN, Family, family_of
from orlop.network.gateway_modes import ROUTED, UNPROTECTED

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from orlop.network.firewall.contract import BridgeRules, PortRule


_CHAINS = ("raw", "ports", "prerouting", "output", "forward", "postrouting")
_SETS = ("published", "published-at", "reachable", "bridges", "to", "from")


def table(family: Family, name: str) -> str:
    """Return how nft calls our table of an IP version."""
    return f"{'ip' if family.version == 4 else 'ip6'} {name}"


def render(
    bridges: Iterable[BridgeRules],
    ports: Iterable[PortRule],
    *,
    name: str,
    family: Family = IPV4,
    router: bool = False,
    present: str = "",
) -> str:
    """Return commands that replace what is ours in our table, in one transaction; DOCKER-USER stays as it is.

    Args:
        bridges: all; those without this IP version are left out.
        ports: all that are published.
        name: of the table.
        family: the IP version.
        router: drop what is neither from nor to our bridges.
        present: the table's listing, "" when there is none.
    """
    own = [bridge for bridge in bridges if family.subnet(bridge)]
    mine = [port for port in ports if family_of(port.address) is family]
    chains = [
        *_raw(own, family),
        *_ports(family),
        *_forward(own, family, router=router),
        *_nat(own, family),
    ]
    lines = [*_sets(own, mine, family), *chains]
    whole = table(family, name)
    body = "".join(f"\t{line}\n" for line in lines)
    wanted = {line.split()[1] for line in chains if line.startswith("chain ")}
    return f"add table {whole}\n{_clear(present, wanted, whole)}table {whole} {{\n{body}}}\n"


def _clear(present: str, wanted: Container[str], whole: str) -> str:
    """Return commands that empty what is ours. Only chains that are not wanted go: the administrator may use others."""
    own = [(kind, name) for kind, name, _ in _blocks(present) if _is_own(kind, name)]
    commands = [f"flush {kind} {whole} {name}" for kind, name in own]
    commands += [f"delete chain {whole} {name}" for kind, name in own if kind == "chain" and name not in wanted]
    return "".join(f"{command}\n" for command in commands)


def _is_own(kind: str, name: str) -> bool:
    if kind == "chain":
        return name in _CHAINS or name.startswith(("to-", "from-"))
    return name in _SETS


def _blocks(listing: str) -> Iterable[tuple[str, str, str]]:
    """Return kind, name and text of each chain, set and map of a listing."""
    for found in re.finditer(r"^\t(chain|set|map) (\S+) \{\n(.*?)^\t\}$", listing, re.MULTILINE | re.DOTALL):
        yield found[1], found[2], found[0]


def render_publish(ports: Sequence[PortRule], *, name: str, verb: str = "add") -> str:
    """Return commands that add (or ``delete``) the elements of published ports."""
    lines = []
    for family in {family_of(port.address).version: family_of(port.address) for port in ports}.values():
        own = [port for port in ports if family_of(port.address) is family]
        for where, found in elements(own, family).items():
            if found:
                lines.append(f"{verb} element {table(family, name)} {where} {{ {', '.join(found)} }}\n")
    return "".join(lines)


def elements(ports: Sequence[PortRule], family: Family) -> dict[str, list[str]]:
    """Return the elements of published ports by set, as nft prints them."""
    found: dict[str, list[str]] = {"published": [], "published-at": [], "reachable": []}
    for port in ports:
        target = f"{port.address} . {port.container_port}"
        if not port.host_port:
            pass  # at its own address only
        elif port.host_ip in ("", family.every):
            found["published"].append(f"{port.protocol} . {port.host_port} : {target}")
        else:
            found["published-at"].append(f"{port.protocol} . {port.host_ip} . {port.host_port} : {target}")
        found["reachable"].append(f"{port.protocol} . {target}")
    return {where: list(dict.fromkeys(entries)) for where, entries in found.items()}


def _sets(bridges: Sequence[BridgeRules], ports: Sequence[PortRule], family: Family) -> Iterable[str]:
    address = "ipv4_addr" if family.version == 4 else "ipv6_addr"
    types = {
        "published": ("map", f"inet_proto . inet_service : {address} . inet_service"),
        "published-at": ("map", f"inet_proto . {address} . inet_service : {address} . inet_service"),
        "reachable": ("set", f"inet_proto . {address} . inet_service"),
    }
    for where, found in elements(ports, family).items():
        kind, type_ = types[where]
        yield from _set(kind, where, type_, found)
    yield from _set("set", "bridges", "ifname", [f'"{bridge.name}"' for bridge in bridges])
    yield from _set("map", "to", "ifname : verdict", [f'"{b.name}" : jump to-{b.name}' for b in bridges])
    yield from _set("map", "from", "ifname : verdict", [f'"{b.name}" : jump from-{b.name}' for b in bridges])


def _set(kind: str, name: str, type_: str, elements: Sequence[str]) -> Iterable[str]:
    yield f"{kind} {name} {{"
    yield f"\ttype {type_}"
    if elements:
        yield f"\telements = {{ {', '.join(elements)} }}"
    yield "}"


def _chain(name: str, rules: Iterable[str], *, hook: str = "", policy: str = "accept") -> Iterable[str]:
    yield f"chain {name} {{"
    if hook:
        yield f"\ttype {hook}; policy {policy};"
    yield from (f"\t{rule}" for rule in rules)
    yield "}"


def _raw(bridges: Sequence[BridgeRules], family: Family) -> Iterable[str]:
    # Bridges have route_localnet on, so that a port published on loopback can be answered: see rules._raw.
    # (Addresses come first, so that most packets' interface is not looked at. What the host sends itself is on lo.)
    ends = ("daddr", "saddr") if family.version == 4 else ()
    rules = [f'ip {end} {family.loopback} iifname != "lo" drop' for end in ends]
    rules += [
        f"{_ip(family)} daddr {family.subnet(bridge)} {_by_none_of(*bridge.entrances, 'lo')} drop"
        for bridge in bridges
        if family.is_hidden(bridge)
    ]
    return _chain("raw", rules, hook="filter hook prerouting priority -300")


def _by_none_of(*interfaces: str) -> str:
    return " ".join(f'iifname != "{name}"' for name in interfaces)


def _ports(family: Family) -> Iterable[str]:
    ip = _ip(family)
    lead = [
        f"dnat to meta l4proto . {ip} daddr . th dport map @published-at",
        "dnat to meta l4proto . th dport map @published",
    ]
    yield from _chain("ports", lead)
    local = ["fib daddr type local jump ports"]
    yield from _chain("prerouting", local, hook="nat hook prerouting priority -100")
    # what the host sends to [::1] would never be answered (no route_localnet): the relay carries it
    own = local if family.version == 4 else ["ip6 daddr ::1 accept", *local]
    yield from _chain("output", own, hook="nat hook output priority -100")


def _forward(bridges: Sequence[BridgeRules], family: Family, *, router: bool) -> Iterable[str]:
    inner = [bridge.name for bridge in bridges if bridge.internal]
    for bridge in bridges:
        among = ["accept"] if bridge.icc else ["ct status dnat accept", "drop"]
        rules = [f'iifname "{bridge.name}" {rule}' for rule in among]
        if bridge.internal:
            rules.append("drop")
        else:
            mode = family.mode(bridge)
            if mode == ROUTED or bridge.crossing:
                rules += [f'iifname "{name}" drop' for name in inner]  # who has no way out has none to here
            if mode == ROUTED:
                rules.append(f"meta l4proto {family.icmp} accept")
            else:
                rules.append("iifname @bridges ct status ! dnat drop" if bridge.crossing else "iifname @bridges drop")
            rules.append(f"meta l4proto . {_ip(family)} daddr . th dport @reachable accept")
            rules.append("accept" if mode == UNPROTECTED else "drop")
        yield from _chain(f"to-{bridge.name}", rules)
        yield from _chain(f"from-{bridge.name}", ["drop" if bridge.internal else "accept"])
    yield from _chain(USER_CHAIN, ())
    known = "ct state established,related accept"
    rules = [f"jump {USER_CHAIN}", known, "oifname vmap @to", "iifname vmap @from"]
    yield from _chain("forward", rules, hook="filter hook forward priority 0", policy="drop" if router else "accept")


def _nat(bridges: Sequence[BridgeRules], family: Family) -> Iterable[str]:
    ip, rules = _ip(family), []
    for bridge in bridges:
        if bridge.internal or family.mode(bridge) == ROUTED:
            continue
        subnet, name = family.subnet(bridge), f'"{bridge.name}"'
        if bridge.masquerade:
            rules.append(f"{ip} saddr {subnet} oifname != {name} masquerade")
        if family.version == 4:
            rules.append(f"{ip} saddr {family.loopback} oifname {name} masquerade")
        rules.append(f"{ip} saddr {subnet} {ip} daddr {subnet} oifname {name} ct status dnat masquerade")
    return _chain("postrouting", rules, hook="nat hook postrouting priority 100")


def _ip(family: Family) -> str:
    return "ip" if family.version == 4 else "ip6"


def parts(listing: str) -> Counter[str]:
    """Return what is ours in a listing: the order of a set's elements is nobody's choice."""
    found: Counter[str] = Counter()
    for kind, name, text in _blocks(listing):
        if _is_own(kind, name):
            split = (part.strip() for part in re.split(r"[{},\n;]|elements =", text))
            found.update(part for part in split if part)
        elif name == USER_CHAIN:
            found[f"{kind} {name}"] += 1
    return found


def has_router(listing: str) -> bool:
    """Tell whether a listing of our table drops what is not ours."""
    return any(name == "forward" and "policy drop;" in text for _, name, text in _blocks(listing))
