"""The files that the engine writes for a container, never into its root (threats.md B10)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from orlop.network.hosts import host_mode_hosts, hostname_content, hosts_content, resolv_content

if TYPE_CHECKING:
    from orlop.engine.containers.records import Definition
    from orlop.engine.containers.settings import Settings
    from orlop.network.sandbox import Sandbox

TARGETS = {"resolv.conf": "/etc/resolv.conf", "hostname": "/etc/hostname", "hosts": "/etc/hosts"}


def write_files(settings: Settings, definition: Definition, sandbox: Sandbox, *, gateway: str) -> dict[str, str]:
    """Write the three files; returns container path to host path.

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
            addresses=[endpoint.address for endpoint in sandbox.endpoints if endpoint.address],
            extra=extra,
            gateway=gateway if sandbox.endpoints and sandbox.mode == "bridge" else "",
        )
    resolv = resolv_content(
        _read("/etc/resolv.conf"),
        nameservers=host.dns or settings.dns,
        search=host.dns_search or settings.dns_search,
        options=host.dns_options or settings.dns_options,
        keep_loopback=on_host,
    )
    contents = {"resolv.conf": resolv, "hostname": hostname_content(config.hostname), "hosts": hosts}
    for name, text in contents.items():
        _write(f"{directory}/{name}", text)
    return {TARGETS[name]: f"{directory}/{name}" for name in contents}


def existing_files(directory: str) -> dict[str, str]:
    """Return the files of another container whose network is joined: container path to host path."""
    return {target: f"{directory}/{name}" for name, target in TARGETS.items() if os.path.exists(f"{directory}/{name}")}


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(65536)
    return ""


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
