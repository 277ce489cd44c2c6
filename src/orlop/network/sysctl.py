"""The host's network settings that bridges need (/proc/sys/net), of the engine's own namespace."""

from __future__ import annotations

import os

_ROOT = "/proc/sys/net"


def read_setting(path: str) -> str:
    """Return a setting's value, "" when the kernel does not have it."""
    try:
        fd = os.open(f"{_ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 4096).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def write_setting(path: str, value: str) -> None:
    """Set it; a setting that the kernel does not have is left out. Raises OSError."""
    try:
        fd = os.open(f"{_ROOT}/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def protect_bridge(name: str, *, ipv6: bool) -> None:
    """Set what a bridge needs before it is up; ``name`` has been checked.

    No router advertisements from containers, and no IPv6 unless the network has it (threats.md G1).
    """
    write_setting(f"ipv6/conf/{name}/accept_ra", "0")
    write_setting(f"ipv6/conf/{name}/disable_ipv6", "0" if ipv6 else "1")


def route_loopback(name: str) -> None:
    """Let loopback addresses be routed over a bridge, so that ports published on 127.0.0.1 can be answered.

    Only after the rules of the raw table are in force, which drop what would abuse it (threats.md G3).
    """
    write_setting(f"ipv4/conf/{name}/route_localnet", "1")


def forwarding_is_off() -> bool:
    """Whether the host does not forward IPv4 packets."""
    return read_setting("ipv4/ip_forward") == "0"


def enable_forwarding() -> None:
    """Switch IPv4 forwarding on, unless it is: writing it resets other settings of all interfaces."""
    if forwarding_is_off():
        write_setting("ipv4/ip_forward", "1")


def forwarding6_is_off() -> bool:
    """Whether the host does not forward IPv6 packets."""
    return read_setting("ipv6/conf/all/forwarding") == "0"


def enable_forwarding6() -> None:
    """Switch IPv6 forwarding on, unless it is, and keep the routes that the host itself learns from its routers.

    An interface that forwards takes no router advertisements unless ``accept_ra`` is 2 (ip-sysctl.rst).
    """
    if not forwarding6_is_off():
        return
    for name in os.listdir(f"{_ROOT}/ipv6/conf"):
        if name not in ("all", "default") and read_setting(f"ipv6/conf/{name}/accept_ra") == "1":
            write_setting(f"ipv6/conf/{name}/accept_ra", "2")
    write_setting("ipv6/conf/default/forwarding", "1")
    write_setting("ipv6/conf/all/forwarding", "1")
