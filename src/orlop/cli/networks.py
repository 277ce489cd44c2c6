"""``network create|ls|rm|connect|disconnect``."""

from __future__ import annotations

from orlop.cli.documents import member, text
from orlop.cli.endpoints import empty_endpoint
from orlop.cli.flags import Command, Flag
from orlop.cli.formatting import FILTER, FORMAT, NO_TRUNC, QUIET, Listing
from orlop.cli.invocation import CommandError, Invocation, each, key_values, parse_filters, write_out
from orlop.cli.text import short_id

_HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


def _list(invocation: Invocation) -> int:
    options = invocation.options
    truncate = not options.on("no-trunc")
    networks = invocation.client.networks.list(filters=parse_filters(options.texts("filter")))
    rows = []
    for network in sorted(networks, key=lambda network: text(network, "Name")):
        labels = member(network, "Labels")
        rows.append(
            {
                "CreatedAt": _go_time(text(network, "Created")),
                "Driver": text(network, "Driver"),
                "ID": short_id(text(network, "Id")) if truncate else text(network, "Id"),
                "IPv4": str(network.get("EnableIPv4") is True).lower(),
                "IPv6": str(network.get("EnableIPv6") is True).lower(),
                "Internal": str(network.get("Internal") is True).lower(),
                "Label": lambda name, labels=labels: labels.get(name, ""),
                "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
                "Name": text(network, "Name"),
                "Scope": text(network, "Scope"),
            }
        )
    listing = Listing("*network.networkContext", _HEADERS, ("ID", "Name", "Driver", "Scope"))
    listing.write(rows, options.text("format"), quiet="ID" if options.on("quiet") else None)
    return 0


def _go_time(stamp: str) -> str:
    """Return an RFC 3339 time of UTC as Go's String method, "2026-11-24 01:56:41.31240385 +0000 UTC"."""
    return f"{stamp[:-1].replace('T', ' ', 1)} +0000 UTC" if stamp.endswith("Z") else stamp


def _create(invocation: Invocation) -> int:
    options = invocation.options
    document: dict[str, object] = {
        "Name": invocation.arguments[0],
        "Driver": options.text("driver"),
        "Scope": options.text("scope"),
        "Internal": options.on("internal"),
        "Attachable": options.on("attachable"),
        "Ingress": options.on("ingress"),
        "ConfigOnly": options.on("config-only"),
        "ConfigFrom": {"Network": options.text("config-from")} if options.given("config-from") else None,
        "Options": key_values(options.texts("opt")),
        "Labels": key_values(options.texts("label")),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": key_values(options.texts("ipam-opt")),
            "Config": _pools(invocation),
        },
    }
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.given(flag):
            document[key] = options.on(flag)
    write_out(text(invocation.client.networks.create(document), "Id"))
    return 0


def _pools(invocation: Invocation) -> list[dict[str, object]]:
    """Sort ranges, gateways and auxiliary addresses to the subnets that hold them."""
    options = invocation.options
    pools = {subnet: {"Subnet": subnet} for subnet in options.texts("subnet")}
    for flag, key in (("ip-range", "IPRange"), ("gateway", "Gateway"), ("aux-address", "AuxiliaryAddresses")):
        for value in options.texts(flag):
            name, _, address = value.partition("=") if flag == "aux-address" else ("", "", value)
            pool: dict[str, object] = _pool_of(pools, address, flag)
            if flag == "aux-address":
                auxiliary = pool.setdefault(key, {})
                if isinstance(auxiliary, dict):
                    auxiliary[name] = address
            elif key in pool:
                raise CommandError(f"cannot configure multiple {flag}s ({value}, {pool[key]}) for the same subnet")
            else:
                pool[key] = address
    return list(pools.values())  # type: ignore[arg-type] # values were widened above


def _pool_of(pools: dict[str, dict[str, str]], address: str, flag: str) -> dict[str, object]:
    import ipaddress

    try:
        wanted = ipaddress.ip_address(address.partition("/")[0])
        for subnet, pool in pools.items():
            if wanted in ipaddress.ip_network(subnet, strict=False):
                return pool  # type: ignore[return-value] # widened on purpose: auxiliary addresses are a map
    except ValueError as error:
        raise CommandError(f"invalid {flag} {address}: {error}") from None
    raise CommandError(f"no matching subnet for {flag} {address}")


def _remove(invocation: Invocation) -> int:
    from orlop.errors import NotFoundError

    networks, force = invocation.client.networks, invocation.options.on("force")

    def remove(name: str) -> None:
        try:
            networks.remove(name)
        except NotFoundError:
            if not force:
                raise

    return each(invocation, remove)


def _connect(invocation: Invocation) -> int:
    options = invocation.options
    addresses: dict[str, object] = {
        key: options.text(flag) for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address")) if options.text(flag)
    }
    if options.texts("link-local-ip"):
        addresses["LinkLocalIPs"] = options.texts("link-local-ip")
    endpoint: dict[str, object] = {
        **empty_endpoint(),
        "IPAMConfig": addresses,
        "Links": options.texts("link") or None,
        "Aliases": options.texts("alias"),
        "DriverOpts": key_values(options.texts("driver-opt")),
        "GwPriority": options.number("gw-priority"),
    }
    name, container = invocation.arguments
    invocation.client.networks.connect(name, container, endpoint=endpoint)
    return 0


def _disconnect(invocation: Invocation) -> int:
    name, container = invocation.arguments
    invocation.client.networks.disconnect(name, container, force=invocation.options.on("force"))
    return 0


LS = Command("[OPTIONS]", "List networks", _list, flags=(FILTER, FORMAT, NO_TRUNC, QUIET))
CREATE = Command(
    "[OPTIONS] NETWORK",
    "Make a network",
    _create,
    flags=(
        Flag("attachable", "Accepted for Docker's sake"),
        Flag("aux-address", "Address that the network's driver uses (name=address)", kind="map"),
        Flag("config-from", "Network whose configuration is copied", kind="string"),
        Flag("config-only", "Make only a configuration"),
        Flag("driver", "Driver of the network", short="d", kind="string", default="bridge"),
        Flag("gateway", "Gateway of a subnet", kind="list"),
        Flag("ingress", "Accepted for Docker's sake"),
        Flag("internal", "No way out of the network"),
        Flag("ip-range", "Part of the subnet from which addresses are taken", kind="list"),
        Flag("ipam-driver", "Driver of address management", kind="string", default="default"),
        Flag("ipam-opt", "Option of address management", kind="map"),
        Flag("ipv4", "Use IPv4", default=True),
        Flag("ipv6", "Use IPv6"),
        Flag("label", "Set a label", kind="list"),
        Flag("opt", "Option of the driver", short="o", kind="map"),
        Flag("scope", "Scope of the network", kind="string"),
        Flag("subnet", "Subnet, as in 10.1.0.0/16", kind="list"),
    ),
    arguments=(1, 1),
)
RM = Command(
    "NETWORK [NETWORK...]",
    "Remove networks",
    _remove,
    flags=(Flag("force", "A missing one is no error", short="f"),),
    arguments=(1, None),
)
CONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Join a container to a network",
    _connect,
    flags=(
        Flag("alias", "Another name on the network", kind="list"),
        Flag("driver-opt", "Option of the driver", kind="list"),
        Flag("gw-priority", "The highest gives the default gateway", kind="int"),
        Flag("ip", "IPv4 address", kind="string"),
        Flag("ip6", "IPv6 address", kind="string"),
        Flag("link", "Add a link to another container", kind="list"),
        Flag("link-local-ip", "Link-local address", kind="list"),
    ),
    arguments=(2, 2),
)
DISCONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Take a container off a network",
    _disconnect,
    flags=(Flag("force", "Also when the container is gone", short="f"),),
    arguments=(2, 2),
)
