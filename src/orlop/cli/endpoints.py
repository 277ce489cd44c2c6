"""``--network`` and what belongs to it."""

from __future__ import annotations

from orlop.cli.invocation import CommandError, key_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.flags import Options

_SPECIAL = ("host", "none", "default", "bridge")
_MAC_PARTS = 6


class _Wish:
    """One ``--network``: a name, or ``name=…,alias=…,ip=…``."""

    def __init__(self, text: str) -> None:
        self.name = text
        self.aliases: list[str] = []
        self.link_local: list[str] = []
        self.ip = self.ip6 = self.mac = ""
        self.driver_options: list[str] = []
        self.priority = 0
        if "=" not in text:
            return
        self.name = ""
        for part in text.split(","):
            key, equals, value = part.partition("=")
            key = key.strip().lower()
            if not equals:
                raise CommandError(f"invalid network: {text}", status=125)
            self._take(key, value.strip(), text)
        if not self.name:
            raise CommandError("network name/id is not specified", status=125)

    def _take(self, key: str, value: str, whole: str) -> None:
        if key == "name":
            self.name = value
        elif key == "alias":
            self.aliases.append(value)
        elif key == "ip":
            self.ip = value
        elif key == "ip6":
            self.ip6 = value
        elif key == "mac-address":
            self.mac = value
        elif key == "link-local-ip":
            self.link_local.append(value)
        elif key == "driver-opt":
            self.driver_options.append(value)
        elif key == "gw-priority" and value.lstrip("-").isdigit():
            self.priority = int(value)
        else:
            raise CommandError(f'invalid argument "{whole}" for "--network" flag: invalid field key {key}', status=125)

    @property
    def is_user_defined(self) -> bool:
        """Whether it names a network that a user made."""
        return self.name not in _SPECIAL and not self.name.startswith("container:")


def empty_endpoint() -> dict[str, object]:
    """Return EndpointSettings as the client sends them, all members there."""
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "MacAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def network_mode(options: Options) -> str:
    """Return HostConfig.NetworkMode."""
    wishes = _wishes(options)
    return wishes[0].name if wishes else "default"


def check_networks(options: Options) -> None:
    """Refuse networks that cannot be joined together.

    Raises:
        CommandError: in Docker's words.
    """
    wishes = _wishes(options)
    if len(wishes) > 1 and not all(wish.is_user_defined or wish.name == "bridge" for wish in wishes):
        raise CommandError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes", status=125
        )
    names = [wish.name for wish in wishes]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CommandError(f'network "{twice}" is specified multiple times', status=125)
    if wishes:
        _check_first(options, wishes[0])
    mac = options.text("mac-address")
    parts = mac.replace("-", ":").split(":")
    if mac and not (len(parts) == _MAC_PARTS and all(len(part) == 2 and _is_hex(part) for part in parts)):
        raise CommandError(f"{mac} is not a valid mac address", status=125)


def _check_first(options: Options, wish: _Wish) -> None:
    conflicts = (
        ("network-alias", wish.aliases, "--network-alias and per-network alias"),
        ("ip", wish.ip, "--ip and per-network IPv4 address"),
        ("ip6", wish.ip6, "--ip6 and per-network IPv6 address"),
        ("mac-address", wish.mac, "--mac-address and per-network MAC address"),
        ("link-local-ip", wish.link_local, "--link-local-ip and per-network link-local IP addresses"),
    )
    for flag, own, text in conflicts:
        if options.given(flag) and own:
            raise CommandError(f"conflicting options: cannot specify both {text}", status=125)


def endpoints(options: Options) -> dict[str, object]:
    """Return NetworkingConfig.EndpointsConfig."""
    wishes = _wishes(options) or [_Wish("default")]
    out: dict[str, object] = {}
    for index, wish in enumerate(wishes):
        if wish.name in ("host", "none") or wish.name.startswith("container:"):
            continue
        endpoint = empty_endpoint()
        first = index == 0
        aliases = [*options.texts("net-alias"), *options.texts("network-alias")] if first else []
        addresses: dict[str, object] = {}
        if ip := wish.ip or (options.text("ip") if first else ""):
            addresses["IPv4Address"] = ip
        if ip6 := wish.ip6 or (options.text("ip6") if first else ""):
            addresses["IPv6Address"] = ip6
        if link_local := [*wish.link_local, *(options.texts("link-local-ip") if first else [])]:
            addresses["LinkLocalIPs"] = [*link_local]
        endpoint["Aliases"] = [*wish.aliases, *aliases] or None
        endpoint["IPAMConfig"] = addresses or None
        endpoint["MacAddress"] = wish.mac or (options.text("mac-address") if first else "")
        endpoint["GwPriority"] = wish.priority
        if wish.driver_options:
            endpoint["DriverOpts"] = {**key_values(wish.driver_options)}
        if first and wish.is_user_defined and options.texts("link"):
            endpoint["Links"] = [*options.texts("link")]
        out[wish.name] = endpoint
    return out


def _wishes(options: Options) -> list[_Wish]:
    return [_Wish(text) for text in (*options.texts("net"), *options.texts("network"))]


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)
