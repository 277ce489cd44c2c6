"""The flags of ``run`` and ``create``, with the refusals that need no engine."""

from __future__ import annotations

import re

from orlop.cli.flags import Flag, integer
from orlop.cli.quantities import parse_duration, parse_size

_DECIMAL = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)
_RATE = re.compile(r"(/[^:]*):(.+)", re.ASCII)


def _size(text: str) -> int:
    return parse_size(text)


def _swap(text: str) -> int:
    return -1 if text == "-1" else parse_size(text)


def _cpus(text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"failed to parse {text} as a rational number")
    whole, _, fraction = text.partition(".")
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    return int(whole or "0") * 10**9 + int(fraction[:9].ljust(9, "0"))


def _stream(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _environment(text: str) -> str:
    if text.startswith("="):
        raise ValueError(f"invalid environment variable: {text}")
    if not text:
        raise ValueError("invalid environment variable: " + text)
    return text


def _label(text: str) -> str:
    if text.startswith("=") or not text:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def _address(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def _extra_host(text: str) -> str:
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    address = address.removeprefix("[").removesuffix("]")
    if address != "host-gateway":
        import ipaddress

        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f'invalid IP address in add-host: "{address}"') from None
    return f"{name}:{address}"


def _sysctl(text: str) -> str:
    allowed = (
        "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
        "kernel.shmmni", "kernel.shm_rmid_forced",
    )  # fmt: skip
    name, equals, _ = text.partition("=")
    if not equals or (name not in allowed and not name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def _ulimit(text: str) -> tuple[str, int, int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    names = (
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    )  # fmt: skip
    if name not in names:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = value.partition(":")
    soft = integer(soft_text)
    hard = integer(hard_text) if colon else soft
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return name, soft, hard


def _throttle_rate(text: str) -> tuple[str, int]:
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"bad format: {text}")
    return match[1], parse_size(match[2])


def _throttle_count(text: str) -> tuple[str, int]:
    match = _RATE.fullmatch(text)
    if match is None or not match[2].isdigit():
        raise ValueError(f"bad format: {text}")
    return match[1], int(match[2])


def _weight_device(text: str) -> tuple[str, int]:
    device, weight = _throttle_count(text)
    if weight and not 10 <= weight <= 1000:
        raise ValueError(f"invalid weight for device: {text}")
    return device, weight


def _map(text: str) -> str:
    if "=" not in text:
        raise ValueError(f"{text} must be formatted as key=value")
    return text


def _mount(text: str) -> dict[str, object]:
    from orlop.cli.mounts import parse_mount

    return parse_mount(text)


def _duration(text: str) -> int:
    return parse_duration(text)


def _list(name: str, text: str, **more: object) -> Flag:
    return Flag(name, text, kind="list", **more)  # type: ignore[arg-type] # keywords of Flag


def _text(name: str, text: str, *, short: str = "") -> Flag:
    return Flag(name, text, kind="string", short=short)


ENVIRONMENT = _list(
    "env", "Set an environment variable, or pass on the one of this name", short="e", convert=_environment
)
ENV_FILE = _list("env-file", "Read environment variables from a file")
DETACH_KEYS = _text("detach-keys", "Keys that detach from the container, such as ctrl-p,ctrl-q")

CREATE_FLAGS = (
    _list("add-host", "Add a line to /etc/hosts (host:ip)", convert=_extra_host),
    Flag("annotation", "Add an annotation for the OCI runtime", kind="map", convert=_map),
    _list("attach", "Attach to STDIN, STDOUT or STDERR", short="a", convert=_stream),
    Flag("blkio-weight", "Block I/O weight, 10 to 1000; 0 leaves it", kind="uint16", convert=integer, default=0),
    _list("blkio-weight-device", "Block I/O weight for a device (path:weight)", convert=_weight_device),
    _list("cap-add", "Add a Linux capability"),
    _list("cap-drop", "Drop a Linux capability"),
    _text("cgroup-parent", "Cgroup below which the container's is made"),
    _text("cgroupns", "Cgroup namespace (host|private)"),
    _text("cidfile", "Write the container's id to this file"),
    Flag("cpu-count", "Refused: Windows only", kind="int"),
    Flag("cpu-percent", "Refused: Windows only", kind="int"),
    Flag("cpu-period", "CFS period in microseconds", kind="int"),
    Flag("cpu-quota", "CFS quota in microseconds per period", kind="int"),
    Flag("cpu-rt-period", "Real-time period in microseconds", kind="int"),
    Flag("cpu-rt-runtime", "Real-time runtime in microseconds", kind="int"),
    Flag("cpu-shares", "CPU shares (relative weight)", short="c", kind="int"),
    Flag("cpus", "Number of CPUs", kind="decimal", convert=_cpus, default=0),
    _text("cpuset-cpus", "CPUs that may be used (0-3, 0,1)"),
    _text("cpuset-mems", "Memory nodes that may be used (0-3, 0,1)"),
    _list("device", "Give access to a device of the host (host[:container[:rwm]])"),
    _list("device-cgroup-rule", "Add a rule to the devices that are allowed"),
    _list("device-read-bps", "Limit reads from a device, in bytes per second", convert=_throttle_rate),
    _list("device-read-iops", "Limit reads from a device, in operations per second", convert=_throttle_count),
    _list("device-write-bps", "Limit writes to a device, in bytes per second", convert=_throttle_rate),
    _list("device-write-iops", "Limit writes to a device, in operations per second", convert=_throttle_count),
    Flag("disable-content-trust", "Accepted for Docker's sake", default=True),
    _list("dns", "Set a DNS server", convert=_address),
    _list("dns-opt", "Old name of --dns-option"),
    _list("dns-option", "Set a DNS option"),
    _list("dns-search", "Set a DNS search domain"),
    _text("domainname", "NIS domain name"),
    _text("entrypoint", "Run this instead of the image's ENTRYPOINT"),
    ENVIRONMENT,
    ENV_FILE,
    _list("expose", "Expose a port or a range of ports"),
    _text("gpus", "Refused: no GPU support yet"),
    _list("group-add", "Add a supplementary group"),
    _text("health-cmd", "Command that tells whether the container is healthy"),
    Flag("health-interval", "Time between checks", kind="duration", convert=_duration, default=0),
    Flag("health-retries", "Failures in a row that make it unhealthy", kind="int"),
    Flag("health-start-interval", "Time between checks while it starts", kind="duration", convert=_duration, default=0),
    Flag(
        "health-start-period",
        "Time to start, in which failures do not count",
        kind="duration",
        convert=_duration,
        default=0,
    ),
    Flag("health-timeout", "Time one check may take", kind="duration", convert=_duration, default=0),
    _text("hostname", "Host name", short="h"),
    Flag("init", "Run an init that forwards signals and reaps processes"),
    Flag("interactive", "Keep standard input open", short="i"),
    _text("ip", "IPv4 address"),
    _text("ip6", "IPv6 address"),
    _text("ipc", "IPC namespace (none|private|shareable|host|container:NAME)"),
    _text("isolation", "Isolation technology; only 'default' exists"),
    Flag("kernel-memory", "Ignored, as Docker ignores it", kind="bytes", convert=_size, default=0),
    _list("label", "Set a label", short="l", convert=_label),
    _list("label-file", "Read labels from a file"),
    _list("link", "Add a link to another container"),
    _list("link-local-ip", "Link-local address"),
    _text("log-driver", "Logging driver"),
    _list("log-opt", "Option of the logging driver"),
    _text("mac-address", "MAC address"),
    Flag("memory", "Memory limit", short="m", kind="bytes", convert=_size, default=0),
    Flag("memory-reservation", "Memory soft limit", kind="bytes", convert=_size, default=0),
    Flag("memory-swap", "Limit of memory and swap together; -1 is unlimited", kind="bytes", convert=_swap, default=0),
    Flag("memory-swappiness", "Swappiness, 0 to 100", kind="int", default=-1),
    Flag("mount", "Attach a file system (type=bind|volume|tmpfs,source=…,target=…)", kind="mount", convert=_mount),
    _text("name", "Name of the container"),
    _list("net", "Old name of --network"),
    _list("net-alias", "Old name of --network-alias"),
    _text("net-egress-burst", "Bytes that may be sent at once, such as 64k (orlop's own)"),
    _text("net-egress-rate", "Send no faster than this, such as 10mbit (orlop's own)"),
    _text("net-ingress-burst", "Bytes that may be received at once (orlop's own)"),
    _text("net-ingress-rate", "Receive no faster than this (orlop's own)"),
    Flag("network", "Connect to a network (name, bridge, host, none, container:NAME)", kind="network"),
    _list("network-alias", "Another name on the network"),
    Flag("no-healthcheck", "Disable the image's health check"),
    Flag("oom-kill-disable", "Let processes wait instead of killing them when memory is out"),
    Flag("oom-score-adj", "Preference of the host's OOM killer, -1000 to 1000", kind="int"),
    _text("pid", "PID namespace (host|container:NAME)"),
    Flag("pids-limit", "Limit of processes; -1 is unlimited", kind="int"),
    _text("platform", "Platform of the image, os/architecture"),
    Flag("privileged", "Give all privileges to the container"),
    _list("publish", "Publish a port ([ip:][host:]container[/protocol])", short="p"),
    Flag("publish-all", "Publish all exposed ports on random ports", short="P"),
    Flag("pull", "Fetch the image first (always|missing|never)", kind="string", default="missing"),
    Flag("quiet", "Show no progress of a fetch", short="q"),
    Flag("read-only", "Mount the root file system read-only"),
    Flag("restart", "What to do when it exits (no|always|on-failure[:N]|unless-stopped)", kind="string", default="no"),
    Flag("rm", "Remove the container and its anonymous volumes when it exits"),
    _text("runtime", "OCI runtime"),
    _list("security-opt", "Security option"),
    Flag("shm-size", "Size of /dev/shm", kind="bytes", convert=_size, default=0),
    _text("stop-signal", "Signal that stops it"),
    Flag("stop-timeout", "Seconds after which a stop kills it", kind="int"),
    _list("storage-opt", "Option of the storage driver"),
    Flag("sysctl", "Set a kernel parameter of its namespaces", kind="map", convert=_sysctl),
    _list("tmpfs", "Mount a tmpfs (path[:options])"),
    Flag("tty", "Give it a terminal", short="t"),
    Flag("ulimit", "Set a resource limit (name=soft[:hard])", kind="ulimit", convert=_ulimit),
    Flag("use-api-socket", "Refused: mounting the engine's socket this way"),
    _text("user", "User (name|uid[:group|gid])", short="u"),
    _text("userns", "User namespace (host|private)"),
    _text("uts", "UTS namespace (host)"),
    _list("volume", "Mount a volume or directory (source:target[:options])", short="v"),
    _text("volume-driver", "Driver of volumes that are made"),
    _list("volumes-from", "Mount the volumes of another container"),
    _text("workdir", "Working directory", short="w"),
)
RUN_FLAGS = (
    *CREATE_FLAGS,
    Flag("detach", "Run in the background and print the id", short="d"),
    DETACH_KEYS,
    Flag("sig-proxy", "Pass signals on to the process", default=True),
)
