"""From flags to the document of ``POST /containers/create``, the same that docker's client sends."""

from __future__ import annotations

import os

from orlop.cli.endpoints import check_networks, endpoints, network_mode
from orlop.cli.invocation import CommandError, key_values
from orlop.cli.mounts import sort_volumes
from orlop.errors import InvalidParameterError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.cli.flags import Options

_REFUSED = {
    "gpus": "GPU devices are not supported yet: --gpus",
    "cpu-count": "Windows only: --cpu-count",
    "cpu-percent": "Windows only: --cpu-percent",
    "use-api-socket": "not supported: --use-api-socket; mount the socket with -v",
}


def failure(message: str) -> CommandError:
    """Make the error of a create or run that can't be sent."""
    return CommandError(message, status=125)


def create_document(options: Options, image: str, command: Sequence[str], *, detached: bool) -> dict[str, object]:
    """Return the document.

    Raises:
        CommandError: flags that contradict each other, unreadable files, wishes that orlop refuses.
    """
    _check(options)
    attached = _attached(options, detached=detached)
    interactive = options.on("interactive")
    ports, exposed = _ports(options)
    binds, volumes = sort_volumes(options.texts("volume"))
    document: dict[str, object] = {
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "Tty": options.on("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and "stdin" in attached,
        "Env": list(environment(options)) or None,
        "Cmd": list(command) or None,
        "Image": image,
        "Volumes": volumes,
        "WorkingDir": options.text("workdir"),
        "Entrypoint": [options.text("entrypoint")] if options.given("entrypoint") else None,
        "OnBuild": None,
        "Labels": {**_label_files(options), **key_values(options.texts("label"))},
        "HostConfig": {**_host(options), **_resources(options), "Binds": list(binds) or None, "PortBindings": ports},
        "NetworkingConfig": {"EndpointsConfig": endpoints(options)},
    }
    if exposed:
        document["ExposedPorts"] = exposed
    if options.given("stop-signal"):
        document["StopSignal"] = options.text("stop-signal")
    if options.given("stop-timeout"):
        document["StopTimeout"] = options.number("stop-timeout")
    health = _health(options)
    if health is not None:
        document["Healthcheck"] = health
    return document


def environment(options: Options) -> list[str]:
    """Return ``--env-file`` lines, then ``--env``; a bare name takes the value it has here.

    Raises:
        CommandError: a file cannot be read.
    """
    out: list[str] = []
    for path in options.texts("env-file"):
        for line in _lines(path):
            name, equals, value = line.partition("=")
            if not name or any(character.isspace() for character in name.rstrip()) or name != name.strip():
                reason = "no variable name on line" if not name else "contains whitespaces"
                raise failure(f"invalid env file ({path}): variable '{name}' {reason}")
            if equals:
                out.append(f"{name}={value}")
            elif name in os.environ:
                out.append(f"{name}={os.environ[name]}")
    given = options.texts("env")
    return [*out, *(f"{text}={os.environ[text]}" if text in os.environ else text for text in given)]


def _attached(options: Options, *, detached: bool) -> list[str]:
    wished = options.texts("attach")
    if wished:
        return wished
    if detached:
        return []
    return ["stdin", "stdout", "stderr"] if options.on("interactive") else ["stdout", "stderr"]


def _check(options: Options) -> None:
    for name, text in _REFUSED.items():
        if options.given(name) and options.text(name) not in ("", "False", "0"):
            raise failure(text)
    swappiness = options.number("memory-swappiness")
    if options.given("memory-swappiness") and not -1 <= swappiness <= 100:
        raise failure(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    if options.on("rm") and options.text("restart") not in ("no", ""):
        raise failure("conflicting options: cannot specify both --restart and --rm")
    for name, mode in (("userns", "USER"), ("uts", "UTS")):
        if options.text(name) not in ("", "host", "private" if name == "userns" else "host"):
            raise failure(f"--{name}: invalid {mode} mode")
    pid = options.text("pid")
    if pid not in ("", "host") and not pid.startswith("container:"):
        raise failure("--pid: invalid PID mode")
    if options.text("cgroupns") not in ("", "host", "private"):
        raise failure("--cgroupns: invalid CGROUP mode")
    if options.text("isolation") not in ("", "default"):
        raise failure(f"invalid isolation: \"{options.text('isolation')}\": linux only supports 'default'")
    check_networks(options)


def _host(options: Options) -> dict[str, object]:
    security, masked = _security(options)
    log_options = {**key_values(options.texts("log-opt"))}
    if options.text("log-driver") == "none" and log_options:
        raise failure("invalid logging opts for driver none")
    host: dict[str, object] = {
        "AutoRemove": options.on("rm"),
        "CapAdd": _capabilities(options, "cap-add"),
        "CapDrop": _capabilities(options, "cap-drop"),
        "Cgroup": "",
        "CgroupnsMode": options.text("cgroupns"),
        "ConsoleSize": [0, 0],
        "ContainerIDFile": options.text("cidfile"),
        "Dns": [*options.texts("dns")],
        "DnsOptions": [*options.texts("dns-opt"), *options.texts("dns-option")],
        "DnsSearch": [*options.texts("dns-search")],
        "ExtraHosts": [*options.texts("add-host")] or None,
        "GroupAdd": [*options.texts("group-add")] or None,
        "IpcMode": options.text("ipc"),
        "Isolation": options.text("isolation"),
        "Links": [*options.texts("link")] or None,
        "LogConfig": {"Type": options.text("log-driver"), "Config": {**log_options}},
        "MaskedPaths": masked,
        "NetworkMode": network_mode(options),
        "OomScoreAdj": options.number("oom-score-adj"),
        "PidMode": options.text("pid"),
        "Privileged": options.on("privileged"),
        "PublishAllPorts": options.on("publish-all"),
        "ReadonlyPaths": masked,
        "ReadonlyRootfs": options.on("read-only"),
        "RestartPolicy": restart_policy(options.text("restart")),
        "SecurityOpt": security,
        "ShmSize": options.number("shm-size"),
        "UTSMode": options.text("uts"),
        "UsernsMode": options.text("userns"),
        "VolumeDriver": options.text("volume-driver"),
        "VolumesFrom": [*options.texts("volumes-from")] or None,
    }
    _add_given(options, host)
    return host


def bandwidth(options: Options) -> dict[str, str]:
    """Return the annotations that limit how fast a container sends and receives."""
    names = {
        "net-egress-rate": "kubernetes.io/egress-bandwidth",
        "net-ingress-rate": "kubernetes.io/ingress-bandwidth",
        "net-egress-burst": "orlop.io/egress-burst",
        "net-ingress-burst": "orlop.io/ingress-burst",
    }
    return {name: options.text(flag) for flag, name in names.items() if options.given(flag)}


def _add_given(options: Options, host: dict[str, object]) -> None:
    """Add the members that docker's client leaves out unless they are asked for."""
    if options.given("init"):
        host["Init"] = options.on("init")
    if options.text("runtime"):
        host["Runtime"] = options.text("runtime")
    for flag, member in (("annotation", "Annotations"), ("sysctl", "Sysctls"), ("storage-opt", "StorageOpt")):
        if options.texts(flag):
            if flag == "storage-opt" and not all("=" in text for text in options.texts(flag)):
                raise failure("invalid storage option")
            host[member] = {**key_values(options.texts(flag))}
    rates = bandwidth(options)
    if rates:
        given = host.get("Annotations")
        host["Annotations"] = {**(given if isinstance(given, dict) else {}), **rates}
    if options.texts("tmpfs"):
        host["Tmpfs"] = {path: rest for path, _, rest in (text.partition(":") for text in options.texts("tmpfs"))}
    if options.values("mount"):
        host["Mounts"] = list(options.values("mount"))


def _resources(options: Options) -> dict[str, object]:
    return {
        "BlkioDeviceReadBps": _throttles(options, "device-read-bps"),
        "BlkioDeviceReadIOps": _throttles(options, "device-read-iops"),
        "BlkioDeviceWriteBps": _throttles(options, "device-write-bps"),
        "BlkioDeviceWriteIOps": _throttles(options, "device-write-iops"),
        "BlkioWeight": options.number("blkio-weight"),
        "BlkioWeightDevice": _throttles(options, "blkio-weight-device", member="Weight"),
        "CgroupParent": options.text("cgroup-parent"),
        "CpuCount": 0,
        "CpuPercent": 0,
        "CpuPeriod": options.number("cpu-period"),
        "CpuQuota": options.number("cpu-quota"),
        "CpuRealtimePeriod": options.number("cpu-rt-period"),
        "CpuRealtimeRuntime": options.number("cpu-rt-runtime"),
        "CpuShares": options.number("cpu-shares"),
        "CpusetCpus": options.text("cpuset-cpus"),
        "CpusetMems": options.text("cpuset-mems"),
        "DeviceCgroupRules": [*options.texts("device-cgroup-rule")] or None,
        "DeviceRequests": None,
        "Devices": [_device(text) for text in options.texts("device")],
        "IOMaximumBandwidth": 0,
        "IOMaximumIOps": 0,
        "Memory": options.number("memory"),
        "MemoryReservation": options.number("memory-reservation"),
        "MemorySwap": options.number("memory-swap"),
        "MemorySwappiness": options.number("memory-swappiness"),
        "NanoCpus": options.number("cpus"),
        "OomKillDisable": options.on("oom-kill-disable"),
        "PidsLimit": options.number("pids-limit"),
        "Ulimits": ulimit_documents(options),
    }


def ulimit_documents(options: Options) -> list[dict[str, object]]:
    """Return ``Ulimits`` of ``--ulimit``."""
    values = {str(value[0]): value for value in options.values("ulimit") if isinstance(value, tuple)}
    return [{"Name": name, "Soft": values[name][1], "Hard": values[name][2]} for name in sorted(values)]


def _throttles(options: Options, flag: str, *, member: str = "Rate") -> list[dict[str, object]]:
    values = [value for value in options.values(flag) if isinstance(value, tuple)]
    return [{"Path": path, member: rate} for path, rate in values]


def _capabilities(options: Options, flag: str) -> list[str] | None:
    names = [text.strip().upper() for text in options.texts(flag)]
    full = {name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in names}
    if flag == "cap-add" and "ALL" in full:
        return ["ALL"]
    return sorted(full) or None


def _device(text: str) -> dict[str, object]:
    """Read ``host[:container[:permissions]]`` or ``host:permissions``."""
    parts = text.split(":")
    host, container, permissions = parts[0], parts[0], "rwm"

    def is_mode(part: str) -> bool:
        return bool(part) and set(part) <= set("rwm") and len(set(part)) == len(part)

    if len(parts) > 3:
        raise failure(f"bad format for path: {text}")
    if len(parts) == 3:
        container, permissions = parts[1], parts[2]
        if not is_mode(permissions):
            raise failure(f"bad mode specified: {permissions}")
    elif len(parts) == 2:
        container, permissions = (parts[0], parts[1]) if is_mode(parts[1]) else (parts[1], permissions)
    if not container.startswith("/"):
        raise failure(f"{container} is not an absolute path")
    return {"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": permissions}


def _security(options: Options) -> tuple[list[str] | None, list[str] | None]:
    """Return SecurityOpt with seccomp profiles read in, and MaskedPaths/ReadonlyPaths ([] when unmasked)."""
    texts = options.texts("security-opt")
    out: list[str] = []
    unmasked = False
    for text in texts:
        name, separator, value = text.partition("=" if "=" in text else ":")
        if text == "systempaths=unconfined":
            unmasked = True
            continue
        if not separator and text != "no-new-privileges":
            raise failure(f'invalid --security-opt: "{text}"')
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            out.append(f"seccomp={_profile(value)}")
        else:
            out.append(text)
    return (out if texts else None), ([] if unmasked else None)


def _profile(path: str) -> str:
    import json

    try:
        with open(path, "rb") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise failure(f"opening seccomp profile ({path}) failed: open {path}: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise failure(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def restart_policy(text: str) -> dict[str, object]:
    """Read ``--restart``."""
    name, colon, count = text.partition(":")
    if colon and not (count.isascii() and count.isdigit()):
        raise failure("invalid restart policy format: maximum retry count must be an integer")
    if text and not name:
        raise failure("invalid restart policy format: no policy provided before colon")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _ports(options: Options) -> tuple[dict[str, object], dict[str, object]]:
    """Return PortBindings and ExposedPorts."""
    if not options.texts("publish") and not options.texts("expose"):
        return {}, {}
    from orlop.spec.ports import exposed_requests, parse_publish, to_bindings

    try:
        requests = [request for text in options.texts("publish") for request in parse_publish(_long_port(text))]
        exposed = [request.key for request in exposed_requests(options.texts("expose"))]
    except InvalidParameterError as error:
        raise failure(str(error)) from None
    bindings = to_bindings(requests)
    members: dict[str, object] = dict.fromkeys(sorted({*exposed, *bindings}))
    return {**bindings}, {key: {} for key in members}


def _long_port(text: str) -> str:
    """Turn ``target=80,published=8080,protocol=tcp`` into the short form."""
    if "=" not in text:
        return text
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = set(fields) - {"target", "published", "protocol", "mode"}
    if unknown or not fields.get("target"):
        raise failure(f"invalid field: {text}")
    return f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol', 'tcp')}".removeprefix(":")


def _health(options: Options) -> dict[str, object] | None:
    names = ("interval", "timeout", "start-period", "start-interval", "retries")
    wishes = [name for name in ("cmd", *names) if options.given(f"health-{name}") and options.text(f"health-{name}")]
    if options.on("no-healthcheck"):
        if wishes:
            raise failure("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not wishes:
        return None
    for name in wishes:
        if name != "cmd" and options.number(f"health-{name}") < 0:
            raise failure(f"--health-{name} cannot be negative")
    document: dict[str, object] = {"Test": ["CMD-SHELL", options.text("health-cmd")] if "cmd" in wishes else None}
    for name in names:
        if options.number(f"health-{name}"):
            document["".join(part.title() for part in name.split("-"))] = options.number(f"health-{name}")
    return {key: value for key, value in document.items() if value is not None}


def _label_files(options: Options) -> dict[str, str]:
    lines = [line for path in options.texts("label-file") for line in _lines(path)]
    return key_values([line for line in lines if "=" in line])  # Docker skips the others


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise failure(f"open {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise failure(f"invalid utf8 bytes in file: {path}") from None
    stripped = [line.lstrip() for line in lines]
    return [line for line in stripped if line and not line.startswith("#")]
