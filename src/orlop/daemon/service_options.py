"""What each service takes of the administrator's options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.daemon.subordinate_ids import read_remapping
from orlop.engine.containers import Settings
from orlop.engine.containers.open_files import default_nofile
from orlop.network.options import DEFAULT_POOLS, AddressPool, NetworkOptions
from orlop.runtime.security.apparmor import default_profile

if TYPE_CHECKING:
    from orlop.daemon.options import Options


def network_options(options: Options) -> NetworkOptions:
    """Return what concerns networks."""
    pools = tuple(AddressPool(base, size) for base, size in options.default_address_pools)
    return NetworkOptions(
        bridge=options.bridge or "docker0",
        bip=options.bip,
        fixed_cidr=options.fixed_cidr,
        ipv6=options.ipv6,
        bip6=options.bip6,
        default_gateway=options.default_gateway,
        default_gateway_v6=options.default_gateway_v6,
        fixed_cidr_v6=options.fixed_cidr_v6,
        mtu=options.mtu,
        iptables=options.iptables,
        ip_forward=options.ip_forward,
        ip_masq=options.ip_masq,
        icc=options.icc,
        default_ip=options.ip,
        firewall_backend=options.firewall_backend,
        default_address_pools=pools or DEFAULT_POOLS,
        default_network_opts=options.default_network_opts,
        allow_direct_routing=options.allow_direct_routing,
        allow_published_between_networks=options.allow_published_between_networks,
        userland_proxy=options.userland_proxy,
    )


def container_settings(options: Options) -> Settings:
    """Return what concerns containers. Raises InvalidParameterError: ids cannot be mapped as asked."""
    return Settings(
        data_root=options.data_root,
        exec_root=options.exec_root,
        cgroup_parent=options.cgroup_parent,
        systemd_cgroup=options.systemd_cgroup,
        default_ulimits={"nofile": default_nofile(), **options.default_ulimits},
        log_driver=options.log_driver,
        log_options=options.log_opts,
        init=options.init,
        host_gateway=options.host_gateway_ip,
        dns=options.dns,
        dns_search=options.dns_search,
        dns_options=options.dns_opts,
        default_shm_size=options.default_shm_size,
        no_new_privileges=options.no_new_privileges,
        apparmor=default_profile(),
        shutdown_timeout=options.shutdown_timeout,
        remapping=read_remapping(options.userns_remap),
    )
