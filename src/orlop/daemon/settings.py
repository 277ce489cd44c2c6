"""The table of the daemon's settings: Docker's key in daemon.json, the flag, the type, and whether it is honoured."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop.errors import InvalidParameterError
from orlop.registry.endpoints import check_insecure, check_mirror
from orlop.registry.proxies import check_proxy

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT, BOOLEAN, NUMBER, LIST, MAP = "text", "boolean", "number", "list", "map"
_LAYER_LIMITS = frozenset({"size", "entries", "metadata", "path", "depth"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        key: Docker's name in daemon.json.
        kind: TEXT, BOOLEAN, NUMBER, LIST or MAP.
        default: its value when neither flag nor file gives one.
        help: for ``--help``.
        flag: the long flag's name, ``key`` unless given; "" for none.
        short: one letter, or "".
        check: raises InvalidParameterError for a value of the flag (one item of a list) that cannot be.
    """

    key: str
    kind: str
    default: object
    help: str
    flag: str | None = None
    short: str = ""
    check: Callable[[str], None] | None = None

    @property
    def flag_name(self) -> str:
        """The long flag without its dashes."""
        return self.key if self.flag is None else self.flag

    @property
    def field(self) -> str:
        """The attribute's name in Options."""
        return self.key.replace("-", "_")


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameterError(f"invalid string being converted to IP address: {text}") from None


def _check_network_option(text: str) -> None:
    parse_network_option(text)


def parse_network_option(text: str) -> tuple[str, str, str]:
    """Parse ``driver=option=value``. Raises InvalidParameterError."""
    driver, _, rest = text.partition("=")
    option, equals, value = rest.partition("=")
    if not driver or not option or not equals:
        raise InvalidParameterError(f"invalid default network option: {text}: driver=option=value expected")
    return driver, option, value


def _check_label(text: str) -> None:
    if "=" not in text:
        raise InvalidParameterError(f"bad attribute format: {text}")


def _check_host(text: str) -> None:
    protocol, separator, rest = text.partition("://")
    if not separator or protocol not in ("unix", "tcp", "fd"):
        raise InvalidParameterError(f"invalid bind address ({text}): unsupported proto '{protocol}'")
    if protocol == "unix" and not rest.startswith("/"):
        raise InvalidParameterError(f"invalid bind address ({text}): not an absolute path")
    if protocol == "tcp" and re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:/\[\]]*)(:[0-9]{1,5})?", rest) is None:
        raise InvalidParameterError(f"invalid bind address ({text}): host:port expected")


def complete_host(host: str, *, private: bool) -> str:
    """Return an address with what Docker takes for granted: localhost, and port 2376 by TLS, else 2375."""
    if not host.startswith("tcp://"):
        return host
    name, port = re.fullmatch(r"tcp://(.*?)(:[0-9]{1,5})?", host, re.ASCII).groups()  # type: ignore[union-attr] # checked
    return f"tcp://{name or 'localhost'}{port or (':2376' if private else ':2375')}"


def _check_layer_limit(text: str) -> None:
    name, _, value = text.partition("=")
    parse_layer_limit(name, value)


def parse_layer_limit(name: str, value: object) -> int:
    """Read one limit; 0 is none. Raises InvalidParameterError."""
    number = str(value)
    if name not in _LAYER_LIMITS or isinstance(value, bool):
        raise InvalidParameterError(f"unknown limit of layers: {name}")
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise InvalidParameterError(f"invalid limit of layers: {name}={number:.40}")
    return int(number)


def _check_ulimit(text: str) -> None:
    parse_ulimit(text)


def _check_exec_option(text: str) -> None:
    name, _, value = text.partition("=")
    if name != "native.cgroupdriver":
        raise InvalidParameterError(f"unknown exec option: {name}")
    if value not in ("cgroupfs", "systemd"):
        raise InvalidParameterError(f"native.cgroupdriver option {value} not supported")


def _check_pool(text: str) -> None:
    parse_pool(text)


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """Return name, soft and hard limit of ``nofile=1024:2048``; -1 is unlimited."""
    match = re.fullmatch(r"([a-z]+)=(-?[0-9]{1,19})(?::(-?[0-9]{1,19}))?", text, re.ASCII)
    if match is None:
        raise InvalidParameterError(f"invalid ulimit argument: {text}")
    soft = int(match[2])
    hard = soft if match[3] is None else int(match[3])
    if hard >= 0 and (soft > hard or soft == -1):
        raise InvalidParameterError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return match[1], soft, hard


def parse_pool(text: str) -> tuple[str, int]:
    """Return base and size of ``base=172.80.0.0/16,size=24``."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    size = fields.get("size", "")
    if set(fields) != {"base", "size"} or re.fullmatch("[0-9]{1,3}", size, re.ASCII) is None:
        raise InvalidParameterError(f"invalid default address pool: {text}")
    try:
        ipaddress.ip_network(fields["base"], strict=False)
    except ValueError:
        raise InvalidParameterError(f"invalid base pool {fields['base']!r}") from None
    return fields["base"], int(size)


SETTINGS: tuple[Setting, ...] = (
    Setting("hosts", LIST, (), "sockets to listen on", flag="host", short="H", check=_check_host),
    Setting("data-root", TEXT, "/var/lib/orlop", "directory of persistent state"),
    Setting("exec-root", TEXT, "/run/orlop", "directory of run-time state"),
    Setting("pidfile", TEXT, "", "file to write the pid to (default <exec-root>/orlop.pid)", short="p"),
    Setting("group", TEXT, "docker", "group that may use the unix socket", short="G"),
    Setting("debug", BOOLEAN, False, "debug mode", short="D"),
    Setting("log-level", TEXT, "info", "debug, info, warn, error or fatal", short="l"),
    Setting("labels", LIST, (), "key=value labels of the engine", flag="label", check=_check_label),
    Setting("shutdown-timeout", NUMBER, 15, "seconds that shutting down may take"),
    Setting(
        "live-restore", BOOLEAN, True, "containers keep running while the engine is down (always so; default true)"
    ),
    Setting("tcp-without-tls", BOOLEAN, False, "allow --host tcp://: whoever reaches the port is root on this machine"),
    Setting("tls", BOOLEAN, None, "speak TLS on TCP sockets, with client certificates (unless --tlsverify=false)"),
    Setting("tlsverify", BOOLEAN, None, "the same; =false lets everybody in by TLS, who is then root on this machine"),
    Setting("tlscacert", TEXT, "", "certificates that sign clients' (default ca.pem of ~/.docker or /etc/orlop)"),
    Setting("tlscert", TEXT, "", "certificate of the engine (default cert.pem there)"),
    Setting("tlskey", TEXT, "", "its private key (default key.pem there)"),
    Setting("bridge", TEXT, "", "bridge of the default network (default docker0), or none", short="b"),
    Setting("bip", TEXT, "", "address of the default bridge, as in 172.17.0.1/16"),
    Setting("fixed-cidr", TEXT, "", "part of the default bridge's subnet that containers' addresses come from"),
    Setting("ipv6", BOOLEAN, False, "give the default bridge IPv6 as well"),
    Setting("bip6", TEXT, "", "IPv6 address of the default bridge, as in fd00:1::1/64"),
    Setting("fixed-cidr-v6", TEXT, "", "IPv6 subnet of the default bridge (default: one of this engine's own)"),
    Setting("default-gateway", TEXT, "", "where containers of the default bridge send what is for elsewhere"),
    Setting("default-gateway-v6", TEXT, "", "the same for IPv6"),
    Setting(
        "host-gateway-ip",
        TEXT,
        "",
        "what host-gateway and host.docker.internal mean (default: the gateway)",
        check=_check_address,
    ),
    Setting("mtu", NUMBER, 1500, "MTU of the default network"),
    Setting("icc", BOOLEAN, True, "containers on the default bridge reach each other"),
    Setting("ip", TEXT, "0.0.0.0", "address that ports are published on", check=_check_address),
    Setting("ip-forward", BOOLEAN, True, "switch on net.ipv4.ip_forward"),
    Setting("ip-masq", BOOLEAN, True, "masquerade what leaves the bridge"),
    Setting("iptables", BOOLEAN, True, "add firewall rules"),
    Setting("ip6tables", BOOLEAN, True, "add them for IPv6 as well (always so; default true)"),
    Setting("firewall-backend", TEXT, "", "iptables or nftables"),
    Setting(
        "userland-proxy", BOOLEAN, True, "carry what the kernel can't lead to published ports: [::1], IPv6 to IPv4"
    ),
    Setting("allow-direct-routing", BOOLEAN, False, "allow packets routed directly to a container's published port"),
    Setting(
        "allow-published-between-networks",
        BOOLEAN,
        False,
        "let containers reach ports that other networks publish, by an address of the host",
    ),
    Setting(
        "default-address-pools",
        LIST,
        (),
        "base=...,size=...: pool of subnets",
        "default-address-pool",
        check=_check_pool,
    ),
    Setting(
        *("default-network-opts", MAP, {}, "driver=option=value: option of new networks that are made without it"),
        flag="default-network-opt",
        check=_check_network_option,
    ),
    Setting("dns", LIST, (), "name server for containers", check=_check_address),
    Setting("dns-opts", LIST, (), "resolver option for containers", flag="dns-opt"),
    Setting("dns-search", LIST, (), "search domain for containers"),
    Setting(
        "exec-opts", LIST, (), "native.cgroupdriver=cgroupfs or systemd", flag="exec-opt", check=_check_exec_option
    ),
    Setting("cgroup-parent", TEXT, "", "cgroup that containers' cgroups are made in"),
    Setting("storage-driver", TEXT, "", "overlay2", short="s"),
    Setting(
        "layer-limits",
        MAP,
        {},
        "size, entries, metadata, path or depth=number: what a layer's archive may ask for",
        flag="layer-limit",
        check=_check_layer_limit,
    ),
    Setting("storage-opts", LIST, (), "option of the storage driver", flag="storage-opt"),
    Setting(
        "default-ulimits", MAP, {}, "name=soft[:hard] limit of containers", flag="default-ulimit", check=_check_ulimit
    ),
    Setting("default-shm-size", TEXT, "64MiB", "size of containers' /dev/shm"),
    Setting("init", BOOLEAN, False, "run an init in containers"),
    Setting("no-new-privileges", BOOLEAN, False, "set no_new_privs in containers"),
    Setting("userns-remap", TEXT, "", "user[:group] whose subordinate ids are those of containers, or default"),
    Setting("registry-mirrors", LIST, (), "URL of a mirror of Docker Hub", "registry-mirror", check=check_mirror),
    Setting(
        "insecure-registries",
        LIST,
        (),
        "host[:port] or network of registries that need no trusted certificate (default 127.0.0.0/8)",
        "insecure-registry",
        check=check_insecure,
    ),
    Setting("http-proxy", TEXT, "", "proxy for http:// registries (default $HTTP_PROXY)", check=check_proxy),
    Setting("https-proxy", TEXT, "", "proxy for https:// registries (default $HTTPS_PROXY)", check=check_proxy),
    Setting("no-proxy", TEXT, "", "hosts and networks that need no proxy (default $NO_PROXY)"),
    Setting("certs-dir", TEXT, "", "directory of <host:port>/*.crt (default /etc/orlop/certs.d, /etc/docker/certs.d)"),
    Setting("max-concurrent-downloads", NUMBER, 3, "layers of all pulls that are downloaded at once"),
    Setting("max-concurrent-uploads", NUMBER, 5, "layers of all pushes that are uploaded at once"),
    Setting("max-download-attempts", NUMBER, 5, "attempts at a layer before a pull fails"),
    Setting("log-driver", TEXT, "json-file", "default log driver"),
    Setting("log-opts", MAP, {}, "option of the log driver", flag="log-opt"),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}

# Docker's other directives, known so that the refusal can say "not supported" instead of "no such option".
UNSUPPORTED = frozenset(
    [
        *("add-runtime", "runtimes", "default-runtime", "authorization-plugins", "containerd", "containerd-namespace"),
        *("cdi-spec-dirs", "cpu-rt-period", "cpu-rt-runtime", "default-cgroupns-mode", "default-gateway"),
        *("default-gateway-v6", "default-ipc-mode", "experimental", "features"),
        *("host-gateway-ips",),
        *("init-path", "ip6tables", "log-format"),
        *("metrics-addr", "network-control-plane-mtu"),
        *("node-generic-resources", "oom-score-adjust", "rootless", "seccomp-profile"),
        *("selinux-enabled", "swarm-default-advertise-addr"),
        *("userland-proxy-path", "builder", "min-api-version", "bip6"),
        *("allow-nondistributable-artifacts", "raw-logs", "api-cors-header"),
    ],
)
