"""Which backend keeps the rules: what the administrator says, else what the machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.errors import UnavailableError
from orlop.network import sysctl
from orlop.network.connections import end_refused
from orlop.network.firewall import nftables
from orlop.network.firewall.iptables import IptablesFirewall
from orlop.primitives import commands

if TYPE_CHECKING:
    from orlop.network.firewall.contract import Firewall
    from orlop.network.options import NetworkOptions

_ADVICE = "install iptables or nftables, or switch rules off with --iptables=false"


def choose_firewall(options: NetworkOptions, *, prefix: str) -> Firewall | None:
    """Return the backend; None when the administrator switched rules off.

    Args:
        options: the administrator's.
        prefix: of the names of chains and tables.

    Raises:
        UnavailableError: the machine has none.
    """
    if not options.iptables:
        return None
    router = options.ip_forward and sysctl.forwarding_is_off()
    router6 = options.ip_forward and sysctl.forwarding6_is_off()
    backend = options.firewall_backend or _probe()
    if backend == "nftables":
        return nftables.NftablesFirewall(
            table=table_name(prefix), router=router, router6=router6, end_refused=end_refused
        )
    return IptablesFirewall(prefix=prefix, policy_drop=router, policy_drop6=router6, end_refused=end_refused)


def table_name(prefix: str) -> str:
    """Return the name of nft tables, from the one that iptables' chains begin with."""
    return "orlop" if prefix == "DOCKER" else f"orlop-{prefix.lower()}"


def _probe() -> str:
    try:
        commands.find("iptables-restore")
    except UnavailableError as error:
        if not nftables.is_available():
            raise UnavailableError(f"{error}; {_ADVICE}") from error
        return "nftables"
    return "iptables"
