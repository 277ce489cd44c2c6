"""The files that the engine writes for a container, never into its root (threats.md B10)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from orlop.engine.containers.endpoint_settings import name_server_wish
from orlop.network.hosts import (
    change_gateway,
    change_link,
    change_own_addresses,
    host_mode_hosts,
    host_nameservers,
    hostname_content,
    hosts_content,
    internal_resolv_content,
    resolv_content,
)
from orlop.network.routing import outward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.settings import Settings
    from orlop.network.sandbox import NameServerWish, Sandbox

TARGETS = {"resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname", "hosts": "/etc/hosts"}
_MOST = 65536  # bytes that are read of a file


def name_servers(settings: Settings, definition: Definition) -> NameServerWish:
    """Return where the questions go that a container's networks cannot answer."""
    return name_server_wish(host_nameservers(_read("/etc/resolv.conf")), definition.host.dns or settings.dns)


def write_files(
    settings: Settings,
    definition: Definition,
    sandbox: Sandbox,
    *,
    gateway: str,
    links: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """Write the three files; returns container path to host path.

    Args:
        settings: the engine's.
        definition: the container's.
        sandbox: the networks that it is on.
        gateway: the default bridge's address.
        links: (address, names) of legacy links.

    They are written at each start, because the address may have changed. The inode stays: it is what is bound.
    """
    directory = settings.container_dir(definition.id)
    host, config = definition.host, definition.config
    on_host = sandbox.mode == "host"
    extra = host.extra_hosts or []
    if on_host:
        hosts = host_mode_hosts(_read("/etc/hosts"), extra=extra)
    else:
        hosts = hosts_content(
            hostname=config.hostname,
            domainname=config.domainname,
            addresses=_addresses(sandbox),
            links=links,
            extra=extra,
            gateway=host_gateway(settings, sandbox, gateway),
        )
    resolv = _resolv(settings, definition, sandbox)
    contents = {"resolv.conf": resolv, "hostname": hostname_content(config.hostname), "hosts": hosts}
    for name, text in contents.items():
        _write(f"{directory}/{name}", text)
    return {TARGETS[name]: f"{directory}/{name}" for name in contents}


def host_gateway(settings: Settings, sandbox: Sandbox, default: str) -> str:
    """Return what ``host-gateway`` means to a container, "" for nothing.

    Args:
        settings: the engine's, which may name it.
        sandbox: its networks.
        default: the default bridge's address, which cannot be reached from other bridges (threats.md G8).
    """
    if not sandbox.endpoints or sandbox.mode != "bridge":
        return ""
    ways = outward(sandbox.endpoints)
    own = next((endpoint.gateway for endpoint in ways if not endpoint.router), "")
    return settings.host_gateway or own or default


def rewrite_files(
    settings: Settings, definition: Definition, before: Sandbox | None, after: Sandbox | None, *, gateway: str
) -> None:
    """Bring the files of a running container in step with its networks; what the user wrote into them stays.

    Args:
        settings: the engine's.
        definition: the container's.
        before: the networks that it was on.
        after: those that it is on.
        gateway: the default bridge's address.
    """
    if before is None or after is None:
        return
    directory = settings.container_dir(definition.id)
    hosts = _read(f"{directory}/hosts")
    old, new = _addresses(before), _addresses(after)
    changed = change_own_addresses(
        hosts,
        gone=[address for address in old if address not in new],
        new=[address for address in new if address not in old],
        hostname=definition.config.hostname,
        domainname=definition.config.domainname,
    )
    changed = change_gateway(
        changed,
        old=host_gateway(settings, before, gateway),
        new=host_gateway(settings, after, gateway),
        extra=definition.host.extra_hosts or [],
    )
    if changed != hosts:
        _write(f"{directory}/hosts", changed)
    resolv = _read(f"{directory}/resolv.conf")
    untouched = resolv == _resolv(settings, definition, before)
    if after.name_server != before.name_server and untouched:
        _write(f"{directory}/resolv.conf", _resolv(settings, definition, after))


def rewrite_link(settings: Settings, container_id: str, *, names: str, address: str, was: str = "") -> None:
    """Tell a running container the new address, and names, of one that it is linked to."""
    path = f"{settings.container_dir(container_id)}/hosts"
    hosts = _read(path)
    changed = change_link(hosts, names=names, address=address, was=was)
    if changed != hosts:
        _write(path, changed)


def _resolv(settings: Settings, definition: Definition, sandbox: Sandbox) -> str:
    host = definition.host
    search = host.dns_search or settings.dns_search
    options = host.dns_options or settings.dns_options
    if sandbox.name_server:
        return internal_resolv_content(_read("/etc/resolv.conf"), search=search, options=options)
    return resolv_content(
        _read("/etc/resolv.conf"),
        nameservers=host.dns or settings.dns,
        search=search,
        options=options,
        keep_loopback=sandbox.mode == "host",
    )


def _addresses(sandbox: Sandbox) -> list[str]:
    texts = (text for endpoint in sandbox.endpoints for text in (endpoint.address, endpoint.address6))
    return [text for text in texts if text]


def existing_files(directory: str) -> dict[str, str]:
    """Return the files of another container whose network is joined: container path to host path."""
    return {target: f"{directory}/{name}" for name, target in TARGETS.items() if os.path.exists(f"{directory}/{name}")}


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_MOST)
    return ""


def _write(path: str, text: str) -> None:
    """Replace a file's content in place, as it is mounted; never with nothing in it, even if the engine is killed."""
    data = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        size = min(os.fstat(descriptor).st_size, _MOST)  # the container may have made it any size
        os.write(descriptor, data.ljust(size, b"\n"))
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
