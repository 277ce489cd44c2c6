"""``--sysctl`` in the engine: refused at create, before anything of the container exists (threats.md C2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.spec.oci.sysctl import check_sysctl

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_sysctls(sysctls: Mapping[str, str], *, host_network: bool, host_ipc: bool, host_uts: bool = False) -> None:
    """Refuse every parameter that would change the host, or a namespace that the container shares with it.

    Raises:
        InvalidParameterError: naming the parameter.
    """
    shared = {"network": host_network, "ipc": host_ipc, "uts": host_uts}
    private = frozenset(namespace for namespace, host in shared.items() if not host)
    for name, value in sysctls.items():
        check_sysctl(name, value, private=private)
